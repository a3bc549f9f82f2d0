"""Consuming without asyncio: iterators whose messages arrive, and are settled, in the loop's thread.

Each call that settles a message costs a switch to that thread; a batch is settled with one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from corgi.client.group_subscription import Batch as AsyncBatch
from corgi.client.group_subscription import GroupStatistics
from corgi.client.group_subscription import GroupSubscription as AsyncGroupSubscription
from corgi.client.held import Delivered as AsyncDelivered
from corgi.client.loop_thread import LoopThread, later
from corgi.client.messages import Message
from corgi.client.subscription import Subscription as AsyncSubscription
from corgi.client.subscription import SubscriptionStatistics
from corgi.client.words import Duration, Time

V = TypeVar("V")


class Subscription(Generic[V]):
    """``for message in subscription``; ``batches()`` for lists; ``with`` or ``close()`` to end it."""

    def __init__(self, thread: LoopThread, subscription: AsyncSubscription[V]) -> None:
        self._thread = thread
        self._subscription = subscription
        self._messages: Iterator[Message[V]] = iter(())
        self.topic = subscription.topic

    def __iter__(self) -> Iterator[Message[V]]:
        return self

    def __next__(self) -> Message[V]:
        while True:
            for message in self._messages:
                return message
            batch = self._thread.call(self._next_batch)
            if batch is None:
                raise StopIteration
            self._messages = iter(batch)

    def batches(self) -> Iterator[list[Message[V]]]:
        """Lists of messages as they were stored together, each of one partition and in order."""
        rest = list(self._messages)
        if rest:
            yield rest
        while (batch := self._thread.call(self._next_batch)) is not None:
            if batch:
                yield batch

    def ready(self) -> None:
        """Wait until every partition is attached."""
        self._thread.call(self._subscription.ready)

    def statistics(self) -> SubscriptionStatistics:
        return self._thread.call(lambda: later(self._subscription.statistics))

    def close(self) -> None:
        """End it; an iteration under way stops."""
        self._thread.call(lambda: later(self._subscription.close))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _next_batch(self) -> list[Message[V]] | None:
        return await self._subscription.next_batch()


class Delivered(Message[V], Generic[V]):
    """A message of a consumer group: ``with m:`` acknowledges it, and has it delivered again, later, if it raises."""

    attempt: int = 1
    inner: Any = None  # the message in the loop's thread
    thread: Any = None

    def ack(self) -> None:
        """It is done. Raises "not-delivered" if this consumer does not hold it (any more)."""
        self.thread.call(lambda: later(self.inner.ack))

    def retry(self, after: Duration | None = None) -> None:
        """Deliver it again after a while. Raises "not-delivered"."""
        self.thread.call(lambda: later(lambda: self.inner.retry(after)))

    def reject(self, reason: str = "") -> None:
        """Put it into the dead-letter topic. Raises "not-delivered"."""
        self.thread.call(lambda: later(lambda: self.inner.reject(reason)))

    def extend(self, by: Duration | None = None) -> None:
        """Give its handler more time. Raises "not-delivered"."""
        self.thread.call(lambda: later(lambda: self.inner.extend(by)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return bool(self.thread.call(lambda: self.inner.__aexit__(kind, error, trace)))


def delivered(thread: LoopThread, message: AsyncDelivered[V]) -> Delivered[V]:
    return Delivered(
        message.topic,
        message.partition,
        message.offset,
        message.timestamp,
        message.key,
        message.value,
        message.headers,
        message.attempt,
        message,
        thread,
    )


class Batch(list[Delivered[V]], Generic[V]):
    """Messages of one unit, in order. ``ack()`` or ``with batch:`` settles them all."""

    def __init__(self, thread: LoopThread, batch: AsyncBatch[V]) -> None:
        super().__init__([delivered(thread, message) for message in batch])
        self._thread = thread
        self._batch = batch

    def ack(self) -> None:
        """All of them are done. Raises "not-delivered" if some are not held any more; the others are acknowledged."""
        self._thread.call(lambda: later(self._batch.ack))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return bool(self._thread.call(lambda: self._batch.__aexit__(kind, error, trace)))


class GroupSubscription(Generic[V]):
    """``for m in subscription: with m: ...``; use ``with``, or ``close()``: it stores what is done and gives back the
    rest. ``corgi.GroupSubscription`` tells what each method does."""

    def __init__(self, thread: LoopThread, subscription: AsyncGroupSubscription[V]) -> None:
        self._thread = thread
        self._subscription = subscription
        self._batches = subscription.batches()
        self.topics = subscription.topics

    def __iter__(self) -> Iterator[Delivered[V]]:
        return self

    def __next__(self) -> Delivered[V]:
        try:
            message = self._thread.call(self._subscription.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None
        return delivered(self._thread, message)

    def batches(self) -> Iterator[Batch[V]]:
        """Batches of messages, each of one partition and in order."""
        while (batch := self._thread.call(self._next_batch)) is not None:
            yield Batch(self._thread, batch)

    def ready(self) -> None:
        self._thread.call(self._subscription.ready)

    def seek(self, at: Time | str, *, partition: int | None = None, topic: str | None = None) -> None:
        self._thread.call(lambda: self._subscription.seek(at, partition=partition, topic=topic))

    def pause(self, partitions: Iterable[int] | None = None) -> None:
        self._thread.call(lambda: later(lambda: self._subscription.pause(partitions)))

    def resume(self, partitions: Iterable[int] | None = None) -> None:
        self._thread.call(lambda: later(lambda: self._subscription.resume(partitions)))

    def statistics(self) -> GroupStatistics:
        return self._thread.call(lambda: later(self._subscription.statistics))

    def close(self) -> None:
        """Store the checkpoints and leave the group; an iteration under way stops."""
        self._thread.call(self._subscription.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _next_batch(self) -> AsyncBatch[V] | None:
        return await anext(self._batches, None)


def replayed(thread: LoopThread, messages: AsyncIterator[Message[V]], at_once: int = 500) -> Iterator[Message[V]]:
    """The messages of a replay, some at a time."""

    async def some() -> list[Message[V]]:
        found: list[Message[V]] = []
        async for message in messages:
            found.append(message)
            if len(found) == at_once:
                break
        return found

    while found := thread.call(some):
        yield from found
