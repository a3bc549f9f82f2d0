"""Topics with durability memory, for Kafka's clients: made and described by a key of ours, used like any other."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from corgi.client.corgi import connect
from corgi.server.local import LocalCluster

WAIT_S = 20
PARTITIONS = 3


def result(futures: dict[Any, Any]) -> Any:
    """The one result."""
    (future,) = futures.values()
    return future.result(WAIT_S)


@pytest.fixture
def made(cluster: LocalCluster, topic: str) -> str:
    """A topic in memory."""
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    new = NewTopic(topic, PARTITIONS, replication_factor=3, config={"corgi.durability": "memory"})
    result(admin.create_topics([new]))
    return topic


def configs(admin: AdminClient, topic: str) -> dict[str, str]:
    found = result(admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]))
    return {key: entry.value for key, entry in found.items()}


def change(admin: AdminClient, topic: str, key: str, value: str) -> None:
    entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    result(admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]))


async def test_durability_is_told_and_never_changes(cluster: LocalCluster, made: str) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    found = configs(admin, made)
    assert (found["corgi.durability"], found["flush.messages"]) == ("memory", str(2**63 - 1))
    async with connect(cluster.native) as mq:
        assert (await mq.topics.describe(made)).config == {"durability": "memory"}
    with pytest.raises(KafkaException, match="decided when it was created"):
        change(admin, made, "corgi.durability", "fsync")
    change(admin, made, "corgi.durability", "memory")
    change(admin, made, "retention.ms", "60000")
    # The older request names all keys anew: one that it leaves out goes back to its default, but for this one.
    with pytest.warns(DeprecationWarning, match="alter_configs"):
        altered = admin.alter_configs([ConfigResource(ResourceType.TOPIC, made, {"cleanup.policy": "compact"})])
    result(altered)
    found = configs(admin, made)
    assert (found["corgi.durability"], found["retention.ms"], found["cleanup.policy"]) == ("memory", "-1", "compact")


def test_other_topics_are_synced_and_a_wrong_word_is_refused(cluster: LocalCluster, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    with pytest.raises(KafkaException, match=r"corgi\.durability is fsync or memory"):
        result(admin.create_topics([NewTopic(topic, 1, config={"corgi.durability": "tape"})]))
    result(admin.create_topics([NewTopic(topic, 1)]))
    found = configs(admin, topic)
    assert (found["corgi.durability"], found["flush.messages"]) == ("fsync", "1")


def test_a_group_consumes_what_was_produced(cluster: LocalCluster, made: str) -> None:
    producer = Producer({"bootstrap.servers": cluster.kafka, "enable.idempotence": True, "linger.ms": 0})
    partitions = producer.list_topics(made, WAIT_S).topics[made].partitions
    assert {partition.leader for partition in partitions.values()} <= {1, 2, 3}
    for value in range(30):
        producer.produce(made, str(value).encode(), partition=value % PARTITIONS)
    assert producer.flush(WAIT_S) == 0
    consumer = Consumer(
        {
            "bootstrap.servers": cluster.kafka,
            "group.id": f"group-{made}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe([made])
        found: list[int] = []
        while len(found) < 30:
            message = consumer.poll(WAIT_S)
            assert message is not None
            assert message.error() is None
            found.append(int(message.value()))
        assert sorted(found) == list(range(30))
        consumer.commit(asynchronous=False)
        places = consumer.committed([TopicPartition(made, number) for number in range(PARTITIONS)], WAIT_S)
        assert [place.offset for place in places] == [10] * PARTITIONS
    finally:
        consumer.close()


def test_a_transaction_with_it_is_refused_and_the_next_without_it_is_not(
    cluster: LocalCluster, made: str, topic: str
) -> None:
    sure = f"{topic}-sure"
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    result(admin.create_topics([NewTopic(sure, PARTITIONS)]))
    producer = Producer({"bootstrap.servers": cluster.kafka, "transactional.id": made, "linger.ms": 0})
    producer.init_transactions(WAIT_S)
    producer.begin_transaction()
    producer.produce(sure, b"lost", partition=0)
    producer.produce(made, b"lost", partition=0)
    with pytest.raises(KafkaException) as caught:
        producer.commit_transaction(WAIT_S)
    assert caught.value.args[0].code() != KafkaError._TIMED_OUT
    assert caught.value.args[0].txn_requires_abort()
    producer.abort_transaction(WAIT_S)
    producer.begin_transaction()
    producer.produce(sure, b"there", partition=1)
    producer.commit_transaction(WAIT_S)
