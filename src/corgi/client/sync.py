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
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, cast, overload

from corgi.client import corgi as asynchronous
from corgi.client.atomic import Atomic as AsyncAtomic
from corgi.client.atomic import AtomicReceipt
from corgi.client.codecs import Codec, Format
from corgi.client.consuming import GroupWords, HandlerWords
from corgi.client.core.options import BATCH_BYTES, BUFFER_BYTES, PREFETCH_BYTES
from corgi.client.handlers import RunStatistics
from corgi.client.loop_thread import LoopThread, later
from corgi.client.messages import Message, Receipt
from corgi.client.prepared import Check, OpenTransaction
from corgi.client.prepared import Prepared as AsyncPrepared
from corgi.client.publishing import Item, Key, Value
from corgi.client.receipts import Outcomes, PendingReceipt
from corgi.client.replaying import ReplayFrom, ReplayTo
from corgi.client.sync_consuming import GroupSubscription, Subscription, replayed
from corgi.client.sync_run import run_in_threads
from corgi.client.sync_views import Groups, Topics
from corgi.client.typed import Topic as AsyncTopic
from corgi.client.words import Acks, Compression, Duration, Headers, Read, StartAt, Time
from corgi.wire.messages import StatusReply

T = TypeVar("T")
V = TypeVar("V")


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


class Prepared:
    """A message that waits. ``id`` is what ``answer`` is asked about."""

    def __init__(self, thread: LoopThread, prepared: AsyncPrepared) -> None:
        self._thread = thread
        self._prepared = prepared
        self.id = prepared.id
        self.partition = prepared.partition

    def commit(self) -> Receipt:
        return self._thread.call(self._prepared.commit)

    def rollback(self) -> None:
        self._thread.call(self._prepared.rollback)


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

    @overload
    def subscribe(
        self,
        *,
        start: StartAt = "latest",
        partitions: Iterable[int] | None = None,
        prefetch_bytes: int = 0,
        read: Read = "committed",
    ) -> Subscription[V]: ...
    @overload
    def subscribe(self, *, group: str, **options: Unpack[GroupWords]) -> GroupSubscription[V]: ...
    def subscribe(self, *, group: str | None = None, **options: Any) -> Subscription[V] | GroupSubscription[V]:
        if group is None:
            return Subscription(
                self._thread, self._thread.call(lambda: later(lambda: self._topic.subscribe(**options)))
            )
        members = self._thread.call(lambda: later(lambda: self._topic.subscribe(group=group, **options)))
        return GroupSubscription(self._thread, members)

    def run(
        self,
        handler: Callable[..., Any],
        *,
        group: str,
        concurrency: int = 16,
        stop: threading.Event | None = None,
        **options: Unpack[HandlerWords],
    ) -> RunStatistics:
        """Call a plain function, in threads, for each message; see ``Corgi.run``."""
        run = self._topic.run
        words = cast("dict[str, Any]", {**options, "group": group})
        return self._thread.call(lambda: run_in_threads(run, self._thread, handler, stop, concurrency, words))

    def result(self, value: V | None, *, key: Key = None, headers: Headers | None = None) -> Message[bytes]:
        return self._topic.result(value, key=key, headers=headers)


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
            lambda: later(
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

    @overload
    def subscribe(
        self,
        topic: str,
        *,
        start: StartAt = "latest",
        partitions: Iterable[int] | None = None,
        prefetch_bytes: int = 0,
        read: Read = "committed",
    ) -> Subscription[bytes]: ...
    @overload
    def subscribe(
        self, topic: str | Sequence[str], *, group: str, **options: Unpack[GroupWords]
    ) -> GroupSubscription[bytes]: ...
    def subscribe(
        self, topic: str | Sequence[str], *, group: str | None = None, **options: Any
    ) -> Subscription[bytes] | GroupSubscription[bytes]:
        name: Any = topic  # more than one are refused as no name
        if group is None:
            return Subscription(
                self._thread, self._thread.call(lambda: later(lambda: self._mq.subscribe(name, **options)))
            )
        members = self._thread.call(lambda: later(lambda: self._mq.subscribe(topic, group=group, **options)))
        return GroupSubscription(self._thread, members)

    def run(
        self,
        handler: Callable[..., Any],
        topic: str | Sequence[str],
        *,
        group: str,
        concurrency: int = 16,
        stop: threading.Event | None = None,
        **options: Unpack[HandlerWords],
    ) -> RunStatistics:
        """Call a plain function, in threads, for each message; options as in ``corgi.Corgi.run``. Ctrl-C ends it."""
        run = self._mq.run
        words = cast("dict[str, Any]", {**options, "group": group, "topic": topic})
        return self._thread.call(lambda: run_in_threads(run, self._thread, handler, stop, concurrency, words))

    def replay(
        self,
        topic: str,
        start: ReplayFrom = "earliest",
        end: ReplayTo = "latest",
        *,
        partitions: Iterable[int] | None = None,
        read: Read = "committed",
    ) -> Iterator[Message[bytes]]:
        return replayed(self._thread, self._mq.replay(topic, start, end, partitions=partitions, read=read))

    def prepare(
        self,
        topic: str,
        value: Value,
        *,
        producer: str,
        key: Key = None,
        headers: Headers | None = None,
        timestamp: Time | None = None,
        partition: int | None = None,
        id: str = "",
        check_after: Duration = "60s",
        checks: int = 15,
    ) -> Prepared:
        prepared = self._thread.call(
            lambda: self._mq.prepare(
                topic,
                value,
                producer=producer,
                key=key,
                headers=headers,
                timestamp=timestamp,
                partition=partition,
                id=id,
                check_after=check_after,
                checks=checks,
            )
        )
        return Prepared(self._thread, prepared)

    @contextmanager
    def answer(self, producer: str, decide: Callable[[Check], bool | None]) -> Iterator[None]:
        """``with mq.answer("shop", decide)``: as the asynchronous one; ``decide`` is called in a thread."""

        async def ask(check: Check) -> bool | None:
            return await asyncio.to_thread(decide, check)

        answering = self._mq.answer(producer, ask)
        self._thread.call(answering.__aenter__)
        try:
            yield
        finally:
            self._thread.call(lambda: answering.__aexit__(None, None, None))

    def transactions(self) -> list[OpenTransaction]:
        return self._thread.call(self._mq.transactions)

    def settle(self, prepared: OpenTransaction | Check, *, commit: bool) -> None:
        self._thread.call(lambda: self._mq.settle(prepared, commit=commit))

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


async def _awaited(connecting: asynchronous.Connecting) -> asynchronous.Corgi:
    return await connecting
