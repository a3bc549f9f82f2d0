"""``mq.replay`` and ``read="uncommitted"``: what is stored between two places, and what is not decided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import corgi
from corgi import CorgiError
from corgi.client.two_phases import Identity, TwoPhases


@pytest.fixture
async def mq(servers: str) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(servers) as client:
        yield client


async def values(replay: AsyncIterator[corgi.Message[bytes]]) -> list[bytes | None]:
    async with asyncio.timeout(20):
        return [message.value async for message in replay]


def at(second: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)


async def test_everything_between_two_places_and_then_it_ends(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=2)
    for number in range(10):
        await mq.publish(name, b"%d" % number, partition=number % 2, timestamp=at(number))
    assert await values(mq.replay(name)) == [b"0", b"2", b"4", b"6", b"8", b"1", b"3", b"5", b"7", b"9"]
    assert await values(mq.replay(name, 1, 3)) == [b"2", b"4", b"3", b"5"]
    assert await values(mq.replay(name, {1: 4})) == [b"9"]
    assert await values(mq.replay(name, end={0: 1})) == [b"0"]
    assert await values(mq.replay(name, at(3), at(7))) == [b"4", b"6", b"3", b"5"]
    assert await values(mq.replay(name, 3, "latest", partitions=[1])) == [b"7", b"9"]
    assert await values(mq.replay(name, "latest")) == []
    assert await values(mq.replay(name, "earliest", "earliest")) == []


async def test_a_time_is_compared_with_each_message(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    messages = [corgi.Message(value=b"%d" % second, timestamp=1_000 * second) for second in (5, 1, 7, 3)]
    await mq.publish_many(name, messages)
    moment = [datetime.fromtimestamp(second, UTC) for second in range(9)]
    assert await values(mq.replay(name, moment[3], moment[7])) == [b"5", b"3"]


async def test_it_ends_where_the_last_offsets_are_for_no_reader(
    mq: corgi.Corgi, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mq.topics.create(name, partitions=2)
    async with mq.atomic() as tx:
        tx.publish(name, b"a", partition=0)
        tx.publish(name, b"b", partition=1)
    assert tx.receipt.two_phase  # a control batch is the last one of each partition

    async def undecided(self: TwoPhases, identity: Identity, *, timeout_s: float) -> None:
        await self._abort(self._next(identity))
        raise CorgiError("timeout")

    monkeypatch.setattr(TwoPhases, "commit", undecided)
    aborted = mq.atomic()
    aborted.publish(name, b"never", partition=0)
    aborted.publish(name, b"never", partition=1)
    with pytest.raises(CorgiError, match="time"):
        await aborted.__aexit__(None, None, None)
    assert await values(mq.replay(name)) == [b"a", b"b"]
    assert await values(mq.replay(name, read="uncommitted")) == [b"a", b"never", b"b", b"never"]


async def test_readers_of_uncommitted_data_do_not_wait(
    mq: corgi.Corgi, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mq.topics.create(name, partitions=2)
    inside, go_on = asyncio.Event(), asyncio.Event()
    commit = TwoPhases.commit

    async def slow(self: TwoPhases, identity: Identity, *, timeout_s: float) -> None:
        inside.set()
        await go_on.wait()
        await commit(self, identity, timeout_s=timeout_s)

    monkeypatch.setattr(TwoPhases, "commit", slow)

    async def act() -> None:
        async with mq.atomic() as tx:
            tx.publish(name, b"x", partition=0)
            tx.publish(name, b"x", partition=1)

    acting = asyncio.ensure_future(act())
    await asyncio.wait_for(inside.wait(), 10)
    committed = mq.subscribe(name, start="earliest")
    waiting = asyncio.ensure_future(anext(committed))
    uncommitted = mq.subscribe(name, start="earliest", read="uncommitted")
    assert (await asyncio.wait_for(anext(uncommitted), 10)).value == b"x"
    seen = asyncio.Event()

    async def handler(m: Any) -> None:
        seen.set()

    run = asyncio.ensure_future(mq.run(handler, name, group=name, start="earliest", read="uncommitted", stop=seen))
    await asyncio.wait_for(run, 10)
    async with mq.subscribe(name, group=f"{name}-2", start="earliest", read="uncommitted") as messages:
        assert (await asyncio.wait_for(anext(messages), 10)).value == b"x"
    assert not waiting.done()
    go_on.set()
    await acting
    assert (await asyncio.wait_for(waiting, 10)).value == b"x"


async def test_an_end_beyond_what_is_stored_is_not_waited_for(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    await mq.publish(name, b"a")
    for end in (5, {0: 5}):
        assert await asyncio.wait_for(values(mq.replay(name, "earliest", end)), 10) == [b"a"]


async def test_wrong_words_are_refused(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    wrong: Any
    for wrong in ({"start": "soon"}, {"end": -1}, {"partitions": []}, {"start": {0: -1}}, {"start": 1.5}):
        with pytest.raises(CorgiError) as refused:
            await values(mq.replay(name, **wrong))
        assert refused.value.code == "invalid-argument"
    for wrong in ({"partitions": [1]}, {"start": {7: 0}, "end": {7: 1}}, {"start": {7: 0}}, {"end": {7: 1}}):
        with pytest.raises(CorgiError) as nowhere:
            await values(mq.replay(name, **wrong))
        assert nowhere.value.code == "unknown-partition"
    with pytest.raises(CorgiError) as unknown:
        await values(mq.replay("nowhere"))
    assert unknown.value.code == "unknown-topic"
    wrong = "dirty"
    for refuse in (
        lambda: mq.replay(name, read=wrong),
        lambda: mq.subscribe(name, read=wrong),
        lambda: mq.subscribe(name, group="g", read=wrong),
    ):
        with pytest.raises(CorgiError) as read:
            refuse()
        assert read.value.code == "invalid-argument"
