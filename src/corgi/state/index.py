"""One partition as the log has made it: where each batch lies, in compact columns.

A batch is named by (slot, offset in the slot's value); where the slot lies on the disk is the log's business. The
columns are cut into blocks (``state.blocks``), so that growing never copies much and old blocks can be dropped; 24
bytes per batch.

Invariant: batches follow each other in the order of their offsets from the one that holds ``start`` to ``end``, without
a gap except for those that compaction left; the newest batch ends at ``end``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from corgi.base.ids import LeaderEpoch, Offset, Slot, TopicId
from corgi.base.limits import BATCH_BYTES_DEFAULT
from corgi.base.tuples import new
from corgi.state.blocks import BLOCK_BATCHES, Assembly, Block, Dropped
from corgi.state.partition_transactions import PartitionTransactions
from corgi.state.producers import Producer

__all__ = ["Block", "Change", "Dropped", "Entry", "FrozenLog", "Mark", "PartitionLog"]


class Entry(NamedTuple):
    """One stored batch. ``at`` counts from the start of the slot's value, ``length`` in bytes.

    ``max_timestamp`` is the largest of this and all earlier batches (ms); ``records`` counts the offsets from the first
    to the last that the batch covers, whether compaction has left their records or not.
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


class Change(NamedTuple):
    """What becomes of the batch at ``base_offset``: it lies elsewhere from now on, or (length 0) nowhere."""

    base_offset: Offset
    at: int
    length: int


