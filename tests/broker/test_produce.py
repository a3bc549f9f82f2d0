"""Produce: one command per group, one answer per request, a result of its own for every batch."""

from __future__ import annotations

from corgi.base import errors
from corgi.base.command import COMMAND_HEADER, Command, CommandKind, decode_data
from corgi.base.ids import META, Origin, TopicId
from corgi.base.limits import MIB
from corgi.base.records import encode_batch
from corgi.broker import bounds, produce
from corgi.wire import messages as m
from one_node import START_MS, OneNode, a_batch, produce_of


def appends_of(body: bytes) -> list[tuple[int, int]]:
    """(topic, partition) of each batch in a submitted DATA body."""
    command = Command(1, Origin(0), 0, 0, memoryview(body), COMMAND_HEADER.size)
    return [(append.topic, append.partition) for append in decode_data(command.body, command.body_at).appends]


def test_results_come_in_the_order_of_the_request_though_groups_answer_in_another() -> None:
    node = OneNode(groups=4)
    topic = node.create("t", 8)
    client = node.client()
    places = [5, 0, 3, 1, 4]
    message, payload = produce_of(2, *[(topic, p, a_batch(b"%d" % p)) for p in places])
    correlation = client.ask(message, payload)
    assert len(node.submitted) == 3, "partitions 5 and 1 share a group, 0 and 4 too"
    assert sorted(len(appends_of(body)) for _, _, body, _, _ in node.submitted) == [1, 2, 2]
    node.submitted.reverse()
    assert not client.replies
    node.turns()
    reply = client.answer(correlation)
    assert [result[:2] for result in reply.results] == [(0, 0)] * 5
    assert all(result[2] >= START_MS for result in reply.results)
    for p in places:
        assert node.log(topic, p).end == 1


def test_a_record_without_a_key_is_not_for_a_compacted_topic() -> None:
    node = OneNode()
    topic = node.create("t", 1, config={"cleanup": "compact"})
    keyed = encode_batch([(b"k", b"1", (), 1), (b"", None, (), 1)], codec="zstd")
    one = encode_batch([(b"k", b"1", (), 1), (None, b"2", (), 1)], codec="zstd")
    reply = node.client().call(*produce_of(2, (topic, 0, keyed), (topic, 0, one), (topic, 0, keyed)))
    assert [result[:2] for result in reply.results] == [(0, 0), (errors.INVALID_RECORD, -1), (0, 2)]
    assert reply.message == "the topic is compacted by key, and a record has none"
    assert node.log(topic, 0).end == 4


def test_a_refused_batch_leaves_its_neighbours_alone() -> None:
    node = OneNode()
    topic = node.create("t", 2, config={"max_batch_bytes": "200"})
    damaged = bytearray(a_batch(b"damaged"))
    damaged[-1] ^= 1
    message, payload = produce_of(
        2,
        (topic, 0, a_batch(b"good")),
        (topic, 0, bytes(damaged)),
        (topic, 2, a_batch(b"no such partition")),
        (TopicId(2**31), 0, a_batch(b"no such topic")),
        (topic, 1, a_batch(b"x" * 500)),
        (META, 0, a_batch(b"not for clients")),
        (topic, 1, a_batch(b"also good")),
    )
    reply = node.client().call(message, payload)
    assert [result[0] for result in reply.results] == [
        0,
        errors.CORRUPT_BATCH,
        errors.UNKNOWN_PARTITION,
        errors.UNKNOWN_TOPIC,
        errors.RECORD_TOO_LARGE,
        errors.UNKNOWN_TOPIC,
        0,
    ]
    assert "checksum" in reply.message
    assert (node.log(topic, 0).end, node.log(topic, 1).end) == (1, 1)


def test_a_request_of_which_everything_is_refused_is_answered_at_once() -> None:
    node = OneNode()
    client = node.client()
    correlation = client.ask(*produce_of(2, (TopicId(17), 0, a_batch(b"v"))))
    assert not node.submitted
    assert client.answer(correlation).results == ((errors.PARTITION_NOT_OPEN, -1, -1),)
    assert node.requests.produces.bytes_in_flight == 0


def test_acks_none_is_never_answered_but_stored() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    client.ask(*produce_of(0, (topic, 0, a_batch(b"v"))))
    client.ask(*produce_of(0, (topic, 7, a_batch(b"nowhere"))))
    client.ask(m.Produce(0, 0, ((topic, 0, 5),)), b"wrong in itself")
    node.turns()
    assert not client.replies
    assert node.log(topic, 0).end == 1
    assert node.requests.counters()["produce_silent_dropped_batches"] == 1
    assert node.requests.produces.bytes_in_flight == 0


