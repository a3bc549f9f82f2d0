"""Partitions as Kafka's Java client chooses them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.client.core import partitioner
from corgi.client.core.partitioner import KeyedPartitions, murmur2, partition_of


# From org.apache.kafka.common.utils.UtilsTest.testMurmur2, as Java's signed integers.
@pytest.mark.parametrize(
    ("key", "java"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_javas(key: bytes, java: int) -> None:
    assert murmur2(key) == java % 2**32


def slow_murmur2(data: bytes) -> int:
    """Byte by byte, as the reference has it."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    at = 0
    while len(data) - at >= 4:
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
        at += 4
    rest = data[at:]
    if len(rest) == 3:
        h ^= rest[2] << 16
    if len(rest) >= 2:
        h ^= rest[1] << 8
    if len(rest) >= 1:
        h = (h ^ rest[0]) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


@given(st.binary(max_size=600))
def test_the_fast_hash_is_the_slow_one(data: bytes) -> None:
    assert murmur2(data) == slow_murmur2(data)


@given(st.binary(max_size=40), st.integers(1, 10_000))
def test_the_sign_bit_is_dropped_before_the_remainder(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == (slow_murmur2(key) & 0x7FFFFFFF) % partitions


def test_remembered_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitioner, "CACHED_KEYS_MAX", 10)
    partitions = KeyedPartitions(7)
    for number in range(100):
        key = b"%d" % number
        assert partitions[key] == partition_of(key, 7)
        assert partitions[key] == partition_of(key, 7)
        assert len(partitions) <= 10
