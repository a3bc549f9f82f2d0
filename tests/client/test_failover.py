"""Three node processes, and a client that goes on whatever happens to one of them: nothing lost, doubled, reordered."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import corgi
from corgi.server.local import LocalCluster, LocalOptions

PARTITIONS = 6


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    with LocalCluster(LocalOptions(folder)) as running:
        yield running


@pytest.fixture
async def mq(cluster: LocalCluster) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(cluster.native) as client:
        yield client


class Traffic:
    """Numbered messages to every partition, read back by a subscription meanwhile."""

    def __init__(self, mq: corgi.Corgi, topic: str) -> None:
        self.mq = mq
        self.topic = topic
        self.receipts: dict[tuple[int, int], bytes] = {}
        self.read: dict[int, list[tuple[int, bytes | None]]] = {partition: [] for partition in range(PARTITIONS)}
        self.sent = [0] * PARTITIONS
        self.stopped = False
        self.subscription = mq.subscribe(topic, start="earliest")

    async def publish(self, partition: int) -> None:
        """Several in flight at any time."""
        window: list[tuple[bytes, corgi.PendingReceipt]] = []
        while not self.stopped or window:
            if not self.stopped:
                value = b"%d" % self.sent[partition]
                self.sent[partition] += 1
                window.append((value, self.mq.publish_nowait(self.topic, value, partition=partition)))
            if len(window) >= 20 or self.stopped:
                value, pending = window.pop(0)
                receipt = await pending
                self.receipts[receipt.partition, receipt.offset] = value
            await asyncio.sleep(0)

    async def consume(self) -> None:
        async for message in self.subscription:
            self.read[message.partition].append((message.offset, message.value))
            if self.stopped and self.complete():
                return

    def complete(self) -> bool:
        return [len(messages) for messages in self.read.values()] == self.sent

    async def run(self, disturb: Any) -> None:
        """Traffic while ``disturb`` happens, then everything is read and compared."""
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            reader = group.create_task(self.consume())
            writers = [group.create_task(self.publish(partition)) for partition in range(PARTITIONS)]
            await disturb(self)
            self.stopped = True
            await asyncio.gather(*writers)
            if self.complete():
                self.subscription.close()
            await reader
        for partition in range(PARTITIONS):
            assert [value for _, value in self.read[partition]] == [b"%d" % n for n in range(self.sent[partition])]
            assert [offset for offset, _ in self.read[partition]] == list(range(self.sent[partition]))
        stored = {(p, offset): value for p, messages in self.read.items() for offset, value in messages}
        assert self.receipts == stored

    async def progress(self, records: int) -> None:
        """Until so many more are acknowledged in every partition."""
        before = Counter(partition for partition, _ in self.receipts)
        while True:
            now = Counter(partition for partition, _ in self.receipts)
            if all(now[partition] - before[partition] >= records for partition in range(PARTITIONS)):
                return
            await asyncio.sleep(0)


async def busiest_leader(mq: corgi.Corgi, topic: str) -> int:
    leaders = Counter(p.leader for p in (await mq.topics.describe(topic)).partitions)
    return max(leaders, key=lambda node: (node != 0, leaders[node]))


async def test_a_leader_is_killed(mq: corgi.Corgi, cluster: LocalCluster, name: str) -> None:
    await mq.topics.create(name, partitions=PARTITIONS)
    victim = await busiest_leader(mq, name)

    async def disturb(traffic: Traffic) -> None:
        await traffic.progress(50)
        await asyncio.to_thread(cluster.kill, victim)
        await traffic.progress(50)
        await asyncio.to_thread(cluster.start_nodes, [cluster.node(victim)])
        await traffic.progress(50)

    await Traffic(mq, name).run(disturb)


async def test_a_leader_is_stopped_and_goes_on_later(mq: corgi.Corgi, cluster: LocalCluster, name: str) -> None:
    """Its connections stay open: nothing but silence tells."""
    await mq.topics.create(name, partitions=PARTITIONS)
    victim = cluster.node(await busiest_leader(mq, name)).pid

    async def disturb(traffic: Traffic) -> None:
        await traffic.progress(50)
        os.kill(victim, signal.SIGSTOP)
        try:
            await traffic.progress(50)
        finally:
            os.kill(victim, signal.SIGCONT)
        await traffic.progress(50)

    await Traffic(mq, name).run(disturb)


async def test_connections_break_a_hundred_times(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name, partitions=PARTITIONS)

    async def disturb(traffic: Traffic) -> None:
        for number in range(100):
            await traffic.progress(2)
            links = list(mq._shell._connections)
            if links:
                transport = links[number % len(links)]._transport
                assert transport is not None
                transport.abort()

    traffic = Traffic(mq, name)
    await traffic.run(disturb)
    assert traffic.subscription.statistics().attachments > 50
