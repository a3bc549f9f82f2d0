"""Kafka's configuration keys of a node, read-only: what clients and consoles ask for, and what is so here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base.limits import BATCH_BYTES_DEFAULT, PARTITIONS_MAX
from corgi.kafka.topic_config import APPLIED, Kind, Source, Told

if TYPE_CHECKING:
    from corgi.kafka.front import Front


def broker_told(front: Front, listener: str) -> list[Told]:
    """Every key of this node, by name, as a client of a listener is told."""
    options, nodes = front.options, len(front.node.options.members)
    own = front.node.options.node
    host, port = front.brokers(listener).get(own, ("", 0))
    configured = (
        ("broker.id", str(own), Kind.INT, "this node's id"),
        ("node.id", str(own), Kind.INT, "this node's id"),
        ("broker.rack", front.node.options.labels.get(own, ""), Kind.STRING, "this node's failure domain"),
        ("advertised.listeners", f"{listener}://{host}:{port}", Kind.LIST, "where clients reach this node"),
        ("auto.create.topics.enable", str(options.create_topics).lower(), Kind.BOOLEAN, "kafka_create_topics"),
        ("num.partitions", str(options.partitions), Kind.INT, "kafka_partitions"),
    )
    always = (
        ("default.replication.factor", str(nodes), Kind.INT, "every node holds every partition"),
        ("min.insync.replicas", str(nodes // 2 + 1), Kind.INT, "every acknowledged write is on so many disks"),
        ("offsets.topic.replication.factor", str(nodes), Kind.INT, "every node holds every partition"),
        ("transaction.state.log.replication.factor", str(nodes), Kind.INT, "every node holds every partition"),
        ("transaction.state.log.min.isr", str(nodes // 2 + 1), Kind.INT, "a majority"),
        ("unclean.leader.election.enable", "false", Kind.BOOLEAN, "no acknowledged record is given up"),
        ("delete.topic.enable", "true", Kind.BOOLEAN, "topics can be deleted"),
        ("compression.type", "producer", Kind.STRING, "batches stay as producers made them"),
        ("log.message.timestamp.type", "CreateTime", Kind.STRING, "times are the producer's"),
        ("log.cleaner.enable", "true", Kind.BOOLEAN, "compaction runs where a topic asks for it"),
        ("log.retention.hours", "-1", Kind.INT, "topics say how long records stay"),
        ("max.partitions.per.topic", str(PARTITIONS_MAX), Kind.INT, "the most that a topic may have"),
        ("message.max.bytes", str(BATCH_BYTES_DEFAULT), Kind.INT, "the largest batch, unless a topic says otherwise"),
    )
    found = {key: Told(key, value, True, Source.STATIC_BROKER, kind, what) for key, value, kind, what in configured}
    found |= {key: Told(key, value, True, Source.DEFAULT, kind, what) for key, value, kind, what in always}
    for applied in APPLIED.values():
        key = applied.broker_key
        found.setdefault(key, Told(key, applied.default, True, Source.DEFAULT, applied.kind, applied.what))
    return sorted(found.values(), key=lambda one: one.key)
