"""The 61-byte header of a Kafka RecordBatch v2 (KIP-98), read and patched without touching the records.

Base offset and leader epoch lie outside the batch's CRC, so a reader patches the first 16 bytes and sends the rest as
it is stored. Everything is big-endian.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import crc32c

from corgi.base.errors import CorgiError

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES = HEADER.size
PREFIX = struct.Struct(">qii")  # base offset, batch length, leader epoch: what serving rewrites
PREFIX_BYTES = PREFIX.size
LENGTH_OVERHEAD = 12  # bytes before and including the length field
MAGIC = 2
CRC_FROM = 21  # the CRC covers everything from the attributes on
ATTRIBUTES_AT = CRC_FROM + 1  # the low byte, in which all attributes lie

ATTRIBUTE_CODEC = 0x07
ATTRIBUTE_LOG_APPEND_TIME = 0x08
ATTRIBUTE_TRANSACTIONAL = 0x10
ATTRIBUTE_CONTROL = 0x20

assert HEADER_BYTES == 61


class BatchHeader(NamedTuple):
    """The header's fields in wire order. Times in ms; ``length`` counts the bytes after itself."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int


def parse_header(buffer: bytes | bytearray | memoryview, at: int = 0) -> BatchHeader:
    """Read the header at ``at``; the caller knows that 61 bytes are there."""
    return BatchHeader._make(HEADER.unpack_from(buffer, at))


def check_batch(buffer: bytes | memoryview) -> BatchHeader:
    """Validate one whole batch as a client sent it: structure, counts, CRC.

    Raises CorgiError "corrupt-batch" that tells what is wrong. Control batches are not accepted from clients.
    """
    size = len(buffer)
    if size < HEADER_BYTES:
        raise CorgiError("corrupt-batch", f"a batch has at least {HEADER_BYTES} bytes, this one {size}")
    header = parse_header(buffer)
    if header.magic != MAGIC:
        raise CorgiError("corrupt-batch", f"magic is {header.magic}, not {MAGIC}")
    if header.length + LENGTH_OVERHEAD != size:
        raise CorgiError("corrupt-batch", f"the header tells {header.length + LENGTH_OVERHEAD} bytes, {size} are there")
    if header.record_count <= 0 or header.last_offset_delta != header.record_count - 1:
        raise CorgiError(
            "corrupt-batch",
            f"{header.record_count} records and last offset delta {header.last_offset_delta} contradict each other",
        )
    if header.attributes & ATTRIBUTE_CONTROL:
        raise CorgiError("corrupt-batch", "a client may not send control batches")
    if header.attributes & ~(ATTRIBUTE_CODEC | ATTRIBUTE_TRANSACTIONAL):
        raise CorgiError("corrupt-batch", f"attribute bits {header.attributes:#x} are not known here")
    if header.attributes & ATTRIBUTE_CODEC > 4:
        raise CorgiError("corrupt-batch", f"compression codec {header.attributes & ATTRIBUTE_CODEC} is not known")
    if header.producer_id >= 0 and (header.base_sequence < 0 or header.producer_epoch < 0):
        raise CorgiError("corrupt-batch", "an idempotent batch needs a producer epoch and a sequence number")
    if crc32c.crc32c(memoryview(buffer)[CRC_FROM:]) != header.crc:
        raise CorgiError("corrupt-batch", "the checksum does not match")
    return header


def patched_prefix(base_offset: int, batch_bytes: int, leader_epoch: int) -> bytes:
    """The first 16 bytes of a stored batch as a reader must see them; the bytes from 16 on are served unchanged."""
    return PREFIX.pack(base_offset, batch_bytes - LENGTH_OVERHEAD, leader_epoch)
