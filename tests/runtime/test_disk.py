"""The log on real files: nothing is released before it is durable, whatever the disk does."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from disk_world import (
    CLUSTER,
    SEGMENT_BYTES,
    SMALL,
    NoSync,
    World,
    accept,
    eventually,
    in_hand,
    kernel_counts_pages,
    running,
    told_by_killed,
    turns,
    unwritten_pages,
)

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId, Position
from corgi.base.ports import LogRecord
from corgi.runtime import preparer, segments
from corgi.runtime.disk import DiskOptions
from corgi.runtime.preparer import FillOptions
from corgi.runtime.segments import segment_path, write_fully
from corgi.runtime.syncer import Syncer, ThreadSyncer, UringSyncer, best_syncer
from corgi.runtime.uring import SyncRing


def io_uring_is_there() -> bool:
    try:
        SyncRing().close()
    except OSError:
        return False
    return True


needs_io_uring = pytest.mark.skipif(not io_uring_is_there(), reason="needs a kernel that allows io_uring")


@pytest.fixture(params=[pytest.param(UringSyncer, marks=needs_io_uring), ThreadSyncer])
def options(request: pytest.FixtureRequest) -> DiskOptions:
    """Small segments, with each way of syncing in turn."""
    return replace(SMALL, make_syncer=request.param)


async def test_what_is_appended_is_released_in_order_and_found_again(tmp_path: Path, options: DiskOptions) -> None:
    async with running(tmp_path, options) as world:
        rng = random.Random(1)
        for slot in range(1, 301):
            world.append(slot, size=rng.randrange(0, 3000))
            if rng.random() < 0.3:
                await turns(1)
        await world.until_released(300)
        assert world.slots() == list(range(1, 301))
        record = world.released[123]
        assert await world.read(record, len(record.payload)) == record.payload
        assert world.log.statistics().segments_made > 3
    again = World(tmp_path, options)
    assert again.recover() == list(range(1, 301))
    await again.log.close()


async def test_the_log_goes_on_after_each_restart(tmp_path: Path, options: DiskOptions) -> None:
    for life in range(4):
        async with running(tmp_path, options) as world:
            world.append(*range(life * 50, life * 50 + 50), size=700)
            await world.until_released(50)
    last = World(tmp_path, options)
    assert last.recover() == list(range(200))
    await last.log.close()


async def test_all_that_is_appended_during_a_sync_goes_into_the_next(tmp_path: Path) -> None:
    async with in_hand(tmp_path) as (world, syncer):
        world.append(1)
        world.append(2)
        await turns()
        assert len(syncer.writes) == 1
        for slot in range(3, 40):
            world.append(slot)
            await turns(1)
        assert len(syncer.writes) == 1
        syncer.finish()
        assert world.slots() == [1, 2]
        await turns()
        assert len(syncer.writes) == 2
        syncer.finish()
        assert world.slots() == list(range(1, 40))


async def test_nothing_is_released_before_its_sync_is_done(tmp_path: Path) -> None:
    async with in_hand(tmp_path) as (world, syncer):
        for round_number in range(1, 6):
            world.append(round_number)
            await turns()
            assert len(world.slots()) == round_number - 1
            syncer.finish()
            assert len(world.slots()) == round_number
            await turns()


async def test_what_a_release_appends_goes_into_the_next_write(tmp_path: Path) -> None:
    async with in_hand(tmp_path) as (world, syncer):
        world.append(1)
        await turns()
        world.append(2)

        def answer(records: Sequence[LogRecord]) -> None:
            asyncio.get_running_loop().call_soon(world.append, 3)  # as a driver does at the end of its turn

        world.on_release = answer
        syncer.finish()
        await turns()
        world.on_release = lambda records: None
        syncer.finish()
        assert world.slots() == [1, 2, 3]


async def dirty_at_release(folder: Path, settings: DiskOptions) -> list[int]:
    """For each release, the pages of the log that are not on the disk at that moment."""
    found: list[int] = []
    async with running(folder, settings) as world:
        world.on_release = lambda records: found.append(
            unwritten_pages(segment_path(folder / "wal", records[-1].position // settings.segment_bytes))
        )
        for slot in range(1, 21):
            world.append(slot, size=9000 if slot % 5 == 0 else 100)
            await world.until_released(slot)
        world.on_release = lambda records: None
    return found


async def test_the_kernel_has_written_everything_that_is_released(tmp_path: Path, options: DiskOptions) -> None:
    if not kernel_counts_pages(tmp_path):
        pytest.skip("needs cachestat(2) and a file system on a disk")
    found = await dirty_at_release(tmp_path, options)
    assert len(found) == 20
    assert not any(found)


async def test_the_witness_notices_a_sync_that_does_nothing(tmp_path: Path) -> None:
    if not kernel_counts_pages(tmp_path):
        pytest.skip("needs cachestat(2) and a file system on a disk")
    assert all(await dirty_at_release(tmp_path, replace(SMALL, make_syncer=NoSync)))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
async def test_a_failed_sync_is_final(tmp_path: Path, number: int) -> None:
    async with in_hand(tmp_path) as (world, syncer):
        world.append(1)
        await turns()
        syncer.finish()
        world.append(2)
        await turns()
        world.append(3)
        syncer.finish(OSError(number, "the disk says no"))
        assert [error.code for error in world.failures] == ["disk-failed"]
        assert world.log.failed is not None
        world.append(4)
        world.log.flush()
        await turns()
        assert world.slots() == [1]
        assert len(syncer.writes) == 2
        assert len(world.failures) == 1
    assert len(syncer.writes) == 2


@needs_io_uring
async def test_the_kernels_error_is_told(tmp_path: Path) -> None:
    ring = SyncRing()
    read_end, write_end = os.pipe()
    try:
        ring.fdatasync(write_end)
        ring.wait()
        assert ring.result() == -errno.EINVAL
        assert ring.result() is None
    finally:
        for fd in (read_end, write_end):
            os.close(fd)
        ring.close()


@pytest.mark.parametrize("make", [pytest.param(UringSyncer, marks=needs_io_uring), ThreadSyncer])
async def test_a_write_that_fails_is_told_and_not_before_the_call_returns(make: type[Syncer]) -> None:
    loop = asyncio.get_running_loop()
    syncer = make(loop)  # type: ignore[call-arg]
    read_end, write_end = os.pipe()
    try:
        told: asyncio.Future[OSError | None] = loop.create_future()
        syncer.write(write_end, [b"bytes"], 0, lambda error, at: told.set_result(error))
        assert not told.done()
        error = await told
        assert error is not None
        assert error.errno == errno.ESPIPE
    finally:
        syncer.close()
        os.close(read_end)
        os.close(write_end)


@needs_io_uring
async def test_a_syncer_can_be_closed_while_the_kernel_syncs(tmp_path: Path) -> None:
    syncer = UringSyncer(asyncio.get_running_loop())
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        syncer.write(fd, [b"x" * 100_000], 0, lambda error, at: pytest.fail("told after close"))
    finally:
        syncer.close()
        os.close(fd)
    await turns()


async def test_where_io_uring_is_forbidden_a_thread_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(loop: asyncio.AbstractEventLoop) -> Syncer:
        raise OSError(errno.EPERM, "not allowed")

    monkeypatch.setattr("corgi.runtime.syncer.UringSyncer", forbidden)
    syncer = best_syncer(asyncio.get_running_loop())
    try:
        assert syncer.name == "thread"
    finally:
        syncer.close()


@pytest.mark.parametrize("error", [CorgiError("invariant-failed", "states"), ZeroDivisionError()])
async def test_a_fault_in_the_states_of_the_groups_stops_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken() -> list[LogRecord]:
        raise error

    monkeypatch.setattr("disk_world.states", broken)
    async with running(tmp_path) as world:
        world.append(1)
        await world.until(lambda: bool(world.failures))
        assert [failure.code for failure in world.failures] == ["invariant-failed"]


class FullDisk:
    """No room for a new segment until the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.tries = 0
        real = segments.make_segment

        def make(*arguments: object) -> None:
            self.tries += 1
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(preparer, "make_segment", make)


