"""Bodies of the commands that are not DATA, and of guards: msgpack arrays, fields only ever added at the end.

A body that does not decode is an error outcome, the same on every replica: types and ranges are part of the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from corgi.base.command import Buffer
from corgi.base.ids import Ballot, NodeId, Offset, TopicId

Unsigned16 = Annotated[int, Meta(ge=0, le=2**16 - 1)]
Unsigned32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]

FLAG_ATOMIC = 1  # command flags: all appends or none, also without guards and records
PARTITIONS_PER_COMMAND = 512  # opened or closed by one command: bounds the time of an apply


class GuardKind(IntEnum):
    """Preconditions of a DATA command; numbers are for ever."""

    TOPIC_ABSENT = 1  # group 0: no topic of this name
    TOPIC_AT = 2  # group 0: the topic of this name has this id and version
    GROUP_AT = 3  # the record of this consumer group has this version
    CURSOR_AT = 4  # this owner holds the cursor, and its checkpoint has this version
    RECORD_AT = 5  # the record of this key in `__transactions` has this version
    PRODUCER_AT = 6  # no newer producer of the same transactional name is known here


class Epoch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """EPOCH: who leads from here on."""

    node: Unsigned16
    ballot: Natural


class PartitionOpen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """PARTITION_OPEN: these partitions of a user topic live in this group, with these settings.

    ``version`` is the end of `__meta/0` that the sender had applied when it found this to be so.
    """

    topic: Unsigned32
    partitions: list[Unsigned32]
    version: Natural
    config: dict[str, str]


class PartitionClose(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """PARTITION_CLOSE: as of ``version`` these partitions exist no more."""

    topic: Unsigned32
    partitions: list[Unsigned32]
    version: Natural


class ProducersExpired(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """PRODUCERS_EXPIRED: a producer id below ``below`` without state may begin at any sequence from here on.

    Producers below it that stored nothing since log time ``idle_since_ms`` are forgotten.
    """

    below: Natural
    idle_since_ms: Natural = 0


class LogStart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """LOG_START: each (topic, partition) begins at ``offset``; whole batches below it are no longer stored."""

    starts: list[tuple[Unsigned32, Unsigned32, Natural]]


class TopicGuard(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """TOPIC_ABSENT (name alone) and TOPIC_AT."""

    name: str
    topic: Unsigned32 = 0
    version: Natural = 0


class GroupGuard(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """GROUP_AT; ``version`` -1: there is no such group."""

    name: str
    version: Annotated[int, Meta(ge=-1, le=2**63 - 1)]


class CursorGuard(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """CURSOR_AT. ``offset`` and ``ranges`` are where the command moves the checkpoint: if it is there already, under
    the same owner and one version on, the command was done before, and succeeds without being done again."""

    group: str
    topic: Unsigned32
    partition: Unsigned32
    slice: Unsigned32
    owner_epoch: Natural
    member: str
    version: Natural
    offset: Natural
    ranges: tuple[tuple[Natural, Natural], ...] = ()


class Owner(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """OWNER: from here on ``member`` ("": nobody) holds the cursor of a consumer group in this partition."""

    group: Annotated[str, Meta(min_length=1, max_length=249)]
    topic: Unsigned32
    partition: Unsigned32
    slice: Unsigned32
    owner_epoch: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    member: Annotated[str, Meta(max_length=249)]


class RecordGuard(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """RECORD_AT; ``version`` -1: there is no such record."""

    key: bytes
    version: Annotated[int, Meta(ge=-1, le=2**63 - 1)]


class ProducerGuard(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """PRODUCER_AT."""

    producer_id: Natural
    epoch: Natural


_encode = msgspec.msgpack.Encoder().encode
_epoch = msgspec.msgpack.Decoder(Epoch).decode
_open = msgspec.msgpack.Decoder(PartitionOpen).decode
_close = msgspec.msgpack.Decoder(PartitionClose).decode
_expired = msgspec.msgpack.Decoder(ProducersExpired).decode
_log_start = msgspec.msgpack.Decoder(LogStart).decode
_owner = msgspec.msgpack.Decoder(Owner).decode
_group_guard = msgspec.msgpack.Decoder(GroupGuard).decode
_cursor_guard = msgspec.msgpack.Decoder(CursorGuard).decode
_record_guard = msgspec.msgpack.Decoder(RecordGuard).decode
_producer_guard = msgspec.msgpack.Decoder(ProducerGuard).decode
_topic_guard = msgspec.msgpack.Decoder(TopicGuard).decode


def encode_epoch(node: NodeId, ballot: Ballot) -> bytes:
    return _encode(Epoch(node, ballot))


def encode_partition_open(topic: TopicId, partitions: Sequence[int], version: int, config: Mapping[str, str]) -> bytes:
    return _encode(PartitionOpen(topic, list(partitions), version, dict(config)))


def encode_partition_close(topic: TopicId, partitions: Sequence[int], version: int) -> bytes:
    return _encode(PartitionClose(topic, list(partitions), version))


def encode_producers_expired(below: int, idle_since_ms: int) -> bytes:
    return _encode(ProducersExpired(below, idle_since_ms))


def encode_log_start(starts: Sequence[tuple[TopicId, int, Offset]]) -> bytes:
    return _encode(LogStart([(topic, partition, offset) for topic, partition, offset in starts]))


def guard_topic_absent(name: str) -> tuple[int, bytes]:
    """A guard for ``encode_data``; refused as "topic-exists"."""
    return GuardKind.TOPIC_ABSENT, _encode(TopicGuard(name))


def guard_topic_at(name: str, topic: TopicId, version: int) -> tuple[int, bytes]:
    """A guard for ``encode_data``; refused as "unknown-topic", or "unsettled" when the topic has changed."""
    return GuardKind.TOPIC_AT, _encode(TopicGuard(name, topic, version))


def guard_group_at(name: str, version: int) -> tuple[int, bytes]:
    """A guard for ``encode_data``; refused as "unsettled" when the group's record has changed."""
    return GuardKind.GROUP_AT, _encode(GroupGuard(name, version))


