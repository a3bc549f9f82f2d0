"""``corgi topic``: create, list, describe, alter, trim and delete topics."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from corgi.base.errors import CorgiError
from corgi.cli.common import ClusterOption, connected, run
from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json, print_table
from corgi.cli.words import say

if TYPE_CHECKING:
    from corgi.client.messages import PartitionDescription, TopicDescription

app = App(
    name="topic",
    help="Create, list, describe, alter, trim and delete topics.",
    help_epilogue="""Examples:

corgi topic create flights --partitions 8

corgi topic describe flights""",
    help_format="plaintext",
)
Settings = Annotated[tuple[str, ...], Parameter(name="--config", negative=())]


@app.command(help_epilogue="")
def create(
    name: str,
    /,
    *,
    partitions: int = 1,
    cleanup: Literal["", "delete", "compact", "compact,delete"] = "",
    durability: Literal["", "fsync", "memory"] = "",
    config: Settings = (),
    colocate_with: str = "",
    if_not_exists: Annotated[bool, Parameter(negative=())] = False,
    cluster: ClusterOption = None,
    output: OutputOption = "table",
) -> int:
    """Create a topic; it can be written to when this returns.

    Examples:

    corgi topic create flights --partitions 8

    corgi topic create prices --cleanup compact

    corgi topic create invoices --partitions 8 --config max_batch_bytes=4194304
    --colocate-with orders

    JSON: {"name", "id", "partitions": [{"partition", "group", "leader",
    "replicas"}], "config": {}}

    Parameters
    ----------
    name
        1 to 249 letters, digits, '.', '_' or '-'.
    partitions
        How many; they can be added later, never taken away.
    durability
        When a message counts as stored: once a majority has it on disk
        (fsync, the default), or has written it (memory: faster, and what was
        acknowledged last is lost when a majority loses its power).
    cleanup
        What makes room: delete (retention, the default), compact (of each key
        only the newest record stays), or both.
    config
        KEY=VALUE; may be given several times: max_batch_bytes, retention_ms,
        retention_bytes (-1: no limit), cleanup, durability, delete_retention_ms,
        min_compaction_lag_ms, min_cleanable_dirty_ratio.
    colocate_with
        A topic of as many partitions, whose partitions are to share Paxos
        groups with these.
    if_not_exists
        Succeed also if the topic exists already.
    """

    async def work() -> TopicDescription:
        async with connected(cluster) as mq:
            named = {"cleanup": cleanup, "durability": durability}
            settings = _settings(config) | {key: value for key, value in named.items() if value}
            try:
                return await mq.topics.create(name, partitions=partitions, colocate_with=colocate_with, **settings)
            except CorgiError as error:
                if error.code != "topic-exists" or not if_not_exists:
                    raise
                return await mq.topics.describe(name)

    topic = run(work())
    if output == "json":
        print_json(document(topic))
    else:
        say(f"created {topic.name} with {_counted(len(topic.partitions), 'partition')}")
    return Exit.OK


@app.command(name="list", help_epilogue="")
def list_(
    *,
    system: Annotated[bool, Parameter(negative=())] = False,
    cluster: ClusterOption = None,
    output: OutputOption = "table",
) -> int:
    """List the topics.

    Example: corgi topic list -o json

    JSON: a list of topics, as `corgi topic create` shows them.

    Parameters
    ----------
    system
        Corgi's own topics too.
    """

    async def work() -> list[TopicDescription]:
        async with connected(cluster) as mq:
            return await mq.topics.list(system=system)

    topics = run(work())
    if output == "json":
        print_json([document(topic) for topic in topics])
    elif topics:
        print_table(
            ("topic", ">partitions", "settings"),
            [(topic.name, len(topic.partitions), _shown(topic.config)) for topic in topics],
        )
    else:
        say("there are no topics; create one: corgi topic create NAME --partitions N")
    return Exit.OK


@app.command(help_epilogue="")
def describe(name: str, /, *, cluster: ClusterOption = None, output: OutputOption = "table") -> int:
    """Show a topic's partitions: who leads them, and what they hold.

    Example: corgi topic describe flights

    JSON: as `corgi topic create`, and in each partition "start" and "end", the
    offsets it holds; of a compacted topic also "compacted_to", the offset below
    which of each key only the newest record is left, and "dirty_ratio", the
    share of bytes behind it.

    Parameters
    ----------
    name
        The topic.
    """

    async def work() -> TopicDescription:
        async with connected(cluster) as mq:
            return await mq.topics.describe(name)

    topic = run(work())
    if output == "json":
        print_json(document(topic, offsets=True))
        return Exit.OK
    rows = [
        (p.partition, p.group, p.leader or "?", ",".join(map(str, p.replicas)), p.start, p.end, *_held(p))
        for p in topic.partitions
    ]
    held = (">compacted to", ">dirty") if _compacted(topic) else (">records",)
    print_table((">partition", ">group", ">leader", "replicas", ">start", ">end", *held), rows)
    if topic.config:
        print(_shown(topic.config))
    return Exit.OK


@app.command(help_epilogue="")
def alter(
    name: str,
    /,
    *,
    partitions: int = 0,
    config: Settings = (),
    cluster: ClusterOption = None,
    output: OutputOption = "table",
) -> int:
    """Add partitions to a topic or change its settings.

    Examples:

    corgi topic alter flights --partitions 16

    corgi topic alter flights --config max_batch_bytes=        (back to the
    default)

    JSON: as `corgi topic create`.

    Parameters
    ----------
    name
        The topic.
    partitions
        How many there are to be; keys go to other partitions from then on.
    config
        KEY=VALUE, or KEY= for the default; may be given several times.
    """
    if not partitions and not config:
        raise CorgiError("invalid-argument", "nothing is to be changed", hint="give --partitions or --config")

    async def work() -> TopicDescription:
        async with connected(cluster) as mq:
            return await mq.topics.alter(name, partitions=partitions, **_settings(config))

    topic = run(work())
    if output == "json":
        print_json(document(topic))
    else:
        say(f"{topic.name} has {_counted(len(topic.partitions), 'partition')}, settings: {_shown(topic.config)}")
    return Exit.OK


@app.command(help_epilogue="")
def trim(
    name: str,
    /,
    *,
    before: str,
    partition: int = -1,
    cluster: ClusterOption = None,
    output: OutputOption = "table",
) -> int:
    """Forget the beginning of a topic's partitions, for ever.

    Examples:

    corgi topic trim flights --before 1200 --partition 3

    corgi topic trim flights --before latest        (all that is there now)

    JSON: {"topic", "starts": {"0": first offset that is left}}

    Parameters
    ----------
    name
        The topic.
    before
        An offset, which stays; or latest.
    partition
        Which one; without it "latest" is meant of all.
    """
    if before != "latest" and not (before.isascii() and before.isdigit() and partition >= 0):
        raise CorgiError(
            "invalid-argument",
            f"--before {before!r} is neither an offset of one partition nor latest",
            hint="an offset needs --partition",
        )

    async def work() -> dict[int, int]:
        async with connected(cluster) as mq:
            wanted = await mq.topics.offsets(name) if before == "latest" else {partition: int(before)}
            if partition >= 0:
                if partition not in wanted:
                    raise CorgiError("unknown-partition", f"{name!r} has no partition {partition}")
                wanted = {partition: wanted[partition]}
            return await mq.topics.trim(name, wanted)

    starts = run(work())
    if output == "json":
        print_json({"topic": name, "starts": {str(number): start for number, start in starts.items()}})
    else:
        print_table((">partition", ">start"), list(starts.items()))
    return Exit.OK


@app.command(help_epilogue="")
def delete(
    name: str,
    /,
    *,
    yes: Annotated[bool, Parameter(name=("--yes", "-y"), negative=())] = False,
    cluster: ClusterOption = None,
    output: OutputOption = "table",
) -> int:
    """Delete a topic with everything in it.

    Example: corgi topic delete flights

    JSON: {"deleted": "flights"}

    Parameters
    ----------
    name
        The topic.
    yes
        Do not ask; a script is never asked.
    """
    if not yes and sys.stdin.isatty() and sys.stderr.isatty() and not _sure(name):
        say("nothing was deleted")
        return Exit.FAILURE

    async def work() -> None:
        async with connected(cluster) as mq:
            await mq.topics.delete(name)

    run(work())
    if output == "json":
        print_json({"deleted": name})
    else:
        say(f"deleted {name}")
    return Exit.OK


def document(topic: TopicDescription, *, offsets: bool = False) -> dict[str, Any]:
    """A topic as JSON shows it."""
    partitions = []
    for p in topic.partitions:
        row: dict[str, Any] = {
            "partition": p.partition,
            "group": p.group,
            "leader": p.leader,
            "replicas": list(p.replicas),
        }
        if offsets:
            row |= {"start": p.start, "end": p.end}
            if p.compacted_to >= 0:
                row |= {"compacted_to": p.compacted_to, "dirty_ratio": p.dirty_ratio}
        partitions.append(row)
    return {"name": topic.name, "id": topic.id, "partitions": partitions, "config": topic.config}


def _held(partition: PartitionDescription) -> tuple[object, ...]:
    """What a partition holds: so many records, or, where offsets have holes, how far compaction has come."""
    if partition.compacted_to < 0:
        return (partition.end - partition.start,)
    return partition.compacted_to, f"{partition.dirty_ratio:.0%}"


def _compacted(topic: TopicDescription) -> bool:
    return any(partition.compacted_to >= 0 for partition in topic.partitions)


def _settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE → settings; an empty value stands for the default."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CorgiError("invalid-argument", f"--config {pair!r} is not KEY=VALUE", hint="see: corgi topic --help")
        if key in ("timeout", "partitions", "name", "colocate_with"):
            raise CorgiError("invalid-argument", f"a topic has no setting {key!r}", hint="see: corgi topic --help")
        settings[key] = value or None
    return settings


def _sure(name: str) -> bool:
    sys.stderr.write(f"delete {name} and everything in it? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _shown(config: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(config.items())) or "defaults"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
