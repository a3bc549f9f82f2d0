"""``corgi check``: judge a history that was recorded, of Corgi or of another broker."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from corgi.base.errors import CorgiError
from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json, print_table
from corgi.cli.words import printable, say

if TYPE_CHECKING:
    from corgi.history.model import History
    from corgi.history.verdicts import Verdict

PROGRESS_S = 5.0


def check(
    history: Path | None = None,
    /,
    *,
    write_gap_ms: int | None = None,
    settle: float | None = None,
    skip: str = "",
    output: OutputOption = "table",
) -> int:
    """Judge a recorded history: is anything lost, doubled, out of order, stuck?

    HISTORY is a file of JSON lines, by default stdin. docs/histories.md
    describes the format, so that clients of any broker can write it.

    Examples:

    corgi check history.jsonl

    corgi check history.jsonl --write-gap-ms 500 --skip duplicate

    JSON: {"ok", "operations", "partitions", "faults", "checks": [{"name",
    "status": "clean", "broken", "undecided", "idle" (nothing to look at) or
    "skipped", "looked_at", "count", "first": [{"detail", "time_s"}]}],
    "write_gaps_ms": {"topic/partition": ms}}

    Exit code 0 if every check is clean, 1 if one is broken or undecided, 2 if
    the history cannot be read.

    Parameters
    ----------
    history
        The file; by default stdin.
    write_gap_ms
        The longest time that a publish may wait for its acknowledgement; by
        default no limit.
    settle
        Seconds within which every operation has to end after the last fault; by
        default no limit.
    skip
        Checks to leave out, separated by commas: those of what the broker never
        promised.
    """
    from corgi.history.loading import read_history, without_collector
    from corgi.history.model import Limits
    from corgi.history.verdicts import judge

    for name, value in (("--write-gap-ms", write_gap_ms), ("--settle", settle)):
        if value is not None and not 0 < value <= 86_400_000:
            raise CorgiError("invalid-argument", f"{name} {value}: expected more than 0, and at most a day")
    left_out = [name.strip() for name in skip.split(",") if name.strip()]
    with without_collector(), _opened(history) as file:
        told = read_history(file, Progress())
        told.limits = Limits(write_gap_ms / 1000 if write_gap_ms else None, settle)
        verdicts = judge(told, left_out)
    if output == "json":
        print_json(described(told, verdicts))
    else:
        show(told, verdicts)
    return Exit.OK if all(verdict.good for verdict in verdicts) else Exit.FAILURE


def described(history: History, verdicts: list[Verdict]) -> dict[str, Any]:
    """What --output json prints."""
    from corgi.history.gaps import partition_gaps

    return {
        "ok": all(verdict.good for verdict in verdicts),
        "operations": history.operations(),
        "partitions": len(history.partitions()),
        "faults": len(history.faults),
        "checks": [
            {
                "name": verdict.name,
                "status": verdict.status,
                "looked_at": verdict.looked_at,
                "count": verdict.count,
                "first": [{"detail": v.detail, "time_s": round(v.time, 6)} for v in verdict.first],
            }
            for verdict in verdicts
        ],
        "write_gaps_ms": {str(p): round(gap.seconds * 1000, 1) for p, gap in partition_gaps(history).items()},
    }


def show(history: History, verdicts: list[Verdict]) -> None:
    """The table of verdicts on stdout; then what was found, each with its time."""
    print_table(
        ("check", "verdict", ">looked at", ">found"),
        [(v.name, v.status, f"{v.looked_at:,}", f"{v.count:,}" if v.count else "") for v in verdicts],
    )
    for verdict in verdicts:
        for violation in verdict.first:
            print(f"{violation.name} at {violation.time:.3f} s: {printable(violation.detail)}")
        if verdict.count > len(verdict.first):
            print(f"{verdict.name}: {verdict.count - len(verdict.first):,} more")
    bad = [verdict.name for verdict in verdicts if not verdict.good]
    what = f"{history.operations():,} operations on {len(history.partitions())} partitions"
    say(f"{what}, {len(history.faults)} faults: " + (f"not clean: {', '.join(bad)}" if bad else "every check is clean"))


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise CorgiError("invalid-argument", f"{path} cannot be read: {error.strerror}") from None
    with file:
        try:
            yield file
        except OSError as error:
            raise CorgiError("invalid-argument", f"{path} cannot be read: {error.strerror}") from None


class Progress:
    """Tells on stderr how far reading has come, if it takes long."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_S

    def __call__(self, lines: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_S
            say(f"{lines:,} lines read")
