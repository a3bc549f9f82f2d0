"""Measurements of ``corgi bench`` around consumers: a backlog, a blocked key, members that come and go."""

from __future__ import annotations

from corgi.cli.measuring import Cluster, Folder, Partitions, Repeat, Size, report
from corgi.cli.output import OutputOption


def backlog(
    *,
    records: int = 300_000,
    size: Size = 100,
    partitions: Partitions = 8,
    concurrency: int = 512,
    blocked: float = 0.0,
    rate: float = 1_000.0,
    pairs: int = 3,
    repeat: Repeat = 1,
    cluster: Cluster = None,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """How fast one process consumes what is there already: by batches of a
    subscription, by batches of a group that are acknowledged, by a handler
    that is called for each message. Timed from the first to the last message.

    With --blocked SECONDS the handler of one of 10,000 keys does not return for
    so long: the throughput of all others from a backlog and the time from when
    a message is due until its handler begins, beside a run without it, in pairs.

    Examples:

    corgi bench backlog

    corgi bench backlog --blocked 60 --records 100000

    JSON: as throughput; a run is {"stream_per_s", "group_per_s",
    "handlers_per_s", "lost", "duplicated"}; with --blocked {"free":
    {"records_per_s", "latency"}, "blocked": the same, "throughput_ratio",
    "p50_ratio", "throughput_ratios", "p50_ratios", "lost", "duplicated",
    "reordered"}

    Exit code 1 if anything was lost, doubled or, of one key, out of order.

    Parameters
    ----------
    records
        How many are there when it begins.
    concurrency
        Handlers at a time.
    blocked
        Seconds for which a key is blocked; 0: none is.
    rate
        With --blocked: messages per second meanwhile.
    pairs
        With --blocked: how often, each time with and without; the medians are
        shown.
    """
    from corgi.bench.backlog import BacklogOptions, blocked_key
    from corgi.bench.backlog import backlog as measure

    options = BacklogOptions(
        records, size, partitions, concurrency=concurrency, blocked_s=blocked, rate=rate, pairs=pairs
    )
    options.check()
    shown: dict[str, float] = {"records": records, "size": size, "partitions": partitions, "concurrency": concurrency}
    if blocked:
        shown |= {"blocked_s": blocked, "rate": rate, "pairs": pairs}
    work = blocked_key if blocked else measure
    return report("backlog", shown, lambda target: work(target, options), repeat, cluster, dir, output)


def rebalance(
    *,
    members: int = 50,
    processes: int = 2,
    partitions: Partitions = 100,
    rate: float = 10.0,
    step: int = 5,
    repeat: Repeat = 1,
    cluster: Cluster = None,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """What members of a consumer group that come and go cost the others.

    Half of the members are there while messages come to every partition; the
    others join, some at a time, and leave again. The pause of a partition that
    moved is the longest time that one of its messages waited for its member;
    for all others there are the same, the delivery sessions that were begun
    anew, and the owner epochs that changed: both should be 0, unless leadership
    changed meanwhile.

    Example: corgi bench rebalance --members 50 --partitions 500 --rate 4

    JSON: as throughput; a run is {"steps", "moved_units", "pause_ms": {"p50",
    "max"}, "unmoved_wait_ms": the same, "sessions_of_unmoved",
    "epochs_of_unmoved", "turn_max_ms": the longest that a coordinator drove
    groups, plans included, "leadership_changes", "lost", "duplicated",
    "reordered"}

    Exit code 1 if a message was lost, came to two members or out of order.

    Parameters
    ----------
    members
        How many at most.
    processes
        In which they are.
    rate
        Messages per second to each partition.
    step
        How many members come or go at a time.
    """
    from corgi.bench.rebalance import RebalanceOptions
    from corgi.bench.rebalance import rebalance as measure

    options = RebalanceOptions(members, processes, partitions, rate, step)
    options.check()
    shown = {"members": members, "processes": processes, "partitions": partitions, "rate": rate, "step": step}
    return report("rebalance", shown, lambda target: measure(target, options), repeat, cluster, dir, output)
