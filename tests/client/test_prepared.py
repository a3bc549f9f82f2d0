"""``mq.prepare()`` against a real node: settled by its producer, or by whoever answers for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import corgi
from corgi import CorgiError


@pytest.fixture
async def mq(servers: str) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(servers) as client:
        yield client


async def first(mq: corgi.Corgi, topic: str, count: int = 1) -> list[bytes]:
    found = []
    async with asyncio.timeout(10):
        async for message in mq.subscribe(topic, start="earliest"):
            found.append(message.value)
            if len(found) == count:
                break
    return found


async def test_it_is_seen_when_it_is_committed(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    prepared = await mq.prepare(name, "later", producer=name)
    await mq.publish(name, b"now")
    receipt = await prepared.commit()
    assert (receipt.topic, receipt.partition, receipt.offset) == (name, 0, 1)
    assert (await prepared.commit()).offset == -1
    with pytest.raises(CorgiError) as ended:
        await prepared.rollback()
    assert ended.value.code == "transaction-ended"
    assert await first(mq, name, 2) == [b"now", b"later"]


async def test_it_is_gone_when_it_is_rolled_back(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    prepared = await mq.prepare(name, "never", producer=name)
    await prepared.rollback()
    with pytest.raises(CorgiError) as aborted:
        await prepared.commit()
    assert aborted.value.code == "transaction-aborted"
    await mq.publish(name, b"now")
    assert await first(mq, name) == [b"now"]


async def test_who_answers_for_the_producer_is_asked(servers: str, mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    async with corgi.connect(servers) as dying:
        prepared = await dying.prepare(name, "left behind", producer=name, check_after="100ms")
    asked: list[corgi.Check] = []

    async def decide(check: corgi.Check) -> bool | None:
        asked.append(check)
        return True if len(asked) > 1 else None

    async with mq.answer(name, decide):
        assert await first(mq, name) == [b"left behind"]
        with pytest.raises(CorgiError) as twice:
            async with mq.answer(name, decide):
                pass
        assert twice.value.code == "invalid-argument"
    assert {check.id for check in asked} == {prepared.id}


async def test_what_is_open_is_listed_and_can_be_settled(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    prepared = await mq.prepare(name, "x", producer=name)
    (found,) = [one for one in await mq.transactions() if one.name == name]
    assert (found.state, found.id) == ("prepared", prepared.id)
    await mq.settle(found, commit=False)
    assert not [one for one in await mq.transactions() if one.name == name]
