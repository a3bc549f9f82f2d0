"""Records into batches and back: Kafka's format, every codec, every quirk of the compiled one, every kind of damage."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from typing import Any

import cramjam
import crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.base.batch import CRC_FROM, HEADER_BYTES, check_batch, parse_header, patched_prefix
from corgi.base.compression import CODECS, codec_number, compress, decompress
from corgi.base.errors import CorgiError
from corgi.base.records import (
    RECORD_OVERHEAD_MAX,
    BatchBuilder,
    decode_batch,
    encode_batch,
    iter_batch,
    restamped,
)

TIME = 1_700_000_000_000

records = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=40),
        st.none() | st.binary(max_size=300),
        st.lists(st.tuples(st.text(max_size=10), st.none() | st.binary(max_size=10)), max_size=3),
        st.integers(0, 2**62 - 1),
    ),
    min_size=1,
    max_size=30,
)


def signed(batch: bytes) -> bytes:
    """The batch with a checksum that fits, whatever is in it."""
    crc = crc32c.crc32c(batch[CRC_FROM:])
    return batch[: CRC_FROM - 4] + crc.to_bytes(4, "big") + batch[CRC_FROM:]


def error_of(batch: bytes) -> str:
    """The code with which decoding fails; anything but a CorgiError goes through."""
    try:
        decode_batch(batch, bytes_max=10_000)
    except CorgiError as error:
        return error.code
    return ""


@given(records, st.sampled_from(list(CODECS)))
def test_what_is_encoded_is_decoded(fields: list[Any], codec: str) -> None:
    batch = encode_batch(fields, codec=codec, producer_id=7, producer_epoch=3, base_sequence=11)
    header = check_batch(batch)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 3, 11)
    assert header.record_count == len(fields)
    assert header.max_timestamp == max(time for _, _, _, time in fields)
    got = [(r.key, r.value, list(r.headers), r.timestamp) for r in decode_batch(batch)]
    assert got == fields
    assert [r.offset for r in decode_batch(batch)] == list(range(len(fields)))


def test_a_known_batch_has_the_bytes_of_the_specification() -> None:
    """Field by field from the definition of RecordBatch and Record (Kafka's protocol guide)."""
    batch = encode_batch([(b"k", b"val", [("h", b"x")], TIME), (None, None, [], TIME + 300)])
    body = bytes([2 * 14, 0, 0, 0, 2, *b"k", 6, *b"val", 2, 2, *b"h", 2, *b"x"])
    body += bytes([2 * 7, 0, *b"\xd8\x04", 2, 1, 1, 0])  # 300 ms later as a zigzag varint; null key, null value
    rest = struct.pack(">hiqqqhii", 0, 1, TIME, TIME + 300, -1, -1, -1, 2) + body
    head = struct.pack(">qiibI", 0, 4 + 1 + 4 + len(rest), -1, 2, crc32c.crc32c(rest))
    assert batch == head + rest


def test_offsets_follow_the_patched_header() -> None:
    batch = encode_batch([(None, b"a", [], TIME), (None, b"b", [], TIME)])
    served = patched_prefix(1_000, len(batch), 5) + batch[16:]
    assert [record.offset for record in decode_batch(served)] == [1_000, 1_001]


def test_the_logs_time_replaces_the_records_when_the_header_says_so() -> None:
    batch = bytearray(encode_batch([(None, b"a", [], 5), (None, b"b", [], 9)]))
    batch[22] |= 0x08  # log append time
    assert [record.timestamp for record in decode_batch(signed(bytes(batch)))] == [9, 9]


# The builder


def test_a_builder_says_when_it_is_full() -> None:
    builder = BatchBuilder(300)
    assert builder.append(None, b"x" * 100, [], TIME)
    assert builder.append(None, b"y" * 100, (), TIME)
    assert not builder.append(None, b"z" * 100, [], TIME)
    assert builder.count == 2
    assert builder.size == len(builder.build())
    assert [record.value for record in decode_batch(builder.build())] == [b"x" * 100, b"y" * 100]


def test_the_first_record_is_taken_whatever_its_size() -> None:
    builder = BatchBuilder(100)
    assert builder.append(None, b"x" * 10_000, [], TIME)
    assert not builder.append(None, b"", [], TIME)
    assert len(decode_batch(builder.build())[0].value or b"") == 10_000


def test_values_are_added_together_until_the_batch_is_full() -> None:
    values = [b"%03d" % number for number in range(100)]
    builder = BatchBuilder(300)
    count = builder.extend_values(values, 10, TIME)
    assert 0 < count < 90
    assert [record.value for record in decode_batch(builder.build())] == values[10 : 10 + count]
    assert builder.size <= 300
    assert BatchBuilder(10**6).extend_values(values, 40, TIME) == 60


def test_records_are_added_together_until_the_batch_is_full() -> None:
    builder = BatchBuilder(200)
    assert builder.extend([(b"k", b"x" * 50, (), TIME)] * 10) == 2
    assert builder.count == 2


def test_a_batch_is_built_again_for_another_producer() -> None:
    builder = BatchBuilder(10_000, "lz4")
    builder.append(b"k", b"v" * 500, [], TIME)
    first = bytes(builder.build(1, 0, 0))
    again = bytes(builder.build(2, 5, 77))
    assert check_batch(first).producer_id == 1
    header = check_batch(again)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (2, 5, 77)
    assert bytes(restamped(first, 2, 5, 77)) == again


@given(st.binary(max_size=50), st.binary(max_size=50), st.integers(0, 2**62 - 1))
def test_the_overhead_of_a_record_is_bounded(key: bytes, value: bytes, timestamp: int) -> None:
    builder = BatchBuilder(10**6)
    builder.append(None, b"", [], 0)
    before = builder.size
    builder.append(key, value, [], timestamp)
    assert builder.size - before <= len(key) + len(value) + RECORD_OVERHEAD_MAX


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (("text", b"", [], TIME), "a key is bytes, not str"),
        ((b"", 5, [], TIME), "a value is bytes, not int"),
        ((b"", b"", [("name", "text")], TIME), "headers are pairs"),
        ((b"", b"", [(b"name", b"")], TIME), "headers are pairs"),
        ((b"", b"", [("\ud800", b"")], TIME), "headers are pairs"),
        ((b"", b"", None, TIME), "headers are pairs"),
        ((b"", b"", [], 2**63), "a timestamp is milliseconds"),
        ((b"", b"", [], "now"), "a timestamp is milliseconds"),
    ],
)
def test_what_cannot_be_a_record_is_told(fields: Any, told: str) -> None:
    with pytest.raises(CorgiError, match=told) as caught:
        encode_batch([fields])
    assert caught.value.code == "invalid-argument"
    builder = BatchBuilder(1_000)
    builder.append(None, b"before", [], TIME)
    with pytest.raises(CorgiError):
        builder.append(*fields)
    assert builder.append(None, b"after", [], TIME)
    assert [record.value for record in decode_batch(builder.build())] == [b"before", b"after"]


