"""Transactions as the readers of one partition meet them: where it is undecided, and what was aborted.

Invariant: aborted ranges of one producer do not overlap and stand in the order of their offsets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from corgi.base.ids import Offset


class Aborted(NamedTuple):
    """An aborted transaction in one partition: its batches lie from ``first`` to before ``last``, its control batch."""

    producer_id: int
    first: Offset
    last: Offset


class PartitionTransactions:
    """What readers of one partition have to know. ``open``: first offset by producer, in the order of the offsets."""

    __slots__ = ("_aborted", "_count", "open")

    def __init__(self, aborted: Iterable[Aborted] = ()) -> None:
        self.open: dict[int, Offset] = {}
        self._aborted: dict[int, list[tuple[Offset, Offset]]] = {}  # (first, last) by producer, ascending
        self._count = 0
        for one in aborted:
            self.abort(*one)

    def stable_end(self, end: Offset) -> Offset:
        """The last stable offset of a partition that ends at ``end``: below it nothing is undecided."""
        for first in self.open.values():
            return first
        return end

    def hides(self, producer_id: int, offset: Offset) -> bool:
        """Whether the transactional batch of this producer at ``offset`` was aborted."""
        ranges = self._aborted.get(producer_id)
        if ranges is None:
            return False
        at = bisect_right(ranges, offset, key=_first) - 1
        return at >= 0 and offset < ranges[at][1]

    def aborted(self, start: Offset = Offset(0), end: Offset | None = None) -> list[Aborted]:  # noqa: B008 (a number)
        """Those that overlap [start, end), by their first offset."""
        found = [
            Aborted(producer_id, first, last)
            for producer_id, ranges in self._aborted.items()
            for first, last in ranges
            if last >= start and (end is None or first < end)
        ]
        return sorted(found, key=lambda one: one.first)

    def abort(self, producer_id: int, first: Offset, last: Offset) -> None:
        self._aborted.setdefault(producer_id, []).append((first, last))
        self._count += 1

    def trim(self, start: Offset) -> None:
        """What ended below the log start is forgotten."""
        if not self._count:
            return
        for producer_id, ranges in list(self._aborted.items()):
            kept = [pair for pair in ranges if pair[1] >= start]
            self._count -= len(ranges) - len(kept)
            if kept:
                self._aborted[producer_id] = kept
            else:
                del self._aborted[producer_id]


def _first(pair: tuple[Offset, Offset]) -> Offset:
    return pair[0]
