"""How measurements are run in turn and shown: what the commands of ``corgi bench`` share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter

from corgi.base.errors import CorgiError
from corgi.cli.common import addresses_of, run
from corgi.cli.exits import Exit
from corgi.cli.output import print_json, print_table
from corgi.cli.words import say

if TYPE_CHECKING:
    from corgi.bench.target import Target

REPEAT_MAX = 1_000

Repeat = Annotated[int, Parameter(help="How often; the medians are shown.")]
Cluster = Annotated[
    str | None,
    Parameter(name=("--cluster", "-c"), show_default=False, help="HOST:PORT,… instead of a cluster of its own."),
]
Folder = Annotated[
    Path | None, Parameter(name="--dir", show_default=False, help="Where its own cluster writes; by default temporary.")
]
Chart = Annotated[Path | None, Parameter(show_default=False, help="Draw the medians as a picture (SVG) in this file.")]
Partitions = Annotated[int, Parameter(help="Of the topic.")]
Durability = Annotated[Literal["fsync", "memory"], Parameter(help="Of the topic.")]
Size = Annotated[int, Parameter(help="Bytes of each value; random, so it does not compress.")]


class Figure(NamedTuple):
    """A number of a run that is shown: its name, the latency that it is of, its key there."""

    name: str
    of: str
    key: str
    drawn: bool = True


LATENCY = (
    Figure("p50", "latency", "p50_ms"),
    Figure("p90", "latency", "p90_ms"),
    Figure("p99", "latency", "p99_ms"),
    Figure("max", "latency", "max_ms", drawn=False),
)


def rate_of(text: str) -> float:
    """Raises CorgiError "invalid-argument"."""
    try:
        return float(text)
    except ValueError:
        raise CorgiError("invalid-argument", f"{text.strip()!r} is not a rate") from None


def compare(
    name: str,
    axis: str,
    kinds: list[str],
    measure: Callable[[Target, str], Coroutine[Any, Any, dict[str, Any]]],
    repeat: int,
    cluster: str | None,
    folder: Path | None,
    output: str,
    chart: Path | None,
    *,
    x_title: str,
    shown: dict[str, Any],
    lines: bool = True,
    figures: Sequence[Figure] = LATENCY,
    title: str = "",
) -> int:
    """Latencies of several kinds, in turn on one cluster; told as a table and perhaps as a picture."""
    from corgi.bench.chart import Chart as Picture
    from corgi.bench.chart import draw
    from corgi.bench.target import TargetOptions, median_of, target

    check_repeat(repeat)
    runs: list[dict[str, Any]] = []
    with target(TargetOptions(addresses_of(cluster) if cluster else "", folder)) as cluster_under_test:
        described = cluster_under_test.describe()
        for number in range(repeat):
            runs += [{axis: kind, **run(measure(cluster_under_test, kind))} for kind in kinds]
            say(f"round {number + 1} of {repeat} is done")
    medians = []
    for kind in kinds:
        of_kind = [{key: value for key, value in run_.items() if key != axis} for run_ in runs if run_[axis] == kind]
        medians.append({axis: kind, **median_of(of_kind)})
    if chart is not None:
        series = {f.name: [median[f.of][f.key] for median in medians] for f in figures if f.drawn}
        subtitle = f"{described['cluster']}; medians of {repeat}; {words(shown)}"
        picture = Picture(title or f"Echo latency by {axis}", subtitle, x_title, "ms", kinds, series, lines)
        try:
            chart.write_text(draw(picture), encoding="utf-8")
        except OSError as error:
            raise CorgiError("output-failed", f"{chart} cannot be written: {error.strerror}") from None
    if output == "json":
        print_json({"bench": name, "options": shown, "target": described, "runs": runs, "medians": medians})
    else:
        per_s = ("records_per_s",) if "records_per_s" in medians[0] else ()
        heads = [f">{figure.name}{'' if number else ' ms'}" for number, figure in enumerate(figures)]
        rows = []
        for median in medians:
            row = [median[key] for key in per_s] + [median[figure.of][figure.key] for figure in figures]
            rows.append([median[axis], *(f"{number:,}" for number in row)])
        print_table((axis, *(">per second" for _ in per_s), *heads), rows)
    complain_of_spoiled(runs)
    return Exit.OK


def report(
    name: str,
    options: dict[str, Any],
    measure: Callable[[Target], Coroutine[Any, Any, dict[str, Any]]],
    repeat: int,
    cluster: str | None,
    folder: Path | None,
    output: str,
    *,
    suspicion_ms: int = 150,
) -> int:
    """Run the measurement as often as wanted on one cluster, and show it."""
    from corgi.bench.target import TargetOptions, median_of, target

    check_repeat(repeat)
    where = TargetOptions(addresses_of(cluster) if cluster else "", folder, suspicion_ms=suspicion_ms)
    runs: list[dict[str, Any]] = []
    with target(where) as cluster_under_test:
        described = cluster_under_test.describe()
        if described.get("file_system") in ("tmpfs", "ramfs"):
            say("warning: the nodes write to memory, so no figure includes a disk; choose a folder with --dir")
        for number in range(repeat):
            runs.append(run(measure(cluster_under_test)))
            if repeat > 1:
                say(f"run {number + 1} of {repeat} is done")
    median = median_of(runs)
    if output == "json":
        document = {"bench": name, "options": options, "target": described, "runs": runs, "median": median}
        print_json(document)
    else:
        print_table(("figure", ">value"), list(_flat(median)), title=f"{name} {words(options)}")
    complain_of_spoiled(runs)
    return Exit.OK


def check_repeat(repeat: int) -> None:
    """Raises CorgiError "invalid-argument"."""
    if not 1 <= repeat <= REPEAT_MAX:
        raise CorgiError("invalid-argument", f"--repeat {repeat}: expected 1 to {REPEAT_MAX}")


def complain_of_spoiled(runs: list[dict[str, Any]]) -> None:
    """Raises CorgiError "invariant-failed" if anything was lost, doubled or out of order."""
    spoiled = [key for run_ in runs for key in ("lost", "duplicated", "reordered", "strange") if run_.get(key)]
    if spoiled:
        raise CorgiError("invariant-failed", f"records were {', '.join(sorted(set(spoiled)))}")


def _flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in figures.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            continue  # single runs are for programs
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key} ")
        else:
            rows.append((f"{prefix}{key}", f"{value:,}" if isinstance(value, int | float) else value))
    return rows


def words(options: dict[str, Any]) -> str:
    """Options in one line."""
    return " ".join(f"{key}={value}" for key, value in options.items())
