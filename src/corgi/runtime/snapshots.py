"""Snapshots on real files: written beside by a thread of their own, synced, renamed, the folder synced.

So a file under a snapshot's name is whole, or damaged later, which its checksums tell. What a crash leaves unfinished
is removed at the next start. The newest whole snapshot of a group counts; older ones are deleted once it is durable.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId
from corgi.base.ports import SnapshotName, Stored
from corgi.log.snapshot import name_of, stem
from corgi.runtime.segments import NO_ROOM, UNFINISHED, sync_folder, write_fully

SUFFIX = ".snap"


class SnapshotFiles:
    """The ``Snapshots`` port on files in ``folder``/snapshots."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._folder = folder / "snapshots"
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, "corgi-snapshot")
        self._open: dict[SnapshotName, tuple[int, int]] = {}  # descriptor, bytes written; the thread's own
        self._closed = False
        self.written_bytes = 0

    def names(self) -> list[SnapshotName]:
        """What is there, by group, the newest first; leftovers of a crash are removed."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = []
        for path in self._folder.iterdir():
            if path.name.endswith(UNFINISHED):
                path.unlink()
            elif path.suffix == SUFFIX and (name := name_of(path.stem)) is not None:
                found.append(name)
        return sorted(found, key=lambda name: (name.group, -name.slot, -name.first_segment))

    def content(self, name: SnapshotName) -> memoryview:
        """The bytes of a snapshot, mapped for as long as somebody looks at them."""
        fd = os.open(self._path(name), os.O_RDONLY)
        try:
            return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ) if os.fstat(fd).st_size else b"")
        finally:
            os.close(fd)

    def write(self, name: SnapshotName, chunks: Sequence[Buffer], done: Stored) -> None:
        self._run(lambda: self._write(name, chunks), done)

    def commit(self, name: SnapshotName, done: Stored) -> None:
        self._run(lambda: self._commit(name), done)

    def discard(self, name: SnapshotName) -> None:
        self._run(lambda: self._discard(name), lambda _: None)

    def anchor(self, name: SnapshotName, first_segment: int, done: Stored) -> None:
        self._run(lambda: self._anchor(name, first_segment), done)

    def read(self, name: SnapshotName, offset: int, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        result: list[bytes] = []

        def told(error: CorgiError | None) -> None:
            done(result[0] if error is None else error)

        self._run(lambda: result.append(self._read(name, offset, length)), told)

    def close(self) -> None:
        """Wait for what is under way; no ``done`` is called any more."""
        self._closed = True
        self._thread.shutdown(cancel_futures=True)
        for fd, _ in self._open.values():
            os.close(fd)
        self._open.clear()

    def _run(self, work: Callable[[], object], done: Stored) -> None:
        if self._closed:
            return
        future = self._loop.run_in_executor(self._thread, work)
        future.add_done_callback(lambda future: self._finished(future, done))

    def _finished(self, future: asyncio.Future[object], done: Stored) -> None:
        if self._closed or future.cancelled():
            return
        error = future.exception()
        if error is None:
            done(None)
        elif isinstance(error, OSError):
            code = "disk-full" if error.errno in NO_ROOM else "disk-failed"
            done(CorgiError(code, f"a snapshot in {self._folder} cannot be kept: {error}"))
        else:
            raise error

    # ---- on the thread

    def _path(self, name: SnapshotName) -> Path:
        return self._folder / f"{stem(name)}{SUFFIX}"

    def _unfinished(self, name: SnapshotName) -> Path:
        return self._folder / f"{stem(name)}{SUFFIX}{UNFINISHED}"

    def _write(self, name: SnapshotName, chunks: Sequence[Buffer]) -> None:
        if name not in self._open:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._unfinished(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._open[name] = (fd, 0)
        fd, size = self._open[name]
        write_fully(fd, chunks, size)
        added = sum(map(len, chunks))
        self._open[name] = (fd, size + added)
        self.written_bytes += added

    def _commit(self, name: SnapshotName) -> None:
        fd, _ = self._open.pop(name)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self._unfinished(name).rename(self._path(name))
        sync_folder(self._folder)
        self._delete_others(name)

    def _discard(self, name: SnapshotName) -> None:
        fd, _ = self._open.pop(name, (-1, 0))
        if fd >= 0:
            os.close(fd)
        self._unfinished(name).unlink(missing_ok=True)

    def _anchor(self, name: SnapshotName, first_segment: int) -> None:
        self._path(name).rename(self._path(name._replace(first_segment=first_segment)))
        sync_folder(self._folder)

    def _read(self, name: SnapshotName, offset: int, length: int) -> bytes:
        fd = os.open(self._path(name), os.O_RDONLY)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def _delete_others(self, name: SnapshotName) -> None:
        for other in self._of_group(name.group):
            if other != name:
                self._path(other).unlink(missing_ok=True)

    def _of_group(self, group: GroupId) -> list[SnapshotName]:
        names = (name_of(path.stem) for path in self._folder.iterdir() if path.suffix == SUFFIX)
        return [name for name in names if name is not None and name.group == group]
