"""Starting on what a disk holds: damage is found and told, a torn tail is cut, nothing unsynced is relied upon."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from disk_world import (
    SEGMENT_BYTES,
    SMALL,
    World,
    eventually,
    in_hand,
    kernel_counts_pages,
    running,
    turns,
    unwritten_pages,
)

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.base.ports import LogRecord
from corgi.runtime import segments
from corgi.runtime.disk import DiskLog, DiskOptions
from corgi.runtime.segments import segment_path


async def written(folder: Path, settings: DiskOptions = SMALL, *, size: int = 2000) -> list[LogRecord]:
    """A closed log of 100 records over several segments."""
    async with running(folder, settings) as world:
        for slot in range(100):
            world.append(slot, size=size)
            await world.until_released(slot + 1)
    return world.released


async def failing_scan(folder: Path) -> CorgiError:
    world = World(folder)
    with pytest.raises(CorgiError) as caught:
        world.recover()
    await world.log.close()
    return caught.value


async def damaged_scan(folder: Path) -> tuple[list[int], World]:
    """The slots that are whole, and what else was found; the log goes on behind it."""
    world = World(folder)
    found = world.recover()
    world.log.start()
    world.append(1000)
    await world.until_released(1)
    await world.log.close()
    again = World(folder)
    assert again.recover() == [*found, 1000]
    assert (again.holes, again.faulty) == (world.holes, world.faulty)
    await again.log.close()
    return found, world


def flip(folder: Path, position: int) -> None:
    segment, offset = divmod(position, SEGMENT_BYTES)
    path = segment_path(folder / "wal", segment)
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("which", [0, 50, 99])
async def test_a_flipped_bit_is_told_even_in_the_last_record_of_a_closed_log(tmp_path: Path, which: int) -> None:
    records = await written(tmp_path)
    flip(tmp_path, records[which].position + 17)
    found, world = await damaged_scan(tmp_path)
    assert (world.faulty, world.holes) == ([records[which].slot], [])
    assert found == [record.slot for record in records if record is not records[which]]


async def test_a_repair_makes_the_segment_what_it_was(tmp_path: Path) -> None:
    records = await written(tmp_path)
    record = records[50]
    path = segment_path(tmp_path / "wal", record.position // SEGMENT_BYTES)
    before = path.read_bytes()
    flip(tmp_path, record.position + 17)
    world = World(tmp_path)
    world.recover()
    world.log.start()
    payload = bytes(record.payload)
    damaged = path.read_bytes()
    for wrong in (payload[:-1], bytes([payload[0] ^ 1]) + payload[1:]):
        answer: asyncio.Future[CorgiError | None] = asyncio.get_running_loop().create_future()
        world.log.repair(record.position, wrong, answer.set_result)
        error = await answer
        assert error is not None
        assert error.code == "record-damaged"
        assert path.read_bytes() == damaged, "nothing is written but what the header names"
    done: asyncio.Future[CorgiError | None] = asyncio.get_running_loop().create_future()
    world.log.repair(record.position, payload, done.set_result)
    assert await done is None
    assert path.read_bytes() == before
    await world.log.close()


async def test_a_sector_that_cannot_be_read_is_damage_and_not_the_end_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = await written(tmp_path)
    bad = records[50].position // 4096 * 4096 % SEGMENT_BYTES
    path = segment_path(tmp_path / "wal", records[50].position // SEGMENT_BYTES)
    preadv = os.preadv

    def failing(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        of_it = os.readlink(f"/proc/self/fd/{fd}") == str(path)
        if of_it and offset <= bad < offset + len(buffers[0]):
            raise OSError(errno.EIO, "Input/output error")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    found, world = await damaged_scan(tmp_path)
    lost = {record.slot for record in records} - set(found)
    assert records[50].slot in lost
    assert len(lost) <= 4
    assert set(world.faulty) <= lost
    assert len(world.holes) <= 1


CUT = 2 * SEGMENT_BYTES + 5000


async def test_a_truncated_file_has_a_hole_at_its_end(tmp_path: Path) -> None:
    records = await written(tmp_path)
    os.truncate(segment_path(tmp_path / "wal", 2), CUT % SEGMENT_BYTES)
    found, world = await damaged_scan(tmp_path)
    assert {hole.segment for hole in world.holes} == {2}
    assert found == [r.slot for r in records if not CUT < r.position + 2000 <= 3 * SEGMENT_BYTES]


@pytest.mark.parametrize("number", [1, 2])
async def test_a_deleted_segment_is_a_hole(tmp_path: Path, number: int) -> None:
    records = await written(tmp_path)
    segment_path(tmp_path / "wal", number).unlink()
    found, world = await damaged_scan(tmp_path)
    assert [(hole.segment, hole.what) for hole in world.holes] == [(number, "the segment is missing")]
    assert found == [record.slot for record in records if record.position // SEGMENT_BYTES != number]


async def test_a_log_goes_on_behind_the_lost_segment_that_a_restart_needs(tmp_path: Path) -> None:
    """Nothing that a scan looks at is there any more: the segments before it are not written over."""
    records = await written(tmp_path)
    wal = tmp_path / "wal"
    last = records[-1].position // SEGMENT_BYTES
    for path in sorted(wal.iterdir())[last - 1 :]:
        path.unlink()
    before = {path: path.read_bytes() for path in wal.iterdir()}
    world = World(tmp_path)
    assert world.recover(last) == []
    assert [hole.segment for hole in world.holes] == [last]
    world.log.start()
    world.append(500)
    await world.until_released(1)
    await world.log.close()
    assert world.released[0].position // SEGMENT_BYTES == last + 1
    assert {path: path.read_bytes() for path in before} == before


async def test_a_strange_name_in_the_folder_is_told(tmp_path: Path) -> None:
    await written(tmp_path, size=10)
    (tmp_path / "wal" / "copy.wal").write_bytes(b"")
    assert "copy.wal" in (await failing_scan(tmp_path)).message


async def test_the_log_of_another_cluster_is_refused(tmp_path: Path) -> None:
    await written(tmp_path, size=10)
    loop = asyncio.get_running_loop()
    other = DiskLog(tmp_path, b"d" * 16, NodeId(3), loop, lambda records: None, lambda error: None, list, SMALL)
    with pytest.raises(CorgiError) as caught:
        list(other.recover())
    assert caught.value.code == "wrong-cluster"
    await other.close()


async def test_a_torn_tail_is_cut_and_cleared(tmp_path: Path) -> None:
    async with in_hand(tmp_path) as (world, syncer):
        world.append(1)
        await turns()
        syncer.finish()
        await turns()
        world.append(2, size=6000)
        await turns()
        offset, _ = syncer.writes[-1]
    path = segment_path(tmp_path / "wal", 1)
    content = bytearray(path.read_bytes())
    content[offset : offset + 1000] = bytes(1000)
    path.write_bytes(content)
    async with running(tmp_path) as world:
        content = bytearray(path.read_bytes())
        assert not any(content[offset + 200 :])
        world.append(3)
        await world.until_released(1)
    again = World(tmp_path)
    assert again.recover() == [1, 3]
    await again.log.close()


async def test_what_a_killed_process_left_in_memory_is_on_the_disk_before_it_is_relied_upon(tmp_path: Path) -> None:
    if not kernel_counts_pages(tmp_path):
        pytest.skip("needs cachestat(2) and a file system on a disk")
    async with in_hand(tmp_path) as (world, _):
        world.append(1, size=5000)
        await turns()
    path = segment_path(tmp_path / "wal", 1)
    assert unwritten_pages(path)
    async with in_hand(tmp_path, recovered=[1]):
        assert not unwritten_pages(path)


def test_rewriting_makes_pages_dirty_that_the_kernel_thinks_are_written(tmp_path: Path) -> None:
    """After a failed sync the kernel forgets that pages are dirty: reading them proves nothing, writing anew does."""
    if not kernel_counts_pages(tmp_path):
        pytest.skip("needs cachestat(2) and a file system on a disk")
    path = tmp_path / "file"
    path.write_bytes(os.urandom(100_000))
    content = path.read_bytes()
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        assert not unwritten_pages(path)
        segments.rewrite(fd, 50_000, 70_000)
        assert unwritten_pages(path) >= 70_000 // 4096 - 50_000 // 4096 + 1
    finally:
        os.close(fd)
    assert path.read_bytes() == content


async def test_an_idle_log_states_everything_as_synced(tmp_path: Path) -> None:
    async with running(tmp_path, replace(SMALL, close_after_s=0.005)) as world:
        world.append(1)
        await world.until_released(1)
        await eventually(lambda: world.log.statistics().writes >= 2)
        image = bytearray(segment_path(tmp_path / "wal", 1).read_bytes())
        image[world.released[0].position % SEGMENT_BYTES] ^= 1
        segment_path(tmp_path / "wal", 1).write_bytes(image)
    _, scanned = await damaged_scan(tmp_path)
    assert scanned.faulty == [1], "a closing batch lies behind it"
