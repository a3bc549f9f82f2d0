"""Values for readers: from memory at once, from the disk with bounds.

A value that is not in memory is read once for all who ask for it. COLD_BYTES_MAX bounds what is on its way or lies here
until those who asked have taken it; further readers queue in the order in which they came. What was read stays for a
while in a small cache: the next reader will want it, or the same one with new credit. For a reader who goes through a
backlog of small values some are read ahead into that cache, within AHEAD_BYTES.

Invariant: memory held here is at most COLD_BYTES_MAX plus one value per reader at the tail plus COLD_CACHE_BYTES.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from typing import Protocol

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, Slot
from corgi.delivery.limits import AHEAD_BYTES, AHEAD_TOTAL_BYTES, COLD_BYTES_MAX, COLD_CACHE_BYTES
from corgi.delivery.ports import ReadValue, ValueLength

_Key = tuple[GroupId, Slot]


class Waiter(Protocol):
    def value_ready(self) -> None:
        """Ask again now."""
        ...


class _Read:
    """One value on its way, or arrived and not yet taken by all who wait. Insertion order keeps runs repeatable."""

    __slots__ = ("result", "size", "waiters")

    def __init__(self, size: int) -> None:
        self.size = size
        self.result: bytes | CorgiError | None = None
        self.waiters: dict[Waiter, None] = {}


class Values:
    """Shared by all readers of a node. Counts: ``cold_reads`` started, ``cold_hits`` served from the cache."""

    __slots__ = (
        "_cache",
        "_cache_bytes",
        "_length",
        "_queue",
        "_read",
        "_reading_bytes",
        "_reads",
        "cold_hits",
        "cold_reads",
    )

    def __init__(self, read: ReadValue, length: ValueLength) -> None:
        self._read = read
        self._length = length
        self._reads: dict[_Key, _Read] = {}
        self._reading_bytes = 0
        self._queue: dict[Waiter, None] = {}
        self._cache: OrderedDict[_Key, bytes] = OrderedDict()
        self._cache_bytes = 0
        self.cold_reads = 0
        self.cold_hits = 0

    def get(self, group: GroupId, slot: Slot, waiter: Waiter, *, urgent: bool) -> Buffer | CorgiError | None:
        """The value, why it cannot be had, or None: ``waiter.value_ready`` is called when asking again helps.

        ``urgent`` readers (at the tail, where values are in memory) do not queue behind reads of the disk.
        """
        key = (group, slot)
        if self._reads or self._cache:
            read = self._reads.get(key)
            if read is not None:
                return self._take(key, read, waiter)
            cached = self._cache.get(key)
            if cached is not None:
                self._cache.move_to_end(key)
                self.cold_hits += 1
                return cached
            if not urgent and self._reading_bytes >= COLD_BYTES_MAX:
                self._queue[waiter] = None
                return None
        value = self._read(group, slot, partial(self._arrived, key))
        if value is None:
            self._started(key).waiters[waiter] = None
        return value

    def ahead(self, group: GroupId, slots: Iterable[Slot]) -> None:
        """Read these values into the cache, within the bounds, once what was read ahead before is used up."""
        room = min(AHEAD_BYTES, AHEAD_TOTAL_BYTES - self._reading_bytes)
        for slot in slots:
            key = (group, slot)
            room -= self._length(group, slot)
            if room < 0 or key in self._reads or key in self._cache:
                return
            if self._read(group, slot, partial(self._arrived, key)) is not None:
                return  # from here on they are in memory
            self._started(key)

    def admit(self) -> None:
        """Let the reader who queued longest ask, if there is room. Called every turn: who was let in may not come."""
        if self._queue and self._reading_bytes < COLD_BYTES_MAX:
            waiter = next(iter(self._queue))
            del self._queue[waiter]
            waiter.value_ready()

    def forget(self, waiter: Waiter) -> None:
        """The waiter is gone, or is set aside: it keeps nothing here."""
        self._queue.pop(waiter, None)
        for key, read in list(self._reads.items()):
            if waiter in read.waiters:
                del read.waiters[waiter]
                if read.result is not None and not read.waiters:
                    self._retire(key, read, read.result)

    @property
    def bytes_held(self) -> int:
        """Bytes of values that are kept here or on their way."""
        return self._cache_bytes + self._reading_bytes

    def _started(self, key: _Key) -> _Read:
        self._reads[key] = read = _Read(self._length(*key))
        self._reading_bytes += read.size
        self.cold_reads += 1
        return read

    def _take(self, key: _Key, read: _Read, waiter: Waiter) -> bytes | CorgiError | None:
        result = read.result
        if result is None:
            read.waiters[waiter] = None
            return None
        read.waiters.pop(waiter, None)
        if not read.waiters:
            self._retire(key, read, result)
        return result

    def _arrived(self, key: _Key, result: bytes | CorgiError) -> None:
        read = self._reads[key]
        read.result = result
        if not read.waiters:
            self._retire(key, read, result)
            return
        for waiter in list(read.waiters):
            waiter.value_ready()

    def _retire(self, key: _Key, read: _Read, result: bytes | CorgiError) -> None:
        """Everybody has it: free the room for the next, keep the bytes a while."""
        del self._reads[key]
        self._reading_bytes -= read.size
        if isinstance(result, bytes):
            self._cache[key] = result
            self._cache_bytes += len(result)
            while self._cache_bytes > COLD_CACHE_BYTES:
                _, oldest = self._cache.popitem(last=False)
                self._cache_bytes -= len(oldest)
        self.admit()
