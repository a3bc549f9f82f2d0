"""Bytes of the write-ahead log: segment header, sync-batch header and records (docs/adr/0001-formats.md).

Knows layouts and checksums only: what is written when is told in ``log.writer``, what damage means in ``log.recovery``.
All integers are big-endian. Every checksum behind a segment's header is seeded with the segment's number and salt, so
that neither what a recycled file held before nor a payload that imitates the format is ever taken for a batch.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import crc32c

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Position, Slot
from corgi.base.ports import FaultyRecord, LogRecord, RecordKind

SEGMENT_MAGIC = b"CORGIWAL"
SEGMENT_HEADER = struct.Struct(">8sHHI16sQIQQI")
SEGMENT_HEADER_BYTES = SEGMENT_HEADER.size  # 64
DATA_FROM = 4096  # the first batch of a segment; the header is padded up to here
BATCH_MAGIC = b"CWSB"
BATCH_HEADER = struct.Struct(">4sBBHQQQIIII")
BATCH_HEADER_BYTES = BATCH_HEADER.size  # 48
RECORD_HEADER = struct.Struct(">IIBBHIQQQ")
RECORD_HEADER_BYTES = RECORD_HEADER.size  # 40
ALIGNMENT = 8
FORMAT_VERSION = 2  # of segments, batches and records
SECOND_HEADER_AT = 2048  # a segment header lies twice in its first page, in sectors far apart
NO_GROUP = GroupId(0xFFFF)  # of records that belong to the node

FLAG_SEALS = 1  # a batch header's flag: the next batch is in the next segment

_CRC = struct.Struct(">I")
_RECORD_START = struct.Struct(">IIBBH")
_RECORD_REST = struct.Struct(">QQQ")
_SEED = struct.Struct(">QQ")
_PADDING = tuple(bytes(-length % ALIGNMENT) for length in range(ALIGNMENT))

assert SEGMENT_HEADER_BYTES == 64
assert BATCH_HEADER_BYTES == 48
assert RECORD_HEADER_BYTES == 40
assert _RECORD_START.size + _CRC.size + _RECORD_REST.size == RECORD_HEADER_BYTES
assert SEGMENT_HEADER_BYTES <= SECOND_HEADER_AT <= DATA_FROM - SEGMENT_HEADER_BYTES
assert DATA_FROM % ALIGNMENT == BATCH_HEADER_BYTES % ALIGNMENT == RECORD_HEADER_BYTES % ALIGNMENT == 0


class LogIdentity(NamedTuple):
    """Whose log it is: cluster id (16 bytes) and node."""

    cluster: bytes
    node: NodeId


class SegmentHeader(NamedTuple):
    """What a segment tells about itself; ``salt`` is chosen at random when the segment is made."""

    number: int
    segment_bytes: int
    salt: int


class BatchHeader(NamedTuple):
    """``synced`` is the position below which everything was durable when the batch was written."""

    flags: int
    segment: int
    number: int
    synced: Position
    records_bytes: int
    records: int


class Damage(Exception):
    """Bytes are not what the format asks for; the message says what is wrong."""


def encode_segment_header(identity: LogIdentity, number: int, segment_bytes: int, salt: int) -> bytes:
    """The first 4096 bytes of a segment; everything behind them is zero until it is written."""
    version = FORMAT_VERSION
    fields = SEGMENT_HEADER.pack(
        SEGMENT_MAGIC, version, 0, identity.node, identity.cluster, number, segment_bytes, salt, 0, 0
    )[: -_CRC.size]
    header = fields + _CRC.pack(crc32c.crc32c(fields))
    return (header.ljust(SECOND_HEADER_AT, b"\0") + header).ljust(DATA_FROM, b"\0")


def decode_segment_header(buffer: Buffer, identity: LogIdentity) -> SegmentHeader:
    """From the first page of a segment; if the header is damaged its second copy serves.

    Raises Damage if both are, or CorgiError "unsupported-version" or "wrong-cluster".
    """
    try:
        return _decode_segment_header(buffer, 0, identity)
    except Damage as damage:
        try:
            return _decode_segment_header(buffer, SECOND_HEADER_AT, identity)
        except Damage:
            raise damage from None


def _decode_segment_header(buffer: Buffer, at: int, identity: LogIdentity) -> SegmentHeader:
    if len(buffer) < at + SEGMENT_HEADER_BYTES:
        raise Damage("the file ends inside the segment header")
    magic, version, _, node, cluster, number, segment_bytes, salt, _, crc = SEGMENT_HEADER.unpack_from(buffer, at)
    if magic != SEGMENT_MAGIC:
        raise Damage("the segment header has the wrong magic")
    if crc32c.crc32c(buffer[at : at + SEGMENT_HEADER_BYTES - _CRC.size]) != crc:
        raise Damage("the segment header fails its checksum")
    if version != FORMAT_VERSION:
        raise CorgiError("unsupported-version", f"log segment {number} has format {version}, not {FORMAT_VERSION}")
    if cluster != identity.cluster:
        raise CorgiError(
            "wrong-cluster",
            f"log segment {number} belongs to cluster {cluster.hex()}, this node to {identity.cluster.hex()}",
        )
    if node != identity.node:
        raise CorgiError("wrong-cluster", f"log segment {number} belongs to node {node}, this is {identity.node}")
    return SegmentHeader(number, segment_bytes, salt)


def segment_seed(number: int, salt: int) -> int:
    """What every checksum in the segment starts from."""
    return crc32c.crc32c(_SEED.pack(number, salt))


def padded(length: int) -> int:
    """``length`` rounded up to where the next record may begin."""
    return length + (-length % ALIGNMENT)


def padding(length: int) -> bytes:
    """The zero bytes behind a record of ``length`` bytes."""
    return _PADDING[length % ALIGNMENT]


def encode_batch_header(header: BatchHeader, seed: int) -> bytes:
    flags, segment, number, synced, records_bytes, records = header
    fields = BATCH_HEADER.pack(
        BATCH_MAGIC, FORMAT_VERSION, flags, 0, segment, number, synced, records_bytes, records, 0, 0
    )[: -_CRC.size]
    return fields + _CRC.pack(crc32c.crc32c(fields, seed))


def decode_batch_header(buffer: Buffer, at: int, seed: int) -> BatchHeader:
    """The batch header at ``at``; raises Damage."""
    if at + BATCH_HEADER_BYTES > len(buffer):
        raise Damage("the segment ends inside a batch header")
    magic, version, flags, _, segment, number, synced, records_bytes, records, _, crc = BATCH_HEADER.unpack_from(
        buffer, at
    )
    if magic != BATCH_MAGIC:
        raise Damage("no batch header is there")
    if crc32c.crc32c(buffer[at : at + BATCH_HEADER_BYTES - _CRC.size], seed) != crc:
        raise Damage("the batch header fails its checksum")
    if version != FORMAT_VERSION:
        raise CorgiError("unsupported-version", f"a batch in log segment {segment} has format {version}")
    return BatchHeader(flags, segment, number, Position(synced), records_bytes, records)


def encode_record_header(record: LogRecord, seed: int) -> bytes:
    """The 40 bytes in front of the record's payload. They have a checksum of their own, so that a flipped bit in the
    payload leaves group, slot, ballot and length trustworthy."""
    payload = record.payload
    crc = crc32c.crc32c(payload, seed) if payload else seed
    start = _RECORD_START.pack(RECORD_HEADER_BYTES + len(payload), crc, record.kind, FORMAT_VERSION, record.group)
    rest = _RECORD_REST.pack(record.ballot, record.slot, record.commit)
    return start + _CRC.pack(crc32c.crc32c(rest, crc32c.crc32c(start, seed))) + rest


class RecordHeader(NamedTuple):
    """``length`` is the payload's, ``crc`` its checksum, seeded by the segment."""

    length: int
    crc: int
    kind: RecordKind
    group: GroupId
    ballot: Ballot
    slot: Slot
    commit: Slot


