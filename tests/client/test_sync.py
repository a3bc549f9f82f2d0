"""The synchronous face: the same names, from threads that know no event loop."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

import corgi
from corgi import CorgiError, Message


@pytest.fixture
def mq(servers: str) -> Iterator[corgi.sync.Corgi]:
    with corgi.connect_sync(servers) as client:
        yield client


def test_publish_and_read(mq: corgi.sync.Corgi, name: str) -> None:
    mq.topics.create(name, partitions=2)
    receipt = mq.publish(name, "text", key="k", headers={"h": b"1"}, timeout="10s")
    assert receipt.offset == 0
    pending = [mq.publish_nowait(name, b"%d" % number, partition=1 - receipt.partition) for number in range(10)]
    assert [p.result().offset for p in pending] == list(range(10))
    assert pending[0].done
    mq.publish_many(name, [("k", b"%d" % number) for number in range(100)]).raise_first()
    mq.flush()
    mq.ready()
    count = 0
    with mq.subscribe(name, start="earliest") as subscription:
        subscription.ready()
        for message in subscription:
            assert isinstance(message, Message)
            count += 1
            if count == 111:
                break
        assert subscription.statistics().batches > 0


def test_batches(mq: corgi.sync.Corgi, name: str) -> None:
    mq.topics.create(name)
    mq.publish_many(name, [b"x"] * 50).raise_first()
    subscription = mq.subscribe(name, start="earliest")
    assert next(subscription).offset == 0
    got = 1
    for batch in subscription.batches():
        got += len(batch)
        if got == 50:
            break
    subscription.close()
    assert list(subscription) == []
    assert list(subscription.batches()) == []


def test_topics(mq: corgi.sync.Corgi, name: str, servers: str) -> None:
    mq.topics.create(name)
    mq.topics.alter(name, partitions=2)
    assert len(mq.topics.describe(name).partitions) == 2
    assert name in [topic.name for topic in mq.topics.list()]
    assert mq.topics.offsets(name) == {0: 0, 1: 0}
    assert [node.node for node in mq.topics.nodes()] == [1]
    assert [status.cluster for status in mq.status()] == [mq.cluster]
    mq.topics.delete(name)
    with pytest.raises(CorgiError) as caught:
        mq.publish(name, b"x")
    assert caught.value.code == "unknown-topic"


def test_typed(mq: corgi.sync.Corgi, name: str) -> None:
    mq.topics.create(name)
    topic = mq.topic(name, dict)
    topic.publish({"a": 1})
    topic.publish_many([{"a": 2}, ("k", {"a": 3})]).raise_first()
    subscription = topic.subscribe(start="earliest")
    assert [next(subscription).value for _ in range(3)] == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_many_threads_share_a_client(mq: corgi.sync.Corgi, name: str) -> None:
    mq.topics.create(name)
    offsets: list[int] = []

    def work() -> None:
        offsets.extend([mq.publish(name, b"x").offset for _ in range(20)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(offsets) == list(range(160))


def test_connecting_to_nobody_says_why_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with pytest.raises(CorgiError) as caught:
        corgi.connect_sync("127.0.0.1:1", connect_timeout="200ms")
    assert caught.value.code == "unreachable"
    assert not set(threading.enumerate()) - before


def test_a_closed_client_says_so(servers: str) -> None:
    mq = corgi.connect_sync(servers)
    mq.close()
    mq.close()
    with pytest.raises(CorgiError) as caught:
        mq.publish("t", b"x")
    assert caught.value.code == "closed"


def test_after_a_fork_the_child_is_told_to_connect_anew(mq: corgi.sync.Corgi, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(CorgiError) as caught:
        mq.publish("t", b"x")
    assert caught.value.code == "closed"
    assert "fork" in caught.value.hint
    monkeypatch.undo()


def test_an_act_of_several_messages(mq: corgi.sync.Corgi, name: str) -> None:
    mq.topics.create(name, partitions=2)
    with mq.atomic() as tx:
        tx.publish(name, b"a", partition=0)
        tx.publish(name, b"b", partition=1)
    assert tx.receipt.two_phase
    assert [(r.partition, r.offset) for r in tx.receipt.messages] == [(0, 0), (1, 0)]
    with pytest.raises(CorgiError) as ended:
        tx.publish(name, b"c")
    assert ended.value.code == "transaction-ended"
