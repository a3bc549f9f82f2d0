"""OffsetForLeaderEpoch: consumers that move to another leader learn where an epoch ended."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from kafka_world import KafkaClient, KafkaNode, request

from corgi.base.command import CommandKind
from corgi.base.ids import Ballot
from corgi.kafka.table import APIS
from corgi.state.commands import encode_epoch

KEY = 23
VERSIONS = range(APIS[KEY].versions[0], APIS[KEY].versions[1] + 1)


@pytest.fixture
def world() -> KafkaNode:
    return KafkaNode()


def ask(client: KafkaClient, version: int, name: str, partition: int, epoch: int, current: int = -1) -> Any:
    cls = request(KEY, version)
    kinds: Any = importlib.import_module(cls.__module__)
    part = kinds.OffsetForLeaderPartition(partition=partition, current_leader_epoch=current, leader_epoch=epoch)
    topics = (kinds.OffsetForLeaderTopic(topic=name, partitions=(part,)),)
    fields = {"replica_id": -1} if version >= 3 else {}
    found = client.call(cls(topics=topics, **fields)).topics[0].partitions[0]
    return int(found.error_code), int(found.leader_epoch), int(found.end_offset)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_end_of_each_epoch_is_told(world: KafkaNode, version: int) -> None:
    node, client = world.node, world.client()
    topic = node.create("a")
    group = node.groups[node.group_of(topic, 0)]

    def elect(ballot: int) -> None:
        node.apply(group, [node.command(CommandKind.EPOCH, encode_epoch(node.options.node, Ballot(ballot)))])

    assert ask(client, version, "a", 0, 1) == (0, 1, 0), "nothing is there yet"
    node.produce(topic, 0, b"x", b"y")
    elect(2 << 16)
    elect(3 << 16)
    node.produce(topic, 0, b"z")
    first, last = 1, group.machine.epoch
    assert last > first + 1
    assert ask(client, version, "a", 0, first) == (0, first, 2)
    assert ask(client, version, "a", 0, first + 1) == (0, first, 2), "an epoch without records"
    assert ask(client, version, "a", 0, last, current=last) == (0, last, 3)
    assert ask(client, version, "a", 0, last + 1) == (75, -1, -1)
    assert ask(client, version, "a", 0, first, current=last + 1) == (75, -1, -1)
    told = ask(client, version, "a", 0, first)
    assert ask(client, version, "a", 0, first, current=first) == told, "who was told of the heir before its epoch began"
    assert ask(client, version, "a", 0, -1) == (0, -1, -1)
    assert ask(client, version, "a", 5, first) == (3, -1, -1)
    assert ask(client, version, "b", 0, first) == (3, -1, -1)
