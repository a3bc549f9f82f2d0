"""ApiVersions, Metadata, Produce, Fetch and ListOffsets in every version, written and read by Kafka's own schemas."""

from __future__ import annotations

import datetime
import struct
import uuid
from typing import Any

import pytest
from kafka_world import KafkaClient, KafkaNode, decoded, encoded, fields_of, nested, request, versions

from corgi.base.batch import ATTRIBUTE_CONTROL, HEADER, parse_header
from corgi.base.errors import NOT_LEADER
from corgi.base.ids import NodeId, TopicId
from corgi.base.records import decode_batch, encode_batch, sign
from corgi.kafka.table import APIS
from one_node import START_MS

PRODUCE, FETCH, LIST_OFFSETS, METADATA, API_VERSIONS, INIT_PRODUCER_ID = 0, 1, 2, 3, 18, 22


def milliseconds(number: int) -> Any:
    return datetime.timedelta(milliseconds=number)


def batch_of(*values: bytes, codec: str = "none", **fields: Any) -> bytes:
    return encode_batch([(b"k", value, (), START_MS + i) for i, value in enumerate(values)], **fields)


def produce(version: int, name: str, partitions: dict[int, bytes | None], acks: int = -1) -> Any:
    cls = request(PRODUCE, version)
    topic = nested(cls, "topic_data")
    part = nested(topic, "partition_data")
    data = tuple(fields_of(part, index=i, records=records) for i, records in partitions.items())
    return fields_of(
        cls,
        transactional_id=None,
        acks=acks,
        timeout=milliseconds(1000),
        topic_data=(fields_of(topic, name=name, partition_data=data),),
    )


def fetch(
    version: int, name: str, offsets: dict[int, int], *, wait_ms: int = 0, bytes_min: int = 1, committed: bool = False,
    bytes_max: int = 1 << 20, part_bytes: int = 1 << 20, topic_id: uuid.UUID | None = None, **more: Any,
) -> Any:  # fmt: skip
    cls = request(FETCH, version)
    topic = nested(cls, "topics")
    part = nested(topic, "partitions")
    wanted = tuple(
        fields_of(part, partition=i, fetch_offset=offset, partition_max_bytes=part_bytes, **more)
        for i, offset in offsets.items()
    )
    return fields_of(
        cls, replica_id=-1, max_wait=milliseconds(wait_ms), min_bytes=bytes_min, max_bytes=bytes_max,
        isolation_level=int(committed), session_id=0, session_epoch=-1, forgotten_topics_data=(), rack_id="",
        topics=(fields_of(topic, topic=name, topic_id=topic_id, partitions=wanted),),
    )  # fmt: skip


def id_of(world: KafkaNode, topic: TopicId) -> uuid.UUID:
    return uuid.UUID(bytes=world.front.uuid_of(topic))


def asking(cls: Any, name: str | None, *, create: bool = False) -> Any:
    """A Metadata request for one topic, or all."""
    kind = nested(cls, "topics")
    topics: Any = (kind(name=name),) if name is not None else None if cls.__version__ else ()
    return fields_of(
        cls, topics=topics, allow_auto_topic_creation=create,
        include_cluster_authorized_operations=False, include_topic_authorized_operations=False,
    )  # fmt: skip


@pytest.fixture
def world() -> KafkaNode:
    return KafkaNode()


@pytest.fixture
def client(world: KafkaNode) -> KafkaClient:
    return world.client()


@pytest.mark.parametrize("version", versions(API_VERSIONS))
def test_a_client_is_told_what_is_served(client: KafkaClient, version: int) -> None:
    cls = request(API_VERSIONS, version)
    answer = client.call(fields_of(cls, client_software_name="test", client_software_version="1.0"))
    assert answer.error_code == 0
    told = {int(one.api_key): (int(one.min_version), int(one.max_version)) for one in answer.api_keys}
    assert told == {key: api.told for key, api in APIS.items()}
    assert told[PRODUCE][0] == 0, "older librdkafka tests for it"


