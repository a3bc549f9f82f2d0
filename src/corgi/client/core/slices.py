"""Which slice of a partition a record belongs to, when several consumers share a partition by key.

The bits are others than those that chose the partition, so that the keys of one partition spread over all slices.
"""

from __future__ import annotations

from corgi.client.core.partitioner import CACHED_KEYS_MAX, murmur2

SLICES_MAX = 256
SLICES_SHARED = 16  # of a group that shares by key, unless told


def slice_of(key: bytes | None, offset: int, slices: int) -> int:
    """(murmur2(key) >> 16) mod S; without a key the offset mod S."""
    return offset % slices if key is None else (murmur2(key) >> 16) % slices


class KeyedSlices(dict[bytes, int]):
    """``slices[key]``, remembered for the keys seen lately."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __missing__(self, key: bytes) -> int:
        if len(self) >= CACHED_KEYS_MAX:
            self.clear()
        found = self[key] = slice_of(key, 0, self.count)
        return found
