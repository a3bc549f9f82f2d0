"""Sparse segments are emptied: what still lives in them is written once more, at a bounded rate, so that they can go.

Only segments that no scan needs are looked at, so nothing young is ever copied. A value goes out as a STORE record,
which is knowledge and not a vote; its slot takes the new place when that is durable, and a value that died meanwhile is
not taken up. What cannot be read is fetched from a peer first, by whoever repairs, and moved at another time.

Invariant: one segment at a time; at most so many bytes a second, and at most IN_FLIGHT_BYTES on their way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, Position, Slot
from corgi.base.limits import MIB
from corgi.base.ports import LogRecord, RecordKind

if TYPE_CHECKING:
    from corgi.broker.node import Node

IN_FLIGHT_BYTES = 4 * MIB
BLOCKS_PER_LOOK = 64  # of slot tables searched in one go
REST_S = 5.0  # before a segment that could not be emptied is tried again


class Rewriting:
    """Chooses segments and moves values out of them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._segment = 0  # being emptied
        self._found: Iterator[tuple[GroupId, Slot]] = iter(())
        self._in_flight: dict[tuple[GroupId, Slot], int] = {}
        self._budget = 0.0
        self._since = node.clock.now()
        self._tried: dict[int, float] = {}  # segments that were gone through, and when

    def advance(self, now: float, needed: int) -> None:
        """Move some values; ``needed`` is the first segment that a scan needs."""
        options = self._node.options
        per_second = options.rewrite_bytes_per_s
        self._budget = min(self._budget + (now - self._since) * per_second, per_second / 4)
        self._since = now
        if not self._segment:
            self._choose(now, needed)
        blocks = 0
        while self._segment and self._budget > 0 and self._has_room():
            found = next(self._found, None)
            if found is None:
                self._tried[self._segment] = now
                self._segment = 0
            elif found[1]:
                self._move(*found)
            else:
                blocks += 1
                if blocks == BLOCKS_PER_LOOK:
                    return

    def _has_room(self) -> bool:
        in_flight = sum(self._in_flight.values())
        return in_flight < IN_FLIGHT_BYTES and self._node.room.for_copies(in_flight)

    def stored(self, group: GroupId, slot: Slot) -> None:
        """A value has its new place."""
        if self._in_flight.pop((group, slot), None) is not None:
            self._node.count("values_moved")

    def _choose(self, now: float, needed: int) -> None:
        """The oldest segment in which little lives."""
        space = self._node.values.space
        most = space.segment_bytes * self._node.options.rewrite_below
        self._tried = {s: at for s, at in self._tried.items() if space.has(s) and now < at + REST_S}
        for segment in range(max(1, space.oldest), needed):
            if segment not in self._tried and space.values_in(segment) and space.bytes_in(segment) < most:
                self._segment = segment
                self._found = self._search(segment)
                self._node.count("segments_rewritten")
                return

    def _search(self, segment: int) -> Iterator[tuple[GroupId, Slot]]:
        """Live values in the segment; slot 0: a piece of a table was searched."""
        size = self._node.values.space.segment_bytes
        for group in self._node.groups:
            for slot in group.slots.live_within(Position(segment * size), Position((segment + 1) * size)):
                yield group.id, slot

    def _move(self, group: GroupId, slot: Slot) -> None:
        key = (group, slot)
        if key in self._in_flight:
            return
        values = self._node.values
        length = values.tables[group].length(slot)
        self._in_flight[key] = length
        self._budget -= length

        def read(value: Buffer | CorgiError) -> None:
            if isinstance(value, CorgiError):
                del self._in_flight[key]
                if slot in values.faulty[group]:
                    self._node.repairs.want(group, slot)
            else:
                self._node.persist(LogRecord(RecordKind.STORE, group, Ballot(0), slot, Slot(0), value))

        found = values.read_here(group, slot, read)
        if found is not None:
            read(found)
