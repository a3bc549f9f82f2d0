"""``corgi sub``: messages as they arrive."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from corgi.base.errors import CorgiError
from corgi.cli.common import ClusterOption, connected, run
from corgi.cli.exits import Exit
from corgi.cli.formats import PLACES, Shown, as_json, compile_format, harmless
from corgi.cli.output import OutputOption

if TYPE_CHECKING:
    from corgi.client.corgi import Corgi
    from corgi.client.held import Delivered
    from corgi.client.messages import Message
    from corgi.client.words import StartAt

_FORMAT_HELP = "How each message is shown: " + ", ".join(f"%{letter} {what}" for letter, (what, _) in PLACES.items())


def sub(
    topic: str,
    /,
    *,
    start: str = "latest",
    count: int | None = None,
    until_end: Annotated[bool, Parameter(negative=())] = False,
    partition: Annotated[tuple[int, ...], Parameter(negative=())] = (),
    format: Annotated[str, Parameter(help=_FORMAT_HELP)] = "%v",
    group: str | None = None,
    concurrency: int = 1,
    cluster: ClusterOption = None,
    output: OutputOption = "table",
) -> int:
    """Print the messages of a topic as they arrive; Ctrl-C or SIGTERM ends it.

    Messages of one partition come in order. The nodes push them; a node that
    is lost is replaced by another.

    Examples:

    corgi sub flights                                  (from now on)

    corgi sub flights --start earliest --count 10

    corgi sub flights --start 10m --format "%T %p/%o %k"      (what came in the
    last ten minutes)

    corgi sub flights --group watchers                 (share the partitions with
    the others of that group; --start is for where it has no checkpoint yet)

    corgi sub flights --start 2026-01-31T12:00:00Z --until-end -o json | jq
    .value

    JSON, one line a message: {"topic", "partition", "offset", "timestamp_ms",
    "key", "value", "headers": [{"name", "value"}]}; bytes that are no text
    come as "key_base64" and "value_base64".

    Parameters
    ----------
    topic
        What to read.
    start
        latest, earliest, an offset, a time with its zone
        (2026-01-31T12:00:00Z), or how long ago (30s, 10m, 2h, 7d).
    count
        End after so many messages.
    until_end
        End when everything is read that was there at the start.
    partition
        Only this one; may be given several times.
    group
        Consume as a member of this consumer group: a message that was printed
        is acknowledged.
    concurrency
        With --group, so many messages of different keys at a time.
    """
    if group is not None and (partition or until_end):
        raise CorgiError("invalid-argument", "--group does not go with --partition and --until-end")
    if group is None and concurrency != 1:
        raise CorgiError("invalid-argument", "--concurrency needs --group")
    if count is not None and count < 0:
        raise CorgiError("invalid-argument", f"--count {count}: expected 0 or more")
    show = as_json if output == "json" else compile_format(format)
    reader = _Reader(show, count, on_terminal=sys.stdout.isatty() and output != "json")

    async def work() -> None:
        async with connected(cluster) as mq:
            if group is not None:
                await reader.consume(mq, topic, start_of(start), group, concurrency)
                return
            await reader.run(mq, topic, start_of(start), partition, until_end=until_end)

    if count != 0:
        run(work(), until_terminated=True)
    return Exit.OK


class _Reader:
    """Writes messages to stdout until it has enough."""

    def __init__(self, show: Callable[[Shown], bytes], count: int | None, *, on_terminal: bool) -> None:
        self._show = show
        self._left = count
        self._on_terminal = on_terminal

    async def run(self, mq: Corgi, topic: str, start: StartAt, partitions: tuple[int, ...], *, until_end: bool) -> None:
        """Until the count is reached, or the end as it was at the start."""
        ends = await mq.topics.offsets(topic, "latest") if until_end else None
        if ends is not None:
            _check(topic, partitions, ends)
            wanted = partitions or tuple(ends)
            begin = await _positions(mq, topic, start)
            ends = {p: end for p, end in ends.items() if p in wanted and begin.get(p, 0) < end}
            if not ends:
                return
        async with mq.subscribe(topic, start=start, partitions=partitions or None) as subscription:
            async for batch in subscription.batches():
                self._write(batch if self._left is None else batch[: self._left])
                if self._left is not None:
                    self._left -= len(batch)
                    if self._left <= 0:
                        return
                if ends is not None:
                    last = batch[-1]
                    if last.offset + 1 >= ends.get(last.partition, sys.maxsize):
                        del ends[last.partition]
                        if not ends:
                            return

    async def consume(self, mq: Corgi, topic: str, start: StartAt, group: str, concurrency: int) -> None:
        """As a member of a consumer group, until the count is reached."""
        stop = asyncio.Event()

        async def show(message: Delivered[bytes]) -> None:
            if self._left is not None:
                if self._left <= 0:
                    message.retry()
                    return
                self._left -= 1
                if not self._left:
                    stop.set()
            self._write([message])

        await mq.run(show, topic, group=group, start=start, concurrency=concurrency, stop=stop)

    def _write(self, batch: Sequence[Message[bytes]]) -> None:
        lines = [self._show(message) for message in batch]
        if self._on_terminal:
            lines = [harmless(line) for line in lines]
        sys.stdout.buffer.write(b"\n".join(lines) + b"\n")
        sys.stdout.buffer.flush()


def _check(topic: str, partitions: tuple[int, ...], known: dict[int, int]) -> None:
    """A partition that does not exist has no end to read to."""
    for partition in partitions:
        if partition not in known:
            told = f"the topic {topic!r} has partitions 0 to {len(known) - 1}, not {partition}"
            raise CorgiError("unknown-partition", told)


async def _positions(mq: Corgi, topic: str, start: StartAt) -> dict[int, int]:
    """Where each partition begins to be read, as far as that matters for knowing that nothing is there."""
    if isinstance(start, int):
        earliest = await mq.topics.offsets(topic, "earliest")
        return {partition: max(start, first) for partition, first in earliest.items()}
    if isinstance(start, str | datetime):
        return await mq.topics.offsets(topic, start)
    return dict(start)


def start_of(text: str, option: str = "--start") -> StartAt:
    """latest, earliest, an offset, a time, or how long ago. Raises CorgiError "invalid-argument"."""
    if text == "latest":
        return "latest"
    if text == "earliest":
        return "earliest"
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _ago(text, option)
    if moment.tzinfo is None:
        raise CorgiError("invalid-argument", f"{option} {text} has no time zone", hint=f"in UTC: {text}Z")
    return moment


def _ago(text: str, option: str) -> datetime:
    from corgi.client.words import seconds

    try:
        ago_s = seconds(text)
    except CorgiError:
        raise CorgiError(
            "invalid-argument",
            f"{option} {text!r} is no place to start",
            hint="latest, earliest, an offset, a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m",
        ) from None
    return datetime.fromtimestamp(max(0.0, datetime.now(UTC).timestamp() - ago_s), UTC)
