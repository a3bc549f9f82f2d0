"""TRANSACTION_OPEN and MARKER: the bodies of these commands, and what they do in one Paxos group.

    TRANSACTION_OPEN   msgpack, see ``TransactionOpen``
    MARKER             length u32 | msgpack, see ``Marker`` | control batch

The control batch lies in the command once; every partition that the transaction has batches in names these bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from corgi.base import errors
from corgi.base.batch import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_TRANSACTIONAL,
    HEADER,
    HEADER_BYTES,
    LENGTH_OVERHEAD,
    MAGIC,
    parse_header,
)
from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.base.records import encode_batch, sign
from corgi.state.commands import Natural, Unsigned32
from corgi.state.cursors import METADATA_MAX, NO_LEADER_EPOCH, Cursor, CursorKey, LeaderEpochTold, check_ranges

if TYPE_CHECKING:
    from corgi.state.group_state import GroupState

EPOCH_MAX = 2**15 - 1  # a producer epoch has 16 bits with a sign
CHECKPOINTS_MAX = 1_000  # moved by one transaction
_LENGTH = struct.Struct(">I")
_CONTROL_KEY = struct.Struct(">hh")  # version 0, type: 0 abort, 1 commit
_CONTROL_VALUE = struct.Struct(">hi")  # version 0, coordinator epoch
_CONTROL = ATTRIBUTE_TRANSACTIONAL | ATTRIBUTE_CONTROL

Verdict = tuple[int, str]
_DONE: Verdict = (errors.OK, "")

_Epoch = Annotated[int, Meta(ge=0, le=EPOCH_MAX)]


class StagedCheckpoint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A checkpoint that moves when the transaction commits. ``version``: that of the cursor it replaces, -1: any.
    ``reset``: it may go back."""

    group: Annotated[str, Meta(min_length=1, max_length=249)]
    topic: Unsigned32
    partition: Unsigned32
    slice: Unsigned32
    owner_epoch: Natural
    member: Annotated[str, Meta(max_length=249)]
    version: Annotated[int, Meta(ge=-1, le=2**63 - 1)]
    offset: Natural
    ranges: tuple[tuple[Natural, Natural], ...] = ()
    metadata: Annotated[str, Meta(max_length=METADATA_MAX)] = ""
    reset: bool = False
    leader_epoch: LeaderEpochTold = NO_LEADER_EPOCH


class TransactionOpen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """This producer may append to these partitions in its transaction ``number``, and moves these checkpoints."""

    producer_id: Natural
    epoch: _Epoch
    number: Natural
    partitions: list[tuple[Unsigned32, Unsigned32]]
    checkpoints: list[StagedCheckpoint] = []


