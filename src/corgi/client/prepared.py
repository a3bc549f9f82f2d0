"""``mq.prepare()`` and what is open: messages that wait, unseen, until what they belong to has happened or not.

    prepared = await mq.prepare("orders", b"...", producer="shop")
    ... the local act, which notes prepared.id with what it does ...
    await prepared.commit()            # or prepared.rollback()

If the program dies in between, the cluster asks whoever answers for the producer: ``mq.answer("shop", decide)``.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import time
from typing import TYPE_CHECKING

import msgspec

from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.base.limits import PARTITIONS_MAX
from corgi.base.records import encode_batch
from corgi.client.core.routing import TopicRoute
from corgi.client.messages import Receipt
from corgi.client.publishing import Key, Value, as_bytes
from corgi.client.shell import Shell
from corgi.client.topics import ask_for, route_of
from corgi.client.words import Duration, Headers, Time, between, header_list, milliseconds, seconds, topic_name
from corgi.wire import transaction_messages as t

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from corgi.client.core.links import Answer, Link

logger = logging.getLogger("corgi.client")
WATCH_S = 0.5  # how often it is seen to that a node knows whom to ask
ANSWERS_MAX = 1_000  # questions that wait for the program; more are asked again later anyway


class Check(msgspec.Struct, frozen=True):
    """The cluster asks what became of a prepared message. ``age_ms`` since it was prepared; ``round`` counts from 1."""

    id: str
    producer: str
    topic: int
    partition: int
    age_ms: int
    round: int


class OpenTransaction(msgspec.Struct, frozen=True):
    """What has not ended. ``state``: "open", "committing", "aborting", or "prepared", then ``id`` is the message's and
    ``name`` its producer's. ``partitions``: (topic id, partition)."""

    name: str
    state: str
    age_ms: int
    life_ms: int
    partitions: tuple[tuple[int, int], ...]
    id: str = ""


Decide = Callable[[Check], Awaitable[bool | None]]


class Prepared:
    """A message that waits. ``id`` is what ``answer`` is asked about."""

    def __init__(self, messages: PreparedMessages, id_: str, route: TopicRoute, partition: int) -> None:
        self._messages = messages
        self._route = route
        self.id = id_
        self.partition = partition

    async def commit(self) -> Receipt:
        """Let it be seen. May be repeated; raises "transaction-aborted" if it was rolled back, "unknown-transaction" if
        it ended more than a minute ago. The receipt's offset is -1 if an earlier sending did it."""
        reply = await self._messages.settle(self.id, self._route.topic, self.partition, commit=True)
        return Receipt(self._route.name, self.partition, reply.offset, reply.timestamp_ms)

    async def rollback(self) -> None:
        """Nobody sees it. May be repeated; raises "transaction-ended" if it was committed."""
        await self._messages.settle(self.id, self._route.topic, self.partition, commit=False)


class PreparedMessages:
    """Prepares, settles, answers; one per client."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._deciding: dict[str, Decide] = {}
        self._asked: asyncio.Queue[t.CheckBack] = asyncio.Queue(ANSWERS_MAX)
        self._told: tuple[Link, tuple[str, ...]] | None = None  # who was told last whom to ask

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
        """See ``Corgi.prepare``."""
        name = topic_name(topic)
        raw_key, raw_value = as_bytes(key, "key"), as_bytes(value, "value")
        time_ms = int(time() * 1000) if timestamp is None else milliseconds(timestamp)
        fields = [] if headers is None else header_list(headers)
        check_ms = int(seconds(check_after, "check_after") * 1000)
        route = await route_of(self._shell, name)
        if raw_key is None and route.compacted:
            raise route.keyless()
        if partition is None:
            partition = secrets.randbelow(route.partitions) if raw_key is None else route.keyed[raw_key]
        between(partition, "partition", 0, PARTITIONS_MAX)
        if partition >= route.partitions:
            raise CorgiError("unknown-partition", f"{name} has partitions 0 to {route.partitions - 1}")
        id_ = id or secrets.token_hex(16)
        batch = encode_batch([(raw_key, raw_value, fields, time_ms)])
        message = t.Prepare(id_, producer, route.topic, partition, len(batch), check_ms, checks)
        await ask_for(self._shell, message, t.PrepareReply, group=int(route.groups[partition]), payload=(batch,))
        return Prepared(self, id_, route, partition)

    async def settle(self, id_: str, topic: TopicId, partition: int, *, commit: bool) -> t.SettleReply:
        return await ask_for(self._shell, t.Settle(id_, topic, partition, commit), t.SettleReply)

    async def transactions(self) -> list[OpenTransaction]:
        """See ``Corgi.transactions``."""
        reply = await ask_for(self._shell, t.ListTransactions(), t.ListTransactionsReply)
        return [
            OpenTransaction(
                one.name, one.state, one.age_ms, one.life_ms,
                tuple((int(topic), partition) for topic, partition in one.partitions), one.id,
            )
            for one in reply.transactions
        ]  # fmt: skip

    def answer(self, producer: str, decide: Decide) -> AbstractAsyncContextManager[None]:
        """See ``Corgi.answer``."""
        return self._answering(producer, decide)

    @asynccontextmanager
    async def _answering(self, producer: str, decide: Decide) -> AsyncIterator[None]:
        said: object = producer
        if not isinstance(said, str) or not callable(decide):
            raise CorgiError(
                "invalid-argument", f"a producer has a name and a function that answers, not {producer!r}, {decide!r}"
            )
        if producer in self._deciding:
            raise CorgiError("invalid-argument", f"this client answers for {producer!r} already")
        self._deciding[producer] = decide
        self._shell.core.on_check = self._checked
        tasks = [self._shell.loop.create_task(work()) for work in (self._watch, self._decide)]
        try:
            yield
        finally:
            del self._deciding[producer]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tell()

    def _checked(self, message: t.CheckBack) -> None:
        if not self._asked.full():
            self._asked.put_nowait(message)

    async def _watch(self) -> None:
        """One node is told for whom this client answers, and another when that is lost."""
        while True:
            self._tell()
            await asyncio.sleep(WATCH_S)

    def _tell(self) -> None:
        links = list(self._shell.core.routing.links.values())
        names = tuple(sorted(self._deciding))
        link = self._told[0] if self._told is not None and self._told[0] in links else next(iter(links), None)
        if link is not None and (link, names) != self._told:
            self._told = (link, names)
            link.request(t.Watch(names), (), _ignore)
            self._shell.wake()

    async def _decide(self) -> None:
        while True:
            asked = await self._asked.get()
            decide = self._deciding.get(asked.producer)
            if decide is None:
                continue
            check = Check(asked.id, asked.producer, int(asked.topic), asked.partition, asked.age_ms, asked.round)
            try:
                answer = await decide(check)
                if answer is not None:
                    await self.settle(asked.id, asked.topic, asked.partition, commit=bool(answer))
            except Exception:  # whatever the program raises means that it does not know; it is asked again
                logger.exception("what became of the prepared message %s is not known", asked.id)


def _ignore(_: Answer, __: memoryview) -> None:
    """That it was taken is all that the answer says."""
