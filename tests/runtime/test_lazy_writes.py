"""Lazy records on real files: told when they are written, synced a little later, never taken for durable before."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from disk_world import SMALL, World, eventually, in_hand, running, told_by_killed, turns

from corgi.runtime.disk import DiskOptions
from corgi.runtime.syncer import Syncer, ThreadSyncer, UringSyncer
from corgi.runtime.uring import SyncRing


def io_uring_is_there() -> bool:
    try:
        SyncRing().close()
    except OSError:
        return False
    return True


BOTH = [
    pytest.param(UringSyncer, marks=pytest.mark.skipif(not io_uring_is_there(), reason="io_uring is not allowed")),
    ThreadSyncer,
]


@pytest.fixture(params=BOTH)
def options(request: pytest.FixtureRequest) -> DiskOptions:
    return replace(SMALL, make_syncer=request.param)


async def test_a_write_of_lazy_records_asks_for_no_sync(tmp_path: Path) -> None:
    async with in_hand(tmp_path) as (world, syncer):
        world.append(1)
        await turns()
        syncer.finish()
        before = world.log.synced_position
        for slot in (2, 3):
            world.append(slot, lazy=True)
            await turns()
            assert syncer.written is not None
            syncer.written()
            syncer.finish()
            await turns()
        assert syncer.syncs == [True, False, False]
        assert [record.slot for record in world.written] == [2, 3]
        assert world.slots() == [1]
        assert world.log.synced_position == before
        assert not world.log.at_rest
        world.append(4)
        await turns()
        assert syncer.syncs[-1]
        syncer.finish()
        assert world.slots() == [1, 4]
        assert world.log.synced_position > world.written[-1].position
        assert world.log.at_rest


async def test_of_a_mixed_write_lazy_records_are_told_before_its_sync(tmp_path: Path) -> None:
    async with in_hand(tmp_path) as (world, syncer):
        world.append(1)
        world.append(2, lazy=True)
        world.append(3)
        await turns()
        assert not world.written, "not before it is written"
        assert syncer.written is not None
        syncer.written()
        assert [record.slot for record in world.written] == [2]
        assert world.slots() == []
        world.append(4, lazy=True)
        await turns()
        assert len(syncer.writes) == 1, "one write at a time: what it does not state as synced would be taken for lazy"
        syncer.finish()
        assert world.slots() == [1, 3]
        assert [record.slot for record in world.written] == [2], "nothing is told twice"


async def test_both_ways_of_syncing_tell_of_the_write_and_then_of_the_sync(
    tmp_path: Path, options: DiskOptions
) -> None:
    async with running(tmp_path, options) as world:
        for slot in range(1, 61, 2):
            world.append(slot)
            world.append(slot + 1, lazy=True)
            await world.until(lambda slot=slot: len(world.released) == (slot + 1) // 2)
            assert [record.slot for record in world.written] == list(range(2, slot + 2, 2))
        world.append(100, lazy=True)
        await world.until(lambda: world.written[-1].slot == 100)
        assert world.slots() == list(range(1, 61, 2))
        await eventually(lambda: world.log.at_rest)
        assert world.log.synced_position > world.written[-1].position, "a quiet log is synced"
    again = World(tmp_path)
    assert sorted(again.recover()) == [*range(1, 61), 100]


async def test_a_failed_sync_after_a_lazy_write_is_final(tmp_path: Path) -> None:
    async with in_hand(tmp_path) as (world, syncer):
        world.append(1)
        world.append(2, lazy=True)
        await turns()
        written = syncer.written
        syncer.finish(OSError(errno.EIO, "lost"))
        assert written is not None
        written()
        assert (world.written, world.slots()) == ([], [])
        assert world.failures[0].code == "disk-failed"
        assert not world.log.at_rest


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("sync", [True, False])
async def test_a_write_that_fails_is_not_told_as_written(make: type[Syncer], sync: bool) -> None:
    loop = asyncio.get_running_loop()
    syncer = make(loop)  # type: ignore[call-arg]
    read_end, write_end = os.pipe()
    try:
        told: asyncio.Future[OSError | None] = loop.create_future()
        early: list[bool] = []
        syncer.write(
            write_end, [b"bytes"], 0, lambda error, at: told.set_result(error), sync=sync,
            written=lambda: early.append(True),
        )  # fmt: skip
        assert await told is not None
        await turns()
        assert not early
    finally:
        syncer.close()
        os.close(read_end)
        os.close(write_end)


TELLING = """
    slot = 0
    while True:
        slot += 1
        lazy = slot % 7 != 0
        world.append(slot, size=slot * 37 % 3000, lazy=lazy)
        told = world.written if lazy else world.released
        await world.until(lambda: told and told[-1].slot == slot)
        print(slot, flush=True)
"""


async def test_a_killed_process_lost_nothing_that_it_had_written(tmp_path: Path) -> None:
    told = (await told_by_killed(tmp_path, TELLING, 200))[-1]
    world = World(tmp_path)
    found = world.recover()
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= told >= 200
    assert not world.holes
    world.log.start()
    await world.log.close()
