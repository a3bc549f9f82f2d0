"""The bytes of the log are those of docs/adr/0001-formats.md, and every one of them is checked."""

import struct

import crc32c
import pytest
from log_world import IDENTITY, accept, fields

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId, Position
from corgi.base.ports import FaultyRecord, RecordKind
from corgi.log.record import (
    DATA_FROM,
    BatchHeader,
    Damage,
    LogIdentity,
    decode_batch_header,
    decode_record,
    decode_segment_header,
    encode_batch_header,
    encode_record_header,
    encode_segment_header,
    padded,
    padding,
    segment_seed,
)

SEED = segment_seed(5, 99)


def test_a_segment_header_is_as_the_format_says() -> None:
    header = encode_segment_header(IDENTITY, 5, 1 << 20, 99)
    assert len(header) == DATA_FROM
    told = struct.unpack(">8sHHI16sQIQ8xI", header[:64])
    assert told == (b"CORGIWAL", 2, 0, 3, b"c" * 16, 5, 1 << 20, 99, crc32c.crc32c(header[:60]))
    assert header[2048:2112] == header[:64]
    assert not any(header[64:2048] + header[2112:])
    assert decode_segment_header(header, IDENTITY) == (5, 1 << 20, 99)


def test_a_batch_header_is_as_the_format_says() -> None:
    header = BatchHeader(1, 5, 12, Position(70_000), 480, 3)
    encoded = encode_batch_header(header, SEED)
    told = struct.unpack(">4sBBHQQQIIII", encoded)
    assert told == (b"CWSB", 2, 1, 0, 5, 12, 70_000, 480, 3, 0, crc32c.crc32c(encoded[:44], SEED))
    assert decode_batch_header(encoded, 0, SEED) == header


def test_a_record_header_is_as_the_format_says() -> None:
    record = accept(8, b"abc", group=6)
    header = encode_record_header(record, SEED)
    told = struct.unpack(">IIBBHIQQQ", header)
    crc = crc32c.crc32c(b"abc", SEED)
    header_crc = crc32c.crc32c(header[:12] + header[16:], SEED)
    assert told == (43, crc, RecordKind.ACCEPT, 2, 6, header_crc, 7 << 16 | 3, 8, 7)


@pytest.mark.parametrize("payload", [b"", b"x", b"1234567", b"12345678", b"y" * 10_000])
def test_a_record_survives_the_round_trip(payload: bytes) -> None:
    record = accept(1, payload)
    data = encode_record_header(record, SEED) + payload + padding(len(payload))
    assert len(data) == 40 + padded(len(payload))
    decoded, after = decode_record(b"." * 16 + data, 16, 16 + len(data), SEED, 1000)
    assert fields(decoded) == fields(record)
    assert (decoded.position, after) == (1000 + 16 + 40, 16 + len(data))


def test_every_bit_of_a_segment_header_is_checked_and_its_copy_serves() -> None:
    header = encode_segment_header(IDENTITY, 5, 1 << 20, 99)
    for bit in range(64 * 8):
        flipped = bytearray(header)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode_segment_header(flipped, IDENTITY) == (5, 1 << 20, 99)
        flipped[2048 + 20] ^= 1
        with pytest.raises(Damage):
            decode_segment_header(flipped, IDENTITY)


def test_every_bit_of_a_batch_header_is_checked() -> None:
    header = encode_batch_header(BatchHeader(0, 5, 12, Position(70_000), 480, 3), SEED)
    for bit in range(len(header) * 8):
        flipped = bytearray(header)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damage):
            decode_batch_header(flipped, 0, SEED)


