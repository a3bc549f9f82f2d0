"""The SDK against a real node: what a user writes, and what a user gets."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uvloop

import corgi
from corgi import CorgiError, Message
from corgi.client.core.partitioner import partition_of


@pytest.fixture
async def mq(servers: str) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(servers) as client:
        yield client


async def read(subscription: Any, count: int) -> list[Message[Any]]:
    """The next ``count`` messages."""
    out = []
    async with asyncio.timeout(10):
        async for message in subscription:
            out.append(message)
            if len(out) == count:
                break
    return out


# Publishing


async def test_publish_returns_a_receipt_of_what_can_be_read_back(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=3)
    before = datetime.now(UTC)
    receipt = await mq.publish(name, b"value", key="key", headers={"h": b"1", "n": None})
    assert (receipt.topic, receipt.partition, receipt.offset) == (name, partition_of(b"key", 3), 0)
    assert abs(receipt.time - before) < timedelta(seconds=10)
    [message] = await read(mq.subscribe(name, start="earliest"), 1)
    assert (message.topic, message.partition, message.offset) == (name, receipt.partition, 0)
    assert (message.key, message.value) == (b"key", b"value")
    assert message.headers == (("h", b"1"), ("n", None))
    assert message.header("h") == b"1"
    assert message.header("missing") is None
    assert abs(message.time - before) < timedelta(seconds=10)


async def test_a_timestamp_is_kept(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    then = datetime(2013, 1, 1, 5, 15, tzinfo=UTC)
    await mq.publish(name, "text", timestamp=then)
    [message] = await read(mq.subscribe(name, start="earliest"), 1)
    assert message.time == then
    assert message.value == b"text"


async def test_a_tombstone_has_no_value(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    await mq.publish(name, None, key=b"k")
    [message] = await read(mq.subscribe(name, start="earliest"), 1)
    assert message.value is None


async def test_pending_receipts_are_awaited_when_wanted_and_often(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    pending = [mq.publish_nowait(name, b"%d" % number) for number in range(1_000)]
    assert not pending[0].done
    with pytest.raises(CorgiError, match="not known yet"):
        pending[0].result()
    receipts = await asyncio.gather(*pending)
    assert [receipt.offset for receipt in receipts] == list(range(1_000))
    assert pending[7].done
    assert await pending[7] == receipts[7] == pending[7].result()


async def test_cancelling_one_who_waits_leaves_the_others_alone(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)

    async def wait(pending: corgi.PendingReceipt) -> int:
        return (await pending).offset

    waiters = [asyncio.ensure_future(wait(mq.publish_nowait(name, b"x"))) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[1].cancel()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert results[0] == 0
    assert isinstance(results[1], asyncio.CancelledError)
    assert results[2] == 2


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd", "gzip", "snappy"])
async def test_compression_is_invisible(servers: str, name: str, compression: Any) -> None:
    async with corgi.connect(servers, compression=compression) as mq:
        await mq.topics.create(name)
        values = [b"the same again " * 50 + b"%d" % number for number in range(50)]
        (await mq.publish_many(name, values)).raise_first()
        messages = await read(mq.subscribe(name, start="earliest"), 50)
        assert [message.value for message in messages] == values


async def test_acks_leader_and_none_tell_no_offset(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    receipt = await mq.publish(name, b"leader", acks="leader")
    assert receipt.offset == -1
    receipt = await mq.publish(name, b"none", acks="none")
    assert receipt.offset == -1
    messages = await read(mq.subscribe(name, start="earliest"), 2)
    assert {message.value for message in messages} == {b"leader", b"none"}


async def test_very_many_items_each_with_its_outcome(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=4)
    items = [b"%d" % number for number in range(20_000)]
    outcomes = await mq.publish_many(name, items)
    assert len(outcomes) == 20_000
    assert outcomes.errors == {}
    stored = {(m.partition, m.offset): m.value for m in await read(mq.subscribe(name, start="earliest"), 20_000)}
    for item, outcome in zip(items, outcomes, strict=True):
        assert isinstance(outcome, corgi.Receipt)
        assert stored[outcome.partition, outcome.offset] == item
    assert outcomes[-1] == list(outcomes)[-1]
    assert outcomes[10:12] == [outcomes[10], outcomes[11]]
    with pytest.raises(IndexError):
        outcomes[20_000]


async def test_items_may_be_pairs_messages_text_and_generators(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=5)

    async def stream() -> AsyncIterator[tuple[str, bytes]]:
        for number in range(10):
            yield f"k{number}", b"streamed"

    given: list[Any] = [
        [("k1", "text"), (b"k2", b"bytes"), (None, b"no key")],
        (b"generated" for _ in range(3)),
        [Message(key=b"m", value=b"message", headers=(("h", b"1"),), timestamp=5), "plain", b"mixed"],
        stream(),
    ]
    for items in given:
        (await mq.publish_many(name, items)).raise_first()
    messages = await read(mq.subscribe(name, start="earliest"), 19)
    for message in messages:
        if message.key is not None:
            assert message.partition == partition_of(message.key, 5)
    [copied] = [message for message in messages if message.key == b"m"]
    assert (copied.value, copied.headers, copied.timestamp) == (b"message", (("h", b"1"),), 5)


async def test_one_bad_item_does_not_touch_the_others(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, max_batch_bytes=10_000)
    for items in (
        [b"a", b"x" * 20_000, b"b"],
        [(b"k", b"a"), (b"k", b"x" * 20_000), (b"k", b"b")],
        [b"a", 5, "b"],
    ):
        outcomes = await mq.publish_many(name, items)  # type: ignore[arg-type]
        assert [type(outcome) for outcome in outcomes] == [corgi.Receipt, CorgiError, corgi.Receipt]
        assert set(outcomes.errors) == {1}
        with pytest.raises(CorgiError):
            outcomes.raise_first()


async def test_records_with_a_key_keep_their_order(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=4)
    pairs = [(b"key-%d" % (number % 50), b"%d" % number) for number in range(10_000)]
    (await mq.publish_many(name, pairs)).raise_first()
    last: dict[bytes, int] = {}
    for message in await read(mq.subscribe(name, start="earliest"), 10_000):
        assert message.key is not None
        assert message.value is not None
        number = int(message.value)
        assert number > last.get(message.key, -1)
        last[message.key] = number


async def test_back_pressure_refuses_nowait_and_holds_the_others(servers: str, name: str) -> None:
    async with corgi.connect(servers, buffer_bytes=65_536, batch_bytes=16_384) as mq:
        await mq.topics.create(name)
        pending = []
        with pytest.raises(CorgiError) as caught:  # noqa: PT012 - which of them is refused is not the point
            while True:
                pending.append(mq.publish_nowait(name, b"x" * 1_000))
        assert caught.value.code == "overloaded"
        await mq.publish(name, b"waits for room")
        await mq.ready()
        (await mq.publish_many(name, (b"x" * 1_000 for _ in range(1_000)))).raise_first()
        assert all(receipt.done for receipt in pending)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"value": 5}, "invalid-argument"),
        ({"key": 5}, "invalid-argument"),
        ({"headers": {"h": "text"}}, "invalid-argument"),
        ({"headers": 5}, "invalid-argument"),
        ({"timestamp": -1}, "invalid-argument"),
        ({"timestamp": 2**63}, "invalid-argument"),
        ({"timestamp": datetime(2020, 1, 1)}, "invalid-argument"),  # noqa: DTZ001 - a naive one is the point
        ({"partition": 7}, "unknown-partition"),
        ({"partition": -1}, "unknown-partition"),
        ({"acks": "all"}, "invalid-argument"),
        ({"timeout": "soon"}, "invalid-argument"),
        ({"timeout": 0}, "invalid-argument"),
        ({"value": b"x" * 2**21}, "record-too-large"),
    ],
)
async def test_bad_arguments_are_told(mq: corgi.Corgi, name: str, arguments: dict[str, Any], code: str) -> None:
    await mq.topics.create(name)
    with pytest.raises(CorgiError) as caught:
        await mq.publish(**{"topic": name, "value": b"x", **arguments})
    assert caught.value.code == code
    assert caught.value.hint
    await mq.publish(name, b"still works")


@pytest.mark.parametrize("bad", ["\udcff", 5, None, "x" * 250], ids=["no text", "number", "nothing", "long"])
async def test_what_cannot_name_a_topic_is_told_and_spoils_nothing_else(mq: corgi.Corgi, name: str, bad: Any) -> None:
    await mq.topics.create(name)
    good = mq.publish_nowait(name, "x")  # its topic is asked for in the same frame
    calls: list[Any] = [
        mq.publish(bad, "x"),
        mq.publish_many(bad, ["x"]),
        read(mq.subscribe(bad), 1),
        mq.topics.create(bad),
        mq.topics.create(f"{name}-2", colocate_with=bad),
        mq.topics.alter(bad, partitions=2),
        mq.topics.describe(bad),
        mq.topics.offsets(bad),
        mq.topics.delete(bad),
    ]
    for told in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(told, CorgiError)
        assert told.code == "invalid-topic-name", told
    assert (await good).offset == 0


async def test_what_no_frame_can_hold_is_told_at_once(mq: corgi.Corgi, name: str) -> None:
    for wanted in ({"partitions": 2**70}, {"retention_ms": "\udcff"}, {"\udcff": 1}):
        with pytest.raises(CorgiError) as caught:
            await mq.topics.create(name, **wanted)
        assert caught.value.code == "invalid-argument"


async def test_an_unknown_topic_is_told_with_a_hint(mq: corgi.Corgi) -> None:
    for call in (
        mq.publish("nowhere", b"x"),
        mq.publish_many("nowhere", [b"x"]),
        read(mq.subscribe("nowhere"), 1),
        mq.topics.describe("nowhere"),
    ):
        with pytest.raises(CorgiError) as caught:
            await call
        assert caught.value.code == "unknown-topic"
        assert "corgi topic create" in caught.value.hint
    with pytest.raises(CorgiError) as caught:
        await mq.topics.delete("nowhere")
    assert caught.value.code == "unknown-topic"
    assert "corgi topic list" in caught.value.hint


# Consuming


async def test_latest_delivers_what_is_published_once_it_is_ready(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=3)
    await mq.publish_many(name, [b"before"] * 30)
    async with mq.subscribe(name) as subscription:
        await subscription.ready()
        await mq.publish_many(name, [(b"%d" % number, b"after") for number in range(30)])
        assert {message.value for message in await read(subscription, 30)} == {b"after"}


async def test_offsets_and_partitions_are_chosen(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=3)
    for partition in range(3):
        for number in range(10):
            await mq.publish(name, b"%d" % number, partition=partition)
    messages = await read(mq.subscribe(name, start=7, partitions=[1]), 3)
    assert [(m.partition, m.offset) for m in messages] == [(1, 7), (1, 8), (1, 9)]
    messages = await read(mq.subscribe(name, start={0: 9, 2: 8}), 3)
    assert {(m.partition, m.offset) for m in messages} == {(0, 9), (2, 8), (2, 9)}


async def test_a_time_is_where_it_starts(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    start = datetime(2013, 1, 1, tzinfo=UTC)
    for minute in range(10):
        await mq.publish(name, b"%d" % minute, timestamp=start + timedelta(minutes=minute))
    messages = await read(mq.subscribe(name, start=start + timedelta(minutes=6, seconds=30)), 3)
    assert [message.value for message in messages] == [b"7", b"8", b"9"]


async def test_a_time_inside_a_batch_skips_what_is_older(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    for minute in range(10):
        mq.publish_nowait(name, b"%d" % minute, timestamp=minute * 60_000)
    await mq.flush()
    start = datetime.fromtimestamp(390, UTC)
    assert [m.value for m in await read(mq.subscribe(name, start=start), 3)] == [b"7", b"8", b"9"]


async def test_batches_are_lists_of_one_partition_each(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=3)
    await mq.publish_many(name, [(b"%d" % number, b"x") for number in range(300)])
    seen = 0
    async for batch in mq.subscribe(name, start="earliest").batches():
        assert len({message.partition for message in batch}) == 1
        seen += len(batch)
        if seen == 300:
            break
    assert seen == 300


async def test_a_closed_subscription_ends_its_iteration(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    subscription = mq.subscribe(name)
    waiting = asyncio.ensure_future(read(subscription, 1))
    await subscription.ready()
    subscription.close()
    assert await waiting == []


async def test_a_subscription_nobody_holds_is_given_up(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    subscription = mq.subscribe(name)
    await subscription.ready()
    core = subscription._core
    del subscription
    gc.collect()
    await asyncio.sleep(0)
    assert core.closed


async def test_two_tasks_do_not_iterate_one_subscription(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    async with mq.subscribe(name) as subscription:
        await subscription.ready()
        first = asyncio.ensure_future(read(subscription, 1))
        await asyncio.sleep(0)
        with pytest.raises(CorgiError, match="one task at a time"):
            await read(subscription, 1)
        first.cancel()


async def test_a_deleted_topic_ends_the_iteration_with_its_error(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    await mq.publish(name, b"x")
    subscription = mq.subscribe(name, start="earliest")
    await read(subscription, 1)
    await mq.topics.delete(name)
    with pytest.raises(CorgiError) as caught:
        await read(subscription, 1)
    assert caught.value.code == "unknown-topic"


async def test_partitions_added_later_are_delivered(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    async with mq.subscribe(name) as subscription:
        await subscription.ready()
        await mq.topics.alter(name, partitions=4)
        await mq.publish(name, b"new", partition=3)
        [message] = await read(subscription, 1)
        assert (message.partition, message.value) == (3, b"new")


@pytest.mark.parametrize("start", ["newest", -1, 2**63, {}, {0: "x"}, 1.5, None, datetime(2020, 1, 1)])  # noqa: DTZ001
async def test_a_bad_start_is_told(mq: corgi.Corgi, start: Any) -> None:
    with pytest.raises(CorgiError) as caught:
        mq.subscribe("any", start=start)
    assert caught.value.code == "invalid-argument"


async def test_an_offset_beyond_the_end_is_told(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    with pytest.raises(CorgiError) as caught:
        await read(mq.subscribe(name, start=1_000), 1)
    assert caught.value.code == "offset-out-of-range"


async def test_a_large_backlog_leaves_the_loop_to_others(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    (await mq.publish_many(name, [b"x" * 10] * 50_000)).raise_first()
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counter = asyncio.ensure_future(count_turns())
    await read(mq.subscribe(name, start="earliest"), 50_000)
    counter.cancel()
    assert turns >= 3


# Topics


async def test_topics_are_created_described_altered_listed_and_deleted(mq: corgi.Corgi, name: str) -> None:
    made = await mq.topics.create(name, partitions=2, max_batch_bytes=500_000)
    assert made.config["max_batch_bytes"] == "500000"
    assert [partition.partition for partition in made.partitions] == [0, 1]
    await mq.publish(name, b"x", partition=1)
    described = await mq.topics.describe(name)
    assert [(p.start, p.end) for p in described.partitions] == [(0, 0), (0, 1)]
    assert described.partitions[0].leader == 1
    assert name in [topic.name for topic in await mq.topics.list()]
    altered = await mq.topics.alter(name, partitions=3, max_batch_bytes=None)
    assert len(altered.partitions) == 3
    assert "max_batch_bytes" not in altered.config
    assert await mq.topics.offsets(name) == {0: 0, 1: 1, 2: 0}
    assert await mq.topics.offsets(name, "earliest") == {0: 0, 1: 0, 2: 0}
    await mq.topics.delete(name)
    assert name not in [topic.name for topic in await mq.topics.list()]


async def test_colocated_topics_share_their_groups(mq: corgi.Corgi, name: str) -> None:
    first = await mq.topics.create(name, partitions=3)
    second = await mq.topics.create(f"{name}-results", partitions=3, colocate_with=name)
    assert [p.group for p in first.partitions] == [p.group for p in second.partitions]


async def test_a_topic_made_anew_is_another_one(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    await mq.publish(name, b"old")
    await mq.topics.delete(name)
    await mq.topics.create(name)
    assert (await mq.publish(name, b"new")).offset == 0
    [message] = await read(mq.subscribe(name, start="earliest"), 1)
    assert message.value == b"new"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"name": "a/b"}, "invalid-topic-name"),
        ({"name": ""}, "invalid-topic-name"),
        ({"name": "__x"}, "invalid-topic-name"),
        ({"partitions": 0}, "invalid-argument"),
        ({"partitions": "3"}, "invalid-argument"),
        ({"partitions": 2**31}, "invalid-argument"),
        ({"no_such_setting": "1"}, "invalid-argument"),
        ({"colocate_with": "nowhere"}, "unknown-topic"),
        ({"timeout": "never"}, "invalid-argument"),
    ],
)
async def test_a_bad_topic_is_told(mq: corgi.Corgi, name: str, arguments: dict[str, Any], code: str) -> None:
    with pytest.raises(CorgiError) as caught:
        await mq.topics.create(**{"name": name, **arguments})
    assert caught.value.code == code


async def test_a_topic_is_made_once(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    with pytest.raises(CorgiError) as caught:
        await mq.topics.create(name)
    assert caught.value.code == "topic-exists"


async def test_the_cluster_tells_about_itself(mq: corgi.Corgi, servers: str) -> None:
    assert len(mq.cluster) == 32
    assert mq.servers == servers
    [node] = await mq.topics.nodes()
    assert (node.node, node.connected) == (1, True)
    [status] = await mq.status()
    assert status.node == 1
    assert status.cluster == mq.cluster


# Connecting


async def test_connecting_to_nobody_says_why() -> None:
    with pytest.raises(CorgiError) as caught:
        await corgi.connect("127.0.0.1:1", connect_timeout="200ms")
    assert caught.value.code == "unreachable"
    assert "127.0.0.1:1" in str(caught.value)
    assert caught.value.retryable


async def test_one_living_seed_is_enough(servers: str, name: str) -> None:
    async with corgi.connect(f"127.0.0.1:1, corgi://{servers}") as mq:
        await mq.topics.create(name)
        await mq.publish(name, b"x")


async def test_another_cluster_is_refused(servers: str) -> None:
    with pytest.raises(CorgiError) as caught:
        await corgi.connect(servers, cluster="ab" * 16, connect_timeout="500ms")
    assert caught.value.code == "wrong-cluster"


@pytest.mark.parametrize(
    "wrong", ["", ",", "host:port", "http://host:1", "host:99999999", "user@host:1", "host:1/path", "[::1", []]
)
def test_a_bad_address_is_told(wrong: Any) -> None:
    with pytest.raises(CorgiError) as caught:
        corgi.connect(wrong)
    assert caught.value.code == "invalid-argument"


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "brotli"},
        {"batch_bytes": 0},
        {"batch_bytes": 2**40},
        {"buffer_bytes": 1},
        {"prefetch_bytes": 0},
        {"publish_timeout": "-1s"},
        {"publish_timeout": "1x"},
        {"connect_timeout": timedelta(0)},
    ],
)
def test_a_bad_option_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(CorgiError) as caught:
        corgi.connect("host:1", **options)
    assert caught.value.code == "invalid-argument"


async def test_leaving_waits_for_what_is_on_its_way(servers: str, name: str) -> None:
    async with corgi.connect(servers) as mq:
        await mq.topics.create(name)
        pending = [mq.publish_nowait(name, b"x") for _ in range(100)]
    assert [receipt.result().offset for receipt in pending] == list(range(100))


async def test_leaving_by_an_error_does_not_wait(servers: str, name: str) -> None:
    pending: list[corgi.PendingReceipt] = []

    async def work() -> None:
        async with corgi.connect(servers) as mq:
            await mq.topics.create(name)
            pending.append(mq.publish_nowait(name, b"x"))
            raise RuntimeError("of the user")

    with pytest.raises(RuntimeError, match="of the user"):
        await work()
    with pytest.raises(CorgiError) as caught:
        await pending[0]
    assert caught.value.code in ("closed", "outcome-unknown")


async def test_a_closed_client_says_so(servers: str, name: str) -> None:
    mq = await corgi.connect(servers)
    await mq.topics.create(name)
    subscription = mq.subscribe(name)
    await subscription.ready()
    await mq.close()
    await mq.close()
    for call in (mq.publish(name, b"x"), mq.topics.list(), read(subscription, 1)):
        with pytest.raises(CorgiError) as caught:
            await call
        assert caught.value.code == "closed"


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_runs_on_both_loops(servers: str, name: str, factory: Any) -> None:
    async def work() -> Iterable[int]:
        async with corgi.connect(servers) as mq:
            await mq.topics.create(name)
            (await mq.publish_many(name, [b"x" * 1_000] * 1_000)).raise_first()
            return [message.offset for message in await read(mq.subscribe(name, start="earliest"), 1_000)]

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(work()) == list(range(1_000))


# Compaction by key


async def test_a_compacted_topic_is_read_in_order_though_offsets_have_holes(mq: corgi.Corgi, name: str) -> None:
    made = await mq.topics.create(name, cleanup="compact", min_cleanable_dirty_ratio=0.1)
    assert made.config == {"cleanup": "compact", "min_cleanable_dirty_ratio": "0.1"}
    count = 20_000
    (await mq.publish_many(name, [(b"%d" % (n % 10), b"%d" % n + bytes(100)) for n in range(count)])).raise_first()
    last = await mq.publish(name, b"head", key=b"head")
    async with asyncio.timeout(20):
        while (await mq.topics.describe(name)).partitions[0].compacted_to < count // 2:
            pass  # each question is a round trip
    [partition] = (await mq.topics.describe(name)).partitions
    assert (partition.start, partition.end) == (0, count + 1)
    assert 0 < partition.dirty_ratio <= 1
    found = []
    async with asyncio.timeout(10):
        async for message in mq.subscribe(name, start="earliest"):
            found.append((message.offset, message.key, message.value))
            if message.offset == last.offset:
                break
    assert len(found) < partition.end - partition.compacted_to + 11
    assert [offset for offset, _, _ in found] == sorted({offset for offset, _, _ in found})
    assert all(value is not None and int(value[:-100]) == offset for offset, _, value in found[:-1])
    newest = {key: offset for offset, key, _ in found}
    assert newest == {**{b"%d" % (n % 10): n for n in range(count - 10, count)}, b"head": count}
    [message] = await read(mq.subscribe(name, start=partition.compacted_to // 2), 1)
    assert message.offset == min(offset for offset, _, _ in found if offset >= partition.compacted_to // 2)


async def test_a_record_without_a_key_is_not_for_a_compacted_topic(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, cleanup="compact,delete")
    with pytest.raises(CorgiError, match="compacted by key") as caught:
        await mq.publish(name, b"value")
    assert caught.value.code == "invalid-record"
    outcomes = await mq.publish_many(name, [(b"k", b"1"), (None, b"2"), (b"k", b"3")])
    assert [type(outcome) for outcome in outcomes] == [corgi.Receipt, CorgiError, corgi.Receipt]
    outcomes = await mq.publish_many(name, [b"1", b"2"])
    assert [outcome.code for outcome in outcomes.errors.values()] == ["invalid-record"] * 2
    assert [m.value for m in await read(mq.subscribe(name, start="earliest"), 2)] == [b"1", b"3"]