def test_a_version_that_is_not_known_is_answered_with_the_list_in_version_0(client: KafkaClient) -> None:
    client.take(struct.pack(">hhih", API_VERSIONS, 99, 5, 1) + b"x\0")
    ((correlation, body),) = client.answers()
    assert correlation == 5
    assert int.from_bytes(body[:2], signed=True) == 35
    assert client.failure is None


@pytest.mark.parametrize("name", ["", "-", "with space", "x" * 10 + "-"])
def test_a_software_name_that_cannot_be_is_refused(client: KafkaClient, name: str) -> None:
    cls = request(API_VERSIONS, 3)
    assert client.call(cls(client_software_name=name, client_software_version="1")).error_code == 42


@pytest.mark.parametrize("version", versions(METADATA))
def test_metadata_names_nodes_topics_and_leaders(world: KafkaNode, client: KafkaClient, version: int) -> None:
    world.node.create("a", 3)
    cls = request(METADATA, version)
    everything = asking(cls, None, create=False)
    answer = client.call(everything)
    assert [(int(one.node_id), one.host, one.port) for one in answer.brokers] == [
        (node, "127.0.0.1", 9090 + node) for node in (1, 2, 3)
    ]
    (topic,) = answer.topics
    assert topic.name == "a"
    assert topic.error_code == 0
    assert [int(one.partition_index) for one in topic.partitions] == [0, 1, 2]
    for one in topic.partitions:
        assert int(one.leader_id) == 1
        assert sorted(map(int, one.replica_nodes)) == [1, 2, 3]
        if version >= 7:
            assert one.leader_epoch == 1
    if version >= 2:
        assert answer.cluster_id == world.front.cluster_id
    if version >= 10:
        assert topic.topic_id is not None
    again = client.call(everything)
    assert again == answer, "and from what is kept"


def test_metadata_is_asked_for_by_id(world: KafkaNode, client: KafkaClient) -> None:
    topic = world.node.create("a", 2)
    cls = request(METADATA, 12)
    kind = nested(cls, "topics")
    asked = (kind(name=None, topic_id=id_of(world, topic)), kind(name=None, topic_id=uuid.UUID(int=7)))
    answer = client.call(
        cls(topics=asked, allow_auto_topic_creation=True, include_topic_authorized_operations=False), wait_s=0.2
    )
    found, unknown = answer.topics
    assert (found.error_code, found.name, len(found.partitions)) == (0, "a", 2)
    assert (unknown.error_code, unknown.name, unknown.topic_id) == (100, None, uuid.UUID(int=7))


def test_who_asks_when_a_leader_has_died_is_told_of_its_heir(world: KafkaNode, client: KafkaClient) -> None:
    topic = world.node.create("a")
    group, detector = world.node.group_of(topic, 0), world.node.detector
    detector.connected(NodeId(2))
    world.node.groups[group].replica.leader = NodeId(2)
    cls = request(METADATA, 9)
    client.send(METADATA, 9, encoded(asking(cls, "a")))
    world.node.turns()
    assert client.answers() == [], "node 2 seems to live, but was not heard of since"
    detector.lost(NodeId(2))
    world.node.wait(0.01)
    ((_, body),) = client.answers()
    assert decoded(METADATA, 9, body).topics[0].partitions[0].leader_id == 1


def test_what_is_no_request_ends_the_connection_also_when_it_was_waited_for(
    world: KafkaNode, client: KafkaClient
) -> None:
    detector = world.node.detector
    detector.connected(NodeId(2))
    world.node.groups[0].replica.leader = NodeId(2)
    client.send(METADATA, 9, b"\xff\xff\xff")
    world.node.turns()
    detector.lost(NodeId(2))
    world.node.wait(0.01)
    assert client.failure is not None
    assert client.failure.code == "malformed-frame"