def decode_record_header(buffer: Buffer, at: int, end: int, seed: int) -> RecordHeader:
    """The header at ``at`` of a record that ends at ``end`` at the latest; raises Damage, or CorgiError
    "unsupported-version"."""
    if at + RECORD_HEADER_BYTES > end:
        raise Damage("a batch ends inside a record header")
    length, crc, kind, version, group, header_crc, ballot, slot, commit = RECORD_HEADER.unpack_from(buffer, at)
    rest_at = at + _RECORD_START.size + _CRC.size
    start_crc = crc32c.crc32c(buffer[at : at + _RECORD_START.size], seed)
    if crc32c.crc32c(buffer[rest_at : at + RECORD_HEADER_BYTES], start_crc) != header_crc:
        raise Damage("a record header fails its checksum")
    if version != FORMAT_VERSION:
        raise CorgiError("unsupported-version", f"a log record of kind {kind} has format {version}")
    try:
        known = RecordKind(kind)
    except ValueError:
        raise CorgiError("unsupported-version", f"log records of kind {kind} are not known to this release") from None
    if length < RECORD_HEADER_BYTES or at + padded(length) > end:
        raise Damage(f"a record tells {length} bytes, {end - at} are left in its batch")
    header = (length - RECORD_HEADER_BYTES, crc, known, GroupId(group), Ballot(ballot), Slot(slot), Slot(commit))
    return RecordHeader(*header)


def payload_is_sound(payload: Buffer, header: RecordHeader, seed: int) -> bool:
    """Whether ``payload`` is what was written behind ``header``."""
    return len(payload) == header.length and (crc32c.crc32c(payload, seed) if payload else seed) == header.crc


def check_in_place(page: Buffer, found: Buffer, payload: Buffer, identity: LogIdentity, number: int) -> None:
    """Whether ``payload`` may be written back where it lay: raises Damage if not, or CorgiError as the decoders do.

    ``page`` is the first page of segment ``number``, ``found`` the record's header as it lies in front of the place.
    """
    seed = segment_seed(number, decode_segment_header(page, identity).salt)
    if len(found) < RECORD_HEADER_BYTES:
        raise Damage("the file was cut short")
    header = decode_record_header(found, 0, RECORD_HEADER_BYTES + padded(len(payload)), seed)
    if not payload_is_sound(payload, header, seed):
        raise Damage("it held something else")


def decode_record(buffer: Buffer, at: int, end: int, seed: int, base: int) -> tuple[LogRecord, int]:
    """The record at ``at`` in a batch that ends at ``end``, and where the next one begins.

    The payload is copied out of ``buffer``; if it is damaged the record is a FaultyRecord. ``base`` is the position of
    the buffer's first byte. Raises Damage if the header is damaged.
    """
    header = decode_record_header(buffer, at, end, seed)
    length, _, kind, group, ballot, slot, commit = header
    payload_at = at + RECORD_HEADER_BYTES
    payload = bytes(buffer[payload_at : payload_at + length])
    if payload_is_sound(payload, header, seed):
        record = LogRecord(kind, group, ballot, slot, commit, payload)
    else:
        record = FaultyRecord(kind, group, ballot, slot, commit, length)
    record.position = Position(base + payload_at)
    return record, at + padded(RECORD_HEADER_BYTES + length)
