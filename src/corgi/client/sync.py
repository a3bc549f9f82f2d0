"""The synchronous face: the same names and arguments, over an event loop in a thread of its own.

    with corgi.connect_sync("host:port") as mq:
        receipt = mq.publish("orders", b"...", key="o-1")
        for message in mq.subscribe("orders", start="earliest"):
            ...

Methods may be called from any thread. After ``os.fork()`` the child must connect anew: the loop's thread is not there,
and every method of an inherited client raises "closed". In a prefork server, connect in the worker.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from corgi.base.errors import CorgiError
from corgi.client import corgi as asynchronous
from corgi.client.atomic import Atomic as AsyncAtomic
from corgi.client.atomic import AtomicReceipt
from corgi.client.codecs import Codec, Format
from corgi.client.core.options import BATCH_BYTES, BUFFER_BYTES, PREFETCH_BYTES
from corgi.client.groups import GroupDescription, GroupSummary, ResetTo
from corgi.client.handlers import RunStatistics
from corgi.client.held import Delivered
from corgi.client.messages import Message, NodeDescription, Receipt, TopicDescription
from corgi.client.publishing import Item, Key, Value
from corgi.client.receipts import Outcomes, PendingReceipt
from corgi.client.subscription import Subscription as AsyncSubscription
from corgi.client.subscription import SubscriptionStatistics
from corgi.client.sync_run import run_in_threads
from corgi.client.typed import Topic as AsyncTopic
from corgi.client.words import Acks, Compression, Duration, Headers, StartAt, Time
from corgi.wire.messages import StatusReply

T = TypeVar("T")
V = TypeVar("V")


class LoopThread:
    """An event loop that runs in a daemon thread until it is closed."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="corgi-client", daemon=True)
        self._thread.start()

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the loop and wait for it; an interrupt cancels it."""
        if self._process != os.getpid():
            raise CorgiError("closed", "this client belongs to the parent process", hint="connect after forking")
        if self.loop.is_closed() or threading.current_thread() is self._thread:
            raise CorgiError("closed", "the client is closed, or called from its own thread")
        future = asyncio.run_coroutine_threadsafe(make(), self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        if self._process == os.getpid() and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()

    def _run(self) -> None:
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


class Pending:
    """A message on its way; ``result()`` waits for its Receipt."""

    __slots__ = ("_pending", "_thread")

    def __init__(self, thread: LoopThread, pending: PendingReceipt) -> None:
        self._thread = thread
        self._pending = pending

    @property
    def done(self) -> bool:
        return self._pending.done

    def result(self) -> Receipt:
        """Wait for the receipt; raises CorgiError."""
        if self._pending.done:
            return self._pending.result()
        return self._thread.call(self._wait)

    async def _wait(self) -> Receipt:
        return await self._pending


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
        return self._thread.call(lambda: _later(self._subscription.statistics))

    def close(self) -> None:
        """End it; an iteration under way stops."""
        self._thread.call(lambda: _later(self._subscription.close))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _next_batch(self) -> list[Message[V]] | None:
        return await self._subscription.next_batch()


class Topics:
    """``mq.topics``, as in the asynchronous client."""

    def __init__(self, thread: LoopThread, mq: asynchronous.Corgi) -> None:
        self._thread = thread
        self._topics = mq.topics

    def create(
        self,
        name: str,
        *,
        partitions: int = 1,
        colocate_with: str = "",
        timeout: Duration = "10s",
        **config: str | int | bool | None,
    ) -> TopicDescription:
        return self._thread.call(
            lambda: self._topics.create(
                name, partitions=partitions, colocate_with=colocate_with, timeout=timeout, **config
            )
        )

    def list(self, *, system: bool = False) -> list[TopicDescription]:
        return self._thread.call(lambda: self._topics.list(system=system))

    def describe(self, name: str) -> TopicDescription:
        return self._thread.call(lambda: self._topics.describe(name))

    def offsets(self, name: str, at: Time | str = "latest") -> dict[int, int]:
        return self._thread.call(lambda: self._topics.offsets(name, at))

    def alter(
        self, name: str, *, partitions: int = 0, timeout: Duration = "10s", **config: str | int | bool | None
    ) -> TopicDescription:
        return self._thread.call(lambda: self._topics.alter(name, partitions=partitions, timeout=timeout, **config))

    def delete(self, name: str, *, timeout: Duration = "10s") -> None:
        self._thread.call(lambda: self._topics.delete(name, timeout=timeout))

    def nodes(self) -> Sequence[NodeDescription]:
        return self._thread.call(self._topics.nodes)


class Groups:
    """``mq.groups``, as in the asynchronous client."""

    def __init__(self, thread: LoopThread, mq: asynchronous.Corgi) -> None:
        self._thread = thread
        self._groups = mq.groups

    def list(self, *, timeout: Duration = "10s") -> list[GroupSummary]:
        return self._thread.call(lambda: self._groups.list(timeout=timeout))

    def describe(self, name: str, *, timeout: Duration = "10s") -> GroupDescription:
        return self._thread.call(lambda: self._groups.describe(name, timeout=timeout))

    def reset(
        self,
        name: str,
        topic: str,
        to: ResetTo,
        *,
        partitions: Iterable[int] | None = None,
        timeout: Duration = "10s",
    ) -> dict[int, int]:
        return self._thread.call(lambda: self._groups.reset(name, topic, to, partitions=partitions, timeout=timeout))

    def delete(self, name: str, *, timeout: Duration = "10s") -> None:
        self._thread.call(lambda: self._groups.delete(name, timeout=timeout))


class Atomic:
    """``with mq.atomic() as tx``: the asynchronous one of the same name tells what it does."""

    def __init__(self, thread: LoopThread, act: AsyncAtomic) -> None:
        self._thread = thread
        self._act = act
        self.publish = act.publish
        self.checkpoint = act.checkpoint

    @property
    def receipt(self) -> AtomicReceipt:
        return self._act.receipt

    def __enter__(self) -> Self:
        self._thread.call(self._act.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.call(lambda: self._act.__aexit__(kind, error, trace))


class Topic(Generic[V]):
    """A topic whose values have a type."""

    def __init__(self, thread: LoopThread, topic: AsyncTopic[V]) -> None:
        self._thread = thread
        self._topic = topic
        self.name = topic.name

    def publish(
        self,
        value: V | None,
        *,
        key: Key = None,
        headers: Headers | None = None,
        timestamp: Time | None = None,
        partition: int | None = None,
        acks: Acks = "quorum",
        timeout: Duration | None = None,
    ) -> Receipt:
        return self._thread.call(
            lambda: self._topic.publish(
                value,
                key=key,
                headers=headers,
                timestamp=timestamp,
                partition=partition,
                acks=acks,
                timeout=timeout,
            )
        )

    def publish_many(self, items: Iterable[V | tuple[Key, V] | Message[V]], *, acks: Acks = "quorum") -> Outcomes:
        return self._thread.call(lambda: self._topic.publish_many(items, acks=acks))

    def subscribe(
        self, *, start: StartAt = "latest", partitions: Iterable[int] | None = None, prefetch_bytes: int = 0
    ) -> Subscription[V]:
        subscription = self._thread.call(
            lambda: _later(
                lambda: self._topic.subscribe(start=start, partitions=partitions, prefetch_bytes=prefetch_bytes)
            )
        )
        return Subscription(self._thread, subscription)


class Corgi:
    """A connected client for synchronous programs; see ``corgi.Corgi`` for what each method does."""

    def __init__(self, thread: LoopThread, mq: asynchronous.Corgi) -> None:
        self._thread = thread
        self._mq = mq
        self.topics = Topics(thread, mq)
        self.groups = Groups(thread, mq)

    def publish(
        self,
        topic: str,
        value: Value,
        *,
        key: Key = None,
        headers: Headers | None = None,
        timestamp: Time | None = None,
        partition: int | None = None,
        acks: Acks = "quorum",
        timeout: Duration | None = None,
    ) -> Receipt:
        return self._thread.call(
            lambda: self._mq.publish(
                topic,
                value,
                key=key,
                headers=headers,
                timestamp=timestamp,
                partition=partition,
                acks=acks,
                timeout=timeout,
            )
        )

    def publish_nowait(
        self,
        topic: str,
        value: Value,
        *,
        key: Key = None,
        headers: Headers | None = None,
        timestamp: Time | None = None,
        partition: int | None = None,
        acks: Acks = "quorum",
    ) -> Pending:
        """Hands the message to the loop's thread, which costs a switch: for volume use ``publish_many``."""
        pending = self._thread.call(
            lambda: _later(
                lambda: self._mq.publish_nowait(
                    topic,
                    value,
                    key=key,
                    headers=headers,
                    timestamp=timestamp,
                    partition=partition,
                    acks=acks,
                )
            )
        )
        return Pending(self._thread, pending)

    def publish_many(self, topic: str, items: Iterable[Item], *, acks: Acks = "quorum") -> Outcomes:
        """``items`` are taken from in the loop's thread."""
        return self._thread.call(lambda: self._mq.publish_many(topic, items, acks=acks))

    def atomic(self, name: str = "", *, timeout: Duration = "60s") -> Atomic:
        """As the asynchronous one, with ``with``."""
        return Atomic(self._thread, self._mq.atomic(name, timeout=timeout))

    def flush(self) -> None:
        self._thread.call(self._mq.flush)

    def ready(self) -> None:
        self._thread.call(self._mq.ready)

    def subscribe(
        self,
        topic: str,
        *,
        start: StartAt = "latest",
        partitions: Iterable[int] | None = None,
        prefetch_bytes: int = 0,
    ) -> Subscription[bytes]:
        subscription = self._thread.call(
            lambda: _later(
                lambda: self._mq.subscribe(topic, start=start, partitions=partitions, prefetch_bytes=prefetch_bytes)
            )
        )
        return Subscription(self._thread, subscription)

    def run(
        self,
        handler: Callable[[Delivered[bytes]], Any],
        topic: str | Sequence[str],
        *,
        group: str,
        concurrency: int = 16,
        stop: threading.Event | None = None,
        **options: Any,
    ) -> RunStatistics:
        """Call a plain function, in threads, for each message; options as in ``corgi.Corgi.run``. Ctrl-C ends it."""
        options["group"] = group
        return self._thread.call(lambda: run_in_threads(self._mq, handler, topic, stop, concurrency, options))

    def topic(self, name: str, type_: type[V], *, format: Format = "json", codec: Codec[V] | None = None) -> Topic[V]:
        if codec is not None:
            return Topic(self._thread, self._mq.topic(name, codec=codec))
        return Topic(self._thread, self._mq.topic(name, type_, format=format))

    @property
    def cluster(self) -> str:
        return self._mq.cluster

    def status(self) -> list[StatusReply]:
        return self._thread.call(self._mq.status)

    def close(self) -> None:
        """Close all connections and end the thread."""
        if not self._thread.loop.is_closed():
            self._thread.call(self._mq.close)
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is on its way, unless the block failed, and close."""
        try:
            if error is None:
                self.flush()
        finally:
            self.close()


def connect(
    servers: str | Sequence[str] = asynchronous.DEFAULT_SERVERS,
    *,
    compression: Compression = "none",
    publish_timeout: Duration = "30s",
    request_timeout: Duration = "10s",
    connect_timeout: Duration = "10s",
    batch_bytes: int = BATCH_BYTES,
    buffer_bytes: int = BUFFER_BYTES,
    prefetch_bytes: int = PREFETCH_BYTES,
    cluster: str = "",
) -> Corgi:
    """As ``corgi.connect``, but connected when it returns; use it as a context manager or ``close()`` it."""
    connecting = asynchronous.connect(
        servers,
        compression=compression,
        publish_timeout=publish_timeout,
        request_timeout=request_timeout,
        connect_timeout=connect_timeout,
        batch_bytes=batch_bytes,
        buffer_bytes=buffer_bytes,
        prefetch_bytes=prefetch_bytes,
        cluster=cluster,
    )
    thread = LoopThread()
    try:
        return Corgi(thread, thread.call(lambda: _awaited(connecting)))
    except BaseException:
        thread.close()
        raise


async def _later(make: Callable[[], T]) -> T:
    """Call something in the loop's thread."""
    return make()


async def _awaited(connecting: asynchronous.Connecting) -> asynchronous.Corgi:
    return await connecting