class Marker(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The transaction ``number``, and all older ones of the producer, are over in this group."""

    producer_id: Natural
    epoch: _Epoch
    number: Natural
    commit: bool


_encode = msgspec.msgpack.Encoder().encode
_open = msgspec.msgpack.Decoder(TransactionOpen).decode
_marker = msgspec.msgpack.Decoder(Marker).decode


def encode_transaction_open(
    producer_id: int,
    epoch: int,
    number: int,
    partitions: Sequence[tuple[TopicId, int]],
    checkpoints: Sequence[StagedCheckpoint] = (),
) -> bytes:
    wanted = [(int(topic), partition) for topic, partition in partitions]
    return _encode(TransactionOpen(producer_id, epoch, number, wanted, list(checkpoints)))


def encode_marker(producer_id: int, epoch: int, number: int, timestamp_ms: int, *, commit: bool) -> bytes:
    head = _encode(Marker(producer_id, epoch, number, commit))
    return b"".join((_LENGTH.pack(len(head)), head, control_batch(producer_id, epoch, timestamp_ms, commit=commit)))


def control_batch(producer_id: int, epoch: int, timestamp_ms: int, *, commit: bool) -> bytes:
    """The batch that ends a transaction in a partition (KIP-98)."""
    record = (_CONTROL_KEY.pack(0, commit), _CONTROL_VALUE.pack(0, 0), (), timestamp_ms)
    plain = encode_batch([record], producer_id=producer_id, producer_epoch=epoch, base_sequence=-1)
    out = bytearray(plain)
    out[:HEADER_BYTES] = HEADER.pack(*parse_header(plain)._replace(attributes=_CONTROL))
    sign(out)
    return bytes(out)


def apply_open(state: GroupState, body: Buffer) -> Verdict:
    """TRANSACTION_OPEN, whole or not at all."""
    try:
        wanted = _open(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return errors.INVALID_ARGUMENT, "a transaction's opening does not decode"
    partitions = [(TopicId(topic), partition) for topic, partition in wanted.partitions]
    try:
        fence = state.transactions.fences.get(wanted.producer_id)
        known = fence.parts if fence is not None and fence.number == wanted.number else {}
        new = sum(partition not in known for partition in set(partitions))
        state.transactions.check_open(wanted.producer_id, wanted.epoch, wanted.number, new)
        if any(partition not in state.partitions for partition in partitions):
            return errors.PARTITION_NOT_OPEN, ""
        if len(wanted.checkpoints) > CHECKPOINTS_MAX:
            raise CorgiError("invalid-argument", f"a transaction moves at most {CHECKPOINTS_MAX} checkpoints")
        staged = dict(_stage(state, wanted.producer_id, one) for one in wanted.checkpoints)
    except CorgiError as error:
        return error.kind.number, error.message
    state.transactions.open(
        wanted.producer_id, wanted.epoch, wanted.number, partitions, staged.items(), state.cursors, state.log_time_ms
    )
    return _DONE


def _stage(state: GroupState, producer_id: int, wanted: StagedCheckpoint) -> tuple[CursorKey, Cursor]:
    """Where the checkpoint will be. Raises CorgiError when it may not move there."""
    key = CursorKey(wanted.group, TopicId(wanted.topic), wanted.partition, wanted.slice)
    check_ranges(wanted.offset, wanted.ranges)
    log = state.partitions.get((key.topic, key.partition))
    if log is None:
        raise CorgiError("partition-not-open")
    cursor = state.cursors.get(key)
    if wanted.version not in (-1, cursor.version):
        raise CorgiError("checkpoint-moved", f"the checkpoint has version {cursor.version}, not {wanted.version}")
    moved = state.cursors.move(
        key,
        (wanted.owner_epoch, wanted.member),
        (wanted.offset, wanted.ranges, wanted.metadata),
        log.end,
        state.log_time_ms,
        reset=wanted.reset,
        holder=producer_id,
    )
    return key, moved if wanted.leader_epoch < 0 else moved._replace(leader_epoch=wanted.leader_epoch)


def apply_marker(state: GroupState, value: Buffer, at: int, end: int) -> Verdict:
    """MARKER with the body ``value[at:end]``. Repeating it changes nothing."""
    if end - at < _LENGTH.size:
        return errors.INVALID_ARGUMENT, "a marker does not decode"
    (length,) = _LENGTH.unpack_from(value, at)
    batch_at = at + _LENGTH.size + length
    if batch_at + HEADER_BYTES > end:
        return errors.INVALID_ARGUMENT, "a marker does not decode"
    try:
        wanted = _marker(value[at + _LENGTH.size : batch_at])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return errors.INVALID_ARGUMENT, "a marker does not decode"
    header = parse_header(value, batch_at)
    if (
        header.length + LENGTH_OVERHEAD != end - batch_at
        or (header.magic, header.attributes, header.last_offset_delta, header.record_count) != (MAGIC, _CONTROL, 0, 1)
        or (header.producer_id, header.producer_epoch) != (wanted.producer_id, wanted.epoch)
    ):
        return errors.INVALID_ARGUMENT, "a marker's control batch is not one"
    try:
        fence = state.transactions.check_end(wanted.producer_id, wanted.epoch, wanted.number)
    except CorgiError as error:
        return error.kind.number, error.message
    if fence is not None:
        for key, first in fence.parts.items():
            log = state.partitions.get(key)
            if first < 0 or log is None or log.transactions is None:
                continue
            state.moved(log)
            last = log.append(state.applied, batch_at, end - batch_at, 1, header.max_timestamp, state.epoch)
            state.stored += 1
            log.transactions.open.pop(wanted.producer_id, None)
            if not wanted.commit:
                log.transactions.abort(wanted.producer_id, first, last)
        for cursor_key, cursor in fence.staged.items():
            state.cursors.release(cursor_key)
            if wanted.commit and (cursor_key.topic, cursor_key.partition) in state.partitions:
                state.cursors.put(cursor_key, cursor._replace(log_time_ms=state.log_time_ms))
    state.transactions.end(wanted.producer_id, wanted.epoch, wanted.number, state.log_time_ms)
    return _DONE
