"""``mq.replay``: reading what is stored between two places, once, outside any group.

It asks for one piece after the other and so learns, unlike a subscription, that nothing for a reader is left before the
end, even where the last offsets belong to control batches, aborted transactions or deleted keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from corgi.base.errors import CorgiError, error_from_number
from corgi.base.ids import Offset
from corgi.base.limits import MIB
from corgi.base.records import iter_batch
from corgi.client.core.asks import Ask
from corgi.client.core.links import Answer
from corgi.client.core.routing import TopicRoute
from corgi.client.messages import Message
from corgi.client.shell import Shell
from corgi.client.topics import Topics, route_of
from corgi.client.words import OFFSET_MAX, between, milliseconds, partition_numbers, topic_name
from corgi.wire.messages import Fetch, FetchReply, WireMessage

PIECE_BYTES = 1 * MIB
WAIT_MS = 1_000  # for the outcome of a transaction that is open
Place = int | datetime | Mapping[int, int]
ReplayFrom = Literal["earliest", "latest"] | Place
ReplayTo = Literal["earliest", "latest"] | Place


class _Bound(NamedTuple):
    """Offsets by partition, and a time in ms that each message is compared with; -1: none."""

    offsets: dict[int, int]
    time_ms: int


async def replay(
    shell: Shell,
    topics: Topics,
    topic: str,
    start: ReplayFrom,
    end: ReplayTo,
    partitions: Iterable[int] | None,
    committed: bool,
) -> AsyncIterator[Message[bytes]]:
    """See ``Corgi.replay``."""
    name = topic_name(topic)
    route = await route_of(shell, name)
    first = await _bound(topics, name, start, "start")
    last = await _bound(topics, name, end, "end")
    chosen = sorted(first.offsets) if partitions is None else partition_numbers(partitions)
    if isinstance(start, Mapping) or isinstance(end, Mapping):
        chosen = tuple([number for number in chosen if number in first.offsets and number in last.offsets])
    for partition in chosen:
        if not 0 <= partition < route.partitions or partition not in first.offsets:
            raise CorgiError("unknown-partition", f"{name} has partitions 0 to {route.partitions - 1}")
        position, stop = first.offsets[partition], last.offsets[partition]
        while position < stop:
            reply, payload = await _fetch(shell, route, partition, position, committed)
            for message in _messages(name, partition, payload, reply):
                fits = message.timestamp >= first.time_ms and (last.time_ms < 0 or message.timestamp < last.time_ms)
                if position <= message.offset < stop and fits:
                    yield message
            position = max(position, reply.onward[0])


async def _bound(topics: Topics, name: str, at: ReplayFrom, what: str) -> _Bound:
    """Where a replay begins or ends. A time ends nothing by its offset: older messages may come behind newer ones."""
    said: object = at
    if isinstance(at, datetime):
        offsets = await topics.offsets(name, at if what == "start" else "latest")
        return _Bound(offsets, milliseconds(at, what))
    if isinstance(at, str):
        if said not in ("earliest", "latest"):
            raise CorgiError("invalid-argument", f'{what} is "earliest", "latest", an offset or a time, not {at!r}')
        return _Bound(await topics.offsets(name, at), -1)
    ends = await topics.offsets(name)  # nothing is waited for beyond them
    if isinstance(at, Mapping):
        wanted = {number: between(at[number], what, 0, OFFSET_MAX) for number in partition_numbers(at, what)}
        for number in wanted.keys() - ends.keys():
            raise CorgiError("unknown-partition", f"{what}: {name} has partitions 0 to {len(ends) - 1}, not {number}")
    else:
        wanted = dict.fromkeys(ends, between(at, what, 0, OFFSET_MAX))
    return _Bound({number: min(offset, ends[number]) for number, offset in wanted.items()}, -1)


async def _fetch(
    shell: Shell, route: TopicRoute, partition: int, position: int, committed: bool
) -> tuple[FetchReply, bytes]:
    """The next piece. Raises CorgiError, among others "offset-out-of-range"."""
    future: asyncio.Future[tuple[Answer, bytes]] = shell.loop.create_future()

    def done(_: Ask, answer: Answer, payload: memoryview) -> None:
        if not future.done():
            future.set_result((answer, bytes(payload)))

    entry = (route.topic, partition, Offset(position), PIECE_BYTES)
    message = Fetch(WAIT_MS, 1, PIECE_BYTES, (entry,), committed)
    shell.core.ask(message, done, group=int(route.groups[partition]), judge=_retryable)
    answer, payload = await future
    if isinstance(answer, CorgiError):
        raise answer
    if not isinstance(answer, FetchReply) or len(answer.partitions) != 1 or len(answer.onward) != 1:
        raise CorgiError("malformed-frame", "the answer to Fetch was another")
    number = answer.partitions[0][0]
    if number:
        place = f"{route.name}/{partition} at offset {position}"
        error = error_from_number(number)
        raise CorgiError(error.code, f"{place}: {error.message}")
    return answer, payload


def _retryable(answer: WireMessage) -> CorgiError | None:
    number = answer.partitions[0][0] if isinstance(answer, FetchReply) and answer.partitions else 0
    error = error_from_number(number) if number else None
    return error if error is not None and error.retryable else None


def _messages(name: str, partition: int, payload: bytes, reply: FetchReply) -> list[Message[bytes]]:
    found: list[Message[bytes]] = []
    at = 0
    for length in reply.partitions[0][3]:
        for record in iter_batch(memoryview(payload)[at : at + length]):
            headers = tuple(record.headers) if record.headers else ()
            found.append(Message(name, partition, record.offset, record.timestamp, record.key, record.value, headers))
        at += length
    return found
