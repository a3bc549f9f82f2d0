"""The plan of the write-ahead log: which bytes go where, in what order, and what is durable when.

A ``Journal`` knows no file and no clock. Whoever drives it (``runtime.disk``, the simulator) makes segments, writes one
batch at a time, syncs it, and says so; the next batch is given out only then. A batch of nothing but lazy records need
not be synced: once it is written the next one is given out. Where no segment is left for what waits, a batch of no
records has them synced all the same. The invariants: a batch never spans segments; a segment is used only after it was
made durable, and its last batch is synced; each batch states how far the log was synced when it was given out, so what
it does not state, and lies before it, are batches of lazy records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corgi.base.command import Buffer
from corgi.base.errors import InvariantError, check
from corgi.base.ids import Ballot, GroupId, Position, Slot
from corgi.base.limits import COMMAND_BYTES_MAX, MIB, SEGMENT_BYTES
from corgi.base.ports import LogRecord, RecordKind
from corgi.log.record import (
    ALIGNMENT,
    BATCH_HEADER_BYTES,
    DATA_FROM,
    FLAG_SEALS,
    NO_GROUP,
    RECORD_HEADER_BYTES,
    BatchHeader,
    encode_batch_header,
    encode_record_header,
    padded,
    padding,
    segment_seed,
)

BATCH_BYTES_MAX = 4 * MIB  # of one write and sync; a single larger record makes a batch of its own
BATCH_RECORDS_MAX = 1024  # bounds the time that planning one batch holds the loop
COPY_BELOW = 8192  # payloads smaller than this are joined: cheaper than an entry in the vector of a write
BUFFERS_MAX = 512  # vector entries of one batch; the kernel takes 1024 at once
CLOSE_AFTER_S = 0.1  # quiet time after which everything is stated as synced
LAZY_SYNC_S = 1.0  # lazy records are durable after so long, and a sync
LAZY_BYTES_MAX = MIB  # of batches not yet synced: the next sync flushes them too, whoever waits for it
STATES_SHARE = 4  # state records may take at most this part of a segment


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Where a log ends: what a scan found, and where the journal goes on.

    ``segment`` is that of the last batch, 0 if nothing was ever written; ``offset`` lies behind it; ``batch`` is its
    number; ``sealed``: the next batch belongs to the next segment. ``salts`` are (number, salt) of ``segment`` and of
    the prepared ones behind it. Whoever drives the journal does two things before its first write: the bytes of
    ``segment`` from ``unsynced`` to ``offset`` (the last batch does not state them as synced) are written again as they
    are and synced, and the bytes of ``torn`` (segment, from, to) are zeroed and synced.

    ``stated_max``: the last batch has lost lazy records, as the header of a batch told that is torn itself. What comes
    in its place must state no more as synced, until it is synced itself: else they would look like damage.
    """

    segment: int = 0
    offset: int = 0
    batch: int = 0
    sealed: bool = False
    salts: tuple[tuple[int, int], ...] = ()
    unsynced: int = 0
    torn: tuple[int, int, int] | None = None
    stated_max: Position | None = None


@dataclass(frozen=True, slots=True)
class WriteBatch:
    """One write: put ``buffers`` at ``offset`` of ``segment``, sync if ``sync`` says so, and tell the journal.

    ``records`` are those that were appended, in order, with their positions; the journal's own are not among them.
    ``early`` are those of them that count once the batch is written, ``late`` those that wait for the sync: all but
    lazy ones, and of each group what follows such a one, so that a group sees its records in order.
    """

    segment: int
    offset: int
    length: int
    number: int
    buffers: Sequence[Buffer]
    records: Sequence[LogRecord]
    sync: bool = True
    early: Sequence[LogRecord] = ()
    late: Sequence[LogRecord] = ()


