"""A program that publishes and reads by kafka-python as a user: SERVERS TOPIC GROUP MECHANISM USER PASSWORD WAIT_MS.

Prints what it saw as JSON: {"read": [...]}, or {"failed": the name of the error}. Its log goes to stderr.
"""

import json
import logging
import sys

import kafka
from kafka.errors import KafkaError


def main(servers: str, topic: str, group: str, mechanism: str, user: str, password: str, wait_ms: int) -> None:
    security = {
        "bootstrap_servers": servers,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": user,
        "sasl_plain_password": password,
    }
    try:
        producer = kafka.KafkaProducer(**security, max_block_ms=wait_ms, bootstrap_timeout_ms=wait_ms)
        producer.send(topic, b"hello").get(20)
        producer.close()
        consumer = kafka.KafkaConsumer(
            topic, **security, group_id=group, auto_offset_reset="earliest", consumer_timeout_ms=10_000
        )
        found = next(consumer).value.decode()
        consumer.close()
    except KafkaError as error:
        json.dump({"failed": type(error).__name__}, sys.stdout)
    else:
        json.dump({"read": [found]}, sys.stdout)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(*sys.argv[1:-1], wait_ms=int(sys.argv[-1]))
