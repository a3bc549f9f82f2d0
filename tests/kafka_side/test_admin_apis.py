"""The administrators' APIs in every version, written and read by Kafka's own schemas."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest
from kafka_world import KafkaClient, KafkaNode, fields_of, nested, request, versions

from corgi.base import errors
from corgi.base.records import encode_batch
from one_node import START_MS

CREATE, DELETE, DELETE_RECORDS, DESCRIBE, ALTER, LOG_DIRS = 19, 20, 21, 32, 33, 35
PARTITIONS, ELECT, INCREMENTAL, CLUSTER = 37, 43, 44, 60
MINUTE = datetime.timedelta(minutes=1)
TOPIC, BROKER = 2, 4


@pytest.fixture
def world() -> KafkaNode:
    return KafkaNode()


@pytest.fixture
def client(world: KafkaNode) -> KafkaClient:
    return world.client()


def create(version: int, *topics: dict[str, Any], validate_only: bool = False) -> Any:
    """Topics as {name, partitions, replicas, assignments, configs}."""
    cls = request(CREATE, version)
    kind = nested(cls, "topics")
    made = []
    for topic in topics:
        assignments = tuple(
            nested(kind, "assignments")(partition_index=number, broker_ids=nodes)
            for number, nodes in topic.get("assignments", {}).items()
        )
        configs = tuple(nested(kind, "configs")(name=k, value=v) for k, v in topic.get("configs", {}).items())
        made.append(
            kind(
                name=topic["name"], num_partitions=topic.get("partitions", -1),
                replication_factor=topic.get("replicas", -1), assignments=assignments, configs=configs,
            )
        )  # fmt: skip
    return fields_of(cls, topics=tuple(made), timeout=MINUTE, validate_only=validate_only)


def created(client: KafkaClient, *topics: dict[str, Any], **more: Any) -> list[tuple[int, str | None]]:
    return [(int(one.error_code), one.error_message) for one in client.call(create(7, *topics, **more)).topics]


def describe(version: int, kind: int, name: str, keys: tuple[str, ...] | None = None) -> Any:
    cls = request(DESCRIBE, version)
    resource = nested(cls, "resources")(resource_type=kind, resource_name=name, configuration_keys=keys)
    return fields_of(cls, resources=(resource,), include_synonyms=True, include_documentation=True)


def told(client: KafkaClient, kind: int, name: str) -> dict[str, tuple[str, int, bool]]:
    """Value, source and whether it is read-only, of every key."""
    (result,) = client.call(describe(4, kind, name)).results
    assert result.error_code == 0, result.error_message
    return {one.name: (one.value, int(one.config_source), one.read_only) for one in result.configs}


@pytest.mark.parametrize("version", versions(CREATE))
def test_topics_are_made_each_with_its_result(world: KafkaNode, client: KafkaClient, version: int) -> None:
    world.node.create("there", 1)
    answer = client.call(
        create(
            version,
            {"name": "a", "partitions": 4, "replicas": 2, "configs": {"retention.ms": "60000"}},
            {"name": "there", "partitions": 1, "replicas": 1},
        )
    )
    made, refused = answer.topics
    assert (made.name, int(made.error_code)) == ("a", 0)
    assert (refused.name, int(refused.error_code)) == ("there", 36)
    topic = world.front.topic("a")
    assert topic is not None
    assert (topic.partitions, topic.config) == (4, {"retention_ms": "60000"})
    if version >= 5:
        assert (made.num_partitions, made.replication_factor) == (4, 3)
        assert {one.name: one.value for one in made.configs}["retention.ms"] == "60000"
    if version >= 7:
        assert made.topic_id == uuid.UUID(bytes=world.front.uuid_of(topic.topic))


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        ({"name": "with space"}, 17),
        ({"name": "__system"}, 17),
        ({"name": ""}, 17),
        ({"name": "a", "partitions": 0}, 37),
        ({"name": "a", "partitions": 2**31 - 1}, 37),
        ({"name": "a", "replicas": 4}, 38),
        ({"name": "a", "replicas": 0}, 38),
        ({"name": "a", "partitions": 1, "assignments": {0: (1,)}}, 42),
        ({"name": "a", "assignments": {1: (1,)}}, 39),
        ({"name": "a", "assignments": {0: (1, 1)}}, 39),
        ({"name": "a", "assignments": {0: (9,)}}, 39),
        ({"name": "a", "assignments": {0: ()}}, 39),
        ({"name": "a", "configs": {"no.such.key": "1"}}, 40),
        ({"name": "a", "configs": {"retention.ms": "soon"}}, 40),
        ({"name": "a", "configs": {"min.insync.replicas": "3"}}, 40),
        ({"name": "a", "configs": {"compression.type": "gzip"}}, 40),
        ({"name": "a", "configs": {"message.timestamp.type": "LogAppendTime"}}, 40),
        ({"name": "a", "configs": {"cleanup.policy": ""}}, 40),
    ],
)
def test_a_topic_that_cannot_be_is_refused_with_a_reason(
    world: KafkaNode, client: KafkaClient, topic: dict[str, Any], code: int
) -> None:
    for validate_only in (False, True):
        ((error, why),) = created(client, topic, validate_only=validate_only)
        assert error == code
        assert why
    assert not world.front.node.requests.places.topics.by_name


def test_what_kafka_programs_ask_for_by_habit_is_taken(world: KafkaNode, client: KafkaClient) -> None:
    configs = {
        "segment.bytes": "52428800", "message.timestamp.type": "CreateTime", "min.insync.replicas": "2",
        "cleanup.policy": "delete, compact", "unclean.leader.election.enable": "false", "preallocate": "false",
    }  # fmt: skip
    topic = {"name": "a", "assignments": {1: (3, 1), 0: (2,)}, "configs": configs}
    assert created(client, topic) == [(0, None)]
    made = world.front.topic("a")
    assert made is not None
    assert (made.partitions, made.config) == (2, {"cleanup": "compact,delete"})


def test_a_trial_makes_nothing_and_twins_are_refused(world: KafkaNode, client: KafkaClient) -> None:
    assert created(client, {"name": "a"}, validate_only=True) == [(0, None)]
    assert [code for code, _ in created(client, {"name": "a"}, {"name": "b"}, {"name": "a"})] == [42, 0, 42]
    assert list(world.front.node.requests.places.topics.by_name) == ["b"]
    assert [code for code, _ in created(client, *[{"name": f"t{i}"} for i in range(1001)])] == [44] * 1001


@pytest.mark.parametrize("version", versions(DELETE))
def test_topics_are_deleted(world: KafkaNode, client: KafkaClient, version: int) -> None:
    world.node.create("a", 2)
    cls = request(DELETE, version)
    if version < 6:
        asked = cls(topic_names=("a", "none"), timeout=MINUTE)
    else:
        kind = nested(cls, "topics")
        asked = cls(topics=tuple(kind(name=name, topic_id=None) for name in ("a", "none")), timeout=MINUTE)
    assert [(one.name, int(one.error_code)) for one in client.call(asked).responses] == [("a", 0), ("none", 3)]
    assert world.front.topic("a") is None


def test_topics_are_deleted_by_id_once(world: KafkaNode, client: KafkaClient) -> None:
    topic = world.node.create("a", 2)
    cls = request(DELETE, 6)
    kind = nested(cls, "topics")
    ours = uuid.UUID(bytes=world.front.uuid_of(topic))
    asked = cls(topics=(kind(name=None, topic_id=ours), kind(name=None, topic_id=uuid.UUID(int=7))), timeout=MINUTE)
    answer = client.call(asked)
    assert [(one.name, int(one.error_code)) for one in answer.responses] == [("a", 0), (None, 100)]
    again = client.call(cls(topics=(kind(name=None, topic_id=ours), kind(name="a", topic_id=ours)), timeout=MINUTE))
    assert [int(one.error_code) for one in again.responses] == [42, 42]


@pytest.mark.parametrize("version", versions(PARTITIONS))
def test_partitions_are_added_and_never_taken_away(world: KafkaNode, client: KafkaClient, version: int) -> None:
    world.node.create("a", 2)
    cls = request(PARTITIONS, version)
    kind = nested(cls, "topics")

    def grow(count: int, nodes: tuple[int, ...] | None = None, name: str = "a", *, validate_only: bool = False) -> int:
        assignments = None if nodes is None else tuple(nested(kind, "assignments")(broker_ids=(n,)) for n in nodes)
        asked = cls(
            topics=(kind(name=name, count=count, assignments=assignments),), timeout=MINUTE, validate_only=validate_only
        )
        (result,) = client.call(asked).results
        return int(result.error_code)

    assert [grow(2), grow(1), grow(-1), grow(2**31 - 1), grow(3, name="none")] == [37, 37, 37, 37, 3]
    assert [grow(4, (1,)), grow(3, (9,)), grow(5, validate_only=True)] == [39, 39, 0]
    assert grow(3, (2,)) == 0
    assert grow(6) == 0
    topic = world.front.topic("a")
    assert topic is not None
    assert topic.partitions == 6


@pytest.mark.parametrize("version", versions(DESCRIBE))
def test_a_topics_keys_are_told(world: KafkaNode, client: KafkaClient, version: int) -> None:
    assert created(client, {"name": "a", "configs": {"max.message.bytes": "2000"}}) == [(0, None)]
    (result,) = client.call(describe(version, TOPIC, "a")).results
    found = {one.name: one for one in result.configs}
    assert found["max.message.bytes"].value == "2000"
    assert found["cleanup.policy"].value == "delete"
    assert found["min.insync.replicas"].value == "2"
    assert not any(one.is_sensitive for one in result.configs)
    if version >= 1:
        assert int(found["max.message.bytes"].config_source) == 1
        assert int(found["cleanup.policy"].config_source) == 5
        assert [(one.name, int(one.source)) for one in found["max.message.bytes"].synonyms] == [
            ("max.message.bytes", 1),
            ("message.max.bytes", 5),
        ]
    if version >= 3:
        assert all(one.documentation and one.config_type for one in result.configs)
    (some,) = client.call(describe(version, TOPIC, "a", ("retention.ms", "none"))).results
    assert [(one.name, one.value) for one in some.configs] == [("retention.ms", "-1")]


@pytest.mark.parametrize(("kind", "name", "code"), [(TOPIC, "none", 3), (BROKER, "2", 42), (8, "1", 42), (32, "g", 42)])
def test_a_resource_that_is_not_here_is_refused(client: KafkaClient, kind: int, name: str, code: int) -> None:
    (result,) = client.call(describe(4, kind, name)).results
    assert (int(result.error_code), result.configs) == (code, ())
    assert result.error_message


def test_a_nodes_keys_are_told_read_only(client: KafkaClient) -> None:
    found = told(client, BROKER, "1")
    assert found["num.partitions"] == ("3", 4, True)
    assert found["broker.rack"] == ("host-1", 4, True)
    assert found["advertised.listeners"][0] == "default://127.0.0.1:9091"
    assert all(read_only for _, _, read_only in found.values())
    assert told(client, BROKER, "") == {}


def alter(key: int, version: int, kind: int, name: str, *configs: tuple[Any, ...], validate_only: bool = False) -> Any:
    """Keys as (name, value) or (name, operation, value)."""
    cls = request(key, version)
    resource = nested(cls, "resources")
    config = nested(resource, "configs")
    fields = ("name", "value") if key == ALTER else ("name", "config_operation", "value")
    made = tuple(config(**dict(zip(fields, one, strict=True))) for one in configs)
    return cls(resources=(resource(resource_type=kind, resource_name=name, configs=made),), validate_only=validate_only)


@pytest.mark.parametrize("version", versions(ALTER))
def test_altering_replaces_everything(client: KafkaClient, version: int) -> None:
    created(client, {"name": "a", "configs": {"max.message.bytes": "2000", "retention.ms": "9"}})
    for validate_only in (True, False):
        asked = alter(ALTER, version, TOPIC, "a", ("retention.ms", "7"), validate_only=validate_only)
        (result,) = client.call(asked).responses
        assert int(result.error_code) == 0
        assert told(client, TOPIC, "a")["retention.ms"][0] == ("9" if validate_only else "7")
    assert told(client, TOPIC, "a")["max.message.bytes"][1] == 5


@pytest.mark.parametrize("version", versions(INCREMENTAL))
def test_some_keys_are_altered(client: KafkaClient, version: int) -> None:
    created(client, {"name": "a", "configs": {"max.message.bytes": "2000", "retention.ms": "9"}})

    def change(*configs: tuple[Any, ...], kind: int = TOPIC, name: str = "a") -> int:
        (result,) = client.call(alter(INCREMENTAL, version, kind, name, *configs)).responses
        assert bool(result.error_code) == bool(result.error_message)
        return int(result.error_code)

    assert change(("retention.ms", 1, None), ("cleanup.policy", 2, "compact"), ("segment.bytes", 0, "100")) == 0
    found = told(client, TOPIC, "a")
    assert found["retention.ms"] == ("-1", 5, False)
    assert found["cleanup.policy"] == ("compact,delete", 1, False)
    assert found["max.message.bytes"] == ("2000", 1, False)
    assert change(("cleanup.policy", 3, "delete")) == 0
    assert told(client, TOPIC, "a")["cleanup.policy"][0] == "compact"
    refused = [
        change(("cleanup.policy", 3, "compact")),
        change(("retention.ms", 2, "5")),
        change(("retention.ms", 0, None)),
        change(("retention.ms", 7, "5")),
        change(("retention.ms", 0, "-2")),
        change(("retention.ms", 0, "5"), ("retention.ms", 0, "6")),
        change(("log.retention.ms", 0, "5"), kind=BROKER, name="1"),
        change(("x", 0, "5"), kind=32),
        change(("retention.ms", 0, "5"), name="none"),
    ]
    assert refused == [40, 40, 40, 40, 40, 40, 40, 42, 3]


@pytest.mark.parametrize("version", versions(DELETE_RECORDS))
def test_records_before_an_offset_are_deleted(world: KafkaNode, client: KafkaClient, version: int) -> None:
    topic = world.node.create("a", 2)
    world.node.produce(topic, 0, b"1", b"2", b"3")
    cls = request(DELETE_RECORDS, version)
    kind = nested(cls, "topics")
    part = nested(kind, "partitions")

    def delete(name: str, *places: tuple[int, int]) -> list[tuple[int, int, int]]:
        wanted = tuple(part(partition_index=number, offset=offset) for number, offset in places)
        (result,) = client.call(cls(topics=(kind(name=name, partitions=wanted),), timeout=MINUTE)).topics
        return [(int(one.partition_index), one.low_watermark, int(one.error_code)) for one in result.partitions]

    assert delete("a", (0, 2), (1, -1), (7, 0), (1, 5), (0, -2)) == [
        (0, 2, 0), (1, 0, 0), (7, -1, 3), (1, -1, 1), (0, -1, 1),
    ]  # fmt: skip
    assert delete("a", (0, -1)) == [(0, 3, 0)]
    assert delete("none", (0, 0)) == [(0, -1, 3)]
    assert [code for *_, code in delete("a", *[(0, 0)] * 1001)] == [44] * 1001


@pytest.mark.parametrize("version", versions(ELECT))
def test_no_election_is_ever_needed(world: KafkaNode, client: KafkaClient, version: int) -> None:
    world.node.create("a", 2)
    cls = request(ELECT, version)
    kind = nested(cls, "topic_partitions")
    asked = fields_of(cls, election_type=0, topic_partitions=(kind(topic="a", partitions=(0, 9)),), timeout=MINUTE)
    (result,) = client.call(asked).replica_election_results
    assert [int(one.error_code) for one in result.partition_result] == [84, 3]
    everything = fields_of(cls, election_type=0, topic_partitions=None, timeout=MINUTE)
    assert client.call(everything).replica_election_results == ()


@pytest.mark.parametrize("version", versions(CLUSTER))
def test_the_cluster_is_described(world: KafkaNode, client: KafkaClient, version: int) -> None:
    cls = request(CLUSTER, version)

    def ask(**fields: Any) -> Any:
        fields = {"include_cluster_authorized_operations": False, "endpoint_type": 1, **fields}
        return client.call(fields_of(cls, **{"include_fenced_brokers": False, **fields}))

    answer = ask()
    assert (answer.cluster_id, int(answer.controller_id)) == (world.front.cluster_id, 1)
    assert [(int(one.broker_id), one.host, one.port, one.rack) for one in answer.brokers] == [
        (1, "127.0.0.1", 9091, "host-1")
    ]
    if version >= 1:
        assert int(ask(endpoint_type=2).error_code) == 114
    if version >= 2:
        assert [one.is_fenced for one in ask(include_fenced_brokers=True).brokers] == [False, True, True]


@pytest.mark.parametrize("version", versions(LOG_DIRS))
def test_sizes_on_disk_are_told(world: KafkaNode, client: KafkaClient, version: int) -> None:
    topic = world.node.create("a", 2)
    world.node.produce(topic, 1, b"1")
    cls = request(LOG_DIRS, version)
    (folder,) = client.call(cls(topics=None)).results
    size = len(encode_batch([(None, b"1", (), START_MS)]))
    (found,) = folder.topics
    assert [(int(one.partition_index), one.partition_size) for one in found.partitions] == [(0, 0), (1, size)]
    kind = nested(cls, "topics")
    asked = (kind(topic="a", partitions=(1, 9)), kind(topic="none", partitions=(0,)))
    (folder,) = client.call(cls(topics=asked)).results
    assert [[int(one.partition_index) for one in topic.partitions] for topic in folder.topics] == [[1]]


@pytest.mark.parametrize("version", versions(29))
def test_there_are_no_access_rules(client: KafkaClient, version: int) -> None:
    pattern = {"resource_type_filter": 2, "resource_name_filter": None, "pattern_type_filter": 3}
    who = {"principal_filter": None, "host_filter": None, "operation": 1, "permission_type": 1}
    answer = client.call(request(29, version)(**pattern, **who))
    assert (int(answer.error_code), answer.resources) == (54, ())
    delete = request(31, version)
    one = nested(delete, "filters")(**pattern, **who)
    assert [int(result.error_code) for result in client.call(delete(filters=(one, one))).filter_results] == [54, 54]
    create = request(30, version)
    rule = nested(create, "creations")(
        resource_type=2, resource_name="a", resource_pattern_type=3, principal="User:ada", host="*", operation=3,
        permission_type=3,
    )  # fmt: skip
    assert [int(result.error_code) for result in client.call(create(creations=(rule,))).results] == [54]


def test_without_a_quorum_everything_is_answered(world: KafkaNode, client: KafkaClient) -> None:
    topic = world.node.create("a", 1)
    world.node.produce(topic, 0, b"1")
    world.node.answer_instead = lambda group, kind: errors.NO_QUORUM
    assert [code for code, _ in created(client, {"name": "b"})] == [19]
    assert int(client.call(describe(4, TOPIC, "a")).results[0].error_code) == 19
    assert int(client.call(alter(INCREMENTAL, 1, TOPIC, "a", ("retention.ms", 0, "5"))).responses[0].error_code) == 19
    cls = request(DELETE_RECORDS, 2)
    kind = nested(cls, "topics")
    wanted = (nested(kind, "partitions")(partition_index=0, offset=1),)
    (result,) = client.call(cls(topics=(kind(name="a", partitions=wanted),), timeout=MINUTE)).topics
    assert int(result.partitions[0].error_code) == 19
    cls = request(DELETE, 6)
    (gone,) = client.call(cls(topics=(nested(cls, "topics")(name="a", topic_id=None),), timeout=MINUTE)).responses
    assert int(gone.error_code) == 19
