"""The APIs of transactions in every version on one node, written and read by Kafka's own schemas."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from kafka_world import KafkaClient, KafkaNode, encoded, fields_of, nested, request, versions

from corgi.base.ids import TopicId
from corgi.base.records import encode_batch, restamped
from corgi.kafka.apis import describe_transactions
from corgi.kafka.codec import Reader, read_body
from corgi.wire.messages import Produce
from one_node import START_MS

INIT, ADD, ADD_OFFSETS, END, COMMIT_OFFSETS, PRODUCERS, DESCRIBE, LIST = 22, 24, 25, 26, 28, 61, 65, 66


class Producer:
    """A transactional producer that speaks Kafka's protocol in given versions."""

    def __init__(self, world: KafkaNode, name: str = "payments", version: int = 4, **more: Any) -> None:
        self.world = world
        self.client = world.client()
        self.name = name
        self.begun = self.init(version, **more)
        self.id, self.epoch = self.begun.producer_id, self.begun.producer_epoch
        self.sequences: dict[tuple[int, int], int] = {}

    def init(self, version: int = 4, timeout_ms: int = 5_000, **more: Any) -> Any:
        timeout = datetime.timedelta(milliseconds=timeout_ms)
        fields = {"transactional_id": self.name, "transaction_timeout": timeout, **more}
        return self.client.call(fields_of(request(INIT, version), **fields))

    def add(self, topic: str, *partitions: int, version: int = 3) -> list[int]:
        cls = request(ADD, version)
        topics = (nested(cls, "v3_and_below_topics")(name=topic, partitions=partitions),)
        (found,) = self.client.call(self.of(cls, v3_and_below_topics=topics)).results_by_topic_v3_and_below
        return [int(one.partition_error_code) for one in found.results_by_partition]

    def add_offsets(self, group: str, version: int = 3) -> int:
        return int(self.client.call(self.of(request(ADD_OFFSETS, version), group_id=group)).error_code)

    def move(self, group: str, topic: str, offsets: dict[int, int], version: int = 3) -> list[int]:
        cls = request(COMMIT_OFFSETS, version)
        kind = nested(cls, "topics")
        part = nested(kind, "partitions")
        parts = tuple(
            fields_of(part, partition_index=i, committed_offset=o, committed_leader_epoch=-1, committed_metadata="m")
            for i, o in offsets.items()
        )
        topics = (kind(name=topic, partitions=parts),)
        more = {"generation_id": -1, "member_id": "", "group_instance_id": None}
        found = self.client.call(self.of(cls, group_id=group, topics=topics, **more))
        return [int(one.error_code) for one in found.topics[0].partitions]

    def end(self, *, commit: bool, version: int = 4) -> int:
        return int(self.client.call(self.of(request(END, version), committed=commit)).error_code)

    def of(self, cls: Any, **fields: Any) -> Any:
        return fields_of(
            cls,
            **{f"{prefix}transactional_id": self.name for prefix in ("", "v3_and_below_")},
            **{f"{prefix}producer_id": self.id for prefix in ("", "v3_and_below_")},
            **{f"{prefix}producer_epoch": self.epoch for prefix in ("", "v3_and_below_")},
            **fields,
        )

    def put(self, topic: TopicId, partition: int, value: bytes) -> int:
        sequence = self.sequences.get((topic, partition), 0)
        batch = restamped(
            encode_batch([(None, value, (), START_MS)]), self.id, self.epoch, sequence, transactional=True
        )
        client = self.world.node.client()
        reply = client.call(Produce(2, 1000, ((topic, partition, len(batch)),)), bytes(batch))
        self.sequences[topic, partition] = sequence + 1
        return int(reply.results[0][0])


@pytest.fixture
def world() -> KafkaNode:
    return KafkaNode()


def stable_end(world: KafkaNode, topic: TopicId, partition: int) -> int:
    log = world.node.log(topic, partition)
    return int(log.end if log.transactions is None else log.transactions.stable_end(log.end))


