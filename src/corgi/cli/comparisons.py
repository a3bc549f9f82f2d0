"""Measurements of ``corgi bench`` that set several ways side by side, in turn, and can draw them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corgi.cli.measuring import (
    Chart,
    Cluster,
    Figure,
    Folder,
    Partitions,
    Repeat,
    Size,
    compare,
    rate_of,
)
from corgi.cli.output import OutputOption

if TYPE_CHECKING:
    from corgi.bench.target import Target


def volume(
    *,
    rates: str = "500,1000,2000,5000,10000",
    seconds: float = 4.0,
    size: Size = 100,
    partitions: Partitions = 8,
    repeat: Repeat = 3,
    chart: Chart = None,
    cluster: Cluster = None,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """Echo latency against volume: it should stay flat. The rates take turns,
    so that what else happens on the machine meets all alike.

    Example: corgi bench volume --rates 1000,10000 --chart volume.svg

    JSON: {"bench", "options", "target", "runs": [{"rate", "latency": {…},
    "lost", "duplicated"}], "medians": [as a run, one for each rate]}

    Parameters
    ----------
    rates
        Messages per second, separated by commas.
    seconds
        How long each run publishes.
    """
    from corgi.bench.echo import EchoOptions
    from corgi.bench.echo import echo as measure

    wanted = [rate_of(text) for text in rates.split(",")]
    every = {
        rate: EchoOptions(rate=rate, records=max(int(rate * seconds), 10), size=size, partitions=partitions)
        for rate in wanted
    }
    for options in every.values():
        options.check()

    async def one(target: Target, name: str) -> dict[str, Any]:
        return await measure(target, every[float(name)])

    return compare(
        "volume", "rate", [f"{rate:g}" for rate in wanted], one, repeat, cluster, dir, output, chart,
        x_title="messages per second", shown={"seconds": seconds, "size": size, "partitions": partitions},
    )  # fmt: skip


def semantics(
    *,
    backlog: int = 20_000,
    records: int = 4_000,
    rate: float = 1_000.0,
    size: Size = 100,
    partitions: Partitions = 8,
    repeat: Repeat = 3,
    chart: Chart = None,
    cluster: Cluster = None,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """What at_most_once, at_least_once and exactly_once cost a consumer group
    that makes one result of each message: results per second from a backlog,
    and the time from when a message was due until its result is read. They
    take turns. Exactly once stores result and checkpoint as one act.

    Example: corgi bench semantics --chart semantics.svg

    JSON: {"bench", "options", "target", "runs": [{"semantics",
    "records_per_s", "latency": {…}, "lost", "duplicated"}], "medians": [as a
    run, one for each]}

    Parameters
    ----------
    backlog
        Messages that are there when the group begins.
    records
        How many are timed one by one.
    rate
        Of these per second.
    """
    from corgi.bench.semantics import SEMANTICS, SemanticsOptions
    from corgi.bench.semantics import semantics as measure

    options = SemanticsOptions(backlog, records, rate, size, partitions)
    options.check()
    kinds = {name: name for name in SEMANTICS}

    async def one(target: Target, name: str) -> dict[str, Any]:
        return await measure(target, kinds[name], options)  # type: ignore[index]

    return compare(
        "semantics", "semantics", list(SEMANTICS), one, repeat, cluster, dir, output, chart,
        x_title="semantics", shown={"backlog": backlog, "rate": rate, "size": size, "partitions": partitions},
        lines=False,
    )  # fmt: skip


def strategies(
    *,
    rate: float = 1_000.0,
    records: int = 3_000,
    size: Size = 100,
    partitions: Partitions = 8,
    repeat: Repeat = 3,
    chart: Chart = None,
    cluster: Cluster = None,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """What each way of replicating costs: acks none, leader and quorum, on
    topics with durability fsync and memory, in turn. Two times of each
    message, from when it was due: until it is acknowledged, and until a
    consumer in another process has it.

    Example: corgi bench strategies --chart strategies.svg

    JSON: {"bench", "options", "target", "runs": [{"strategy", "acknowledged":
    {…}, "latency": {…}, "lost", "duplicated"}], "medians": [as a run, one for
    each]}

    Parameters
    ----------
    rate
        Messages per second.
    records
        How many in each run; the first tenth is not timed.
    """
    from corgi.bench.strategies import STRATEGIES, StrategyOptions
    from corgi.bench.strategies import strategy as measure

    options = StrategyOptions(rate, records, size, partitions)
    options.check()

    async def one(target: Target, name: str) -> dict[str, Any]:
        return await measure(target, STRATEGIES[name], options)

    return compare(
        "strategies", "strategy", list(STRATEGIES), one, repeat, cluster, dir, output, chart,
        x_title="acknowledged by, durability", shown={"rate": rate, "size": size, "partitions": partitions},
        lines=False, title="Latency by replication strategy",
        figures=(
            Figure("acknowledged p50", "acknowledged", "p50_ms"),
            Figure("acknowledged p99", "acknowledged", "p99_ms", drawn=False),
            Figure("echo p50", "latency", "p50_ms"),
            Figure("echo p99", "latency", "p99_ms"),
        ),
    )  # fmt: skip
