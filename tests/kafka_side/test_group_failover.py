"""The coordinator of a group of Kafka clients is killed: they go on, and nobody has to join again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from confluent_kafka import Consumer, Producer

from corgi.client.corgi import connect
from corgi.server.local import LocalCluster, LocalOptions

GROUPS = 4
COUNT = 60


async def coordinator_of(cluster: LocalCluster, group: str) -> tuple[int, int]:
    """(node, generation)."""
    async with connect(cluster.native) as mq:
        described = await mq.groups.describe(group)
        (summary,) = [one for one in await mq.groups.list() if one.name == group]
        return summary.coordinator, described.epoch


def publish(servers: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": servers, "retry.backoff.ms": 100})
    for i in range(COUNT):
        producer.produce(topic, value=str(i).encode(), partition=i % 3)
    assert producer.flush(30) == 0


def read(consumers: list[Consumer], count: int, wait_s: float = 40.0) -> int:
    found, until = 0, time.monotonic() + wait_s
    while found < count and time.monotonic() < until:
        for consumer in consumers:
            found += sum(not message.error() for message in consumer.consume(count, 0.1))
    return found


def test_members_go_on_when_their_coordinator_is_killed(tmp_path: Path) -> None:
    topic = "journeys"
    options = LocalOptions(folder=tmp_path / "cluster", nodes=3, groups=GROUPS, kafka_port=0)
    with LocalCluster(options) as cluster:
        publish(cluster.kafka, topic)
        settings = {
            "bootstrap.servers": cluster.kafka, "group.id": topic, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "session.timeout.ms": 10_000, "heartbeat.interval.ms": 300,
            "reconnect.backoff.max.ms": 500,
        }  # fmt: skip
        consumers = [Consumer(settings), Consumer(settings)]
        try:
            moves: list[int] = []
            for consumer in consumers:
                consumer.subscribe([topic], on_assign=lambda *_: moves.append(1))
            assert read(consumers, COUNT) == COUNT
            until = time.monotonic() + 30
            while sorted(len(consumer.assignment()) for consumer in consumers) != [1, 2]:
                assert time.monotonic() < until
                read(consumers, 1, 0.2)
            node, generation = asyncio.run(coordinator_of(cluster, topic))
            moves.clear()
            cluster.kill(node)
            publish(cluster.kafka, topic)
            assert read(consumers, COUNT) >= COUNT
            for consumer in consumers:
                consumer.commit(asynchronous=False)
            assert read(consumers, 1, 2.0) == 0
            after, generation_after = asyncio.run(coordinator_of(cluster, topic))
            assert after != node
            assert generation_after == generation
            assert moves == []
        finally:
            for consumer in consumers:
                consumer.close()
