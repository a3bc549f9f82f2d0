"""Kafka's own clients, unmodified, against three nodes: each reads what the others publish, and so does Corgi's own."""

from __future__ import annotations

import asyncio
from typing import Any

import aiokafka
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from corgi.client.corgi import connect
from corgi.server.local import LocalCluster

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
COUNT = 300


def keys_of(count: int = COUNT) -> list[tuple[bytes, bytes]]:
    return [(f"key-{i % 7}".encode(), f"value-{i}".encode()) for i in range(count)]


def publish_by_confluent(servers: str, topic: str, codec: str = "none", **more: Any) -> list[tuple[int, int]]:
    """Where each record went: (partition, offset)."""
    told: list[tuple[int, int]] = []
    failed: list[Any] = []

    def done(error: Any, message: Any) -> None:
        (failed if error else told).append(error or (message.partition(), message.offset()))

    producer = Producer({"bootstrap.servers": servers, "compression.codec": codec, "linger.ms": 5, **more})
    for key, value in keys_of():
        producer.produce(topic, key=key, value=value, headers=[("h", b"1")], on_delivery=done)
    assert producer.flush(20) == 0
    assert failed == []
    return told


def read_by_confluent(servers: str, topic: str, partitions: int, count: int = COUNT) -> list[tuple[bytes, bytes]]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "none", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, i, OFFSET_BEGINNING) for i in range(partitions)])
        found: list[tuple[bytes, bytes]] = []
        while len(found) < count:
            messages = consumer.consume(count, 10)
            assert messages
            assert [message.error() for message in messages if message.error()] == []
            found += [(message.key(), message.value()) for message in messages]
        return found
    finally:
        consumer.close()


def by_key(records: list[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for key, value in records:
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_librdkafka_publishes_and_reads(cluster: LocalCluster, topic: str, codec: str) -> None:
    told = publish_by_confluent(cluster.kafka, topic, codec)
    assert len(set(told)) == COUNT
    assert by_key(read_by_confluent(cluster.kafka, topic, 3)) == by_key(keys_of())


async def test_what_librdkafka_publishes_corgi_reads_and_the_other_way_round(cluster: LocalCluster, topic: str) -> None:
    async with connect(cluster.native) as mq:
        await mq.topics.create(topic, partitions=3)
        await asyncio.to_thread(
            publish_by_confluent,
            cluster.kafka,
            topic,
            "lz4",
            **{"enable.idempotence": True, "partitioner": "murmur2_random"},
        )
        found = []
        async with asyncio.timeout(20), mq.subscribe(topic, start="earliest") as messages:
            async for message in messages:
                assert message.headers == (("h", b"1"),)
                found.append((message.key, message.value))
                if len(found) == COUNT:
                    break
        assert by_key(found) == by_key(keys_of())
        for key, value in keys_of():
            mq.publish_nowait(topic, value, key=key)
        await mq.flush()
    everything = await asyncio.to_thread(read_by_confluent, cluster.kafka, topic, 3, 2 * COUNT)
    assert by_key(everything) == {key: values * 2 for key, values in by_key(keys_of()).items()}


@pytest.mark.parametrize("codec", CODECS)
async def test_aiokafka_publishes_and_reads(cluster: LocalCluster, topic: str, codec: str) -> None:
    async with asyncio.timeout(30):
        compression = None if codec == "none" else codec
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=cluster.kafka, enable_idempotence=True, compression_type=compression
        )
        await producer.start()
        try:
            sent = [await producer.send(topic, key=key, value=value) for key, value in keys_of()]
            assert len({(one.partition, one.offset) for one in await asyncio.gather(*sent)}) == COUNT
        finally:
            await producer.stop()
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=cluster.kafka, auto_offset_reset="earliest")
        await consumer.start()
        try:
            consumer.assign([aiokafka.TopicPartition(topic, i) for i in range(3)])
            found = []
            while len(found) < COUNT:
                message = await consumer.getone()
                found.append((message.key, message.value))
        finally:
            await consumer.stop()
    assert by_key(found) == by_key(keys_of())
