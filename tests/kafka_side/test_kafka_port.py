"""The port for Kafka's clients with real sockets: what a connection may cost, and when it ends."""

from __future__ import annotations

import asyncio
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator

import pytest

import corgi
from corgi.kafka.front import REQUEST_BYTES_MAX
from corgi.kafka.receiver import EAGER_BYTES, MODEST_BYTES
from corgi.runtime import kafka, listening
from corgi.testing.embedded import Broker

API_VERSIONS, FETCH = 18, 1
IDLE, IDLE_BYTES_MAX = 200, 10_000
ASK_VERSIONS = struct.pack(">ihhih", 10, API_VERSIONS, 0, 7, -1)


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    monkeypatch.setattr(listening, "SWEEP_S", 0.01)
    async with asyncio.timeout(30), Broker(kafka=True) as running:
        yield running


async def dial(broker: Broker) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = broker.kafka_servers.partition(":")
    return await asyncio.open_connection(host, int(port))


def a_fetch(topic: str, wait_ms: int) -> bytes:
    """Version 4, of one partition from its start."""
    name = struct.pack(">h", len(topic)) + topic.encode()
    body = struct.pack(">iiiib", -1, wait_ms, 1, 1 << 20, 0)
    body += struct.pack(">i", 1) + name + struct.pack(">iiqi", 1, 0, 0, 1 << 20)
    head = struct.pack(">hhih", FETCH, 4, 8, -1)
    return struct.pack(">i", len(head) + len(body)) + head + body


async def test_who_says_nothing_for_long_is_told_that_the_connection_ends(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await dial(broker)
    writer.write(ASK_VERSIONS)
    size = int.from_bytes(await reader.readexactly(4))
    await reader.readexactly(size)
    monkeypatch.setattr(kafka, "IDLE_S", 0.02)
    assert await reader.read() == b"", "the end of the stream, not a reset"
    writer.close()


async def test_who_waits_for_an_answer_is_not_idle(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    async with corgi.connect(broker.servers) as mq:
        await mq.topics.create("orders")
        reader, writer = await dial(broker)
        monkeypatch.setattr(kafka, "IDLE_S", 0.1)
        writer.write(a_fetch("orders", wait_ms=400))
        size = int.from_bytes(await reader.readexactly(4))
        assert int.from_bytes((await reader.readexactly(size))[:4]) == 8
        writer.close()


@pytest.mark.parametrize("size", [-1, 3, REQUEST_BYTES_MAX + 1, 2**31 - 1])
async def test_a_size_that_cannot_be_ends_the_connection_and_nothing_else(broker: Broker, size: int) -> None:
    reader, writer = await dial(broker)
    writer.write(struct.pack(">i", size) + b"x" * 100)
    assert await reader.read() == b""
    writer.close()
    other, its_writer = await dial(broker)
    its_writer.write(ASK_VERSIONS)
    assert int.from_bytes(await other.readexactly(4)) > 4
    its_writer.close()


@pytest.mark.parametrize(
    ("sent", "cost"), [(50, EAGER_BYTES), (EAGER_BYTES + 1, MODEST_BYTES), (MODEST_BYTES - 5, MODEST_BYTES)]
)
async def test_many_that_announce_much_and_dribble_cost_little(broker: Broker, sent: int, cost: int) -> None:
    writers = []
    for _ in range(100):
        _, writer = await dial(broker)
        writer.write(struct.pack(">i", REQUEST_BYTES_MAX) + b"x" * sent)
        writers.append(writer)
    driver = broker._driver
    assert driver is not None
    (listener,) = driver.kafka._listeners
    arrived = (4 + sent) * len(writers)
    while sum(one.bytes_received for one in listener.connections) < arrived:  # noqa: ASYNC110 - nobody signals it
        await asyncio.sleep(0)
    held = [connection.receiver.held() for connection in listener.connections]
    assert len(held) == len(writers)
    assert max(held) <= cost
    for writer in writers:
        writer.close()


async def test_idle_connections_cost_little(broker: Broker) -> None:
    """Of Python's memory, in which the test itself holds a socket each; benchmarks/kafka.py measures the process."""
    host, _, port = broker.kafka_servers.partition(":")
    driver = broker._driver
    assert driver is not None
    (listener,) = driver.kafka._listeners
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        plugs = [socket.create_connection((host, int(port))) for _ in range(IDLE)]
        for plug in plugs:
            plug.sendall(ASK_VERSIONS)
        while sum(one.bytes_queued > 0 for one in listener.connections) < IDLE:  # noqa: ASYNC110 - nobody signals it
            await asyncio.sleep(0)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for plug in plugs:
        plug.close()
    assert (after - before) / IDLE < IDLE_BYTES_MAX


async def test_the_node_that_stops_ends_its_connections(broker: Broker) -> None:
    reader, writer = await dial(broker)
    writer.write(ASK_VERSIONS)
    await reader.readexactly(4)
    await broker.stop()
    with pytest.raises(asyncio.IncompleteReadError):
        await reader.readexactly(1 << 20)
    writer.close()
