"""No acknowledgement leaves before the fdatasync that covers it has returned on two of three nodes.

Three real nodes on real sockets; only the syncers are ours: they note what was synced, hold syncs back, or leave them
out.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from net_world import CLUSTER, HOST, options

import corgi
from corgi.base.command import Buffer
from corgi.base.ids import NodeId
from corgi.base.limits import KIB
from corgi.runtime.disk import DiskOptions
from corgi.runtime.drive import Driver
from corgi.runtime.folder import Folder
from corgi.runtime.segments import write_fully
from corgi.runtime.syncer import Done, Written

MARK = b"the record to be found on disks"


class Sync:
    """Writes, and syncs through ``fdatasync``, at once unless ``held``; keeps the bytes that a sync has covered."""

    name = "test"

    def __init__(self, loop: asyncio.AbstractEventLoop, fdatasync: Callable[[int], None]) -> None:
        self.held = False
        self.durable = bytearray()
        self._loop = loop
        self._fdatasync = fdatasync
        self._under_way: tuple[int, bytes, Done] | None = None

    def write(
        self, fd: int, buffers: Sequence[Buffer], offset: int, done: Done, *, sync: bool = True, written: Written = None
    ) -> None:
        write_fully(fd, buffers, offset)
        self._under_way = (fd, b"".join(buffers), done)
        if not self.held:
            self._loop.call_soon(self._finish)

    def _finish(self) -> None:
        assert self._under_way is not None
        (fd, written, done), self._under_way = self._under_way, None
        self._fdatasync(fd)
        self.durable += written
        done(None, None)

    def release(self) -> None:
        self.held = False
        if self._under_way is not None:
            self._loop.call_soon(self._finish)

    def close(self) -> None:
        self._under_way = None


@asynccontextmanager
async def cluster(tmp_path: Path, syncers: dict[int, Sync], fdatasync: Callable[[int], None]) -> AsyncIterator[str]:
    drivers: dict[int, Driver] = {}
    folders = [Folder.bootstrap(tmp_path / str(n), CLUSTER, NodeId(n), 1, segment_bytes=256 * KIB) for n in (1, 2, 3)]

    def maker(node: int) -> Callable[[asyncio.AbstractEventLoop], Any]:
        def make(loop: asyncio.AbstractEventLoop) -> Sync:
            return syncers.setdefault(node, Sync(loop, fdatasync))

        return make

    for folder in folders:
        node = int(folder.node)
        node_options = options(
            node, (1, 2, 3), incarnation=folder.incarnation, boot=folder.boot, groups=1, suspicion_s=60.0
        )
        disk = DiskOptions(segment_bytes=256 * KIB, make_syncer=maker(node))
        drivers[node] = Driver(node_options, folder.path, disk=disk, recovered=folder.mark_recovered)
    try:
        addresses = {NodeId(n): (HOST, await driver.bind()) for n, driver in drivers.items()}
        for driver in drivers.values():
            await driver.start(addresses)
        yield ",".join(f"{host}:{port}" for host, port in addresses.values())
    finally:
        for sync in syncers.values():
            sync.release()
        await asyncio.gather(*[driver.stop(timeout_s=0.1) for driver in drivers.values()])
        for folder in folders:
            folder.close()


def holders(syncers: dict[int, Sync]) -> int:
    return sum(MARK in sync.durable for sync in syncers.values())


@pytest.mark.parametrize("held", [(1, 2), (1, 3), (2, 3), (1, 2, 3)])
async def test_two_disks_are_needed(tmp_path: Path, held: tuple[int, ...]) -> None:
    syncers: dict[int, Sync] = {}
    async with cluster(tmp_path, syncers, os.fdatasync) as servers, corgi.connect(servers) as mq:
        await mq.topics.create("t", partitions=1)
        await mq.publish("t", b"first")
        for node in held:
            syncers[node].held = True
        receipt = asyncio.ensure_future(mq.publish("t", MARK))
        done, _ = await asyncio.wait([receipt], timeout=0.15)
        assert not done, f"acknowledged with the disks of {held} held"
        assert holders(syncers) <= 1
        syncers[held[0]].release()
        if len(held) == 3:
            syncers[held[1]].release()
        await asyncio.wait_for(receipt, 20)
        assert holders(syncers) >= 2


async def test_every_acknowledged_record_is_synced_on_two_disks_first(tmp_path: Path) -> None:
    syncers: dict[int, Sync] = {}
    async with cluster(tmp_path, syncers, os.fdatasync) as servers, corgi.connect(servers) as mq:
        await mq.topics.create("t", partitions=1)
        for number in range(50):
            value = b"record %05d of many" % number
            await mq.publish("t", value)
            assert sum(value in sync.durable for sync in syncers.values()) >= 2


async def test_the_proof_notices_a_sync_that_is_left_out(tmp_path: Path) -> None:
    """The same count on a cluster whose fdatasync does nothing and fails to vouch: nothing counts as durable."""
    syncers: dict[int, Sync] = {}
    synced: list[int] = []

    class NoSync(Sync):
        def _finish(self) -> None:
            before = len(synced)
            super()._finish()
            if len(synced) == before:
                self.durable.clear()

    def maker(node: int, loop: asyncio.AbstractEventLoop) -> Sync:
        return NoSync(loop, lambda _: None)

    loop = asyncio.get_running_loop()
    for node in (1, 2, 3):
        syncers[node] = maker(node, loop)
    async with cluster(tmp_path, syncers, lambda _: None) as servers, corgi.connect(servers) as mq:
        await mq.topics.create("t", partitions=1)
        await mq.publish("t", MARK)
        assert holders(syncers) < 2
