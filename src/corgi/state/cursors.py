"""Cursors: of each consumer group, how far it is in the partitions of one Paxos group, and who may move it.

A cursor belongs to (consumer group, topic, partition, slice); a slice is a part of the hash space of keys, and a
partition that is not shared by key has only slice 0. OWNER commands give a cursor to a member under a higher owner
epoch; a checkpoint is a record in `__checkpoints/i` that names owner epoch and member, so whoever lost the cursor
cannot move it any more. An epoch of 0 belongs to nobody: consumers without a group's membership use it.

Invariant: a cursor's owner epoch never falls while the cursor exists; its checkpoint falls only by a reset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from corgi.base.batch import ATTRIBUTE_CODEC, ATTRIBUTES_AT
from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Offset, TopicId
from corgi.base.records import encode_batch, read_batch
from corgi.base.tuples import new
from corgi.state.commands import CursorGuard, Natural, Unsigned32
from corgi.state.index import PartitionLog

NAME_MAX = 249  # characters of a consumer group's and a member's name
METADATA_MAX = 4096  # characters a checkpoint may carry for its owner
RANGES_MAX = 1000  # done ranges above a checkpoint
CURSORS_MAX = 10_000  # of one partition, over all consumer groups and slices
NO_CHECKPOINT = Offset(-1)
NO_HOLDER = -1
NO_LEADER_EPOCH = -1
_KEY_KIND = 1

Range = tuple[int, int]  # from, to before


class CursorKey(NamedTuple):
    """Whose cursor in which part of which partition."""

    group: str
    topic: TopicId
    partition: int
    slice: int


class Cursor(NamedTuple):
    """``offset``: the next record to be done, -1 before the first checkpoint; ``ranges``: what is done above it.

    ``version`` counts the checkpoints; ``log_time_ms`` is that of the last one. ``leader_epoch``: of the last record
    done, as who made the checkpoint told it (KIP-320); nothing here depends on it.
    """

    owner_epoch: int = 0
    member: str = ""
    version: int = 0
    offset: Offset = NO_CHECKPOINT
    ranges: tuple[Range, ...] = ()
    metadata: str = ""
    log_time_ms: int = 0
    leader_epoch: int = NO_LEADER_EPOCH


NEW = Cursor()

LeaderEpochTold = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
_Text = Annotated[str, Meta(max_length=NAME_MAX)]


class CheckpointKey(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The key of a record in `__checkpoints`."""

    kind: int
    group: Annotated[str, Meta(min_length=1, max_length=NAME_MAX)]
    topic: Unsigned32
    partition: Unsigned32
    slice: Unsigned32


class CheckpointRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The value of a record in `__checkpoints`; null instead of it ends the cursor. ``reset``: it may go back."""

    owner_epoch: Natural
    member: _Text
    offset: Natural
    ranges: tuple[tuple[Natural, Natural], ...] = ()
    metadata: Annotated[str, Meta(max_length=METADATA_MAX)] = ""
    reset: bool = False
    leader_epoch: LeaderEpochTold = NO_LEADER_EPOCH


_encode = msgspec.msgpack.Encoder().encode
_key = msgspec.msgpack.Decoder(CheckpointKey).decode
_record = msgspec.msgpack.Decoder(CheckpointRecord).decode

Change = tuple[CursorKey, Cursor | None]


def encode_checkpoint(key: CursorKey, record: CheckpointRecord | None, timestamp_ms: int) -> bytes:
    """The batch to append to `__checkpoints/i`, i being the Paxos group of the partition; None ends the cursor."""
    name = _encode(CheckpointKey(_KEY_KIND, *key))
    return encode_batch([(name, None if record is None else _encode(record), (), timestamp_ms)])


class Cursors:
    """All cursors of one Paxos group, by partition."""

    __slots__ = ("_held", "by_partition")

    def __init__(self) -> None:
        self._held: dict[CursorKey, int] = {}  # by the producer whose open transaction moves them
        self.by_partition: dict[tuple[TopicId, int], dict[tuple[str, int], Cursor]] = {}

    def find(self, key: CursorKey) -> Cursor | None:
        """The cursor, if there is one."""
        group, topic, partition, number = key
        found = self.by_partition.get((topic, partition))
        return None if found is None else found.get((group, number))

    def get(self, key: CursorKey) -> Cursor:
        """The cursor; that of the beginning if there is none."""
        return self.find(key) or NEW

    def put(self, key: CursorKey, cursor: Cursor | None) -> None:
        """Set the cursor, or end it."""
        group, topic, partition, number = key
        found = self.by_partition.get((topic, partition))
        if cursor is not None:
            if found is None:
                found = self.by_partition[topic, partition] = {}
            found[group, number] = cursor
        elif found is not None:
            found.pop((group, number), None)
            if not found:
                del self.by_partition[topic, partition]

    def close(self, topic: TopicId, partition: int) -> None:
        """The partition is gone, and with it what anybody did there."""
        self.by_partition.pop((topic, partition), None)
        for key in [key for key in self._held if (key.topic, key.partition) == (topic, partition)]:
            del self._held[key]

    def items(self) -> Iterator[tuple[CursorKey, Cursor]]:
        for (topic, partition), cursors in self.by_partition.items():
            for (group, number), cursor in cursors.items():
                yield CursorKey(group, topic, partition, number), cursor

    def groups(self) -> set[str]:
        """The consumer groups that have cursors here."""
        return {group for cursors in self.by_partition.values() for group, _ in cursors}

    def of_group(self, group: str) -> Iterator[tuple[CursorKey, Cursor]]:
        """The cursors of one consumer group."""
        return ((key, cursor) for key, cursor in self.items() if key.group == group)

    # -- rules ----------------------------------------------------------------------------------------------------

    def own(self, key: CursorKey, owner_epoch: int, member: str) -> None:
        """Give the cursor to ``member`` ("": to nobody). Raises "consumer-fenced" unless the epoch is new, or known
        with the same member; "overloaded"."""
        cursor = self.get(key)
        if owner_epoch == cursor.owner_epoch and member == cursor.member and owner_epoch:
            return
        if owner_epoch <= cursor.owner_epoch:
            raise CorgiError("consumer-fenced", f"owner epoch {owner_epoch} is not above {cursor.owner_epoch}")
        self._check_free(key)
        self._check_room(key)
        self.put(key, cursor._replace(owner_epoch=owner_epoch, member=member))

    def stage(self, batch: Buffer, partitions: Mapping[tuple[TopicId, int], PartitionLog], log_time_ms: int) -> Change:
        """What a batch of one record for `__checkpoints` would change. Raises CorgiError, alike on every replica.

        ``partitions``: those that are open in this Paxos group.
        """
        key, record = decode_checkpoint(batch)
        if record is None:
            self._check_free(key)
            if self.get(key).member:
                raise CorgiError("consumer-fenced", "a cursor that a member holds is not deleted")
            return key, None
        log = partitions.get((key.topic, key.partition))
        end = None if log is None else log.end
        owner, place = (record.owner_epoch, record.member), (record.offset, record.ranges, record.metadata)
        cursor = self.move(key, owner, place, end, log_time_ms, reset=record.reset)
        return key, cursor if record.leader_epoch < 0 else cursor._replace(leader_epoch=record.leader_epoch)

    def move(
        self,
        key: CursorKey,
        owner: tuple[int, str],
        place: tuple[int, tuple[Range, ...], str],
        end: Offset | None,
        log_time_ms: int,
        *,
        reset: bool = False,
        holder: int = NO_HOLDER,
    ) -> Cursor:
        """The cursor with its checkpoint at ``place``: offset, ranges, metadata. Raises CorgiError if it may not go
        there. ``end``: of the partition, None if that is not open; ``holder``: the producer who may hold it fast."""
        cursor = self.get(key)
        offset, ranges, metadata = place
        if owner != (cursor.owner_epoch, cursor.member):
            raise CorgiError(
                "consumer-fenced", f"owner epoch {owner[0]} of {owner[1]!r} does not hold the cursor any more"
            )
        if end is None:
            raise CorgiError("partition-not-open")
        self._check_free(key, holder)
        last = ranges[-1][1] if ranges else offset
        if last > end:
            raise CorgiError("offset-out-of-range", f"a checkpoint at {last}, the partition ends at {end}")
        if offset < cursor.offset and not reset:
            raise CorgiError("checkpoint-moved", f"the checkpoint is at {cursor.offset}, behind {offset}")
        self._check_room(key)
        epoch, member = owner
        moved = (epoch, member, cursor.version + 1, offset, ranges, metadata, log_time_ms, NO_LEADER_EPOCH)
        return new(Cursor, moved)

    def hold(self, key: CursorKey, producer_id: int) -> None:
        """An open transaction moves this cursor: nobody else does meanwhile, and its owner stays."""
        self._held[key] = producer_id

    def release(self, key: CursorKey) -> None:
        self._held.pop(key, None)

    def held(self, key: CursorKey) -> bool:
        """Whether an open transaction moves it."""
        return key in self._held

    def _check_free(self, key: CursorKey, holder: int = NO_HOLDER) -> None:
        if self._held and self._held.get(key, holder) != holder:
            raise CorgiError("transaction-in-progress", "a transaction that has not ended moves this checkpoint")

    def judge(self, guard: CursorGuard) -> bool:
        """Whether what the guard protects may be done; False if it was done already. Raises "consumer-fenced",
        "checkpoint-moved"."""
        key: CursorKey = new(CursorKey, (guard.group, guard.topic, guard.partition, guard.slice))
        cursor = self.get(key)
        if guard.owner_epoch != cursor.owner_epoch or guard.member != cursor.member:
            raise CorgiError("consumer-fenced", f"owner epoch {guard.owner_epoch} of {guard.member!r} is over")
        if guard.version == cursor.version:
            self._check_free(key)
            return True
        if guard.version + 1 == cursor.version and (guard.offset, guard.ranges) == (cursor.offset, cursor.ranges):
            return False
        raise CorgiError("checkpoint-moved", f"the checkpoint has version {cursor.version}, not {guard.version}")

    def _check_room(self, key: CursorKey) -> None:
        present = self.by_partition.get((key.topic, key.partition))
        if present is not None and len(present) >= CURSORS_MAX and (key.group, key.slice) not in present:
            raise CorgiError("overloaded", f"a partition has at most {CURSORS_MAX} cursors")


def decode_checkpoint(batch: Buffer) -> tuple[CursorKey, CheckpointRecord | None]:
    """The one record of a batch for `__checkpoints`. Raises "corrupt-batch", "invalid-argument"."""
    if batch[ATTRIBUTES_AT] & ATTRIBUTE_CODEC:
        raise CorgiError("corrupt-batch", "batches of __checkpoints are not compressed")
    try:
        records = read_batch(batch)
    except CorgiError:
        raise CorgiError("corrupt-batch", "a batch of __checkpoints does not decode") from None
    if len(records) != 1:
        raise CorgiError("invalid-argument", "a checkpoint is a batch of one record")
    try:
        key = _key(records[0].key or b"")
        value = records[0].value
        record = None if value is None else _record(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise CorgiError("invalid-argument", "a record of __checkpoints does not decode") from None
    if key.kind != _KEY_KIND:
        raise CorgiError("invalid-argument", f"a record of __checkpoints has the unknown kind {key.kind}")
    if record is not None and record.ranges:
        check_ranges(record.offset, record.ranges)
    return new(CursorKey, (key.group, key.topic, key.partition, key.slice)), record


def check_ranges(offset: int, ranges: Sequence[Range]) -> None:
    """Raises "invalid-argument" unless they are sorted, not empty, apart from each other and above ``offset``."""
    if len(ranges) > RANGES_MAX:
        raise CorgiError("invalid-argument", f"a checkpoint has at most {RANGES_MAX} ranges, not {len(ranges)}")
    below = offset
    for first, end in ranges:
        if not below < first < end:
            raise CorgiError("invalid-argument", "the ranges of a checkpoint are sorted, apart, and above its offset")
        below = end
