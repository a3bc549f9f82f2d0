"""A real node begins again from its snapshots and the end of its log; damage and full disks are told as such."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from net_world import CLUSTER, HOST, options

import corgi
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, NodeId, Slot
from corgi.base.limits import KIB
from corgi.base.ports import SnapshotName
from corgi.runtime.disk import DiskOptions
from corgi.runtime.drive import Driver
from corgi.runtime.folder import Folder
from corgi.runtime.segments import segment_numbers
from corgi.runtime.snapshots import SnapshotFiles

SEGMENT = 256 * KIB
GROUPS = 2


@asynccontextmanager
async def node(path: Path, *, new: bool = False) -> AsyncIterator[Driver]:
    if new:
        folder = Folder.bootstrap(path, CLUSTER, NodeId(1), GROUPS, segment_bytes=SEGMENT)
    else:
        folder = Folder.open(path, NodeId(1), None)
    told = options(1, (1,), incarnation=folder.incarnation, boot=folder.boot, groups=GROUPS)
    driver = Driver(told, folder.path, disk=DiskOptions(segment_bytes=SEGMENT), recovered=folder.mark_recovered)
    try:
        await driver.start()
        yield driver
    finally:
        await driver.stop()
        folder.close()


async def fill(driver: Driver, first: int = 0) -> int:
    """Publish records of 4 KiB to both groups until each has a new snapshot; the number behind the last record."""
    before = list(driver.node.snapshots.durable)
    async with corgi.connect(f"{HOST}:{driver.port}") as mq:
        if not first:
            await mq.topics.create("t", partitions=2)
        number = first
        while any(name == old for name, old in zip(driver.node.snapshots.durable, before, strict=True)):
            await mq.publish("t", number.to_bytes(4, "big") * KIB, key=str(number).encode())
            number += 1
    return number


async def read(driver: Driver, count: int) -> set[int]:
    """The numbers of so many records from the beginning on."""
    found: list[int] = []
    async with corgi.connect(f"{HOST}:{driver.port}") as mq:
        async for message in mq.subscribe("t", start="earliest"):
            found.append(int.from_bytes(message.value[:4], "big"))
            if len(found) == count:
                break
    return set(found)


async def test_a_node_begins_from_its_snapshots(tmp_path: Path) -> None:
    async with node(tmp_path, new=True) as driver:
        count = await fill(driver)
    names = sorted((tmp_path / "snapshots").iterdir())
    assert [path.suffix for path in names] == [".snap"] * GROUPS
    async with node(tmp_path) as driver:
        assert all(name is not None and name.first_segment > 1 for name in driver.node.snapshots.durable)
        assert await read(driver, count) == set(range(count))
        more = await fill(driver, count)
        assert await read(driver, more) == set(range(more))


async def test_a_damaged_snapshot_is_never_believed(tmp_path: Path) -> None:
    async with node(tmp_path, new=True) as driver:
        count = await fill(driver)
    first, second = sorted((tmp_path / "snapshots").iterdir())
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    second.write_bytes(b"")
    if segment_numbers(tmp_path / "wal")[0] == 1:
        async with node(tmp_path) as driver:
            assert await read(driver, count) == set(range(count))
        return
    with pytest.raises(CorgiError) as caught:
        async with node(tmp_path):
            pass
    assert caught.value.code == "log-damaged"


async def test_files(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    files = SnapshotFiles(tmp_path, loop)

    async def asked(call: object, *arguments: object) -> object:
        told: asyncio.Future[object] = loop.create_future()
        call(*arguments, told.set_result)  # type: ignore[operator]
        return await told

    name = SnapshotName(GroupId(3), Slot(77), 5)
    newer = SnapshotName(GroupId(3), Slot(78), 6)
    other = SnapshotName(GroupId(2), Slot(1), 1)
    for one in (other, name, newer):
        assert await asked(files.write, one, [b"abc", b"de"]) is None
        assert await asked(files.write, one, [b"f"]) is None
        if one == newer:
            assert files.names() == [other, name], "an unfinished one is not there, and removed at a start"
            assert await asked(files.write, one, [b"g"]) is None
            with pytest.raises(FileNotFoundError):
                files._commit(one)
            continue
        assert await asked(files.commit, one) is None
    assert bytes(files.content(name)) == b"abcdef"
    assert await asked(files.read, name, 2, 10) == b"cdef"
    assert await asked(files.anchor, name, 9) is None
    moved = name._replace(first_segment=9)
    assert files.names() == [other, moved]
    gone = await asked(files.read, name, 0, 1)
    assert isinstance(gone, CorgiError)
    assert gone.code == "disk-failed"
    assert await asked(files.write, newer, [b"new"]) is None
    assert await asked(files.commit, newer) is None
    assert files.names() == [other, newer], "an older one of its group is deleted, no other"
    files.close()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    files = SnapshotFiles(tmp_path, loop)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("corgi.runtime.snapshots.write_fully", full)
    told: asyncio.Future[CorgiError | None] = loop.create_future()
    files.write(SnapshotName(GroupId(0), Slot(1), 1), [b"x"], told.set_result)
    error = await told
    assert error is not None
    assert error.code == "disk-full"
    files.discard(SnapshotName(GroupId(0), Slot(1), 1))
    behind: asyncio.Future[bytes | CorgiError] = loop.create_future()
    files.read(SnapshotName(GroupId(0), Slot(1), 1), 0, 1, behind.set_result)
    assert isinstance(await behind, CorgiError)
    assert files_below(tmp_path) == []
    files.close()