def test_acks_leader_is_answered_by_the_leaders_disk_without_an_offset() -> None:
    node = OneNode()
    topic = node.create("t", 2)
    client = node.client()
    correlation = client.ask(*produce_of(1, (topic, 0, a_batch(b"a")), (topic, 1, a_batch(b"b"))))
    first, second = (leader_ack for *_, leader_ack in node.submitted)
    assert first is not None
    assert second is not None
    first()
    first()
    assert not client.replies, "the other group has not answered"
    second()
    assert client.answer(correlation).results == ((0, -1, -1), (0, -1, -1))
    node.turns()
    assert len(client.replies[correlation]) == 1
    assert node.requests.produces.bytes_in_flight == 0


def test_acks_leader_is_answered_by_apply_where_another_node_leads() -> None:
    node = OneNode()
    topic = node.create()
    reply = node.client().call(*produce_of(1, (topic, 0, a_batch(b"a"))))
    assert reply.results == ((0, -1, -1),)


def test_acks_quorum_takes_no_short_cut() -> None:
    node = OneNode()
    topic = node.create()
    node.client().ask(*produce_of(2, (topic, 0, a_batch(b"a"))))
    assert node.submitted[0][4] is None


def test_an_idempotent_batch_sent_twice_is_stored_once_and_told_the_same_offset() -> None:
    node = OneNode()
    topic = node.create()
    batch = a_batch(b"a", b"b", producer_id=7, producer_epoch=0, base_sequence=0)
    node.produce(topic, 0, b"before")
    replies = [node.client().call(*produce_of(2, (topic, 0, batch))) for _ in range(2)]
    assert [reply.results[0][:2] for reply in replies] == [(0, 1), (0, 1)]
    assert node.log(topic, 0).end == 3


def test_a_gap_of_the_producer_is_told_as_such() -> None:
    node = OneNode()
    topic = node.create()
    batch = a_batch(b"a", producer_id=7, producer_epoch=0, base_sequence=5)
    reply = node.client().call(*produce_of(2, (topic, 0, batch)))
    assert reply.results[0][0] == errors.OUT_OF_ORDER_SEQUENCE


def test_a_gap_that_this_node_made_is_told_as_retryable_until_it_is_filled() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    batches = [a_batch(b"v", producer_id=7, producer_epoch=0, base_sequence=i) for i in range(3)]
    node.answer_instead = lambda group, kind: errors.OVERLOADED
    assert client.call(*produce_of(2, (topic, 0, batches[0]))).results[0][0] == errors.OVERLOADED
    node.answer_instead = lambda group, kind: 0
    for later in batches[1:]:
        assert client.call(*produce_of(2, (topic, 0, later))).results[0][0] == errors.UNSETTLED
    for batch in batches:
        assert client.call(*produce_of(2, (topic, 0, batch))).results[0][0] == 0
    assert not node.requests.produces.gaps
    far = a_batch(b"v", producer_id=7, producer_epoch=0, base_sequence=9)
    assert client.call(*produce_of(2, (topic, 0, far))).results[0][0] == errors.OUT_OF_ORDER_SEQUENCE


def test_a_command_without_outcome_fails_each_of_its_batches() -> None:
    node = OneNode()
    topic = node.create("t", 8)
    node.answer_instead = lambda group, kind: errors.TIMEOUT if group == 1 else 0
    message, payload = produce_of(2, *[(topic, p, a_batch(b"v")) for p in range(8)])
    reply = node.client().call(message, payload)
    for p in range(8):
        expected = errors.TIMEOUT if node.group_of(topic, p) == 1 else 0
        assert reply.results[p][0] == expected
    assert node.requests.produces.bytes_in_flight == 0


def test_a_large_request_becomes_several_commands_of_bounded_size(monkeypatch) -> None:
    monkeypatch.setattr(produce, "COMMAND_FILL_MAX", 1 * MIB)
    node = OneNode(groups=1)
    topic = node.create("t", 1)
    batches = [a_batch(b"%d" % i + b"x" * 300_000) for i in range(10)]
    client = node.client()
    correlation = client.ask(*produce_of(2, *[(topic, 0, batch) for batch in batches]))
    assert [len(body) < 1 * MIB + 1000 for _, _, body, _, _ in node.submitted] == [True] * 4
    node.turns()
    assert [result[1] for result in client.answer(correlation).results] == list(range(10))


