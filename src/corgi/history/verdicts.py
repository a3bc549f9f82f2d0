"""What the checks say about a history: one verdict for each, by its name.

A check with nothing to look at is not clean, it is ``idle``; one that gave up is ``undecided``, and that is no better
than ``broken``. Of the violations only the first are kept: a broken history may have a million.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

from corgi.base.errors import CorgiError
from corgi.history.checks import CHECKS
from corgi.history.model import AT_LEAST_ONCE, AT_MOST_ONCE, EXACTLY_ONCE, OK, History, Violation
from corgi.history.registers import judge_registers

Status: TypeAlias = Literal["clean", "broken", "undecided", "idle", "skipped"]
KEPT = 10  # violations of a check that are kept
COUNTED_MAX = 1_000_000  # beyond so many nobody counts


@dataclass(frozen=True, slots=True)
class Verdict:
    """``looked_at``: how many facts the check judged, ``count``: how many broke its rule, ``first``: some of them."""

    name: str
    status: Status
    looked_at: int
    count: int = 0
    first: tuple[Violation, ...] = ()

    @property
    def good(self) -> bool:
        return self.status in ("clean", "idle", "skipped")


def judge(history: History, skip: Collection[str] = (), kept: int = KEPT) -> list[Verdict]:
    """The verdict of every check, in their fixed order. Raises CorgiError "invalid-argument" for an unknown name."""
    for name in skip:
        if name not in CHECKS:
            raise CorgiError("invalid-argument", f"there is no check {name!r}", hint="there are " + ", ".join(CHECKS))
    return [Verdict(name, "skipped", 0) if name in skip else _verdict(name, history, kept) for name in CHECKS]


def _verdict(name: str, history: History, kept: int) -> Verdict:
    looked_at = _SUBJECTS[name](history)
    if name == "linearizability":
        return _of_registers(history, looked_at, kept)
    violations = CHECKS[name](history)
    first = tuple(islice(violations, kept))
    count = len(first) + sum(1 for _ in islice(violations, COUNTED_MAX))
    status: Status = "broken" if count else "clean" if looked_at else "idle"
    return Verdict(name, status, looked_at, count, first)


def _of_registers(history: History, looked_at: int, kept: int) -> Verdict:
    broken, undecided = [], []
    for name, outcome in judge_registers(history.calls):
        if outcome.broken:
            broken.append(Violation("linearizability", f"{name}: {outcome.broken}", outcome.time))
        elif outcome.undecided:
            text = f"{name}: too many orders are possible; too much was under way, or in doubt, at a time"
            undecided.append(Violation("linearizability", text, 0.0))
    status: Status = "broken" if broken else "undecided" if undecided else "clean" if looked_at else "idle"
    found = broken or undecided
    return Verdict("linearizability", status, looked_at, len(found), tuple(found[:kept]))


def _acknowledged_and_read(history: History) -> int:
    drained = set(history.final) - history.compacted
    acknowledged = sum(len(s.values) for s in history.sends if s.status == OK and s.partition in drained)
    return acknowledged + sum(len(r.records) for r in history.reads if r.partition in drained)


def _drained(history: History) -> int:
    return sum(len(records) for replicas in history.final.values() for records in replicas.values())


def _compacted(history: History) -> int:
    return sum(len(r) for p, replicas in history.final.items() if p in history.compacted for r in replicas.values())


def _read(history: History) -> int:
    return sum(len(read.records) for read in history.reads)


def _ordered(history: History) -> int:
    return sum(1 for send in history.sends if send.ordered and send.partition in history.final)


def _placed(history: History) -> int:
    told = sum(len(send.values) for send in history.sends if send.status == OK and send.offset >= 0)
    return told + _read(history) + _drained(history)


def _of(history: History, semantics: str) -> int:
    return sum(1 for checkpoint in history.checkpoints if checkpoint.semantics == semantics)


def _write_gap(history: History) -> int:
    told = history.limits.write_gap_s is not None or any(fault.gap_max_s is not None for fault in history.faults)
    return len(history.sends) if told else 0


_SUBJECTS: dict[str, Callable[[History], int]] = {
    "lost-write": _acknowledged_and_read,
    "lost-key": _compacted,
    "duplicate": _drained,
    "inconsistent-offsets": _placed,
    "aborted-read": lambda history: _drained(history) + _read(history),
    "torn-transaction": lambda history: len(history.transactions) if history.final else 0,
    "precommitted-read": lambda history: len(history.transactions) if history.reads else 0,
    "nonmonotonic-send": _ordered,
    "send-gap": _ordered,
    "poll-skip": _read,
    "nonmonotonic-poll": _read,
    "stale-end": lambda history: len(history.bounds),
    "key-order": lambda history: len(history.handlings),
    "unhandled": lambda history: _of(history, AT_LEAST_ONCE),
    "handled-twice": lambda history: _of(history, AT_MOST_ONCE),
    "exactly-once": lambda history: _of(history, EXACTLY_ONCE),
    "linearizability": lambda history: len(history.calls),
    "write-gap": _write_gap,
    "stuck": lambda history: history.operations(),
}
assert set(_SUBJECTS) == set(CHECKS)


def offending(verdicts: list[Verdict]) -> Iterator[Violation]:
    """What the verdicts kept of what broke a rule, or could not be decided."""
    for verdict in verdicts:
        yield from verdict.first
