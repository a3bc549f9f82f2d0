"""What Kafka's most used client, librdkafka (confluent-kafka), gets from three nodes, all on this machine.

    python benchmarks/kafka.py --repeat 5
    python benchmarks/kafka.py connections      what many connections cost
    python benchmarks/kafka.py cost --profile   what a request of 64 KiB costs the processor

A new cluster of three processes, a topic of three partitions for each measurement. Producing: acks=all, linger 5 ms,
from the first call to the end of ``flush``; reading: a backlog of 1 KiB records, from the first that comes. A consumer
of librdkafka whose queue (64 MB) is full stands still for fetch.queue.backoff.ms, by default a second: both are told.
Metadata: 500 topics of three partitions, asked for on one connection, the second answer and later ones. Medians, and
the least and the most of the runs.
"""

import argparse
import os
import socket
import statistics
import struct
import tempfile
import time
from pathlib import Path

import kafka_connections
import kafka_cost
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from corgi.server.local import LocalCluster, LocalOptions

PARTITIONS = 3
TOPICS = 500
ASKS = 50
METADATA = struct.pack(">hhihi?", 3, 4, 1, -1, -1, False)  # version 4, all topics


def produced_per_s(servers: str, topic: str, size: int, count: int) -> float:
    producer = Producer(
        {
            "bootstrap.servers": servers, "acks": "all", "linger.ms": 5, "batch.size": 1_000_000,
            "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 1_000_000,
        }
    )  # fmt: skip
    producer.list_topics(topic, timeout=10)
    values = [os.urandom(size) for _ in range(100)]
    began = time.perf_counter()
    for number in range(count):
        while True:
            try:
                producer.produce(topic, values[number % 100])
                break
            except BufferError:
                producer.poll(0.01)
    assert producer.flush(120) == 0
    return count / (time.perf_counter() - began)


def read_mb_per_s(servers: str, topic: str, count: int, backoff_ms: int) -> float:
    consumer = Consumer(
        {
            "bootstrap.servers": servers, "group.id": "none", "enable.auto.commit": False,
            "fetch.message.max.bytes": 4_000_000, "queued.min.messages": 1_000_000,
            "fetch.queue.backoff.ms": backoff_ms,
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, i, OFFSET_BEGINNING) for i in range(PARTITIONS)])
    messages = consumer.consume(1, 30)
    began, size, left = time.perf_counter(), 0, count - 1
    while left:
        messages = consumer.consume(min(10_000, left), 5)
        size += sum(len(message.value()) for message in messages)
        left -= len(messages)
    took_s = time.perf_counter() - began
    consumer.close()
    return size / took_s / 1e6


def metadata_ms(address: str) -> list[float]:
    host, _, port = address.partition(":")
    took = []
    with socket.create_connection((host, int(port))) as plug, plug.makefile("rb") as answers:
        for _ in range(ASKS):
            began = time.perf_counter()
            plug.sendall(struct.pack(">i", len(METADATA)) + METADATA)
            answers.read(int.from_bytes(answers.read(4)))
            took.append(1000 * (time.perf_counter() - began))
    return took[1:]


def show(what: str, figures: list[float], unit: str, digits: int = 0) -> None:
    least, middle, most = min(figures), statistics.median(figures), max(figures)
    print(f"{what:40} {middle:12,.{digits}f} {unit:5} ({least:,.{digits}f} to {most:,.{digits}f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("throughput", "connections", "cost"), default="throughput")
    parser.add_argument("--profile", action="store_true", help="of cost: where the time goes, by function")
    parser.add_argument("--only", choices=("Fetch", "Produce"), default="", help="of cost: one API alone")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--records", type=int, default=200_000, help="of 1 KiB in each run, and three times as many of 100 B"
    )
    options = parser.parse_args()
    if options.what == "connections":
        kafka_connections.measure()
    elif options.what == "cost":
        kafka_cost.measure(profile=options.profile, only=options.only)
    else:
        throughput(options)


def throughput(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cluster = LocalCluster(LocalOptions(folder=Path(folder) / "cluster", kafka_port=0))
        with cluster:
            servers = cluster.kafka
            large, small, eager, patient = [], [], [], []
            for run in range(options.repeat):
                large.append(produced_per_s(servers, f"large-{run}", 1024, options.records))
                small.append(produced_per_s(servers, f"small-{run}", 100, 3 * options.records))
                eager.append(read_mb_per_s(servers, f"large-{run}", options.records, 10))
                patient.append(read_mb_per_s(servers, f"large-{run}", options.records, 1000))
            show("producing 1 KiB records", large, "/s")
            show("producing 100 B records", small, "/s")
            show("reading a backlog of 1 KiB records", eager, "MB/s")
            show("the same, fetch.queue.backoff.ms=1000", patient, "MB/s")
            administrator = AdminClient({"bootstrap.servers": servers})
            topics = [NewTopic(f"topic-{number}", PARTITIONS) for number in range(TOPICS)]
            for one in administrator.create_topics(topics, operation_timeout=60, request_timeout=60).values():
                one.result(60)
            show(f"Metadata of {TOPICS} topics, kept", metadata_ms(cluster.nodes[0].kafka), "ms", 2)


if __name__ == "__main__":
    main()
