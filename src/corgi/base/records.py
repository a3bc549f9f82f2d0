"""Records inside a Kafka RecordBatch v2: encoding for producers, decoding for consumers.

The loops over bytes are aiokafka's compiled codec; compression, checksum and caps are ours. A batch is
decoded only after its checksum, its counts and its decompressed size have been checked, so that hostile
bytes cost no more than the caller allows. Offsets in an encoded batch count from 0; readers get them
patched (``base/batch.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import crc32c

from corgi.base.batch import (
    ATTRIBUTE_CODEC,
    ATTRIBUTE_TRANSACTIONAL,
    ATTRIBUTES_AT,
    CRC_FROM,
    HEADER,
    HEADER_BYTES,
    LENGTH_OVERHEAD,
    MAGIC,
    parse_header,
)
from corgi.base.command import Buffer
from corgi.base.compiled_codec import CorruptRecordError, DecodedRecord, decoder, encoder
from corgi.base.compression import codec_number, compress, decompress
from corgi.base.errors import CorgiError
from corgi.base.limits import BATCH_BYTES_MAX

Header = tuple[str, bytes | None]
RecordFields = tuple[bytes | None, bytes | None, Sequence[Header], int]  # key, value, headers, timestamp ms

DECODED_BYTES_MAX = 8 * BATCH_BYTES_MAX  # what one batch may decompress to
RECORD_BYTES_MIN = 7  # the seven one-byte fields of an empty record
RECORD_OVERHEAD_MAX = 31  # bytes around key and value without headers: varints for length, time, offset, two lengths
TIMESTAMP_MAX = 2**62  # differences between two of them stay inside the format's 64 bits

_NO_HEADERS: list[Header] = []
_UNBOUNDED = 2**31 - 1
_CRC_AT = CRC_FROM - 4
PRODUCER = struct.Struct(">qhi")  # producer id, epoch, base sequence
PRODUCER_AT = 43  # where they lie in the header


class Record(NamedTuple):
    """One decoded record. ``timestamp`` in ms since 1970; key and value None as they were sent."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


class BatchBuilder:
    """Records of one partition gathering into one batch of at most ``bytes_max`` bytes before compression.

    The first record is always accepted, whatever its size: the caller refuses what no batch may hold. Keys
    and values are bytes-like or None, timestamps ms since 1970.
    """

    __slots__ = ("_append", "_builder", "_codec", "count")

    def __init__(self, bytes_max: int, codec: str = "none") -> None:
        self._codec = codec_number(codec)
        self._builder = encoder(MAGIC, 0, 0, -1, -1, -1, bytes_max)
        self._append = self._builder.append
        self.count = 0

    @property
    def size(self) -> int:
        """Bytes of the batch as it stands, before compression."""
        return self._builder.size()

    def append(self, key: bytes | None, value: bytes | None, headers: Sequence[Header], timestamp: int) -> bool:
        """Add a record; False when the batch has no room for it. Raises "invalid-argument"."""
        try:
            fields = headers if type(headers) is list else list(headers)
            if self._append(self.count, timestamp, key, value, fields) is None:
                return False
        except (TypeError, ValueError, OverflowError) as error:
            raise _refusal(key, value, headers, timestamp) from error
        self.count += 1
        return True

    def extend(self, records: Iterable[RecordFields]) -> int:
        """Add records until one does not fit; returns how many were added. Raises as ``append``."""
        append = self._append
        first = count = self.count
        for key, value, headers, timestamp in records:
            try:
                fields = headers if type(headers) is list else list(headers)
                if append(count, timestamp, key, value, fields) is None:
                    break
            except (TypeError, ValueError, OverflowError) as error:
                self.count = count
                raise _refusal(key, value, headers, timestamp) from error
            count += 1
        self.count = count
        return count - first

    def extend_values(self, values: Sequence[bytes | None], start: int, timestamp: int) -> int:
        """Add ``values[start:]`` without keys and headers until one does not fit; returns how many were."""
        append = self._append
        first = count = self.count
        headers = _NO_HEADERS
        for at in range(start, len(values)):
            try:
                if append(count, timestamp, None, values[at], headers) is None:
                    break
            except (TypeError, ValueError, OverflowError) as error:
                self.count = count
                raise _refusal(None, values[at], headers, timestamp) from error
            count += 1
        self.count = count
        return count - first

    def build(self, producer_id: int = -1, producer_epoch: int = -1, base_sequence: int = -1) -> Buffer:
        """The batch as bytes, compressed if that makes it smaller. The builder takes no records afterwards.

        May be called again with another producer identity.
        """
        self._builder.set_producer_state(producer_id, producer_epoch, base_sequence)
        batch = self._builder.build()
        if self._codec:
            return _compressed(batch, self._codec)
        return batch


