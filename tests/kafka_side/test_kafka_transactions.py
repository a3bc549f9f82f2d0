"""Transactions of Kafka's own clients against three nodes: what becomes visible together, and who is fenced."""

from __future__ import annotations

import time
from typing import Any

import aiokafka
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from corgi.server.local import LocalCluster

PARTITIONS = 3


def transactional(servers: str, name: str, **more: Any) -> Producer:
    producer = Producer({"bootstrap.servers": servers, "transactional.id": name, "linger.ms": 0, **more})
    producer.init_transactions(30)
    return producer


def publish(producer: Producer, topic: str, values: range) -> None:
    for value in values:
        producer.produce(topic, str(value).encode(), partition=value % PARTITIONS)


def read(servers: str, topic: str, isolation: str) -> list[int]:
    """Everything up to the ends, which for read_committed are the last stable offsets."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, i, OFFSET_BEGINNING) for i in range(PARTITIONS)])
        found: list[int] = []
        ended: set[int] = set()
        while len(ended) < PARTITIONS:
            message = consumer.poll(20)
            assert message is not None
            error = message.error()
            if error is None:
                found.append(int(message.value()))
            else:
                assert error.code() == KafkaError._PARTITION_EOF
                ended.add(message.partition())
        return sorted(found)
    finally:
        consumer.close()


@pytest.fixture
def made(cluster: LocalCluster, topic: str) -> str:
    """A topic with partitions in several Paxos groups."""
    consumer = Consumer({"bootstrap.servers": cluster.kafka, "group.id": "none"})
    consumer.list_topics(topic, 10)
    Producer({"bootstrap.servers": cluster.kafka}).list_topics(topic, 10)
    consumer.close()
    return topic


def test_what_is_committed_is_seen_and_what_is_aborted_is_not(cluster: LocalCluster, made: str) -> None:
    producer = transactional(cluster.kafka, f"name-{made}")
    for number in range(4):
        producer.begin_transaction()
        publish(producer, made, range(10 * number, 10 * number + 10))
        if number % 2:
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
    committed = [*range(10), *range(20, 30)]
    assert read(cluster.kafka, made, "read_committed") == committed
    everything = read(cluster.kafka, made, "read_uncommitted")
    assert set(committed) <= set(everything)  # what librdkafka had not sent yet when it aborted was never there
    assert set(everything) <= set(range(40))


def test_what_is_open_is_seen_when_it_is_committed(cluster: LocalCluster, made: str) -> None:
    producer = transactional(cluster.kafka, f"name-{made}")
    producer.begin_transaction()
    publish(producer, made, range(10))
    assert producer.flush(20) == 0
    assert read(cluster.kafka, made, "read_committed") == []
    assert read(cluster.kafka, made, "read_uncommitted") == list(range(10))
    producer.commit_transaction(30)
    assert read(cluster.kafka, made, "read_committed") == list(range(10))


def test_a_zombie_is_fenced_and_what_it_left_open_is_aborted(cluster: LocalCluster, made: str) -> None:
    zombie = transactional(cluster.kafka, f"name-{made}")
    zombie.begin_transaction()
    publish(zombie, made, range(10))
    assert zombie.flush(20) == 0
    heir = transactional(cluster.kafka, f"name-{made}")
    with pytest.raises(KafkaException) as refused:
        zombie.commit_transaction(30)
    assert refused.value.args[0].code() == KafkaError._FENCED
    heir.begin_transaction()
    publish(heir, made, range(10, 20))
    heir.commit_transaction(30)
    assert read(cluster.kafka, made, "read_committed") == list(range(10, 20))


def test_a_transaction_that_is_open_for_too_long_is_aborted(cluster: LocalCluster, made: str) -> None:
    producer = transactional(cluster.kafka, f"name-{made}", **{"transaction.timeout.ms": 1_000})
    producer.begin_transaction()
    publish(producer, made, range(10))
    assert producer.flush(20) == 0
    deadline = time.monotonic() + 30
    reader = Producer({"bootstrap.servers": cluster.kafka, "transactional.id": f"other-{made}"})
    reader.init_transactions(30)
    reader.begin_transaction()
    publish(reader, made, range(100, 110))
    reader.commit_transaction(30)
    while read(cluster.kafka, made, "read_committed") != list(range(100, 110)):
        assert time.monotonic() < deadline
    with pytest.raises(KafkaException):
        producer.commit_transaction(30)
    assert read(cluster.kafka, made, "read_committed") == list(range(100, 110))


def test_a_timeout_beyond_what_is_allowed_is_refused(cluster: LocalCluster, topic: str) -> None:
    producer = Producer(
        {"bootstrap.servers": cluster.kafka, "transactional.id": f"name-{topic}", "transaction.timeout.ms": 900_001}
    )
    with pytest.raises(KafkaException) as refused:
        producer.init_transactions(30)
    assert refused.value.args[0].code() == KafkaError.INVALID_TRANSACTION_TIMEOUT


async def test_aiokafka_commits_and_aborts(cluster: LocalCluster, made: str) -> None:
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=cluster.kafka, transactional_id=f"name-{made}")
    await producer.start()
    try:
        for number in range(4):
            await producer.begin_transaction()
            for value in range(10 * number, 10 * number + 10):
                await producer.send_and_wait(made, str(value).encode(), partition=value % PARTITIONS)
            if number % 2:
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()
    finally:
        await producer.stop()
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=cluster.kafka, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    try:
        consumer.assign([aiokafka.TopicPartition(made, i) for i in range(PARTITIONS)])
        found = [int((await consumer.getone()).value) for _ in range(20)]
    finally:
        await consumer.stop()
    assert sorted(found) == [*range(10), *range(20, 30)]


def consume_and_publish(servers: str, group: str, source: str, target: str, name: str, until: int) -> None:
    """Copy records exactly once, until the group's checkpoints say that ``until`` were."""
    producer = transactional(servers, name)
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([source])
    try:
        while done(consumer, source) < until:
            messages = [one for one in consumer.consume(10, 0.5) if one.error() is None]
            if not messages:
                continue
            producer.begin_transaction()
            try:
                for one in messages:
                    producer.produce(target, one.value(), partition=one.partition())
                places = consumer.position(consumer.assignment())
                producer.send_offsets_to_transaction(places, consumer.consumer_group_metadata(), 30)
                commit(producer)
            except KafkaException as error:
                if not error.args[0].txn_requires_abort():
                    raise
                producer.abort_transaction(30)
                for place in consumer.committed(consumer.assignment(), 30):
                    consumer.seek(place if place.offset >= 0 else TopicPartition(source, place.partition, 0))
    finally:
        consumer.close()