class Cleaned(NamedTuple):
    """How far compaction has come. ``commands`` counts those that changed the partition, so that one can tell whether
    another came before it. Below ``to`` of each key only the newest record is left.

    Tombstones below ``horizon`` (0: there are none) had left nothing older of their keys at ``horizon_ms`` (log time);
    some time after that they may go as well.
    """

    commands: int = 0
    to: Offset = Offset(0)
    horizon: Offset = Offset(0)
    horizon_ms: int = 0


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
    cleaned: Cleaned


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
        "_starts",
        "_tail",
        "_tail_start",
        "batch_bytes_max",
        "cleaned",
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
        "transactions",
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
        self.cleaned = Cleaned()
        self.producers: dict[int, Producer] = {}
        self.transactions: PartitionTransactions | None = None  # None: there never was one
        self._blocks: list[Block] = []
        self._tail: Block | None = None
        self._starts: list[int] = []  # the number of each block's first entry; below 0: so many of it were dropped
        self._tail_start = 0
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
            self._tail_start = self.count
            self._starts.append(self.count)
        elif tail.times[-1] > max_timestamp:
            max_timestamp = tail.times[-1]
        if epoch != self.epoch:
            self.epoch = epoch
            self._epochs.append(epoch)
            self._epoch_starts.append(base)
        tail.append(base, slot, at, length, max_timestamp, records)
        self.count += 1
        self.end = Offset(base + records)
        return base

    def find(self, offset: Offset) -> int:
        """Index of the batch that contains ``offset``, or of the next one; ``count`` at the end."""
        if offset >= self.end:
            return self.count
        number = bisect_right(self._blocks, offset, key=_block_offset) - 1
        if number < 0:
            return 0
        block = self._blocks[number]
        j = bisect_right(block.offsets, offset - block.offset) - 1
        i = self._starts[number] + j
        if i < 0:
            return 0
        if block.spans is not None and offset >= block.offset + block.offsets[j] + block.spans[j]:
            return i + 1
        return i

    def find_time(self, timestamp_ms: int) -> int:
        """Index of the first batch by which there was a record that is not older; ``count`` if there was none."""
        number = bisect_left(self._blocks, timestamp_ms, key=_block_time)
        if number == len(self._blocks):
            return self.count
        return max(0, self._starts[number] + bisect_left(self._blocks[number].times, timestamp_ms))

    def entry(self, i: int) -> Entry:
        """The batch with index ``i``, 0 to ``count`` - 1."""
        if not 0 <= i < self.count:
            raise IndexError(i)
        block, j = self._place(i)
        base = block.offset + block.offsets[j]
        if block.spans is not None:
            records = block.spans[j]
        elif i + 1 == self.count:
            records = self.end - base
        else:
            records = self._base(i + 1) - base
        return Entry(
            Offset(base),
            Slot(block.slot + block.slots[j]),
            block.places[j],
            block.lengths[j],
            self.epoch_at(Offset(base)),
            block.times[j],
            records,
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
        return new(Mark, (self.count, self.end, self.epoch, len(self._epochs)))

    def take_back(self, mark: Mark) -> None:
        """Forget the batches appended since ``mark`` was made."""
        blocks = bisect_left(self._starts, mark.batches)
        if blocks < len(self._blocks):
            self._sealed_bytes -= sum(sum(block.lengths) for block in self._blocks[max(0, blocks - 1) : -1])
        del self._blocks[blocks:]
        del self._starts[blocks:]
        self._find_tail()
        if self._tail is not None:
            self._tail.cut(mark.batches - self._tail_start)
        del self._epochs[mark.epochs :]
        del self._epoch_starts[mark.epochs :]
        self.count, self.end, self.epoch = mark.batches, mark.end, mark.epoch

    @property
    def bytes(self) -> int:
        """Bytes of all batches that the index names."""
        return self._sealed_bytes + (sum(self._tail.lengths) if self._tail is not None else 0)

    def bytes_from(self, i: int, stop: int) -> int:
        """Bytes of the batches with the indexes ``i`` to before ``stop``."""
        size = 0
        for block, start in zip(self._blocks, self._starts, strict=True):
            first, last = max(0, i - start), min(stop - start, len(block.times))
            if first < last:
                size += sum(block.lengths[first:last])
        return size

    def excess(self, bytes_max: int) -> Offset:
        """The lowest log start with which at most ``bytes_max`` bytes are left; the newest batch always stays."""
        surplus = self.bytes - bytes_max
        i = 0
        for block, start in zip(self._blocks, self._starts, strict=True):
            if surplus <= 0:
                break
            size = sum(block.lengths[i - start :])
            if size <= surplus and block is not self._tail:
                surplus -= size
                i = start + len(block.times)
                continue
            while surplus > 0 and i < self.count - 1:
                surplus -= block.lengths[i - start]
                i += 1
            break
        return self.start if i == 0 else Offset(self._base(i))

    def trim(self, offset: Offset) -> list[Dropped]:
        """Move the log start up to ``offset``, beyond a hole, or to the end; tells which whole batches were dropped.

        The last block stays, for its times, though all of it be dropped.
        """
        if offset <= self.start or not self.count:
            return []
        i = self.find(offset)
        self.start = self.end if i == self.count else Offset(max(offset, self._base(i)))
        if i == 0:
            return []
        dropped: list[Dropped] = []
        gone = 0
        for block, start in zip(self._blocks, self._starts, strict=True):
            if start >= i:
                break
            first, last = max(0, -start), min(i - start, len(block.times))
            if first < last:
                dropped.append(Dropped(block, first, last))
                self._sealed_bytes -= sum(block.lengths[first:last])
            if i - start >= len(block.times) and block is not self._tail:
                gone += 1
        if self.transactions is not None:
            self.transactions.trim(self.start)
        del self._blocks[:gone]
        self._starts = [start - i for start in self._starts[gone:]]
        self._find_tail()
        self.count -= i
        epochs = bisect_right(self._epoch_starts, self.start) - 1
        if epochs > 0:
            del self._epochs[:epochs]
            del self._epoch_starts[:epochs]
        return dropped

    def replace(self, slot: Slot, changes: Sequence[Change]) -> list[Dropped]:
        """Have these batches, in the order of their offsets and each in the index, lie in the value of ``slot`` or
        nowhere from now on; tells what was dropped. The newest batch is none of them.

        The blocks that hold them, and the one before, are made anew: blocks that a snapshot looks at stay as they are.
        """
        numbers = [self.find(change.base_offset) for change in changes]
        first = max(0, bisect_right(self._starts, numbers[0]) - 2)
        last = bisect_right(self._starts, numbers[-1]) - 1
        old = self._blocks[first : last + 1]
        assembly = Assembly()
        gone = Block(Offset(0), slot)
        k = 0
        for number, block in enumerate(old, first):
            start = self._starts[number]
            spans = block.spans_until(self._blocks[number + 1].offset if block is not self._tail else self.end)
            j = max(0, -start)
            while k < len(changes) and numbers[k] < start + len(block.times):
                at = numbers[k] - start
                assembly.take(block, j, at, spans)
                base, change = Offset(block.offset + block.offsets[at]), changes[k]
                gone.append(base, Slot(block.slot + block.slots[at]), 0, 0, 0, 0)
                if change.length:
                    assembly.put(base, slot, change.at, change.length, block.times[at], spans[at])
                else:
                    self.count -= 1
                j = at + 1
                k += 1
            assembly.take(block, j, len(block.times), spans)
        self._sealed_bytes -= sum(sum(block.lengths) for block in old if block is not self._tail)
        if first == 0:
            self._sealed_bytes += sum(old[0].lengths[: max(0, -self._starts[0])])
        new = assembly.blocks
        reaches_tail = old[-1] is self._tail
        self._sealed_bytes += sum(sum(block.lengths) for block in (new[:-1] if reaches_tail else new))
        self._blocks[first : last + 1] = new
        self._number(0 if first == 0 else self._starts[0])
        return [Dropped(gone, 0, len(changes))]

    def close(self) -> list[Dropped]:
        """The partition is deleted: nothing is appended or read any more."""
        dropped = self.held()
        self.open = False
        self._number(0)
        self.take_back(Mark(0, self.end, self.epoch, 0))
        self._sealed_bytes = 0
        self.producers = {}
        self.transactions = None
        return dropped

    def held(self) -> list[Dropped]:
        """All batches that the index names, by block."""
        found = [Dropped(block, 0, len(block.times)) for block in self._blocks]
        if found:
            found[0] = found[0]._replace(start=-self._starts[0])
        return found

    def within(self, slots: set[Slot]) -> list[tuple[Offset, Offset]]:
        """First and last offset of what lies in the values of these slots, batches that follow each other as one."""
        found: list[tuple[Offset, Offset]] = []
        for number, (block, start, stop) in enumerate(self.held()):
            if start == stop:
                continue
            if block.spans is None and not any(0 <= slot - block.slot <= block.slots[-1] for slot in slots):
                continue  # its slots are in order
            for j in [j for j in range(start, stop) if block.slot + block.slots[j] in slots]:
                entry = self.entry(self._starts[number] + j)
                last = Offset(entry.base_offset + entry.records - 1)
                if found and found[-1][1] + 1 == entry.base_offset:
                    found[-1] = (found[-1][0], last)
                else:
                    found.append((entry.base_offset, last))
        return found

    def freeze(self) -> FrozenLog:
        """The partition as it is now, safe from what is appended later. Costs little: full blocks are shared."""
        blocks = self._blocks[:]
        if self._tail is not None:
            blocks[-1] = self._tail.copy()
        producers = [(number, producer.copy()) for number, producer in self.producers.items()]
        return FrozenLog(
            self.topic, self.partition, self.start, self.end, self.epoch, self.version, self.batch_bytes_max,
            self.count, -self._starts[0] if blocks else 0, self.config, self._epochs[:], self._epoch_starts[:],
            producers, blocks, self.cleaned,
        )  # fmt: skip

    def become(self, frozen: FrozenLog) -> None:
        """Hold what ``frozen`` holds, which is used up by this."""
        self.start, self.end, self.epoch = frozen.start, frozen.end, frozen.epoch
        self.version, self.batch_bytes_max, self.config = frozen.version, frozen.batch_bytes_max, frozen.config
        self.count, self.cleaned = frozen.batches, frozen.cleaned
        self._epochs, self._epoch_starts = frozen.epochs, frozen.epoch_starts
        self.producers = dict(frozen.producers)
        self.transactions = None
        self._blocks = frozen.blocks
        self._number(-frozen.skip)
        self._sealed_bytes = sum(sum(block.lengths) for block in self._blocks[:-1])
        if self._blocks:
            self._sealed_bytes -= sum(self._blocks[0].lengths[: frozen.skip])

    def _place(self, i: int) -> tuple[Block, int]:
        """The block and the place in it of entry ``i``."""
        if i >= self._tail_start and self._tail is not None:
            return self._tail, i - self._tail_start
        number = bisect_right(self._starts, i) - 1
        return self._blocks[number], i - self._starts[number]

    def _base(self, i: int) -> int:
        block, j = self._place(i)
        return block.offset + block.offsets[j]

    def _number(self, start: int) -> None:
        """Count the entries of all blocks anew, from ``start`` on."""
        self._starts = []
        for block in self._blocks:
            self._starts.append(start)
            start += len(block.times)
        self._find_tail()

    def _find_tail(self) -> None:
        self._tail = self._blocks[-1] if self._blocks else None
        self._tail_start = self._starts[-1] if self._blocks else 0