def test_a_partition_that_its_group_knows_before_group_zero_does_is_written() -> None:
    node = OneNode()
    topic = node.create("t", 4)
    log = node.log(topic, 1)
    topics = node.groups[0].machine.topics
    topics.by_id.clear()
    topics.end = 0
    node.requests.places.topics_changed()
    reply = node.client().call(*produce_of(2, (topic, 1, a_batch(b"v"))))
    assert reply.results[0][0] == 0
    assert log.end == 1


def test_a_deleted_topic_is_unknown_and_one_yet_to_come_is_not_open() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    client.call(m.DeleteTopic("t"))
    reply = client.call(*produce_of(2, (topic, 0, a_batch(b"v")), (TopicId(topic + 50), 0, a_batch(b"v"))))
    assert [result[0] for result in reply.results] == [errors.UNKNOWN_TOPIC, errors.PARTITION_NOT_OPEN]


def test_the_limit_of_a_topic_follows_its_settings() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    message, payload = produce_of(2, (topic, 0, a_batch(b"x" * 1000)))
    assert client.call(message, payload).results[0][0] == 0
    assert client.call(m.AlterTopic("t", config={"max_batch_bytes": "500"})).error == 0
    assert client.call(message, payload).results[0][0] == errors.RECORD_TOO_LARGE


def test_more_than_the_node_may_hold_is_refused_as_overloaded(monkeypatch) -> None:
    monkeypatch.setattr(produce, "NODE_PRODUCE_BYTES_MAX", 1000)
    node = OneNode()
    topic = node.create()
    first = a_batch(b"x" * 2000, producer_id=7, producer_epoch=0, base_sequence=0)
    second = a_batch(b"y", producer_id=7, producer_epoch=0, base_sequence=1)
    client = node.client()
    taken = client.ask(*produce_of(2, (topic, 0, first)))  # alone it is taken whatever its size
    assert node.requests.produces.busy
    refused = client.ask(*produce_of(2, (topic, 0, second)))
    assert client.answer(refused).results == ((errors.OVERLOADED, -1, -1),)
    assert node.requests.produces.gaps, "what follows the refused batch is not the producer's fault"
    node.turns()
    assert client.answer(taken).results[0][0] == 0
    assert not node.requests.produces.busy


def test_a_client_that_waits_for_no_answers_is_read_no_faster_than_it_is_served(monkeypatch) -> None:
    monkeypatch.setattr(produce, "SILENT_BYTES_LOW", 2_000)
    monkeypatch.setattr(produce, "SILENT_BYTES_HIGH", 4_000)
    monkeypatch.setattr(produce, "SILENT_BYTES_MAX", 8_000)
    node = OneNode()
    topic = node.create()
    client = node.client()
    batch = a_batch(b"x" * 900)
    for _ in range(4):
        client.ask(*produce_of(0, (topic, 0, batch)))
    assert client.holds == []
    client.ask(*produce_of(0, (topic, 0, batch)))
    assert client.holds == ["pause"]
    for _ in range(20):  # it does not heed the pause
        client.ask(*produce_of(0, (topic, 0, batch)))
    assert len(node.submitted) == 8_000 // len(batch)
    node.turns()
    assert client.holds == ["pause", "resume"]
    assert not client.replies


def test_a_client_that_left_is_not_answered_and_leaves_nothing_behind() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    client.ask(*produce_of(2, (topic, 0, a_batch(b"v"))))
    client.ask(*produce_of(0, (topic, 0, a_batch(b"w"))))
    client.close()
    node.turns()
    assert not client.replies
    assert node.log(topic, 0).end == 2
    assert node.requests.produces.bytes_in_flight == 0
    assert not node.requests.produces._silent


def test_too_many_batches_are_refused_as_a_whole() -> None:
    node = OneNode()
    topic = node.create()
    batch = a_batch(b"v")
    message, payload = produce_of(2, *[(topic, 0, batch)] * (bounds.REQUEST_BATCHES_MAX + 1))
    reply = node.client().call(message, payload)
    assert isinstance(reply, m.ErrorReply)
    assert reply.error == errors.INVALID_ARGUMENT
    assert "batches" in reply.message


def test_only_data_commands_are_made() -> None:
    node = OneNode()
    topic = node.create()
    node.client().ask(*produce_of(2, (topic, 0, a_batch(b"v"))))
    assert [kind for _, kind, *_ in node.submitted] == [CommandKind.DATA]
