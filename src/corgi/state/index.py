"""One partition as the log has made it: where each batch lies, in compact columns.

A batch is named by (slot, offset in the slot's value); where the slot lies on the disk is the log's business. The
columns are cut into blocks, so that growing never copies much and old blocks can be dropped; 24 bytes per batch.

Invariant: base offsets follow each other without a gap from ``start`` to ``end``.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

from corgi.base.ids import LeaderEpoch, Offset, Slot, TopicId
from corgi.base.limits import BATCH_BYTES_DEFAULT
from corgi.state.producers import Producer

BLOCK_BITS = 11
BLOCK_BATCHES = 1 << BLOCK_BITS
_BLOCK_MASK = BLOCK_BATCHES - 1
ENTRY_BYTES = 24  # offset 4, slot 4, place 4, length 4, time 8


class Entry(NamedTuple):
    """One stored batch. ``at`` counts from the start of the slot's value, ``length`` in bytes.

    ``max_timestamp`` is the largest of this and all earlier batches (ms); ``records`` counts offsets.
    """

    base_offset: Offset
    slot: Slot
    at: int
    length: int
    epoch: LeaderEpoch
    max_timestamp: int
    records: int


class Mark(NamedTuple):
    """What is needed to take back the batches appended since."""

    batches: int
    end: Offset
    epoch: LeaderEpoch
    epochs: int


class _Block:
    """Up to BLOCK_BATCHES batches; offsets and slots count from the block's first."""

    __slots__ = ("lengths", "offset", "offsets", "places", "slot", "slots", "times")

    def __init__(self, offset: Offset, slot: Slot) -> None:
        self.offset = offset
        self.slot = slot
        self.offsets: array[int] = array("I")
        self.slots: array[int] = array("I")
        self.places: array[int] = array("I")
        self.lengths: array[int] = array("I")
        self.times: array[int] = array("q")

    def cut(self, count: int) -> None:
        for column in (self.offsets, self.slots, self.places, self.lengths, self.times):
            del column[count:]


def _block_offset(block: _Block) -> Offset:
    return block.offset


def _block_time(block: _Block) -> int:
    return block.times[-1]


