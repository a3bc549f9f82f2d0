"""``corgi bench``: what this machine reaches, measured through the public SDK."""

from __future__ import annotations

from typing import Any, Literal

from cyclopts import App

from corgi.cli.common import run
from corgi.cli.comparisons import semantics, strategies, volume
from corgi.cli.consuming import backlog, rebalance
from corgi.cli.exits import Exit
from corgi.cli.measuring import (
    Cluster,
    Durability,
    Folder,
    Partitions,
    Repeat,
    Size,
    check_repeat,
    complain_of_spoiled,
    report,
)
from corgi.cli.output import OutputOption, print_json, print_table
from corgi.cli.words import say

app = App(
    name="bench",
    help="Measure throughput, latency, failover and memory.",
    help_epilogue="""Each measurement starts three node processes of its own on this machine, in a
temporary folder, unless --cluster names a cluster. Every figure is of records
that a majority has on disk. With --repeat N the medians are shown, and JSON
has every run.

Examples:

corgi bench throughput --size 100 --records 500000

corgi bench publish

corgi bench echo --rate 2000 --repeat 3

corgi bench failover --suspicion-ms 10000 --repeat 5

corgi bench gaps --faults stop,isolate,chain --repeat 5""",
    help_format="plaintext",
)

for measurement in (volume, semantics, strategies, backlog, rebalance):
    app.command(measurement, help_epilogue="")


