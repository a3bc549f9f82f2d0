"""A partition log as a plain list, and a disk that answers when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, LeaderEpoch, Offset, Slot, TopicId


class Entry(NamedTuple):
    base_offset: Offset
    slot: Slot
    at: int
    length: int
    epoch: LeaderEpoch
    records: int


class FakeLog:
    """One partition; ``stored`` holds (base offset, batch bytes as served)."""

    def __init__(self, disk: FakeDisk, topic: int = 16, partition: int = 0) -> None:
        self.disk = disk
        self.topic = TopicId(topic)
        self.partition = partition
        self.open = True
        self.transactions = None
        self.start = Offset(0)
        self.end = Offset(0)
        self.entries: list[Entry] = []
        self.stored: list[tuple[int, bytes]] = []

    @property
    def count(self) -> int:
        return len(self.entries)

    def find(self, offset: Offset) -> int:
        for i, entry in enumerate(self.entries):
            if entry.base_offset + entry.records > offset:
                return i
        return self.count

    def entry(self, i: int) -> Entry:
        return self.entries[i]

    def append(self, sizes: Sequence[int], *, padding: int = 0) -> Slot:
        """One value with a batch of each size, and ``padding`` bytes of others."""
        value = bytearray(b"H" * 24)
        slot = Slot(len(self.disk.values) + 1)
        for size in sizes:
            mark = len(self.stored)
            body = bytes([mark % 251]) * (size - 16)
            self.entries.append(Entry(self.end, slot, len(value), size, LeaderEpoch(3), 2))
            self.stored.append((self.end, self.end.to_bytes(8) + (size - 12).to_bytes(4) + b"\0\0\0\3" + body))
            value += b"?" * 16 + body
            self.end = Offset(self.end + 2)
        self.disk.values[slot] = bytes(value) + b"P" * padding
        return slot


class FakeDisk:
    """Values by slot, of group 0."""

    def __init__(self) -> None:
        self.values: dict[Slot, bytes] = {}
        self.cold: set[Slot] = set()
        self.reads: list[tuple[Slot, Callable[[bytes | CorgiError], None]]] = []

    def read(self, group: GroupId, slot: Slot, done: Callable[[bytes | CorgiError], None]) -> Buffer | None:
        if slot in self.cold:
            self.reads.append((slot, done))
            return None
        return self.values[slot]

    def length(self, group: GroupId, slot: Slot) -> int:
        return len(self.values[slot])

    def answer(self, i: int = 0) -> None:
        slot, done = self.reads.pop(i)
        done(self.values[slot])


class Waiter:
    """Somebody who wants values."""

    def __init__(self) -> None:
        self.ready = 0

    def value_ready(self) -> None:
        self.ready += 1