class PartitionLog:
    """One partition of a group. Offsets in records, times in ms.

    ``open`` turns False for good when the partition is closed; its index is freed then. ``epoch`` is that of the last
    batch (0: none yet). ``version`` orders what ``__meta`` said of the partition. ``moved`` belongs to the machine.
    """

    __slots__ = (
        "_blocks",
        "_epoch_starts",
        "_epochs",
        "_tail",
        "batch_bytes_max",
        "config",
        "count",
        "end",
        "epoch",
        "moved",
        "open",
        "partition",
        "producers",
        "start",
        "topic",
        "version",
    )

    def __init__(self, topic: TopicId, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.open = True
        self.start = Offset(0)
        self.end = Offset(0)
        self.epoch = LeaderEpoch(0)
        self.config: dict[str, str] = {}
        self.version = 0
        self.batch_bytes_max = BATCH_BYTES_DEFAULT
        self.count = 0
        self.moved = False
        self.producers: dict[int, Producer] = {}
        self._blocks: list[_Block] = []
        self._tail: _Block | None = None
        self._epochs: list[LeaderEpoch] = []
        self._epoch_starts: list[Offset] = []

    def __repr__(self) -> str:
        return f"PartitionLog({self.topic}/{self.partition} [{self.start}, {self.end}) {self.count} batches)"

    def append(self, slot: Slot, at: int, length: int, records: int, max_timestamp: int, epoch: LeaderEpoch) -> Offset:
        """Add a batch at the end; returns its base offset."""
        base = self.end
        tail = self._tail
        if tail is None or len(tail.times) == BLOCK_BATCHES:
            self._tail = tail = _Block(base, slot)
            self._blocks.append(tail)
            if self.count:
                max_timestamp = max(max_timestamp, self._blocks[-2].times[-1])
        elif tail.times[-1] > max_timestamp:
            max_timestamp = tail.times[-1]
        if epoch != self.epoch:
            self.epoch = epoch
            self._epochs.append(epoch)
            self._epoch_starts.append(base)
        try:
            tail.offsets.append(base - tail.offset)
        except OverflowError:  # batches that claim billions of records: this block gets a wider column
            tail.offsets = array("q", tail.offsets)
            tail.offsets.append(base - tail.offset)
        try:
            tail.slots.append(slot - tail.slot)
        except OverflowError:
            tail.slots = array("q", tail.slots)
            tail.slots.append(slot - tail.slot)
        tail.places.append(at)
        tail.lengths.append(length)
        tail.times.append(max_timestamp)
        self.count += 1
        self.end = Offset(base + records)
        return base

    def find(self, offset: Offset) -> int:
        """Index of the batch that contains ``offset``, the first for one before; ``count`` at the end."""
        if offset >= self.end:
            return self.count
        number = bisect_right(self._blocks, offset, key=_block_offset) - 1
        if number < 0:
            return 0
        block = self._blocks[number]
        return (number << BLOCK_BITS) + bisect_right(block.offsets, offset - block.offset) - 1

    def find_time(self, timestamp_ms: int) -> int:
        """Index of the first batch whose newest record is not older; ``count`` if there is none."""
        number = bisect_left(self._blocks, timestamp_ms, key=_block_time)
        if number == len(self._blocks):
            return self.count
        return (number << BLOCK_BITS) + bisect_left(self._blocks[number].times, timestamp_ms)

    def entry(self, i: int) -> Entry:
        """The batch with index ``i``, 0 to ``count`` - 1."""
        if not 0 <= i < self.count:
            raise IndexError(i)
        block = self._blocks[i >> BLOCK_BITS]
        j = i & _BLOCK_MASK
        base = block.offset + block.offsets[j]
        end = self.end if i + 1 == self.count else self._base(i + 1)
        return Entry(
            Offset(base),
            Slot(block.slot + block.slots[j]),
            block.places[j],
            block.lengths[j],
            self.epoch_at(Offset(base)),
            block.times[j],
            end - base,
        )

    def epoch_at(self, offset: Offset) -> LeaderEpoch:
        """The leader epoch of the batch that contains ``offset``; 0 before all of them."""
        epochs = self._epochs
        if not epochs:
            return LeaderEpoch(0)
        if offset >= self._epoch_starts[-1]:
            return epochs[-1]
        number = bisect_right(self._epoch_starts, offset) - 1
        return epochs[number] if number >= 0 else LeaderEpoch(0)

    def epoch_end(self, epoch: LeaderEpoch) -> tuple[LeaderEpoch, Offset]:
        """(largest epoch that is not above ``epoch``, its end offset), or (-1, -1): what KIP-101 asks for."""
        number = bisect_right(self._epochs, epoch) - 1
        if number < 0:
            return LeaderEpoch(-1), Offset(-1)
        after = self._epoch_starts[number + 1] if number + 1 < len(self._epochs) else self.end
        return self._epochs[number], after

    def mark(self) -> Mark:
        return Mark(self.count, self.end, self.epoch, len(self._epochs))

    def take_back(self, mark: Mark) -> None:
        """Forget the batches appended since ``mark`` was made."""
        blocks = (mark.batches + _BLOCK_MASK) >> BLOCK_BITS
        del self._blocks[blocks:]
        self._tail = self._blocks[-1] if self._blocks else None
        if self._tail is not None:
            self._tail.cut(mark.batches - ((blocks - 1) << BLOCK_BITS))
        del self._epochs[mark.epochs :]
        del self._epoch_starts[mark.epochs :]
        self.count, self.end, self.epoch = mark.batches, mark.end, mark.epoch

    def close(self) -> None:
        """The partition is deleted: nothing is appended or read any more."""
        self.open = False
        self.take_back(Mark(0, self.end, self.epoch, 0))
        self.producers = {}

    def _base(self, i: int) -> int:
        block = self._blocks[i >> BLOCK_BITS]
        return block.offset + block.offsets[i & _BLOCK_MASK]
