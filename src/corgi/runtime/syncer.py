"""Writing one batch and making it durable, without holding the event loop for the disk (docs/adr/0002-wal-writer.md).

``UringSyncer`` copies the batch into the page cache on the loop and leaves the fdatasync to the kernel.
``ThreadSyncer`` does both in a thread, where the kernel does not allow io_uring; beside a busy loop it waits for the
interpreter's lock. Neither syncs again after a failure: that is the caller's promise, as is that one write is under way
at a time.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from corgi.base.command import Buffer
from corgi.runtime.segments import write_fully
from corgi.runtime.uring import SyncRing

Done = Callable[[OSError | None, float | None], None]  # error; when the sync returned (monotonic s), if known
Written = Callable[[], None] | None


class Syncer(Protocol):
    """Makes one write durable at a time."""

    name: str

    def write(
        self, fd: int, buffers: Sequence[Buffer], offset: int, done: Done, *, sync: bool = True, written: Written = None
    ) -> None:
        """Write, fdatasync if ``sync``, then call ``done`` on the loop, never before this returns. ``buffers`` stay as
        they are. ``written`` is called on the loop in between, unless something failed by then."""
        ...

    def close(self) -> None:
        """Wait for what is under way; its ``done`` is not called any more."""
        ...


_Job = tuple[int, Sequence[Buffer], int, Done, bool, Written]


class UringSyncer:
    """The loop writes into the page cache, the kernel syncs."""

    name = "io_uring"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError where io_uring cannot be had."""
        self._loop = loop
        self._ring = SyncRing()
        self._done: Done | None = None
        loop.add_reader(self._ring.eventfd, self._completed)

    def write(
        self, fd: int, buffers: Sequence[Buffer], offset: int, done: Done, *, sync: bool = True, written: Written = None
    ) -> None:
        try:
            write_fully(fd, buffers, offset)
            if sync:
                self._ring.fdatasync(fd)
        except OSError as error:
            self._loop.call_soon(done, error, None)
        else:
            if written is not None:
                self._loop.call_soon(written)
            if sync:
                self._done = done
            else:
                self._loop.call_soon(done, None, None)

    def close(self) -> None:
        self._loop.remove_reader(self._ring.eventfd)
        if self._done is not None:
            self._ring.wait()
        self._ring.close()

    def _completed(self) -> None:
        result = self._ring.result()
        done = self._done
        if result is None or done is None:
            return
        self._done = None
        done(None if result == 0 else OSError(-result, os.strerror(-result)), None)


class ThreadSyncer:
    """A thread writes and syncs."""

    name = "thread"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._closed = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="corgi-log", daemon=True)
        self._thread.start()

    def write(
        self, fd: int, buffers: Sequence[Buffer], offset: int, done: Done, *, sync: bool = True, written: Written = None
    ) -> None:
        self._jobs.put((fd, buffers, offset, done, sync, written))

    def close(self) -> None:
        self._closed = True
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            fd, buffers, offset, done, sync, written = job
            failure: OSError | None = None
            try:
                write_fully(fd, buffers, offset)
                if written is not None and not self._closed:
                    self._loop.call_soon_threadsafe(self._told, written)
                if sync:
                    os.fdatasync(fd)
            except OSError as error:
                failure = error
            if not self._closed:
                self._loop.call_soon_threadsafe(self._finish, done, failure, time.monotonic())

    def _told(self, written: Callable[[], None]) -> None:
        if not self._closed:
            written()

    def _finish(self, done: Done, failure: OSError | None, at: float) -> None:
        if not self._closed:
            done(failure, at)


def best_syncer(loop: asyncio.AbstractEventLoop) -> Syncer:
    """What this system offers: io_uring, else a thread."""
    try:
        return UringSyncer(loop)
    except OSError:
        return ThreadSyncer(loop)
