"""``mq.atomic()`` against a real node: all or nothing, in one command or in two phases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

import corgi
from corgi import CorgiError
from corgi.client.two_phases import Identity, Part, Stored, TwoPhases


@pytest.fixture
async def mq(servers: str) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(servers) as client:
        yield client


async def read(mq: corgi.Corgi, topic: str, count: int) -> list[tuple[int, bytes]]:
    """(partition, value) of the first messages, in the order of arrival."""
    found = []
    async with asyncio.timeout(10):
        async for message in mq.subscribe(topic, start="earliest"):
            found.append((message.partition, message.value))
            if len(found) == count:
                break
    return found


async def test_what_lies_in_one_group_is_one_command(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=3)
    async with mq.atomic() as tx:
        tx.publish(name, b"a", partition=1)
        tx.publish(name, b"b")
        tx.publish(name, "c", headers={"h": b"1"})
    assert not tx.receipt.two_phase
    assert [(r.topic, r.partition, r.offset) for r in tx.receipt.messages] == [(name, 1, 0), (name, 1, 1), (name, 1, 2)]
    assert await read(mq, name, 3) == [(1, b"a"), (1, b"b"), (1, b"c")]


async def test_several_groups_take_two_phases(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=3)
    for number in range(3):
        async with mq.atomic() as tx:
            for partition in range(3):
                tx.publish(name, b"%d" % number, partition=partition)
        assert tx.receipt.two_phase
        assert [r.offset for r in tx.receipt.messages] == [2 * number] * 3  # control batches take an offset
    assert sorted(await read(mq, name, 9)) == sorted((p, b"%d" % n) for p in range(3) for n in range(3))


async def test_nothing_of_a_block_that_fails_is_there(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=2)

    async def act(tx: corgi.Atomic) -> None:
        async with tx:
            tx.publish(name, b"no", partition=0)
            tx.publish(name, b"no", partition=1)
            raise ZeroDivisionError

    tx = mq.atomic()
    with pytest.raises(ZeroDivisionError):
        await act(tx)
    with pytest.raises(CorgiError, match="receipt") as no_receipt:
        _ = tx.receipt
    assert no_receipt.value.code == "invalid-argument"
    await mq.publish(name, b"yes", partition=0)
    assert await read(mq, name, 1) == [(0, b"yes")]


async def test_a_transaction_that_meets_an_error_is_aborted(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=2, max_batch_bytes=1000)

    async def act() -> None:
        async with mq.atomic("orders") as tx:
            tx.publish(name, b"small", partition=0)
            tx.publish(name, bytes(2000), partition=1)

    with pytest.raises(CorgiError) as refused:
        await act()
    assert refused.value.code == "record-too-large"
    async with mq.atomic("orders") as tx:
        tx.publish(name, b"yes", partition=0)
        tx.publish(name, b"yes", partition=1)
    assert sorted(await read(mq, name, 2)) == [(0, b"yes"), (1, b"yes")]


async def test_a_block_that_has_ended_takes_no_more(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    async with mq.atomic() as tx:
        tx.publish(name, b"x")
    for act in (lambda: tx.publish(name, b"y"), lambda: tx.checkpoint("g", name, 0, 1)):
        with pytest.raises(CorgiError) as ended:
            act()
        assert ended.value.code == "transaction-ended"
    with pytest.raises(CorgiError) as again:
        async with tx:
            pass
    assert again.value.code == "transaction-ended"


async def test_the_newest_client_of_a_name_goes_on(servers: str, mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=2)

    async def act(client: corgi.Corgi, value: bytes, *partitions: int) -> None:
        async with client.atomic(name) as tx:
            for partition in partitions:
                tx.publish(name, value, partition=partition)

    await act(mq, b"first", 0, 1)
    async with corgi.connect(servers) as other:
        await act(other, b"second", 0, 1)
        for partitions in ((0, 1), (0,)):
            with pytest.raises(CorgiError) as fenced:
                await act(mq, b"zombie", *partitions)
            assert fenced.value.code == "transaction-fenced"
        await act(other, b"third", 0)
    assert [v for p, v in await read(mq, name, 5) if p == 0] == [b"first", b"second", b"third"]


async def test_an_act_that_took_too_long_says_so_and_the_next_of_its_name_goes_on(
    mq: corgi.Corgi, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster has aborted it under a new epoch; nobody else has taken over."""
    await mq.topics.create(name, partitions=3)
    append = TwoPhases._append

    async def late(self: TwoPhases, identity: Identity, parts: Sequence[Part], timeout_s: float) -> list[Stored]:
        await asyncio.sleep(1.5)
        return await append(self, identity, parts, timeout_s)

    monkeypatch.setattr(TwoPhases, "_append", late)
    with pytest.raises(CorgiError) as found:
        await both(mq.atomic(name=name, timeout="300ms"), name)
    assert found.value.code == "transaction-aborted"
    assert "too long" in found.value.message
    monkeypatch.undo()
    await both(mq.atomic(name=name), name)
    assert len(await read(mq, name, 2)) == 2


