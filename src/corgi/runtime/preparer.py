"""Segments ahead of the writer: made in the background, and zero-filled as far as the disk has time for it.

A made segment has its room, so that writing into it cannot find the disk full. Room that was never written costs each
sync a change of the file system's own records; room once filled with zeros does not (docs/adr/0002-wal-writer.md). So a
slow filler keeps some room ahead of the writer filled, and steps aside while the log writes much, for it uses the same
disk. It must never touch what was written: a chunk lies behind the end of everything given to the writer, and a write
that would reach into the chunk under way waits for it (``covers`` and ``wait``).
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from corgi.base.limits import KIB, MIB
from corgi.log.record import DATA_FROM, LogIdentity
from corgi.runtime.segments import NO_ROOM, delete_segments, first_hole, make_segment, segment_path, write_zeros

_PAGE = 4 * KIB


@dataclass(frozen=True, slots=True)
class FillOptions:
    """How room is filled ahead. Sizes in bytes, times in seconds."""

    ahead_bytes: int = 32 * MIB  # filled in front of the writer; 0: none
    chunk_bytes: int = 256 * KIB  # of one write and sync: bounds what a sync of the log may wait for it
    margin_bytes: int = 1 * MIB  # left free in front of the writer
    pause_s: float = 0.05  # between chunks while the log is written
    idle_pause_s: float = 0.01
    busy_bytes: int = 512 * KIB  # the log wrote more than this since the last chunk: not now


class Preparer:
    """Makes and fills segments of one log on a thread of its own. Callbacks come on the loop."""

    def __init__(
        self,
        folder: Path,
        identity: LogIdentity,
        segment_bytes: int,
        loop: asyncio.AbstractEventLoop,
        options: FillOptions,
        *,
        retry_s: float,
        spare_bytes: int,
        on_made: Callable[[int, int], None],
        on_full: Callable[[bool], None],
        on_failed: Callable[[OSError], None],
    ) -> None:
        """``on_made(number, salt)``; ``on_full(True)`` at each try that finds no room; ``retry_s``: until the next.

        ``spare_bytes`` of the file system are left free: snapshots, without which nothing is freed, need room as well.
        """
        self._folder = folder
        self._identity = identity
        self._segment_bytes = segment_bytes
        self._loop = loop
        self._options = options
        self._retry_s = retry_s
        self._spare_bytes = spare_bytes
        self._on_made = on_made
        self._on_full = on_full
        self._on_failed = on_failed
        self._thread = ThreadPoolExecutor(1, "corgi-prepare")
        self._making = 0
        self._retry: asyncio.TimerHandle | None = None
        self._fill: asyncio.TimerHandle | None = None
        self._filled: dict[int, int] = {}  # segment to the offset up to which it was written once
        self._segment, self._offset = 1, DATA_FROM  # nothing from here on was given to the writer
        self._recent_bytes = 0
        self._chunk: tuple[int, int, int] | None = None  # under way: segment, from, to
        self._waiting: Callable[[], None] | None = None
        self._closed = False
        self.made = 0
        self.filled_bytes = 0

    def begin(self, segment: int, offset: int, ahead: list[int]) -> None:
        """The writer goes on at ``offset`` of ``segment``; ``ahead`` are segments made in an earlier life."""
        self._segment, self._offset = segment, offset
        for number in {segment, *ahead}:
            path = segment_path(self._folder, number)
            if path.exists():
                self._filled[number] = first_hole(path, offset if number == segment else DATA_FROM)
        self._schedule(self._options.idle_pause_s)

    def make(self, number: int) -> None:
        """Make a segment, unless one is being made; tries again for as long as the disk is full."""
        if not self._making and not self._closed:
            self._making = number
            self._start_making()

    def make_now(self, number: int) -> int:
        """Make a segment before returning, and return its salt. Raises OSError."""
        salt = int.from_bytes(os.urandom(8), "big")
        make_segment(self._folder, self._identity, number, self._segment_bytes, salt)
        self.made += 1
        return salt

    def delete(self, numbers: Sequence[int]) -> None:
        """Delete segments in the background. A failure costs their room until the next start, nothing else."""
        if not self._closed:
            self._thread.submit(delete_segments, self._folder, list(numbers))

    def wrote(self, segment: int, end: int) -> None:
        """Everything up to ``end`` of ``segment`` was given to the writer."""
        self._recent_bytes += end - self._offset if segment == self._segment else end
        if segment != self._segment:
            self._filled = {number: to for number, to in self._filled.items() if number >= segment}
        self._segment, self._offset = segment, end
        if self._fill is None and self._chunk is None:
            self._schedule(self._options.pause_s)

    def covers(self, segment: int, start: int, end: int) -> bool:
        """Whether the chunk under way touches [start, end) of ``segment``."""
        chunk = self._chunk
        return chunk is not None and chunk[0] == segment and chunk[1] < end and start < chunk[2]

    def wait(self, then: Callable[[], None]) -> None:
        """Call ``then`` when the chunk under way is done; it waits alone."""
        self._waiting = then

    def close(self) -> None:
        """Wait for what is under way."""
        self._closed = True
        for timer in (self._retry, self._fill):
            if timer is not None:
                timer.cancel()
        self._thread.shutdown(cancel_futures=True)

    def _start_making(self) -> None:
        self._retry = None
        future = self._loop.run_in_executor(self._thread, self._make, self._making)
        future.add_done_callback(self._made)

    def _make(self, number: int) -> int:
        """As ``make_now``, if enough stays free. Raises OSError."""
        free = os.statvfs(self._folder)
        if free.f_bavail * free.f_frsize < self._segment_bytes + self._spare_bytes:
            raise OSError(errno.ENOSPC, "what is left is kept for snapshots")
        return self.make_now(number)

    def _made(self, future: asyncio.Future[int]) -> None:
        if self._closed or future.cancelled():
            return
        error = future.exception()
        if error is None:
            number, self._making = self._making, 0
            self._filled[number] = first_hole(segment_path(self._folder, number), DATA_FROM)
            self._on_full(False)
            self._on_made(number, future.result())
            self._schedule(self._options.pause_s)
        elif isinstance(error, OSError) and error.errno in NO_ROOM:
            self._retry = self._loop.call_later(self._retry_s, self._start_making)
            self._on_full(True)
        else:
            self._on_failed(error if isinstance(error, OSError) else OSError(str(error)))

    def _schedule(self, pause_s: float) -> None:
        if self._fill is None and self._chunk is None and not self._closed and self._next_chunk() is not None:
            self._fill = self._loop.call_later(pause_s, self._fill_next)

    def _next_chunk(self) -> tuple[int, int, int] | None:
        """The next room to fill, if the writer is near enough to it."""
        options = self._options
        for number in sorted(self._filled):
            start = self._filled[number]
            if number < self._segment or start >= self._segment_bytes:
                continue
            distance = (number - self._segment) * self._segment_bytes + start - self._offset
            if number == self._segment and distance < options.margin_bytes:
                start = self._offset + options.margin_bytes
                start += -start % _PAGE
            if distance >= options.ahead_bytes or start >= self._segment_bytes:
                continue
            return number, start, min(start + options.chunk_bytes, self._segment_bytes)
        return None

    def _fill_next(self) -> None:
        self._fill = None
        recent, self._recent_bytes = self._recent_bytes, 0
        if recent > self._options.busy_bytes:
            self._schedule(self._options.pause_s)
            return
        self._chunk = chunk = self._next_chunk()
        if chunk is not None:
            future = self._loop.run_in_executor(self._thread, self._fill_chunk, *chunk)
            future.add_done_callback(self._chunk_filled)

    def _fill_chunk(self, number: int, start: int, end: int) -> None:
        fd = os.open(segment_path(self._folder, number), os.O_RDWR)
        try:
            write_zeros(fd, start, end)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def _chunk_filled(self, future: asyncio.Future[None]) -> None:
        chunk, self._chunk = self._chunk, None
        waiting, self._waiting = self._waiting, None
        if self._closed or future.cancelled() or chunk is None:
            return
        error = future.exception()
        if error is not None:
            self._on_failed(error if isinstance(error, OSError) else OSError(str(error)))
            return
        number, start, end = chunk
        self._filled[number] = end
        self.filled_bytes += end - start
        if waiting is not None:
            waiting()
        self._schedule(self._options.idle_pause_s if not self._recent_bytes else self._options.pause_s)
