"""Recent values kept in memory, so that followers and consumers at the end of a log cost no read.

One cache per node over all groups, bounded in bytes: the oldest value leaves first. A value that is not there is not
gone; it is read from the log.
"""

from __future__ import annotations

from collections import OrderedDict

from corgi.base.command import Buffer
from corgi.base.ids import GroupId, Slot
from corgi.base.limits import TAIL_BYTES_MAX

ENTRY_BYTES = 300  # what an entry costs besides the value's bytes: its key, its place in the table, the object


class TailCache:
    """(group, slot) to value, first in first out."""

    __slots__ = ("_bytes", "_bytes_max", "_values")

    def __init__(self, bytes_max: int = TAIL_BYTES_MAX) -> None:
        self._values: OrderedDict[tuple[GroupId, Slot], Buffer] = OrderedDict()
        self._bytes = 0
        self._bytes_max = bytes_max

    def put(self, group: GroupId, slot: Slot, value: Buffer) -> None:
        """Keep ``value`` as the newest; another value of the same slot leaves. One above the bound is not kept."""
        self.discard(group, slot)
        size = len(value) + ENTRY_BYTES
        if size > self._bytes_max:
            return
        self._values[group, slot] = value
        self._bytes += size
        while self._bytes > self._bytes_max:
            _, oldest = self._values.popitem(last=False)
            self._bytes -= len(oldest) + ENTRY_BYTES

    def get(self, group: GroupId, slot: Slot) -> Buffer | None:
        return self._values.get((group, slot))

    def discard(self, group: GroupId, slot: Slot) -> None:
        """Forget a value, if it is there."""
        value = self._values.pop((group, slot), None)
        if value is not None:
            self._bytes -= len(value) + ENTRY_BYTES

    def __len__(self) -> int:
        return len(self._values)

    @property
    def bytes_held(self) -> int:
        """Bytes of all values, and what keeping them costs."""
        return self._bytes