def test_a_batch_is_not_empty() -> None:
    with pytest.raises(CorgiError, match="at least one"):
        encode_batch([])


# Compression


@pytest.mark.parametrize("codec", [name for name in CODECS if name != "none"])
def test_compressed_batches_are_smaller_and_say_how(codec: str) -> None:
    fields = [(None, b"the same thing again " * 20, [], TIME)] * 20
    batch = encode_batch(fields, codec=codec)
    assert len(batch) < len(encode_batch(fields)) / 4
    assert check_batch(batch).attributes == codec_number(codec)
    assert len(decode_batch(batch)) == 20


@pytest.mark.parametrize("codec", list(CODECS))
def test_what_does_not_get_smaller_is_left_as_it_is(codec: str) -> None:
    batch = encode_batch([(None, b"x", [], TIME)], codec=codec)
    assert check_batch(batch).attributes == 0


@pytest.mark.parametrize("codec", [name for name in CODECS if name != "none"])
@pytest.mark.parametrize("size", [0, 1, 1_000, 32 * 1024, 32 * 1024 + 1, 300_000])
def test_codecs_return_what_they_were_given(codec: str, size: int) -> None:
    data = bytes(number * number % 251 for number in range(size))
    assert bytes(decompress(codec_number(codec), compress(codec_number(codec), data), max(size, 1))) == data


