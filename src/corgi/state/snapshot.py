"""The state of one group as sections of a snapshot: taken piece by piece while the group goes on, and read back.

A ``Capture`` is of one slot. What is small it copies at once; partitions it copies when it comes to them, or before
they change, whichever is first. What it yields is laid out here; where it goes and what else lies in the file
(``log.snapshot``) is not known here.

Invariant: the state restored from all sections has the fingerprint that the captured state had at that slot.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

import msgspec

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, LeaderEpoch, Offset, Origin, Slot, TopicId
from corgi.state.blocks import BLOCK_BATCHES, Block
from corgi.state.consumer_groups import StoredGroup
from corgi.state.cursors import Cursor, CursorKey
from corgi.state.group_state import GroupState
from corgi.state.index import Cleaned, FrozenLog, PartitionLog
from corgi.state.machine import Machine
from corgi.state.outcomes import AppendResult, Outcome, Window
from corgi.state.partition_transactions import Aborted
from corgi.state.producers import Producer
from corgi.state.topics import Topic
from corgi.state.transaction_records import StoredRecord
from corgi.state.transactions import StoredFence

PIECE = 512  # topics, outcomes or producers in one section: bounds the time that making it holds the loop

_BLOCK = struct.Struct("<QQIccH")  # offset, slot, batches, type codes of offsets and slots, 1: spans follow
_encode = msgspec.msgpack.Encoder().encode


class SectionKind(IntEnum):
    """Sections of a snapshot that hold replicated state; numbers are for ever. Kinds from 16 on are the node's own."""

    STATE = 1  # msgpack: scalars; always the first
    WINDOW = 2  # msgpack: outcomes of one node's commands
    TOPICS = 3  # msgpack: topics of the cluster; group 0 only
    PARTITION = 4  # msgpack: one partition; its producers and blocks follow
    PRODUCERS = 5  # msgpack: producers of the partition before
    CURSORS = 8  # msgpack: cursors of consumer groups
    CONSUMER_GROUPS = 9  # msgpack: records of consumer groups
    TRANSACTIONS = 10  # msgpack: fences of producers, records of transactions, aborted ranges
    BLOCK = 6  # columns of the index of the partition before, little-endian


Section = tuple[int, Sequence[Buffer]]


class _State(msgspec.Struct, frozen=True, array_like=True):
    group: int
    groups: int
    applied: int
    log_time_ms: int
    epoch: int
    leader_node: int
    leader_ballot: int
    closed_version: int
    producers_expired_below: int
    digest: int
    topics_end: int


class _Window(msgspec.Struct, frozen=True, array_like=True):
    origin: int
    settled: int
    outcomes: Sequence[tuple[int, int, Sequence[tuple[int, int]], int, str]]


class _Partition(msgspec.Struct, frozen=True, array_like=True):
    topic: int
    partition: int
    start: int
    end: int
    epoch: int
    version: int
    batch_bytes_max: int
    batches: int
    skip: int
    config: dict[str, str]
    epochs: list[int]
    epoch_starts: list[int]
    producers: int
    blocks: int
    cleaned: tuple[int, int, int, int] = (0, 0, 0, 0)  # see index.Cleaned


class _Producer(msgspec.Struct, frozen=True, array_like=True):
    producer_id: int
    epoch: int
    next_sequence: int
    log_time_ms: int
    window: list[int]


class _Transactions(msgspec.Struct, frozen=True, array_like=True):
    """``aborted``: of every partition that ever had a transaction, perhaps in several pieces."""

    fences: Sequence[StoredFence] = ()
    records: Sequence[tuple[bytes, StoredRecord]] = ()
    aborted: Sequence[tuple[TopicId, int, Sequence[Aborted]]] = ()


class Scalars(NamedTuple):
    """Facts of a state that change with every slot."""

    state: _State
    windows: list[tuple[int, int, list[Outcome]]]
    topics: list[Topic]
    cursors: list[tuple[CursorKey, Cursor]]
    consumer_groups: list[tuple[str, StoredGroup]]
    fences: list[StoredFence]
    records: list[tuple[bytes, StoredRecord]]
    aborted: list[tuple[TopicId, int, list[Aborted]]]


