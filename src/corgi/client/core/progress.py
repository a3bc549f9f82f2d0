"""How far a consumer is in one unit: what was handed out, what of it is done, and the checkpoint that tells both.

A unit's records are handed out in the order of their offsets and finished in any order. The checkpoint is the offset
below which everything is done, and ranges that are done above it. Offsets without a record (compacted away, of another
slice, control batches) are no gap: nobody will ever hand them out.

Invariant: a checkpoint never covers a record that was handed out and is not done, nor one that was not looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

RANGES_MAX = 1_000  # in one checkpoint
Range = tuple[int, int]  # from, to before


class Progress:
    """``position``: records below it have been looked at. ``open``: handed out and not done, by offset."""

    __slots__ = ("_count", "_restored", "open", "position")

    def __init__(self, offset: int, ranges: Iterable[Range] = ()) -> None:
        """Go on from a checkpoint: ``ranges`` above ``offset``, sorted and apart, are done."""
        self.position = offset
        self.open: dict[int, int] = {}  # -> how many records had been looked at before it
        self._count = 0
        self._restored = deque(ranges)

    def hand_out(self, offsets: Sequence[int], position: int) -> Sequence[int]:
        """Records are there, ascending and not below ``position``, which moves on; returns those not done before."""
        self.position = max(self.position, position)
        if not self._restored:
            count = self._count
            self._count = count + len(offsets)
            self.open.update(zip(offsets, range(count, self._count), strict=True))
            return offsets
        wanted = []
        for offset in offsets:
            while self._restored and self._restored[0][1] <= offset:
                self._restored.popleft()
            if not self._restored or offset < self._restored[0][0]:
                wanted.append(offset)
                self.open[offset] = self._count
            self._count += 1
        while self._restored and self._restored[0][1] <= self.position:
            self._restored.popleft()
        return wanted

    def done(self, offset: int) -> bool:
        """A record is finished; False if it is not open: never handed out, or done already."""
        return self.open.pop(offset, None) is not None

    def checkpoint(self) -> tuple[int, tuple[Range, ...]]:
        """Offset and ranges. With more than RANGES_MAX ranges the upper ones are left out, to be done again."""
        ranges: list[Range] = []
        offset = self.position
        tail = bool(self.open)  # is everything up to the position told?
        if self.open:
            opened = iter(self.open.items())
            offset, before = next(opened)
            last = offset
            for at, count in opened:
                if count - before > 1:
                    ranges.append((last + 1, at))
                    if len(ranges) == RANGES_MAX:
                        return offset, tuple(ranges)
                last, before = at, count
            if self._count - before > 1:
                ranges.append((last + 1, self.position))
        for first, end in self._restored:
            if not tail and first <= offset:
                offset = max(offset, end)
            elif ranges and first <= ranges[-1][1]:
                ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
            else:
                ranges.append((max(first, self.position), end))
        return offset, tuple(ranges[:RANGES_MAX])