class Journal:
    """Queue of records and layout of the log. See the module."""

    def __init__(
        self,
        group_states: Callable[[], list[LogRecord]],
        end: LogEnd | None = None,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        batch_bytes_max: int = BATCH_BYTES_MAX,
        close_after_s: float = CLOSE_AFTER_S,
    ) -> None:
        """``group_states`` gives one STATE record per group; it is asked when a segment is begun.

        They may be ahead of records that are appended but not yet placed, never behind.
        """
        at = end or LogEnd()
        self._group_states = group_states
        self._segment_bytes = segment_bytes
        self._batch_bytes_max = batch_bytes_max
        self._close_after_s = close_after_s
        self._salts: dict[int, int] = dict(at.salts)
        self._segment = at.segment
        self._offset = at.offset
        self._number = at.batch
        self._synced = Position(at.segment * segment_bytes + at.offset)
        self._stated_max = at.stated_max
        self._synced_segment = at.segment
        self._begun = at.segment > 0 and not at.sealed  # the current segment takes batches
        self._seed = segment_seed(at.segment, self._salts[at.segment]) if self._begun else 0
        self._own: deque[LogRecord] = deque()  # states and closings, placed before what was appended
        self._pending: deque[LogRecord] = deque()
        self._pending_bytes = 0
        self._outstanding: WriteBatch | None = None
        self._closed = at.segment == 0  # nothing was written since the last CLOSE
        self._quiet_since: float | None = None
        self._lazy_since: float | None = None  # when the first batch was given out that is not synced
        self._lazy_bytes = 0  # of all of these
        self._now = 0.0

    @property
    def record_bytes_max(self) -> int:
        """Largest payload that a record may have."""
        room = self._segment_bytes - self._segment_bytes // STATES_SHARE - DATA_FROM
        return room - 3 * BATCH_HEADER_BYTES - RECORD_HEADER_BYTES - ALIGNMENT  # headers: states, record, seal

    @property
    def pending(self) -> int:
        """Records that wait to be placed."""
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        """Bytes of the log that they will take, without batch headers."""
        return self._pending_bytes

    @property
    def at_rest(self) -> bool:
        """All that was appended is durable."""
        waits = self._pending or self._own or self._outstanding is not None
        return not waits and not self.lazy_waits

    @property
    def lazy_waits(self) -> bool:
        """Batches are written and not yet synced: the next sync is news, whatever is in its own batch."""
        return self._lazy_since is not None

    @property
    def outstanding(self) -> WriteBatch | None:
        """The batch that was given out and is not yet synced."""
        return self._outstanding

    @property
    def segment(self) -> int:
        """Number of the segment written last; 0 before the first."""
        return self._segment

    @property
    def offset(self) -> int:
        """Where in that segment the next batch would begin."""
        return self._offset

    @property
    def synced_position(self) -> Position:
        """Everything below is durable."""
        return self._synced

    @property
    def synced_segment(self) -> int:
        """Number of the last segment of which something is durable, at least the groups' states; 0: of none."""
        return self._synced_segment

    @property
    def segment_wanted(self) -> int:
        """Number of the segment to make next: one behind the last that was told as prepared."""
        return max(self._salts, default=self._segment) + 1

    @property
    def segments_ahead(self) -> int:
        """Segments that are prepared and not yet begun."""
        return self.segment_wanted - 1 - self._segment

    @property
    def room(self) -> int:
        """Bytes for records, large batches assumed, in the segments that there are, besides those that wait."""
        here = max(0, self._room()) if self._begun else 0
        return here + self.segments_ahead * self._segment_bytes - self._pending_bytes

    @property
    def blocked(self) -> bool:
        """Records wait, and the segment that they need is not prepared."""
        return bool(self._pending) and self._outstanding is None and not self._fits()

    def prepared(self, number: int, salt: int) -> None:
        """Segment ``number`` is durable: its header (``encode_segment_header``) and zeros, under its name."""
        check(number == self.segment_wanted, f"segment {number} was prepared, {self.segment_wanted} is wanted")
        self._salts[number] = salt

    def append(self, record: LogRecord) -> None:
        """Queue a record; its position is set when a batch takes it."""
        if len(record.payload) > self.record_bytes_max:
            raise InvariantError(f"a record of {len(record.payload)} bytes does not fit a log segment")
        self._pending.append(record)
        self._pending_bytes += _size(record)

    def take(self, now: float, *, close: bool = False) -> WriteBatch | None:
        """The next batch to write, or None: nothing to write, one is outstanding, or no segment is prepared.

        ``now`` in seconds, of any monotonic clock. ``close`` asks for the closing batch without waiting to be idle.
        """
        if self._outstanding is not None:
            return None
        self._now = now
        if self._pending or self._own:
            self._quiet_since = None
            return self._place() if self._begun or self._begin() else None
        if self._closed or not self._begun:
            return None
        if self._quiet_since is None:
            self._quiet_since = now
        if not close and now < self._quiet_since + self._close_after_s:
            return None
        self._own.append(LogRecord(RecordKind.CLOSE, NO_GROUP, Ballot(0), Slot(0), Slot(0)))
        return self._place()

    def close_at(self) -> float | None:
        """When ``take`` should be called although nothing was appended, to write the closing batch."""
        if self._closed or self._pending or self._outstanding is not None or self._quiet_since is None:
            return None
        return self._quiet_since + self._close_after_s

    def synced(self, batch: WriteBatch) -> None:
        """``batch`` is durable: written and covered by a sync that succeeded."""
        check(batch is self._outstanding, f"batch {batch.number} was told as synced and is not outstanding")
        self._outstanding = None
        self._synced = Position(batch.segment * self._segment_bytes + batch.offset + batch.length)
        self._stated_max = None
        self._synced_segment = batch.segment
        self._lazy_since = None
        self._lazy_bytes = 0

    def written(self, batch: WriteBatch) -> None:
        """``batch``, which asks for no sync, is written: whoever reads the file finds it."""
        check(batch is self._outstanding, f"batch {batch.number} was told as written and is not outstanding")
        check(not batch.sync, f"batch {batch.number} was to be synced")
        self._outstanding = None

    def _fits(self) -> bool:
        """Whether the next record has a place, here or in a segment behind."""
        return self._segment + 1 in self._salts or (self._begun and _size(self._pending[0]) <= self._room())

    def _room(self) -> int:
        """Bytes for records in one batch in this segment, a sealing header behind it always fitting."""
        return self._segment_bytes - self._offset - 2 * BATCH_HEADER_BYTES

    def _begin(self) -> bool:
        """Go to the next segment, if it is prepared; its first records are the groups' states."""
        number = self._segment + 1
        salt = self._salts.get(number)
        if salt is None:
            return False
        self._salts.pop(self._segment, None)
        self._segment = number
        self._offset = DATA_FROM
        self._seed = segment_seed(number, salt)
        self._begun = True
        self._own.extend(self._group_states())
        size = sum(map(_size, self._own))
        check(size <= self._segment_bytes // STATES_SHARE, f"state records take {size} bytes of a segment")
        return True

    def _place(self) -> WriteBatch | None:
        """Lay out as much of the queue as one batch may hold; seal the segment when the next record doesn't fit."""
        layout = _Layout(self._segment * self._segment_bytes + self._offset, self._seed)
        crowded = self._fill(layout, self._own) or self._fill(layout, self._pending)
        seals = crowded and self._segment + 1 in self._salts
        if not layout.count and not seals and not (self.lazy_waits and self._room() >= 0):
            return None  # but if lazy batches wait: they are synced now, perhaps that is what frees a segment
        return self._give_out(layout, seals)

    def _fill(self, layout: _Layout, queue: deque[LogRecord]) -> bool:
        """Move records from ``queue`` until the batch is full; True if that is because the segment is.

        All that is the journal's own goes into one batch, so that the largest record always fits behind it.
        """
        room = self._room()
        own = queue is self._own
        while queue:
            size = _size(queue[0])
            if layout.size + size > room:
                return True
            if not own and layout.full(size, self._batch_bytes_max):
                break
            layout.add(queue.popleft(), size, own)
            if not own:
                self._pending_bytes -= size
        return False

    def _give_out(self, layout: _Layout, seals: bool) -> WriteBatch:
        self._number += 1
        synced = self._synced if self._stated_max is None else self._stated_max
        header = BatchHeader(FLAG_SEALS if seals else 0, self._segment, self._number, synced, layout.size, layout.count)
        buffers = layout.finish(encode_batch_header(header, self._seed))
        length = BATCH_HEADER_BYTES + layout.size
        late = self._lazy_since is not None and self._now >= self._lazy_since + LAZY_SYNC_S
        many = self._lazy_bytes + length > LAZY_BYTES_MAX
        last = layout.size + BATCH_HEADER_BYTES > self._room()  # no batch but the seal fits behind it
        sync = seals or late or many or last or not layout.lazy or not layout.count
        told = (layout.appended, sync, *layout.told())
        batch = WriteBatch(self._segment, self._offset, length, self._number, buffers, *told)
        self._offset += length
        self._begun = not seals
        self._outstanding = batch
        self._closed = layout.closes and self._lazy_since is None  # else another has to state what this one syncs
        if not sync:
            self._lazy_since = self._now if self._lazy_since is None else self._lazy_since
            self._lazy_bytes += length
        return batch


class _Layout:
    """The buffers of one batch: small payloads joined with the headers, large ones as they are."""

    def __init__(self, position: int, seed: int) -> None:
        """``position`` is that of the batch header."""
        self.size = 0
        self.count = 0
        self.closes = False
        self.lazy = True  # all of it
        self._any_lazy = False
        self.appended: list[LogRecord] = []
        self._records_at = position + BATCH_HEADER_BYTES
        self._seed = seed
        self._buffers: list[Buffer] = []
        self._run: list[Buffer] = []

    def full(self, size: int, bytes_max: int) -> bool:
        """Whether a record of ``size`` bytes, header and padding included, should wait for the next batch."""
        if not self.count:
            return False
        many = self.count >= BATCH_RECORDS_MAX or len(self._buffers) >= BUFFERS_MAX
        return many or self.size + size > bytes_max

    def add(self, record: LogRecord, size: int, own: bool) -> None:
        """Place a record of ``size`` bytes; the journal's ``own`` are not told as appended."""
        payload = record.payload
        length = len(payload)
        self._run.append(encode_record_header(record, self._seed))
        if length >= COPY_BELOW:
            self._buffers.append(b"".join(self._run))
            self._buffers.append(payload)
            self._run = [padding(length)]
        elif length:
            self._run.append(payload)
            self._run.append(padding(length))
        record.position = Position(self._records_at + self.size + RECORD_HEADER_BYTES)
        self.size += size
        self.count += 1
        self.closes = record.kind is RecordKind.CLOSE
        if record.lazy:
            self._any_lazy = True
        else:
            self.lazy = False
        if not own:
            self.appended.append(record)

    def told(self) -> tuple[list[LogRecord], list[LogRecord]]:
        """What was appended: the early ones, the late ones (``WriteBatch``)."""
        if self.lazy or not self._any_lazy:
            return (self.appended, []) if self.lazy else ([], self.appended)
        early: list[LogRecord] = []
        late: list[LogRecord] = []
        waiting: set[GroupId] = set()
        for record in self.appended:
            if record.lazy and record.group not in waiting:
                early.append(record)
            else:
                waiting.add(record.group)
                late.append(record)
        return early, late

    def finish(self, header: bytes) -> list[Buffer]:
        """All buffers, the batch header in front."""
        if self._run:
            self._buffers.append(b"".join(self._run))
        if self._buffers:
            self._buffers[0] = header + self._buffers[0]
        else:
            self._buffers.append(header)
        return self._buffers


def _size(record: LogRecord) -> int:
    """Bytes that a record takes in a batch."""
    return RECORD_HEADER_BYTES + padded(len(record.payload))


_LARGEST = COMMAND_BYTES_MAX + MIB  # one command as a value of its own, with its headers
assert _LARGEST < SEGMENT_BYTES - SEGMENT_BYTES // STATES_SHARE - DATA_FROM
assert BATCH_BYTES_MAX < SEGMENT_BYTES // 4
assert BUFFERS_MAX * 2 <= 1024
