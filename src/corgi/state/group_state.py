"""What a group's replicas hold, and the one way a record batch gets into a partition.

Invariant: a batch that is refused changes nothing; what ``recording`` has noted, ``take_back`` undoes exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from corgi.base import errors
from corgi.base.batch import ATTRIBUTE_TRANSACTIONAL, HEADER_BYTES, LENGTH_OVERHEAD, MAGIC
from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import (
    CHECKPOINTS,
    FIRST_USER_TOPIC,
    GROUPS,
    META,
    SYSTEM_TOPIC_NAMES,
    TRANSACTIONS,
    GroupId,
    LeaderEpoch,
    Offset,
    Slot,
    TopicId,
)
from corgi.base.limits import BATCH_BYTES_MAX
from corgi.base.tuples import new
from corgi.state.consumer_groups import ConsumerGroups
from corgi.state.cursors import Cursors
from corgi.state.index import Dropped, FrozenLog, Mark, PartitionLog
from corgi.state.outcomes import AppendResult, Window
from corgi.state.partition_transactions import Aborted, PartitionTransactions
from corgi.state.producers import Producer, judge
from corgi.state.topics import Topics
from corgi.state.transaction_records import TransactionRecords
from corgi.state.transactions import Transactions

# Of a batch's header: length, magic, attributes, last offset delta, newest time, producer id, epoch, sequence, count
_FIELDS = struct.Struct(">8xi4xb4xhi8xqqhii")
_BATCH = _FIELDS.unpack_from
_CODEC_MAX = 4

_NOWHERE = Offset(-1)
_NOT_OPEN = AppendResult(errors.PARTITION_NOT_OPEN, _NOWHERE)
_TOO_LARGE = AppendResult(errors.RECORD_TOO_LARGE, _NOWHERE)
_CORRUPT = AppendResult(errors.CORRUPT_BATCH, _NOWHERE)
_NO_TRANSACTION = AppendResult(errors.INVALID_ARGUMENT, _NOWHERE)

Undo = Callable[[], object]

assert _FIELDS.size == HEADER_BYTES


class GroupState:
    """The replicated state of one group, as of slot ``applied``. ``log_time_ms`` never goes back.

    ``leader_node`` and ``leader_ballot`` are those of the last epoch record (0: none yet). ``before_change`` is called
    with a partition before anything of it changes for the first time in a turn, if a snapshot wants to know.
    """

    def __init__(self, group: GroupId, groups: int) -> None:
        self.group = group
        self.groups = groups
        self.applied = Slot(0)
        self.log_time_ms = 0
        self.epoch = LeaderEpoch(0)
        self.leader_node = 0
        self.leader_ballot = 0
        self.closed_version = 0  # the highest version of `__meta/0` at which a partition was closed here
        self.producers_expired_below = 0
        self.partitions: dict[tuple[TopicId, int], PartitionLog] = {}
        self.held: dict[TopicId, list[int]] = {}  # the partitions of user topics that are open here
        self.topics = Topics(groups) if group == 0 else None
        self.cursors = Cursors()
        self.consumer_groups = ConsumerGroups()
        self.transactions = Transactions()
        self.transaction_records = TransactionRecords()
        self.windows: dict[int, Window] = {}  # by node
        self._moved: list[PartitionLog] = []
        self._opened: dict[TopicId, None] = {}
        self.before_change: Callable[[PartitionLog], None] | None = None
        self.stored = 0  # batches of the value being applied that are in an index
        self.dropped: list[Dropped] = []  # what no index names any more, until somebody takes it
        self._undo: list[Callable[[], object]] | None = None
        for topic in SYSTEM_TOPIC_NAMES:
            if topic != META or group == 0:
                log = PartitionLog(topic, group)
                log.batch_bytes_max = BATCH_BYTES_MAX
                self.partitions[topic, group] = log

    def append(self, value: Buffer, topic: TopicId, partition: int, at: int, length: int) -> AppendResult:
        """Append the batch ``value[at : at + length]`` of the slot being applied, or refuse it."""
        log = self.partitions.get((topic, partition))
        if log is None:
            return _NOT_OPEN
        if length < HEADER_BYTES:
            return _CORRUPT
        told, magic, attributes, delta, newest_ms, producer_id, epoch, first, count = _BATCH(value, at)
        if (
            told + LENGTH_OVERHEAD != length
            or length > log.batch_bytes_max
            or magic != MAGIC
            or delta < 0
            or count != delta + 1
            or not 0 <= attributes <= _CODEC_MAX
            or log.transactions is not None
        ):
            is_batch = told + LENGTH_OVERHEAD == length and magic == MAGIC and delta >= 0 and count == delta + 1
            refused = self._examine(log, is_batch, length, attributes, producer_id, epoch)
            if refused is not None:
                return refused
        producer: Producer | None = None
        if producer_id >= 0:
            producer = log.producers.get(producer_id)
            # The usual case needs no judgement: the next batch of a producer that is known.
            if producer is None or producer.next_sequence != first or producer.epoch != epoch:
                expired = producer_id < self.producers_expired_below
                answer, producer = judge(producer, epoch, first, delta, expired=expired)
                if answer is not None:
                    return answer
        if topic < FIRST_USER_TOPIC or self._undo is not None or attributes > _CODEC_MAX:
            refused = self._prepare(log, value, at, length, producer_id, attributes)
            if refused is not None:
                return refused
        if not log.moved:
            self.moved(log)
        base_offset = log.append(self.applied, at, length, count, newest_ms, self.epoch)
        if producer is not None:
            producer.remember(first, delta, base_offset, self.log_time_ms)
            log.producers[producer_id] = producer
        self.stored += 1
        return new(AppendResult, (errors.OK, base_offset))

    def stored_at(self, value: Buffer, topic: TopicId, partition: int, at: int, length: int) -> Offset | None:
        """Where this batch was stored before, by its producer's sequences; -1: they cannot tell, None: it was not."""
        log = self.partitions.get((topic, partition))
        if log is None or length < HEADER_BYTES:
            return _NOWHERE
        _, _, _, delta, _, producer_id, epoch, first, _ = _BATCH(value, at)
        producer = log.producers.get(producer_id)
        if producer is None:
            return _NOWHERE if producer_id < self.producers_expired_below else None
        return producer.offset_of(first, delta) if producer.epoch == epoch else None

    def _examine(
        self, log: PartitionLog, is_batch: bool, length: int, attributes: int, producer_id: int, epoch: int
    ) -> AppendResult | None:
        """Why a batch is refused that is not a plain one in a partition without transactions, or None."""
        if is_batch and length > log.batch_bytes_max:
            return _TOO_LARGE
        if not is_batch or not 0 <= attributes & ~ATTRIBUTE_TRANSACTIONAL <= _CODEC_MAX:
            return _CORRUPT
        if attributes <= _CODEC_MAX:
            outside = log.transactions is not None and producer_id in log.transactions.open
            return _NO_TRANSACTION if outside else None  # its producer has a transaction open here
        if producer_id < 0 or self._undo is not None or log.topic < FIRST_USER_TOPIC:
            return _NO_TRANSACTION  # what one command does needs no transaction
        code = self.transactions.admits(producer_id, epoch, log)
        return AppendResult(errors.BY_CODE[code].number, _NOWHERE) if code else None

    def moved(self, log: PartitionLog) -> None:
        """Tell readers of this partition that they should look, before it changes."""
        self.touch(log)
        if not log.moved:
            log.moved = True
            self._moved.append(log)

    def touch(self, log: PartitionLog) -> None:
        """The partition is about to change: a snapshot that has not seen it yet looks at it now."""
        if self.before_change is not None:
            self.before_change(log)

    @property
    def quiet(self) -> bool:
        """Whether no partition has changed since readers were told: a snapshot may begin."""
        return not self._moved

    def adopt(
        self,
        other: GroupState,
        partitions: dict[tuple[TopicId, int], FrozenLog],
        aborted: dict[tuple[TopicId, int], list[Aborted]],
    ) -> None:
        """Become ``other``, with these partitions. Whoever holds one of this state's partitions goes on with it."""
        self.applied, self.log_time_ms, self.epoch = other.applied, other.log_time_ms, other.epoch
        self.leader_node, self.leader_ballot = other.leader_node, other.leader_ballot
        self.closed_version = other.closed_version
        self.producers_expired_below = other.producers_expired_below
        self.windows = other.windows
        self.cursors = other.cursors
        self.consumer_groups = other.consumer_groups
        self.transactions = other.transactions
        changed = dict.fromkeys((*self.transaction_records.by_key, *other.transaction_records.by_key))
        self.transaction_records = other.transaction_records
        self.transaction_records.changed.update(changed)
        for key in [key for key in self.partitions if key not in partitions]:
            log = self.partitions.pop(key)
            log.close()
            self.moved(log)
        self.held = {}
        for key, frozen in partitions.items():
            log = self.partitions.setdefault(key, PartitionLog(*key))
            log.become(frozen)
            self.moved(log)
            if key[0] not in SYSTEM_TOPIC_NAMES:
                self.held.setdefault(key[0], []).append(key[1])
                self.opened(key[0])
        for key, ranges in aborted.items():
            self.partitions[key].transactions = PartitionTransactions(ranges)
        self.transactions.attach(self.partitions, self.cursors)
        if self.topics is not None and other.topics is not None:
            gone = [name for name in self.topics.by_name if name not in other.topics.by_name]
            self.topics.commit({**dict.fromkeys(gone), **other.topics.by_name}, other.topics.end)
        self.dropped = []

    def opened(self, topic: TopicId) -> None:
        self._opened[topic] = None

    def recording(self) -> None:
        """From here on appends can be taken back."""
        self._undo = []

    def keep(self) -> None:
        self._undo = None

    def take_back(self) -> None:
        """Undo the appends since ``recording``, last first."""
        undo, self._undo = self._undo or [], None
        for step in reversed(undo):
            step()

    def _prepare(
        self, log: PartitionLog, value: Buffer, at: int, length: int, producer_id: int, attributes: int
    ) -> AppendResult | None:
        """Before an append: change the view of a system topic, and note how all of it is undone. Or note that a
        transaction has begun in a partition, which is never undone."""
        if attributes > _CODEC_MAX:
            self.transactions.appended(producer_id, log, log.end)
            return None
        undone = self._undo
        view = _VIEWS.get(log.topic)
        if view is not None:
            try:
                undo = view(self, value[at : at + length], log.end)
            except CorgiError as error:
                return AppendResult(error.kind.number, _NOWHERE)
            if undone is not None:
                undone.append(undo)
        if undone is not None:
            mark, stored = log.mark(), self.stored
            undone.append(lambda: self._take_back(log, mark, stored))
            if producer_id < 0:
                return None
            producer = log.producers.get(producer_id)
            if producer is None:
                undone.append(lambda: log.producers.pop(producer_id, None))
            else:
                twin = producer.copy()
                undone.append(lambda: log.producers.update({producer_id: twin}))
        return None

    def _take_back(self, log: PartitionLog, mark: Mark, stored: int) -> None:
        log.take_back(mark)
        self.stored = stored

    def _change_topics(self, batch: Buffer, base_offset: Offset) -> Undo:
        topics = self.topics
        if topics is None:
            raise CorgiError("partition-not-open")
        changes, end = topics.stage(batch, base_offset)
        end_before = topics.end
        before = topics.commit(changes, end)
        return lambda: topics.commit(before, end_before)

    def _move_cursor(self, batch: Buffer, _base_offset: Offset) -> Undo:
        cursors = self.cursors
        key, cursor = cursors.stage(batch, self.partitions, self.log_time_ms)
        before = cursors.find(key)
        cursors.put(key, cursor)
        return lambda: cursors.put(key, before)

    def _change_transactions(self, batch: Buffer, base_offset: Offset) -> Undo:
        records = self.transaction_records
        before = records.commit(records.stage(batch, base_offset, self.log_time_ms))
        return lambda: records.commit(before)

    def _change_group(self, batch: Buffer, base_offset: Offset) -> Undo:
        groups = self.consumer_groups
        before = groups.commit(groups.stage(batch, base_offset))
        return lambda: groups.commit(before)


_VIEWS: dict[TopicId, Callable[[GroupState, Buffer, Offset], Undo]] = {
    META: GroupState._change_topics,
    CHECKPOINTS: GroupState._move_cursor,
    GROUPS: GroupState._change_group,
    TRANSACTIONS: GroupState._change_transactions,
}
