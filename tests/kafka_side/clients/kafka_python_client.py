"""What README.md tells of these programs, by kafka-python; what it publishes and reads all the time is in steady.py."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import kafka
from kafka.errors import KafkaError

PARTITIONS = 3


def copy(servers: str, topic: str, codec: str, count: str) -> None:
    producer = kafka.KafkaProducer(
        bootstrap_servers=servers, compression_type=None if codec == "none" else codec, linger_ms=5
    )
    records = [(f"key-{i % 7}".encode(), f"value-{i}".encode()) for i in range(int(count))]
    futures = [producer.send(topic, key=key, value=value) for key, value in records]
    producer.flush(20)
    told = [future.get(1) for future in futures]
    producer.close()
    found = [(message.key.decode(), message.value.decode()) for message in everything(servers, topic, len(records))]
    tell({"places": [(one.partition, one.offset) for one in told], "read": found})


def everything(servers: str, topic: str, count: int) -> list[Any]:
    """So many records of the topic, from its start."""
    consumer = kafka.KafkaConsumer(bootstrap_servers=servers, isolation_level="read_committed")
    consumer.assign([kafka.TopicPartition(topic, i) for i in range(PARTITIONS)])
    consumer.seek_to_beginning()
    found: list[Any] = []
    while len(found) < count:
        found += [message for messages in consumer.poll(1000).values() for message in messages]
    consumer.close()
    return found


def member(servers: str, topic: str, group: str) -> None:
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=servers, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
        session_timeout_ms=10_000, heartbeat_interval_ms=300, retry_backoff_ms=100,
    )  # fmt: skip

    class Holds(kafka.ConsumerRebalanceListener):
        def on_partitions_revoked(self, revoked: Any) -> None:
            pass

        def on_partitions_assigned(self, _assigned: Any) -> None:
            say(" ".join(["holds", *sorted(str(one.partition) for one in consumer.assignment())]))

    consumer.subscribe([topic], listener=Holds())
    while not over.is_set():
        for messages in consumer.poll(200).values():
            for message in messages:
                say(f"read {message.partition} {message.offset} {message.value.decode()}")
        try:
            consumer.commit()
        except KafkaError as error:
            if not error.retriable and type(error).__name__ not in ("CommitFailedError", "RebalanceInProgressError"):
                raise
    consumer.close()


def transact(servers: str, topic: str, group: str, count: str) -> None:
    def connect() -> Any:
        producer = kafka.KafkaProducer(bootstrap_servers=servers, transactional_id=f"id-{topic}")
        producer.init_transactions()
        return producer

    def publish(to: Any, partition: int, value: str) -> None:
        to.send(topic, value.encode(), partition=partition).get(20)

    producer, expected = connect(), 1
    first = kafka.TopicPartition(topic, 0)
    for number in range(int(count)):
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            publish(producer, partition, f"{number}-{partition}")
        producer.send_offsets_to_transaction({first: kafka.OffsetAndMetadata(number, "", -1)}, group)
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
            expected += PARTITIONS
    producer.begin_transaction()
    publish(producer, 0, "zombie")
    heir = connect()
    heir.begin_transaction()
    publish(heir, 0, "heir")
    heir.commit_transaction()
    fenced = False
    try:
        producer.commit_transaction()
    except KafkaError:
        fenced = True
    found = [message.value.decode() for message in everything(servers, topic, expected)]
    consumer = kafka.KafkaConsumer(bootstrap_servers=servers, group_id=group)
    offset = consumer.committed(first)
    consumer.close()
    heir.close()
    tell({"read": found, "offset": offset, "fenced": fenced})
    producer.close(timeout=0)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def tell(found: dict[str, Any]) -> None:
    say(json.dumps(found))


if __name__ == "__main__":
    programs: dict[str, Callable[..., None]] = {"copy": copy, "member": member, "transact": transact}
    programs[sys.argv[1]](*sys.argv[2:])
