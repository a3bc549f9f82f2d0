"""ListOffsets: ends through the log, starts and times from what is applied."""

from __future__ import annotations

from corgi.base import errors
from corgi.base.ids import TopicId
from corgi.base.records import encode_batch
from corgi.wire import messages as m
from one_node import OneNode, produce_of


def test_the_end_is_told_only_after_a_barrier_and_counts_what_came_before_it() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    correlation = client.ask(m.ListOffsets(((topic, 0, -1),)))
    barrier = node.submitted.pop()
    node.produce(topic, 0, b"acknowledged elsewhere", b"before the question")
    assert not client.replies
    node.submitted.append(barrier)
    node.turns()
    assert client.answer(correlation).partitions == ((0, 2, -1),)


def test_one_barrier_per_group_and_none_for_the_start() -> None:
    node = OneNode(groups=4)
    topic = node.create("t", 8)
    client = node.client()
    assert client.call(m.ListOffsets(tuple([(topic, p, -2) for p in range(8)]))).partitions == ((0, 0, -1),) * 8
    client.ask(m.ListOffsets(tuple([(topic, p, -1) for p in range(8)])))
    assert sorted(group for group, *_ in node.submitted) == [0, 1, 2, 3]


def test_a_time_gives_the_first_batch_that_is_not_older() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    for timestamp in (1000, 2000, 3000):
        batch = encode_batch([(None, b"v", (), timestamp - 5), (None, b"w", (), timestamp)])
        client.call(*produce_of(2, (topic, 0, batch)))
    asked = [0, 1000, 1001, 3000, 3001]
    reply = client.call(m.ListOffsets(tuple([(topic, 0, time) for time in asked])))
    assert reply.partitions == ((0, 0, 1000), (0, 0, 1000), (0, 2, 2000), (0, 4, 3000), (0, 6, -1))


def test_errors_are_told_per_partition() -> None:
    node = OneNode(groups=4)
    topic = node.create("t", 4)
    lost = node.group_of(topic, 2)
    node.answer_instead = lambda group, kind: errors.NO_QUORUM if group == lost else 0
    client = node.client()
    reply = client.call(
        m.ListOffsets(((topic, 1, -1), (topic, 2, -1), (topic, 9, -1), (TopicId(2**31), 0, -1), (topic, 2, -2)))
    )
    assert [part[0] for part in reply.partitions] == [
        0,
        errors.NO_QUORUM,
        errors.UNKNOWN_PARTITION,
        errors.UNKNOWN_TOPIC,
        0,
    ]


def test_a_client_that_left_is_not_answered() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    client.ask(m.ListOffsets(((topic, 0, -1),)))
    client.close()
    node.turns()
    assert not client.replies
