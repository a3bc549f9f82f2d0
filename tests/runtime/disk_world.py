"""What the tests of the log on real files share: a log with its releases collected, syncers in the test's hand, and a
witness that asks the kernel whether bytes are on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Slot
from corgi.base.ports import FaultyRecord, Hole, LogRecord, RecordKind
from corgi.runtime.disk import DiskLog, DiskOptions
from corgi.runtime.preparer import FillOptions
from corgi.runtime.segments import write_fully
from corgi.runtime.syncer import Done, Written

CLUSTER = b"c" * 16
NODE = NodeId(3)
SEGMENT_BYTES = 64 * 1024
NO_FILL = FillOptions(ahead_bytes=0)
SMALL = DiskOptions(segment_bytes=SEGMENT_BYTES, batch_bytes_max=8192, fill=NO_FILL, retry_s=0.001)


def accept(slot: int, payload: bytes = b"value", *, lazy: bool = False) -> LogRecord:
    group = GroupId(2 if lazy else 1)
    return LogRecord(RecordKind.ACCEPT, group, Ballot(7 << 16 | 3), Slot(slot), Slot(0), payload, lazy=lazy)


def states() -> list[LogRecord]:
    return [LogRecord(RecordKind.STATE, GroupId(0), Ballot(5), Slot(9), Slot(0), b"state")]


class World:
    """A DiskLog and everything it told."""

    def __init__(self, folder: Path, options: DiskOptions = SMALL) -> None:
        self.folder = folder
        self.released: list[LogRecord] = []
        self.written: list[LogRecord] = []
        self.failures: list[CorgiError] = []
        self.fullness: list[bool] = []
        self.holes: list[Hole] = []
        self.faulty: list[int] = []
        self.on_release: Callable[[Sequence[LogRecord]], None] = lambda records: None
        self._changed = asyncio.Event()
        self.log = DiskLog(
            folder,
            CLUSTER,
            NODE,
            asyncio.get_running_loop(),
            self._synced,
            self._failed,
            states,
            options,
            on_full=self._full,
            on_written=self._written,
        )

    def recover(self, first_segment: int = 1) -> list[int]:
        """The slots of the accepts that are found whole; ``faulty`` and ``holes`` tell what else."""
        found = list(self.log.recover(first_segment))
        self.holes = [item for item in found if isinstance(item, Hole)]
        self.faulty = [item.slot for item in found if isinstance(item, FaultyRecord)]
        return [item.slot for item in found if type(item) is LogRecord and item.kind is RecordKind.ACCEPT]

    def append(self, *slots: int, size: int = 5, lazy: bool = False) -> None:
        for slot in slots:
            self.log.append(accept(slot, bytes([slot % 256]) * size, lazy=lazy))

    def slots(self) -> list[int]:
        return [record.slot for record in self.released]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the log tells to make ``condition`` true."""
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_released(self, count: int) -> None:
        await self.until(lambda: len(self.released) >= count)

    async def read(self, record: LogRecord, length: int) -> bytes | CorgiError:
        answer: asyncio.Future[bytes | CorgiError] = asyncio.get_running_loop().create_future()
        self.log.read(record.position, length, answer.set_result)
        assert not answer.done()
        return await answer

    def _synced(self, records: Sequence[LogRecord]) -> None:
        self.on_release(records)
        self.released += records
        self._changed.set()

    def _written(self, records: Sequence[LogRecord]) -> None:
        self.written += records
        self._changed.set()

    def _failed(self, error: CorgiError) -> None:
        self.failures.append(error)
        self._changed.set()

    def _full(self, full: bool) -> None:
        self.fullness.append(full)
        self._changed.set()


@contextlib.asynccontextmanager
async def running(folder: Path, options: DiskOptions = SMALL) -> AsyncIterator[World]:
    """A log that was recovered and started, and is closed in the end."""
    world = World(folder, options)
    try:
        world.recover()
        world.log.start()
        yield world
    finally:
        await world.log.close()


