"""A program that publishes or reads one partition all the time: CLIENT publish|read SERVERS TOPIC.

It publishes "0", "1", … to partition 0 until its standard input ends, or reads until it has seen "end". Each record
that was acknowledged or read is a line "number offset time", with the monotonic time; the last line is JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from typing import Any

PAUSE_S = 0.005
LIBRDKAFKA = {"retry.backoff.ms": 100, "enable.sparse.connections": False}  # else it may lose all connections at once


class Told:
    """What became of what was published."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.sent = 0
        self.over = threading.Event()

    def done(self, number: int, offset: int) -> None:
        sys.stdout.write(f"{number} {offset} {time.monotonic()}\n")
        sys.stdout.flush()

    def watch(self) -> None:
        sys.stdin.read()
        self.over.set()


def confluent_publish(servers: str, topic: str, told: Told) -> None:
    from confluent_kafka import Producer

    def delivered(number: int) -> Any:
        return lambda error, message: told.failed.append(str(error)) if error else told.done(number, message.offset())

    producer = Producer({"bootstrap.servers": servers, "acks": "all", "enable.idempotence": True, **LIBRDKAFKA})
    while not told.over.is_set():
        producer.produce(topic, str(told.sent).encode(), partition=0, on_delivery=delivered(told.sent))
        told.sent += 1
        producer.poll(PAUSE_S)
    producer.flush(20)


def kafka_python_publish(servers: str, topic: str, told: Told) -> None:
    import kafka

    producer = kafka.KafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True, retry_backoff_ms=100)
    while not told.over.is_set():
        number = told.sent
        told.sent += 1
        future = producer.send(topic, str(number).encode(), partition=0)
        future.add_callback(lambda found, number=number: told.done(number, found.offset))
        future.add_errback(lambda error: told.failed.append(str(error)))
        told.over.wait(PAUSE_S)
    producer.flush(20)
    producer.close()


def aiokafka_publish(servers: str, topic: str, told: Told) -> None:
    import aiokafka

    async def main() -> None:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=servers, acks="all", enable_idempotence=True, retry_backoff_ms=100
        )
        await producer.start()

        def delivered(number: int, future: Any) -> None:
            if future.exception():
                told.failed.append(str(future.exception()))
            else:
                told.done(number, future.result().offset)

        while not told.over.is_set():
            number = told.sent
            told.sent += 1
            sent = await producer.send(topic, str(number).encode(), partition=0)
            sent.add_done_callback(lambda future, number=number: delivered(number, future))
            await asyncio.sleep(PAUSE_S)
        await producer.stop()

    asyncio.run(main())


def confluent_read(servers: str, topic: str, told: Told) -> None:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": "steady", "enable.auto.commit": False, **LIBRDKAFKA})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    while True:
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue
        if message.value() == b"end":
            break
        told.done(int(message.value()), message.offset())
    consumer.close()


def kafka_python_read(servers: str, topic: str, told: Told) -> None:
    import kafka

    consumer = kafka.KafkaConsumer(bootstrap_servers=servers, retry_backoff_ms=100)
    partition = kafka.TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    for message in consumer:
        if message.value == b"end":
            break
        told.done(int(message.value), message.offset)
    consumer.close()


def aiokafka_read(servers: str, topic: str, told: Told) -> None:
    import aiokafka

    async def main() -> None:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=servers, auto_offset_reset="earliest", retry_backoff_ms=100
        )
        await consumer.start()
        consumer.assign([aiokafka.TopicPartition(topic, 0)])
        async for message in consumer:
            if message.value == b"end":
                break
            told.done(int(message.value), message.offset)
        await consumer.stop()

    asyncio.run(main())


PROGRAMS = {
    "confluent": (confluent_publish, confluent_read),
    "kafka-python": (kafka_python_publish, kafka_python_read),
    "aiokafka": (aiokafka_publish, aiokafka_read),
}


def main(client: str, what: str, servers: str, topic: str) -> None:
    told = Told()
    publish, read = PROGRAMS[client]
    if what == "publish":
        threading.Thread(target=told.watch, daemon=True).start()
        publish(servers, topic, told)
    else:
        read(servers, topic, told)
    json.dump({"sent": told.sent, "failed": told.failed}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:5])