def test_metadata_is_made_anew_when_a_topic_changes(world: KafkaNode, client: KafkaClient) -> None:
    cls = request(METADATA, 9)
    assert client.call(asking(cls, None)).topics == ()
    world.node.create("a", 1)
    assert [topic.name for topic in client.call(asking(cls, None)).topics] == ["a"]


def test_a_topic_that_is_asked_for_is_made_only_if_the_client_allows_it(world: KafkaNode, client: KafkaClient) -> None:
    cls = request(METADATA, 9)
    refused = client.call(asking(cls, "new", create=False))
    assert [one.error_code for one in refused.topics] == [3]
    made = client.call(asking(cls, "new", create=True), wait_s=0.2)
    assert [(one.name, len(one.partitions)) for one in made.topics] == [("new", 3)]
    invalid = client.call(asking(cls, "in valid", create=True))
    assert [one.error_code for one in invalid.topics] == [17]


def test_no_topic_is_made_where_the_configuration_forbids_it() -> None:
    client = KafkaNode(create_topics=False).client()
    cls = request(METADATA, 9)
    answer = client.call(asking(cls, "new", create=True))
    assert [one.error_code for one in answer.topics] == [3]


@pytest.mark.parametrize("version", versions(PRODUCE))
def test_what_is_produced_lies_in_its_partition(world: KafkaNode, client: KafkaClient, version: int) -> None:
    topic = world.node.create("a", 2)
    for expected in (0, 2):
        answer = client.call(produce(version, "a", {0: batch_of(b"x", b"y"), 1: batch_of(b"z")}))
        first, second = answer.responses[0].partition_responses
        assert (first.error_code, first.base_offset) == (0, expected)
        assert (second.error_code, second.base_offset) == (0, expected // 2)
        if version >= 5:
            assert first.log_start_offset == 0
    assert (world.node.log(topic, 0).end, world.node.log(topic, 1).end) == (4, 2)


@pytest.mark.parametrize("version", versions(FETCH))
def test_what_lies_in_a_partition_is_fetched(world: KafkaNode, client: KafkaClient, version: int) -> None:
    topic = world.node.create("a", 2)
    world.node.produce(topic, 0, b"one", b"two")
    world.node.produce(topic, 0, b"three")
    answer = client.call(fetch(version, "a", {0: 1, 1: 0}, topic_id=id_of(world, topic)))
    if version >= 13:
        assert answer.responses[0].topic_id == id_of(world, topic)
    first, second = answer.responses[0].partitions
    assert first.error_code == second.error_code == 0
    assert (first.high_watermark, second.high_watermark) == (3, 0)
    whole = first.records
    head = parse_header(whole)
    assert head.base_offset == 0, "the batch that contains the offset"
    values = [record.value for record in decode_batch(whole[: head.length + 12])]
    assert values == [b"one", b"two"]
    rest = decode_batch(whole[head.length + 12 :])
    assert [(record.offset, record.value) for record in rest] == [(2, b"three")]
    assert not second.records


def test_a_fetch_at_the_end_waits_for_news_or_its_time(world: KafkaNode, client: KafkaClient) -> None:
    topic = world.node.create("a")
    ask = fetch(11, "a", {0: 0}, wait_ms=500)
    client.send(FETCH, 11, encoded(ask))
    world.node.turns()
    assert client.answers() == []
    world.node.produce(topic, 0, b"news")
    assert len(client.answers()) == 1
    client.send(FETCH, 11, encoded(fetch(11, "a", {0: 1}, wait_ms=500)))
    world.node.wait(0.4)
    assert client.answers() == []
    world.node.wait(0.2)
    assert len(client.answers()) == 1


@pytest.mark.parametrize(
    ("more", "code"),
    [({"current_leader_epoch": 0}, 74), ({"current_leader_epoch": 1}, 0), ({"current_leader_epoch": 2}, 75)],
)
def test_leader_epochs_are_checked(world: KafkaNode, client: KafkaClient, more: dict[str, int], code: int) -> None:
    world.node.create("a")
    answer = client.call(fetch(12, "a", {0: 0}, **more))
    assert answer.responses[0].partitions[0].error_code == code


@pytest.mark.parametrize("version", [13, 16])
def test_an_id_that_names_no_topic_is_told_as_such(world: KafkaNode, client: KafkaClient, version: int) -> None:
    topic = world.node.create("a")
    for unknown in (uuid.UUID(int=7), uuid.UUID(bytes=world.front.uuid_of(TopicId(topic + 1)))):
        answer = client.call(fetch(version, "", {0: 0}, topic_id=unknown, wait_ms=500))
        assert answer.responses[0].topic_id == unknown
        assert answer.responses[0].partitions[0].error_code == 100
    answer = client.call(fetch(version, "", {7: 0}, topic_id=id_of(world, topic), wait_ms=500))
    assert answer.responses[0].partitions[0].error_code == 3


def test_who_is_fenced_is_told_the_leader_and_where_it_is(world: KafkaNode, client: KafkaClient) -> None:
    topic = world.node.create("a", 2)
    group = world.node.group_of(topic, 1)
    world.node.groups[group].replica.leader = NodeId(3)
    known = world.front.alive()
    world.front.alive = lambda: known | {NodeId(3)}  # type: ignore[method-assign]
    answer = client.call(fetch(16, "", {0: 0, 1: 0}, topic_id=id_of(world, topic), current_leader_epoch=0, wait_ms=500))
    first, second = answer.responses[0].partitions
    assert (first.error_code, second.error_code) == (74, 74)
    assert (first.current_leader.leader_id, first.current_leader.leader_epoch) == (1, 1)
    assert (second.current_leader.leader_id, second.current_leader.leader_epoch) == (3, 1)
    told = [(one.node_id, one.host, one.port, one.rack) for one in answer.node_endpoints]
    assert told == [(1, "127.0.0.1", 9091, "host-1"), (3, "127.0.0.1", 9093, "host-3")]
    answer = client.call(fetch(16, "", {0: 0}, topic_id=id_of(world, topic), current_leader_epoch=1))
    assert answer.node_endpoints == ()


def test_a_producer_that_has_to_ask_another_node_is_told_which(world: KafkaNode, client: KafkaClient) -> None:
    topic = world.node.create("a")
    world.node.answer_instead = lambda group, _: NOT_LEADER if group == world.node.group_of(topic, 0) else 0
    (part,) = client.call(produce(10, "a", {0: batch_of(b"x")})).responses[0].partition_responses
    assert (part.error_code, part.current_leader.leader_id, part.current_leader.leader_epoch) == (6, 1, 1)


@pytest.mark.parametrize(("name", "partition", "offset", "code"), [("b", 0, 0, 3), ("a", 7, 0, 3), ("a", 0, 5, 1)])
def test_what_cannot_be_fetched_is_told_at_once(
    world: KafkaNode, client: KafkaClient, name: str, partition: int, offset: int, code: int
) -> None:
    world.node.create("a")
    answer = client.call(fetch(11, name, {partition: offset}, wait_ms=500))
    assert answer.responses[0].partitions[0].error_code == code


def test_a_session_is_not_made(client: KafkaClient, world: KafkaNode) -> None:
    world.node.create("a")
    ask = fetch(11, "a", {0: 0})
    assert client.call(type(ask)(**{**vars_of(ask), "session_id": 7})).error_code == 70
    answer = client.call(type(ask)(**{**vars_of(ask), "session_epoch": 0}))
    assert (answer.error_code, answer.session_id) == (0, 0)


def vars_of(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in type(one).__dataclass_fields__ if not name.startswith("__")}


def a_control_batch() -> bytes:
    fields = list(parse_header(batch_of(b"x")))
    fields[5] |= ATTRIBUTE_CONTROL
    batch = bytearray(HEADER.pack(*fields) + batch_of(b"x")[HEADER.size :])
    sign(batch)
    return bytes(batch)


def changed(at: int, byte: int) -> bytes:
    batch = bytearray(batch_of(b"x", b"y"))
    batch[at] = byte
    return bytes(batch)


@pytest.mark.parametrize(
    ("records", "code"),
    [
        (None, 87),
        (b"", 87),
        (b"x" * 100, 87),
        (batch_of(b"x") + batch_of(b"y"), 87),
        (changed(16, 1), 87),
        (changed(60, 9), 87),
        (changed(-1 % len(batch_of(b"x", b"y")), 0x55), 2),
        (batch_of(b"x" * 2_000_000), 10),
        (a_control_batch(), 87),
        (batch_of(b"x")[:-1], 2),
    ],
    ids=["null", "empty", "rubbish", "two", "old", "count", "crc", "large", "control", "cut"],
)
@pytest.mark.parametrize("version", [3, 8, 10])
def test_a_bad_batch_is_refused_alone(
    world: KafkaNode, client: KafkaClient, version: int, records: bytes | None, code: int
) -> None:
    topic = world.node.create("a", 2)
    answer = client.call(produce(version, "a", {0: records, 1: batch_of(b"good")}))
    bad, good = answer.responses[0].partition_responses
    assert (bad.error_code, good.error_code) == (code, 0)
    assert client.failure is None
    assert (world.node.log(topic, 0).end, world.node.log(topic, 1).end) == (0, 1)


def test_an_acks_that_is_none_is_refused(world: KafkaNode, client: KafkaClient) -> None:
    world.node.create("a")
    answer = client.call(produce(9, "a", {0: batch_of(b"x")}, acks=2))
    assert answer.responses[0].partition_responses[0].error_code == 21


def test_acks_0_gets_no_answer_and_an_error_ends_the_connection(world: KafkaNode, client: KafkaClient) -> None:
    topic = world.node.create("a")
    client.send(PRODUCE, 9, encoded(produce(9, "a", {0: batch_of(b"x")}, acks=0)))
    world.node.turns()
    assert client.answers() == []
    assert world.node.log(topic, 0).end == 1
    client.send(PRODUCE, 9, encoded(produce(9, "missing", {0: batch_of(b"x")}, acks=0)))
    world.node.turns()
    assert client.answers() == []
    assert client.failure is not None


def test_answers_leave_in_the_order_of_the_requests(world: KafkaNode, client: KafkaClient) -> None:
    topic = world.node.create("a")
    waiting = client.send(FETCH, 11, encoded(fetch(11, "a", {0: 0}, wait_ms=500)))
    written = client.send(PRODUCE, 9, encoded(produce(9, "a", {0: batch_of(b"x")})))
    asked = client.send(API_VERSIONS, 0, b"")
    world.node.turns()
    assert world.node.log(topic, 0).end == 1, "worked on side by side"
    assert [correlation for correlation, _ in client.answers()] == [waiting, written, asked]


def test_a_client_that_asks_without_end_is_not_read_meanwhile(world: KafkaNode, client: KafkaClient) -> None:
    world.node.create("a")
    ask = encoded(fetch(11, "a", {0: 0}, wait_ms=500))
    client.send(FETCH, 11, ask)
    for _ in range(255):
        client.send(API_VERSIONS, 0, b"")
    assert client.held
    world.node.wait(0.6)
    assert len(client.answers()) == 256
    assert not client.held


@pytest.mark.parametrize("version", versions(LIST_OFFSETS))
def test_ends_starts_and_times(world: KafkaNode, client: KafkaClient, version: int) -> None:
    topic = world.node.create("a")
    for i in range(3):
        batch = encode_batch([(None, b"x", (), START_MS + 10 * i + j) for j in range(3)])
        client.call(produce(9, "a", {0: batch}))
    assert world.node.log(topic, 0).end == 9
    cls = request(LIST_OFFSETS, version)
    kind = nested(cls, "topics")
    place = nested(kind, "partitions")

    def ask(timestamp: int) -> tuple[int, int]:
        part = fields_of(place, partition_index=0, current_leader_epoch=-1, timestamp=timestamp)
        topics = (fields_of(kind, name="a", partitions=(part,)),)
        given = fields_of(cls, replica_id=-1, isolation_level=0, topics=topics, timeout=milliseconds(1000))
        found = client.call(given).topics[0].partitions[0]
        assert found.error_code == 0
        return found.offset, found.timestamp

    assert ask(-1) == (9, -1)
    assert ask(-2) == (0, -1)
    assert ask(-3) == (8, START_MS + 22)
    assert ask(START_MS) == (0, START_MS)
    assert ask(START_MS + 2) == (2, START_MS + 2), "the record, not its batch"
    assert ask(START_MS + 5) == (3, START_MS + 10)
    assert ask(START_MS + 100) == (-1, -1)


def test_a_time_in_a_batch_on_the_disk_waits_for_it(world: KafkaNode, client: KafkaClient) -> None:
    world.node.create("a")
    client.call(produce(9, "a", {0: batch_of(b"x", b"y")}))
    world.node.chill()
    cls = request(LIST_OFFSETS, 5)
    kind = nested(cls, "topics")
    part = fields_of(nested(kind, "partitions"), partition_index=0, current_leader_epoch=-1, timestamp=START_MS + 1)
    ask = cls(replica_id=-1, isolation_level=0, topics=(kind(name="a", partitions=(part,)),))
    client.send(LIST_OFFSETS, 5, encoded(ask))
    world.node.turns()
    assert client.answers() == []
    world.node.thaw()
    assert len(client.answers()) == 1


@pytest.mark.parametrize("version", versions(INIT_PRODUCER_ID))
def test_an_idempotent_producer_gets_an_id_and_is_not_doubled(
    world: KafkaNode, client: KafkaClient, version: int
) -> None:
    topic = world.node.create("a")
    cls = request(INIT_PRODUCER_ID, version)
    found = client.call(fields_of(cls, transactional_id=None, transaction_timeout=milliseconds(1000)))
    assert found.error_code == 0
    assert (found.producer_id >= 0, found.producer_epoch) == (True, 0)
    batch = batch_of(b"x", producer_id=found.producer_id, producer_epoch=0, base_sequence=0)
    for _ in range(2):
        answer = client.call(produce(9, "a", {0: batch})).responses[0].partition_responses[0]
        assert (answer.error_code, answer.base_offset) == (0, 0)
    assert world.node.log(topic, 0).end == 1
    late = batch_of(b"y", producer_id=found.producer_id, producer_epoch=0, base_sequence=5)
    assert client.call(produce(9, "a", {0: late})).responses[0].partition_responses[0].error_code == 45


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (struct.pack(">hhih", 77, 0, 1, -1), "unsupported-version"),
        (struct.pack(">hhih", PRODUCE, 2, 1, -1), "unsupported-version"),
        (struct.pack(">hhih", FETCH, 99, 1, -1), "unsupported-version"),
        (struct.pack(">hhih", FETCH, 11, 1, -1) + b"\0", "malformed-frame"),
        (struct.pack(">hhih", FETCH, 11, 1, 500), "malformed-frame"),
        (struct.pack(">hhih", PRODUCE, 9, 1, -1) + b"\0\0\xff\xff\0\0\0\1\xff\xff\xff\xff\x0f", "malformed-frame"),
    ],
)
def test_what_is_no_request_ends_the_connection(world: KafkaNode, client: KafkaClient, data: bytes, code: str) -> None:
    client.take(data)
    assert client.failure is not None
    assert client.failure.code == code
    assert client.answers() == []
