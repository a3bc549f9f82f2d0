"""Consuming as users see it: an asynchronous iterator of messages, or of batches of them.

A subscription is state with an identity: it survives lost connections and nodes, and ends only when it is closed, when
its topic is deleted, or when its offset is no longer stored.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from corgi.base.errors import CorgiError
from corgi.base.records import iter_batch
from corgi.client.core.subscriber import Delivery, Start
from corgi.client.messages import Message
from corgi.client.shell import Shell

V = TypeVar("V")
TURN_S = 0.005  # a consumer that never has to wait lets the loop turn after this


class SubscriptionStatistics(NamedTuple):
    """A snapshot. ``position``: the next offset to come, ``behind``: records that are stored after it, by partition."""

    position: dict[int, int]
    behind: dict[int, int]
    batches: int
    attachments: int
    dropped: int
    gaps: int
    damages: int


class Subscription(Generic[V]):
    """``async for message in subscription``; ``batches()`` for lists. Use ``async with``, or ``close()`` it."""

    def __init__(
        self,
        shell: Shell,
        topic: str,
        start: Start | dict[int, Start],
        partitions: tuple[int, ...] | None,
        prefetch_bytes: int,
        decode: Callable[[Message[bytes]], Message[V]] | None,
        *,
        committed: bool = True,
    ) -> None:
        self.topic = topic
        self._shell = shell
        self._decode = decode
        self._waiters: set[asyncio.Future[None]] = set()
        self._iterated = False  # a task waits for the next batch
        self._messages: Iterator[Message[V]] = iter(())
        self._closed = False
        self._turned_at = shell.loop.time()
        itself = weakref.ref(self)  # a subscription that nobody holds any more ends

        def notify() -> None:
            subscription = itself()
            if subscription is not None:
                subscription._wake()

        self._core = shell.core.consumer.subscribe(
            topic, notify, start=start, partitions=partitions, prefetch_bytes=prefetch_bytes, committed=committed
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message[V]:
        while True:
            for message in self._messages:
                return message
            batch = await self.next_batch()
            if batch is None:
                raise StopAsyncIteration
            self._messages = iter(batch)

    async def batches(self) -> AsyncIterator[list[Message[V]]]:
        """Lists of messages as they were stored together, each of one partition and in order."""
        rest = list(self._messages)
        if rest:
            yield rest
        while (batch := await self.next_batch()) is not None:
            if batch:
                yield batch

    async def ready(self) -> None:
        """Wait until every partition is attached: what is published from here on, even "latest" will deliver."""
        while not self._core.attached:
            if self._core.error is not None:
                raise self._core.error
            await self._notified()

    def statistics(self) -> SubscriptionStatistics:
        streams = self._core.streams
        return SubscriptionStatistics(
            {number: stream.position for number, stream in streams.items()},
            {number: max(0, stream.end - stream.position) for number, stream in streams.items()},
            self._core.deliveries,
            self._core.attachments,
            self._core.dropped,
            self._core.gaps,
            self._core.damages,
        )

    def close(self) -> None:
        """End it; an iteration under way stops."""
        if not self._closed:
            self._closed = True
            self._messages = iter(())
            self._shell.core.consumer.unsubscribe(self._core)
            self._wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        shell, core = self._shell, self.__dict__.get("_core")  # not there if it was refused
        if core is not None and not core.closed and not shell.loop.is_closed():
            shell.loop.call_soon_threadsafe(shell.core.consumer.unsubscribe, core)

    async def next_batch(self) -> list[Message[V]] | None:
        """The messages of the next batch, perhaps none of them wanted; None when the subscription is closed."""
        while True:
            if self._closed:
                return None
            delivery = self._core.take()
            if delivery is not None:
                break
            if self._core.error is not None:
                raise self._core.error
            await self._next_delivery()
            self._turned_at = self._shell.loop.time()
        if self._shell.loop.time() - self._turned_at > TURN_S:
            await asyncio.sleep(0)
            self._turned_at = self._shell.loop.time()
        messages = messages_of(self.topic, delivery)
        if self._decode is None:
            return messages  # type: ignore[return-value] # without a codec V is bytes
        return [self._decode(message) for message in messages]

    async def _next_delivery(self) -> None:
        if self._iterated:
            raise CorgiError("invalid-argument", "a subscription is iterated by one task at a time")
        self._iterated = True
        try:
            await self._notified()
        finally:
            self._iterated = False

    async def _notified(self) -> None:
        waiter = self._shell.loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def messages_of(topic: str, delivery: Delivery) -> list[Message[bytes]]:
    """The messages of a delivery that are wanted. Raises "corrupt-batch"."""
    partition, batch, wanted, _, not_before_ms, _ = delivery
    messages = [
        Message(
            topic,
            partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            tuple(record.headers) if record.headers else (),
        )
        for record in iter_batch(batch, checked=True)
    ]
    if messages and messages[0].offset < wanted:
        messages = [message for message in messages if message.offset >= wanted]
    if not_before_ms >= 0:
        first = next((at for at, message in enumerate(messages) if message.timestamp >= not_before_ms), len(messages))
        del messages[:first]
    return messages
