"""Virtual time: one queue of events, clocks that disagree, chance from named streams, and a transcript with its hash.

Everything that happens in a run is an event of this queue. The order of two events at one time is the order in which
they were scheduled, so a run is a function of its seed alone. The transcript keeps objects and formats them only when
somebody wants to read it; the hash covers every note, so two runs with one hash did the same things at the same times.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
import sys
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

WALL_AT_ZERO_MS = 1_700_000_000_000  # what an unskewed wall clock shows when a run begins
TRANSCRIPT_LINES = 3_000  # kept when the run is not traced as a whole

Note = tuple[float, str, object]  # when (s), who took it in, what

_TIME = struct.Struct("<d")
_encode = msgspec.msgpack.Encoder().encode


class World:
    """The queue of events and the one true time, in seconds since the run began."""

    __slots__ = ("_halted", "_hash", "_queue", "_sequence", "events", "now", "seed", "transcript")

    def __init__(self, seed: int, *, keep_transcript: bool = False) -> None:
        self.seed = seed
        self.now = 0.0
        self.events = 0
        self.transcript: deque[Note] = deque(maxlen=None if keep_transcript else TRANSCRIPT_LINES)
        self._halted = False
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def stream(self, name: str) -> Random:
        """A source of chance of its own, so that drawing from one never shifts another."""
        return Random(f"{self.seed}/{name}")

    def at(self, when: float, call: Callable[..., None], *arguments: object) -> None:
        """Call at the time ``when`` (s), at once in the queue's order if that is past."""
        sequence = self._sequence = self._sequence + 1
        heapq.heappush(self._queue, (max(when, self.now), sequence, call, arguments))

    def after(self, delay: float, call: Callable[..., None], *arguments: object) -> None:
        """Call ``delay`` seconds from now."""
        sequence = self._sequence = self._sequence + 1
        heapq.heappush(self._queue, (self.now + delay, sequence, call, arguments))

    def halt(self) -> None:
        """Let ``run`` return behind the event that happens now, for good."""
        self._halted = True

    def run(self, until: float, events_max: int = sys.maxsize) -> bool:
        """Run events up to the time ``until``; True if the world was halted before, or has seen ``events_max``."""
        queue = self._queue
        pop = heapq.heappop
        while queue and queue[0][0] <= until and not self._halted:
            when, _, call, arguments = pop(queue)
            self.now = when
            self.events += 1
            call(*arguments)
            if self.events >= events_max:
                self._halted = True
        if not self._halted:
            self.now = max(self.now, until)
        return self._halted

    def note(self, who: str, what: object) -> None:
        """Put into the transcript and the hash: a text, or a struct that msgpack can write."""
        self.transcript.append((self.now, who, what))
        self._hash.update(_TIME.pack(self.now))
        self._hash.update(who.encode())
        self._hash.update(_encode(what))

    def trace_hash(self) -> str:
        return self._hash.hexdigest()


def line(note: Note) -> str:
    """A note of the transcript, readable: time in ms, who, what."""
    time, who, what = note
    return f"{time * 1000:12.3f} {who:<10} {what}"


class SimClock:
    """The clock of one machine: it may start anywhere, run a little fast or slow, and its wall time may jump."""

    __slots__ = ("_offset", "_rate", "_wall_offset_ms", "_world")

    def __init__(self, world: World, *, offset: float = 0.0, rate: float = 1.0, wall_offset_ms: int = 0) -> None:
        self._world = world
        self._offset = offset
        self._rate = rate
        self._wall_offset_ms = wall_offset_ms

    def now(self) -> float:
        return self._world.now * self._rate + self._offset

    def wall_ms(self) -> int:
        return WALL_AT_ZERO_MS + int(self._world.now * 1000 * self._rate) + self._wall_offset_ms

    def jump(self, milliseconds: int) -> None:
        """Move the wall clock, as an administrator or a time service would."""
        self._wall_offset_ms += milliseconds

    def true_time(self, reading: float) -> float:
        """When (world time, s) this clock's monotonic reading will be ``reading``."""
        return (reading - self._offset) / self._rate