@pytest.mark.parametrize("version", range(5))
def test_a_transaction_in_every_version(world: KafkaNode, version: int) -> None:
    topic = world.node.create("a", 3)
    producer = Producer(world, version=version)
    for number, commit in enumerate((True, False, True)):
        assert producer.add("a", 0, 1, version=min(version, 3)) == [0, 0]
        assert producer.add_offsets("readers", min(version, 3)) == 0
        assert producer.put(topic, 0, b"x") == 0
        assert stable_end(world, topic, 0) == 2 * number
        assert producer.end(commit=commit, version=version) == 0
        assert producer.end(commit=commit, version=version) == 0, "it may be repeated"
        assert producer.end(commit=not commit, version=version) == 48
        assert stable_end(world, topic, 0) == 2 * number + 2, "the record and the control batch"
    assert len(world.node.log(topic, 0).transactions.aborted()) == 1


@pytest.mark.parametrize(("version", "code"), [(0, 47), (1, 47), (2, 90), (3, 90)])
def test_who_was_fenced_is_told_in_the_words_of_the_version(world: KafkaNode, version: int, code: int) -> None:
    topic = world.node.create("a", 3)
    old = Producer(world)
    assert old.add("a", 0) == [0]
    assert old.put(topic, 0, b"x") == 0
    new = Producer(world)
    assert (new.id, new.epoch > old.epoch) == (old.id, True)
    assert stable_end(world, topic, 0) == 2, "what it left open is aborted"
    assert old.add("a", 0, version=version) == [code]
    assert old.add_offsets("readers", version) == code
    assert old.end(commit=True, version=version) == code
    assert old.move("readers", "a", {0: 1}, version) == [47]


def test_a_producer_goes_on_with_its_own_id_unless_somebody_else_has_begun(world: KafkaNode) -> None:
    producer = Producer(world)
    again = producer.init(producer_id=producer.id, producer_epoch=producer.epoch)
    assert (again.error_code, again.producer_id, again.producer_epoch) == (0, producer.id, producer.epoch + 1)
    assert producer.init(producer_id=producer.id, producer_epoch=producer.epoch).error_code == 90
    assert producer.init(3, producer_id=producer.id, producer_epoch=producer.epoch).error_code == 47
    open_one = Producer(world, "other")
    world.node.create("a", 1)
    assert open_one.add("a", 0) == [0]
    further = open_one.init(producer_id=open_one.id, producer_epoch=open_one.epoch)
    assert (further.error_code, further.producer_epoch > open_one.epoch) == (0, True)


@pytest.mark.parametrize(("timeout_ms", "code"), [(0, 50), (900_000, 0), (900_001, 50)])
def test_a_transaction_may_live_a_quarter_of_an_hour(world: KafkaNode, timeout_ms: int, code: int) -> None:
    assert Producer(world, timeout_ms=timeout_ms).begun.error_code == code


def test_an_id_that_is_none_is_refused(world: KafkaNode) -> None:
    assert Producer(world, "").begun.error_code == 42
    assert Producer(world, "x" * 1_000).begun.error_code == 42


def test_the_life_of_a_transaction_is_what_its_producer_told_at_the_beginning(world: KafkaNode) -> None:
    topic = world.node.create("a", 1)
    producer = Producer(world, timeout_ms=3_000)
    assert producer.add("a", 0) == [0]
    assert producer.put(topic, 0, b"x") == 0
    world.node.wait(2.5)
    assert stable_end(world, topic, 0) == 0
    world.node.wait(1.5)
    assert stable_end(world, topic, 0) == 2
    assert producer.end(commit=True) == 90
    assert producer.add("a", 0) == [90]
    again = producer.init(producer_id=producer.id, producer_epoch=producer.epoch)
    assert again.error_code == 0, "nobody else has begun"


def test_a_partition_that_is_not_there_is_told_and_the_others_are_not_tried(world: KafkaNode) -> None:
    world.node.create("a", 1)
    producer = Producer(world)
    assert producer.add("a", 0, 7) == [55, 3]
    assert producer.add("b", 0) == [3]
    assert producer.end(commit=True) in (0, 48), "nothing was open"


def test_who_never_began_has_no_id(world: KafkaNode) -> None:
    world.node.create("a", 1)
    producer = Producer(world)
    producer.name = "somebody else"
    assert producer.add("a", 0) == [49]
    assert producer.end(commit=True) == 49


