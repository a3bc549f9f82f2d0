"""Cold reads of the log off the event loop.

Two threads read; each keeps a bounded number of files open. A read that goes on where others ended asks the kernel to
fetch what follows, because backlogs are read in the order in which they were written. Answers come back on the loop.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from corgi.base.errors import CorgiError
from corgi.base.ids import Position
from corgi.base.limits import KIB, MIB
from corgi.runtime.segments import segment_path

THREADS = 2
OPEN_MAX = 32  # files kept open per thread
AHEAD_BYTES = 2 * MIB  # asked of the kernel in front of a reader

GAP_BYTES = 8 * KIB  # of others' records between two that are wanted: less work than another read
SPAN_BYTES = 256 * KIB  # read at once

Place = tuple[Position, int]  # and a length in bytes
Done = Callable[[bytes | CorgiError], None]
_Job = tuple[Callable[["_Files"], bytes | CorgiError], Done]


class Reads:
    """A bounded pool of readers over the segments of one log."""

    def __init__(self, folder: Path, segment_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._freed: set[int] = set()
        self.waiting = 0
        self.reads = 0
        self.bytes = 0

    def read(self, position: Position, length: int, done: Done) -> None:
        """Read ``length`` bytes at ``position``; ``done`` is called on the loop, later, with them or an error."""
        self._submit(lambda files: self._perform(files, position, length), done)

    def read_many(self, places: Sequence[Place], done: Callable[[list[bytes | CorgiError]], None]) -> None:
        """The same of each of ``places``, whose order the answers have; what lies close together is read at once."""
        found: list[bytes | CorgiError] = []

        def perform(files: _Files) -> bytes:
            for span in _spans(places, self._segment_bytes):
                found.extend(self._perform_span(files, span))
            return b""

        def told(result: bytes | CorgiError) -> None:
            self.bytes += sum(len(value) for value in found if isinstance(value, bytes))
            done(found if isinstance(result, bytes) else [result] * len(places))

        self._submit(perform, told)

    def read_disk(self, position: Position, length: int, done: Done) -> None:
        """The same, past the system's cache."""
        number, offset = divmod(position, self._segment_bytes)

        def drop_and_read(files: _Files) -> bytes | CorgiError:
            try:
                files.drop(number, offset, length)
            except OSError as error:
                return CorgiError("record-damaged", f"segment {number:016x} cannot be read: {error}")
            return self._perform(files, position, length)

        self._submit(drop_and_read, done)

    def call(self, work: Callable[[], CorgiError | None], done: Callable[[CorgiError | None], None]) -> None:
        """Have other work on the segments done by a reader; ``done`` is called on the loop, later."""
        self._submit(lambda _: work() or b"", lambda result: done(result if isinstance(result, CorgiError) else None))

    def _submit(self, work: Callable[[_Files], bytes | CorgiError], done: Done) -> None:
        if self._closed:
            self._loop.call_soon(done, CorgiError("closed", "the log is closed"))
            return
        if len(self._threads) < THREADS and self.waiting >= len(self._threads):
            thread = threading.Thread(target=self._run, name=f"corgi-read-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self.waiting += 1
        self._jobs.put((work, done))

    def freed(self, segments: Sequence[int]) -> None:
        """These files are about to be deleted: none is kept open longer than until the next read."""
        self._freed.update(segments)

    def close(self) -> None:
        """End the threads behind what they are reading; every ``done`` that is left gets "closed"."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        files = _Files(self._folder, self._freed)
        try:
            while (job := self._jobs.get()) is not None:
                work, done = job
                result: bytes | CorgiError
                if self._closed:
                    result = CorgiError("closed", "the log is closed")
                else:
                    result = _result(work, files)
                self._loop.call_soon_threadsafe(self._finish, done, result)
        finally:
            files.close()

    def _perform(self, files: _Files, position: Position, length: int) -> bytes | CorgiError:
        number, offset = divmod(position, self._segment_bytes)
        where = f"{length} bytes in segment {number:016x} at offset {offset}"
        try:
            data = files.read(number, offset, length)
        except OSError as error:
            return CorgiError("record-damaged", f"{where} cannot be read: {error}")
        if len(data) != length:
            return CorgiError("record-damaged", f"{where} are not there, only {len(data)}")
        return data

    def _perform_span(self, files: _Files, span: Sequence[Place]) -> Sequence[bytes | CorgiError]:
        start = span[0][0]
        if len(span) > 1:
            data = self._perform(files, start, span[-1][0] + span[-1][1] - start)
            if isinstance(data, bytes):
                return [data[position - start : position - start + length] for position, length in span]
        return [self._perform(files, position, length) for position, length in span]

    def _finish(self, done: Done, result: bytes | CorgiError) -> None:
        self.waiting -= 1
        self.reads += 1
        if isinstance(result, bytes):
            self.bytes += len(result)
        done(result)


def _spans(places: Sequence[Place], segment_bytes: int) -> Iterator[list[Place]]:
    """Neighbours in one segment, in ascending order, that are best read together."""
    span: list[Place] = []
    end = 0
    for position, length in places:
        if span and not (
            end <= position <= end + GAP_BYTES
            and position + length - span[0][0] <= SPAN_BYTES
            and position // segment_bytes == span[0][0] // segment_bytes
        ):
            yield span
            span = []
        span.append((position, length))
        end = position + length
    if span:
        yield span


def _result(work: Callable[[_Files], bytes | CorgiError], files: _Files) -> bytes | CorgiError:
    """A fault of ours is an answer too: a thread that ended of it would leave every later read without one."""
    try:
        return work(files)
    except Exception as error:  # noqa: BLE001 - see above
        return CorgiError("invariant-failed", f"a reader of the log failed: {error!r}")


class _Files:
    """Open segments of one thread, the one used longest ago closed first."""

    def __init__(self, folder: Path, freed: set[int]) -> None:
        self._folder = folder
        self._freed = freed  # numbers only ever come into it, and a number never comes back to life
        self._open: OrderedDict[int, tuple[int, int]] = OrderedDict()  # number to descriptor, asked ahead up to

    def read(self, number: int, offset: int, length: int) -> bytes:
        if self._open.keys() & self._freed:
            for gone in self._open.keys() & self._freed:
                os.close(self._open.pop(gone)[0])
        fd, ahead = self._open.pop(number, (-1, 0))
        if fd < 0:
            fd = os.open(segment_path(self._folder, number), os.O_RDONLY)
        end = offset + length
        if end > ahead or offset + AHEAD_BYTES < ahead:
            os.posix_fadvise(fd, offset, length + AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            ahead = end + AHEAD_BYTES
        self._open[number] = (fd, ahead)
        if len(self._open) > OPEN_MAX:
            os.close(self._open.popitem(last=False)[1][0])
        return os.pread(fd, length, offset)

    def drop(self, number: int, offset: int, length: int) -> None:
        """Have the system forget what it holds of these bytes, if they are on the disk."""
        fd = os.open(segment_path(self._folder, number), os.O_RDONLY)
        try:
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1][0])