@contextlib.asynccontextmanager
async def in_hand(
    folder: Path, *, fill: FillOptions = NO_FILL, recovered: Sequence[int] | None = None
) -> AsyncIterator[tuple[World, ManualSyncer]]:
    """A started log whose syncs end when the test says so. It ends as if its process were killed."""
    made: list[ManualSyncer] = []

    def make(loop: asyncio.AbstractEventLoop) -> ManualSyncer:
        made.append(ManualSyncer(loop))
        return made[0]

    world = World(folder, replace(SMALL, make_syncer=make, close_after_s=3600.0, fill=fill))
    try:
        found = world.recover()
        assert recovered is None or found == list(recovered)
        world.log.start()
        yield world, made[0]
    finally:
        world.log.abort()
        await world.log.close()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody tells."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


async def turns(count: int = 5) -> None:
    """Let the loop go round, so that whatever would happen by itself has happened."""
    for _ in range(count):
        await asyncio.sleep(0)


class ManualSyncer:
    """Writes at once, syncs never: the test says when a sync is done, and with which error."""

    name = "manual"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.writes: list[tuple[int, int]] = []  # offset, bytes
        self.syncs: list[bool] = []  # whether each is to be synced
        self.written: Written = None
        self._done: Done | None = None

    def write(
        self, fd: int, buffers: Sequence[Buffer], offset: int, done: Done, *, sync: bool = True, written: Written = None
    ) -> None:
        assert self._done is None, "two writes are under way"
        write_fully(fd, buffers, offset)
        self.writes.append((offset, sum(map(len, buffers))))
        self.syncs.append(sync)
        self.written, self._done = written, done

    def finish(self, error: OSError | None = None) -> None:
        done, self._done = self._done, None
        assert done is not None, "nothing is under way"
        done(error, None)

    def close(self) -> None:
        self._done = None


class NoSync:
    """What a syncer must not be: it writes, and says that it synced."""

    name = "none"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def write(
        self, fd: int, buffers: Sequence[Buffer], offset: int, done: Done, *, sync: bool = True, written: Written = None
    ) -> None:
        write_fully(fd, buffers, offset)
        if written is not None:
            self._loop.call_soon(written)
        self._loop.call_soon(done, None, None)

    def close(self) -> None:
        pass


_CACHESTAT = 451


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Pages(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def unwritten_pages(path: Path) -> int:
    """Pages of the file that are in memory only, as the kernel counts them. Raises OSError where it does not."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY)
    try:
        pages = _Pages()
        whole = _Range(0, 0)
        result = libc.syscall(_CACHESTAT, fd, ctypes.byref(whole), ctypes.byref(pages), 0)
        if result:
            raise OSError(ctypes.get_errno(), "cachestat")
        return int(pages.dirty) + int(pages.writeback)
    finally:
        os.close(fd)


def kernel_counts_pages(folder: Path) -> bool:
    """Whether the kernel and the file system under ``folder`` tell which pages are not on the disk."""
    probe = folder / "probe"
    try:
        probe.write_bytes(b"x" * 8192)
        return unwritten_pages(probe) > 0
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)


async def told_by_killed(folder: Path, body: str, lines: int) -> list[int]:
    """What a child process printed, numbers, before it was killed behind so many lines. ``body`` is what it does with
    its World of this folder, recovered and started, without end."""
    head = (
        "import asyncio, sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\nfrom disk_world import World\n"
    )
    begun = "    world = World(Path(sys.argv[1]))\n    world.recover()\n    world.log.start()\n"
    program = f"{head}async def main():\n{begun}{textwrap.indent(textwrap.dedent(body), '    ')}\nasyncio.run(main())\n"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(folder), str(Path(__file__).parent), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    printed = [await process.stdout.readline() for _ in range(lines)]
    process.kill()
    printed.append(await process.stdout.read())
    await process.wait()
    whole = b"".join(printed).rpartition(b"\n")[0]
    return [int(word) for word in whole.split()]
