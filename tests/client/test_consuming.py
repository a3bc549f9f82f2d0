"""Consuming in groups against a real node: what is handled, in which order, how often, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import corgi
from corgi import CorgiError, Message
from corgi.cli.main import main
from corgi.client.held import Delivered


@pytest.fixture
async def mq(servers: str) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(servers) as client:
        yield client


class Until:
    """Stops a run when so many messages were handled."""

    def __init__(self, count: int) -> None:
        self.event = asyncio.Event()
        self.left = count

    def one(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.event.set()


async def checkpoints(mq: corgi.Corgi, group: str) -> dict[int, int]:
    """Sum of what is done, by partition."""
    return {unit.partition: unit.checkpoint for unit in (await mq.groups.describe(group)).units if unit.topic == group}


async def fill(mq: corgi.Corgi, name: str, count: int, keys: int = 10, partitions: int = 2, **config: Any) -> None:
    await mq.topics.create(name, partitions=partitions, **config)
    await mq.publish_many(name, [(b"k%d" % (n % keys), b"%d" % n) for n in range(count)])


async def test_run_handles_every_message_once_and_the_next_run_goes_on_behind(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 500)
    seen: list[int] = []
    until = Until(500)

    async def handler(m: Message[bytes]) -> None:
        seen.append(int(m.value or b""))
        until.one()

    statistics = await mq.run(handler, name, group=name, start="earliest", stop=until.event)
    assert sorted(seen) == list(range(500))
    assert statistics.handled == 500
    await mq.publish_many(name, [(b"k1", b"%d" % n) for n in range(500, 510)])
    until.left, until.event = 10, asyncio.Event()
    await mq.run(handler, name, group=name, start="earliest", stop=until.event)
    assert sorted(seen) == list(range(510))


@pytest.mark.parametrize("order", ["key", "partition", "none"])
async def test_one_at_a_time_of_each_lane_in_order(mq: corgi.Corgi, name: str, order: Any) -> None:
    await fill(mq, name, 400, keys=7)
    running: Counter[Any] = Counter()
    most = 0
    seen: dict[Any, list[int]] = defaultdict(list)
    until = Until(400)

    async def handler(m: Message[bytes]) -> None:
        nonlocal most
        lane = {"key": m.key, "partition": m.partition, "none": m.offset * 2 + m.partition}[order]
        running[lane] += 1
        most = max(most, sum(running.values()))
        assert running[lane] == 1
        await asyncio.sleep(0)
        seen[lane].append(m.offset)
        running[lane] -= 1
        until.one()

    await mq.run(handler, name, group=name, order=order, concurrency=16, start="earliest", stop=until.event)
    assert all(offsets == sorted(offsets) for offsets in seen.values())
    assert sum(map(len, seen.values())) == 400
    assert most == {"key": 7, "partition": 2, "none": 16}[order]


async def test_a_blocked_key_holds_back_only_itself_and_is_done_again_after_a_restart(
    mq: corgi.Corgi, name: str
) -> None:
    await fill(mq, name, 1000, keys=10, partitions=1)
    blocked = asyncio.Event()
    until = Until(900)
    seen: list[int] = []

    async def handler(m: Message[bytes]) -> None:
        if m.key == b"k3":
            await blocked.wait()
        seen.append(m.offset)
        until.one()

    run = asyncio.ensure_future(mq.run(handler, name, group=name, start="earliest"))
    await asyncio.wait_for(until.event.wait(), 10)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert all(offset % 10 != 3 for offset in seen)
    assert (await checkpoints(mq, name))[0] == 3
    again: list[int] = []
    until = Until(100)

    async def second(m: Message[bytes]) -> None:
        again.append(m.offset)
        until.one()

    await mq.run(second, name, group=name, stop=until.event)
    assert again == list(range(3, 1000, 10))  # ranges above the checkpoint were stored: nothing is done twice


async def test_a_handler_that_raises_is_tried_again_in_place_and_its_key_waits(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 20, keys=2, partitions=1)
    tries: list[tuple[int, int]] = []
    until = Until(20)

    async def handler(m: Delivered[bytes]) -> None:
        tries.append((m.offset, m.attempt))
        if m.offset == 4 and m.attempt < 3:
            raise ValueError("not yet")
        until.one()

    statistics = await mq.run(handler, name, group=name, start="earliest", backoff="1ms", stop=until.event)
    assert [attempt for offset, attempt in tries if offset == 4] == [1, 2, 3]
    even = [offset for offset, _ in tries if offset % 2 == 0]
    assert even == sorted(even)
    assert (statistics.failed, statistics.dead) == (2, 0)


@pytest.mark.parametrize("order", ["key", "none"])
async def test_a_poison_message_ends_among_the_dead_with_its_story(mq: corgi.Corgi, name: str, order: Any) -> None:
    await fill(mq, name, 10, keys=3)
    until = Until(9)
    tries = 0

    async def handler(m: Message[bytes]) -> None:
        nonlocal tries
        if m.value == b"5":
            tries += 1
            raise ValueError("poison")
        until.one()

    stop = asyncio.Event()
    run = asyncio.ensure_future(
        mq.run(handler, name, group=name, start="earliest", attempts=3, backoff="1ms", order=order, stop=stop)
    )
    await asyncio.wait_for(until.event.wait(), 10)
    async with asyncio.timeout(10):
        while not any(topic.name == f"{name}.dead.{name}" for topic in await mq.topics.list()):
            await mq.publish(name, b"9", key=b"k0")  # time passes
        dead = await anext(mq.subscribe(f"{name}.dead.{name}", start="earliest"))
    stop.set()
    await run
    assert tries == 3
    assert (dead.key, dead.value) == (b"k2", b"5")
    assert dead.header("corgi-attempt") == b"3"
    assert dead.header("corgi-error") == b"ValueError: poison"
    assert dead.header("corgi-topic") == name.encode()
    partition, offset = int(dead.header("corgi-partition") or -1), int(dead.header("corgi-offset") or -1)
    assert (await checkpoints(mq, name))[partition] > offset >= 0


async def test_a_handler_that_hangs_or_is_cancelled_is_tried_again(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 2, keys=2, partitions=1)
    until = Until(2)
    tries: list[tuple[int, int]] = []

    async def handler(m: Delivered[bytes]) -> None:
        tries.append((m.offset, m.attempt))
        if m.attempt == 1:
            if m.offset == 0:
                await asyncio.Event().wait()
            raise asyncio.CancelledError
        until.one()

    statistics = await mq.run(
        handler, name, group=name, start="earliest", backoff="1ms", handler_timeout="20ms", stop=until.event
    )
    assert sorted(tries) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert statistics.failed == 2


async def test_a_handler_may_ask_for_another_try_or_reject(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 2, keys=2, partitions=1)
    until = Until(2)

    async def handler(m: Delivered[bytes]) -> None:
        if m.offset == 0 and m.attempt == 1:
            m.retry(after="1ms")
            return
        if m.offset == 1:
            m.reject("no use")
        until.one()

    statistics = await mq.run(handler, name, group=name, start="earliest", stop=until.event)
    assert (statistics.retried, statistics.dead) == (1, 1)
    async for dead in mq.subscribe(f"{name}.dead.{name}", start="earliest"):
        assert dead.header("corgi-error") == b"Rejected: no use"
        break


async def test_at_most_once_stores_the_checkpoint_before_the_handler_is_called(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 50, partitions=1)
    until = Until(50)
    early: list[int] = []

    async def handler(m: Message[bytes]) -> None:
        if m.offset % 10 == 0:
            if (await checkpoints(mq, name))[0] <= m.offset:
                early.append(m.offset)
            until.one()
            raise ValueError("lost for good")
        until.one()

    statistics = await mq.run(handler, name, group=name, semantics="at_most_once", start="earliest", stop=until.event)
    assert not early
    assert (statistics.handled, statistics.failed, statistics.retried, statistics.dead) == (45, 5, 0, 0)


async def test_exactly_once_stores_results_with_the_checkpoint(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 300, partitions=3)
    await mq.topics.create(f"{name}-out", partitions=3, colocate_with=name)
    until = Until(300)

    async def handler(m: Message[bytes]) -> Message[bytes]:
        until.one()
        return Message(topic=f"{name}-out", key=m.key, value=(m.value or b"") + b"!")

    await mq.run(handler, name, group=name, semantics="exactly_once", start="earliest", stop=until.event)
    out: list[bytes] = []
    async for m in mq.subscribe(f"{name}-out", start="earliest"):
        out.append(m.value or b"")
        if len(out) == 300:
            break
    assert sorted(out) == sorted(b"%d!" % n for n in range(300))
    assert await mq.topics.offsets(f"{name}-out") == await mq.topics.offsets(name)
    assert await checkpoints(mq, name) == await mq.topics.offsets(name)


async def test_exactly_once_after_cancellations_in_the_midst_has_each_result_once(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 400, partitions=2)
    await mq.topics.create(f"{name}-out", partitions=2, colocate_with=name)
    handled = 0

    async def handler(m: Message[bytes], tx: Any) -> None:
        nonlocal handled
        handled += 1
        await asyncio.sleep(0)
        tx.publish(f"{name}-out", m.value, key=m.key)
        if handled % 60 == 0:
            crash.set()

    for _ in range(4):
        crash = asyncio.Event()
        run = asyncio.ensure_future(mq.run(handler, name, group=name, semantics="exactly_once", start="earliest"))
        await asyncio.wait_for(crash.wait(), 10)
        run.cancel()
        await asyncio.wait([run])
    stop = asyncio.Event()
    run = asyncio.ensure_future(
        mq.run(handler, name, group=name, semantics="exactly_once", start="earliest", stop=stop)
    )
    out: list[bytes | None] = []
    async with asyncio.timeout(20):
        async for m in mq.subscribe(f"{name}-out", start="earliest"):
            out.append(m.value)
            if len(out) == 400:
                break
    stop.set()
    await run
    assert Counter(out) == Counter(b"%d" % n for n in range(400))
    assert sum((await mq.topics.offsets(f"{name}-out")).values()) == 400


async def test_two_consumers_share_and_nothing_is_handled_twice_while_they_come_and_go(
    servers: str, mq: corgi.Corgi, name: str
) -> None:
    await fill(mq, name, 600, keys=50, partitions=4)
    seen: Counter[bytes | None] = Counter()
    by: dict[bytes | None, list[int]] = defaultdict(list)
    until = Until(600)

    def handler_of(who: int) -> Callable[..., Any]:
        async def handler(m: Message[bytes]) -> None:
            seen[m.value] += 1
            by[m.key].append(int(m.value or b""))
            await asyncio.sleep(0.001)
            until.one()

        return handler

    stops = [asyncio.Event(), asyncio.Event()]
    async with corgi.connect(servers) as other:
        runs = [
            asyncio.ensure_future(
                client.run(handler_of(n), name, group=name, start="earliest", concurrency=4, stop=stops[n])
            )
            for n, client in enumerate((mq, other))
        ]
        await asyncio.wait_for(until.event.wait(), 20)
        for stop in stops:
            stop.set()
        statistics = await asyncio.gather(*runs)
    assert max(seen.values()) == 1
    assert all(values == sorted(values) for values in by.values())
    assert sum(one.lost_units for one in statistics) == 0
    assert all(one.handled for one in statistics)


async def test_sharing_by_key_lets_consumers_work_on_one_partition(servers: str, mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 600, keys=60, partitions=1)
    seen: Counter[bytes | None] = Counter()
    by: dict[bytes | None, list[int]] = defaultdict(list)
    until = Until(600)

    async def handler(m: Message[bytes]) -> None:
        seen[m.value] += 1
        by[m.key].append(m.offset)
        await asyncio.sleep(0.001)
        until.one()

    stop = asyncio.Event()
    async with corgi.connect(servers) as other:
        runs = [
            asyncio.ensure_future(
                client.run(handler, name, group=name, sharing="key", start="earliest", concurrency=2, stop=stop)
            )
            for client in (mq, other)
        ]
        await asyncio.wait_for(until.event.wait(), 20)
        stop.set()
        statistics = await asyncio.gather(*runs)
    assert max(seen.values()) == 1
    assert all(offsets == sorted(offsets) for offsets in by.values())
    assert all(one.handled > 100 for one in statistics)


# By iteration


async def test_a_subscription_in_a_group_settles_messages_one_by_one(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 10, partitions=1)
    tries: list[tuple[int, int]] = []
    async with mq.subscribe(name, group=name, start="earliest", backoff="1ms") as subscription:
        async for m in subscription:
            async with m:
                tries.append((m.offset, m.attempt))
                if m.offset == 2 and m.attempt == 1:
                    raise ValueError("once more")
            if len(tries) == 11:
                break
    assert sorted(tries) == sorted([(n, 1) for n in range(10)] + [(2, 2)])
    assert await checkpoints(mq, name) == {0: 10}


async def test_what_was_not_acknowledged_is_delivered_to_the_next(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 10, partitions=1)
    async with mq.subscribe(name, group=name, start="earliest") as subscription:
        async for m in subscription:
            if m.offset != 4:
                m.ack()
            if m.offset == 9:
                break
    async with mq.subscribe(name, group=name) as subscription:
        async for m in subscription:
            assert m.offset == 4
            m.ack()
            with pytest.raises(CorgiError) as refused:
                m.ack()
            assert refused.value.code == "not-delivered"
            break
    with pytest.raises(CorgiError) as refused:
        m.reject()
    assert refused.value.code == "not-delivered"
    assert await checkpoints(mq, name) == {0: 10}


async def test_batches_are_acknowledged_as_a_whole(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 1000)
    count = 0
    async with mq.subscribe(name, group=name, start="earliest") as subscription:
        async for batch in subscription.batches():
            async with batch:
                count += len(batch)
            if count == 1000:
                break
    assert await checkpoints(mq, name) == await mq.topics.offsets(name)


async def test_seek_pause_and_resume(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 10, partitions=1)
    async with mq.subscribe(name, group=name, start="latest") as subscription:
        await subscription.ready()
        await subscription.seek("earliest")
        seen = []
        async for m in subscription:
            m.ack()
            seen.append(m.offset)
            if m.offset == 9:
                break
        assert seen == list(range(10))
        await subscription.seek(7, partition=0)
        assert (await anext(subscription)).offset == 7
        subscription.pause()
        await subscription.seek(2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(subscription), 0.05)
        subscription.resume()
        assert (await anext(subscription)).offset == 2
        with pytest.raises(CorgiError) as refused:
            await subscription.seek(0, partition=9)
        assert refused.value.code == "not-delivered"
    assert await checkpoints(mq, name) == {0: 2}


async def test_latest_is_decided_once_for_a_group(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 5, partitions=1)
    async with mq.subscribe(name, group=name) as subscription:
        await subscription.ready()
    await mq.publish(name, b"while nobody listened")
    async with mq.subscribe(name, group=name) as subscription:
        assert (await anext(subscription)).value == b"while nobody listened"


async def test_broadcast_gives_everything_to_each_instance(mq: corgi.Corgi, name: str) -> None:
    await fill(mq, name, 20)
    for instance in ("a", "b"):
        until = Until(20)
        seen: list[int] = []

        async def handler(m: Message[bytes], until: Until = until, seen: list[int] = seen) -> None:
            seen.append(int(m.value or b""))
            until.one()

        await mq.run(handler, name, group=name, mode="broadcast", instance=instance, start="earliest", stop=until.event)
        assert sorted(seen) == list(range(20))


async def test_a_new_process_of_an_instance_takes_over_and_the_old_one_is_told(
    servers: str, mq: corgi.Corgi, name: str
) -> None:
    await fill(mq, name, 5, partitions=1)
    async with corgi.connect(servers) as other, mq.subscribe(name, group=name, instance="i", start="earliest") as old:
        await anext(old)
        async with asyncio.timeout(5), other.subscribe(name, group=name, instance="i", start="earliest") as new:
            assert (await anext(new)).offset == 0
            with pytest.raises(CorgiError) as refused:
                async for _ in old:
                    pass
            assert refused.value.code == "consumer-fenced"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"order": "random"}, "invalid-argument"),
        ({"semantics": "twice"}, "invalid-argument"),
        ({"concurrency": 0}, "invalid-argument"),
        ({"concurrency": 2**63}, "invalid-argument"),
        ({"attempts": 0}, "invalid-argument"),
        ({"group": ""}, "invalid-argument"),
        ({"group": "no topic's name"}, "invalid-argument"),
        ({"sharing": "key", "order": "partition"}, "invalid-argument"),
        ({"slices": 4}, "invalid-argument"),
        ({"retry": "topic", "order": "key"}, "invalid-argument"),
        ({"mode": "broadcast"}, "invalid-argument"),
        ({"session_timeout": "1ms"}, "invalid-argument"),
        ({"topic": "missing"}, "unknown-topic"),
        ({"topic": []}, "invalid-argument"),
        ({"handler": None}, "invalid-argument"),
    ],
)
async def test_what_cannot_be_is_refused(mq: corgi.Corgi, name: str, wrong: dict[str, Any], code: str) -> None:
    arguments: dict[str, Any] = {"handler": print, "topic": "missing", "group": "g", **wrong}
    with pytest.raises(CorgiError) as refused:
        await mq.run(arguments.pop("handler"), arguments.pop("topic"), **arguments)
    assert refused.value.code == code


# Without asyncio


def test_the_synchronous_face_calls_handlers_in_threads(servers: str, name: str) -> None:
    stop = threading.Event()
    seen: dict[bytes | None, list[bytes | None]] = defaultdict(list)
    lock = threading.Lock()

    def handler(m: Delivered[bytes]) -> None:
        if m.value == b"5" and m.attempt == 1:
            raise ValueError("once more")
        with lock:
            seen[m.key].append(m.value)
            if sum(map(len, seen.values())) == 50:
                stop.set()

    with corgi.connect_sync(servers) as mq:
        mq.topics.create(name, partitions=2)
        mq.publish_many(name, [(b"k%d" % (n % 5), b"%d" % n) for n in range(50)])
        sums = mq.run(handler, name, group=name, start="earliest", backoff="1ms", stop=stop)
        with pytest.raises(CorgiError) as refused:
            mq.run(asyncio.sleep, name, group=name)  # type: ignore[arg-type]
    assert (sums.handled, sums.failed) == (50, 1)
    assert all(values == [b"%d" % n for n in range(at, 50, 5)] for at in range(5) for values in [seen[b"k%d" % at]])
    assert refused.value.code == "invalid-argument"


# The command line


def test_dead_letters_are_listed_and_put_back_once(servers: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def give_up() -> None:
        async with corgi.connect(servers) as mq:
            await fill(mq, name, 10, partitions=2)
            until = Until(10)

            async def handler(m: Delivered[bytes]) -> None:
                until.one()
                if m.value in (b"3", b"7"):
                    m.reject("odd")

            await mq.run(handler, name, group=name, start="earliest", stop=until.event)

    def command(*words: str) -> Any:
        assert main([*words, name, name, "--cluster", servers, "-o", "json"]) == 0
        return json.loads(capsys.readouterr().out)

    asyncio.run(give_up())
    dead = command("dlq", "list")
    assert sorted(one["message"]["value"] for one in dead) == ["3", "7"]
    assert {one["error"] for one in dead} == {"Rejected: odd"}
    assert command("dlq", "replay") == {"replayed": 2}
    assert command("dlq", "list") == []
    assert command("dlq", "replay") == {"replayed": 0}
    with corgi.connect_sync(servers) as mq:
        assert sum(mq.topics.offsets(name).values()) == 12


def test_sub_in_a_group_goes_on_where_it_stopped(
    servers: str, name: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with corgi.connect_sync(servers) as mq:
        mq.topics.create(name)
        mq.publish_many(name, [("k", str(n)) for n in range(10)])
    for expected in (range(4), range(4, 10)):
        words = ["sub", name, "--group", name, "--start", "earliest", "--count", str(len(expected)), "-c", servers]
        assert main(words) == 0
        assert capfdbinary.readouterr().out.split() == [b"%d" % n for n in expected]
