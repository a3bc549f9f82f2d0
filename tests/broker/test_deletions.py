"""DeleteRecords: log starts moved on request, whose offsets are checked against a confirmed end."""

from __future__ import annotations

from corgi.base import errors
from corgi.base.command import CommandKind
from corgi.base.ids import TopicId
from corgi.base.records import encode_batch
from corgi.wire import messages as m
from one_node import START_MS, OneNode, produce_of


def filled(node: OneNode, partitions: int = 1) -> TopicId:
    """Two batches of two records in each partition."""
    topic = node.create("t", partitions)
    for partition in range(partitions):
        for i in range(2):
            batch = encode_batch([(None, b"v", (), START_MS + 10 * i + j) for j in range(2)])
            node.client().call(*produce_of(2, (topic, partition, batch)))
    return topic


def delete(node: OneNode, *places: tuple[int, int, int]) -> object:
    return node.client().call(m.DeleteRecords(places)).partitions


def test_what_lies_before_an_offset_is_gone_exactly() -> None:
    node = OneNode(groups=2)
    topic = filled(node)
    assert delete(node, (topic, 0, 3)) == ((0, 3),)
    client = node.client()
    assert client.call(m.ListOffsets(((topic, 0, -2), (topic, 0, -1)))).partitions == ((0, 3, -1), (0, 4, -1))
    assert client.call(m.Fetch(0, 1, 1000, ((topic, 0, 2, 1000),))).partitions[0][0] == errors.OFFSET_OUT_OF_RANGE
    ((error, end, start, lengths),) = client.call(m.Fetch(0, 1, 1000, ((topic, 0, 3, 1000),))).partitions
    assert (error, end, start, len(lengths)) == (0, 4, 3, 1), "the batch that holds it comes as a whole"
    assert client.call(m.ListOffsets(((topic, 0, START_MS),))).partitions == ((0, 3, START_MS + 11),)


def test_the_end_means_all_that_is_there() -> None:
    node = OneNode(groups=2)
    topic = filled(node, 3)
    assert delete(node, *[(topic, p, -1) for p in range(3)]) == ((0, 4),) * 3
    node.produce(topic, 1, b"later")
    assert delete(node, (topic, 1, 0), (topic, 1, 2)) == ((0, 4), (0, 4)), "a start never goes back"


def test_what_cannot_be_is_told_per_partition_and_nothing_is_moved() -> None:
    node = OneNode(groups=2)
    topic = filled(node)
    told = delete(node, (topic, 0, 5), (topic, 7, 0), (TopicId(2**31), 0, 0), (TopicId(1), 0, 0), (topic, 0, 1))
    assert told == (
        (errors.OFFSET_OUT_OF_RANGE, -1),
        (errors.UNKNOWN_PARTITION, -1),
        (errors.UNKNOWN_TOPIC, -1),
        (errors.UNKNOWN_TOPIC, -1),
        (0, 1),
    )


def test_without_a_quorum_nothing_is_promised() -> None:
    for kind in (CommandKind.BARRIER, CommandKind.LOG_START):
        node = OneNode(groups=1)
        topic = filled(node)
        node.answer_instead = lambda group, asked, kind=kind: errors.NO_QUORUM if asked == kind else 0  # type: ignore[misc]
        assert delete(node, (topic, 0, 3)) == ((errors.NO_QUORUM, -1),)
