"""A program that publishes and reads by kafka-python: SERVERS TOPIC CODEC COUNT; prints what it saw as JSON."""

import json
import sys

import kafka


def main(servers: str, topic: str, codec: str, count: int) -> None:
    producer = kafka.KafkaProducer(
        bootstrap_servers=servers, compression_type=None if codec == "none" else codec, linger_ms=5
    )
    records = [(f"key-{i % 7}".encode(), f"value-{i}".encode()) for i in range(count)]
    futures = [producer.send(topic, key=key, value=value) for key, value in records]
    producer.flush(20)
    told = [future.get(1) for future in futures]
    producer.close()
    consumer = kafka.KafkaConsumer(bootstrap_servers=servers, consumer_timeout_ms=10_000)
    partitions = [kafka.TopicPartition(topic, i) for i in range(3)]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    found: list[tuple[str, str]] = []
    for message in consumer:
        found.append((message.key.decode(), message.value.decode()))
        if len(found) == count:
            break
    ends = sum(consumer.end_offsets(partitions).values())
    consumer.close()
    json.dump({"places": [(one.partition, one.offset) for one in told], "read": found, "ends": ends}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