class Capture:
    """The state of ``machine`` as of now, whatever is applied meanwhile. One at a time per machine; ``end`` it."""

    def __init__(self, machine: Machine) -> None:
        """The machine is ``quiet``: what changed before was told to readers."""
        self.slot = machine.applied
        self.ballot = Ballot(machine.leader_ballot)
        self._machine = machine
        topics = machine.topics
        self._scalars = Scalars(
            _State(
                machine.group, machine.groups, machine.applied, machine.log_time_ms, machine.epoch,
                machine.leader_node, machine.leader_ballot, machine.closed_version, machine.producers_expired_below,
                machine.digest, topics.end if topics else 0,
            ),
            [(window.origin, window.settled, list(window.outcomes.values())) for window in machine.windows.values()],
            list(topics.by_name.values()) if topics else [],
            list(machine.cursors.items()),
            list(machine.consumer_groups.by_name.items()),
            list(machine.transactions.stored()),
            list(machine.transaction_records.by_key.items()),
            [
                (log.topic, log.partition, log.transactions.aborted())
                for log in machine.partitions.values()
                if log.transactions is not None
            ],
        )  # fmt: skip
        self._left: dict[PartitionLog, None] = dict.fromkeys(machine.partitions.values())
        self._seen: list[FrozenLog] = []
        machine.before_change = self._touched

    def end(self) -> None:
        """Nothing more is wanted."""
        self._machine.before_change = None
        self._left.clear()
        self._seen.clear()

    def sections(self) -> Iterator[Section]:
        """Every section; between two of them the machine may go on."""
        yield SectionKind.STATE, [_encode(self._scalars.state)]
        for origin, settled, outcomes in self._scalars.windows:
            yield from _window_sections(origin, settled, outcomes)
        topics = self._scalars.topics
        for first in range(0, len(topics), PIECE):
            yield SectionKind.TOPICS, [_encode(topics[first : first + PIECE])]
        cursors = self._scalars.cursors
        for first in range(0, len(cursors), PIECE):
            yield SectionKind.CURSORS, [_encode(cursors[first : first + PIECE])]
        for named in self._scalars.consumer_groups:
            yield SectionKind.CONSUMER_GROUPS, [_encode([named])]
        yield from _transaction_sections(self._scalars)
        while self._seen or self._left:
            if not self._seen:
                self._touched(next(iter(self._left)))
            yield from _partition_sections(self._seen.pop())

    def _touched(self, log: PartitionLog) -> None:
        if log in self._left:
            del self._left[log]
            self._seen.append(log.freeze())


def _transaction_sections(scalars: Scalars) -> Iterator[Section]:
    for first in range(0, len(scalars.fences), PIECE):
        yield SectionKind.TRANSACTIONS, [_encode(_Transactions(scalars.fences[first : first + PIECE]))]
    for record in scalars.records:
        yield SectionKind.TRANSACTIONS, [_encode(_Transactions((), [record]))]
    for topic, partition, aborted in scalars.aborted:
        for first in range(0, len(aborted) or 1, PIECE):
            some = [(topic, partition, aborted[first : first + PIECE])]
            yield SectionKind.TRANSACTIONS, [_encode(_Transactions((), (), some))]


def _window_sections(origin: int, settled: int, outcomes: list[Outcome]) -> Iterator[Section]:
    for first in range(0, len(outcomes) or 1, PIECE):
        some = [
            (o.counter, o.error, [(a.error, a.base_offset) for a in o.appends], o.timestamp_ms, o.detail)
            for o in outcomes[first : first + PIECE]
        ]
        yield SectionKind.WINDOW, [_encode(_Window(origin, settled, some))]


def _partition_sections(log: FrozenLog) -> Iterator[Section]:
    yield (
        SectionKind.PARTITION,
        [
            _encode(
                _Partition(
                    log.topic, log.partition, log.start, log.end, log.epoch, log.version, log.batch_bytes_max,
                    log.batches, log.skip, log.config, list(log.epochs), list(log.epoch_starts),
                    len(log.producers), len(log.blocks), log.cleaned,
                )
            )
        ],
    )  # fmt: skip
    for first in range(0, len(log.producers), PIECE):
        some = [
            _Producer(number, p.epoch, p.next_sequence, p.log_time_ms, list(p.window))
            for number, p in log.producers[first : first + PIECE]
        ]
        yield SectionKind.PRODUCERS, [_encode(some)]
    for block in log.blocks:
        codes = block.offsets.typecode.encode(), block.slots.typecode.encode()
        head = _BLOCK.pack(block.offset, block.slot, len(block.times), *codes, block.spans is not None)
        columns = [block.offsets, block.slots, block.places, block.lengths, block.times]
        if block.spans is not None:
            columns.append(block.spans)
        yield SectionKind.BLOCK, [head, *map(little_endian, columns)]