def encode_batch(
    records: Sequence[RecordFields],
    *,
    codec: str = "none",
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> bytes:
    """One batch of all ``records``, each (key, value, headers, timestamp ms). Raises "invalid-argument"."""
    if not records:
        raise CorgiError("invalid-argument", "a batch holds at least one record")
    builder = BatchBuilder(_UNBOUNDED, codec)
    builder.extend(records)
    return bytes(builder.build(producer_id, producer_epoch, base_sequence))


def restamped(
    batch: Buffer, producer_id: int, producer_epoch: int, base_sequence: int, *, transactional: bool = False
) -> bytearray:
    """A copy of an encoded batch that names another producer identity, and perhaps belongs to a transaction of it; its
    records are untouched."""
    out = bytearray(batch)
    if transactional:
        out[ATTRIBUTES_AT] |= ATTRIBUTE_TRANSACTIONAL
    PRODUCER.pack_into(out, PRODUCER_AT, producer_id, producer_epoch, base_sequence)
    sign(out)
    return out


def decode_batch(batch: Buffer, *, bytes_max: int = DECODED_BYTES_MAX) -> list[Record]:
    """The records of one whole batch, with the offsets its header gives them.

    Raises CorgiError "corrupt-batch" for a failed checksum, contradicting counts, damaged records, or more
    than ``bytes_max`` bytes after decompression.
    """
    return [
        Record(record.offset, record.timestamp, record.key, record.value, tuple(record.headers))
        for record in read_batch(batch, bytes_max=bytes_max)
    ]


def read_batch(batch: Buffer, *, bytes_max: int = DECODED_BYTES_MAX) -> list[DecodedRecord]:
    """As ``decode_batch``, but the codec's own record objects."""
    plain = _uncompressed(batch, bytes_max, checked=False)
    try:
        return list(decoder(plain))
    except (CorruptRecordError, UnicodeDecodeError, ValueError) as error:
        raise _damaged(error) from None


def iter_batch(batch: Buffer, *, bytes_max: int = DECODED_BYTES_MAX, checked: bool = False) -> Iterator[DecodedRecord]:
    """As ``read_batch``, one by one; errors come while iterating.

    ``checked``: the caller has verified the checksum.
    """
    yield from _decoded(_uncompressed(batch, bytes_max, checked))


def _decoded(plain: Buffer) -> Iterator[DecodedRecord]:
    try:
        yield from decoder(plain)
    except (CorruptRecordError, UnicodeDecodeError, ValueError) as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> CorgiError:
    return CorgiError("corrupt-batch", f"the records of a batch are damaged: {error}")


class OpenBatch:
    """A stored batch, checked and decompressed once, to look at its records and then to keep only some of them."""

    __slots__ = ("_codec", "_plain", "header")

    def __init__(self, batch: Buffer, *, bytes_max: int = DECODED_BYTES_MAX) -> None:
        """Raises CorgiError "corrupt-batch" as ``decode_batch`` does."""
        self._plain = _uncompressed(batch, bytes_max, checked=False)
        self.header = parse_header(self._plain)
        self._codec = parse_header(batch).attributes & ATTRIBUTE_CODEC

    def __iter__(self) -> Iterator[DecodedRecord]:
        """The codec's own records, with the offsets that the header gives them. Raises "corrupt-batch"."""
        return _decoded(self._plain)

    def only(self, kept: Sequence[bool]) -> bytes:
        """The batch with those of its records, as many as ``kept`` is long, that are to be kept.

        Their bytes are copied as they are; base offset, last offset delta, times and producer stay, so the batch covers
        the same offsets as before (KIP-98: what a log cleaner leaves).
        """
        plain = bytes(self._plain)
        parts: list[bytes] = []
        at = HEADER_BYTES
        for keep in kept:
            start = at
            length = shift = 0
            while True:
                byte = plain[at]
                at += 1
                length |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
            at += length >> 1  # a varint in zigzag, never negative
            if keep:
                parts.append(plain[start:at])
        size = HEADER_BYTES + sum(map(len, parts))
        header = self.header._replace(length=size - LENGTH_OVERHEAD, record_count=len(parts))
        out = bytearray(b"".join((HEADER.pack(*header), *parts)))
        sign(out)
        return bytes(_compressed(out, self._codec) if self._codec else out)


def _compressed(batch: bytearray, codec: int) -> Buffer:
    view = memoryview(batch)
    data = compress(codec, view[HEADER_BYTES:])
    if len(data) >= len(batch) - HEADER_BYTES:
        return batch
    fields = list(parse_header(batch))
    fields[1] = HEADER_BYTES - LENGTH_OVERHEAD + len(data)
    fields[5] |= codec
    out = bytearray(HEADER.pack(*fields))
    out += data
    sign(out)
    return out


def sign(batch: bytearray) -> None:
    """Write the checksum of a whole batch into its header."""
    crc = crc32c.crc32c(memoryview(batch)[CRC_FROM:])
    batch[_CRC_AT:CRC_FROM] = crc.to_bytes(4, "big")


def _uncompressed(batch: Buffer, bytes_max: int, checked: bool) -> Buffer:
    """The checked batch with its records in plain."""
    size = len(batch)
    if size < HEADER_BYTES:
        raise CorgiError("corrupt-batch", f"a batch has at least {HEADER_BYTES} bytes, this one {size}")
    header = parse_header(batch)
    if header.magic != MAGIC or header.length + LENGTH_OVERHEAD != size:
        raise CorgiError("corrupt-batch", f"{size} bytes do not hold exactly one batch of format {MAGIC}")
    view = memoryview(batch)
    if not checked and crc32c.crc32c(view[CRC_FROM:]) != header.crc:
        raise CorgiError("corrupt-batch", "the checksum does not match")
    codec = header.attributes & ATTRIBUTE_CODEC
    records: Buffer = view[HEADER_BYTES:]
    if codec:
        records = decompress(codec, records, bytes_max)
    elif len(records) > bytes_max:
        raise CorgiError("corrupt-batch", f"a batch holds more than {bytes_max} bytes")
    if not 0 <= header.record_count * RECORD_BYTES_MIN <= len(records):
        raise CorgiError("corrupt-batch", f"{header.record_count} records cannot be in {len(records)} bytes")
    if not codec:
        return batch
    plain = header._replace(attributes=header.attributes & ~ATTRIBUTE_CODEC)
    return b"".join((HEADER.pack(*plain), records))


def _refusal(key: object, value: object, headers: object, timestamp: object) -> CorgiError:
    """What is wrong with a record that the codec did not take."""
    for name, field in (("key", key), ("value", value)):
        if field is not None and not isinstance(field, (bytes, bytearray, memoryview)):
            return CorgiError("invalid-argument", f"a {name} is bytes, not {type(field).__name__}")
    if not isinstance(timestamp, int) or not 0 <= timestamp < TIMESTAMP_MAX:
        return CorgiError("invalid-argument", f"a timestamp is milliseconds since 1970, not {timestamp!r}")
    return CorgiError("invalid-argument", f"headers are pairs of str and bytes or None, not {headers!r}")


__all__ = [
    "DECODED_BYTES_MAX",
    "BatchBuilder",
    "Header",
    "OpenBatch",
    "Record",
    "RecordFields",
    "decode_batch",
    "encode_batch",
    "iter_batch",
    "read_batch",
    "restamped",
    "sign",
]
