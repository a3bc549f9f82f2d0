"""Kafka's clients of other languages, unmodified, against three nodes; those that are not built are skipped."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import Producer
from foreign import CLIENTS, Member, run, until
from test_clients import COUNT, by_key, keys_of, read_by_confluent

from corgi.client.corgi import connect
from corgi.server.local import LocalCluster

PARTITIONS = 3
CODECS = [
    ("kafkajs", "none"), ("kafkajs", "gzip"), ("kafka-python", "none"), ("kafka-python", "gzip"),
    *[(client, codec) for client in ("java", "franz-go") for codec in ("none", "gzip", "snappy", "lz4", "zstd")],
]  # fmt: skip  # others would need more packages
PLACES = {"kafkajs"}  # it tells the place of a batch's first record only


def publish(servers: str, topic: str, values: range) -> None:
    producer = Producer({"bootstrap.servers": servers, "retry.backoff.ms": 100})
    for value in values:
        producer.produce(topic, str(value).encode(), partition=value % PARTITIONS)
    assert producer.flush(30) == 0


@pytest.mark.parametrize(("client", "codec"), CODECS)
def test_it_publishes_and_reads(cluster: LocalCluster, topic: str, client: str, codec: str) -> None:
    told = run(client, "copy", cluster.kafka, topic, codec, str(COUNT))
    places = {tuple(place) for place in told["places"]}
    assert len(places) == (len(told["places"]) if client in PLACES else COUNT)
    assert by_key([(key.encode(), value.encode()) for key, value in told["read"]]) == by_key(keys_of())
    assert by_key(read_by_confluent(cluster.kafka, topic, PARTITIONS)) == by_key(keys_of())


@pytest.mark.parametrize("client", CLIENTS)
def test_its_transactions_become_visible_together_or_never(cluster: LocalCluster, topic: str, client: str) -> None:
    told = run(client, "transact", cluster.kafka, topic, f"group-{topic}", "4")
    committed = sorted([f"{number}-{partition}" for number in (0, 2) for partition in range(PARTITIONS)] + ["heir"])
    assert sorted(told["read"]) == committed
    assert told["offset"] == 2, "that of an aborted transaction does not count"
    assert told["fenced"]


@pytest.mark.parametrize("client", [client for client in CLIENTS if client != "kafka-python"])
def test_it_administers(cluster: LocalCluster, topic: str, client: str) -> None:
    assert run(client, "administer", cluster.kafka, topic) == {
        "nodes": 3,
        "refused": "TOPIC_ALREADY_EXISTS",
        "partitions": 4,
        "retention": ["60000", "120000"],
        "offsets": [2, 5],
        "group": ["Empty", True, False],
        "exists": False,
    }


def coordinator_of(cluster: LocalCluster, group: str) -> int:
    async def find() -> int:
        async with connect(cluster.native) as mq:
            (summary,) = [one for one in await mq.groups.list() if one.name == group]
            return int(summary.coordinator)

    return asyncio.run(find())


@pytest.mark.parametrize("client", CLIENTS)
def test_its_members_share_a_topic_and_go_on_when_their_coordinator_is_killed(
    cluster: LocalCluster, topic: str, client: str
) -> None:
    publish(cluster.kafka, topic, range(30))
    with Member(client, cluster.kafka, topic, topic) as one:
        until([one], lambda: len(one.held) == PARTITIONS and len(one.read) == 30)
        with Member(client, cluster.kafka, topic, topic) as two:
            both = [one, two]
            until(both, lambda: sorted([len(one.held), len(two.held)]) == [1, 2])
            node = coordinator_of(cluster, topic)
            cluster.kill(node)
            try:
                publish(cluster.kafka, topic, range(30, 60))
                until(both, lambda: len({*one.read, *two.read}) == 60)
            finally:
                cluster.start_nodes([cluster.node(node)])
            two.leave()
            until([one], lambda: len(one.held) == PARTITIONS)
        publish(cluster.kafka, topic, range(60, 90))
        until(both, lambda: len({*one.read, *two.read}) == 90)
        one.leave()
    assert len(one.read) + len(two.read) < 180, "what is committed is not read again and again"
