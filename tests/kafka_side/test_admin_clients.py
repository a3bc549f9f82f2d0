"""Kafka's own administration clients, unmodified, against three nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka import admin as confluent
from confluent_kafka.admin import AdminClient

from corgi.client.corgi import connect
from corgi.server.local import LocalCluster

WAIT_S = 20


def result(futures: dict[Any, Any]) -> Any:
    """The one result."""
    (future,) = futures.values()
    return future.result(WAIT_S)


def test_librdkafka_administers_topics(cluster: LocalCluster, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    new = confluent.NewTopic(
        topic, 2, replication_factor=3, config={"cleanup.policy": "compact", "segment.bytes": "1000"}
    )
    result(admin.create_topics([new]))
    with pytest.raises(KafkaException, match="TOPIC_ALREADY_EXISTS"):
        result(admin.create_topics([new]))
    result(admin.create_partitions([confluent.NewPartitions(topic, 5)]))
    assert len(admin.list_topics(topic, WAIT_S).topics[topic].partitions) == 5

    resource = confluent.ConfigResource(confluent.ResourceType.TOPIC, topic)
    change = confluent.ConfigResource(
        confluent.ResourceType.TOPIC,
        topic,
        incremental_configs=[
            confluent.ConfigEntry("retention.ms", "60000", incremental_operation=confluent.AlterConfigOpType.SET),
            confluent.ConfigEntry("cleanup.policy", "delete", incremental_operation=confluent.AlterConfigOpType.APPEND),
        ],
    )
    result(admin.incremental_alter_configs([change]))
    configs = result(admin.describe_configs([resource]))
    assert (configs["retention.ms"].value, configs["cleanup.policy"].value) == ("60000", "compact,delete")
    result(admin.delete_topics([topic], operation_timeout=WAIT_S))
    assert topic not in admin.list_topics(timeout=WAIT_S).topics


def test_librdkafka_asks_each_node_and_the_cluster(cluster: LocalCluster) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    described = admin.describe_cluster().result(WAIT_S)
    assert [node.id for node in described.nodes] == [1, 2, 3]
    for node in described.nodes:
        configs = result(
            admin.describe_configs([confluent.ConfigResource(confluent.ResourceType.BROKER, str(node.id))])
        )
        assert configs["broker.id"].value == str(node.id)


async def test_records_deleted_by_librdkafka_are_gone_for_corgi_too(cluster: LocalCluster, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    async with connect(cluster.native) as mq:
        await mq.topics.create(topic, partitions=1)
        await mq.publish_many(topic, [str(i).encode() for i in range(10)])
        told = admin.delete_records([TopicPartition(topic, 0, 7)])
        assert result(told).low_watermark == 7
        assert await mq.topics.offsets(topic, "earliest") == {0: 7}
        async with mq.subscribe(topic, start="earliest") as messages:
            async for message in messages:
                assert message.value == b"7"
                break
        assert await mq.topics.trim(topic, {0: 9}) == {0: 9}
        offsets = admin.list_offsets({TopicPartition(topic, 0): confluent.OffsetSpec.earliest()})
        assert result(offsets).offset == 9
        assert await mq.topics.trim(topic, "latest") == {0: 10}


async def test_aiokafka_administers_topics(cluster: LocalCluster, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 2, 2, topic_configs={"retention.ms": "60000"})])
        await admin.create_partitions({topic: NewPartitions(3)})
        (described,) = await admin.describe_topics([topic])
        assert len(described["partitions"]) == 3
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.bytes": "1000"})
        await admin.alter_configs([resource])
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        configs = {entry[0]: entry[1] for entry in answers[0].resources[0][4]}
        assert (configs["retention.bytes"], configs["retention.ms"]) == ("1000", "-1")
        await admin.delete_topics([topic])
        assert topic not in await admin.list_topics()
    finally:
        await admin.close()


def test_kafka_python_administers_topics(cluster: LocalCluster, topic: str) -> None:
    """In a process of its own: that client leaves sockets open, and warns of itself."""
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("kafka_python_admin.py"))]
    ran = subprocess.run([*program, cluster.kafka, topic], check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"partitions": 4, "retention": True, "nodes": 3, "there": True, "left": False}