@pytest.mark.parametrize("version", versions(COMMIT_OFFSETS))
def test_checkpoints_move_when_the_transaction_commits(world: KafkaNode, version: int) -> None:
    topic = world.node.create("a", 2)
    world.node.produce(topic, 0, b"x", b"y", b"z")
    producer = Producer(world)

    def checkpoint() -> int:
        cursors = world.node.groups[world.node.group_of(topic, 0)].machine.cursors
        return int(cursors.by_partition.get((topic, 0), {}).get(("readers", 0), (0, "", 0, -1))[3])

    assert producer.move("readers", "a", {0: 1}, version) == [48], "no transaction is open"
    for commit, offset, after in ((True, 2, 2), (False, 3, 2), (True, 1, 1)):
        assert producer.add_offsets("readers") == 0
        before = checkpoint()
        assert producer.move("readers", "a", {0: offset, 9: 1}, version) == [0, 3]
        assert checkpoint() == before
        assert producer.end(commit=commit) == 0
        assert checkpoint() == after
    assert producer.move("readers", "a", {0: 1}, version) == [48]


def test_a_partition_tells_of_its_producers(world: KafkaNode) -> None:
    topic = world.node.create("a", 2)
    producer = Producer(world)
    assert producer.add("a", 0) == [0]
    assert producer.put(topic, 0, b"x") == 0
    cls = request(PRODUCERS, 0)
    kind = nested(cls, "topics")
    found = producer.client.call(cls(topics=(kind(name="a", partition_indexes=(0, 1, 5)),))).topics[0].partitions
    assert [int(one.error_code) for one in found] == [0, 0, 3]
    (one,) = found[0].active_producers
    assert (one.producer_id, one.producer_epoch, one.last_sequence) == (producer.id, producer.epoch, 0)
    assert one.current_txn_start_offset == 0
    assert found[1].active_producers == ()


def describe(client: KafkaClient, *names: str) -> tuple[Any, ...]:
    """Read by our own declaration: kio does not take the time of -1 that Kafka tells where nothing has begun."""
    client.send(DESCRIBE, 0, encoded(request(DESCRIBE, 0)(transactional_ids=names)))
    client.world.node.turns()
    ((_, body),) = client.answers()
    assert body[0] == 0, "no tagged fields in a header"
    return read_body(describe_transactions.Response, 0, Reader(memoryview(body), 1), flexible=True).states


def listed(client: KafkaClient, version: int, **filters: Any) -> list[tuple[str, str]]:
    given = {"state_filters": (), "producer_id_filters": (), "duration_filter": -1, **filters}
    found = client.call(fields_of(request(LIST, version), **given))
    assert found.error_code == 0
    return sorted((one.transactional_id, one.transaction_state) for one in found.transaction_states)


@pytest.mark.parametrize("version", versions(LIST))
def test_transactions_are_listed_and_described(world: KafkaNode, version: int) -> None:
    world.node.create("a", 3)
    busy, idle, ended = (Producer(world, name) for name in ("busy", "idle", "ended"))
    assert busy.add("a", 0, 2) == [0, 0]
    assert ended.add("a", 0) == [0]
    assert ended.end(commit=False) == 0
    client = world.client()
    one, two, three, none = describe(client, "busy", "idle", "ended", "nobody")
    assert (one.state, one.producer_id, one.producer_epoch) == ("Ongoing", busy.id, busy.epoch)
    assert [(topic.name, topic.partitions) for topic in one.topics] == [("a", (0, 2))]
    assert (one.timeout_ms, one.started_ms > START_MS) == (5_000, True)
    assert [(other.state, other.started_ms) for other in (two, three)] == [("Empty", -1), ("CompleteAbort", -1)]
    assert none.error == 105
    assert listed(client, version) == [("busy", "Ongoing"), ("ended", "CompleteAbort"), ("idle", "Empty")]
    assert listed(client, version, state_filters=("Ongoing",)) == [("busy", "Ongoing")]
    assert listed(client, version, producer_id_filters=(idle.id,)) == [("idle", "Empty")]
    if version:
        world.node.wait(2.0)
        assert listed(client, version, duration_filter=1_000) == [("busy", "Ongoing")]
        assert listed(client, version, duration_filter=100_000) == []
