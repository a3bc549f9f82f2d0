"""Exactly once with results in other Paxos groups than their input: a transaction holds them and the checkpoint."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

import corgi
from corgi import CorgiError, Message
from corgi.client.two_phases import Identity, TwoPhases

COUNT = 300
PARTITIONS = 2


@pytest.fixture
async def mq(servers: str) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(servers) as client:
        yield client


@pytest.fixture
async def out(mq: corgi.Corgi, name: str) -> str:
    """Where the results go; partition p + 1 of it lies elsewhere than partition p of the input, which is filled."""
    await mq.topics.create(name, partitions=PARTITIONS)
    await mq.topics.create(f"{name}-out", partitions=PARTITIONS + 1, max_batch_bytes=2_000)
    await mq.publish_many(name, [(b"k%d" % (n % 10), b"%d" % n) for n in range(COUNT)])
    return f"{name}-out"


async def away(mq: corgi.Corgi, name: str, out: str) -> list[int]:
    """A partition of ``out`` for each one of the input, which lies in another Paxos group."""
    homes = [told.group for told in (await mq.topics.describe(name)).partitions]
    theirs = (await mq.topics.describe(out)).partitions
    return [next(told.partition for told in theirs if told.group != home) for home in homes]


async def all_values(mq: corgi.Corgi, topic: str) -> Counter[bytes | None]:
    """Everything that a reader of committed data may see: behind it a mark in each partition."""
    found: Counter[bytes | None] = Counter()
    partitions = len((await mq.topics.describe(topic)).partitions)
    for partition in range(partitions):
        await mq.publish(topic, b"end", partition=partition)
    async with asyncio.timeout(30):
        async for message in mq.subscribe(topic, start="earliest"):
            found[message.value] += 1
            if found[b"end"] == partitions:
                break
    del found[b"end"]
    return found


async def run_to_the_end(mq: corgi.Corgi, name: str, handler: Any) -> corgi.RunStatistics:
    """Until the group's checkpoints are at the end of the input."""
    stop = asyncio.Event()
    run = asyncio.ensure_future(
        mq.run(handler, name, group=name, semantics="exactly_once", start="earliest", stop=stop)
    )
    async with asyncio.timeout(30):
        while not run.done():
            units = (await mq.groups.describe(name)).units if await known(mq, name) else ()
            if sum(max(unit.checkpoint, 0) for unit in units) == COUNT:
                break
    stop.set()
    return await run


async def known(mq: corgi.Corgi, group: str) -> bool:
    return any(told.name == group for told in await mq.groups.list())


async def test_results_in_other_groups_are_stored_with_the_checkpoint(mq: corgi.Corgi, name: str, out: str) -> None:
    where = await away(mq, name, out)

    async def handler(m: Message[bytes]) -> Message[bytes]:
        return Message(topic=out, partition=where[m.partition], key=m.key, value=m.value)

    statistics = await run_to_the_end(mq, name, handler)
    assert statistics.two_phase >= PARTITIONS
    assert await all_values(mq, out) == Counter(b"%d" % n for n in range(COUNT))


async def test_a_key_chooses_the_partition_of_a_result_and_without_one_it_stays_near(
    mq: corgi.Corgi, name: str, out: str
) -> None:
    async def keyed(m: Message[bytes], tx: Any) -> None:
        tx.publish(out, m.value, key=b"all")

    statistics = await run_to_the_end(mq, name, keyed)
    assert statistics.two_phase > 0
    found = await all_values(mq, out)
    assert found == Counter(b"%d" % n for n in range(COUNT))
    receipt = await mq.publish(out, b"last", key=b"all")
    ends = await mq.topics.offsets(out)
    assert {number for number, end in ends.items() if end > COUNT} == {receipt.partition}


async def test_where_everything_is_near_one_round_does(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=PARTITIONS)
    await mq.topics.create(f"{name}-out", partitions=64)  # some partition of it lies in each group
    await mq.publish_many(name, [b"%d" % n for n in range(COUNT)])

    async def handler(m: Message[bytes]) -> tuple[str, bytes | None]:
        return f"{name}-out", m.value

    statistics = await run_to_the_end(mq, name, handler)
    assert (statistics.two_phase, statistics.handled) == (0, COUNT)
    assert await all_values(mq, f"{name}-out") == Counter(b"%d" % n for n in range(COUNT))


async def test_cancelled_in_the_midst_again_and_again_each_result_is_there_once(
    mq: corgi.Corgi, name: str, out: str
) -> None:
    where = await away(mq, name, out)
    crash = asyncio.Event()
    handled = 0

    async def handler(m: Message[bytes], tx: Any) -> None:
        nonlocal handled
        handled += 1
        await asyncio.sleep(0)
        tx.publish(out, m.value, partition=where[m.partition])
        if handled % 60 == 0:
            crash.set()

    for _ in range(4):
        crash.clear()
        run = asyncio.ensure_future(mq.run(handler, name, group=name, semantics="exactly_once", start="earliest"))
        await asyncio.wait_for(crash.wait(), 30)
        run.cancel()
        await asyncio.wait([run])
    await run_to_the_end(mq, name, handler)
    assert await all_values(mq, out) == Counter(b"%d" % n for n in range(COUNT))


@pytest.mark.parametrize("happens", [True, False], ids=["it had happened", "it had not"])
@pytest.mark.parametrize("code", ["timeout", "outcome-unknown"])
async def test_a_decision_whose_answer_is_lost_is_resolved_by_the_version_of_the_cursor(
    mq: corgi.Corgi, name: str, out: str, happens: bool, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = await away(mq, name, out)
    commit = TwoPhases.commit
    asked = 0

    async def lossy(self: TwoPhases, identity: Identity, *, timeout_s: float) -> None:
        nonlocal asked
        asked += 1
        if asked % 2 == 0 or happens:
            await commit(self, identity, timeout_s=timeout_s)
        if asked % 2:
            raise CorgiError(code)

    monkeypatch.setattr(TwoPhases, "commit", lossy)

    async def handler(m: Message[bytes]) -> Message[bytes]:
        return Message(topic=out, partition=where[m.partition], key=m.key, value=m.value)

    statistics = await run_to_the_end(mq, name, handler)
    assert asked >= 2
    assert statistics.handled == COUNT  # what became of it was found out, so nothing was handled again
    assert await all_values(mq, out) == Counter(b"%d" % n for n in range(COUNT))


async def test_a_result_for_a_topic_or_partition_that_is_not_there_ends_the_run(
    mq: corgi.Corgi, name: str, out: str
) -> None:
    for topic, partition, code in (("nowhere", None, "unknown-topic"), (out, 99, "unknown-partition")):

        async def handler(m: Message[bytes], tx: Any, topic: str = topic, partition: Any = partition) -> None:
            tx.publish(topic, m.value, partition=partition)

        with pytest.raises(CorgiError) as refused:
            await asyncio.wait_for(mq.run(handler, name, group=name, semantics="exactly_once", start="earliest"), 20)
        assert refused.value.code == code
    assert await all_values(mq, out) == Counter()
