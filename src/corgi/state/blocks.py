"""The columns in which a partition's index keeps its batches, cut into blocks.

A block holds up to BLOCK_BATCHES batches. It grows at its end while it is a partition's last one; a full one never
changes, so that a snapshot can look at it without a copy: what compaction changes is assembled into new blocks.

Invariant: without a column ``spans`` each batch of a block reaches up to the next one; with it there may be holes.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import NamedTuple

from corgi.base.ids import Offset, Slot

BLOCK_BATCHES = 1 << 11
ENTRY_BYTES = 24  # offset 4, slot 4, place 4, length 4, time 8; a span where there are holes 4


class Block:
    """Offsets and slots count from the block's first; ``spans`` counts the offsets that each batch covers."""

    __slots__ = ("lengths", "offset", "offsets", "places", "slot", "slots", "spans", "times")

    def __init__(self, offset: Offset, slot: Slot) -> None:
        self.offset = offset
        self.slot = slot
        self.offsets: array[int] = array("I")
        self.slots: array[int] = array("I")
        self.places: array[int] = array("I")
        self.lengths: array[int] = array("I")
        self.times: array[int] = array("q")
        self.spans: array[int] | None = None

    def append(self, offset: Offset, slot: Slot, at: int, length: int, time: int, span: int) -> None:
        """Add a batch. Batches that claim billions of records, and slots far apart, get the block a wider column; so
        do slots before the block's first, where compaction has put survivors among older batches."""
        try:
            self.offsets.append(offset - self.offset)
        except OverflowError:
            self.offsets = array("q", self.offsets)
            self.offsets.append(offset - self.offset)
        try:
            self.slots.append(slot - self.slot)
        except OverflowError:
            self.slots = array("q", self.slots)
            self.slots.append(slot - self.slot)
        self.places.append(at)
        self.lengths.append(length)
        self.times.append(time)
        if self.spans is not None:
            self.spans.append(span)

    def extend(self, other: Block, start: int, stop: int, spans: array[int]) -> None:
        """Add the batches ``start`` to before ``stop`` of another block, whose spans are these."""
        self.offsets = _joined(self.offsets, other.offsets[start:stop], other.offset - self.offset)
        self.slots = _joined(self.slots, other.slots[start:stop], other.slot - self.slot)
        self.places += other.places[start:stop]
        self.lengths += other.lengths[start:stop]
        self.times += other.times[start:stop]
        if self.spans is not None:
            self.spans += spans[start:stop]

    def cut(self, count: int) -> None:
        if count == len(self.times):
            return  # also because a column that a snapshot is looking at cannot be cut
        for column in (self.offsets, self.slots, self.places, self.lengths, self.times):
            del column[count:]
        if self.spans is not None:
            del self.spans[count:]

    def copy(self) -> Block:
        twin = Block(self.offset, self.slot)
        twin.offsets = self.offsets[:]
        twin.slots = self.slots[:]
        twin.places = self.places[:]
        twin.lengths = self.lengths[:]
        twin.times = self.times[:]
        twin.spans = None if self.spans is None else self.spans[:]
        return twin

    def spans_until(self, end: int) -> array[int]:
        """The offsets that each batch covers, if what follows the block begins at ``end``."""
        if self.spans is not None:
            return self.spans
        bounds = [*self.offsets, end - self.offset]
        return array("I", [after - before for before, after in pairwise(bounds)])


class Dropped(NamedTuple):
    """Batches that the index no longer names: the entries from ``start`` to before ``stop`` of a block."""

    block: Block
    start: int
    stop: int


class Assembly:
    """New blocks out of parts of old ones and single batches, in the order of their offsets; all full but the last."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []

    def take(self, block: Block, start: int, stop: int, spans: array[int]) -> None:
        """The batches ``start`` to before ``stop`` of a block."""
        while start < stop:
            offset, slot = Offset(block.offset + block.offsets[start]), Slot(block.slot + block.slots[start])
            into = self._open(offset, slot)
            until = min(stop, start + BLOCK_BATCHES - len(into.times))
            into.extend(block, start, until, spans)
            start = until

    def put(self, offset: Offset, slot: Slot, at: int, length: int, time: int, span: int) -> None:
        """One batch."""
        self._open(offset, slot).append(offset, slot, at, length, time, span)

    def _open(self, offset: Offset, slot: Slot) -> Block:
        if not self.blocks or len(self.blocks[-1].times) == BLOCK_BATCHES:
            self.blocks.append(Block(offset, slot))
            self.blocks[-1].spans = array("I")
        return self.blocks[-1]


def _joined(column: array[int], more: array[int], shift: int) -> array[int]:
    """``column`` with ``more`` behind it, whose numbers count from a first that is ``shift`` higher."""
    shifted = [number + shift for number in more] if shift else more
    if column.typecode == "I":
        try:
            return column + array("I", shifted)
        except OverflowError:
            column = array("q", column)
    return column + array("q", shifted)
