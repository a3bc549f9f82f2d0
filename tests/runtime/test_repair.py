"""Three real nodes on real files: what is damaged on one is made good from the others, byte for byte.

No client reads while a repair is under way, so it is the nodes' own doing.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from net_world import CLUSTER, HOST, options

import corgi
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, NodeId, Position, Slot
from corgi.base.limits import KIB, MIB
from corgi.broker import repair
from corgi.runtime.disk import DiskOptions
from corgi.runtime.drive import Driver
from corgi.runtime.folder import Folder
from corgi.runtime.segments import segment_path

SEGMENT_BYTES = 256 * KIB
NODES = (1, 2, 3)
G = GroupId(0)
PATIENCE_S = 20.0


class Trio:
    """Three nodes that are stopped and started together or one by one."""

    def __init__(self, path: Path, **changes: int) -> None:
        self.path = path
        self.changes = {"scrub_bytes_s": 0, **changes}
        self.drivers: dict[int, Driver] = {}
        self.folders: dict[int, Folder] = {}
        self.addresses: dict[NodeId, tuple[str, int]] = {}

    @property
    def servers(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.addresses.values())

    def wal(self, node: int) -> Path:
        return self.path / str(node) / "wal"

    async def bootstrap(self) -> None:
        for node in NODES:
            folder = Folder.bootstrap(self.path / str(node), CLUSTER, NodeId(node), 1, segment_bytes=SEGMENT_BYTES)
            self._assemble(node, folder)
        self.addresses = {NodeId(n): (HOST, await driver.bind()) for n, driver in self.drivers.items()}
        for driver in self.drivers.values():
            await driver.start(self.addresses)

    async def start(self, *nodes: int) -> None:
        for node in nodes:
            self._assemble(node, Folder.open(self.path / str(node), NodeId(node), segment_bytes=SEGMENT_BYTES))
        for node in nodes:
            await self.drivers[node].start(self.addresses)

    async def stop(self, *nodes: int) -> None:
        await asyncio.gather(*[self.drivers.pop(node).stop(timeout_s=0.5) for node in nodes])
        for node in nodes:
            self.folders.pop(node).close()

    def _assemble(self, node: int, folder: Folder) -> None:
        self.folders[node] = folder
        told = options(
            node,
            NODES,
            incarnation=folder.incarnation,
            boot=folder.boot,
            groups=1,
            recovering=folder.recovering,
            scrub_pause_s=0.01,
            **self.changes,
        )
        disk = DiskOptions(segment_bytes=SEGMENT_BYTES)
        port = self.addresses[NodeId(node)][1] if self.addresses else 0
        self.drivers[node] = Driver(told, folder.path, port=port, disk=disk, recovered=folder.mark_recovered)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                turn = asyncio.Event()
                asyncio.get_running_loop().call_later(0.005, turn.set)
                await turn.wait()

    def positions(self, node: int) -> dict[Slot, tuple[Position, int]]:
        """Where the values lie in the node's log, and how long they are."""
        group = self.drivers[node].node.groups[0]
        slots = [Slot(slot) for slot in range(1, group.replica.prefix + 1)]
        return {s: (group.slots.position(s), group.slots.length(s)) for s in slots if group.slots.position(s) >= 0}

    async def value(self, node: int, slot: Slot) -> bytes:
        """The value as the node itself has it, without asking another."""
        answer: asyncio.Future[bytes | CorgiError] = asyncio.get_running_loop().create_future()
        found = self.drivers[node].node.values.read_here(G, slot, answer.set_result)
        result = found if found is not None else await asyncio.wait_for(answer, PATIENCE_S)
        assert not isinstance(result, CorgiError), result
        return bytes(result)

    def applied(self, node: int) -> int:
        return self.drivers[node].node.groups[0].machine.applied

    def counted(self, node: int, name: str) -> float:
        return self.drivers[node].node.counters.get(name, 0)