async def test_an_act_that_cannot_ask_why_it_was_refused_locks_nobody_out(
    mq: corgi.Corgi, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is broken that made it late: whether somebody has taken the name is asked before the next one."""
    await mq.topics.create(name, partitions=3)

    async def fenced(*_: object) -> list[Stored]:
        raise CorgiError("transaction-fenced")

    async def unanswered(*_: object) -> CorgiError:
        return CorgiError("timeout")

    await both(mq.atomic(name=name), name)
    monkeypatch.setattr(TwoPhases, "_append", fenced)
    with monkeypatch.context() as cut_off:
        cut_off.setattr(TwoPhases, "_abort", unanswered)
        for code in ("transaction-aborted", "timeout", "timeout"):
            with pytest.raises(CorgiError) as found:
                await both(mq.atomic(name=name), name)
            assert found.value.code == code
    monkeypatch.undo()
    await both(mq.atomic(name=name), name)
    assert len(await read(mq, name, 4)) == 4


async def test_a_fault_beside_a_refusal_is_the_one_that_is_told(
    mq: corgi.Corgi, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mq.topics.create(name, partitions=3)

    def spoilt(_: Identity, part: Part, **__: bool) -> bytes:
        raise CorgiError("record-too-large") if part.partition == 0 else ZeroDivisionError("a bug")

    monkeypatch.setattr(Identity, "stamp", spoilt)
    with pytest.raises(ZeroDivisionError):
        await both(mq.atomic(), name)


async def both(tx: corgi.Atomic, topic: str) -> None:
    """An act in several Paxos groups."""
    async with tx:
        tx.publish(topic, b"a", partition=0)
        tx.publish(topic, b"b", partition=1)


async def test_blocks_run_at_the_same_time(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=4)

    async def act(number: int) -> None:
        async with mq.atomic() as tx:
            for partition in range(1 + number % 2 * 3):
                tx.publish(name, b"%d" % number, partition=partition)

    await asyncio.gather(*[act(number) for number in range(40)])
    found = await read(mq, name, 20 + 20 * 4)
    assert len(set(found)) == len(found) == 100


async def test_a_checkpoint_moves_with_the_results(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=2)
    await mq.publish(name, b"in", partition=0)
    async with mq.atomic() as tx:
        tx.publish(name, b"out", partition=1)
        tx.checkpoint("copier", name, 0, 1)
    assert tx.receipt.two_phase
    units = (await mq.groups.describe("copier")).units
    assert [unit.checkpoint for unit in units if unit.partition == 0] == [1]

    async def act() -> None:
        async with mq.atomic() as tx:
            tx.publish(name, b"again", partition=1)
            tx.checkpoint("copier", name, 0, 1, version=0)

    with pytest.raises(CorgiError) as back:
        await act()
    assert back.value.code == "checkpoint-moved"
    await mq.publish(name, b"last", partition=1)
    found = await read(mq, name, 3)
    assert [value for partition, value in found if partition == 1] == [b"out", b"last"]


async def test_an_act_of_nothing_and_a_topic_that_is_not_there(mq: corgi.Corgi) -> None:
    async with mq.atomic() as tx:
        pass
    assert tx.receipt.messages == ()
    with pytest.raises(CorgiError) as unknown:
        async with mq.atomic() as tx:
            tx.publish("nowhere", b"x")
    assert unknown.value.code == "unknown-topic"
