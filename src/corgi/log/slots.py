"""Where each slot of one group lies in the log.

Twelve bytes a slot, in two typed arrays. It knows positions and lengths only; what the bytes mean is the reader's. A
slot that is written again (accepted anew in a higher ballot, or moved) takes its last position.
"""

from __future__ import annotations

from array import array

from corgi.base.errors import check
from corgi.base.ids import Position, Slot

_UNKNOWN = Position(-1)


class SlotTable:
    """Slot to (position, length) for the slots of one group, from the first one put."""

    __slots__ = ("_first", "_lengths", "_positions")

    def __init__(self) -> None:
        self._first = 0
        self._positions = array("q")
        self._lengths = array("I")

    def put(self, slot: Slot, position: Position, length: int) -> None:
        """Note where the value of ``slot`` lies; position -1: not written yet. Slots between stay unknown."""
        check(slot > 0, f"slot {slot} has no place")
        if not self._positions:
            self._first = slot
        at = slot - self._first
        if at < 0:
            self._grow_down(-at)
            at = 0
        missing = at - len(self._positions)
        if missing >= 0:
            if missing:
                self._positions.extend(array("q", (-1,)) * missing)
                self._lengths.extend(array("I", (0,)) * missing)
            self._positions.append(position)
            self._lengths.append(length)
        else:
            self._positions[at] = position
            self._lengths[at] = length

    def position(self, slot: Slot) -> Position:
        """Where the value begins; -1 if unknown or not yet written."""
        at = slot - self._first
        return Position(self._positions[at]) if 0 <= at < len(self._positions) else _UNKNOWN

    def length(self, slot: Slot) -> int:
        """Bytes of the value; 0 if unknown."""
        at = slot - self._first
        return self._lengths[at] if 0 <= at < len(self._lengths) else 0

    @property
    def last(self) -> Slot:
        """The highest slot put; 0 if none."""
        return Slot(self._first + len(self._positions) - 1) if self._positions else Slot(0)

    @property
    def memory_bytes(self) -> int:
        """Bytes held by the table, without spare room."""
        return len(self._positions) * (self._positions.itemsize + self._lengths.itemsize)

    def _grow_down(self, slots: int) -> None:
        self._first -= slots
        self._positions = array("q", (-1,)) * slots + self._positions
        self._lengths = array("I", (0,)) * slots + self._lengths
