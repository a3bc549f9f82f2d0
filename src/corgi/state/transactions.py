"""Transactions in one Paxos group: who may append in which, what is open where, and what became of those that ended.

Data is appended at once with the transactional bit; a control batch in each partition ends it (KIP-98). Until then the
partition's last stable offset stays before its first batch. A checkpoint that is moved in a transaction is staged when
the transaction is opened here: it holds its cursor fast, so that at the end it can only succeed.

A producer's **fence** is its newest (epoch, number) here. The number counts its transactions: an opening that arrives
after its transaction was ended is refused (the gap that KIP-890 closes), and an epoch below the fence is a zombie's.

Invariant: a fence never falls; of each producer at most one transaction is open here; what was ended stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from corgi.base.errors import CorgiError
from corgi.base.ids import Offset, TopicId
from corgi.state.cursors import Cursor, CursorKey, Cursors
from corgi.state.index import PartitionLog
from corgi.state.partition_transactions import PartitionTransactions

OPEN_MAX = 10_000  # transactions open at a time in one Paxos group
PARTITIONS_MAX = 1_000  # of one transaction
NOTHING_YET = Offset(-1)

Partition = tuple[TopicId, int]


class Fence:
    """The newest transaction of one producer here. ``parts``: first offset (-1: nothing yet) by partition."""

    __slots__ = ("epoch", "log_time_ms", "number", "open", "parts", "staged")

    def __init__(self, epoch: int, number: int, log_time_ms: int, *, is_open: bool) -> None:
        self.epoch = epoch
        self.number = number
        self.log_time_ms = log_time_ms
        self.open = is_open
        self.parts: dict[Partition, Offset] = {}
        self.staged: dict[CursorKey, Cursor] = {}


class Transactions:
    """All transactions of one Paxos group."""

    __slots__ = ("fences", "open_count")

    def __init__(self) -> None:
        self.fences: dict[int, Fence] = {}  # by producer id
        self.open_count = 0

    # -- rules ----------------------------------------------------------------------------------------------------

    def check_open(self, producer_id: int, epoch: int, number: int, parts: int) -> None:
        """Raises CorgiError unless this transaction may be opened, or opened further, here."""
        fence = self.fences.get(producer_id)
        if fence is not None:
            if epoch < fence.epoch:
                raise CorgiError("transaction-fenced", f"epoch {epoch} of producer {producer_id} is over")
            if number < fence.number or (number == fence.number and not fence.open):
                raise CorgiError("transaction-ended", f"transaction {number} of producer {producer_id} has ended")
            if fence.open and number > fence.number:
                raise CorgiError("transaction-in-progress", f"transaction {fence.number} has not ended here yet")
            if number == fence.number:
                parts += len(fence.parts)
        if parts > PARTITIONS_MAX:
            raise CorgiError("invalid-argument", f"a transaction has at most {PARTITIONS_MAX} partitions")
        if (fence is None or not fence.open) and self.open_count >= OPEN_MAX:
            raise CorgiError("overloaded", f"{OPEN_MAX} transactions are open in this group")

    def open(
        self,
        producer_id: int,
        epoch: int,
        number: int,
        partitions: Iterable[Partition],
        staged: Iterable[tuple[CursorKey, Cursor]],
        cursors: Cursors,
        log_time_ms: int,
    ) -> None:
        """Open it here; what it opened before stays. ``check_open`` has passed."""
        fence = self.fences.get(producer_id)
        if fence is None or not fence.open:
            fence = self.fences[producer_id] = Fence(epoch, number, log_time_ms, is_open=True)
            self.open_count += 1
        fence.epoch = epoch
        for partition in partitions:
            fence.parts.setdefault(partition, NOTHING_YET)
        for key, cursor in staged:
            fence.staged[key] = cursor
            cursors.hold(key, producer_id)

    def admits(self, producer_id: int, epoch: int, log: PartitionLog) -> str:
        """Whether a transactional batch may be appended: "" or why not, as the code of an error."""
        fence = self.fences.get(producer_id)
        if fence is None:
            return "transaction-ended"
        if epoch < fence.epoch:
            return "transaction-fenced"
        if not fence.open or epoch > fence.epoch or (log.topic, log.partition) not in fence.parts:
            return "transaction-ended"
        return ""

    def appended(self, producer_id: int, log: PartitionLog, base_offset: Offset) -> None:
        """A transactional batch is appended at ``base_offset``."""
        parts = self.fences[producer_id].parts
        if parts[log.topic, log.partition] < 0:
            parts[log.topic, log.partition] = base_offset
            if log.transactions is None:
                log.transactions = PartitionTransactions()
            log.transactions.open[producer_id] = base_offset

    def check_end(self, producer_id: int, epoch: int, number: int) -> Fence | None:
        """The open transaction that a marker ends; None if there is nothing to end here. Raises
        "transaction-in-progress" for a marker of a later one: its opening would have been refused."""
        fence = self.fences.get(producer_id)
        if fence is None or not fence.open or number < fence.number or epoch < fence.epoch:
            return None
        if number > fence.number:
            raise CorgiError("transaction-in-progress", f"transaction {fence.number} has not ended here yet")
        return fence

    def end(self, producer_id: int, epoch: int, number: int, log_time_ms: int) -> None:
        """From here on this transaction, and whatever is older, is over in this group."""
        fence = self.fences.get(producer_id)
        if fence is None:
            self.fences[producer_id] = Fence(epoch, number, log_time_ms, is_open=False)
            return
        if (epoch, number) < (fence.epoch, fence.number):
            return
        if fence.open:
            self.open_count -= 1
        self.fences[producer_id] = Fence(max(epoch, fence.epoch), max(number, fence.number), log_time_ms, is_open=False)

    def close(self, partition: Partition) -> None:
        """The partition is gone, and with it what was open there."""
        for fence in self.fences.values():
            fence.parts.pop(partition, None)

    def expire(self, below: int, idle_since_ms: int) -> None:
        """Producers below a mark that did nothing for long are forgotten, as in the partitions."""
        for producer_id in [
            producer_id
            for producer_id, fence in self.fences.items()
            if producer_id < below and not fence.open and fence.log_time_ms < idle_since_ms
        ]:
            del self.fences[producer_id]

    def attach(self, partitions: Mapping[Partition, PartitionLog], cursors: Cursors) -> None:
        """Tell partitions and cursors, which a snapshot told of by themselves, what is open."""
        begun = [
            (first, producer_id, partition)
            for producer_id, fence in self.fences.items()
            for partition, first in fence.parts.items()
            if first >= 0
        ]
        for first, producer_id, partition in sorted(begun):
            log = partitions[partition]
            if log.transactions is None:
                log.transactions = PartitionTransactions()
            log.transactions.open[producer_id] = first
        for producer_id, fence in self.fences.items():
            for key in fence.staged:
                cursors.hold(key, producer_id)

    # -- snapshots ------------------------------------------------------------------------------------------------

    def stored(self) -> Iterator[StoredFence]:
        for producer_id, fence in self.fences.items():
            parts = [(topic, partition, first) for (topic, partition), first in fence.parts.items()]
            staged = list(fence.staged.items())
            yield StoredFence(
                producer_id, fence.epoch, fence.number, fence.log_time_ms, fence.open, tuple(parts), tuple(staged)
            )

    def restore(self, stored: StoredFence) -> None:
        fence = Fence(stored.epoch, stored.number, stored.log_time_ms, is_open=stored.open)
        fence.parts = {(topic, partition): first for topic, partition, first in stored.parts}
        fence.staged = dict(stored.staged)
        self.fences[stored.producer_id] = fence
        self.open_count += stored.open


class StoredFence(NamedTuple):
    """A fence as a snapshot tells it."""

    producer_id: int
    epoch: int
    number: int
    log_time_ms: int
    open: bool
    parts: Sequence[tuple[TopicId, int, Offset]]
    staged: Sequence[tuple[CursorKey, Cursor]]
