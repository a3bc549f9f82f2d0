"""The embedded broker and the pytest plugin."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiokafka
import pytest

import corgi
from corgi import CorgiError
from corgi.testing.embedded import Broker
from corgi.testing.plugin import RunningBroker


async def test_an_embedded_broker_gives_a_connected_client() -> None:
    async with corgi.embedded(compression="lz4") as mq:
        await mq.topics.create("orders")
        assert (await mq.publish("orders", b"x")).offset == 0
        servers = mq.servers
    with pytest.raises(CorgiError) as caught:
        await corgi.connect(servers, connect_timeout="200ms")
    assert caught.value.code == "unreachable"


@pytest.mark.parametrize("durability", ["fsync", "memory"])
async def test_a_given_folder_keeps_its_messages(tmp_path: Path, durability: str) -> None:
    async with corgi.embedded(tmp_path / "data") as mq:
        await mq.topics.create("orders", partitions=2, durability=durability)
        (await mq.publish_many("orders", [b"%d" % number for number in range(1_000)])).raise_first()
    async with corgi.embedded(tmp_path / "data") as mq:
        await mq.publish("orders", b"more", partition=0)
        async with asyncio.timeout(10):
            values = set()
            async for message in mq.subscribe("orders", start="earliest"):
                values.add(message.value)
                if len(values) == 1_001:
                    break
        assert values == {b"%d" % number for number in range(1_000)} | {b"more"}


async def test_a_temporary_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with Broker() as broker:
        assert broker.servers
        assert os.listdir(tmp_path)
    assert os.listdir(tmp_path) == []


async def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    async with Broker(tmp_path / "data"):
        with pytest.raises(CorgiError) as caught:
            await Broker(tmp_path / "data").start()
    assert caught.value.code == "data-folder-in-use"


async def test_two_brokers_know_nothing_of_each_other() -> None:
    async with corgi.embedded() as one, corgi.embedded() as two:
        await one.topics.create("t")
        assert await two.topics.list() == []
        assert one.cluster != two.cluster


def test_the_fixture_serves_synchronous_tests(corgi_embedded: RunningBroker) -> None:
    with corgi_embedded.connect_sync() as mq:
        mq.topics.create("t")
        assert mq.publish("t", b"x").offset == 0


async def test_the_fixture_serves_asynchronous_tests(corgi_embedded: RunningBroker) -> None:
    async with corgi_embedded.connect() as mq:
        assert await mq.topics.list() == []  # new for each test
        await mq.topics.create("t")
        assert (await mq.publish("t", b"x")).offset == 0


async def test_an_embedded_broker_serves_kafkas_clients_too() -> None:
    async with Broker(kafka=True) as broker, asyncio.timeout(20), corgi.connect(broker.servers) as mq:
        await mq.topics.create("orders")
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=broker.kafka_servers)
        await producer.start()
        try:
            await producer.send_and_wait("orders", b"from Kafka's side", key=b"k")
        finally:
            await producer.stop()
        async for message in mq.subscribe("orders", start="earliest"):
            assert (message.key, message.value) == (b"k", b"from Kafka's side")
            break