async def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    async with running(tmp_path) as world:
        disk.full = True
        world.append(*range(100), size=2000)
        await world.until(lambda: world.log.full)
        tries = disk.tries
        await eventually(lambda: disk.tries >= tries + 3)
        before = len(world.released)
        assert 0 < before < 100
        assert world.fullness == [True]
        assert world.log.statistics().full
        disk.full = False
        await world.until_released(100)
        assert world.slots() == list(range(100))
        assert world.fullness == [True, False]
        assert not world.failures
    again = World(tmp_path)
    assert again.recover() == list(range(100))
    await again.log.close()


async def test_a_node_can_stop_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    async with running(tmp_path) as world:
        disk.full = True
        world.append(*range(100), size=2000)
        await world.until(lambda: world.log.full and len(world.released) > 20)
    released = world.slots()
    again = World(tmp_path)
    assert again.recover()[: len(released)] == released
    await again.log.close()


async def test_a_disk_that_is_full_from_the_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FullDisk(monkeypatch).full = True
    world = World(tmp_path)
    world.recover()
    with pytest.raises(CorgiError) as caught:
        world.log.start()
    assert caught.value.code == "disk-full"
    await world.log.close()


def test_a_segment_without_room_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(OSError, match="No space"):
        segments.make_segment(tmp_path, segments.LogIdentity(CLUSTER, NodeId(1)), 1, SEGMENT_BYTES, 5)
    assert list(tmp_path.iterdir()) == []