@asynccontextmanager
async def trio(path: Path, messages: int, size: int, **changes: int) -> AsyncIterator[Trio]:
    """Three nodes with ``messages`` acknowledged ones, applied everywhere; ``changes`` of their options."""
    nodes = Trio(path, **changes)
    try:
        await nodes.bootstrap()
        async with corgi.connect(nodes.servers) as mq:
            await mq.topics.create("t", partitions=1)
            for number in range(messages):
                await mq.publish("t", b"%06d" % number + bytes([number % 256]) * size)
        await nodes.until(lambda: len({nodes.applied(node) for node in NODES}) == 1)
        yield nodes
    finally:
        await nodes.stop(*nodes.drivers)


def flip(wal: Path, position: int) -> None:
    segment, offset = divmod(position, SEGMENT_BYTES)
    with segment_path(wal, segment).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def content(wal: Path, position: int, length: int) -> bytes:
    segment, offset = divmod(position, SEGMENT_BYTES)
    return segment_path(wal, segment).read_bytes()[offset : offset + length]


async def everything(nodes: Trio, messages: int) -> list[int]:
    """The numbers of all messages, as a consumer gets them."""
    async with corgi.connect(nodes.servers) as mq, mq.subscribe("t", start="earliest") as subscription:
        found: list[int] = []
        async with asyncio.timeout(PATIENCE_S):
            async for message in subscription:
                found.append(int(message.value[:6]))
                if len(found) == messages:
                    break
        return found


