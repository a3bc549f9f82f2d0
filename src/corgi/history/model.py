"""What clients did and saw in a run: every operation with its times and outcome. Checkers read it.

It knows no broker. Times are seconds on one clock; which zero it has does not matter. ``docs/histories.md`` describes
the same as lines of JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

OPEN: Final = "open"  # no outcome yet
OK: Final = "ok"  # acknowledged
FAILED: Final = "failed"  # told that it was not and will not be stored
UNKNOWN: Final = "unknown"  # it may be stored, now or later
REFUSED: Final = "refused"  # a swap that found another state than it was to replace

AT_LEAST_ONCE: Final = "at_least_once"
AT_MOST_ONCE: Final = "at_most_once"
EXACTLY_ONCE: Final = "exactly_once"
HANDLING_DONE: Final = "done"
HANDLING_FAILED: Final = "failed"
HANDLING_GIVEN_UP: Final = "given-up"

NEVER = -1.0  # a time that has not come

Value: TypeAlias = bytes | str  # what tells one message from all others
Replica: TypeAlias = int | str
State: TypeAlias = str | int | None  # of a register


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
    records in the partition; ``ordered``: the producer promises order and exactly-once (it is idempotent);
    ``scheduled``: when it was due, if it was sent by a timetable. ``keys``: of each value, or none at all;
    ``tombstones``: those values that stand for a record without one, which deletes its key."""

    producer: str
    partition: Partition
    sequence: int
    values: tuple[Value, ...]
    invoked: float
    ordered: bool
    ended: float = NEVER
    status: str = OPEN
    offset: int = -1
    scheduled: float = NEVER
    keys: tuple[str, ...] = ()
    tombstones: frozenset[Value] = frozenset()

    @property
    def due(self) -> float:
        return self.scheduled if self.scheduled >= 0 else self.invoked

    def __str__(self) -> str:
        return f"{self.producer} {self.partition} #{self.sequence}+{len(self.values)} {self.status}@{self.offset}"


class Read(NamedTuple):
    """What one reader got in one answer or push, asked (or expected) from ``position`` on."""

    reader: str
    partition: Partition
    position: int
    records: tuple[tuple[int, Value], ...]  # offset, value
    time: float


class Bound(NamedTuple):
    """A partition's end as a node confirmed it between two times."""

    reader: str
    partition: Partition
    invoked: float
    ended: float
    end: int


class Handling(NamedTuple):
    """One message in the hands of a consumer of a group, from ``started`` to ``ended`` (NEVER: not finished).

    ``outcome``: it is done, it failed and has to be done again, or it was given up and put aside as it is meant to."""

    group: str
    process: str
    partition: Partition
    key: str
    offset: int
    started: float
    ended: float
    outcome: str = HANDLING_DONE


class Result(NamedTuple):
    """What a consumer that works exactly once made of one message: it is to be stored with the checkpoint."""

    group: str
    process: str
    partition: Partition
    offset: int
    values: tuple[Value, ...]
    time: float


class Transaction(NamedTuple):
    """Messages that were to be seen together or not at all. ``decided``: when its commit was asked for (NEVER: it was
    not); ``status``: OK it was acknowledged, FAILED it was aborted for good."""

    process: str
    messages: tuple[tuple[Partition, Value], ...]
    decided: float
    status: str
    invoked: float
    ended: float

    def __str__(self) -> str:
        return f"a transaction of {self.process} with {len(self.messages)} messages ({self.status})"


class Checkpoint(NamedTuple):
    """Where a group is in a partition when everything is over: everything below ``offset`` is done, and ``ranges``
    above it. ``start``: where the group began; ``semantics``: what it promised."""

    group: str
    partition: Partition
    offset: int
    ranges: tuple[tuple[int, int], ...] = ()
    semantics: str = AT_LEAST_ONCE
    start: int = 0

    def passes(self, offset: int) -> bool:
        return offset < self.offset or any(first <= offset < end for first, end in self.ranges)

    def __str__(self) -> str:
        above = f" and {len(self.ranges)} ranges" if self.ranges else ""
        return f"the checkpoint of {self.group} in {self.partition} at {self.offset}{above}"


class Call(NamedTuple):
    """An operation on a small register: ``read`` gave ``old``; ``write`` sets ``new``; ``swap`` sets ``new`` where it
    finds ``old``, and is refused elsewhere. None is the state of what does not exist."""

    process: str
    register: str
    action: str
    old: State
    new: State
    status: str
    invoked: float
    ended: float

    def __str__(self) -> str:
        change = {"read": f"{self.old!r}", "write": f"{self.new!r}"}.get(self.action, f"{self.old!r} to {self.new!r}")
        span = f"{self.invoked:.3f} to " + (f"{self.ended:.3f} s" if self.ended >= 0 else "no end")
        return f"{self.process} {self.action} {change} {self.status} ({span})"


class Fault(NamedTuple):
    """Something that was done to the cluster, from ``began`` to ``ended``; ``gap_max_s``: no publish should have waited
    longer because of it."""

    kind: str
    target: str
    began: float
    ended: float
    detail: str = ""
    gap_max_s: float | None = None


class Leadership(NamedTuple):
    """From ``time`` on ``node`` led ``group``."""

    group: int
    node: str
    time: float


@dataclass(frozen=True, slots=True)
class Limits:
    """How long something may last (s); None: as long as it likes."""

    write_gap_s: float | None = None  # a publish that waits for its acknowledgement
    settle_s: float | None = None  # an operation after everything was healed


@dataclass(slots=True)
class History:
    """Everything recorded. ``final`` holds what each replica serves at the very end: (offset, value) in served order,
    from where the partition begins by then (``starts``, if that is not its first offset).
    ``dense``: the offsets of a partition have no holes; without it only what the final drain holds can be skipped.
    ``compacted``: partitions in which of each key only the newest record is sure to stay, and offsets have holes;
    ``sparse``: those in which offsets have holes for another reason, such as control batches."""

    sends: list[Send] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    handlings: list[Handling] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    leaderships: list[Leadership] = field(default_factory=list)
    other_operations: int = 0
    unfinished: list[str] = field(default_factory=list)  # operations that never ended, after healing
    final: dict[Partition, dict[Replica, Sequence[tuple[int, Value]]]] = field(default_factory=dict)
    starts: dict[Partition, int] = field(default_factory=dict)
    healed: float = NEVER  # when the last fault was over
    dense: bool = True
    compacted: set[Partition] = field(default_factory=set)
    sparse: set[Partition] = field(default_factory=set)
    limits: Limits = Limits()

    def operations(self) -> int:
        asked = len(self.transactions) + len(self.bounds) + len(self.handlings) + len(self.calls)
        return len(self.sends) + len(self.reads) + asked + self.other_operations

    def partitions(self) -> list[Partition]:
        seen = {send.partition for send in self.sends} | {read.partition for read in self.reads}
        return sorted(seen | set(self.final))