async def test_a_segment_that_was_not_finished_is_cleared_away(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.append(1)
        await world.until_released(1)
    (tmp_path / "wal" / "0000000000000003.wal.new").write_bytes(b"half")
    again = World(tmp_path)
    assert again.recover() == [1]
    await again.log.close()
    assert not list((tmp_path / "wal").glob("*.new"))


async def test_the_age_of_what_waits(tmp_path: Path) -> None:
    async with in_hand(tmp_path) as (world, syncer):
        assert world.log.unsynced_age() == 0.0
        since = time.monotonic()
        world.append(1)
        await turns()
        assert 0.0 < world.log.unsynced_age() <= time.monotonic() - since
        middle = time.monotonic()
        world.append(2)
        syncer.finish()
        await turns()
        assert 0.0 < world.log.unsynced_age() <= time.monotonic() - middle
        syncer.finish()
        await turns()
        assert world.log.unsynced_age() == 0.0


async def test_statistics_count_what_was_done(tmp_path: Path, options: DiskOptions) -> None:
    async with running(tmp_path, options) as world:
        for slot in range(10):
            world.append(slot, size=1000)
            await world.until_released(slot + 1)
        told = world.log.statistics()
        assert (told.writes, told.syncs, told.records) == (10, 10, 10)
        assert told.bytes > 10_000
        assert 0.0 < told.sync_p50_s <= told.sync_p99_s <= told.sync_max_s
        assert told.segment == 1
        assert not told.full
        assert not told.failed
        assert told.writer in {"io_uring", "thread"}


async def test_reads_tell_what_is_not_there(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.append(1)
        await world.until_released(1)
        record = world.released[0]
        beyond = await world.read(record, 10 * SEGMENT_BYTES)
        assert isinstance(beyond, CorgiError)
        assert beyond.code == "record-damaged"
        nowhere = accept(1)
        nowhere.position = type(record.position)(99 * SEGMENT_BYTES)
        answer = await world.read(nowhere, 5)
        assert isinstance(answer, CorgiError)
        assert "0000000000000063" in answer.message
    closed = await world.read(record, 5)
    assert isinstance(closed, CorgiError)
    assert closed.code == "closed"


async def test_many_reads_at_once_all_come_back(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.append(*range(100), size=3000)
        await world.until_released(100)
        answers = await asyncio.gather(*(world.read(record, 3000) for record in world.released))
        assert answers == [record.payload for record in world.released]
        assert world.log.statistics().reads == 100


async def test_several_values_are_read_at_once_and_come_back_in_their_order(tmp_path: Path) -> None:
    """Over segments, in any order, near and far; what is not there spoils nothing else."""
    async with running(tmp_path) as world:
        world.append(*range(60), size=3000)
        await world.until_released(60)
        records = [*world.released[:20], *reversed(world.released[30:])]
        assert len({record.position // SEGMENT_BYTES for record in records}) > 1
        nowhere = Position(99 * SEGMENT_BYTES)
        last = records[-1]
        places = [(record.position, 3000) for record in records]
        places += [(nowhere, 5), (last.position, 10 * SEGMENT_BYTES), (last.position, 3000)]
        answer: asyncio.Future[list[bytes | CorgiError]] = asyncio.get_running_loop().create_future()
        world.log.read_many(places, answer.set_result)
        assert not answer.done()
        found = await answer
        assert found[: len(records)] == [record.payload for record in records]
        assert [value.code for value in found if isinstance(value, CorgiError)] == ["record-damaged"] * 2
        assert found[-1] == last.payload
        assert world.log.statistics().reads == 1
        assert world.log.statistics().read_bytes == (len(records) + 1) * 3000


async def test_zeros_ahead_of_the_writer_never_touch_what_was_written(tmp_path: Path, options: DiskOptions) -> None:
    hasty = FillOptions(
        ahead_bytes=3 * SEGMENT_BYTES,
        chunk_bytes=4096,
        margin_bytes=0,
        pause_s=0.0,
        idle_pause_s=0.0,
        busy_bytes=1 << 30,
    )
    for life in range(3):
        async with running(tmp_path, replace(options, fill=hasty)) as world:
            rng = random.Random(life)
            for slot in range(150):
                world.append(life * 150 + slot, size=rng.randrange(0, 4000))
                if rng.random() < 0.5:
                    await world.until_released(slot + 1)
            await world.until_released(150)
    again = World(tmp_path, options)
    found = [record for record in again.log.recover() if record.kind == accept(1).kind]
    await again.log.close()
    assert [record.slot for record in found] == list(range(450))
    assert all(bytes(record.payload) == bytes([record.slot % 256]) * len(record.payload) for record in found)


async def test_a_write_waits_for_the_zeros_that_it_would_overtake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    begun, finish = asyncio.Event(), threading.Event()

    def slow_zeros(fd: int, start: int, end: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert finish.wait(20)
        segments.write_zeros(fd, start, end)

    monkeypatch.setattr(segments, "FIRST_FILL_BYTES", 0)
    monkeypatch.setattr(preparer, "write_zeros", slow_zeros)
    fill = FillOptions(ahead_bytes=SEGMENT_BYTES, chunk_bytes=8192, margin_bytes=8192, idle_pause_s=0.0)
    async with in_hand(tmp_path, fill=fill) as (world, syncer):
        await asyncio.wait_for(begun.wait(), 20)
        world.append(1, size=2000)  # ends before the zeros
        await turns()
        assert len(syncer.writes) == 1
        syncer.finish()
        world.append(2, size=8000)  # reaches into them
        await turns()
        assert len(syncer.writes) == 1
        finish.set()
        await eventually(lambda: len(syncer.writes) == 2)
        syncer.finish()
        assert world.slots() == [1, 2]
    again = World(tmp_path)
    assert again.recover() == [1, 2]
    await again.log.close()


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, offset: real(fd, [b"".join(buffers)[:777]], offset))
    data = [os.urandom(100), os.urandom(5000), b"", os.urandom(3)]
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        write_fully(fd, data, 10)
    finally:
        os.close(fd)
    assert (tmp_path / "file").read_bytes() == bytes(10) + b"".join(data)


def test_a_vector_longer_than_the_kernel_takes_is_cut(tmp_path: Path) -> None:
    data = [bytes([number % 256]) * 3 for number in range(3000)]
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        write_fully(fd, data, 0)
    finally:
        os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"".join(data)


RELEASING = """
    world.on_release = lambda records: print(*(record.slot for record in records), flush=True)
    slot = 0
    while True:
        slot += 1
        world.append(slot, size=slot * 37 % 3000)
        if slot % 3 == 0:
            await world.until(lambda: len(world.released) >= slot - 20)
"""


async def test_a_process_killed_in_the_middle_lost_nothing_that_it_released(tmp_path: Path) -> None:
    released = await told_by_killed(tmp_path, RELEASING, 60)
    world = World(tmp_path)
    found = world.recover()
    assert released == list(range(1, len(released) + 1))
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= len(released) >= 60
    world.log.start()
    await world.log.close()
