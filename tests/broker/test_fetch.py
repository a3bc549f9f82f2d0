"""Fetch: a long poll over applied batches; errors per partition; ends confirmed before they are denied."""

from __future__ import annotations

import pytest

from corgi.base import errors
from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.delivery import limits, polls
from corgi.wire import messages as m
from one_node import ALL, OneNode, records_of, values_of


def fetch(topic: TopicId, *offsets: int, wait_ms: int = 0, bytes_min: int = 1, bytes_max: int = ALL) -> m.Fetch:
    """Partition p from offset p."""
    return m.Fetch(wait_ms, bytes_min, bytes_max, tuple([(topic, p, o, ALL) for p, o in enumerate(offsets)]))


def test_batches_are_served_whole_with_their_offsets_and_epoch() -> None:
    node = OneNode()
    topic = node.create()
    node.produce(topic, 0, b"a", b"b")
    node.produce(topic, 0, b"c")
    client = node.client()
    correlation = client.ask(fetch(topic, 1))
    node.turns()
    error, end, start, lengths = client.answer(correlation).partitions[0]
    assert (error, end, start, len(lengths)) == (0, 3, 0, 2)
    records = records_of(client.body(correlation), lengths)
    assert [(record.offset, record.value) for record in records] == [(0, b"a"), (1, b"b"), (2, b"c")]
    assert int.from_bytes(client.body(correlation)[12:16], "big") == 1, "the leader epoch"


def test_the_first_batch_comes_even_if_it_is_above_the_limit() -> None:
    node = OneNode()
    topic = node.create()
    for _ in range(2):
        node.produce(topic, 0, b"x" * 5000)
    reply = node.client().call(fetch(topic, 0, bytes_max=10))
    assert len(reply.partitions[0][3]) == 1


def test_an_answer_is_bounded_in_batches(monkeypatch) -> None:
    monkeypatch.setattr(polls, "POLL_BATCHES_MAX", 3)
    node = OneNode()
    topic = node.create("t", 2)
    for p in (0, 1):
        for _ in range(2):
            node.produce(topic, p, b"v")
    reply = node.client().call(fetch(topic, 0, 0))
    assert [len(part[3]) for part in reply.partitions] == [2, 1]


def test_a_poll_waits_for_news_and_is_answered_in_the_turn_that_brings_it() -> None:
    node = OneNode()
    topic = node.create("t", 2)
    client = node.client()
    correlation = client.ask(fetch(topic, 0, 0, wait_ms=500))
    node.turns()
    assert not client.replies
    node.produce(topic, 1, b"news")
    assert [len(part[3]) for part in client.answer(correlation).partitions] == [0, 1]
    assert len(node.requests.polls) == 0
    node.wait(1.0)
    assert len(client.replies[correlation]) == 1


def test_a_poll_is_answered_empty_when_its_time_is_up() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    correlation = client.ask(fetch(topic, 0, wait_ms=500))
    node.turns()
    assert node.requests.next_deadline() == pytest.approx(node.time + 0.5)
    node.wait(0.49)
    assert not client.replies
    node.wait(0.02)
    assert client.answer(correlation).partitions == ((0, 0, 0, ()),)
    assert node.requests.next_deadline() is None


def test_a_poll_waits_until_the_bytes_it_wants_are_there() -> None:
    node = OneNode()
    topic = node.create("t", 2)
    client = node.client()
    correlation = client.ask(fetch(topic, 0, 0, wait_ms=5000, bytes_min=300))
    for _ in range(3):
        node.produce(topic, 0, b"v" * 20)
        assert not client.replies
    node.produce(topic, 1, b"v" * 20)
    assert sum(sum(part[3]) for part in client.answer(correlation).partitions) >= 300


def test_errors_are_told_at_once_per_partition() -> None:
    node = OneNode()
    topic = node.create("t", 2)
    node.produce(topic, 0, b"v")
    message = m.Fetch(
        5000, 10**6, ALL, ((topic, 0, 0, ALL), (topic, 9, 0, ALL), (TopicId(2**31), 0, 0, ALL), (topic, 1, 0, ALL))
    )
    reply = node.client().call(message)
    assert [part[0] for part in reply.partitions] == [0, errors.UNKNOWN_PARTITION, errors.UNKNOWN_TOPIC, 0]
    assert len(reply.partitions[0][3]) == 1


def test_an_offset_beyond_the_end_is_denied_only_after_the_log_confirmed_the_end() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    correlation = client.ask(fetch(topic, 1, wait_ms=0))
    assert len(node.submitted) == 1, "a barrier"
    assert not client.replies
    node.turns()
    assert client.answer(correlation).partitions[0][0] == errors.OFFSET_OUT_OF_RANGE


