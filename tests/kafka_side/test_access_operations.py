"""Which of Kafka's operations decides where an answer leaves things out, or is written by hand."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from access_world import (
    BATCH,
    MINE,
    THEIRS,
    TOPIC,
    TRANSACTION,
    a_world,
    come,
    fetched,
    produced,
    put,
    topic_of_metadata,
    with_and_without,
)
from kafka_world import KafkaClient, KafkaNode, fields_of, nested, request

from corgi.base.records import restamped
from corgi.kafka.access import CLUSTER_NAME, Kind, Operation, Rule
from corgi.kafka.apis import (
    add_partitions_to_txn,
    create_topics,
    delete_topics,
    describe_transactions,
    init_producer_id,
    list_groups,
    list_transactions,
    offset_commit,
    offset_delete,
    offset_fetch,
)
from corgi.kafka.codec import NO_UUID
from corgi.kafka.transactional import Places

READ, WRITE, CREATE, DESCRIBE = Operation.READ, Operation.WRITE, Operation.CREATE, Operation.DESCRIBE
Look = Callable[[KafkaNode], object]


def uuid_of(world: KafkaNode, name: str) -> bytes:
    topic = world.front.topic(name)
    assert topic is not None
    return world.front.uuid_of(topic.topic)


def prepared(world: KafkaNode) -> None:
    """Root has used both groups and both transactional ids, each with both topics."""
    root = come(world, "root")
    topics = tuple([offset_commit.Topic(topic, (offset_commit.Place(0, 0),)) for topic in (MINE, THEIRS)])
    for name in (MINE, THEIRS):
        put(root, offset_commit, offset_commit.Request(name, topics=topics))
        got = put(root, init_producer_id, init_producer_id.Request(name, 60_000))
        places = tuple([Places(topic, (0,)) for topic in (MINE, THEIRS)])
        wanted = add_partitions_to_txn.Request(name, got.producer_id, got.producer_epoch, places)
        added = put(root, add_partitions_to_txn, wanted)
        assert {one.error for topic in added.topics for one in topic.partitions} == {0}
        world.node.wait(1)


def alice(world: KafkaNode) -> KafkaClient:
    return come(world, "alice")


def all_topics(world: KafkaNode) -> object:
    return sorted(topic.name for topic in topic_of_metadata(alice(world), 12, None))


def groups(world: KafkaNode) -> object:
    return sorted(one.group for one in put(alice(world), list_groups, list_groups.Request()).groups)


def transactions(world: KafkaNode) -> object:
    return sorted(one.name for one in put(alice(world), list_transactions, list_transactions.Request((), ())).states)


def commits(world: KafkaNode, name: str = "alice") -> object:
    wanted = offset_fetch.Request(groups=(offset_fetch.Group(MINE, topics=None),))
    (group,) = put(come(world, name), offset_fetch, wanted).groups
    return sorted(topic.name for topic in group.topics)


def topics_of_a_transaction(world: KafkaNode) -> object:
    (found,) = put(alice(world), describe_transactions, describe_transactions.Request((MINE,))).states
    return sorted(topic.name for topic in found.topics)


@pytest.mark.parametrize(
    ("look", "kind"),
    [
        (all_topics, Kind.TOPIC),
        (groups, Kind.GROUP),
        (transactions, Kind.TRANSACTIONAL_ID),
        (commits, Kind.TOPIC),
        (topics_of_a_transaction, Kind.TOPIC),
    ],
)
def test_what_may_be_described_is_listed(look: Look, kind: Kind) -> None:
    seen, hidden = with_and_without(DESCRIBE, kind)
    for world in (seen, hidden):
        prepared(world)
    assert look(seen) == [MINE, THEIRS]
    assert look(hidden) == [MINE]


def test_who_may_describe_the_cluster_sees_every_group() -> None:
    seen, hidden = with_and_without(DESCRIBE, Kind.CLUSTER, CLUSTER_NAME)
    for world in (seen, hidden):
        prepared(world)
    assert (groups(seen), groups(hidden)) == ([MINE, THEIRS], [MINE])


def test_metadata_is_for_who_may_describe() -> None:
    seen, hidden = with_and_without(DESCRIBE, Kind.TOPIC)
    for world, code in ((seen, 0), (hidden, TOPIC)):
        (topic,) = topic_of_metadata(alice(world), 9, THEIRS)
        assert int(topic.error_code) == code


@pytest.mark.parametrize("version", [4, 12, 13, 16])
def test_records_are_for_who_may_read(version: int) -> None:
    read, hidden = with_and_without(READ, Kind.TOPIC)
    for world, code in ((read, 0), (hidden, TOPIC)):
        topic = world.front.topic(THEIRS)
        assert topic is not None
        world.node.produce(topic.topic, 0, b"secret")
        error, records = fetched(alice(world), THEIRS, version, UUID(bytes=uuid_of(world, THEIRS)))
        assert (error, b"secret" in records) == (code, code == 0)


def test_what_is_written_is_of_who_may_write() -> None:
    for world, code in zip(with_and_without(WRITE, Kind.TOPIC), (0, TOPIC), strict=True):
        assert produced(alice(world), THEIRS, BATCH) == code
    in_transaction = bytes(restamped(BATCH, 7, 0, 0, transactional=True))
    for world, refused in zip(with_and_without(WRITE, Kind.TRANSACTIONAL_ID), (False, True), strict=True):
        assert (produced(alice(world), MINE, in_transaction, THEIRS) == TRANSACTION) is refused


def test_a_topic_that_is_named_by_its_id_is_told_by_name_to_who_may_describe_it() -> None:
    for world, name in zip(with_and_without(DESCRIBE, Kind.TOPIC), (THEIRS, None), strict=True):
        wanted = delete_topics.Wanted(None, uuid_of(world, THEIRS))
        (told,) = put(alice(world), delete_topics, delete_topics.Request(topics=(wanted,))).results
        assert (told.error, told.name) == (TOPIC, name)
        assert world.front.topic(THEIRS) is not None


def test_the_id_of_a_topic_is_told_to_who_may_describe_it() -> None:
    for rules, seen in (([], False), ([Rule("alice", True, DESCRIBE, Kind.TOPIC, THEIRS)], True)):
        world = a_world(rules)
        wanted = delete_topics.Request(topics=(delete_topics.Wanted(THEIRS),))
        (told,) = put(alice(world), delete_topics, wanted).results
        assert (told.error, told.topic_id) == (TOPIC, uuid_of(world, THEIRS) if seen else NO_UUID)


def test_metadata_by_id_is_for_who_may_describe() -> None:
    for world, code in zip(with_and_without(DESCRIBE, Kind.TOPIC), (0, TOPIC), strict=True):
        cls = request(3, 12)
        topic = fields_of(nested(cls, "topics"), name=None, topic_id=UUID(bytes=uuid_of(world, THEIRS)))
        asked = fields_of(
            cls, topics=(topic,), allow_auto_topic_creation=False, include_topic_authorized_operations=False
        )
        (told,) = alice(world).call(asked).topics
        assert (int(told.error_code), told.name) == (code, None if code else THEIRS)


def test_a_topic_is_made_by_who_may_create_in_the_cluster_and_its_configuration_told_to_who_may_see_it() -> None:
    wanted = create_topics.Request((create_topics.Wanted("new", 1, 1),), 1000)
    may, may_not = with_and_without(CREATE, Kind.CLUSTER, CLUSTER_NAME)
    (made,) = put(alice(may), create_topics, wanted).topics
    assert (made.error, made.config_error) == (0, TOPIC)
    (refused,) = put(alice(may_not), create_topics, wanted).topics
    assert refused.error == TOPIC
    rules = [Rule("alice", True, one, Kind.TOPIC, "new") for one in (CREATE, Operation.DESCRIBE_CONFIGS)]
    (made,) = put(alice(a_world(rules)), create_topics, wanted).topics
    assert (made.error, made.config_error) == (0, 0)
    assert made.configs


def test_what_may_not_be_read_is_not_forgotten() -> None:
    for world, code in zip(with_and_without(READ, Kind.TOPIC), (0, TOPIC), strict=True):
        prepared(world)
        wanted = offset_delete.Request(MINE, (offset_delete.Topic(THEIRS, (offset_delete.Place(0),)),))
        (topic,) = put(alice(world), offset_delete, wanted).topics
        assert topic.partitions[0].error == code
        left = put(
            come(world, "root"), offset_fetch, offset_fetch.Request(groups=(offset_fetch.Group(MINE, topics=None),))
        )
        assert sorted(one.name for one in left.groups[0].topics) == ([MINE, THEIRS] if code else [MINE])
