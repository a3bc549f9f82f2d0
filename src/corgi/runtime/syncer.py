"""Writing and syncing one batch at a time, off the event loop as far as the system allows."""

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

Written = Callable[[OSError | None, float | None], None]  # error; when the sync returned (monotonic), if known


class Syncer(Protocol):
    """Makes one write durable at a time."""

    name: str

    def write(self, fd: int, buffers: Sequence[Buffer], offset: int, done: Written) -> None:
        """Write, fdatasync, then call ``done`` on the loop, never before this returns."""
        ...

    def close(self) -> None:
        """Wait for what is under way; its ``done`` may be called or not."""
        ...


class ThreadSyncer:
    """A thread writes and syncs."""

    name = "thread"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[tuple[int, Sequence[Buffer], int, Written] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="corgi-log", daemon=True)
        self._thread.start()

    def write(self, fd: int, buffers: Sequence[Buffer], offset: int, done: Written) -> None:
        self._jobs.put((fd, buffers, offset, done))

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            fd, buffers, offset, done = job
            failure: OSError | None = None
            try:
                write_fully(fd, buffers, offset)
                os.fdatasync(fd)
            except OSError as error:
                failure = error
            self._loop.call_soon_threadsafe(done, failure, time.monotonic())
