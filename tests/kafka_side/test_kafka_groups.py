"""Consumer groups of Kafka's own clients, unmodified, against three nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiokafka
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from corgi.client.corgi import connect
from corgi.server.local import LocalCluster

PARTITIONS = 3
COUNT = 90


def publish(servers: str, topic: str, count: int = COUNT) -> None:
    producer = Producer({"bootstrap.servers": servers})
    for i in range(count):
        producer.produce(topic, value=str(i).encode(), partition=i % PARTITIONS)
    assert producer.flush(20) == 0


@contextmanager
def consuming(servers: str, group: str, topic: str, **more: Any) -> Iterator[Consumer]:
    consumer = Consumer(
        {
            "bootstrap.servers": servers, "group.id": group, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "session.timeout.ms": 6_000, "heartbeat.interval.ms": 200, **more,
        }
    )  # fmt: skip
    consumer.subscribe([topic])
    try:
        yield consumer
    finally:
        consumer.close()


def read(consumer: Consumer, count: int, wait_s: float = 30.0) -> list[bytes]:
    found: list[bytes] = []
    until = time.monotonic() + wait_s
    while len(found) < count and time.monotonic() < until:
        found += [message.value() for message in consumer.consume(count, 0.2) if not message.error()]
    return found


def poll_until(consumers: list[Consumer], holds: Callable[[], bool], wait_s: float = 30.0) -> None:
    until = time.monotonic() + wait_s
    while not holds():
        assert time.monotonic() < until, "it did not come to that"
        for consumer in consumers:
            consumer.poll(0.05)


def shares(consumers: list[Consumer]) -> list[int]:
    return sorted(len(consumer.assignment()) for consumer in consumers)


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_consumers_share_partitions_and_go_on_where_they_committed(
    cluster: LocalCluster, topic: str, strategy: str
) -> None:
    publish(cluster.kafka, topic)
    more = {"partition.assignment.strategy": strategy}
    with consuming(cluster.kafka, topic, topic, **more) as one:
        assert len(read(one, COUNT)) == COUNT
        one.commit(asynchronous=False)
        with consuming(cluster.kafka, topic, topic, **more) as two:
            poll_until([one, two], lambda: shares([one, two]) == [1, 2])
        poll_until([one], lambda: shares([one]) == [3])
        publish(cluster.kafka, topic, PARTITIONS)
        assert len(read(one, PARTITIONS)) == PARTITIONS
        one.commit(asynchronous=False)
        back = TopicPartition(topic, 0, 5, "back")
        one.commit(offsets=[back], asynchronous=False)
        (committed,) = one.committed([TopicPartition(topic, 0)], 10)
        assert committed.offset == 5


def test_an_instance_that_restarts_makes_no_rebalance(cluster: LocalCluster, topic: str) -> None:
    publish(cluster.kafka, topic)
    moves: list[int] = []
    with consuming(cluster.kafka, topic, topic, **{"group.instance.id": "a"}) as one:
        with consuming(cluster.kafka, topic, topic, **{"group.instance.id": "b"}) as two:
            poll_until([one, two], lambda: shares([one, two]) == [1, 2])
        one.subscribe([topic], on_assign=lambda *_: moves.append(1))
        poll_until([one], lambda: bool(one.assignment()))
        moves.clear()
        with consuming(cluster.kafka, topic, topic, **{"group.instance.id": "b"}) as two:
            poll_until([one, two], lambda: shares([one, two]) == [1, 2])
    assert len(moves) <= 1


async def test_our_own_tools_see_and_reset_the_group_of_aiokafka(cluster: LocalCluster, topic: str) -> None:
    await asyncio.to_thread(publish, cluster.kafka, topic)
    async with asyncio.timeout(60), connect(cluster.native) as mq:
        consumer = aiokafka.AIOKafkaConsumer(
            topic, bootstrap_servers=cluster.kafka, group_id=topic, auto_offset_reset="earliest",
            enable_auto_commit=False,
        )  # fmt: skip
        await consumer.start()
        try:
            for _ in range(COUNT):
                await consumer.getone()
            await consumer.commit()
            described = await mq.groups.describe(topic)
            assert (described.kind, described.state, described.lag) == ("classic", "stable", 0)
            assert [member.topics for member in described.members] == [(topic,)]
        finally:
            await consumer.stop()
        assert (await mq.groups.describe(topic)).state == "empty"
        await mq.groups.reset(topic, topic, "earliest")
        assert (await mq.groups.describe(topic)).lag == COUNT
    with consuming(cluster.kafka, topic, topic) as again:
        assert len(await asyncio.to_thread(read, again, COUNT)) == COUNT


def test_administrators_list_describe_alter_and_delete_groups(cluster: LocalCluster, topic: str) -> None:
    publish(cluster.kafka, topic)
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    with consuming(cluster.kafka, topic, topic, **{"client.id": "reader"}) as one:
        assert len(read(one, COUNT)) == COUNT
        one.commit(asynchronous=False)
        listed = admin.list_consumer_groups().result(20)
        assert listed.errors == []
        assert (topic, "STABLE") in [(group.group_id, group.state.name) for group in listed.valid]
        described = admin.describe_consumer_groups([topic])[topic].result(20)
        (member,) = described.members
        assert (described.state.name, member.client_id) == ("STABLE", "reader")
        assert sorted(part.partition for part in member.assignment.topic_partitions) == [0, 1, 2]
        with pytest.raises(Exception, match="NON_EMPTY_GROUP"):
            admin.delete_consumer_groups([topic])[topic].result(20)
    back = ConsumerGroupTopicPartitions(topic, [TopicPartition(topic, 0, 7)])
    admin.alter_consumer_group_offsets([back])[topic].result(20)
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(topic)])[topic].result(20)
    assert {part.partition: part.offset for part in asked.topic_partitions} == {0: 7, 1: 30, 2: 30}
    admin.delete_consumer_groups([topic])[topic].result(20)
    assert topic not in [group.group_id for group in admin.list_consumer_groups().result(20).valid]
    assert admin.describe_consumer_groups([topic])[topic].result(20).state.name == "DEAD"
