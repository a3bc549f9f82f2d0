"""What each segment of the log still holds: how many live values, of how many bytes, and which segments are gone.

It counts and knows no slot. A value is live while some index names a batch in it; only its table (``log.slots``) knows
that, and tells here of every value that begins or ceases to be live, or moves.
"""

from __future__ import annotations

from collections.abc import Iterable

from corgi.base.errors import check
from corgi.base.ids import Position


class Space:
    """Live values and bytes by segment number."""

    __slots__ = ("_bytes", "_gone", "_values", "oldest", "segment_bytes")

    def __init__(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self._values: dict[int, int] = {}
        self._bytes: dict[int, int] = {}
        self.oldest = 0  # the first segment that is there
        self._gone: set[int] = set()  # segments behind it that are not

    def present(self, segments: Iterable[int]) -> None:
        """These segments are there now, at least one; those that are made later are there as well."""
        numbers = set(segments)
        self.oldest = min(numbers)
        self._gone = set(range(self.oldest, max(numbers))) - numbers

    def freed(self, segment: int) -> None:
        """The segment is no longer there."""
        check(not self._values.get(segment), f"segment {segment} was freed with live values in it")
        self._gone.add(segment)
        while self.oldest in self._gone:
            self._gone.discard(self.oldest)
            self.oldest += 1

    def add(self, position: Position, length: int) -> None:
        """A live value lies there."""
        segment = position // self.segment_bytes
        self._values[segment] = self._values.get(segment, 0) + 1
        self._bytes[segment] = self._bytes.get(segment, 0) + length

    def remove(self, position: Position, length: int) -> None:
        """A value that was live there is so no more."""
        segment = position // self.segment_bytes
        left = self._values[segment] - 1
        if left:
            self._values[segment] = left
            self._bytes[segment] -= length
        else:
            del self._values[segment]
            del self._bytes[segment]

    def holds(self, position: Position) -> bool:
        """Whether the segment of a position is there."""
        return position >= 0 and self.has(position // self.segment_bytes)

    def has(self, segment: int) -> bool:
        return segment >= self.oldest and segment not in self._gone

    def lost(self) -> list[int]:
        """Segments that live values should lie in and that are not there."""
        return [segment for segment in sorted(self._values) if not self.has(segment)]

    def values_in(self, segment: int) -> int:
        return self._values.get(segment, 0)

    def bytes_in(self, segment: int) -> int:
        return self._bytes.get(segment, 0)

    @property
    def live_bytes(self) -> int:
        """Bytes of all live values that lie in some segment."""
        return sum(self._bytes.values())