def commit(producer: Producer) -> None:
    """Until it is told what became of it."""
    while True:
        try:
            producer.commit_transaction(30)
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
        else:
            return


def done(consumer: Consumer, topic: str) -> int:
    found = consumer.committed([TopicPartition(topic, i) for i in range(PARTITIONS)], 30)
    return sum(max(0, place.offset) for place in found)


@pytest.mark.parametrize("killed", [False, True], ids=["calm", "a node killed"])
def test_records_and_checkpoints_of_a_group_move_together(cluster: LocalCluster, made: str, killed: bool) -> None:
    source, target, count = made, f"{made}-copy", 120
    producer = Producer({"bootstrap.servers": cluster.kafka})
    producer.list_topics(target, 10)
    publish(producer, source, range(count))
    assert producer.flush(20) == 0
    copy = (cluster.kafka, f"group-{made}", source, target, f"name-{made}")
    if killed:
        consume_and_publish(*copy, until=10)
        node = (
            Producer({"bootstrap.servers": cluster.kafka}).list_topics(target, 10).topics[target].partitions[0].leader
        )
        cluster.kill(node)
        try:
            consume_and_publish(*copy, until=count)
        finally:
            cluster.start_nodes([cluster.node(node)])
    else:
        consume_and_publish(*copy, until=count)
    assert read(cluster.kafka, target, "read_committed") == list(range(count))


def test_checkpoints_of_an_aborted_transaction_do_not_move(cluster: LocalCluster, made: str) -> None:
    producer = transactional(cluster.kafka, f"name-{made}")
    consumer = Consumer({"bootstrap.servers": cluster.kafka, "group.id": f"group-{made}"})
    try:
        for end, moved in ((producer.abort_transaction, -1001), (producer.commit_transaction, 0)):
            producer.begin_transaction()
            publish(producer, made, range(3))
            places = [TopicPartition(made, 0, 0)]
            producer.send_offsets_to_transaction(places, consumer.consumer_group_metadata(), 30)
            end(30)
            (found,) = consumer.committed([TopicPartition(made, 0)], 30)
            assert found.offset == moved
    finally:
        consumer.close()
