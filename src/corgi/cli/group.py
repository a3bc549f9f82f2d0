"""``corgi group``: consumer groups, who holds what in them, how far they are; set them back, forget them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from corgi.cli.common import ClusterOption, connected, run
from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json, print_table
from corgi.cli.sub import start_of
from corgi.cli.words import say

if TYPE_CHECKING:
    from corgi.client.groups import GroupDescription, GroupSummary

app = App(
    name="group",
    help="List, describe, reset and delete consumer groups.",
    help_epilogue="""Examples:

corgi group list

corgi group describe billing

corgi group reset billing flights --to earliest""",
    help_format="plaintext",
)
MEMBER_SHOWN = 12  # characters of a member's name in a table: enough to tell members apart


@app.command(name="list", help_epilogue="")
def list_(*, cluster: ClusterOption = None, output: OutputOption = "table") -> int:
    """List the consumer groups.

    Example: corgi group list -o json

    JSON: [{"group", "kind", "members", "topics", "slices", "coordinator"}]; the
    kind is native, or classic for Kafka clients; the coordinator is a node, 0
    if none leads at the moment.
    """

    async def work() -> list[GroupSummary]:
        async with connected(cluster) as mq:
            return await mq.groups.list()

    groups = run(work())
    if output == "json":
        print_json(
            [
                {
                    "group": group.name,
                    "kind": group.kind,
                    "members": group.members,
                    "topics": list(group.topics),
                    "slices": group.slices,
                    "coordinator": group.coordinator,
                }
                for group in groups
            ]
        )
    elif groups:
        print_table(
            ("group", "kind", ">members", ">slices", ">coordinator", "topics"),
            [(g.name, g.kind, g.members, g.slices, g.coordinator or "?", ", ".join(g.topics)) for g in groups],
        )
    else:
        say("there are no consumer groups")
    return Exit.OK


@app.command(help_epilogue="")
def describe(group: str, /, *, cluster: ClusterOption = None, output: OutputOption = "table") -> int:
    """Show a consumer group: its members, what each holds and how far it is, and
    whether the nodes push to it.

    A member at the end of a partition is pushed to as messages arrive; one
    that is behind pulls large pieces with its credit.

    Example: corgi group describe billing

    JSON: {"group", "kind", "state", "epoch", "slices", "lag", "members": [{"member",
    "instance", "client", "topics", "silent_ms"}], "units": [{"topic",
    "partition", "slice", "member", "owner_epoch", "checkpoint", "ahead",
    "start", "end", "lag", "metadata", "committed_ms"}], "deliveries": [{"node",
    "member", "topic", "partition", "mode", "offset", "behind", "credit",
    "batches", "bytes", "switches"}]}; checkpoint is -1 before the first commit.

    Parameters
    ----------
    group
        The consumer group.
    """

    async def work() -> GroupDescription:
        async with connected(cluster) as mq:
            return await mq.groups.describe(group)

    found = run(work())
    if output == "json":
        print_json(document(found))
        return Exit.OK
    kind = "" if found.kind == "native" else f"{found.kind}, "
    print(f"{found.name}: {kind}{found.state}, {len(found.members)} members, lag {found.lag}")
    if found.members:
        print_table(
            ("member", "client", "instance", "topics", ">silent ms"),
            [(_short(m.member), m.client, m.instance, ", ".join(m.topics), m.silent_ms) for m in found.members],
        )
    if found.units:
        modes = {(d.topic, d.partition, d.member): d.mode for d in found.deliveries}
        columns = ("topic", ">partition", ">slice", "member", ">checkpoint", ">ahead", ">end", ">lag", "mode")
        rows = [
            (
                unit.topic,
                unit.partition,
                unit.slice,
                _short(unit.member) or "-",
                unit.checkpoint if unit.checkpoint >= 0 else "-",
                unit.ahead or "",
                unit.end,
                unit.lag,
                modes.get((unit.topic, unit.partition, unit.member), ""),
            )
            for unit in found.units
        ]
        print_table(columns, rows)
    return Exit.OK


@app.command(help_epilogue="")
def reset(
    group: str,
    topic: str,
    /,
    *,
    to: str,
    partition: Annotated[tuple[int, ...], Parameter(negative=())] = (),
    cluster: ClusterOption = None,
    output: OutputOption = "table",
) -> int:
    """Set where a consumer group goes on in a topic, back or ahead.

    Its consumers may run meanwhile: they lose the partitions for a moment and
    get them again at the new place. Kafka clients have to be stopped first.

    Examples:

    corgi group reset billing flights --to earliest

    corgi group reset billing flights --to 2h --partition 3

    JSON: {"group", "topic", "offsets": {"0": 41}}

    Parameters
    ----------
    group
        The consumer group.
    topic
        One of its topics.
    to
        earliest, latest, an offset, a time with its zone
        (2026-01-31T12:00:00Z), or how long ago (30s, 10m, 2h, 7d).
    partition
        Only this one; may be given several times.
    """

    async def work() -> dict[int, int]:
        async with connected(cluster) as mq:
            return await mq.groups.reset(group, topic, start_of(to, "--to"), partitions=partition or None)

    offsets = run(work())
    if output == "json":
        print_json({"group": group, "topic": topic, "offsets": {str(number): at for number, at in offsets.items()}})
    else:
        say(f"{group} goes on in {topic} at " + ", ".join(f"{number}/{at}" for number, at in offsets.items()))
    return Exit.OK


@app.command(help_epilogue="")
def delete(
    group: str,
    /,
    *,
    yes: Annotated[bool, Parameter(name=("--yes", "-y"), negative=())] = False,
    cluster: ClusterOption = None,
    output: OutputOption = "table",
) -> int:
    """Forget a consumer group and how far it was; it must have no members.

    Example: corgi group delete billing

    JSON: {"deleted": "billing"}

    Parameters
    ----------
    group
        The consumer group.
    yes
        Do not ask; a script is never asked.
    """
    if not yes and sys.stdin.isatty() and sys.stderr.isatty() and not _sure(group):
        say("nothing was deleted")
        return Exit.FAILURE

    async def work() -> None:
        async with connected(cluster) as mq:
            await mq.groups.delete(group)

    run(work())
    if output == "json":
        print_json({"deleted": group})
    else:
        say(f"deleted {group}")
    return Exit.OK


def document(group: GroupDescription) -> dict[str, Any]:
    """A group as JSON shows it."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(group)
    name = found.pop("name")
    return {"group": name, "lag": group.lag, **found}


def _short(member: str) -> str:
    return member if len(member) <= MEMBER_SHOWN else member[: MEMBER_SHOWN - 1] + "…"


def _sure(name: str) -> bool:
    sys.stderr.write(f"forget {name} and how far it was? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
