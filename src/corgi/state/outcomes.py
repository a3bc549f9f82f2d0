"""What became of each command, remembered until its origin has settled it: exact duplicate detection.

An origin is one start of one node. It counts its commands per group and promises with ``settled`` that every counter
below has its outcome and is never submitted again; so the outcomes held are those in flight, not those of a history.
A later start of the same node ends all earlier ones.

Invariant: of one (origin, counter) at most one command is ever applied in a group.
"""

from __future__ import annotations

from typing import NamedTuple

from corgi.base.ids import Offset, Origin


class AppendResult(NamedTuple):
    """What became of one record batch. ``error`` 0: stored, and a duplicate is told with its first offset."""

    error: int
    base_offset: Offset


class Outcome(NamedTuple):
    """What became of one command, alike on every replica.

    ``error`` is not 0 exactly when the command left nothing behind; it is then the reason, or the first append's.
    ``appends`` has one entry per batch in the command's order, and none when the command could not be read or its
    guards failed. With several independent batches ``error`` may be 0 while some entries carry an error of their own.
    ``timestamp_ms`` is the log time at which the command was applied.
    """

    origin: Origin
    counter: int
    error: int
    appends: tuple[AppendResult, ...]
    timestamp_ms: int
    detail: str = ""


class Window:
    """The outcomes of one node's latest start, from ``settled`` on."""

    __slots__ = ("origin", "outcomes", "settled")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.settled = 0
        self.outcomes: dict[int, Outcome] = {}

    def settle(self, settled: int) -> None:
        """Forget the outcomes below ``settled``, which is above the present mark."""
        outcomes = self.outcomes
        if settled - self.settled <= len(outcomes):
            for counter in range(self.settled, settled):
                outcomes.pop(counter, None)
        else:
            # The numbers have holes, or jump: look at what is there instead of counting through.
            for counter in [counter for counter in outcomes if counter < settled]:
                del outcomes[counter]
        self.settled = settled


def admit(windows: dict[int, Window], origin: Origin) -> Window | None:
    """The window of an origin that is not at hand; None when a later start of its node was seen already."""
    node = origin >> 48
    present = windows.get(node)
    if present is not None and present.origin >= origin:
        return present if present.origin == origin else None
    windows[node] = window = Window(origin)
    return window
