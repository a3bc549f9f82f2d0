"""The write-ahead log on real files: drives ``log.writer.Journal`` from an event loop.

One batch is under way at a time; what is appended meanwhile goes into the next (group commit). Records are given
back only after a sync that covers them succeeded, lazy ones (log.writer) once they are written.
A failed write or sync breaks the object for good: it never syncs again and releases nothing. A full disk breaks
nothing: room for the current segment is taken when it is made, so only making the next one can find no room; until that
succeeds records wait and ``full`` is told.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from corgi.base.errors import CorgiError, InvariantError
from corgi.base.ids import NodeId, Position
from corgi.base.limits import MIB, SEGMENT_BYTES
from corgi.base.ports import Hole, LogRecord
from corgi.log.record import DATA_FROM, LogIdentity
from corgi.log.recovery import Scan
from corgi.log.writer import BATCH_BYTES_MAX, CLOSE_AFTER_S, Journal, LogEnd, WriteBatch
from corgi.runtime.preparer import FillOptions, Preparer
from corgi.runtime.reads import Done, Reads
from corgi.runtime.segments import (
    NO_ROOM,
    UNFINISHED,
    open_segments,
    repair_record,
    rewrite,
    segment_numbers,
    segment_path,
    write_zeros,
)  # fmt: skip
from corgi.runtime.syncer import Syncer, best_syncer

SAMPLES = 1024  # latencies kept for percentiles


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """How a log is kept. Sizes in bytes, times in seconds."""

    segment_bytes: int = SEGMENT_BYTES
    batch_bytes_max: int = BATCH_BYTES_MAX
    close_after_s: float = CLOSE_AFTER_S
    segments_ahead: int = 1  # prepared in the background beyond the current one
    spare_bytes: int = 16 * MIB  # of the file system left free when a segment is made, for snapshots
    retry_s: float = 1.0  # a full disk is tried again after this
    fill: FillOptions = field(default_factory=FillOptions)
    make_syncer: Callable[[asyncio.AbstractEventLoop], Syncer] = best_syncer


@dataclass(frozen=True, slots=True)
class DiskStatistics:
    """A snapshot of what the log did since it was started. Times in seconds, over the last 1,024 writes."""

    writer: str
    writes: int
    records: int
    bytes: int
    syncs: int
    sync_p50_s: float  # from giving the write to the system until it is known durable
    sync_p99_s: float
    sync_max_s: float
    release_p50_s: float  # from the return of the sync until its records are released; 0 where not known
    release_p99_s: float
    segment: int
    segments_made: int
    filled_bytes: int  # zeros written ahead
    pending_records: int
    pending_bytes: int
    reads: int
    read_bytes: int
    full: bool
    failed: bool


class DiskLog:
    """The ``Wal`` port on files in ``folder``/wal: exhaust ``recover``, then ``start``, at the end ``close``."""

    def __init__(
        self,
        folder: Path,
        cluster: bytes,
        node: NodeId,
        loop: asyncio.AbstractEventLoop,
        on_synced: Callable[[Sequence[LogRecord]], None],
        on_failed: Callable[[CorgiError], None],
        group_states: Callable[[], list[LogRecord]],
        options: DiskOptions | None = None,
        *,
        on_full: Callable[[bool], None] | None = None,
        on_written: Callable[[Sequence[LogRecord]], None] | None = None,
    ) -> None:
        """``folder`` is the node's data folder, held by this process alone. All callbacks come on ``loop``. Lazy
        records may come through ``on_written``; the next ``on_synced``, which may bring none, says that they are
        durable too."""
        self._folder = folder / "wal"
        self._identity = LogIdentity(cluster, node)
        self._loop = loop
        self._on_synced = on_synced
        self._on_failed = on_failed
        self._on_full = on_full
        self._on_written = on_written or on_synced
        self._group_states = group_states
        self._options = options or DiskOptions()
        self._end: LogEnd | None = None
        self._journal: Journal | None = None
        self._syncer: Syncer | None = None
        self._reads = Reads(self._folder, self._options.segment_bytes, loop)
        self._preparer = Preparer(
            self._folder,
            self._identity,
            self._options.segment_bytes,
            loop,
            self._options.fill,
            retry_s=self._options.retry_s,
            spare_bytes=self._options.spare_bytes,
            on_made=self._prepared,
            on_full=self._tell_full,
            on_failed=lambda error: self._fail(_disk_failed(error)),
        )
        self._fd = -1
        self._fd_segment = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._failure: CorgiError | None = None
        self._full = False
        self._closing: asyncio.Future[None] | None = None
        self._closed = False
        self._pending_since = 0.0
        self._written_since = 0.0
        self._written_at = 0.0
        self._sync_times: deque[float] = deque(maxlen=SAMPLES)
        self._release_times: deque[float] = deque(maxlen=SAMPLES)
        self._writes = self._syncs = self._records = self._bytes = 0

    @property
    def full(self) -> bool:
        """No room for the next segment: new client commands should be refused with "disk-full"."""
        return self._full

    @property
    def failed(self) -> CorgiError | None:
        """Why the log is broken for good, if it is."""
        return self._failure

    @property
    def at_rest(self) -> bool:
        """All that was appended is durable."""
        return self._failure is None and self._journal is not None and self._journal.at_rest

    @property
    def segment_bytes(self) -> int:
        return self._options.segment_bytes

    @property
    def room(self) -> int:
        """Bytes for records in the segments that there are."""
        return self._journal.room if self._journal else 0

    @property
    def segment(self) -> int:
        """The last segment of which something is durable."""
        return self._journal.synced_segment if self._journal else 0

    @property
    def synced_position(self) -> Position:
        """Everything below is durable."""
        return self._journal.synced_position if self._journal else Position(0)

    def segments(self) -> list[int]:
        """Those that are there, ascending. Raises CorgiError "log-damaged" for a file that is none."""
        return segment_numbers(self._folder)

    def free(self, segments: Sequence[int]) -> None:
        """Delete these; a read that comes too late finds "record-damaged"."""
        self._reads.freed(segments)
        self._preparer.delete(segments)

    def recover(self, first_segment: int = 1) -> Iterator[LogRecord | Hole]:
        """Every record of the log in order from a segment on, and what of it is lost.

        Raises CorgiError "log-damaged", "wrong-cluster", "unsupported-version".
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._folder.glob(f"*{UNFINISHED}"):
            leftover.unlink()
        size = self._options.segment_bytes
        scan = Scan(self._identity, segment_bytes=size, first_segment=first_segment)
        yield from scan.records(open_segments(self._folder, first_segment))
        self._end = scan.end

    def start(self) -> None:
        """Repair the tail, make sure of a segment to write to, and take records from here on.

        Raises CorgiError "disk-full" when there is no segment to write to and no room for one, "disk-failed".
        """
        if self._end is None:
            raise RuntimeError("a log is started after it was recovered to its end")
        end, options = self._end, self._options
        try:
            self._repair(end)
            self._journal = journal = Journal(
                self._group_states, end, segment_bytes=options.segment_bytes,
                batch_bytes_max=options.batch_bytes_max, close_after_s=options.close_after_s,
            )  # fmt: skip
            if (end.segment == 0 or end.sealed) and not journal.segments_ahead:
                number = journal.segment_wanted
                journal.prepared(number, self._preparer.make_now(number))
        except OSError as error:
            code = "disk-full" if error.errno in NO_ROOM else "disk-failed"
            raise CorgiError(code, f"the log in {self._folder} cannot be started: {error}") from error
        self._syncer = options.make_syncer(self._loop)
        if end.segment and not end.sealed:
            self._preparer.begin(end.segment, end.offset, [number for number, _ in end.salts])
        else:
            self._preparer.begin(end.segment + 1, DATA_FROM, [number for number, _ in end.salts])
        self._prepare()
        self._schedule()

    def append(self, record: LogRecord) -> None:
        """Queue a record. Dropped when the log is broken: it would never be released."""
        journal = self._journal
        if journal is None:
            raise RuntimeError("the log is not started")
        if self._failure is not None or self._closed:
            return
        if not journal.pending:
            self._pending_since = time.monotonic()
        journal.append(record)
        self._schedule()

    def flush(self) -> None:
        """Begin to write what was appended, if nothing is under way; else it goes with the next batch."""
        journal = self._journal
        if journal is None or journal.outstanding is not None or self._failure is not None or self._closed:
            return
        try:
            batch = journal.take(self._loop.time(), close=self._closing is not None)
        except CorgiError as error:
            self._fail(error)
            return
        except Exception as error:  # noqa: BLE001 - a fault of our own must not leave records waiting for ever
            self._fail(InvariantError(f"the log cannot be planned: {error!r}"))
            return
        if batch is None:
            self._rest(journal)
            return
        now = time.monotonic()
        self._written_since = self._pending_since or now
        self._pending_since = now if journal.pending else 0.0
        self._write(batch)

    def read(self, position: Position, length: int, done: Done) -> None:
        """Read payload bytes off the loop. Errors: "record-damaged" (another node may help), "closed"."""
        self._reads.read(position, length, done)

    def read_many(
        self, places: Sequence[tuple[Position, int]], done: Callable[[list[bytes | CorgiError]], None]
    ) -> None:
        """As ``read`` of all of these, by one reader."""
        self._reads.read_many(places, done)

    def read_disk(self, position: Position, length: int, done: Done) -> None:
        """As ``read``, past the system's cache."""
        self._reads.read_disk(position, length, done)

    def repair(self, position: Position, payload: bytes, done: Callable[[CorgiError | None], None]) -> None:
        """Put a damaged payload back in place, off the loop. Only below what is synced: the writer is not there."""
        journal = self._journal
        if journal is None or position + len(payload) > journal.synced_position:
            raise InvariantError(f"a repair at {position} would meet the writer")
        folder, identity, size = self._folder, self._identity, self._options.segment_bytes

        def repaired(error: CorgiError | None) -> None:
            if error is not None and error.code == "disk-failed":
                self._fail(error)  # what the sync had to cover besides this may be gone
            elif error is None or error.code != "closed":
                done(error)

        self._reads.call(lambda: repair_record(folder, identity, size, position, payload), repaired)

    def unsynced_age(self) -> float:
        """Seconds that the oldest record not yet durable has waited; 0.0 if there is none."""
        journal = self._journal
        if journal is None:
            return 0.0
        if journal.outstanding is not None:
            return time.monotonic() - self._written_since
        return time.monotonic() - self._pending_since if journal.pending else 0.0

    def statistics(self) -> DiskStatistics:
        journal = self._journal
        syncs, releases = sorted(self._sync_times), sorted(self._release_times)
        return DiskStatistics(
            writer=self._syncer.name if self._syncer else "",
            writes=self._writes,
            records=self._records,
            bytes=self._bytes,
            syncs=self._syncs,
            sync_p50_s=_percentile(syncs, 0.5),
            sync_p99_s=_percentile(syncs, 0.99),
            sync_max_s=_percentile(syncs, 1.0),
            release_p50_s=_percentile(releases, 0.5),
            release_p99_s=_percentile(releases, 0.99),
            segment=journal.segment if journal else 0,
            segments_made=self._preparer.made,
            filled_bytes=self._preparer.filled_bytes,
            pending_records=journal.pending if journal else 0,
            pending_bytes=journal.pending_bytes if journal else 0,
            reads=self._reads.reads,
            read_bytes=self._reads.bytes,
            full=self._full,
            failed=self._failure is not None,
        )

    def abort(self) -> None:
        """Write and release nothing more, as if the process had been killed. ``close`` ends the threads."""
        self._failure = self._failure or CorgiError("closed", "the log was given up")
        self._finish_closing()

    async def close(self) -> None:
        """Write what waits and a closing batch, unless the log is broken or the disk full; end the threads."""
        if self._journal is not None and self._failure is None and self._closing is None:
            self._closing = self._loop.create_future()
            self.flush()
            await self._closing
        if self._timer is not None:
            self._timer.cancel()
        if self._syncer is not None:
            self._syncer.close()
        self._preparer.close()
        self._reads.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._closed = True

    def _schedule(self) -> None:
        """Flush soon, so that what one turn of the loop appends goes together.

        1. A fact is appended: this is called. 2. Whoever drives the node asks the loop for the end of its turn. 3. We
        would come before that, and what it appends would miss the write: so we go to the end of the queue once more.
        4. The driver ends its turn and flushes. 5. We find nothing to do.
        """
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._loop.call_soon, self._flush_soon)

    def _flush_soon(self) -> None:
        self._scheduled = False
        self.flush()

    def _rest(self, journal: Journal) -> None:
        """Nothing can be written now: come back for the closing batch, or be done with closing."""
        if self._closing is not None:
            self._finish_closing()
            return
        at = journal.close_at()
        if at is not None and self._timer is None:
            self._timer = self._loop.call_at(at, self._idle)

    def _idle(self) -> None:
        self._timer = None
        self.flush()

    def _write(self, batch: WriteBatch) -> None:
        assert self._syncer is not None
        end = batch.offset + batch.length
        self._preparer.wrote(batch.segment, end)
        if self._preparer.covers(batch.segment, batch.offset, end):
            self._preparer.wait(lambda: self._write(batch))
            return
        try:
            fd = self._descriptor(batch.segment)
        except OSError as error:
            self._fail(_disk_failed(error))
            return
        self._written_at = time.monotonic()
        self._writes += 1
        written = partial(self._written, batch) if batch.early else None
        self._syncer.write(
            fd, batch.buffers, batch.offset, partial(self._synced, batch), sync=batch.sync, written=written
        )

    def _written(self, batch: WriteBatch) -> None:
        """What a sync need not cover is released. The batch remains the one under way."""
        if self._failure is None and not self._closed:
            self._on_written(batch.early)

    def _synced(self, batch: WriteBatch, error: OSError | None, at: float | None) -> None:
        """1. The sync returned. 2. Its records are released. 3. What waits is written, with what that appended."""
        if self._failure is not None:
            return
        if error is not None:
            self._fail(_disk_failed(error))
            return
        assert self._journal is not None
        self._records += len(batch.records)
        self._bytes += batch.length
        if not batch.sync:
            self._journal.written(batch)
            self._schedule()
            return
        now = time.monotonic()  # a loop's clock may be too coarse
        self._sync_times.append(now - self._written_at)
        if at is not None:
            self._release_times.append(max(0.0, now - at))
        self._syncs += 1
        news = bool(batch.records) or self._journal.lazy_waits
        self._journal.synced(batch)
        if news:
            self._on_synced(batch.late)
        self._prepare()
        self._schedule()

    def _fail(self, error: CorgiError) -> None:
        self._failure = error
        self._finish_closing()
        self._on_failed(error)

    def _finish_closing(self) -> None:
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

    def _descriptor(self, segment: int) -> int:
        if segment != self._fd_segment:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            self._fd = os.open(segment_path(self._folder, segment), os.O_RDWR)
            self._fd_segment = segment
        return self._fd

    def _repair(self, end: LogEnd) -> None:
        """Make durable what the scan relied upon, and clear what it cut.

        What was read may be in the page cache only (the process was killed before its sync, or the sync failed and the
        kernel forgot that the pages are dirty), so it is written again; see ``LogEnd``.
        """
        ranges = [(end.segment, end.unsynced, end.offset, rewrite)] if end.unsynced < end.offset else []
        if end.torn is not None:
            ranges.append((*end.torn, write_zeros))
        for segment, start, stop, action in ranges:
            fd = os.open(segment_path(self._folder, segment), os.O_RDWR)
            try:
                action(fd, start, stop)
                os.fsync(fd)
            finally:
                os.close(fd)

    def _prepare(self) -> None:
        """Have the next segment made in the background if it is missing."""
        journal = self._journal
        if journal is not None and journal.segments_ahead < self._options.segments_ahead and self._failure is None:
            self._preparer.make(journal.segment_wanted)

    def _prepared(self, number: int, salt: int) -> None:
        assert self._journal is not None
        self._journal.prepared(number, salt)
        self._prepare()
        self.flush()

    def _tell_full(self, full: bool) -> None:
        if full != self._full:
            self._full = full
            if self._on_full is not None:
                self._on_full(full)


def _disk_failed(error: BaseException) -> CorgiError:
    return CorgiError("disk-failed", f"the write-ahead log cannot be made durable: {error}")


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
