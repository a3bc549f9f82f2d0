"""Values for readers: from memory at once, from the disk with bounds.

A reader asks for one value at a time. A value that is not in memory is read once for all who ask for it; at most
COLD_READS_MAX values are on their way or lie here unserved, further readers queue in the order in which they came. What
was read stays for a while in a small cache, because the next reader, or the same one with new credit, will want it.

Invariant: memory held here is at most COLD_READS_MAX values plus COLD_CACHE_BYTES.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Protocol

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, Slot
from corgi.delivery.limits import COLD_CACHE_BYTES, COLD_READS_MAX
from corgi.delivery.ports import ReadValue

_Key = tuple[GroupId, Slot]


class Waiter(Protocol):
    def value_ready(self) -> None:
        """Ask again now."""
        ...


class _Read:
    """One value on its way, or arrived and not yet taken by all who wait. Insertion order keeps runs repeatable."""

    __slots__ = ("result", "waiters")

    def __init__(self, waiter: Waiter) -> None:
        self.result: bytes | CorgiError | None = None
        self.waiters: dict[Waiter, None] = {waiter: None}


class Values:
    """Shared by all readers of a node. Counts: ``cold_reads`` started, ``cold_hits`` served from the cache."""

    __slots__ = ("_cache", "_cache_bytes", "_queue", "_read", "_reads", "cold_hits", "cold_reads")

    def __init__(self, read: ReadValue) -> None:
        self._read = read
        self._reads: dict[_Key, _Read] = {}
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
            if not urgent and len(self._reads) >= COLD_READS_MAX:
                self._queue[waiter] = None
                return None
        value = self._read(group, slot, partial(self._arrived, key))
        if value is None:
            self._reads[key] = _Read(waiter)
            self.cold_reads += 1
        return value

    def forget(self, waiter: Waiter) -> None:
        """The waiter is gone: it keeps nothing here."""
        self._queue.pop(waiter, None)
        for key, read in list(self._reads.items()):
            if waiter in read.waiters:
                del read.waiters[waiter]
                if read.result is not None and not read.waiters:
                    self._retire(key, read.result)

    @property
    def bytes_held(self) -> int:
        """Bytes of values that are kept here."""
        arrived = sum(len(read.result) for read in self._reads.values() if isinstance(read.result, bytes))
        return self._cache_bytes + arrived

    def _take(self, key: _Key, read: _Read, waiter: Waiter) -> bytes | CorgiError | None:
        result = read.result
        if result is None:
            read.waiters[waiter] = None
            return None
        read.waiters.pop(waiter, None)
        if not read.waiters:
            self._retire(key, result)
        return result

    def _arrived(self, key: _Key, result: bytes | CorgiError) -> None:
        read = self._reads[key]
        read.result = result
        if not read.waiters:
            self._retire(key, result)
            return
        for waiter in list(read.waiters):
            waiter.value_ready()

    def _retire(self, key: _Key, result: bytes | CorgiError) -> None:
        """Everybody has it: free the place for the next, keep the bytes a while."""
        del self._reads[key]
        if isinstance(result, bytes):
            self._cache[key] = result
            self._cache_bytes += len(result)
            while self._cache_bytes > COLD_CACHE_BYTES:
                _, oldest = self._cache.popitem(last=False)
                self._cache_bytes -= len(oldest)
        if self._queue:
            waiter = next(iter(self._queue))
            del self._queue[waiter]
            waiter.value_ready()