@pytest.mark.parametrize("codec", [name for name in CODECS if name != "none"])
def test_a_bomb_is_refused(codec: str) -> None:
    batch = encode_batch([(None, bytes(2**20), [], TIME)] * 32, codec=codec)
    assert len(batch) < 2**21
    with pytest.raises(CorgiError) as caught:
        decode_batch(batch, bytes_max=2**20)
    assert caught.value.code == "corrupt-batch"
    assert len(decode_batch(batch)) == 32


def test_an_uncompressed_batch_is_bounded_too() -> None:
    with pytest.raises(CorgiError, match="more than"):
        decode_batch(encode_batch([(None, bytes(2_000), [], TIME)]), bytes_max=1_000)


def test_snappy_without_xeriais_frame_is_read_too() -> None:
    data = b"librdkafka writes raw blocks " * 10
    assert bytes(decompress(2, cramjam.snappy.compress_raw(data), 1_000)) == data


def test_gzip_of_several_members_is_read() -> None:
    assert decompress(1, gzip.compress(b"one ") + gzip.compress(b"two"), 100) == b"one two"


def test_lz4_frames_are_such_as_kafka_reads() -> None:
    """Independent blocks, no content checksum: KafkaLZ4BlockInputStream refuses the first, others the second."""
    flags = compress(3, b"x" * 1_000)[4]
    assert flags & 0b0010_0000
    assert not flags & 0b0000_0100


def test_an_unknown_codec_is_told() -> None:
    with pytest.raises(CorgiError, match="compression is one of none, gzip, snappy, lz4, zstd"):
        codec_number("brotli")
    with pytest.raises(CorgiError, match="codec 7"):
        decompress(7, b"", 10)


# Damage


def test_every_flipped_bit_is_noticed() -> None:
    batch = encode_batch([(b"key", b"value", [("h", b"x")], TIME)] * 3)
    for place in range(16, len(batch)):
        damaged = batch[:place] + bytes([batch[place] ^ 1]) + batch[place + 1 :]
        with pytest.raises(CorgiError) as caught:
            decode_batch(damaged)
        assert caught.value.code == "corrupt-batch"


@given(st.binary(min_size=0, max_size=120), st.sampled_from([0, 1, 2, 3, 4, 5, 7]), st.integers(-2, 2**31 - 1))
def test_hostile_bytes_with_a_good_checksum_only_raise_ours(body: bytes, codec: int, count: int) -> None:
    rest = struct.pack(">hiqqqhii", codec, 0, TIME, TIME, -1, -1, -1, count) + body
    batch = struct.pack(">qiibI", 0, 9 + len(rest), -1, 2, crc32c.crc32c(rest)) + rest
    assert error_of(batch) in ("", "corrupt-batch")


@given(records, st.data())
def test_records_damaged_under_a_good_checksum_only_raise_ours(fields: list[Any], data: st.DataObject) -> None:
    batch = bytearray(encode_batch(fields))
    for _ in range(3):
        batch[data.draw(st.integers(HEADER_BYTES, len(batch) - 1))] = data.draw(st.integers(0, 255))
    assert error_of(signed(bytes(batch))) in ("", "corrupt-batch")


@pytest.mark.parametrize("size", [0, 1, 60, 61, 70])
def test_a_cut_batch_is_noticed(size: int) -> None:
    with pytest.raises(CorgiError):
        decode_batch(encode_batch([(None, b"value", [], TIME)])[:size])


def test_a_batch_the_caller_has_checked_is_not_checked_again() -> None:
    batch = bytearray(encode_batch([(None, b"value", [], TIME)]))
    batch[CRC_FROM - 1] ^= 1
    assert [record.value for record in iter_batch(bytes(batch), checked=True)] == [b"value"]
    assert parse_header(bytes(batch)).record_count == 1


# The compiled codec


def test_the_codec_comes_without_the_client_and_leaves_it_usable() -> None:
    program = (
        "import sys, corgi.base.records as ours\n"
        "assert not [name for name in sys.modules if name.startswith('aiokafka')], 'aiokafka was left behind'\n"
        "assert 'asyncio' not in sys.modules\n"
        "import aiokafka\n"
        "assert aiokafka.AIOKafkaProducer and aiokafka.AIOKafkaConsumer\n"
        "from aiokafka.record.default_records import DefaultRecordBatch\n"
        "[record] = DefaultRecordBatch(ours.encode_batch([(None, b'v', (), 5)]))\n"
        "assert record.value == b'v'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
