"""Where each slot of one group lies in the log, and how many batches an index still names in it.

Sixteen bytes a slot, in typed arrays of a thousand slots. It knows positions, lengths and counts only; what the bytes
mean is the reader's. A slot that is written again (accepted anew in a higher ballot, or moved) takes its last position.
Old blocks in which little lives shrink to what lives.

Invariant: the values told to ``space`` are exactly those with a count above zero and a known position.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

from corgi.base.errors import check
from corgi.base.ids import Position, Slot
from corgi.log.space import Space

BLOCK_BITS = 10
BLOCK_SLOTS = 1 << BLOCK_BITS
_MASK = BLOCK_SLOTS - 1
_SPARSE = BLOCK_SLOTS // 16  # a block in which no more than this lives is kept as single slots
_UNKNOWN = Position(-1)


class _Block:
    """Up to BLOCK_SLOTS slots from ``first`` on; ``live`` of them have a count above zero, of these ``missing`` have no
    position."""

    __slots__ = ("counts", "first", "lengths", "live", "missing", "positions")

    def __init__(self, first: int) -> None:
        self.first = first
        self.live = 0
        self.missing = 0
        self.positions: array[int] = array("q")
        self.lengths: array[int] = array("I")
        self.counts: array[int] = array("I")

    def reach(self, at: int) -> None:
        """Have a cell ``at``."""
        missing = at + 1 - len(self.positions)
        if missing > 0:
            self.positions.extend(array("q", (-1,)) * missing)
            self.lengths.extend(array("I", (0,)) * missing)
            self.counts.extend(array("I", (0,)) * missing)


class Run(NamedTuple):
    """Positions (-1: not here) and lengths of consecutive slots from ``first`` on."""

    first: Slot
    positions: array[int]
    lengths: array[int]


class SlotTable:
    """Slot to (position, length, count) for the slots of one group."""

    __slots__ = ("_blocks", "_singles", "_space", "last", "missing")

    def __init__(self, space: Space | None = None) -> None:
        self._space = space or Space(1)
        self._blocks: dict[int, _Block] = {}
        self._singles: dict[int, _Block] = {}  # slots of blocks that were let go, as blocks of one
        self.last = Slot(0)  # the highest slot put or counted
        self.missing = 0  # live slots without a position

    def put(self, slot: Slot, position: Position, length: int) -> None:
        """Note where the value of ``slot`` lies; position -1: not written yet."""
        block, at = self._cell(slot)
        live = block.counts[at] > 0
        before = block.positions[at]
        if live:
            if before >= 0:
                self._space.remove(Position(before), block.lengths[at])
            else:
                self._miss(block, -1)
            if position >= 0:
                self._space.add(position, length)
            else:
                self._miss(block, 1)
        block.positions[at] = position
        block.lengths[at] = length

    def hold(self, slot: Slot, count: int) -> None:
        """``count`` more batches of the value of ``slot`` are named by an index."""
        if count <= 0:
            return
        block, at = self._cell(slot)
        if not block.counts[at]:
            block.live += 1
            position = block.positions[at]
            if position >= 0:
                self._space.add(Position(position), block.lengths[at])
            else:
                self._miss(block, 1)
        block.counts[at] += count

    def release(self, slot: Slot, count: int) -> None:
        """``count`` batches less."""
        block, at = self._cell(slot)
        left = block.counts[at] - count
        check(left >= 0, f"slot {slot} is let go more often than it was held")
        block.counts[at] = left
        if not left:
            block.live -= 1
            position = block.positions[at]
            if position >= 0:
                self._space.remove(Position(position), block.lengths[at])
            else:
                self._miss(block, -1)
            if block.first == slot and block is self._singles.get(slot):
                del self._singles[slot]

    def release_all(self) -> None:
        """No index names anything."""
        for block in self._everything():
            for at, count in enumerate(block.counts):
                if count and block.positions[at] >= 0:
                    self._space.remove(Position(block.positions[at]), block.lengths[at])
            block.counts = array("I", (0,)) * len(block.counts)
            block.live = block.missing = 0
        self.missing = 0

    def position(self, slot: Slot) -> Position:
        """Where the value begins; -1 if unknown or not yet written."""
        found = self._find(slot)
        return _UNKNOWN if found is None else Position(found[0].positions[found[1]])

    def length(self, slot: Slot) -> int:
        """Bytes of the value; 0 if unknown."""
        found = self._find(slot)
        return 0 if found is None else found[0].lengths[found[1]]

    def count(self, slot: Slot) -> int:
        """Batches of the value that an index names."""
        found = self._find(slot)
        return 0 if found is None else found[0].counts[found[1]]

    @property
    def memory_bytes(self) -> int:
        """Bytes held by the table, without spare room."""
        return sum(len(block.positions) * 16 for block in self._everything())

    def forget(self, below: Position, last: Slot) -> None:
        """Let go of blocks of dead slots up to ``last``, all below a position, and keep what lives there as single
        slots."""
        for number in [n for n in self._blocks if (n + 1) << BLOCK_BITS <= last]:
            block = self._blocks[number]
            if block.live > _SPARSE or max(block.positions) >= below:
                continue
            del self._blocks[number]
            for at, count in enumerate(block.counts):
                if count:
                    single = self._singles[block.first + at] = _Block(block.first + at)
                    single.live = 1
                    single.missing = int(block.positions[at] < 0)
                    single.positions.append(block.positions[at])
                    single.lengths.append(block.lengths[at])
                    single.counts.append(count)

    def runs(self, last: Slot) -> Iterator[Run]:
        """What is known of the slots up to ``last``, in pieces. The table may change between two of them."""
        for blocks in (self._blocks, self._singles):
            for number in sorted(blocks):
                block = blocks.get(number)
                if block is not None and block.first <= last:
                    size = last - block.first + 1
                    yield Run(Slot(block.first), block.positions[:size], block.lengths[:size])

    def load(self, run: Run) -> None:
        """Take a run that another table told, in place of what was known of its slots."""
        number, at = run.first >> BLOCK_BITS, run.first & _MASK
        if not at and len(run.positions) > 1 and number not in self._blocks and not self._singles:
            block = self._blocks[number] = _Block(run.first)
            block.positions, block.lengths = run.positions, run.lengths
            block.counts = array("I", (0,)) * len(run.positions)
            self.last = max(self.last, Slot(run.first + len(run.positions) - 1))
            return
        for i, position in enumerate(run.positions):
            if run.first + i and (position >= 0 or run.lengths[i]):
                self.put(Slot(run.first + i), Position(position), run.lengths[i])

    def live_within(self, start: Position, end: Position) -> Iterator[Slot]:
        """Live slots whose value lies in [start, end). One block at a time, so that it can be done in pieces; a block
        without any gives slot 0."""
        for number in sorted({*self._blocks}):
            block = self._blocks.get(number)
            if block is not None and block.live:
                for at, position in enumerate(block.positions):
                    if start <= position < end and block.counts[at]:
                        yield Slot(block.first + at)
            yield Slot(0)
        for slot in [s for s, block in self._singles.items() if start <= block.positions[0] < end]:
            yield Slot(slot)

    def without_position(self, most: int) -> list[Slot]:
        """Some live slots whose value is not here."""
        found: list[Slot] = []
        if not self.missing:
            return found
        for block in self._everything():
            if not block.missing:
                continue
            for at, count in enumerate(block.counts):
                if count and block.positions[at] < 0:
                    found.append(Slot(block.first + at))
                    if len(found) == most:
                        return found
        return found

    def _miss(self, block: _Block, more: int) -> None:
        block.missing += more
        self.missing += more

    def _everything(self) -> Iterator[_Block]:
        yield from self._singles.values()
        yield from self._blocks.values()

    def _cell(self, slot: Slot) -> tuple[_Block, int]:
        """The block and cell of a slot, made if it is not there."""
        if self._singles and (single := self._singles.get(slot)) is not None:
            return single, 0
        number, at = slot >> BLOCK_BITS, slot & _MASK
        block = self._blocks.get(number)
        if block is None:
            check(slot > 0, f"slot {slot} has no place")
            block = self._blocks[number] = _Block(number << BLOCK_BITS)
        if at >= len(block.positions):
            block.reach(at)
            self.last = max(self.last, slot)
        return block, at

    def _find(self, slot: Slot) -> tuple[_Block, int] | None:
        if self._singles and (single := self._singles.get(slot)) is not None:
            return single, 0
        block = self._blocks.get(slot >> BLOCK_BITS)
        at = slot & _MASK
        return None if block is None or at >= len(block.positions) else (block, at)