@app.command(help_epilogue="")
def throughput(
    *,
    size: Size = 1024,
    records: int = 100_000,
    via: Literal["publish_many", "publish_nowait", "publish"] = "publish_many",
    tasks: int = 1,
    partitions: Partitions = 8,
    repeat: Repeat = 1,
    cluster: Cluster = None,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """Records per second from one process, each acknowledged by a majority.

    Values exist before the clock starts; encoding and every acknowledgement
    lie inside.

    Examples:

    corgi bench throughput --via publish_nowait

    corgi bench throughput --via publish --tasks 1000 --records 50000

    JSON: {"bench", "options", "target", "runs": [{"records_per_s", "mb_per_s",
    "seconds", "acknowledgement": {"samples", "mean_ms", "p50_ms", "p90_ms",
    "p99_ms", "p999_ms", "max_ms"}}], "median": {as a run}}

    Parameters
    ----------
    records
        How many.
    via
        The call of the SDK: publish_many, publish_nowait, or publish, which is
        awaited.
    tasks
        With --via publish: how many at a time.
    """
    from corgi.bench.throughput import ThroughputOptions
    from corgi.bench.throughput import throughput as measure

    options = ThroughputOptions(size=size, records=records, via=via, tasks=tasks, partitions=partitions)
    options.check()
    shown = {"size": size, "records": records, "via": via, "tasks": tasks, "partitions": partitions}
    return report("throughput", shown, lambda target: measure(target, options), repeat, cluster, dir, output)


@app.command(help_epilogue="")
def publish(
    *,
    size: Size = 1024,
    records: int = 3_000,
    partitions: Partitions = 8,
    durability: Durability = "fsync",
    repeat: Repeat = 1,
    cluster: Cluster = None,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """How long one awaited publish takes, with nothing else under way.

    Example: corgi bench publish --repeat 5

    JSON: as throughput; a run is {"records_per_s", "latency": {…}}

    Parameters
    ----------
    records
        How many, one after the other.
    """
    from corgi.bench.publish import PublishOptions, publish_latency

    options = PublishOptions(size=size, records=records, partitions=partitions, durability=durability)
    options.check()
    shown = {"size": size, "records": records, "partitions": partitions, "durability": durability}
    return report("publish", shown, lambda target: publish_latency(target, options), repeat, cluster, dir, output)


@app.command(help_epilogue="")
def echo(
    *,
    rate: float = 2_000.0,
    records: int = 20_000,
    size: Size = 100,
    partitions: Partitions = 8,
    durability: Durability = "fsync",
    repeat: Repeat = 1,
    cluster: Cluster = None,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """How long a message takes to a consumer in another process, from the time
    at which it was due.

    Example: corgi bench echo --rate 0 --records 3000      (one under way at a
    time)

    JSON: as throughput; a run is {"published_per_s", "latency": {…}, "lost",
    "duplicated"}

    Parameters
    ----------
    rate
        Messages per second; 0: the next one leaves when the last has come.
    records
        How many; the first tenth is not timed.
    """
    from corgi.bench.echo import EchoOptions
    from corgi.bench.echo import echo as measure

    options = EchoOptions(rate=rate, records=records, size=size, partitions=partitions, durability=durability)
    options.check()
    shown = {"rate": rate, "records": records, "size": size, "partitions": partitions, "durability": durability}
    return report("echo", shown, lambda target: measure(target, options), repeat, cluster, dir, output)


@app.command(help_epilogue="")
def slow(
    *,
    rate: float = 1_000.0,
    records: int = 4_000,
    size: Size = 100,
    factor: float = 100.0,
    pairs: int = 7,
    cluster: Cluster = None,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """What a consumer costs a fast one on the same partition if it takes only a
    hundredth of what is published: echo latency of the fast one alone and
    beside it, in pairs.

    Example: corgi bench slow --pairs 7

    JSON: as throughput; the run is {"pairs": [{"alone": {…}, "beside": {…}}],
    "p50_ratio", "p99_ratio": medians, "p50_ratios", "p99_ratios": of each pair}

    Parameters
    ----------
    rate
        Messages per second.
    records
        How many in each run; the first tenth is not timed.
    factor
        How many times slower the slow one is.
    pairs
        How many; their order changes from one to the next.
    """
    from corgi.bench.slow import SlowOptions, slow_beside_fast

    options = SlowOptions(rate=rate, records=records, size=size, factor=factor, pairs=pairs)
    options.check()
    shown = {"rate": rate, "records": records, "size": size, "factor": factor}
    return report("slow", shown, lambda target: slow_beside_fast(target, options), 1, cluster, dir, output)


@app.command(help_epilogue="")
def failover(
    *,
    rate: float = 50.0,
    partitions: Partitions = 8,
    suspicion_ms: int = 150,
    before: float = 2.0,
    after: float = 2.0,
    size: Size = 100,
    repeat: Repeat = 1,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """How long writing pauses when a node that leads is killed (-9); then
    everything is read back and compared.

    The gap of a partition is the longest time that a publish to it waited for
    its acknowledgement, from its scheduled time; the maximum over the
    partitions is told. The terms are times since the kill: a peer saw the
    connection closed, Prepare was sent, a majority promised, the new leader's
    first accept was durable, the client had its acknowledgement; each of the
    slowest group. The killed node is started again.

    Example: corgi bench failover --suspicion-ms 10000 --repeat 5

    JSON: as throughput; a run is {"gap_ms", "gap_before_ms", "terms_ms":
    {"connection_closed", "prepare", "promises", "first_accept",
    "client_acknowledged"}, "victim", "groups_led", "slowest_partition",
    "publishes", "errors", "lost", "duplicated", "reordered", "strange"}

    Exit code 1 if anything was lost, doubled or out of order.

    Parameters
    ----------
    rate
        Publishes per second to each partition; with fewer than 50 a gap is
        measured coarsely.
    suspicion_ms
        Silence after which a node is suspected; a kill is noticed without it.
    before
        Seconds of load before the kill.
    after
        Seconds of load after it.
    """
    from corgi.bench.failover import FailoverOptions
    from corgi.bench.failover import failover as measure

    options = FailoverOptions(rate=rate, partitions=partitions, size=size, before_s=before, after_s=after)
    options.check()
    shown = {"rate": rate, "partitions": partitions, "suspicion_ms": suspicion_ms, "before_s": before, "after_s": after}
    work = lambda target: measure(target, options)  # noqa: E731 - as in the other commands
    return report("failover", shown, work, repeat, None, dir, output, suspicion_ms=suspicion_ms)


@app.command(help_epilogue="")
def gaps(
    *,
    faults: str = "kill,stop,isolate,mute,deaf,restart,stall,chain",
    hold: float = 2.0,
    rate: float = 50.0,
    partitions: Partitions = 8,
    suspicion_ms: int = 150,
    repeat: Repeat = 1,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """How long writing pauses, and how often leadership changes, when the node
    that leads most is

    kill: killed (-9); stop: stopped (SIGSTOP); isolate: cut off from the
    others; mute: not heard by them; deaf: heard, and hears nobody; restart:
    restarted in good order; stall: stopped for 300 ms; chain: cut off from one
    of the two others.

    The nodes reach each other through links that can be broken. Gaps are as in
    failover. Changes of leadership are counted from the fault on: of all
    groups, of groups that the node did not lead, of the group with the most.

    Example: corgi bench gaps --faults chain --hold 60

    JSON: {"bench", "options", "target", "runs": [{"fault", "gap_ms",
    "gap_before_ms", "changes", "changes_elsewhere", "changes_most",
    "groups_led", "publishes", "errors", "lost", "duplicated", "reordered",
    "strange"}], "medians": [as a run, one for each fault]}

    Exit code 1 if anything was lost, doubled or out of order.

    Parameters
    ----------
    faults
        Which, in this order, separated by commas.
    hold
        Seconds that each lasts.
    rate
        Publishes per second to each partition.
    suspicion_ms
        Silence after which a node is suspected.
    """
    from corgi.bench.gaps import GapOptions, describe_cluster, gap_cluster, measure_gap
    from corgi.bench.target import median_of

    check_repeat(repeat)
    wanted = [name.strip() for name in faults.split(",") if name.strip()]
    every = [GapOptions(name, hold_s=hold, rate=rate, partitions=partitions) for name in wanted]
    for options in every:
        options.check()
    runs: list[dict[str, Any]] = []
    with gap_cluster(dir, suspicion_ms) as cluster:
        described = describe_cluster(cluster)
        for number in range(repeat):
            for options in every:
                runs.append(run(measure_gap(cluster, options)))
                say(f"{options.fault} {number + 1} of {repeat}: {runs[-1]['gap_ms']:,} ms")
    medians = [median_of([run_ for run_ in runs if run_["fault"] == options.fault]) for options in every]
    if output == "json":
        shown = {"hold_s": hold, "rate": rate, "partitions": partitions, "suspicion_ms": suspicion_ms}
        print_json({"bench": "gaps", "options": shown, "target": described, "runs": runs, "medians": medians})
    else:
        columns = ("fault", ">write gap ms", ">before", ">changes", ">elsewhere", ">most of a group")
        keys = ("fault", "gap_ms", "gap_before_ms", "changes", "changes_elsewhere", "changes_most")
        print_table(columns, [[f"{row[key]:,}" if key != "fault" else row[key] for key in keys] for row in medians])
    complain_of_spoiled(runs)
    return Exit.OK


@app.command(help_epilogue="")
def memory(
    *,
    records: int = 500_000,
    size: Size = 100,
    partitions: Partitions = 8,
    repeat: Repeat = 1,
    dir: Folder = None,
    output: OutputOption = "table",
) -> int:
    """What a node's memory is: idle, with its caches full, and what further
    records add. Of the largest of the three.

    Example: corgi bench memory --records 2000000

    JSON: as throughput; a run is {"idle_mb", "filled_mb", "loaded_mb",
    "bytes_per_million_records"}

    Parameters
    ----------
    records
        How many, after the caches were filled.
    """
    from corgi.bench.memory import MemoryOptions
    from corgi.bench.memory import memory as measure

    options = MemoryOptions(records=records, size=size, partitions=partitions)
    options.check()
    shown = {"records": records, "size": size, "partitions": partitions}
    return report("memory", shown, lambda target: measure(target, options), repeat, None, dir, output)
