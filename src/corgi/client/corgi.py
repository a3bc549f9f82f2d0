"""``corgi.connect()`` and the one object that it gives: topics, publishing, consuming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast, overload
from urllib.parse import urlsplit

from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.client.atomic import Acts, Atomic
from corgi.client.codecs import Codec, Format, codec_for
from corgi.client.consuming import (
    GroupWords,
    Mode,
    Order,
    Retry,
    Semantics,
    Sharing,
    prefetch,
    run_handler,
    run_in_store,
)
from corgi.client.core.links import Address
from corgi.client.core.options import BATCH_BYTES, BUFFER_BYTES, PREFETCH_BYTES, ClientOptions
from corgi.client.core.subscriber import Start
from corgi.client.group_subscription import GroupSubscription, group_subscription
from corgi.client.groups import Groups
from corgi.client.handlers import RunStatistics
from corgi.client.handling import Handler
from corgi.client.local_run import LocalStatistics, Store
from corgi.client.messages import Message
from corgi.client.prepared import Check, Decide, OpenTransaction, Prepared, PreparedMessages
from corgi.client.publishing import Key, Publisher, Value
from corgi.client.replaying import ReplayFrom, ReplayTo, replay
from corgi.client.shell import Shell
from corgi.client.subscription import Subscription
from corgi.client.topics import Topics, ask_each_node
from corgi.client.typed import Topic
from corgi.client.words import (
    Compression,
    Duration,
    Headers,
    Read,
    StartAt,
    Time,
    committed,
    partition_numbers,
    seconds,
    start_at,
)
from corgi.wire.messages import Status, StatusReply

V = TypeVar("V")
DEFAULT_PORT = 7450
DEFAULT_SERVERS = ",".join(f"127.0.0.1:{DEFAULT_PORT + node}" for node in range(3))  # those of `corgi dev`
SCHEME = "corgi"


class Corgi(Publisher):
    """A connected client. One object, one event loop, any number of topics; it reconnects by itself.

    Everything raises CorgiError only, with a stable ``code``, ``retryable`` and a ``hint``. Retries happen inside,
    within the time-outs; what is raised is what they did not help against.
    """

    def __init__(self, shell: Shell, seeds: Sequence[Address] = ()) -> None:
        super().__init__(shell)
        self._seeds = seeds
        self.topics = Topics(shell)
        self.groups = Groups(shell, self.topics)
        self._acts = Acts(shell, self)
        self._prepared = PreparedMessages(shell)

    # Consuming

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
        self,
        topic: str | Sequence[str],
        *,
        group: str,
        **options: Unpack[GroupWords],
    ) -> GroupSubscription[bytes]: ...
    def subscribe(
        self,
        topic: str | Sequence[str],
        *,
        group: str | None = None,
        start: StartAt = "latest",
        partitions: Iterable[int] | None = None,
        prefetch_bytes: int = 0,
        read: Read = "committed",
        **options: Any,
    ) -> Subscription[bytes] | GroupSubscription[bytes]:
        """Consume a topic: iterate over the result, or over its ``batches()``.

        ``start``: "earliest", "latest", an offset, an aware datetime, or {partition: offset}. ``partitions``: all by
        default, also those added later. Messages of a partition come in order and once; the subscription moves to
        another node by itself. Errors are raised while iterating. ``read="uncommitted"``: also what transactions that
        have not ended wrote, or that were aborted.

        With ``group`` the topics' partitions are shared with the other consumers of that group, and messages are
        settled: ``async with m:``, or ``m.ack()``, ``m.retry()``, ``m.reject()``; ``start`` is for partitions where
        the group has no checkpoint yet. The other options are those of ``run``.
        """
        if group is not None:
            if partitions is not None:
                raise CorgiError("invalid-argument", "a consumer group shares out the partitions by itself")
            words = GroupWords(start=start, prefetch_bytes=prefetch_bytes, read=read)
            words.update(cast("GroupWords", options))
            return self.open_group_subscription(topic, group, None, words)
        if options:
            raise CorgiError("invalid-argument", f"{', '.join(options)}: only for a consumer group", hint='group="..."')
        name: Any = topic  # more than one are refused as no name
        return self.open_subscription(name, start_at(start), partitions, prefetch_bytes, None, read)

    def replay(
        self,
        topic: str,
        start: ReplayFrom = "earliest",
        end: ReplayTo = "latest",
        *,
        partitions: Iterable[int] | None = None,
        read: Read = "committed",
    ) -> AsyncIterator[Message[bytes]]:
        """Read what is stored from ``start`` up to, and without, ``end``, and stop: for a look back, outside any group.

        Each is a place in all partitions ("earliest", "latest": what is stored now, or an offset), a place in each
        ({partition: offset}), or an aware datetime, which is compared with each message's time. Partitions come one
        after the other.
        """
        return replay(self._shell, self.topics, topic, start, end, partitions, committed(read))

    async def run(
        self,
        handler: Handler,
        topic: str | Sequence[str],
        *,
        group: str,
        concurrency: int = 64,
        order: Order = "key",
        semantics: Semantics = "at_least_once",
        sharing: Sharing = "partition",
        slices: int = 0,
        start: StartAt = "latest",
        instance: str = "",
        mode: Mode = "cluster",
        attempts: int = 5,
        backoff: Duration = "100ms",
        backoff_max: Duration = "30s",
        retry: Retry | None = None,
        handler_timeout: Duration | None = None,
        session_timeout: Duration = "10s",
        rebalance_timeout: Duration = "30s",
        commit_interval: Duration = "100ms",
        prefetch_bytes: int = 0,
        read: Read = "committed",
        stop: asyncio.Event | None = None,
        decode: Callable[[Message[bytes]], Message[Any]] | None = None,
    ) -> RunStatistics:
        """Call ``handler(message)`` for each message of the topics, as a member of a consumer group, until cancelled.

        ``concurrency``: so many at a time. ``order``: "key" (one at a time of each key, in order), "partition", "none".
        ``semantics``: "at_least_once"; "at_most_once", where the checkpoint is stored before the handler is called;
        "exactly_once", where the handler returns results (corgi.Message, or (topic, value[, key])), or takes ``tx`` as
        its second argument, and results and checkpoint are stored as one act: in one round where all of it lies in one
        Paxos group (topics made with ``colocate_with``), otherwise in two phases. ``sharing``: "key" lets several
        consumers work on one partition, by ranges of keys, ``slices`` of them. ``mode``: "broadcast" gives everything
        to each instance. ``instance``: a name that outlives the process, whose partitions a new one takes over at once.

        A handler that raises is tried again, ``attempts`` times in all, after ``backoff``, which doubles up to
        ``backoff_max``; then the message goes to the topic "TOPIC.dead.GROUP". ``retry``: "place" keeps what follows of
        the same key back meanwhile; "topic", the default of order="none", goes through "TOPIC.retry.GROUP".
        ``handler_timeout`` bounds each try, ``message.extend()`` renews it. ``stop``: an event that ends the run in
        order; then the sums of the run are returned. ``read``: see ``subscribe``. ``decode`` makes the value that the
        handler gets, as ``mq.topic(name, type).run`` has it. Raises CorgiError when it cannot go on.
        """
        return await run_handler(
            self._shell,
            handler,
            topic,
            group=group,
            concurrency=concurrency,
            order=order,
            semantics=semantics,
            sharing=sharing,
            slices=slices,
            start=start,
            instance=instance,
            mode=mode,
            attempts=attempts,
            backoff=backoff,
            backoff_max=backoff_max,
            retry=retry,
            handler_timeout=handler_timeout,
            session_timeout=session_timeout,
            rebalance_timeout=rebalance_timeout,
            commit_interval=commit_interval,
            prefetch_bytes=prefetch_bytes,
            read=read,
            stop=stop,
            decode=decode,
        )

    async def run_in(
        self,
        store: Store,
        topic: str | Sequence[str],
        *,
        group: str,
        batch: int = 500,
        start: StartAt = "latest",
        instance: str = "",
        attempts: int = 5,
        backoff: Duration = "100ms",
        backoff_max: Duration = "30s",
        session_timeout: Duration = "10s",
        rebalance_timeout: Duration = "30s",
        commit_interval: Duration = "100ms",
        prefetch_bytes: int = 0,
        stop: asyncio.Event | None = None,
    ) -> LocalStatistics:
        """Handle messages inside transactions of a database of yours, which also keeps the checkpoints: what
        ``corgi.contrib.sqlalchemy.Database.run`` does, for another kind of ``store``."""
        return await run_in_store(
            self._shell, self, store, topic, group=group, batch=batch, start=start, instance=instance,
            attempts=attempts, backoff=backoff, backoff_max=backoff_max, session_timeout=session_timeout,
            rebalance_timeout=rebalance_timeout, commit_interval=commit_interval, prefetch_bytes=prefetch_bytes,
            stop=stop,
        )  # fmt: skip

    @overload
    def topic(self, name: str) -> Topic[bytes]: ...
    @overload
    def topic(self, name: str, type_: type[V], *, format: Format = "json") -> Topic[V]: ...
    @overload
    def topic(self, name: str, *, codec: Codec[V]) -> Topic[V]: ...
    def topic(
        self,
        name: str,
        type_: type[V] | None = None,
        *,
        format: Format = "json",
        codec: Codec[V] | None = None,
    ) -> Topic[V] | Topic[bytes]:
        """A topic with typed values: bytes, str, or whatever msgspec handles, as "json" or "msgpack"."""
        if codec is not None:
            if type(codec) is not Codec and not isinstance(codec, Codec):
                raise CorgiError("invalid-argument", f"codec is a corgi.Codec, not {type(codec).__name__}")
            return Topic(self, name, codec)
        if type_ is None:
            return Topic(self, name, codec_for(bytes, format))
        return Topic(self, name, codec_for(type_, format))

    def atomic(self, name: str = "", *, timeout: Duration = "60s") -> Atomic:
        """``async with mq.atomic() as tx``: what ``tx`` publishes and checkpoints happens together at the block's end,
        or not at all; readers see all of it or nothing.

        What lies in one Paxos group is one command; otherwise it takes two phases: ``tx.receipt.two_phase`` says so.
        ``name``: of all clients that use it only the newest goes on, the others are "transaction-fenced"; its blocks
        run one after another. ``timeout``: afterwards the cluster aborts what was not decided, at most 15 minutes.
        """
        return self._acts.block(name, timeout)

    async def prepare(
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
        """Store a message that nobody sees until ``commit()``; ``rollback()`` drops it. For a local transaction and a
        message that belong together: prepare, do the local act, then settle by what became of it.

        ``producer``: who is asked, after ``check_after`` and as often, at most ``checks`` times, if nobody settles it;
        see ``answer``. ``id``: chosen for you if empty; the same message under the same id is stored once.
        """
        return await self._prepared.prepare(
            topic, value, producer=producer, key=key, headers=headers, timestamp=timestamp, partition=partition,
            id=id, check_after=check_after, checks=checks,
        )  # fmt: skip

    def answer(self, producer: str, decide: Decide) -> AbstractAsyncContextManager[None]:
        """``async with mq.answer("shop", decide)``: while the block runs, ``await decide(check)`` is asked what became
        of prepared messages of this producer: True commits, False rolls back, None (or raising): not known yet."""
        return self._prepared.answer(producer, decide)

    async def transactions(self) -> list[OpenTransaction]:
        """Transactions and prepared messages that have not ended, of everybody."""
        return await self._prepared.transactions()

    async def settle(self, prepared: OpenTransaction | Check, *, commit: bool) -> None:
        """Commit or roll back a prepared message in its producer's place."""
        said: object = prepared
        if isinstance(prepared, Check):
            topic, partition = prepared.topic, prepared.partition
        elif isinstance(said, OpenTransaction) and prepared.id:
            topic, partition = prepared.partitions[0]
        else:
            raise CorgiError("invalid-argument", "only prepared messages are settled; a transaction is its producer's")
        await self._prepared.settle(prepared.id, TopicId(topic), partition, commit=commit)

    # The cluster

    @property
    def cluster(self) -> str:
        """The cluster's id, 32 hex digits."""
        return self._shell.core.routing.cluster

    @property
    def servers(self) -> str:
        """The addresses that this client was given, as ``connect`` takes them."""
        return ",".join(str(address) for address in self._seeds)

    async def status(self) -> list[StatusReply]:
        """What each connected node says of itself, by number; nodes that do not answer in time are left out."""
        told = await ask_each_node(self._shell, Status(), StatusReply)
        return sorted(told, key=lambda reply: reply.node)

    async def close(self) -> None:
        """Close all connections; what has no outcome yet ends with "closed" or "outcome-unknown"."""
        await self._shell.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is on its way, unless the block failed, and close."""
        try:
            if error is None:
                await self.flush()
        finally:
            await self.close()

    def open_subscription(
        self,
        topic: str,
        start: Start | dict[int, Start],
        partitions: Iterable[int] | None,
        prefetch_bytes: int,
        decode: Callable[[Message[bytes]], Message[V]] | None,
        read: Read,
    ) -> Subscription[V]:
        """What ``subscribe`` does, for typed topics."""
        numbers = None if partitions is None else partition_numbers(partitions)
        if isinstance(start, dict) and numbers is not None and set(start) != set(numbers):
            raise CorgiError("invalid-argument", "start names other partitions than partitions")
        whole = committed(read)
        return Subscription(self._shell, topic, start, numbers, prefetch(prefetch_bytes), decode, committed=whole)

    def open_group_subscription(
        self,
        topic: str | Sequence[str],
        group: str,
        decode: Callable[[Message[bytes]], Message[V]] | None,
        words: GroupWords,
    ) -> GroupSubscription[V]:
        """Likewise, in a group."""
        return group_subscription(self._shell, topic, group, decode, **words)


class Connecting:
    """What ``connect`` returns: use it as ``async with ... as mq`` or ``mq = await ...``."""

    def __init__(self, options: ClientOptions, seeds: Sequence[Address]) -> None:
        self._options = options
        self._seeds = seeds
        self._mq: Corgi | None = None

    if not TYPE_CHECKING:  # a type checker tells it as it is

        def __getattr__(self, name):
            """Tell who uses it as if it were connected."""
            if name.startswith("_") or not (hasattr(Corgi, name) or name in ("topics", "groups")):
                raise AttributeError(f"'Connecting' object has no attribute {name!r}")
            raise CorgiError(
                "invalid-argument",
                f"there is no {name!r} before the client is connected",
                hint="async with corgi.connect(...) as mq: ..., or mq = await corgi.connect(...)",
            )

    async def _connect(self) -> Corgi:
        shell = Shell(self._options, self._seeds)
        try:
            await shell.start()
        except BaseException:
            await shell.close()
            raise
        return Corgi(shell, self._seeds)

    def __await__(self) -> Generator[Any, None, Corgi]:
        return self._connect().__await__()

    async def __aenter__(self) -> Corgi:
        self._mq = await self._connect()
        return self._mq

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mq is not None:
            await self._mq.__aexit__(kind, error, trace)


def connect(
    servers: str | Sequence[str] = DEFAULT_SERVERS,
    *,
    compression: Compression = "none",
    publish_timeout: Duration = "30s",
    request_timeout: Duration = "10s",
    connect_timeout: Duration = "10s",
    batch_bytes: int = BATCH_BYTES,
    buffer_bytes: int = BUFFER_BYTES,
    prefetch_bytes: int = PREFETCH_BYTES,
    cluster: str = "",
) -> Connecting:
    """Connect to a cluster by some of its nodes: "host:port,host:port", "corgi://host:port", or a list of them;
    by default those of `corgi dev`.

    ``batch_bytes``: at most so much in one batch. ``buffer_bytes``: published and not yet acknowledged.
    ``prefetch_bytes``: delivered ahead of each subscription. ``cluster``: the id that must be found there.
    Raises "invalid-argument"; when entered or awaited "unreachable" or what the nodes said.
    """
    options = ClientOptions(
        compression=compression,
        publish_timeout_s=seconds(publish_timeout, "publish_timeout"),
        request_timeout_s=seconds(request_timeout, "request_timeout"),
        connect_timeout_s=seconds(connect_timeout, "connect_timeout"),
        batch_bytes=batch_bytes,
        buffer_bytes=buffer_bytes,
        prefetch_bytes=prefetch_bytes,
        cluster=cluster,
    )
    return Connecting(options, addresses_of(servers))


def addresses_of(servers: str | Sequence[str]) -> list[Address]:
    """The addresses that ``connect`` was given. Raises "invalid-argument"."""
    texts: object = servers.split(",") if isinstance(servers, str) else servers
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise CorgiError(
            "invalid-argument",
            f"the servers are text or a list of texts, not {servers!r}",
            hint='connect("host:port,host:port"), or connect() for the cluster of `corgi dev`',
        )
    found = [_address(text.strip()) for text in texts if text.strip()]
    if not found:
        raise CorgiError("invalid-argument", "no address of a node was given", hint='connect("host:port,host:port")')
    return found


def _address(text: str) -> Address:
    try:
        parts = urlsplit(text if "//" in text else f"//{text}")
        host, port = parts.hostname, parts.port
        if host:
            host.encode("idna")
    except ValueError as error:
        raise CorgiError("invalid-argument", f"{text!r} is not an address: {error}") from None
    strays = parts.username or parts.path.strip("/") or parts.query or parts.fragment
    if not host or strays or parts.scheme not in ("", SCHEME):
        raise CorgiError("invalid-argument", f"an address is host:port or {SCHEME}://host:port, not {text!r}")
    return Address(host, DEFAULT_PORT if port is None else port)
