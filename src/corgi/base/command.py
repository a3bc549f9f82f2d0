"""Values and commands: what one slot decides and what one client request becomes.

A value is a list of commands; a command is the unit of atomicity, refusal and duplicate detection. Format version 1,
all integers big-endian (docs/adr/0001-formats.md):

    value    version u8 | flags u8 | reserved u16 | commands u32 | timestamp_ms i64 | crc32c u32 | reserved u32 |
    commands…
    command  version u8 | kind u8 | flags u16 | length u32 | origin u64 | counter u64 | settled u64 | body
    DATA     guards u16 | records u16 | appends u32 | guards… | records… | (topic u32, partition u32, length u32)… |
    batches…
    guard, record   kind u8 | version u8 | reserved u16 | length u32 | msgpack

The value's CRC covers the bytes behind the value header, so a value is checked end to end, from the node that made it
to every disk and back. A value without commands is a no-op.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

import crc32c

from corgi.base.errors import CorgiError
from corgi.base.ids import Origin, TopicId
from corgi.base.tuples import new

Buffer = bytes | bytearray | memoryview

VALUE_HEADER = struct.Struct(">BBHIqII")
VALUE_HEADER_BYTES = VALUE_HEADER.size  # 24
_VALUE_START = struct.Struct(">BBHIq")  # the CRC behind it covers it and all that follows
_VALUE_CRC = struct.Struct(">I")
_VALUE_RESERVED = bytes(4)
COMMAND_HEADER = struct.Struct(">BBHIQQQ")
COMMAND_HEADER_BYTES = COMMAND_HEADER.size  # 32
DATA_HEADER = struct.Struct(">HHI")
APPEND_ENTRY = struct.Struct(">III")
ITEM_HEADER = struct.Struct(">BBHI")
ITEM_HEADER_BYTES = ITEM_HEADER.size
_ONE_APPEND = struct.Struct(">HHIIII")  # DATA header and a table of one entry
FORMAT_VERSION = 1


class CommandKind(IntEnum):
    """Numbers are for ever; those without an apply rule yet are refused at apply."""

    DATA = 1  # guards, records, appends
    EPOCH = 2  # a new leader's first own command: the group's leader epoch increments
    TICK = 3  # moves log time
    PARTITION_OPEN = 4
    PARTITION_CLOSE = 5
    OWNER = 6  # who consumes a partition for a consumer group
    TRANSACTION_OPEN = 7  # a producer may append to these partitions in its transaction
    MARKER = 8  # a transaction's outcome
    RECONFIGURE = 9  # reserved: the replica set from here on
    FEATURE_LEVEL = 10  # reserved: switches on new apply behaviour
    LOG_START = 11  # retention
    PRODUCERS_EXPIRED = 12  # producer ids below this one without state have expired
    BARRIER = 13  # changes nothing: a read that went through the log
    COMPACTED = 14  # what compaction by key leaves of some batches


class Command(NamedTuple):
    """One decoded command; ``body`` is a slice of the value it came in."""

    kind: int
    origin: Origin
    counter: int
    settled: int  # every command of this origin below this counter has its outcome: forget theirs
    body: memoryview
    body_at: int  # where the body begins in the value


class Item(NamedTuple):
    """A guard or a record inside a DATA command."""

    kind: int
    version: int
    body: memoryview


class Append(NamedTuple):
    """One record batch for one partition, as an offset into the value, so that nothing is copied."""

    topic: TopicId
    partition: int
    at: int
    length: int


class Data(NamedTuple):
    guards: Sequence[Item]
    records: Sequence[Item]
    appends: Sequence[Append]


def encode_command(kind: int, origin: Origin, counter: int, settled: int, body: Buffer) -> bytes:
    header = COMMAND_HEADER.pack(FORMAT_VERSION, kind, 0, COMMAND_HEADER_BYTES + len(body), origin, counter, settled)
    return b"".join((header, body))


def encode_data(
    appends: Sequence[tuple[TopicId, int, Buffer]],
    guards: Sequence[tuple[int, bytes]] = (),
    records: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """The body of a DATA command; guards and records are (kind, msgpack bytes), appends (topic, partition, batch)."""
    parts: list[Buffer] = [DATA_HEADER.pack(len(guards), len(records), len(appends))]
    for kind, body in (*guards, *records):
        parts.append(ITEM_HEADER.pack(kind, FORMAT_VERSION, 0, len(body)))
        parts.append(body)
    pack = APPEND_ENTRY.pack
    parts.extend([pack(topic, partition, len(batch)) for topic, partition, batch in appends])
    parts.extend([batch for _, _, batch in appends])
    return b"".join(parts)


def encode_append(topic: TopicId, partition: int, batch: Buffer) -> bytes:
    """The body of a DATA command with one batch and nothing else: what most requests become."""
    return b"".join((_ONE_APPEND.pack(0, 0, 1, topic, partition, len(batch)), batch))


def encode_value(timestamp_ms: int, commands: Sequence[Buffer]) -> bytes:
    """Join encoded commands into the value of one slot: the only copy that the write path makes."""
    start = _VALUE_START.pack(FORMAT_VERSION, 0, 0, len(commands), timestamp_ms)
    crc = crc32c.crc32c(_VALUE_RESERVED, crc32c.crc32c(start))
    for command in commands:
        crc = crc32c.crc32c(command, crc)
    return b"".join((start, _VALUE_CRC.pack(crc), _VALUE_RESERVED, *commands))


def check_value(value: Buffer) -> None:
    """Raises CorgiError "record-damaged" unless the value's header and CRC hold."""
    if len(value) < VALUE_HEADER_BYTES:
        raise CorgiError("record-damaged", f"a value of {len(value)} bytes is too short")
    version, _, _, _, _, crc, _ = VALUE_HEADER.unpack_from(value)
    view = memoryview(value)
    start_crc = crc32c.crc32c(view[: _VALUE_START.size])
    if crc32c.crc32c(view[_VALUE_START.size + _VALUE_CRC.size :], start_crc) != crc:
        raise CorgiError("record-damaged", "a value fails its checksum")
    if version != FORMAT_VERSION:
        raise CorgiError("unsupported-version", f"value format {version} is not known to this release")


