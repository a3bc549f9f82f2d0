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


class Block:
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
        if count == len(self.times):
            return  # also because a column that a snapshot is looking at cannot be cut
        for column in (self.offsets, self.slots, self.places, self.lengths, self.times):
            del column[count:]

    def copy(self) -> Block:
        twin = Block(self.offset, self.slot)
        twin.offsets = self.offsets[:]
        twin.slots = self.slots[:]
        twin.places = self.places[:]
        twin.lengths = self.lengths[:]
        twin.times = self.times[:]
        return twin


class Dropped(NamedTuple):
    """Batches that the index no longer names: the entries from ``start`` to before ``stop`` of a block."""

    block: Block
    start: int
    stop: int


class FrozenLog(NamedTuple):
    """One partition as it was when a snapshot looked at it. ``skip``: entries of the first block that were dropped."""

    topic: TopicId
    partition: int
    start: Offset
    end: Offset
    epoch: LeaderEpoch
    version: int
    batch_bytes_max: int
    batches: int
    skip: int
    config: dict[str, str]
    epochs: list[LeaderEpoch]
    epoch_starts: list[Offset]
    producers: list[tuple[int, Producer]]
    blocks: list[Block]


def _block_offset(block: Block) -> Offset:
    return block.offset


def _block_time(block: Block) -> int:
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
        "_sealed_bytes",
        "_skip",
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
        self._blocks: list[Block] = []
        self._tail: Block | None = None
        self._skip = 0  # entries at the beginning of the first block that were dropped
        self._sealed_bytes = 0  # of all blocks but the last, less what was dropped
        self._epochs: list[LeaderEpoch] = []
        self._epoch_starts: list[Offset] = []

    def __repr__(self) -> str:
        return f"PartitionLog({self.topic}/{self.partition} [{self.start}, {self.end}) {self.count} batches)"

    def append(self, slot: Slot, at: int, length: int, records: int, max_timestamp: int, epoch: LeaderEpoch) -> Offset:
        """Add a batch at the end; returns its base offset."""
        base = self.end
        tail = self._tail
        if tail is None or len(tail.times) == BLOCK_BATCHES:
            if tail is not None:
                max_timestamp = max(max_timestamp, tail.times[-1])
                self._sealed_bytes += sum(tail.lengths)
            self._tail = tail = Block(base, slot)
            self._blocks.append(tail)
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
        real = (number << BLOCK_BITS) + bisect_right(block.offsets, offset - block.offset) - 1
        return max(0, real - self._skip)

    def find_time(self, timestamp_ms: int) -> int:
        """Index of the first batch whose newest record is not older; ``count`` if there is none."""
        number = bisect_left(self._blocks, timestamp_ms, key=_block_time)
        if number == len(self._blocks):
            return self.count
        real = (number << BLOCK_BITS) + bisect_left(self._blocks[number].times, timestamp_ms)
        return max(0, real - self._skip)

    def entry(self, i: int) -> Entry:
        """The batch with index ``i``, 0 to ``count`` - 1."""
        if not 0 <= i < self.count:
            raise IndexError(i)
        real = i + self._skip
        block = self._blocks[real >> BLOCK_BITS]
        j = real & _BLOCK_MASK
        base = block.offset + block.offsets[j]
        end = self.end if i + 1 == self.count else self._base(real + 1)
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
        real = mark.batches + self._skip
        blocks = (real + _BLOCK_MASK) >> BLOCK_BITS
        if blocks < len(self._blocks):
            self._sealed_bytes -= sum(sum(block.lengths) for block in self._blocks[max(0, blocks - 1) : -1])
        del self._blocks[blocks:]
        self._tail = self._blocks[-1] if self._blocks else None
        if self._tail is not None:
            self._tail.cut(real - ((blocks - 1) << BLOCK_BITS))
        del self._epochs[mark.epochs :]
        del self._epoch_starts[mark.epochs :]
        self.count, self.end, self.epoch = mark.batches, mark.end, mark.epoch

    @property
    def bytes(self) -> int:
        """Bytes of all batches that the index names."""
        return self._sealed_bytes + (sum(self._tail.lengths) if self._tail is not None else 0)

    def excess(self, bytes_max: int) -> Offset:
        """The lowest log start with which at most ``bytes_max`` bytes are left; the newest batch always stays."""
        surplus = self.bytes - bytes_max
        real = self._skip
        for number, block in enumerate(self._blocks):
            if surplus <= 0:
                break
            first = real - (number << BLOCK_BITS)
            size = sum(block.lengths[first:])
            if size <= surplus and number + 1 < len(self._blocks):
                surplus -= size
                real = (number + 1) << BLOCK_BITS
                continue
            while surplus > 0 and real - self._skip < self.count - 1:
                surplus -= block.lengths[real - (number << BLOCK_BITS)]
                real += 1
            break
        return self.start if real == self._skip else Offset(self._base(real))

    def trim(self, offset: Offset) -> list[Dropped]:
        """Move the log start up to the batch that holds ``offset``, or to the end; tells what was dropped.

        The last block stays, for its times, though all of it be dropped.
        """
        i = self.find(offset)
        if i == 0 or not self._blocks:
            return []
        until = self._skip + i
        self.start = self.end if i == self.count else Offset(self._base(until))
        dropped: list[Dropped] = []
        for number, block in enumerate(self._blocks):
            below = number << BLOCK_BITS
            if below >= until:
                break
            first, last = max(0, self._skip - below), min(until - below, len(block.times))
            if first < last:
                dropped.append(Dropped(block, first, last))
                self._sealed_bytes -= sum(block.lengths[first:last])
        gone = min(until >> BLOCK_BITS, len(self._blocks) - 1)
        del self._blocks[:gone]
        self._skip = until - (gone << BLOCK_BITS)
        self.count -= i
        epochs = bisect_right(self._epoch_starts, self.start) - 1
        if epochs > 0:
            del self._epochs[:epochs]
            del self._epoch_starts[:epochs]
        return dropped

    def close(self) -> list[Dropped]:
        """The partition is deleted: nothing is appended or read any more."""
        dropped = self.held()
        self.open = False
        self._skip = 0
        self.take_back(Mark(0, self.end, self.epoch, 0))
        self._sealed_bytes = 0
        self.producers = {}
        return dropped

    def held(self) -> list[Dropped]:
        """All batches that the index names, by block."""
        found = [Dropped(block, 0, len(block.times)) for block in self._blocks]
        if found:
            found[0] = found[0]._replace(start=self._skip)
        return found

    def freeze(self) -> FrozenLog:
        """The partition as it is now, safe from what is appended later. Costs little: full blocks are shared."""
        blocks = self._blocks[:]
        if self._tail is not None:
            blocks[-1] = self._tail.copy()
        producers = [(number, producer.copy()) for number, producer in self.producers.items()]
        return FrozenLog(
            self.topic, self.partition, self.start, self.end, self.epoch, self.version, self.batch_bytes_max,
            self.count, self._skip, self.config, self._epochs[:], self._epoch_starts[:], producers, blocks,
        )  # fmt: skip

    def become(self, frozen: FrozenLog) -> None:
        """Hold what ``frozen`` holds, which is used up by this."""
        self.start, self.end, self.epoch = frozen.start, frozen.end, frozen.epoch
        self.version, self.batch_bytes_max, self.config = frozen.version, frozen.batch_bytes_max, frozen.config
        self.count, self._skip = frozen.batches, frozen.skip
        self._epochs, self._epoch_starts = frozen.epochs, frozen.epoch_starts
        self.producers = dict(frozen.producers)
        self._blocks = frozen.blocks
        self._tail = self._blocks[-1] if self._blocks else None
        self._sealed_bytes = sum(sum(block.lengths) for block in self._blocks[:-1])
        if self._blocks:
            self._sealed_bytes -= sum(self._blocks[0].lengths[: self._skip])

    def _base(self, real: int) -> int:
        block = self._blocks[real >> BLOCK_BITS]
        return block.offset + block.offsets[real & _BLOCK_MASK]
