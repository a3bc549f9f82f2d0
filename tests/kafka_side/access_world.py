"""Users, what is theirs and what is not, and what they are told by each API."""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from kafka_world import KafkaClient, KafkaNode, fields_of, nested, request
from sasl_world import user

from corgi.base.records import encode_batch
from corgi.kafka.access import Access, Kind, Operation, Rule
from corgi.kafka.codec import Body, Reader, read_body, write_body
from corgi.kafka.security import Security
from one_node import START_MS

TOPIC, GROUP, CLUSTER, TRANSACTION = 29, 30, 31, 53
DENIED = {TOPIC, GROUP, CLUSTER, TRANSACTION}
MINE, THEIRS = "mine", "theirs"
BATCH = encode_batch([(b"k", b"v", (), START_MS)])


def a_world(rules: Sequence[Rule]) -> KafkaNode:
    users = [user("alice"), user("admin"), user("bob"), user("root")]
    made = KafkaNode(security=Security(users, access=Access(rules, ["root"])))
    for name in (MINE, THEIRS):
        made.node.create(name, 1)
    return made


def with_and_without(operation: Operation, kind: Kind, name: str = THEIRS) -> tuple[KafkaNode, KafkaNode]:
    """Where alice has this right alone to something, and where she has all others; to what is hers she has all."""
    hers = [Rule("alice", True, Operation.ALL, each, MINE) for each in (Kind.TOPIC, Kind.GROUP, Kind.TRANSACTIONAL_ID)]
    alone, everything = (Rule("alice", True, one, kind, name) for one in (operation, Operation.ALL))
    return a_world([*hers, alone]), a_world([*hers, everything, Rule("alice", False, operation, kind, name)])


def come(world: KafkaNode, name: str) -> KafkaClient:
    client = world.client()
    client.session.user = name
    return client


def put(client: KafkaClient, module: Any, body: Body, version: int | None = None) -> Any:
    """The answer, or None if it does not come at once."""
    api = module.API
    version = api.versions[1] if version is None else version
    out = bytearray()
    write_body(body, version, out, flexible=version >= api.flexible)
    client.send(api.key, version, bytes(out))
    client.world.node.turns()
    answers = client.answers()
    if not answers:
        return None
    ((_, answer),) = answers
    flexible = version >= api.flexible
    response = getattr(module, "Response", None) or importlib.import_module(api.handle.__module__).Response
    reader = Reader(memoryview(answer), int(flexible))
    found = read_body(response, version, reader, flexible=flexible)
    assert reader.at == len(answer)
    return found


def codes(found: Any) -> set[int]:
    """All error codes anywhere in an answer."""
    if isinstance(found, tuple | list):
        return set().union(*map(codes, found)) if found else set()
    if not isinstance(found, Body):
        return set()
    told: set[int] = set()
    for field in found.__struct_fields__:
        value = getattr(found, field)
        told |= {value} if field in ("error", "config_error") else codes(value)
    return told - {0}


def topic_of_metadata(client: KafkaClient, version: int, name: str | None, *, create: bool = False) -> list[Any]:
    cls = request(3, version)
    kind = nested(cls, "topics")
    wanted: Any = None if name is None else (fields_of(kind, name=name, topic_id=None),)
    more = {"include_cluster_authorized_operations": False, "include_topic_authorized_operations": False}
    return list(client.call(fields_of(cls, topics=wanted, allow_auto_topic_creation=create, **more)).topics)


def produce(name: str, batch: bytes, transactional_id: str | None = None, version: int = 9) -> Any:
    cls = request(0, version)
    topic = nested(cls, "topic_data")
    data = (fields_of(nested(topic, "partition_data"), index=0, records=batch),)
    return fields_of(
        cls, transactional_id=transactional_id, acks=-1, timeout=datetime.timedelta(seconds=1),
        topic_data=(fields_of(topic, name=name, partition_data=data),),
    )  # fmt: skip


def produced(client: KafkaClient, *arguments: Any) -> int:
    (topic,) = client.call(produce(*arguments)).responses
    return int(topic.partition_responses[0].error_code)


def fetched(client: KafkaClient, name: str, version: int, topic_id: UUID | None = None) -> tuple[int, bytes]:
    """The error code and the records of the first partition, from the beginning. By its id since version 13."""
    cls = request(1, version)
    kind = nested(cls, "topics")
    part = fields_of(
        nested(kind, "partitions"), partition=0, fetch_offset=0, partition_max_bytes=1 << 20,
        current_leader_epoch=-1, last_fetched_epoch=-1, log_start_offset=-1, replica_directory_id=None,
    )  # fmt: skip
    wanted = fields_of(
        cls, replica_id=-1, max_wait=datetime.timedelta(0), min_bytes=0, max_bytes=1 << 20, isolation_level=0,
        session_id=0, session_epoch=-1, forgotten_topics_data=(), rack_id="",
        topics=(fields_of(kind, topic=name, topic_id=topic_id, partitions=(part,)),),
    )  # fmt: skip
    (found,) = client.call(wanted).responses[0].partitions
    return int(found.error_code), bytes(found.records or b"")