def little_endian(column: array[int]) -> Buffer:
    """The bytes of a typed array as they lie in a snapshot; the array is not changed while they are in use."""
    if sys.byteorder == "little":
        return memoryview(column).cast("B")
    column = column[:]
    column.byteswap()
    return column.tobytes()


def from_little_endian(typecode: str, body: Buffer) -> array[int]:
    column = array(typecode)
    column.frombytes(body)
    if sys.byteorder != "little":
        column.byteswap()
    return column


class Restored(GroupState):
    """What the sections told, until a machine adopts it."""

    digest = 0


class Restorer:
    """Makes a group's state out of sections, in their order. Raises CorgiError "snapshot-damaged" for what makes none.

    ``adopt_into`` gives it to a machine of the same group.
    """

    def __init__(self, group: GroupId, groups: int) -> None:
        self.state = Restored(group, groups)
        self.partitions: dict[tuple[TopicId, int], FrozenLog] = {}
        self._begun = False
        self._wanted: list[tuple[FrozenLog, int, int]] = []  # the last partition: its producers and blocks told
        self._topics_end = Offset(0)
        self._topics: dict[str, Topic | None] = {}
        self._aborted: dict[tuple[TopicId, int], list[Aborted]] = {}

    def take(self, kind: int, body: Buffer) -> None:
        """One section. Raises CorgiError "snapshot-damaged", also for a kind that this release does not know."""
        try:
            self._take(SectionKind(kind), body)
        except (msgspec.DecodeError, struct.error, ValueError, IndexError, OverflowError) as error:
            raise CorgiError("snapshot-damaged", f"a section of kind {kind} does not decode: {error}") from error

    def finish(self) -> None:
        """All sections were taken."""
        if not self._begun:
            raise CorgiError("snapshot-damaged", "a snapshot tells no state")
        self._check_last()
        if len({topic.topic for topic in self._topics.values() if topic is not None}) != len(self._topics):
            raise CorgiError("snapshot-damaged", "two topics have one id")
        parts = {key for fence in self.state.transactions.fences.values() for key in fence.parts}
        if not self.partitions.keys() >= parts | self._aborted.keys():
            raise CorgiError("snapshot-damaged", "a transaction lies in a partition that is not there")
        if self.state.topics is not None:
            self.state.topics.commit(self._topics, self._topics_end)

    def adopt_into(self, machine: Machine) -> None:
        machine.adopt(self.state, self.partitions, self._aborted)
        machine.digest = self.state.digest

    def _take(self, kind: SectionKind, body: Buffer) -> None:
        if kind is SectionKind.STATE:
            self._take_state(msgspec.msgpack.decode(body, type=_State))
        elif not self._begun:
            raise ValueError("a snapshot does not begin with its state")
        elif kind is SectionKind.WINDOW:
            self._take_window(msgspec.msgpack.decode(body, type=_Window))
        elif kind is SectionKind.TOPICS:
            for topic in msgspec.msgpack.decode(body, type=list[Topic]):
                self._topics[topic.name] = topic
        elif kind is SectionKind.CURSORS:
            for key, cursor in msgspec.msgpack.decode(body, type=list[tuple[CursorKey, Cursor]]):
                self.state.cursors.put(key, cursor)
        elif kind is SectionKind.CONSUMER_GROUPS:
            self.state.consumer_groups.by_name.update(msgspec.msgpack.decode(body, type=list[tuple[str, StoredGroup]]))
        elif kind is SectionKind.TRANSACTIONS:
            self._take_transactions(msgspec.msgpack.decode(body, type=_Transactions))
        elif kind is SectionKind.PARTITION:
            self._take_partition(msgspec.msgpack.decode(body, type=_Partition))
        elif kind is SectionKind.PRODUCERS:
            self._take_producers(msgspec.msgpack.decode(body, type=list[_Producer]))
        else:
            self._wanted[0][0].blocks.append(_block(memoryview(body)))

    def _take_state(self, told: _State) -> None:
        state = self.state
        if (told.group, told.groups) != (state.group, state.groups):
            raise ValueError(f"it is of group {told.group} of {told.groups}")
        self._begun = True
        state.applied = Slot(told.applied)
        state.log_time_ms = told.log_time_ms
        state.epoch = LeaderEpoch(told.epoch)
        state.leader_node, state.leader_ballot = told.leader_node, told.leader_ballot
        state.closed_version = told.closed_version
        state.producers_expired_below = told.producers_expired_below
        state.digest = told.digest
        self._topics_end = Offset(told.topics_end)

    def _take_window(self, told: _Window) -> None:
        origin = Origin(told.origin)
        window = self.state.windows.get(origin >> 48)
        if window is None:
            window = self.state.windows[origin >> 48] = Window(origin)
        window.settled = told.settled
        for counter, error, appends, timestamp_ms, detail in told.outcomes:
            results = tuple(AppendResult(code, Offset(offset)) for code, offset in appends)
            window.outcomes[counter] = Outcome(origin, counter, error, results, timestamp_ms, detail)

    def _take_transactions(self, told: _Transactions) -> None:
        for fence in told.fences:
            self.state.transactions.restore(fence)
        self.state.transaction_records.commit(dict(told.records))
        for topic, partition, aborted in told.aborted:
            self._aborted.setdefault((topic, partition), []).extend(aborted)

    def _take_partition(self, told: _Partition) -> None:
        self._check_last()
        frozen = FrozenLog(
            TopicId(told.topic), told.partition, Offset(told.start), Offset(told.end), LeaderEpoch(told.epoch),
            told.version, told.batch_bytes_max, told.batches, told.skip, told.config,
            [LeaderEpoch(epoch) for epoch in told.epochs], [Offset(start) for start in told.epoch_starts], [], [],
            Cleaned(told.cleaned[0], Offset(told.cleaned[1]), Offset(told.cleaned[2]), told.cleaned[3]),
        )  # fmt: skip
        self.partitions[frozen.topic, frozen.partition] = frozen
        self._wanted = [(frozen, told.producers, told.blocks)]

    def _take_producers(self, told: list[_Producer]) -> None:
        producers = self._wanted[0][0].producers
        for one in told:
            producer = Producer(one.epoch)
            producer.next_sequence = one.next_sequence
            producer.log_time_ms = one.log_time_ms
            producer.window = array("q", one.window)
            producers.append((one.producer_id, producer))

    def _check_last(self) -> None:
        for frozen, producers, blocks in self._wanted:
            batches = sum(len(block.times) for block in frozen.blocks)
            whole = all(block.times for block in frozen.blocks)
            if (len(frozen.producers), len(frozen.blocks)) != (producers, blocks) or not whole:
                raise CorgiError("snapshot-damaged", f"partition {frozen.topic}/{frozen.partition} is not whole")
            sound = 0 <= frozen.skip <= BLOCK_BATCHES and frozen.batches >= 0 and 0 <= frozen.start <= frozen.end
            if batches != frozen.batches + frozen.skip or not sound:
                raise CorgiError("snapshot-damaged", f"partition {frozen.topic}/{frozen.partition} misses batches")


def _block(body: memoryview) -> Block:
    offset, slot, count, offsets_code, slots_code, with_spans = _BLOCK.unpack_from(body)
    if count > BLOCK_BATCHES or offsets_code not in b"Iq" or slots_code not in b"Iq":
        raise ValueError("a block of an index is not one")
    block = Block(Offset(offset), Slot(slot))
    at = _BLOCK.size
    columns: list[array[int]] = []
    for code in (offsets_code.decode(), slots_code.decode(), "I", "I", "q", *(("I",) if with_spans else ())):
        size = count * array(code).itemsize
        if at + size > len(body):
            raise ValueError("a block of an index ends too early")
        columns.append(from_little_endian(code, body[at : at + size]))
        at += size
    block.offsets, block.slots, block.places, block.lengths, block.times = columns[:5]
    if with_spans:
        block.spans = columns[5]
    return block
