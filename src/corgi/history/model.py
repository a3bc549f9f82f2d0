"""What clients did and saw in a run: every operation with its times and outcome. Checkers read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

OPEN = "open"  # no outcome yet
OK = "ok"  # acknowledged
FAILED = "failed"  # told that it was not and will not be stored
UNKNOWN = "unknown"  # it may be stored, now or later


class Violation(NamedTuple):
    """A broken rule: its name in docs/simulation.md, what was seen, and when (s)."""

    name: str
    detail: str
    time: float


class Partition(NamedTuple):
    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


@dataclass(slots=True)
class Send:
    """One batch of one producer for one partition, however often it was sent. ``sequence`` counts the producer's
    records in the partition; ``ordered``: the producer promises order and exactly-once (it is idempotent)."""

    producer: str
    partition: Partition
    sequence: int
    values: tuple[bytes, ...]
    invoked: float
    ordered: bool
    ended: float = -1.0
    status: str = OPEN
    offset: int = -1

    def __str__(self) -> str:
        return f"{self.producer} {self.partition} #{self.sequence}+{len(self.values)} {self.status}@{self.offset}"


class Read(NamedTuple):
    """What one reader got in one answer or push, asked (or expected) from ``position`` on."""

    reader: str
    partition: Partition
    position: int
    records: tuple[tuple[int, bytes], ...]  # offset, value
    time: float


class Bound(NamedTuple):
    """A partition's end as a node confirmed it between two times."""

    reader: str
    partition: Partition
    invoked: float
    ended: float
    end: int


@dataclass(slots=True)
class History:
    """Everything recorded. ``final`` holds what each node serves at the very end: (offset, value) in served order."""

    sends: list[Send] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    other_operations: int = 0
    unfinished: list[str] = field(default_factory=list)  # operations that never ended, after healing
    final: dict[Partition, dict[int, list[tuple[int, bytes]]]] = field(default_factory=dict)

    def operations(self) -> int:
        return len(self.sends) + len(self.reads) + len(self.bounds) + self.other_operations

    def partitions(self) -> list[Partition]:
        seen = {send.partition for send in self.sends} | {read.partition for read in self.reads}
        return sorted(seen | set(self.final))
