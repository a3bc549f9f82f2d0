"""Reading a log back: every record in order, where the log ends, and whether what is missing may be missing.

A ``Scan`` reads segments one at a time and keeps nothing but where it is. The rule (docs/adr/0001-formats.md): each
batch is written only after the one before was synced, so bad bytes may be a torn tail only in the last batch. Bad bytes
with any batch of the log behind them were durable once and are damage, as is a segment that is missing, shorter than
it was made, or of another log. Damage is told as CorgiError "log-damaged" with segment, offset and what was found;
nothing is cut then. In a torn tail the whole batch is cut, because none of it was ever relied upon.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.limits import SEGMENT_BYTES
from corgi.base.ports import LogRecord, RecordKind
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
    decode_record,
    decode_segment_header,
    segment_seed,
)
from corgi.log.writer import LogEnd

_MAGIC = re.compile(re.escape(BATCH_MAGIC))
_ZEROS = bytes(1 << 16)


class Scan:
    """One pass over a log. ``records`` gives what it holds; ``end`` is where it ends, known once they are exhausted."""

    def __init__(self, identity: LogIdentity, *, segment_bytes: int = SEGMENT_BYTES, first_segment: int = 1) -> None:
        """``first_segment`` is the oldest that must be there."""
        self._identity = identity
        self._segment_bytes = segment_bytes
        self._expected = first_segment
        self._any_batch = first_segment > 1  # the batches before were recycled with their segments
        self._segment = 0  # of the last batch
        self._offset = 0
        self._batch = 0
        self._unsynced = 0
        self._sealed = False  # the last batch says that the log goes on in the next segment
        self._fault = ""  # why the log ends where it does, once its end is found
        self._torn: tuple[int, int, int] | None = None
        self._salts: dict[int, int] = {}
        self._finished = False

    @property
    def end(self) -> LogEnd:
        """Where the journal goes on. Only after ``records`` is exhausted."""
        if not self._finished:
            raise RuntimeError("the end of a log is known when all its records were read")
        salts = tuple((number, salt) for number, salt in self._salts.items() if number >= self._segment)
        return LogEnd(self._segment, self._offset, self._batch, self._sealed, salts, self._unsynced, self._torn)

    def records(self, segments: Iterable[tuple[int, Buffer]]) -> Iterator[LogRecord]:
        """Every record that was written, without closings, in the order of the log, positions set.

        ``segments`` are (number, whole content) in the order of their numbers, prepared but unused ones included; each
        is let go before the next is asked for. Raises CorgiError "log-damaged", "wrong-cluster" or
        "unsupported-version".
        """
        for number, content in segments:
            if number != self._expected:
                what = f"the segment is missing, the next one found is {number:016x}"
                raise _damaged(self._expected, 0, what)
            with memoryview(content) as view:
                header = self._header(number, view)
                self._salts[number] = header.salt
                if self._fault:
                    self._unused(view, header)
                else:
                    yield from self._batches(view, header)
            self._expected += 1
        if not self._fault and self._segment:
            what = "the segment is missing, and the one before says that the log goes on in it"
            raise _damaged(self._expected, 0, what)
        self._finished = True

    def _header(self, number: int, view: memoryview) -> SegmentHeader:
        if len(view) != self._segment_bytes:
            what = f"the file has {len(view)} bytes instead of {self._segment_bytes}"
            raise _damaged(number, min(len(view), self._segment_bytes), what)
        try:
            header = decode_segment_header(view, self._identity)
        except Damage as damage:
            raise _damaged(number, 0, str(damage)) from damage
        if header.number != number:
            raise _damaged(number, 0, f"the segment says that it is segment {header.number}")
        if header.segment_bytes != self._segment_bytes:
            raise _damaged(number, 0, f"the segment was made with {header.segment_bytes} bytes")
        return header

    def _batches(self, view: memoryview, header: SegmentHeader) -> Iterator[LogRecord]:
        """All whole batches of a segment; says in ``_sealed`` whether the log goes on behind it."""
        number = header.number
        seed = segment_seed(number, header.salt)
        base = number * self._segment_bytes
        at = DATA_FROM
        while True:
            bad_to = at + ALIGNMENT
            try:
                batch = self._batch_header(view, at, seed, header)
                after = at + BATCH_HEADER_BYTES + batch.records_bytes
                bad_to = after
                records = _records(view, at, batch, seed, base)
            except Damage as damage:
                self._ends(view, header, at, bad_to, str(damage))
                return
            self._segment, self._offset, self._batch = number, after, batch.number
            self._unsynced = at
            self._sealed = bool(batch.flags & FLAG_SEALS)
            self._any_batch = False
            yield from records
            if self._sealed:
                return
            at = after

    def _batch_header(self, view: memoryview, at: int, seed: int, header: SegmentHeader) -> BatchHeader:
        """The next batch's header; what is sound in itself but contradicts the log is damage for good."""
        batch = decode_batch_header(view, at, seed)
        if batch.segment != header.number or (batch.number != self._batch + 1 and not self._any_batch):
            what = f"batch {batch.number} of segment {batch.segment} follows batch {self._batch}"
            raise _damaged(header.number, at, what)
        if batch.synced > header.number * self._segment_bytes + at:
            raise _damaged(header.number, at, f"the batch says that {batch.synced} is synced, which lies behind it")
        if at + BATCH_HEADER_BYTES + batch.records_bytes > self._segment_bytes:
            raise _damaged(header.number, at, f"the batch tells {batch.records_bytes} bytes, beyond the segment")
        return batch

    def _ends(self, view: memoryview, header: SegmentHeader, at: int, bad_to: int, what: str) -> None:
        """No batch can be read at ``at``: the end, if nothing of the log lies behind it."""
        later = self._later_batch(view, bad_to, header)
        if later is not None:
            raise _damaged(header.number, at, f"{what}, and batch {later.number} lies behind it")
        self._fault = what
        torn_to = _content_end(view, at)
        if torn_to > at:
            self._torn = (header.number, at, torn_to)

    def _unused(self, view: memoryview, header: SegmentHeader) -> None:
        """A segment behind the log's end is prepared and empty, or the end was none."""
        later = self._later_batch(view, DATA_FROM, header)
        if later is not None:
            what = f"{self._fault}, and batch {later.number} lies behind it in segment {header.number}"
            raise _damaged(self._segment or 1, self._offset or DATA_FROM, what)

    def _later_batch(self, view: memoryview, start: int, header: SegmentHeader) -> BatchHeader | None:
        """The first batch header of this log at or behind ``start``."""
        seed = segment_seed(header.number, header.salt)
        for match in _MAGIC.finditer(view, start):
            at = match.start()
            if at % ALIGNMENT:
                continue
            try:
                batch = decode_batch_header(view, at, seed)
            except Damage:
                continue
            if batch.segment == header.number and batch.number > self._batch:
                return batch
        return None


def _records(view: memoryview, at: int, batch: BatchHeader, seed: int, base: int) -> list[LogRecord]:
    """All records of the batch at ``at`` but closings; raises Damage unless every one of them is whole."""
    out: list[LogRecord] = []
    place = at + BATCH_HEADER_BYTES
    end = place + batch.records_bytes
    for _ in range(batch.records):
        record, place = decode_record(view, place, end, seed, base)
        if record.kind is not RecordKind.CLOSE:
            out.append(record)
    if place != end:
        raise Damage(f"{end - place} bytes are left behind a batch's last record")
    return out


def _content_end(view: memoryview, start: int) -> int:
    """The offset behind the last byte from ``start`` on that is not zero; ``start`` if all are."""
    end = len(view)
    while end > start:
        begin = max(start, end - len(_ZEROS))
        chunk = bytes(view[begin:end])
        if chunk != _ZEROS[: end - begin]:
            return begin + len(chunk.rstrip(b"\0"))
        end = begin
    return start


def _damaged(segment: int, offset: int, what: str) -> CorgiError:
    return CorgiError("log-damaged", f"the log is damaged in segment {segment:016x} at offset {offset}: {what}")