def test_every_bit_of_a_record_is_checked() -> None:
    record = accept(8, b"some payload")
    data = encode_record_header(record, SEED) + record.payload + padding(len(record.payload))
    for bit in range(40 * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damage):
            decode_record(flipped, 0, len(data), SEED, 0)
    for bit in range(40 * 8, (40 + len(record.payload)) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        faulty, after = decode_record(flipped, 0, len(data), SEED, 0)
        assert isinstance(faulty, FaultyRecord)
        assert fields(faulty) == (*fields(record)[:5], b"")
        assert (faulty.length, faulty.position, after) == (12, 40, len(data))


@pytest.mark.parametrize("other", [segment_seed(6, 99), segment_seed(5, 98)])
def test_bytes_of_another_segment_are_never_taken_for_ours(other: int) -> None:
    with pytest.raises(Damage):
        decode_batch_header(encode_batch_header(BatchHeader(0, 5, 12, Position(0), 0, 0), other), 0, SEED)
    with pytest.raises(Damage):
        decode_record(encode_record_header(accept(1, b""), other), 0, 40, SEED, 0)


@pytest.mark.parametrize(
    ("identity", "told"),
    [
        (LogIdentity(b"d" * 16, NodeId(3)), "belongs to cluster " + b"c".hex()),
        (LogIdentity(b"c" * 16, NodeId(4)), "belongs to node 3, this is 4"),
    ],
)
def test_a_segment_of_another_log_is_told(identity: LogIdentity, told: str) -> None:
    with pytest.raises(CorgiError, match=told) as caught:
        decode_segment_header(encode_segment_header(IDENTITY, 5, 1 << 20, 99), identity)
    assert caught.value.code == "wrong-cluster"


def with_version(encoded: bytes, at: int, size: int, crc_at: int, seed: int) -> bytes:
    """The same header in format 9, with a good checksum."""
    changed = bytearray(encoded)
    changed[at : at + size] = (9).to_bytes(size, "big")
    changed[crc_at : crc_at + 4] = crc32c.crc32c(bytes(changed[:crc_at]), seed).to_bytes(4, "big")
    return bytes(changed)


def test_a_newer_format_is_told_as_such() -> None:
    segment = with_version(encode_segment_header(IDENTITY, 5, 1 << 20, 99), 8, 2, 60, 0)
    batch = with_version(encode_batch_header(BatchHeader(0, 5, 1, Position(0), 0, 0), SEED), 4, 1, 44, SEED)
    for read in (lambda: decode_segment_header(segment, IDENTITY), lambda: decode_batch_header(batch, 0, SEED)):
        with pytest.raises(CorgiError) as caught:
            read()
        assert caught.value.code == "unsupported-version"


@pytest.mark.parametrize("at", [8, 9])  # the kind, the version
def test_a_record_of_a_newer_release_is_told_as_such(at: int) -> None:
    record = bytearray(encode_record_header(accept(1, b""), SEED))
    record[at] = 99
    record[12:16] = crc32c.crc32c(bytes(record[:12] + record[16:]), SEED).to_bytes(4, "big")
    with pytest.raises(CorgiError) as caught:
        decode_record(record, 0, 40, SEED, 0)
    assert caught.value.code == "unsupported-version"


@pytest.mark.parametrize("length", [0, 39, 49, 2**31, 2**32 - 1])
def test_a_record_longer_than_its_batch_is_damage(length: int) -> None:
    record = bytearray(struct.pack(">I", length) + encode_record_header(accept(1, b""), SEED)[4:])
    record[12:16] = crc32c.crc32c(bytes(record[:12] + record[16:]), SEED).to_bytes(4, "big")
    with pytest.raises(Damage, match=f"tells {length} bytes"):
        decode_record(record + bytes(8), 0, 48, SEED, 0)


def test_headers_cut_short_are_damage() -> None:
    with pytest.raises(Damage):
        decode_segment_header(encode_segment_header(IDENTITY, 5, 1 << 20, 99)[:63], IDENTITY)
    with pytest.raises(Damage):
        decode_batch_header(b"CWSB" * 11, 0, SEED)
    with pytest.raises(Damage):
        decode_record(bytes(39), 0, 39, SEED, 0)
