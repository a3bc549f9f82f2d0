"""Compaction by key: what it leaves of a batch, and how what it leaves gets into the log.

Of the records with one key only the newest is sure to stay. A record without a value is a tombstone: nothing of its key
is left below it, and some time later it goes as well. Offsets and the order never change. Never touched are records
without a key (they were there before the topic was compacted), and batches that belong to a transaction or are control
batches: neither do they supersede anything, nor are they superseded, until a transaction's outcome is looked up.

A COMPACTED command names batches by their base offsets, with what is left of each. Its sender says which of the
partition's COMPACTED commands it is. The index changes by appends at its end, by log starts at its beginning, and by
these commands only; so if none came in between and the batches are there, they are those that the sender read.

Invariant: a record is dropped only if a newer one of its key is stored, or its tombstone's time has come.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from corgi.base import errors
from corgi.base.batch import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_TRANSACTIONAL,
    HEADER_BYTES,
    LENGTH_OVERHEAD,
    MAGIC,
    parse_header,
)
from corgi.base.command import Buffer
from corgi.base.compiled_codec import DecodedRecord
from corgi.base.errors import CorgiError
from corgi.base.ids import Offset, TopicId
from corgi.base.limits import KEYS_BYTES_MAX, KIB
from corgi.base.records import OpenBatch
from corgi.state.group_state import GroupState
from corgi.state.index import Change, Cleaned, PartitionLog
from corgi.state.settings import compacted, delete_retention_ms

KEY_OVERHEAD_BYTES = 180  # of a key in a dictionary, beside its bytes: object, offset, cell with spare room
SHARDS = 128  # dictionaries, so that growing or freeing one takes less than a millisecond
CHANGES_MAX = 512  # of one command
CHUNK_BYTES = 256 * KIB  # of one command, a single larger batch excepted
ENTRIES_MAX = 2048  # of the index that one command reaches over: bounds the time of an apply

_HEAD = struct.Struct(">IIQQQBxxxI")  # topic, partition, commands before, pass done to, tombstones below, flag, changes
_CHANGE = struct.Struct(">QI")  # base offset, bytes left
_TOMBSTONES_LEFT = 1

Verdict = tuple[int, str]
_DONE: Verdict = (errors.OK, "")
_MALFORMED: Verdict = (errors.INVALID_ARGUMENT, "a compaction does not decode")


class Compacted(NamedTuple):
    """COMPACTED: what is left of the named batches; None: nothing.

    ``before``: so many such commands had changed the partition. ``done_to`` is not 0 in the last one of a pass, which
    has seen everything below it. ``horizon`` is not 0 if tombstones below it were dropped; ``tombstones_left``: some
    lie below ``done_to``.
    """

    topic: TopicId
    partition: int
    before: int
    done_to: Offset
    horizon: Offset
    tombstones_left: bool
    changes: Sequence[tuple[Offset, Buffer | None]]


def encode_compacted(wanted: Compacted) -> bytes:
    """The body of the command."""
    batches = [b"" if batch is None else batch for _, batch in wanted.changes]
    flag = _TOMBSTONES_LEFT if wanted.tombstones_left else 0
    head = _HEAD.pack(wanted.topic, wanted.partition, wanted.before, wanted.done_to, wanted.horizon, flag, len(batches))
    table = [_CHANGE.pack(offset, len(batch)) for (offset, _), batch in zip(wanted.changes, batches, strict=True)]
    return b"".join((head, *table, *batches))


def apply_compacted(state: GroupState, value: Buffer, at: int, end: int) -> Verdict:
    """Apply the command with the body ``value[at:end]``, whole or not at all."""
    if end - at < _HEAD.size:
        return _MALFORMED
    topic, partition, before, done_to, horizon, flag, count = _HEAD.unpack_from(value, at)
    at += _HEAD.size
    batch_at = at + count * _CHANGE.size
    if batch_at > end or count > CHANGES_MAX or flag & ~_TOMBSTONES_LEFT:
        return _MALFORMED
    changes: list[Change] = []
    for offset, length in _CHANGE.iter_unpack(value[at:batch_at]):
        changes.append(Change(Offset(offset), batch_at, length))
        batch_at += length
    if batch_at != end:
        return _MALFORMED
    log = state.partitions.get((TopicId(topic), partition))
    if log is None or log.cleaned.commands != before or not compacted(log.config):
        return errors.UNSETTLED, "the partition has changed meanwhile"
    verdict = _check(state, log, Offset(done_to), Offset(horizon))
    if verdict[0]:
        return verdict
    verdict = _check_changes(log, value, changes)
    if verdict[0]:
        return verdict
    state.touch(log)
    if changes:
        state.dropped.extend(log.replace(state.applied, changes))
        state.stored += sum(1 for change in changes if change.length)
    log.cleaned = _after(log.cleaned, state.log_time_ms, Offset(done_to), Offset(horizon), left=bool(flag))
    return _DONE


def _check(state: GroupState, log: PartitionLog, done_to: Offset, horizon: Offset) -> Verdict:
    """Is it time for what the command does?"""
    cleaned = log.cleaned
    if done_to and not cleaned.to <= done_to <= log.end:
        return errors.INVALID_ARGUMENT, "a compaction ends where the partition does not reach"
    if horizon and (
        horizon != cleaned.horizon or state.log_time_ms < cleaned.horizon_ms + delete_retention_ms(log.config)
    ):
        return errors.INVALID_ARGUMENT, "tombstones were dropped before their time"
    return _DONE


def _check_changes(log: PartitionLog, value: Buffer, changes: list[Change]) -> Verdict:
    """Are the named batches in the index, in order, and is what is left of each a batch in its place?"""
    last = -1
    for change in changes:
        i = log.find(change.base_offset)
        if change.base_offset <= last or i >= log.count - 1:
            return errors.INVALID_ARGUMENT, "a compaction names batches out of order, or the newest one"
        last = change.base_offset
        entry = log.entry(i)
        if entry.base_offset != change.base_offset:
            return errors.UNSETTLED, "a batch is no longer stored"
        if change.length and not _fits(value, change, entry.records):
            return errors.CORRUPT_BATCH, "what is left of a batch is no batch in its place"
    return _DONE


def _fits(value: Buffer, change: Change, span: int) -> bool:
    if change.length < HEADER_BYTES:
        return False
    header = parse_header(value, change.at)
    return (
        header.length + LENGTH_OVERHEAD == change.length
        and header.magic == MAGIC
        and header.last_offset_delta + 1 == span
        and 0 < header.record_count <= span
    )


def _after(cleaned: Cleaned, log_time_ms: int, done_to: Offset, horizon: Offset, *, left: bool) -> Cleaned:
    commands = cleaned.commands + 1
    if not done_to:
        return cleaned._replace(commands=commands)
    if not left:
        return Cleaned(commands, done_to)
    if cleaned.horizon and cleaned.horizon != horizon:
        return cleaned._replace(commands=commands, to=done_to)  # its time has not come; it is not put off
    return Cleaned(commands, done_to, done_to, log_time_ms)


def horizon_due(log: PartitionLog, log_time_ms: int) -> Offset:
    """Below this offset tombstones may be dropped at that log time; 0: there are none, or it is too early."""
    cleaned = log.cleaned
    if cleaned.horizon and log_time_ms >= cleaned.horizon_ms + delete_retention_ms(log.config):
        return cleaned.horizon
    return Offset(0)


class NewestOffsets:
    """The newest offset of each key, within KEYS_BYTES_MAX."""

    __slots__ = ("_bytes_max", "_shards", "size")

    def __init__(self, bytes_max: int = KEYS_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._shards: list[dict[bytes, int]] = [{} for _ in range(SHARDS)]
        self.size = 0  # bytes

    @property
    def full(self) -> bool:
        return self.size >= self._bytes_max

    def get(self, key: bytes) -> int:
        """-1 for a key that was not seen."""
        return self._shards[hash(key) % SHARDS].get(key, -1)

    def add(self, batch: Buffer, base_offset: Offset) -> int:
        """Take up the records of the batch stored at ``base_offset``, which is higher than those before; how many."""
        found = _opened(batch)
        if found is None:
            return 0
        opened, records = found
        shift = base_offset - opened.header.base_offset
        shards = self._shards
        for record in records:
            key = record.key
            if key is not None:
                shard = shards[hash(key) % SHARDS]
                if key not in shard:
                    self.size += len(key) + KEY_OVERHEAD_BYTES
                shard[key] = record.offset + shift
        return len(records)

    def free(self) -> bool:
        """Let go of a part of it; False when nothing is left."""
        if self._shards:
            self._shards.pop()
        return bool(self._shards)


class Survivors(NamedTuple):
    """What is left of a batch: itself, fewer records, or None; and whether there are tombstones in it."""

    batch: Buffer | None
    tombstones: bool
    records: int  # that were dropped


def survivors(batch: Buffer, base_offset: Offset, newest: NewestOffsets, horizon: Offset) -> Survivors:
    """What is left of the batch stored at ``base_offset`` when of each key only the newest stays, and no tombstone
    below ``horizon``."""
    found = _opened(batch)
    if found is None:
        return Survivors(batch, tombstones=False, records=0)
    opened, records = found
    shift = base_offset - opened.header.base_offset
    kept: list[bool] = []
    tombstones = False
    for record in records:
        key, offset = record.key, record.offset + shift
        keep = key is None or (newest.get(key) <= offset and (record.value is not None or offset >= horizon))
        kept.append(keep)
        if keep and key is not None and record.value is None:
            tombstones = True
    dropped = kept.count(False)
    if not dropped:
        return Survivors(batch, tombstones, 0)
    return Survivors(opened.only(kept) if dropped < len(kept) else None, tombstones, dropped)


def _opened(batch: Buffer) -> tuple[OpenBatch, list[DecodedRecord]] | None:
    """The batch and its records; None for one that is not touched."""
    if parse_header(batch).attributes & (ATTRIBUTE_CONTROL | ATTRIBUTE_TRANSACTIONAL):
        return None
    try:
        opened = OpenBatch(batch)
        return opened, list(opened)
    except CorgiError:
        return None  # a client stored what nobody can read
