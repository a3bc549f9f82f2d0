"""What can still be read of a stretch of the log in which something is damaged.

Records are found again by their own headers: each begins at a multiple of eight and has a checksum that no payload
imitates, because it is seeded by the segment's salt. Knows one stretch at a time; what it means for the log is told in
``log.recovery``. Invariant: every byte of the stretch belongs to a record that is given, or to a hole that is told.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from corgi.base.ports import FaultyRecord, Hole, LogRecord, RecordKind
from corgi.log.record import (
    ALIGNMENT,
    FORMAT_VERSION,
    RECORD_HEADER_BYTES,
    Damage,
    decode_record,
    decode_record_header,
)

_KIND_AT = 8  # in a record header; the version follows
_KIND_AND_VERSION = re.compile(b"(?=[\\x01-\\x1f]" + re.escape(bytes((FORMAT_VERSION,))) + b")")
_WITH_VALUE = (RecordKind.ACCEPT, RecordKind.LEARNED, RecordKind.STORE)
_ZEROS = bytes(1 << 16)


class Stretch(NamedTuple):
    """``items`` in order, without closings. ``sound``: nothing is damaged; ``known``: no hole is among them."""

    items: list[LogRecord | Hole]
    records: int
    sound: bool
    known: bool


def read_stretch(
    view: memoryview, start: int, end: int, seed: int, segment: int, base: int, *, open_end: bool = False
) -> Stretch:
    """All records in [start, end) of a segment. ``open_end``: they may end earlier, with zeros behind them.

    ``base`` is the position of the segment's first byte. Raises CorgiError "unsupported-version".
    """
    items: list[LogRecord | Hole] = []
    records, sound, known = 0, True, True
    place = start
    stop = content_end(view, start, end) if open_end else end
    while place < stop:
        try:
            record, after = decode_record(view, place, end, seed, base)
        except Damage as damage:
            sound = known = False
            after = _next_record(view, place + ALIGNMENT, end, seed)
            items.append(Hole(segment, place, after, str(damage)))
        else:
            records += 1
            if isinstance(record, FaultyRecord):
                sound = False
                if record.kind in _WITH_VALUE:
                    items.append(record)
                else:
                    known = False
                    items.append(Hole(segment, place, after, f"a record of kind {record.kind.name} is damaged"))
            elif record.kind is not RecordKind.CLOSE:
                items.append(record)
        place = after
    return Stretch(items, records, sound, known)


def content_end(view: memoryview, start: int, end: int) -> int:
    """The offset behind the last byte of [start, end) that is not zero; ``start`` if all are."""
    while end > start:
        begin = max(start, end - len(_ZEROS))
        chunk = bytes(view[begin:end])
        if chunk != _ZEROS[: end - begin]:
            return begin + len(chunk.rstrip(b"\0"))
        end = begin
    return start


def _next_record(view: memoryview, start: int, end: int, seed: int) -> int:
    """Where the next sound record header is, from ``start`` on; ``end`` if there is none."""
    for match in _KIND_AND_VERSION.finditer(view, min(start + _KIND_AT, end), end):
        at = match.start() - _KIND_AT
        if at % ALIGNMENT or at + RECORD_HEADER_BYTES > end:
            continue
        try:
            decode_record_header(view, at, end, seed)
        except Damage:
            continue
        return at
    return end
