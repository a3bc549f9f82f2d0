"""Which partition a record goes to, exactly as Kafka's Java client decides it.

A record with a key: ``toPositive(murmur2(key)) % partitions``, so that producers in any language agree.
Without a key: the same partition for all records of a batch, the next one for the next batch (KIP-480).
"""

from __future__ import annotations

import struct

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFF_FFFF
_WORDS = [struct.Struct(f"<{count}I").unpack_from for count in range(64)]
CACHED_KEYS_MAX = 65_536  # the hash costs 2 µs for a short key, a look-up 0.05: keys come again


def murmur2(data: bytes) -> int:
    """The 32-bit hash of ``org.apache.kafka.common.utils.Utils.murmur2``, unsigned."""
    size = len(data)
    value = _SEED ^ size
    count = size >> 2
    words = _WORDS[count](data) if count < 64 else struct.unpack_from(f"<{count}I", data)
    for word in words:
        word = word * _M & _MASK
        value = (value * _M ^ (word ^ word >> 24) * _M) & _MASK
    rest = size & 3
    if rest:
        value = (value ^ int.from_bytes(data[-rest:], "little")) * _M & _MASK
    value = (value ^ value >> 13) * _M & _MASK
    return value ^ value >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a record with this key."""
    return (murmur2(key) & 0x7FFF_FFFF) % partitions


class KeyedPartitions(dict[bytes, int]):
    """``partitions[key]``: the partition of a key, remembered for the keys seen lately."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __missing__(self, key: bytes) -> int:
        if len(self) >= CACHED_KEYS_MAX:
            self.clear()
        partition = self[bytes(key)] = partition_of(key, self.count)
        return partition
