"""A program that administers by kafka-python: SERVERS TOPIC; prints what it saw as JSON."""

import json
import sys

import kafka
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic


def main(servers: str, topic: str) -> None:
    admin = kafka.KafkaAdminClient(bootstrap_servers=servers)
    admin.create_topics(
        [NewTopic(topic, num_partitions=2, replication_factor=1, topic_configs={"retention.ms": "60000"})]
    )
    admin.create_partitions({topic: NewPartitions(4)})
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    configs = str(admin.describe_configs([resource]))
    described = admin.describe_topics([topic])
    cluster = admin.describe_cluster()
    there = topic in admin.list_topics()
    admin.delete_topics([topic])
    left = topic in admin.list_topics()
    admin.close()
    json.dump(
        {
            "partitions": len(described[0]["partitions"]),
            "retention": "60000" in configs,
            "nodes": len(cluster["brokers"]),
            "there": there,
            "left": left,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
