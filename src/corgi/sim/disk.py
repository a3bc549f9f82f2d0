"""A simulated disk that keeps real bytes, and the Wal port of one process on it, driven by the log's own plan.

What a process wrote survives its death, but is safe from a power loss only once it was synced: then each unsynced
write may be there, be gone, or be torn at a sector. A sync can fail; then what it should have made durable never will
be, unless it is written again, however long it can still be read. A disk can be full, wiped, truncated, and an older
image of it can be put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from corgi.base.errors import CorgiError, check
from corgi.base.ids import Position
from corgi.base.ports import Hole, LogRecord, SnapshotName
from corgi.log.record import (
    DATA_FROM,
    RECORD_HEADER_BYTES,
    Damage,
    LogIdentity,
    check_in_place,
    encode_segment_header,
)
from corgi.log.recovery import Scan
from corgi.log.writer import Journal, WriteBatch
from corgi.sim.world import World

if TYPE_CHECKING:
    from corgi.sim.process import Process

SECTOR = 512
SEGMENTS_AHEAD = 1
PREPARE_S = 0.010
WRITE_S = 0.000_02  # into the page cache
FULL_RETRY_S = 1.0  # a full disk is tried again after this, as runtime.disk does


class Write(NamedTuple):
    """A write that a power loss may undo: what lay there before. ``dirty``: the next sync makes it durable; otherwise a
    sync of it has failed, and the system takes it for written although it is not."""

    segment: int
    offset: int
    before: bytes
    dirty: bool = True

    def without(self, other: Write) -> Iterator[Write]:
        """What is left of this one when the range of the other is durable."""
        start, end = self.offset, self.offset + len(self.before)
        low, high = other.offset, other.offset + len(other.before)
        if self.segment != other.segment or high <= start or low >= end:
            yield self
            return
        if start < low:
            yield self._replace(before=self.before[: low - start])
        if high < end:
            yield self._replace(offset=high, before=self.before[high - start :])


class SimDisk:
    """Segments by number, what is not yet synced, and how fast it is (s)."""

    def __init__(self, chance: Random, identity: LogIdentity, segment_bytes: int) -> None:
        self.chance = chance
        self.identity = identity
        self.segment_bytes = segment_bytes
        self.segments: dict[int, bytearray] = {}
        self.snapshots: dict[SnapshotName, bytes] = {}
        self.freed: set[int] = set()  # segments that the node has deleted
        self.groups = 1  # whose snapshots tell where a scan begins
        self.sync_min = 0.000_15
        self.sync_mean = 0.000_20
        self.slow = 0.0  # added to every sync
        self.stuck_until = 0.0  # no sync ends before
        self.full = False  # no room for another segment
        self.segments_max = 2**60  # nor for one above so many
        self.fails_next_sync = False
        self.torn_writes = 0
        self.damaged = False  # bits were spoiled or files lost, at any time: not just the power
        # A trap: called once for a write that can tear, with the time at which its sync will end.
        self.on_write: Callable[[float], None] | None = None
        self._unsynced: list[Write] = []

    def write(self, segment: int, offset: int, data: bytes) -> None:
        file = self.segments[segment]
        file.extend(bytes(max(0, offset + len(data) - len(file))))  # it may have been cut
        self._unsynced.append(Write(segment, offset, bytes(file[offset : offset + len(data)])))
        file[offset : offset + len(data)] = data

    def sync(self) -> None:
        """Everything written since the last sync is durable; what a failed one left behind is not."""
        left = [write for write in self._unsynced if not write.dirty]
        for synced in (write for write in self._unsynced if write.dirty):
            left = [rest for write in left for rest in write.without(synced)]
        self._unsynced = left

    def sync_failed(self) -> None:
        """The system forgets that anything waits to be written. Some of it may be read back as it was before."""
        self.fails_next_sync = False
        self._unsynced = [write._replace(dirty=False) for write in self._unsynced]
        if self.chance.random() < 0.4:
            self.power_loss()

    def sync_time(self, now: float) -> float:
        """When a sync begun now ends."""
        duration = self.sync_min + self.chance.expovariate(1.0) * self.sync_mean
        if self.slow:
            duration += self.slow * (0.5 + self.chance.random())
        return max(now + duration, self.stuck_until)

    def undo(self, segment: int, offset: int) -> None:
        """The last write had not begun when its process died."""
        where, at, before, _ = self._unsynced.pop()
        assert (where, at) == (segment, offset)
        self.segments[segment][offset : offset + len(before)] = before

    def power_loss(self) -> None:
        """Each unsynced write is lost, torn or kept, the latest first."""
        while self._unsynced:
            write = self._unsynced.pop()
            if not self._holds(write):
                continue
            segment, offset, before, _ = write
            fate = self.chance.random()
            if fate < 0.3:
                continue
            file = self.segments[segment]
            if fate < 0.6:
                file[offset : offset + len(before)] = before
                continue
            self.torn_writes += 1
            at = offset
            while at < offset + len(before):
                until = min((at // SECTOR + 1) * SECTOR, offset + len(before))
                if self.chance.random() < 0.5:
                    file[at:until] = before[at - offset : until - offset]
                at = until

    @property
    def scan_from(self) -> int:
        """The segment at which a scan begins."""
        first = {name.group: name.first_segment for name in sorted(self.snapshots, key=lambda name: name.slot)}
        return min(first.values()) if len(first) == self.groups else 1

    def repair(self, position: Position, payload: bytes) -> CorgiError | None:
        """As ``runtime.segments.repair_record`` does."""
        number, offset = divmod(position, self.segment_bytes)
        file = self.segments.get(number, bytearray())
        try:
            found = bytes(file[offset - RECORD_HEADER_BYTES : offset])
            check_in_place(file[:DATA_FROM], found, payload, self.identity, number)
        except Damage as damage:
            return CorgiError("record-damaged", str(damage))
        file[offset : offset + len(payload)] = payload
        return None

    @property
    def undoable(self) -> bool:
        """A power loss would take something that can be read."""
        return bool(self._unsynced)

    def _holds(self, write: Write) -> bool:
        """The segment is still there, and as long as it was."""
        return write.offset + len(write.before) <= len(self.segments.get(write.segment, b""))

    def free(self, segment: int) -> None:
        self._unsynced = [write for write in self._unsynced if write.segment != segment]
        self.segments.pop(segment, None)
        self.freed.add(segment)

    def wipe(self) -> None:
        self.segments.clear()
        self.snapshots.clear()
        self.freed.clear()
        self._unsynced.clear()

    def image(self) -> dict[int, bytes]:
        """What a power loss right now would leave at the least."""
        copy = {number: bytearray(file) for number, file in self.segments.items()}
        for segment, offset, before, _ in filter(self._holds, reversed(self._unsynced)):
            copy[segment][offset : offset + len(before)] = before
        return {number: bytes(file) for number, file in copy.items()}

    def put_back(self, image: dict[int, bytes], snapshots: dict[SnapshotName, bytes], freed: set[int]) -> None:
        """``freed``: what the node had deleted when the image was taken."""
        self.segments = {number: bytearray(file) for number, file in image.items()}
        self.snapshots = dict(snapshots)
        self.freed = set(freed)
        self._unsynced.clear()

    def prepare(self, number: int) -> int:
        """Make a segment durable; its salt."""
        salt = self.chance.getrandbits(64)
        file = bytearray(self.segment_bytes)
        file[:DATA_FROM] = encode_segment_header(self.identity, number, self.segment_bytes, salt)
        self.segments[number] = file
        return salt


class SimWal:
    """The Wal port of one process: appends to the journal, writes and syncs one batch at a time."""

    def __init__(self, world: World, disk: SimDisk, process: Process) -> None:
        self.world = world
        self.disk = disk
        self.process = process
        self.journal: Journal | None = None
        self.syncs = 0
        self._queued_since = 0.0
        self._batch_since = 0.0
        self._preparing = False
        self._full = False
        self._appended = False
        self._close_at: float | None = None
        self._told_early: WriteBatch | None = None  # of this batch some records were given back before its sync

    # ---- the port

    def append(self, record: LogRecord) -> None:
        journal = self._opened()
        if not journal.pending:
            self._queued_since = self.world.now
        journal.append(record)
        self._appended = True

    def read(self, position: Position, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        segment, offset = divmod(position, self.disk.segment_bytes)
        file = self.disk.segments.get(segment)
        if file is None or offset + length > len(file):
            answer: bytes | CorgiError = CorgiError("record-damaged", f"nothing is at position {position}")
        else:
            answer = bytes(file[offset : offset + length])
        self.world.at(self.disk.sync_time(self.world.now), self.process.call, done, answer)

    def read_many(
        self, places: Sequence[tuple[Position, int]], done: Callable[[list[bytes | CorgiError]], None]
    ) -> None:
        read_each(self.read, places, done)

    def read_disk(self, position: Position, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        self.read(position, length, done)

    def repair(self, position: Position, payload: bytes, done: Callable[[CorgiError | None], None]) -> None:
        check(position + len(payload) <= self._opened().synced_position, "a repair would meet the writer")
        self.world.at(self.disk.sync_time(self.world.now), self._repair, self.journal, position, payload, done)

    def _repair(
        self, journal: Journal, position: Position, payload: bytes, done: Callable[[CorgiError | None], None]
    ) -> None:
        """Written and synced at once, or not at all: a crash in between leaves damage, as before."""
        if self.journal is journal:
            self.process.call(done, self.disk.repair(position, payload))

    def unsynced_age(self) -> float:
        journal = self._opened()
        if journal.outstanding is not None:
            return self.world.now - self._batch_since
        return self.world.now - self._queued_since if journal.pending else 0.0

    @property
    def segment_bytes(self) -> int:
        return self.disk.segment_bytes

    @property
    def segment(self) -> int:
        return self._opened().synced_segment

    @property
    def room(self) -> int:
        return self._opened().room

    @property
    def synced_position(self) -> Position:
        return self._opened().synced_position

    def segments(self) -> list[int]:
        return sorted(self.disk.segments)

    def free(self, segments: Sequence[int]) -> None:
        for number in segments:
            self.disk.free(number)

    # ---- driven by the process

    def open(self, first_segment: int) -> list[LogRecord | Hole]:
        """Read the log back and go on behind it. What is relied upon is written again and synced, as the product does:
        the system may believe that it is durable."""
        disk = self.disk
        scan = Scan(disk.identity, segment_bytes=disk.segment_bytes, first_segment=first_segment)
        records = list(scan.records((n, disk.segments[n]) for n in sorted(disk.segments) if n >= first_segment))
        end = scan.end
        if end.segment and end.unsynced < end.offset:
            disk.write(end.segment, end.unsynced, bytes(disk.segments[end.segment][end.unsynced : end.offset]))
        if end.torn is not None:
            self.process.cluster.count("tail_cuts")
            segment, start, stop = end.torn
            disk.write(segment, start, bytes(stop - start))
        disk.sync()
        self.journal = Journal(self.process.node.group_states, end, segment_bytes=disk.segment_bytes)
        self._prepare_ahead()
        return records

    def turn_ended(self) -> None:
        """Write what the turn appended."""
        if self._appended:
            self._appended = False
            self._pump(False)

    def resumed(self) -> None:
        """The process goes on: what it had to write meanwhile is written at the end of its next turn."""
        self._appended = True

    def crash(self) -> None:
        """The process died: its last write may not have begun."""
        journal = self.journal
        batch = journal.outstanding if journal is not None else None
        if batch is not None and batch is not self._told_early and self.disk.chance.random() < 0.3:
            self.disk.undo(batch.segment, batch.offset)
        self.journal = None

    # ---- how it is done

    def _opened(self) -> Journal:
        assert self.journal is not None
        return self.journal

    def _pump(self, close: bool) -> None:
        journal = self.journal
        if journal is None or self.process.paused or not self.process.alive:
            return
        batch = journal.take(self.world.now, close=close)
        if batch is None:
            when = journal.close_at()
            if when is not None and when != self._close_at:
                self._close_at = when
                self.world.at(when, self._close, when)
            return
        self._batch_since = self._queued_since
        self._queued_since = self.world.now
        disk = self.disk
        disk.write(batch.segment, batch.offset, b"".join(batch.buffers))
        written = done = self.world.now + WRITE_S
        if batch.sync:
            done = max(written, disk.sync_time(self.world.now))
        if batch.early or not batch.sync:
            self.world.at(written, self._written, journal, batch)
        if batch.sync:
            self.world.at(done, self._synced, journal, batch)
        if disk.on_write is not None and batch.length > SECTOR:
            trap, disk.on_write = disk.on_write, None
            trap(done)
        if journal.segments_ahead < SEGMENTS_AHEAD:
            self._prepare_ahead()

    def _synced(self, journal: Journal, batch: WriteBatch) -> None:
        if self.journal is not journal:
            return  # the process died meanwhile
        if self.disk.fails_next_sync:
            self.disk.sync_failed()
            self.journal = None
            self.process.cluster.sync_failed(self.process)
            return
        self.disk.sync()
        self.syncs += 1
        news = bool(batch.records) or journal.lazy_waits
        journal.synced(batch)
        if news:
            self.process.synced(batch.late)
        self._pump(False)

    def _written(self, journal: Journal, batch: WriteBatch) -> None:
        if self.journal is not journal:
            return
        if batch.early:
            self._told_early = batch
            self.process.written(batch.early)
        if not batch.sync:
            journal.written(batch)
            self._pump(False)
        elif batch.early:
            self.process.cluster.count("votes_before_their_sync")

    def _close(self, when: float) -> None:
        if when == self._close_at:
            self._close_at = None
            self._pump(True)

    def _prepare_ahead(self) -> None:
        if not self._preparing:
            self._preparing = True
            self.world.after(PREPARE_S, self._prepare, self.journal)

    def _tell_full(self, full: bool) -> None:
        if full != self._full:
            self._full = full
            self.process.fact("log_full", full)
            if full:
                self.process.cluster.count("disk_full")

    def _prepare(self, journal: Journal) -> None:
        self._preparing = False
        if self.journal is not journal or journal.segments_ahead >= SEGMENTS_AHEAD:
            return
        if self.disk.full or len(self.disk.segments) >= self.disk.segments_max:
            self._tell_full(True)
            self._preparing = True
            self.world.after(FULL_RETRY_S, self._prepare, journal)
            return
        self._tell_full(False)
        number = journal.segment_wanted
        journal.prepared(number, self.disk.prepare(number))
        self._prepare_ahead()
        self._pump(False)


def read_each(
    read: Callable[[Position, int, Callable[[bytes | CorgiError], None]], None],
    places: Sequence[tuple[Position, int]],
    done: Callable[[list[bytes | CorgiError]], None],
) -> None:
    """Each by itself, as if several readers shared them: they are read at different times, in any order."""
    found: dict[int, bytes | CorgiError] = {}

    def came(number: int, value: bytes | CorgiError) -> None:
        found[number] = value
        if len(found) == len(places):
            done([found[n] for n in range(len(places))])

    for number, (position, length) in enumerate(places):
        read(position, length, partial(came, number))
