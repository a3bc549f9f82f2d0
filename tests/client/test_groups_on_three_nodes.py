"""Three node processes and consumers in processes of their own: members join, move and are killed, as is the
coordinator; every message is handled, and the group comes to rest."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import corgi
from corgi.base.errors import CorgiError
from corgi.client.groups import GroupDescription
from corgi.server.local import LocalCluster, LocalOptions

PARTITIONS = 6
PROGRAM = Path(__file__).with_name("consumer_process.py")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(LocalOptions(tmp_path_factory.mktemp("cluster"))) as running:
        yield running


class Consumers:
    """Processes, and what each has handled."""

    def __init__(self, servers: str, topic: str, group: str) -> None:
        self._words = (sys.executable, str(PROGRAM), servers, topic, group)
        self.processes: list[asyncio.subprocess.Process] = []
        self.handled: list[list[tuple[int, int]]] = []
        self._readers: list[asyncio.Task[None]] = []

    async def start(self) -> int:
        process = await asyncio.create_subprocess_exec(*self._words, stdout=asyncio.subprocess.PIPE)
        handled: list[tuple[int, int]] = []
        self.processes.append(process)
        self.handled.append(handled)

        async def read() -> None:
            assert process.stdout is not None
            async for line in process.stdout:
                partition, offset = line.split()
                handled.append((int(partition), int(offset)))

        self._readers.append(asyncio.create_task(read()))
        return len(self.processes) - 1

    def all(self) -> set[tuple[int, int]]:
        return {place for handled in self.handled for place in handled}

    async def kill(self, number: int) -> None:
        self.processes[number].kill()
        await self.processes[number].wait()

    async def stop(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.gather(*self._readers)


@pytest.fixture
async def mq(cluster: LocalCluster) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(cluster.native) as client:
        yield client


async def resting(mq: corgi.Corgi, group: str, fine: Callable[[GroupDescription], bool]) -> GroupDescription:
    """The group once it is stable and ``fine``."""
    async with asyncio.timeout(60):
        while True:
            try:
                described = await mq.groups.describe(group)
                if described.state == "stable" and fine(described):
                    return described
            except CorgiError as error:
                if error.code != "unknown-group":
                    raise
            await asyncio.sleep(0.1)


def shares(described: GroupDescription) -> list[int]:
    held = [unit.member for unit in described.units]
    return sorted(held.count(member.member) for member in described.members)


@pytest.mark.timeout(180)
async def test_members_and_their_coordinator_die_and_every_message_is_handled(
    cluster: LocalCluster, mq: corgi.Corgi
) -> None:
    await mq.topics.create("t", partitions=PARTITIONS)
    stored: set[tuple[int, int]] = set()
    done = asyncio.Event()

    async def publish() -> None:
        number = 0
        while not done.is_set():
            receipt = await mq.publish("t", b"%d" % number, partition=number % PARTITIONS)
            stored.add((receipt.partition, receipt.offset))
            number += 1

    consumers = Consumers(cluster.native, "t", "g")
    publisher = asyncio.create_task(publish())
    try:
        first = await consumers.start()
        before = await resting(mq, "g", lambda told: shares(told) == [6])
        await consumers.start()
        joined = await resting(mq, "g", lambda told: shares(told) == [3, 3])
        epochs = {unit.partition: unit.owner_epoch for unit in before.units}
        moved = [unit for unit in joined.units if unit.owner_epoch != epochs[unit.partition]]
        assert len(moved) == 3, "what did not have to move has the owner epoch that it had"

        (home,) = {told.coordinator for told in await mq.groups.list() if told.name == "g"}
        cluster.kill(home)
        count = len(stored)
        await resting(mq, "g", lambda told: shares(told) == [3, 3] and len(stored) > count + 50)
        after = await mq.groups.describe("g")
        owned = {unit.partition: (unit.member, unit.owner_epoch) for unit in joined.units}
        assert {unit.partition: (unit.member, unit.owner_epoch) for unit in after.units} == owned

        await consumers.kill(first)
        await resting(mq, "g", lambda told: shares(told) == [6])
        cluster.start_nodes([cluster.node(home)])
        done.set()
        await publisher
        await resting(mq, "g", lambda told: told.lag == 0)
        assert consumers.all() >= stored
    finally:
        done.set()
        await publisher
        await consumers.stop()
