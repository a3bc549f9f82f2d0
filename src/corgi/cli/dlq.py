"""``corgi dlq``: messages that a consumer group could not handle; see why, and put them back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from cyclopts import App

from corgi.base.errors import CorgiError
from corgi.cli.common import ClusterOption, connected, run
from corgi.cli.exits import Exit
from corgi.cli.formats import as_json
from corgi.cli.output import OutputOption, print_json, print_table
from corgi.cli.words import say

if TYPE_CHECKING:
    from corgi.client.corgi import Corgi
    from corgi.client.messages import Message

app = App(
    name="dlq",
    help="See and replay the messages that a consumer group gave up.",
    help_epilogue="""Examples:

corgi dlq list orders billing

corgi dlq replay orders billing""",
    help_format="plaintext",
)
REPLAY = "replay"  # the consumer group that remembers what was put back


@app.command(name="list", help_epilogue="")
def list_(topic: str, group: str, /, *, cluster: ClusterOption = None, output: OutputOption = "table") -> int:
    """List the dead messages of a topic that were not put back yet.

    Example: corgi dlq list orders billing -o json

    JSON: [{"partition", "offset", "attempts", "error", "from_topic",
    "from_partition", "from_offset", "message"}]; "message" is as corgi sub -o
    json shows it.

    Parameters
    ----------
    topic
        The topic that was consumed.
    group
        The consumer group that could not handle them.
    """

    async def work() -> list[Message[bytes]]:
        async with connected(cluster) as mq:
            name = _dead(topic, group)
            begin, ends = await _left(mq, name, group)
            found: list[Message[bytes]] = []
            wanted = {partition: end for partition, end in ends.items() if begin[partition] < end}
            if wanted:
                async for message in mq.subscribe(name, start={number: begin[number] for number in wanted}):
                    found.append(message)
                    if message.offset + 1 >= wanted[message.partition]:
                        del wanted[message.partition]
                        if not wanted:
                            break
            return found

    messages = run(work())
    if output == "json":
        import json

        print_json([{**_story(message), "message": json.loads(as_json(message))} for message in messages])
    else:
        columns = ("partition", "offset", "attempts", "error", "from_topic", "from_partition", "from_offset")
        print_table(
            [name.upper().replace("_", " ") for name in columns],
            [[str(_story(message)[name]) for name in columns] for message in messages],
        )
    return Exit.OK


@app.command(help_epilogue="")
def replay(topic: str, group: str, /, *, cluster: ClusterOption = None, output: OutputOption = "table") -> int:
    """Put the dead messages back into the topic that they came from.

    Each is put back once, also if this is interrupted and begun again: its
    record and the note that it was put back are stored as one act. All groups
    that consume the topic see it again.

    Example: corgi dlq replay orders billing

    JSON: {"replayed"}

    Parameters
    ----------
    topic
        The topic that was consumed.
    group
        The consumer group that could not handle them.
    """

    async def work() -> int:
        from corgi.client.failing import OWN
        from corgi.client.messages import Message

        async with connected(cluster) as mq:
            name = _dead(topic, group)
            begin, ends = await _left(mq, name, group)
            wanted = {partition: end for partition, end in ends.items() if begin[partition] < end}
            stop = asyncio.Event()
            count = 0

            async def back(dead: Message[bytes]) -> Message[bytes] | None:
                nonlocal count
                if dead.offset >= ends.get(dead.partition, 0):
                    return None
                count += 1
                if dead.offset + 1 >= wanted.get(dead.partition, 0):
                    wanted.pop(dead.partition, None)
                    if not wanted:
                        stop.set()
                headers = tuple([header for header in dead.headers if header[0] not in OWN])
                return Message(topic, dead.partition, key=dead.key, value=dead.value, headers=headers)

            if wanted:
                await mq.run(
                    back,
                    name,
                    group=_replayer(group),
                    semantics="exactly_once",
                    order="partition",
                    start="earliest",
                    stop=stop,
                )
            return count

    count = run(work(), until_terminated=True) or 0
    if output == "json":
        print_json({"replayed": count})
    else:
        say(f"{count} messages put back")
    return Exit.OK


def _dead(topic: str, group: str) -> str:
    from corgi.client.failing import dead_topic

    return dead_topic(topic, group)


def _replayer(group: str) -> str:
    return f"{group}.{REPLAY}"


async def _left(mq: Corgi, name: str, group: str) -> tuple[dict[int, int], dict[int, int]]:
    """Where the dead that were not put back begin, and where they end. Raises "unknown-topic"."""
    try:
        begin = await mq.topics.offsets(name, "earliest")
    except CorgiError as error:
        if error.code != "unknown-topic":
            raise
        raise CorgiError(error.code, f"no message of the group {group!r} has died: there is no topic {name}",
                         hint="see the groups: corgi group list") from None  # fmt: skip
    try:
        units = (await mq.groups.describe(_replayer(group))).units
    except CorgiError as error:
        if error.code != "unknown-group":
            raise
        units = ()
    done = {unit.partition: unit.checkpoint for unit in units if unit.topic == name}
    ends = await mq.topics.offsets(name, "latest")
    return {number: max(first, done.get(number, 0)) for number, first in begin.items()}, ends


def _story(message: Message[bytes]) -> dict[str, Any]:
    """What its headers tell."""

    def told(name: str) -> str:
        return (message.header(f"corgi-{name}") or b"").decode(errors="replace")

    def number(name: str) -> int:
        text = told(name)
        return int(text[:18]) if text.isascii() and text.isdigit() else -1

    return {
        "partition": message.partition,
        "offset": message.offset,
        "attempts": number("attempt"),
        "error": told("error"),
        "from_topic": told("topic"),
        "from_partition": number("partition"),
        "from_offset": number("offset"),
    }