async def test_a_flipped_bit_is_written_back_as_the_peers_have_it(tmp_path: Path) -> None:
    async with trio(tmp_path, 60, 500) as nodes:
        position, length = nodes.positions(2)[Slot(30)]
        peers, _ = nodes.positions(3)[Slot(30)]
        before = content(nodes.wal(2), position, length)
        assert before == content(nodes.wal(3), peers, length)
        await nodes.stop(2)
        flip(nodes.wal(2), position + length // 2)
        assert content(nodes.wal(2), position, length) != before
        await nodes.start(2)
        await nodes.until(lambda: nodes.counted(2, "repaired_in_place") == 1)
        assert content(nodes.wal(2), position, length) == before
        assert nodes.counted(2, "damaged_records") == 1
        await nodes.until(lambda: nodes.applied(2) == nodes.applied(3))
        await nodes.stop(2)
        await nodes.start(2)
        assert nodes.counted(2, "damaged_records") == 0, "the segment is as it was"


async def test_another_entry_damaged_on_every_node_loses_nothing(tmp_path: Path) -> None:
    """All three restart at once: each has what the others lack, and none of them leads before it can."""
    async with trio(tmp_path, 90, 500) as nodes:
        places = {node: [nodes.positions(node)[Slot(slot)] for slot in (20 * node, 20 * node + 7)] for node in NODES}
        expected = [await nodes.value(1, Slot(slot)) for slot in range(1, nodes.applied(1) + 1)]
        await nodes.stop(*NODES)
        for node in NODES:
            for position, length in places[node]:
                flip(nodes.wal(node), position + length - 5)
        await nodes.start(*NODES)
        await nodes.until(lambda: all(nodes.counted(node, "repaired_in_place") == 2 for node in NODES))
        await nodes.until(lambda: all(nodes.applied(node) >= len(expected) for node in NODES))
        for node in NODES:
            assert [await nodes.value(node, Slot(slot)) for slot in range(1, len(expected) + 1)] == expected
        assert await everything(nodes, 90) == list(range(90))


@pytest.mark.parametrize("newest", [True, False])
async def test_a_deleted_segment_is_learned_anew(tmp_path: Path, newest: bool) -> None:
    """The newest held votes: the node does not vote before it recovered. An old one, which a snapshot covers, held
    nothing but values."""
    async with trio(tmp_path, 120, 8000) as nodes:
        await nodes.until(lambda: all(name is not None for name in nodes.drivers[2].node.snapshots.durable))
        segment = nodes.drivers[2].disk.segment if newest else 1
        assert nodes.drivers[2].disk.segment >= 4
        await nodes.stop(2)
        segment_path(nodes.wal(2), segment).unlink()
        await nodes.start(2)
        identity = nodes.drivers[2].node.identity
        assert not identity.voting
        await nodes.until(lambda: identity.voting and nodes.applied(2) == nodes.applied(3))
        node = nodes.drivers[2].node
        await nodes.until(lambda: not (node.values.counting or node.groups[0].slots.missing or node.repairs.wanted))
        assert nodes.counted(2, "log_holes") == nodes.counted(2, "recoveries") == newest
        last = nodes.applied(3)
        live = [slot for slot in map(Slot, range(1, last + 1)) if nodes.drivers[2].node.groups[0].slots.count(slot)]
        assert len(live) >= 120
        for slot in live:
            assert await nodes.value(2, slot) == await nodes.value(3, slot)
        await nodes.stop(2)
        await nodes.start(2)
        await nodes.until(lambda: nodes.drivers[2].node.identity.voting)
        assert nodes.counted(2, "recoveries") == 0, "the recovery behind the hole settles it"
        await nodes.until(lambda: nodes.applied(2) >= last)
        await nodes.stop(1)
        assert await everything(nodes, 120) == list(range(120))


async def test_a_deleted_log_is_as_a_replaced_disk(tmp_path: Path) -> None:
    async with trio(tmp_path, 60, 500) as nodes:
        await nodes.stop(2)
        shutil.rmtree(nodes.wal(2))
        await nodes.start(2)
        identity = nodes.drivers[2].node.identity
        assert not identity.voting
        await nodes.until(lambda: identity.voting and nodes.applied(2) == nodes.applied(3))
        await nodes.until(lambda: not nodes.folders[2].recovering)
        await nodes.stop(1)
        assert await everything(nodes, 60) == list(range(60))


async def test_the_scrubber_repairs_what_nobody_reads(tmp_path: Path) -> None:
    async with trio(tmp_path, 90, 8000, scrub_bytes_s=64 * MIB) as nodes:
        position, length = nodes.positions(3)[Slot(12)]
        assert position // SEGMENT_BYTES < nodes.drivers[3].disk.segment, "it lies in a sealed segment"
        before = content(nodes.wal(3), position, length)
        flip(nodes.wal(3), position + 4000)
        await nodes.until(lambda: nodes.counted(3, "repaired_in_place") == 1)
        assert content(nodes.wal(3), position, length) == before
        assert nodes.counted(3, "scrub_damaged") == 1


async def test_what_is_lost_everywhere_is_told_exactly_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader gets on to it, is told its range, and goes on behind it; a copy that comes back ends the loss."""
    monkeypatch.setattr(repair, "LOST_RETRY_S", 0.05)
    async with trio(tmp_path, 60, 500, tail_bytes_max=0) as nodes:
        machine = nodes.drivers[1].node.groups[0].machine
        (topic, log) = next((key[0], log) for key, log in machine.partitions.items() if log.count == 60)
        slot = log.entry(30).slot
        places = {node: nodes.positions(node)[slot] for node in NODES}
        for node, (position, length) in places.items():
            flip(nodes.wal(node), position + length - 9)
        found: list[int] = []

        async def read(start: str | int, last: int) -> None:
            async with asyncio.timeout(PATIENCE_S), mq.subscribe("t", start=start) as subscription:
                async for message in subscription:
                    found.append(message.offset)
                    if message.offset == last:
                        break

        async with corgi.connect(nodes.servers) as mq:
            with pytest.raises(CorgiError, match=r"offsets 30 to 30 of partition 0 .* go on at 31") as caught:
                await read("earliest", 59)
            assert caught.value.code == "record-lost"
            await read(31, 59)
            assert found == [*range(30), *range(31, 60)]
            leader = next(reply for reply in await mq.status() if reply.lost)
            assert leader.lost == ((topic, 0, 30, 30),)
            assert leader.counters["values_lost"] == 1
        position, length = places[2]
        flip(nodes.wal(2), position + length - 9)
        await nodes.until(lambda: all(not driver.node.repairs.wanted for driver in nodes.drivers.values()))
        assert await everything(nodes, 60) == list(range(60))
