"""What delivery sees of a partition and of stored values; the state machine and the node supply both.

Shapes only: delivery knows nothing of how a group decides or where a value lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, LeaderEpoch, Offset, Slot, TopicId


class BatchEntry(Protocol):
    """Where one applied batch lies: ``length`` bytes from ``at`` in the value of ``slot``."""

    @property
    def base_offset(self) -> Offset: ...
    @property
    def slot(self) -> Slot: ...
    @property
    def at(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def epoch(self) -> LeaderEpoch: ...
    @property
    def records(self) -> int: ...


class TransactionsView(Protocol):
    """What a reader has to know of transactions in a partition."""

    def stable_end(self, end: Offset) -> Offset: ...

    def hides(self, producer_id: int, offset: Offset) -> bool: ...


class AppliedLog(Protocol):
    """The applied batches of one partition; indices move when the log start does, offsets never."""

    @property
    def topic(self) -> TopicId: ...
    @property
    def partition(self) -> int: ...
    @property
    def open(self) -> bool: ...
    @property
    def start(self) -> Offset: ...
    @property
    def end(self) -> Offset: ...
    @property
    def count(self) -> int: ...
    @property
    def transactions(self) -> TransactionsView | None:
        """None as long as there never was a transaction in the partition."""
        ...

    def find(self, offset: Offset) -> int: ...

    def entry(self, i: int) -> BatchEntry: ...


ReadValue = Callable[[GroupId, Slot, Callable[[bytes | CorgiError], None]], Buffer | CorgiError | None]
"""The whole value if it is in memory, or why it cannot be had; otherwise None, and the callback is called later, never
before the return."""

ValueLength = Callable[[GroupId, Slot], int]
"""Bytes of a value, known without reading it; 0 if unknown."""