def value_crc(value: Buffer) -> int:
    """The CRC stored in the value's header; two values of one slot are the same iff the whole bytes are, this is a
    hint."""
    return int(VALUE_HEADER.unpack_from(value)[5])


def value_timestamp_ms(value: Buffer) -> int:
    return int(VALUE_HEADER.unpack_from(value)[4])


def iter_commands(value: Buffer) -> Iterator[Command]:
    """The commands of a checked value, in order.

    Raises CorgiError "record-damaged" when lengths contradict each other (a fault of the proposer, not of a disk).
    """
    view = memoryview(value)
    _, _, _, count, _, _, _ = VALUE_HEADER.unpack_from(view)
    at = VALUE_HEADER_BYTES
    end = len(view)
    for _ in range(count):
        if at + COMMAND_HEADER_BYTES > end:
            raise CorgiError("record-damaged", "a value ends inside a command header")
        version, kind, _, length, origin, counter, settled = COMMAND_HEADER.unpack_from(view, at)
        if version != FORMAT_VERSION:
            raise CorgiError("unsupported-version", f"command format {version} is not known to this release")
        if length < COMMAND_HEADER_BYTES or at + length > end:
            raise CorgiError("record-damaged", "a value ends inside a command")
        body_at = at + COMMAND_HEADER_BYTES
        yield Command(kind, Origin(origin), counter, settled, view[body_at : at + length], body_at)
        at += length
    if at != end:
        raise CorgiError("record-damaged", "bytes are left behind a value's last command")


def decode_data(body: memoryview, body_at: int) -> Data:
    """The parts of a DATA command, whose body begins at ``body_at`` in the value: offsets of batches count from the
    value's start. Raises CorgiError "record-damaged"."""
    end = len(body)
    if end < DATA_HEADER.size:
        raise CorgiError("record-damaged", "a data command is too short")
    guard_count, record_count, append_count = DATA_HEADER.unpack_from(body)
    at = DATA_HEADER.size
    items: list[Item] = []
    for _ in range(guard_count + record_count):
        start = at + ITEM_HEADER_BYTES
        if start > end:
            raise CorgiError("record-damaged", "a data command ends inside an item")
        kind, version, _, length = ITEM_HEADER.unpack_from(body, at)
        at = start + length
        if at > end:
            raise CorgiError("record-damaged", "a data command ends inside an item")
        items.append(new(Item, (kind, version, body[start:at])))
    table_end = at + append_count * APPEND_ENTRY.size
    if table_end > end:
        raise CorgiError("record-damaged", "a data command ends inside its table")
    appends: list[Append] = []
    batch_at = body_at + table_end
    for topic, partition, length in APPEND_ENTRY.iter_unpack(body[at:table_end]):
        appends.append(new(Append, (topic, partition, batch_at, length)))
        batch_at += length
    if batch_at != body_at + end:
        raise CorgiError("record-damaged", "the batches of a data command do not fill it")
    return Data(items[:guard_count], items[guard_count:], appends)


def peek_command(encoded: Buffer) -> tuple[int, Origin, int]:
    """(kind, origin, counter) of an encoded command."""
    _, kind, _, _, origin, counter, _ = COMMAND_HEADER.unpack_from(encoded)
    return kind, Origin(origin), counter


def split_commands(payload: Buffer) -> list[memoryview]:
    """Cut concatenated commands (the payload of a Forward) into one slice each; raises "malformed-frame"."""
    view = memoryview(payload)
    out: list[memoryview] = []
    at, end = 0, len(view)
    while at < end:
        if at + COMMAND_HEADER_BYTES > end:
            raise CorgiError("malformed-frame", "a forward ends inside a command")
        length = COMMAND_HEADER.unpack_from(view, at)[3]
        if length < COMMAND_HEADER_BYTES or at + length > end:
            raise CorgiError("malformed-frame", "a forward ends inside a command")
        out.append(view[at : at + length])
        at += length
    return out


def is_atomic(encoded: Buffer) -> bool:
    """Whether an encoded DATA command is all or nothing: it has guards, records or a flag."""
    guards, records, _ = DATA_HEADER.unpack_from(encoded, COMMAND_HEADER_BYTES)
    return bool(guards or records or COMMAND_HEADER.unpack_from(encoded)[2])


def iter_data(encoded: Buffer) -> Iterator[tuple[TopicId, int, memoryview]]:
    """(topic, partition, batch) of each append of one encoded DATA command."""
    view = memoryview(encoded)
    for topic, partition, at, length in decode_data(view[COMMAND_HEADER_BYTES:], COMMAND_HEADER_BYTES).appends:
        yield topic, partition, view[at : at + length]
