"""Reading a log back: every record in order, where the log ends, and what of it cannot be known any more.

A ``Scan`` reads segments one at a time. The rule (docs/adr/0001-formats.md): each batch is written only after the one
before was synced, so bad bytes may be a torn tail only in the last batch; of a torn tail the whole batch is cut,
because none of it was ever relied upon. Bad bytes with anything of the log behind them were durable once and are
damage, as is a segment that is missing, too short, or has lost its header. The scan goes on behind damage
(docs/adr/0005-storage-that-heals.md): a record whose header is sound is given as a FaultyRecord, content that nobody
can know as a Hole, both in their place in the log.

A batch of lazy records (log.writer) need not be synced before the next is written. So of several unsynced batches at
the end any may be lost with the power: what a later batch does not state as synced is a lazy Hole, which puts in doubt
only what lazy records tell. The batches behind it stand.

Until it is known whether something lies behind them, bad bytes are held: what is read of them is given, or cut, later.
What cannot come from damage (a sound header that contradicts the log) is told as CorgiError "log-damaged".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Position
from corgi.base.limits import SEGMENT_BYTES
from corgi.base.ports import Hole, LogRecord
from corgi.log.record import (
    ALIGNMENT,
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    DATA_FROM,
    FLAG_SEALS,
    BatchHeader,
    Damage,
    LogIdentity,
    SegmentHeader,
    decode_batch_header,
    decode_segment_header,
    segment_seed,
)
from corgi.log.resync import Stretch, content_end, read_stretch
from corgi.log.writer import LogEnd

_MAGIC = re.compile(re.escape(BATCH_MAGIC))


class Scan:
    """One pass over a log. ``records`` gives what it holds; ``end`` is where it ends, known once they are exhausted."""

    def __init__(self, identity: LogIdentity, *, segment_bytes: int = SEGMENT_BYTES, first_segment: int = 1) -> None:
        """``first_segment`` is the oldest that must be there; behind the very first one, something is in it."""
        self._identity = identity
        self._segment_bytes = segment_bytes
        self._first = first_segment
        self._expected = first_segment
        self._any_batch = first_segment > 1  # the batches before were recycled with their segments
        self._segment = 0  # of the last sound batch
        self._offset = 0
        self._batch = 0
        self._unsynced = 0
        self._batch_at = 0
        self._stated_max: Position | None = None  # what the batch behind a lazy hole states, while that is torn itself
        self._sealed = False  # that batch says that the log goes on in the next segment
        self._held: list[LogRecord | Hole] = []  # behind it: damage if a batch follows, else torn or never used
        self._held_batches = 0
        self._torn: tuple[int, int, int] | None = None
        self._lost_to = 0  # the last segment that was in use for certain and cannot be read to its end
        self._salts: dict[int, int] = {}
        self._finished = False

    @property
    def end(self) -> LogEnd:
        """Where the journal goes on. Only after ``records`` is exhausted."""
        if not self._finished:
            raise RuntimeError("the end of a log is known when all its records were read")
        number = self._segment if self._segment in self._salts else self._segment + 1
        salts = []
        while number in self._salts:  # a prepared segment behind one that cannot be used is made anew
            salts.append((number, self._salts[number]))
            number += 1
        at = (self._segment, self._offset, self._batch, self._sealed, tuple(salts), self._unsynced, self._torn)
        return LogEnd(*at, self._stated_max)

    @property
    def batch_offset(self) -> int:
        """Where in its segment the batch of the record given last begins, if it was sound."""
        return self._batch_at

    def records(self, segments: Iterable[tuple[int, Buffer]]) -> Iterator[LogRecord | Hole]:
        """Every record that was written, without closings, in the order of the log, positions set; holes between them.

        ``segments`` are (number, whole content) in the order of their numbers, prepared but unused ones included; each
        is let go before the next is asked for. Raises CorgiError "log-damaged", "wrong-cluster" or
        "unsupported-version".
        """
        for number, content in segments:
            if number > self._expected:
                self._lose(self._expected, number - 1, "the segment is missing", used=False)
            self._expected = number + 1
            with memoryview(content) as view:
                try:
                    header = self._header(number, view)
                except Damage as damage:
                    page = min(len(view), DATA_FROM)
                    used = content_end(view, page, min(len(view), self._segment_bytes)) > page
                    self._lose(number, number, str(damage), used=used)
                    continue
                yield from self._batches(view, header)
        if self._sealed and self._expected == self._segment + 1:
            self._lose(self._expected, self._expected, "the segment is missing", used=True)
        if self._first > 1 and not self._segment and not self._lost_to:
            self._lose(self._first, self._first, "nothing of the segment can be read", used=True)
        if self._lost_to:
            yield from self._end_behind_damage()
        self._finished = True

    def _header(self, number: int, view: memoryview) -> SegmentHeader:
        header = decode_segment_header(bytes(view[:DATA_FROM]), self._identity)
        if header.number != number:
            raise Damage(f"the segment says that it is segment {header.number}")
        if header.segment_bytes != self._segment_bytes:
            raise _contradiction(number, 0, f"the segment was made with {header.segment_bytes} bytes")
        return header

    def _batches(self, view: memoryview, header: SegmentHeader) -> Iterator[LogRecord | Hole]:
        """All that a segment holds; says in ``_sealed`` whether the log goes on behind it."""
        number = header.number
        seed = segment_seed(number, header.salt)
        base = number * self._segment_bytes
        limit = min(len(view), self._segment_bytes)
        short = len(view) < self._segment_bytes
        at = DATA_FROM
        while True:
            batch = self._batch_header(view, at, seed, header)
            body, after = min(at + BATCH_HEADER_BYTES, limit), limit
            if batch is not None:
                after = body + batch.records_bytes
            if batch is None or after > limit:
                later = self._later_batch(view, at + ALIGNMENT, limit, seed, header)
                if later < 0:
                    self._hold(read_stretch(view, body, limit, seed, number, base, open_end=True))
                    self._stops(view, number, at, limit, short=short)
                    break
                self._hold(read_stretch(view, min(body, later), later, seed, number, base))
                at = later
                continue
            stretch = read_stretch(view, body, after, seed, number, base)
            later = -1 if stretch.sound else self._later_batch(view, after, limit, seed, header)
            if not stretch.sound and later < 0:
                self._hold(stretch)
                self._stops(view, number, at, limit, short=short)
                break
            yield from self._go_on(number, at, batch.number, batch.synced)
            self._segment, self._offset, self._batch = number, after, batch.number
            self._batch_at = at
            self._unsynced = max(DATA_FROM, batch.synced - number * self._segment_bytes)
            self._sealed = bool(batch.flags & FLAG_SEALS)
            synced = 0 if stretch.sound else decode_batch_header(view, later, seed).synced
            yield from stretch.items if stretch.known else self._judged(stretch.items, synced)
            if not stretch.known:
                self._stated_max = Position(synced)
            if stretch.records != batch.records and stretch.known:
                raise _contradiction(number, at, f"the batch tells {batch.records} records, it has {stretch.records}")
            if self._sealed:
                break
            at = after
        if not short:
            self._salts[number] = header.salt

    def _batch_header(self, view: memoryview, at: int, seed: int, header: SegmentHeader) -> BatchHeader | None:
        """The batch header at ``at``, None if none can be read; one that contradicts the log is told for good."""
        try:
            batch = decode_batch_header(view, at, seed)
        except Damage:
            return None
        if batch.segment != header.number or (batch.number <= self._batch and not self._any_batch):
            what = f"batch {batch.number} of segment {batch.segment} follows batch {self._batch}"
            raise _contradiction(header.number, at, what)
        if batch.synced > header.number * self._segment_bytes + at:
            raise _contradiction(
                header.number, at, f"the batch says that {batch.synced} is synced, which lies behind it"
            )
        if at + BATCH_HEADER_BYTES + batch.records_bytes > self._segment_bytes:
            raise _contradiction(header.number, at, f"the batch tells {batch.records_bytes} bytes, beyond the segment")
        return batch

    def _later_batch(self, view: memoryview, start: int, limit: int, seed: int, header: SegmentHeader) -> int:
        """Where the first batch of this log at or behind ``start`` begins; -1 if there is none."""
        for match in _MAGIC.finditer(view, start, limit):
            at = match.start()
            if at % ALIGNMENT:
                continue
            try:
                batch = decode_batch_header(view, at, seed)
            except Damage:
                continue
            if batch.segment == header.number and batch.number > self._batch:
                return at
        return -1

    def _hold(self, stretch: Stretch) -> None:
        """A batch that cannot be read whole; what follows tells what it is."""
        self._held += stretch.items
        self._held_batches += 1

    def _stops(self, view: memoryview, number: int, at: int, limit: int, *, short: bool) -> None:
        """No batch is at ``at`` or behind in this segment: a torn tail, room never used, or the end of a short file."""
        end = content_end(view, at, limit)
        begun = self._segment == number
        if short:
            self._lose(number, number, f"the file has {limit} bytes instead of {self._segment_bytes}",
                       used=begun or end > at, start=at)  # fmt: skip
        elif end == at:
            self._held_batches -= 1  # nothing was written here
        elif self._torn is not None or (not begun and self._segment and not self._sealed):
            what = "bytes of no batch, behind a segment that was never sealed"
            self._lose(number, number, what, used=True, start=at)
        else:
            self._torn = (number, self._offset if begun else DATA_FROM, end)  # with what is cut before it

    def _lose(self, first: int, last: int, what: str, *, used: bool, start: int = 0) -> None:
        """Segments ``first`` to ``last`` cannot be read from ``start`` on. They may never have been ``used``, unless
        the log goes on in the first of them for certain."""
        if used or first == (self._segment + 1 if self._sealed else self._first) or self._lost_to:
            self._lost_to = last
        self._held.append(Hole(first, start, self._segment_bytes, what))
        self._held_batches += 2  # nobody knows

    def _go_on(self, segment: int, at: int, number: int, synced: int) -> Iterator[LogRecord | Hole]:
        """A sound batch follows: what was held is damage, or was lost with the power."""
        known = self._any_batch or number == self._batch + self._held_batches + 1
        if not known and not any(isinstance(item, Hole) for item in self._held):
            yield Hole(segment, at, at, f"batch {number} follows batch {self._batch}")
        yield from self._judged(self._held, synced)
        self._stated_max = None
        self._held.clear()
        self._held_batches = 0
        self._torn = None
        self._lost_to = 0
        self._any_batch = False

    def _judged(self, items: Iterable[LogRecord | Hole], synced: int) -> Iterator[LogRecord | Hole]:
        """Items in front of a batch that states what is ``synced``. A hole that it does not state held lazy records,
        since anything else is synced before the next batch is written."""
        for item in items:
            if isinstance(item, Hole) and item.segment * self._segment_bytes + item.start >= synced:
                yield item._replace(lazy=True)
            else:
                yield item

    def _end_behind_damage(self) -> Iterator[LogRecord | Hole]:
        """The newest part of the log is lost: it goes on in the segment behind, with numbers that were never used."""
        yield from self._held
        lost = self._lost_to - self._segment + 1
        self._batch += lost * (self._segment_bytes // BATCH_HEADER_BYTES)
        self._segment, self._offset, self._unsynced = self._lost_to, self._segment_bytes, self._segment_bytes
        self._batch_at = self._segment_bytes
        self._sealed = True
        self._stated_max = None
        if self._torn is not None and self._torn[0] <= self._lost_to:
            self._torn = None
        self._salts.pop(self._lost_to, None)


def _contradiction(segment: int, offset: int, what: str) -> CorgiError:
    return CorgiError("log-damaged", f"the log is damaged in segment {segment:016x} at offset {offset}: {what}")
