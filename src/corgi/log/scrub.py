"""Checking a sealed segment piece by piece, without holding more of it than a window.

A coroutine without I/O: ``scrub_segment`` yields which bytes it wants next and is sent them. It tells what is damaged
as a scan would, and leaves what that means to the node. Invariant: every batch, record and payload of the segment is
checked, or lies in a hole that is told; behind a damaged header the rest of the segment is searched as a whole, once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator

import crc32c

from corgi.base.errors import CorgiError
from corgi.base.limits import KIB
from corgi.base.ports import FaultyRecord, Hole, LogRecord
from corgi.log.record import (
    ALIGNMENT,
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    DATA_FROM,
    FLAG_SEALS,
    RECORD_HEADER_BYTES,
    Damage,
    LogIdentity,
    RecordHeader,
    decode_batch_header,
    decode_record_header,
    decode_segment_header,
    padded,
    segment_seed,
)
from corgi.log.resync import read_stretch

WINDOW_BYTES = 64 * KIB  # read at once; what checking it costs may hold the loop
_MAGIC = re.compile(re.escape(BATCH_MAGIC))

Wanted = tuple[int, int]  # offset, length
Found = Callable[[LogRecord | Hole], None]
Scrub = Generator[Wanted, bytes, None]


def scrub_segment(number: int, segment_bytes: int, identity: LogIdentity, found: Found) -> Scrub:
    """Check a segment that is sealed. ``found`` is told each FaultyRecord and Hole.

    Raises CorgiError "unsupported-version" or "wrong-cluster" for a file that is not of this log.
    """
    page = yield 0, DATA_FROM
    try:
        header = decode_segment_header(page, identity)
    except Damage as damage:
        found(Hole(number, 0, segment_bytes, str(damage)))
        return
    yield from _Segment(number, segment_bytes, segment_seed(number, header.salt), found).batches()


class _Segment:
    """One segment and the window into it."""

    def __init__(self, number: int, segment_bytes: int, seed: int, found: Found) -> None:
        self._number = number
        self._size = segment_bytes
        self._seed = seed
        self._found = found
        self._window = b""
        self._start = 0  # of the window

    def batches(self) -> Scrub:
        at = DATA_FROM
        while at + BATCH_HEADER_BYTES <= self._size:
            data = yield from self._bytes(at, BATCH_HEADER_BYTES)
            try:
                batch = decode_batch_header(data, 0, self._seed)
            except Damage as damage:
                at = yield from self._search(at, str(damage))
                continue
            place = at + BATCH_HEADER_BYTES
            end = min(place + batch.records_bytes, self._size)
            while place < end:
                place = yield from self._record(place, end)
            if batch.flags & FLAG_SEALS:
                return
            at = end

    def _record(self, place: int, end: int) -> Generator[Wanted, bytes, int]:
        """Check one record; where the next begins."""
        data = yield from self._bytes(place, min(RECORD_HEADER_BYTES, end - place))
        try:
            header = decode_record_header(data, 0, end - place, self._seed)
        except Damage:
            return (yield from self._resync(place, end))
        at, left, crc = place + RECORD_HEADER_BYTES, header.length, self._seed
        while left:
            piece = yield from self._bytes(at, min(left, WINDOW_BYTES))
            crc = crc32c.crc32c(piece, crc)
            at += len(piece)
            left -= len(piece)
        if crc != header.crc:
            self._found(self._faulty(place, header))
        return place + padded(RECORD_HEADER_BYTES + header.length)

    def _faulty(self, place: int, header: RecordHeader) -> FaultyRecord:
        length, _, kind, group, ballot, slot, commit = header
        record = FaultyRecord(kind, group, ballot, slot, commit, length)
        record.position = type(record.position)(self._number * self._size + place + RECORD_HEADER_BYTES)
        return record

    def _resync(self, place: int, end: int) -> Generator[Wanted, bytes, int]:
        """A record's header is damaged: read on behind it, to the end of its batch."""
        data = yield place, end - place
        base = self._number * self._size + place
        stretch = read_stretch(memoryview(data), 0, len(data), self._seed, self._number, base)
        for item in stretch.items:
            if isinstance(item, Hole):
                self._found(Hole(self._number, item.start + place, item.end + place, item.what))
            elif isinstance(item, FaultyRecord):
                self._found(item)
        return end

    def _search(self, at: int, what: str) -> Generator[Wanted, bytes, int]:
        """A batch's header is damaged: where the next one is, behind a hole; the segment's end if there is none."""
        data = yield at, self._size - at
        for match in _MAGIC.finditer(data, ALIGNMENT):
            if match.start() % ALIGNMENT == 0:
                try:
                    decode_batch_header(data, match.start(), self._seed)
                except (Damage, CorgiError):
                    continue
                self._found(Hole(self._number, at, at + match.start(), what))
                return at + match.start()
        self._found(Hole(self._number, at, self._size, what))
        return self._size

    def _bytes(self, at: int, length: int) -> Generator[Wanted, bytes, bytes]:
        """Bytes out of the window, which is moved when they are not in it."""
        if at < self._start or at + length > self._start + len(self._window):
            self._window = yield at, min(max(length, WINDOW_BYTES), self._size - at)
            self._start = at
        return self._window[at - self._start : at - self._start + length]
