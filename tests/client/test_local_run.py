"""Messages handled inside a store's own transactions: what the partitions of one consumer may do to each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

import corgi
from corgi import CorgiError
from corgi.client.held import Delivered
from corgi.client.local_run import HandlerFailedError, LocalUnit, StoreTroubleError
from corgi.client.topics import Topics


class Memory:
    """A store that keeps what it did. ``handler`` may raise."""

    concurrency = 4

    def __init__(self, handler: Callable[[Delivered[Any]], None] = lambda _: None) -> None:
        self.next: dict[LocalUnit, int] = {}
        self.values: list[bytes | None] = []
        self.lost_answers = 0  # of commits that happen
        self._handler = handler

    async def claim(self, unit: LocalUnit, owner_epoch: int) -> int:
        return self.next.get(unit, -1)

    async def act(
        self, unit: LocalUnit, owner_epoch: int, messages: Sequence[Delivered[Any]], next_offset: int
    ) -> None:
        for message in messages:
            try:
                self._handler(message)
            except ValueError as error:
                raise HandlerFailedError(error) from error
        self.values += [message.value for message in messages]
        self.next[unit] = next_offset
        if messages and self.lost_answers:
            self.lost_answers -= 1
            raise StoreTroubleError("the answer is lost")


@pytest.fixture
async def mq(servers: str) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(servers) as client:
        yield client


async def test_a_partition_that_waits_does_not_hold_back_that_number_of_another_topic(
    mq: corgi.Corgi, name: str
) -> None:
    slow, quick = f"{name}-slow", f"{name}-quick"
    for topic in (slow, quick):
        await mq.topics.create(topic)
    stop, failed = asyncio.Event(), asyncio.Event()

    def handler(message: Delivered[Any]) -> None:
        if message.topic == slow:
            failed.set()
            raise ValueError("in an hour")
        if message.value == b"last":
            stop.set()

    await mq.publish_many(slow, [b"%d" % n for n in range(50)])
    store = Memory(handler)
    hour: Any = {"backoff": "1h", "backoff_max": "1h"}
    run = asyncio.ensure_future(
        mq.run_in(store, (slow, quick), group=name, batch=1, start="earliest", stop=stop, **hour)
    )
    await asyncio.wait_for(failed.wait(), 20)
    await mq.publish(quick, b"first")
    await mq.publish(quick, b"last")
    sums = await asyncio.wait_for(run, 20)
    assert store.values == [b"first", b"last"]
    assert (sums.handled, sums.dead) == (2, 0)


async def test_a_run_that_is_stopped_does_not_sit_out_the_pause_before_another_try(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    await mq.publish(name, b"x")
    stop = asyncio.Event()

    def handler(message: Delivered[Any]) -> None:
        stop.set()
        raise ValueError("in an hour")

    run = mq.run_in(
        Memory(handler), name, group=name, start="earliest", stop=stop,
        backoff="1h", backoff_max="1h", rebalance_timeout="1h",
    )  # fmt: skip
    assert (await asyncio.wait_for(run, 20)).failed == 1


async def test_a_cluster_that_does_not_answer_is_waited_out(
    mq: corgi.Corgi, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mq.topics.create(name)
    await mq.publish(name, b"x")
    stop = asyncio.Event()
    offsets, asked = Topics.offsets, 0

    async def silent(self: Topics, topic: str, at: Any = "latest") -> dict[int, int]:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise CorgiError("unreachable")
        return await offsets(self, topic, at)

    monkeypatch.setattr(Topics, "offsets", silent)
    run = mq.run_in(Memory(lambda _: stop.set()), name, group=name, start="earliest", stop=stop, backoff="1ms")
    assert (await asyncio.wait_for(run, 20)).handled == 1
    assert asked == 3


async def test_a_transaction_whose_answer_was_lost_counts_as_what_it_was(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    await mq.publish(name, b"x")
    stop = asyncio.Event()
    store = Memory(lambda _: stop.set())
    store.lost_answers = 1
    sums = await asyncio.wait_for(mq.run_in(store, name, group=name, start="earliest", stop=stop, backoff="1ms"), 20)
    assert store.values == [b"x"]
    assert (sums.handled, sums.transactions, sums.failed) == (1, 1, 0)
