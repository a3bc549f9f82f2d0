"""The synchronous face where it settles messages, acts and prepares."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import corgi
from corgi import CorgiError
from corgi.client.sync_consuming import Delivered


@pytest.fixture
def mq(servers: str) -> Iterator[corgi.sync.Corgi]:
    with corgi.connect_sync(servers) as client:
        yield client


class Order(msgspec.Struct):
    pieces: int


def fill(mq: corgi.sync.Corgi, name: str, count: int, partitions: int = 1) -> None:
    mq.topics.create(name, partitions=partitions)
    mq.publish_many(name, [(b"k%d" % (n % 5), b"%d" % n) for n in range(count)]).raise_first()


def checkpoints(mq: corgi.sync.Corgi, group: str) -> list[int]:
    return [unit.checkpoint for unit in mq.groups.describe(group).units]


def test_messages_of_a_group_are_settled_one_by_one(mq: corgi.sync.Corgi, name: str) -> None:
    fill(mq, name, 10)
    seen: list[tuple[int, int]] = []
    with mq.subscribe(name, group=name, start="earliest", backoff="1ms") as messages:
        messages.ready()
        assert messages.statistics().units[0][:2] == (name, 0)
        for message in messages:
            seen.append((message.offset, message.attempt))
            with message:
                if message.attempt == 1 and message.offset == 3:
                    raise ValueError("again")
            if len(seen) == 11:
                break
        with pytest.raises(CorgiError) as twice:
            message.ack()
        assert twice.value.code == "not-delivered"
    assert sorted(seen) == sorted([(n, 1) for n in range(10)] + [(3, 2)])
    assert checkpoints(mq, name) == [10]


def test_batches_seek_pause_and_the_words_of_a_message(mq: corgi.sync.Corgi, name: str) -> None:
    fill(mq, name, 20)
    with mq.subscribe(name, group=name, start="earliest", attempts=1) as messages:
        count = 0
        for batch in messages.batches():
            with batch:
                count += len(batch)
            if count == 20:
                break
        messages.pause()
        messages.resume()
        messages.seek(18)
        first, second = next(messages), next(messages)
        assert (first.offset, second.offset) == (18, 19)
        first.extend()
        first.retry("1ms")
        again = next(messages)
        assert (again.offset, again.attempt) == (18, 2)
        again.ack()
        second.reject("no good")
        assert dead_is_there(mq, name)
        dead = next(mq.subscribe(f"{name}.dead.{name}", start="earliest"))
        assert dead.value == b"19"


def dead_is_there(mq: corgi.sync.Corgi, name: str) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if any(topic.name == f"{name}.dead.{name}" for topic in mq.topics.list()):
            return True
    return False


def test_run_in_threads_hands_over_what_can_be_settled_there(mq: corgi.sync.Corgi, name: str) -> None:
    fill(mq, name, 10)
    mq.topics.create(f"{name}-out", colocate_with=name)
    stop = threading.Event()
    tries: list[int] = []
    done: set[int] = set()

    def handler(m: Delivered[bytes], tx: Any) -> None:
        m.extend("10s")
        tries.append(m.offset)
        if m.offset == 4 and m.attempt == 1:
            m.retry("1ms")
            return
        tx.publish(f"{name}-out", m.value)
        done.add(m.offset)
        if len(done) == 10:
            stop.set()

    statistics = mq.run(
        handler, name, group=name, semantics="exactly_once", start="earliest", handler_timeout="10s", stop=stop
    )
    assert (statistics.failed, tries.count(4)) == (1, 2)
    assert sorted(int(m.value or b"") for m in mq.replay(f"{name}-out")) == list(range(10))


def test_typed_topics_in_groups(mq: corgi.sync.Corgi, name: str) -> None:
    mq.topics.create(name)
    orders = mq.topic(name, Order)
    orders.publish_many([Order(n) for n in range(5)]).raise_first()
    with orders.subscribe(group=f"{name}-1", start="earliest") as messages:
        assert next(messages).value == Order(0)
    stop = threading.Event()
    seen: list[int] = []

    def handler(m: Delivered[Order]) -> None:
        assert m.value is not None
        seen.append(m.value.pieces)
        if len(seen) == 5:
            stop.set()

    orders.run(handler, group=f"{name}-2", start="earliest", stop=stop)
    assert sorted(seen) == list(range(5))
    with orders.subscribe(start="earliest") as plain:
        assert next(plain).value == Order(0)


def test_acts_and_prepared_messages(mq: corgi.sync.Corgi, name: str) -> None:
    mq.topics.create(name, partitions=2)
    with mq.atomic() as tx:
        tx.publish(name, b"a", partition=0)
        tx.publish(name, b"b", partition=1)
    assert tx.receipt.two_phase
    prepared = mq.prepare(name, b"c", producer=name, partition=0)
    assert [m.value for m in mq.replay(name)] == [b"a", b"b"]
    assert prepared.commit().partition == prepared.partition == 0
    mq.prepare(name, b"never", producer=name, partition=0).rollback()
    asked: list[str] = []
    settled = threading.Event()

    def decide(check: corgi.Check) -> bool:
        asked.append(check.id)
        settled.set()
        return True

    with mq.answer(name, decide):
        forgotten = mq.prepare(name, b"d", producer=name, partition=1, check_after="100ms")
        assert settled.wait(20)
        assert asked[0] == forgotten.id
        forgotten.commit()  # may be repeated
    left = mq.prepare(name, b"e", producer=name, partition=1)
    [told] = [one for one in mq.transactions() if one.id == left.id]
    mq.settle(told, commit=True)
    assert [m.value for m in mq.replay(name, partitions=[1])] == [b"b", b"d", b"e"]