def guard_cursor_at(guard: CursorGuard) -> tuple[int, bytes]:
    """A guard for ``encode_data``; refused as "consumer-fenced" or "checkpoint-moved"."""
    return GuardKind.CURSOR_AT, _encode(guard)


def guard_record_at(key: bytes, version: int) -> tuple[int, bytes]:
    """A guard for ``encode_data``; refused as "unsettled" when the record has changed."""
    return GuardKind.RECORD_AT, _encode(RecordGuard(key, version))


def guard_producer_at(producer_id: int, epoch: int) -> tuple[int, bytes]:
    """A guard for ``encode_data``; refused as "transaction-fenced"."""
    return GuardKind.PRODUCER_AT, _encode(ProducerGuard(producer_id, epoch))


def encode_owner(owner: Owner) -> bytes:
    return _encode(owner)


def decode_epoch(body: Buffer) -> Epoch | None:
    """None if malformed; the same for the decoders below."""
    try:
        return _epoch(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_partition_open(body: Buffer) -> PartitionOpen | None:
    try:
        return _open(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_partition_close(body: Buffer) -> PartitionClose | None:
    try:
        return _close(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_producers_expired(body: Buffer) -> ProducersExpired | None:
    try:
        return _expired(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_log_start(body: Buffer) -> LogStart | None:
    try:
        return _log_start(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_topic_guard(body: Buffer) -> TopicGuard | None:
    try:
        return _topic_guard(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_owner(body: Buffer) -> Owner | None:
    try:
        return _owner(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_group_guard(body: Buffer) -> GroupGuard | None:
    try:
        return _group_guard(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_cursor_guard(body: Buffer) -> CursorGuard | None:
    try:
        return _cursor_guard(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_record_guard(body: Buffer) -> RecordGuard | None:
    try:
        return _record_guard(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_producer_guard(body: Buffer) -> ProducerGuard | None:
    try:
        return _producer_guard(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