def test_an_offset_beyond_the_end_of_a_node_that_is_behind_is_served_when_it_has_caught_up() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    correlation = client.ask(fetch(topic, 1, wait_ms=100))
    barrier = node.submitted.pop()
    node.produce(topic, 0, b"a")
    node.produce(topic, 0, b"b")
    node.submitted.append(barrier)
    node.turns()
    answer = client.answer(correlation).partitions[0]
    assert values_of(client.body(correlation), answer[3]) == [b"b"]


def test_an_end_that_cannot_be_confirmed_is_a_retryable_error() -> None:
    node = OneNode()
    topic = node.create()
    node.answer_instead = lambda group, kind: errors.NO_QUORUM
    assert node.client().call(fetch(topic, 10)).partitions[0][0] == errors.NO_QUORUM


def test_deleting_a_topic_answers_those_who_wait_for_it() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    correlation = client.ask(fetch(topic, 0, wait_ms=60_000))
    node.turns()
    node.client().call(m.DeleteTopic("t"))
    assert client.answer(correlation).partitions[0][0] == errors.UNKNOWN_TOPIC
    assert len(node.requests.polls) == 0


def test_a_cold_value_is_waited_for_and_then_served() -> None:
    node = OneNode()
    topic = node.create()
    for i in range(4):
        node.produce(topic, 0, b"%d" % i)
    node.chill()
    client = node.client()
    correlation = client.ask(fetch(topic, 0))
    node.turns()
    assert not client.replies
    assert len(node.reads) == 4, "the next values are read ahead"
    node.thaw()
    assert values_of(client.body(correlation), client.answer(correlation).partitions[0][3]) == [b"0"]
    node.thaw(3)
    correlation = client.ask(fetch(topic, 1))
    node.turns()
    assert values_of(client.body(correlation), client.answer(correlation).partitions[0][3]) == [b"1", b"2", b"3"]
    assert node.requests.counters()["cold_reads"] == 4


def test_what_is_in_memory_is_not_held_back_by_what_is_not() -> None:
    node = OneNode()
    topic = node.create("t", 2)
    node.produce(topic, 0, b"old")
    node.chill()
    node.produce(topic, 1, b"new")
    client = node.client()
    message = m.Fetch(1000, 1, ALL, ((topic, 1, 0, ALL), (topic, 0, 0, ALL)))
    reply = client.call(message)
    assert [len(part[3]) for part in reply.partitions] == [1, 0]


def test_a_damaged_value_fails_its_partition_and_no_other() -> None:
    node = OneNode()
    topic = node.create("t", 2)
    node.produce(topic, 0, b"damaged")
    node.chill()
    node.produce(topic, 1, b"whole")
    client = node.client()
    correlation = client.ask(fetch(topic, 0))
    node.turns()
    _, done = node.reads.pop()
    done(CorgiError("record-damaged"))
    node.turns()
    assert client.answer(correlation).partitions[0][0] == errors.RECORD_DAMAGED
    assert node.client().call(m.Fetch(0, 1, ALL, ((topic, 1, 0, ALL),))).partitions[0][0] == 0


def test_a_poll_of_a_client_that_left_is_forgotten_also_while_it_waits_for_the_disk() -> None:
    node = OneNode()
    topic = node.create()
    node.produce(topic, 0, b"v")
    node.chill()
    waiting, reading = node.client(), node.client()
    waiting.ask(fetch(topic, 1, wait_ms=1000))
    reading.ask(fetch(topic, 0))
    confirming = node.client()
    confirming.ask(fetch(topic, 50))
    node.requests.flush()
    for client in (waiting, reading, confirming):
        client.close()
    node.thaw()
    node.wait(2.0)
    assert len(node.requests.polls) == 0
    assert not node.requests.polls._by_partition
    assert not node.requests.barriers._by_client
    for client in (waiting, reading, confirming):
        assert not client.replies


def test_the_polls_of_a_connection_are_bounded() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    for _ in range(limits.POLLS_MAX):
        client.ask(fetch(topic, 0, wait_ms=1000))
    reply = client.call(fetch(topic, 0, wait_ms=1000))
    assert isinstance(reply, m.ErrorReply)
    assert reply.error == errors.OVERLOADED


def test_answered_polls_do_not_pile_up_in_the_heap_of_deadlines() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    for _ in range(500):
        client.ask(fetch(topic, node.log(topic, 0).end, wait_ms=60_000))
        node.produce(topic, 0, b"v")
    assert len(node.requests.polls._heap) < 200


def test_a_stopping_node_answers_its_polls() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    correlation = client.ask(fetch(topic, 0, wait_ms=60_000))
    node.turns()
    node.requests.stopping()
    node.turns()
    assert client.answer(correlation).partitions == ((0, 0, 0, ()),)
