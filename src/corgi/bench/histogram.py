"""Latencies in constant memory: a histogram whose buckets grow with the value, so that every percentile is within
0.8 %.

The idea is Gil Tene's HdrHistogram: 128 equal buckets per power of two of microseconds. Histograms of several
processes are merged by adding their counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

SUB_BITS = 7
SUB_COUNT = 1 << SUB_BITS
RESOLUTION_S = 1e-6


class Summary(NamedTuple):
    """All zero when nothing was recorded."""

    samples: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Histogram:
    """Durations in seconds, from a microsecond up."""

    __slots__ = ("_counts", "count", "max_s", "total_s")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total_s = 0.0
        self.max_s = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration; a negative one counts as 0."""
        seconds = max(seconds, 0.0)
        index = _index(int(seconds / RESOLUTION_S))
        self._counts[index] = self._counts.get(index, 0) + 1
        self.count += 1
        self.total_s += seconds
        self.max_s = max(self.max_s, seconds)

    def record_all(self, durations_s: Iterable[float]) -> None:
        """Count many."""
        for seconds in durations_s:
            self.record(seconds)

    def merge(self, other: Histogram) -> None:
        """Add everything that ``other`` has counted."""
        for index, count in other._counts.items():
            self._counts[index] = self._counts.get(index, 0) + count
        self.count += other.count
        self.total_s += other.total_s
        self.max_s = max(self.max_s, other.max_s)

    def percentile(self, share: float) -> float:
        """Seconds that at least ``share`` (0 to 1) of the values do not exceed, within 0.8 % above; 0.0 without
        values.
        """
        if not self.count:
            return 0.0
        wanted = max(1, math.ceil(self.count * share))
        seen = 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen >= wanted:
                return min(_upper(index) * RESOLUTION_S, self.max_s)
        return self.max_s

    def summary(self) -> Summary:
        """The usual percentiles in milliseconds."""
        return Summary(
            samples=self.count,
            mean_ms=_ms(self.total_s / self.count if self.count else 0.0),
            p50_ms=_ms(self.percentile(0.5)),
            p90_ms=_ms(self.percentile(0.9)),
            p99_ms=_ms(self.percentile(0.99)),
            p999_ms=_ms(self.percentile(0.999)),
            max_ms=_ms(self.max_s),
        )


def _index(value: int) -> int:
    """0…255 as they are; from there on 128 buckets per power of two."""
    shift = max(0, value.bit_length() - SUB_BITS - 1)
    return (shift << SUB_BITS) + (value >> shift)


def _upper(index: int) -> int:
    """The first value above the bucket."""
    shift = max(0, (index >> SUB_BITS) - 1)
    return ((index - (shift << SUB_BITS)) + 1) << shift


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
