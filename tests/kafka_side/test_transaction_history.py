"""Transactions of Kafka's clients while each node is killed in turn, judged by the checks over histories.

Three transactional producers of librdkafka commit and abort all the time; a reader of committed data looks on; at the
end everything is read once more, by another client.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import aiokafka
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

from corgi.history.model import FAILED, NEVER, OK, UNKNOWN, History, Partition, Read, Transaction
from corgi.history.verdicts import judge
from corgi.server.local import LocalCluster, LocalOptions

TOPIC = "acts"
PARTITIONS = 3
PRODUCERS = 3
CALM_S, WITHOUT_S = 1.0, 1.5  # with all nodes, and with one of them killed
PATIENCE_S = 30


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(LocalOptions(folder=tmp_path / "cluster", nodes=3, groups=4, kafka_port=0)) as running:
        yield running


class Actor(threading.Thread):
    """One producer: transactions of two messages in each partition, every fourth of them aborted."""

    def __init__(self, name: str, servers: str, over: threading.Event) -> None:
        super().__init__(name=name)
        self.told: list[Transaction] = []
        self.fault: BaseException | None = None
        self._servers = servers
        self._over = over

    @property
    def did_enough(self) -> bool:
        statuses = [one.status for one in self.told]
        return statuses.count(OK) > 10 and statuses.count(FAILED) > 3

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._live(self._producer())
        except BaseException as error:
            self.fault = error
            raise

    def _producer(self) -> Producer:
        producer = Producer(
            {"bootstrap.servers": self._servers, "transactional.id": self.name, "linger.ms": 0, "retry.backoff.ms": 100}
        )
        producer.init_transactions(PATIENCE_S)
        return producer

    def _live(self, producer: Producer) -> None:
        """Until it is over, or this producer can do no more."""
        while not self._over.is_set():
            number, invoked = len(self.told), time.monotonic()
            messages = tuple(
                (Partition(TOPIC, partition), f"{self.name}-{number}-{partition}-{i}")
                for partition in range(PARTITIONS)
                for i in range(2)
            )
            decided, status = NEVER, FAILED
            try:
                producer.begin_transaction()
                for partition, value in messages:
                    producer.produce(TOPIC, value.encode(), partition=partition.number)
                if number % 4 == 3:
                    producer.flush(PATIENCE_S)
                    producer.abort_transaction(PATIENCE_S)
                else:
                    decided, status = time.monotonic(), UNKNOWN
                    self._commit(producer)
                    status = OK
            except KafkaException as error:
                status = self._give_up(producer, error)
                if status == UNKNOWN:
                    return
            finally:
                self.told.append(Transaction(self.name, messages, decided, status, invoked, time.monotonic()))

    def _commit(self, producer: Producer) -> None:
        while True:
            try:
                producer.commit_transaction(PATIENCE_S)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
            else:
                return

    def _give_up(self, producer: Producer, error: KafkaException) -> str:
        """What became of a transaction that had an error."""
        if error.args[0].txn_requires_abort():
            producer.abort_transaction(PATIENCE_S)
            return FAILED
        if not error.args[0].fatal():
            raise error
        return UNKNOWN


class Onlooker(threading.Thread):
    """Reads what is committed, as it comes."""

    def __init__(self, servers: str, over: threading.Event) -> None:
        super().__init__(name="onlooker")
        self.reads: list[Read] = []
        self._servers = servers
        self._over = over

    def run(self) -> None:
        consumer = Consumer(
            {"bootstrap.servers": self._servers, "group.id": "onlooker", "enable.auto.commit": False,
             "isolation.level": "read_committed", "retry.backoff.ms": 100}
        )  # fmt: skip
        consumer.assign([TopicPartition(TOPIC, i, OFFSET_BEGINNING) for i in range(PARTITIONS)])
        positions = [0] * PARTITIONS
        while not self._over.is_set():
            for message in consumer.consume(100, 0.1):
                if message.error() is None:
                    place, offset = message.partition(), message.offset()
                    record = (offset, message.value().decode())
                    where = Partition(TOPIC, place)
                    self.reads.append(Read("onlooker", where, positions[place], (record,), time.monotonic()))
                    positions[place] = offset + 1
        consumer.close()


async def drained(servers: str) -> dict[Partition, list[tuple[int, str]]]:
    """Everything that is committed, by aiokafka."""
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        places = [aiokafka.TopicPartition(TOPIC, i) for i in range(PARTITIONS)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        found: dict[Partition, list[tuple[int, str]]] = {Partition(TOPIC, i): [] for i in range(PARTITIONS)}
        while any([await consumer.position(place) < ends[place] for place in places]):
            for place, messages in (await consumer.getmany(timeout_ms=200)).items():
                found[Partition(TOPIC, place.partition)] += [(one.offset, one.value.decode()) for one in messages]
        return found
    finally:
        await consumer.stop()


def test_transactions_are_whole_or_nothing_while_nodes_are_killed(cluster: LocalCluster) -> None:
    Producer({"bootstrap.servers": cluster.kafka}).list_topics(TOPIC, 10)
    over, looked = threading.Event(), threading.Event()
    actors = [Actor(f"actor-{i}", cluster.kafka, over) for i in range(PRODUCERS)]
    onlooker = Onlooker(cluster.kafka, looked)
    try:
        for thread in (*actors, onlooker):
            thread.start()
        for node in cluster.nodes:
            assert not over.wait(CALM_S)
            cluster.kill(node.node)
            assert not over.wait(WITHOUT_S)
            cluster.start_nodes([node])
        until = time.monotonic() + PATIENCE_S
        while not all(actor.did_enough for actor in actors) and time.monotonic() < until:
            assert not over.wait(CALM_S)
    finally:
        over.set()
        for actor in actors:
            actor.join(4 * PATIENCE_S)
        looked.set()
        onlooker.join(PATIENCE_S)
    assert [actor.fault for actor in actors] == [None] * PRODUCERS
    final = asyncio.run(asyncio.wait_for(drained(cluster.kafka), 60))
    history = History(
        transactions=[one for actor in actors for one in actor.told],
        reads=onlooker.reads,
        final={partition: {0: records} for partition, records in final.items()},
        dense=False,
    )
    verdicts = judge(history)
    assert [verdict for verdict in verdicts if not verdict.good] == []
    judged = {verdict.name for verdict in verdicts if verdict.status == "clean"}
    assert {"torn-transaction", "precommitted-read", "aborted-read", "duplicate", "nonmonotonic-poll"} <= judged
    assert all(actor.did_enough for actor in actors)
