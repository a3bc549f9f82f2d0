"""What can go wrong for a consumer of a group: each has an error with a code, or an outcome that the document tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

import corgi
from corgi import CorgiError
from corgi.client import consumption
from corgi.client.held import Delivered


@pytest.fixture
async def mq(servers: str) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(servers) as client:
        yield client


async def fill(mq: corgi.Corgi, name: str, count: int, partitions: int = 1, **config: Any) -> None:
    await mq.topics.create(name, partitions=partitions, **config)
    await mq.publish_many(name, [(b"k%d" % (n % 10), b"%d" % n) for n in range(count)])


async def checkpoint(mq: corgi.Corgi, group: str) -> int:
    return sum(max(unit.checkpoint, 0) for unit in (await mq.groups.describe(group)).units)


async def refused(act: Any) -> str:
    with pytest.raises(CorgiError) as error:
        await act
    return error.value.code


async def moved(mq: corgi.Corgi, group: str, topic: str, offset: int, **words: Any) -> None:
    async with mq.atomic() as tx:
        tx.checkpoint(group, topic, 0, offset, **words)


async def test_a_checkpoint_under_a_stale_owner_epoch_is_fenced(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 10)
    async with mq.subscribe(name, group=name, start="earliest") as messages:
        message = await anext(messages)
        [unit] = (await mq.groups.describe(name)).units
        mine: dict[str, Any] = {"member": unit.member, "owner_epoch": unit.owner_epoch}
        await moved(mq, name, name, 1, **mine)
        assert await refused(moved(mq, name, name, 2, member=unit.member, owner_epoch=unit.owner_epoch - 1)) == (
            "consumer-fenced"
        )
        await mq.groups.reset(name, name, "earliest")  # the unit goes to nobody, and comes back under another epoch
        assert await refused(moved(mq, name, name, 3, **mine)) == "consumer-fenced"
        async with asyncio.timeout(20):
            while message.held.state is not consumption.UnitState.GONE:
                await mq.topics.offsets(name)  # time passes
        with pytest.raises(CorgiError) as late:
            message.ack()
        assert late.value.code == "not-delivered"
        assert (await asyncio.wait_for(anext(messages), 20)).offset == 0


async def test_a_checkpoint_of_an_offset_that_was_not_delivered(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 10)
    assert await refused(moved(mq, "nobody", name, 11)) == "offset-out-of-range"
    assert await refused(moved(mq, "nobody", name, 5, ranges=[(7, 12)])) == "offset-out-of-range"
    await moved(mq, "nobody", name, 10)
    assert await refused(moved(mq, "nobody", name, 3)) == "checkpoint-moved"  # back only by a reset
    async with mq.subscribe(name, group=name, start="earliest") as messages:
        message = await anext(messages)
        message.ack()
        for settle in (message.ack, message.retry, message.reject, message.extend):
            with pytest.raises(CorgiError) as twice:
                settle()
            assert twice.value.code == "not-delivered"


async def test_a_handler_that_hangs_through_a_rebalance_is_cancelled_and_its_message_is_the_next_owner_s(
    servers: str, mq: corgi.Corgi, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(mq, name, 0, partitions=2)
    for partition in range(2):
        await mq.publish(name, b"x", key=b"k", partition=partition)
    begun, cancelled, elsewhere = asyncio.Event(), asyncio.Event(), asyncio.Event()
    hanging: set[int] = set()

    async def hangs(m: Delivered[bytes]) -> None:
        hanging.add(m.partition)
        if len(hanging) == 2:
            begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def works(m: Delivered[bytes]) -> None:
        elsewhere.set()

    first_stop = asyncio.Event()
    first = asyncio.ensure_future(
        mq.run(hangs, name, group=name, start="earliest", rebalance_timeout="500ms", stop=first_stop)
    )
    await asyncio.wait_for(begun.wait(), 20)
    async with corgi.connect(servers) as other:
        run = other.run(works, name, group=name, start="earliest", rebalance_timeout="500ms", stop=elsewhere)
        await asyncio.wait_for(run, 30)
    assert cancelled.is_set()
    assert "was taken while messages were in work" in caplog.text
    first_stop.set()
    await asyncio.wait_for(first, 30)  # it does not wait longer for the other one than for a rebalance


async def test_retention_that_overtakes_a_group_is_told_and_it_goes_on_at_the_oldest(
    mq: corgi.Corgi, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    await mq.topics.create(name, retention_bytes=20_000)
    await mq.publish(name, b"first")
    stop = asyncio.Event()

    async def one(m: Delivered[bytes]) -> None:
        stop.set()

    await mq.run(one, name, group=name, start="earliest", stop=stop)
    assert await checkpoint(mq, name) == 1
    for _ in range(20):
        await mq.publish(name, bytes(5_000))
    async with asyncio.timeout(30):
        while (await mq.topics.offsets(name, "earliest"))[0] <= 1:
            await mq.topics.describe(name)  # time passes
    oldest = (await mq.topics.offsets(name, "earliest"))[0]
    seen: list[int] = []
    stop.clear()

    async def rest(m: Delivered[bytes]) -> None:
        seen.append(m.offset)
        if m.offset == 20:
            stop.set()

    with caplog.at_level(logging.WARNING, "corgi.client"):
        await asyncio.wait_for(mq.run(rest, name, group=name, order="partition", stop=stop), 30)
    assert seen[0] >= oldest
    assert seen == list(range(seen[0], 21))
    assert f"retention took offsets 1 to {seen[0] - 1}" in caplog.text


async def test_a_handler_that_renews_its_time_may_take_longer(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 1)
    stop = asyncio.Event()
    attempts: list[int] = []

    async def slow(m: Delivered[bytes]) -> None:
        attempts.append(m.attempt)
        for _ in range(5):
            await asyncio.sleep(0.1)
            m.extend("5s")
        stop.set()

    sums = await mq.run(slow, name, group=name, start="earliest", handler_timeout="3s", stop=stop)
    assert (attempts, sums.failed) == ([1], 0)
    renewed: list[float] = []

    async def renews(m: Delivered[bytes]) -> None:
        loop = asyncio.get_running_loop()
        m.extend()
        renewed.append(loop.time())
        if m.attempt == 2:
            stop.set()
            return
        m.extend("50ms")
        await asyncio.Event().wait()

    stop.clear()
    sums = await mq.run(
        renews, name, group=f"{name}-2", start="earliest", handler_timeout="60s", backoff="1ms", stop=stop
    )
    assert (sums.failed, sums.handled) == (1, 1)  # the shorter time counts from when it was asked for


async def test_a_handler_that_is_cancelled_from_outside_is_tried_again(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 2)
    stop = asyncio.Event()
    tries: list[tuple[int, int]] = []

    async def handler(m: Delivered[bytes]) -> None:
        tries.append((m.offset, m.attempt))
        if m.offset == 0 and m.attempt == 1:
            inner = asyncio.ensure_future(asyncio.Event().wait())
            asyncio.get_running_loop().call_soon(inner.cancel)
            await inner
        if len(tries) == 3:
            stop.set()

    sums = await mq.run(
        handler, name, group=name, start="earliest", backoff="1ms", concurrency=1, order="partition", stop=stop
    )
    assert tries == [(0, 1), (0, 2), (1, 1)]
    assert sums.failed == 1


async def test_results_are_closed_when_the_handler_has_returned(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 1)
    await mq.topics.create(f"{name}-out", colocate_with=name)
    kept: list[Any] = []
    stop = asyncio.Event()

    async def handler(m: Delivered[bytes], tx: Any) -> None:
        kept.append(tx)
        stop.set()

    await mq.run(handler, name, group=name, semantics="exactly_once", start="earliest", stop=stop)
    with pytest.raises(CorgiError) as closed:
        kept[0].publish(f"{name}-out", b"late")
    assert closed.value.code == "closed"


async def test_a_backlog_of_retries_does_not_stop_the_reading(
    mq: corgi.Corgi, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumption, "OPEN_MAX", 200)
    await fill(mq, name, 400)
    stop = asyncio.Event()
    failed = 0

    async def handler(m: Delivered[bytes]) -> None:
        nonlocal failed
        if m.value == b"good":
            stop.set()
            return
        failed += 1
        raise ValueError("in an hour")

    run = asyncio.ensure_future(
        mq.run(handler, name, group=name, start="earliest", order="none", backoff="1h", backoff_max="1h", stop=stop)
    )
    async with asyncio.timeout(30):
        while failed < 400:
            await mq.topics.offsets(name)  # time passes
        await mq.publish(name, b"good")
        sums = await run
    assert (sums.handled, sums.retried) == (1, 400)
