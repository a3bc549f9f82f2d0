"""What one node serves of a topic at the very end: every partition from its start to its end, from this node alone.

The SDK reads wherever it likes; here each replica has to answer for itself, so this speaks the protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from corgi.base.errors import CorgiError, error_from_number
from corgi.base.ids import Offset, TopicId
from corgi.base.limits import MIB
from corgi.base.records import iter_batch
from corgi.wire.client_session import CallerSession
from corgi.wire.messages import ErrorReply, Fetch, FetchReply, Metadata, MetadataReply, WireMessage
from corgi.wire.receiver import Scratch

FETCH_BYTES = 4 * MIB
RETRY_S = 0.05
READ_BYTES = 256 * 1024


class Drained(NamedTuple):
    """A part of what a node serves, in order."""

    partition: int
    records: tuple[tuple[int, bytes], ...]


async def drain(host: str, port: int, topic: str, ends: dict[int, int]) -> AsyncGenerator[Drained, None]:
    """Everything of the partitions, up to at least ``ends``; waits until the node has applied that much.

    Raises CorgiError; the caller bounds the time.
    """
    caller = _Caller()
    await caller.open(host, port)
    try:
        topic_id = await _topic_id(caller, topic)
        for partition, end in sorted(ends.items()):
            position = 0
            while True:
                answer, payload = await caller.ask(
                    Fetch(0, 0, FETCH_BYTES, ((topic_id, partition, Offset(position), FETCH_BYTES),))
                )
                if not isinstance(answer, FetchReply):
                    raise CorgiError("malformed-frame", "the answer to Fetch was another")
                number, applied, _, lengths = answer.partitions[0]
                if number:
                    error = error_from_number(number)
                    if not error.retryable:
                        raise error
                    await asyncio.sleep(RETRY_S)
                    continue
                records = _records(payload, lengths, position)
                if records:
                    position = records[-1][0] + 1
                    yield Drained(partition, records)
                elif answer.onward and answer.onward[0] > position:
                    position = answer.onward[0]  # nothing there was for a reader
                elif position >= max(applied, end):
                    if position == 0:
                        yield Drained(partition, ())
                    break
                else:
                    await asyncio.sleep(RETRY_S)
    finally:
        caller.close()


async def _topic_id(caller: _Caller, topic: str) -> TopicId:
    while True:
        answer, _ = await caller.ask(Metadata((topic,)))
        if isinstance(answer, MetadataReply) and answer.topics and not answer.topics[0].error:
            return answer.topics[0].topic
        await asyncio.sleep(RETRY_S)


def _records(payload: memoryview, lengths: tuple[int, ...], position: int) -> tuple[tuple[int, bytes], ...]:
    """From ``position`` on, which may lie within the first batch."""
    out: list[tuple[int, bytes]] = []
    at = 0
    for length in lengths:
        batch = payload[at : at + length]
        at += length
        for record in iter_batch(batch, checked=True):
            if out or record.offset >= position:
                out.append((record.offset, bytes(record.value or b"")))
    return tuple(out)


class _Caller:
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._session = CallerSession(Scratch())
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, host: str, port: int) -> None:
        try:
            self._reader, self._writer = await asyncio.open_connection(host, port)
        except OSError as error:
            raise CorgiError("unreachable", f"{host}:{port}: {error}") from None
        correlation = self._session.hello("corgi chaos")
        await self._answer(correlation)

    async def ask(self, message: WireMessage) -> tuple[WireMessage, memoryview]:
        return await self._answer(self._session.request(message))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def _answer(self, correlation: int) -> tuple[WireMessage, memoryview]:
        assert self._reader is not None
        assert self._writer is not None
        self._writer.writelines(self._session.outbox.take())
        while True:
            data = memoryview(await self._reader.read(READ_BYTES))
            if not data:
                raise CorgiError("unreachable", "the node closed the connection")
            while data:
                buffer = self._session.get_buffer(len(data))
                taken = min(len(buffer), len(data))
                buffer[:taken] = data[:taken]
                data = data[taken:]
                for answer in self._session.received(taken):
                    if isinstance(answer.message, ErrorReply):
                        raise error_from_number(answer.message.error, answer.message.message)
                    if answer.correlation == correlation:
                        return answer.message, answer.payload
            if self._session.failure is not None:
                raise self._session.failure
