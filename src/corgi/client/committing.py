"""Checkpoints on their way: coalesced, one in flight for each unit, sent again as they are until the outcome is known.

As a story: (1) a checkpoint with results is sent and the connection breaks; (2) nobody knows whether it is stored; (3)
the same is sent again, naming the version of the cursor that it replaces; (4) a cursor that has that checkpoint already
says so, and the results are not stored twice. So a flight is never changed, and none follows before it has landed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time
from typing import Protocol

from corgi.base.errors import CorgiError, error_from_number
from corgi.base.ids import Offset, TopicId
from corgi.base.limits import KIB
from corgi.base.records import RecordFields, encode_batch
from corgi.client.core.backoff import Backoff
from corgi.client.core.links import Answer
from corgi.client.held import Finished, Flight, Held, UnitState
from corgi.client.shell import Shell
from corgi.wire.group_messages import Commit, CommitEntry, CommitReply

RESULT_BYTES = 512 * KIB  # of one commit; a single message may have more
ENTRIES_MAX = 500
COMMIT_TIMEOUT_MS = 10_000


class Landings(Protocol):
    """Who is told what became of commits."""

    def stored(self, held: Held, flight: Flight) -> None: ...

    def settled(self, held: Held) -> None:
        """There was nothing to store."""
        ...

    def fenced(self, held: Held) -> None:
        """The unit belongs to another consumer."""
        ...

    def moved(self, held: Held) -> None:
        """The cursor is not where it was taken to be: read it again."""
        ...

    def refused(self, held: Held, error: CorgiError) -> None:
        """The commit cannot be stored, ever."""
        ...


class Committer:
    """Of one consumer. ``interval_s`` 0: at the end of the turn in which something moved."""

    def __init__(
        self, shell: Shell, group: str, member: Callable[[], str], interval_s: float, landings: Landings
    ) -> None:
        self._shell = shell
        self._group = group
        self._member = member
        self._interval_s = interval_s
        self._landings = landings
        self._dirty: dict[Held, None] = {}
        self._timer: asyncio.Handle | None = None
        self._backoff = Backoff(0.01, 1.0, lambda: 0.5)
        self.commits = 0
        self.closed = False

    def touch(self, held: Held, *, now: bool = False) -> None:
        """Its progress moved."""
        if held not in self._dirty:
            self._dirty[held] = None
            self._arm(0.0 if now else self._interval_s)
        elif now:
            self._arm(0.0)

    def idle(self, held: Held) -> bool:
        """Is everything that moved stored?"""
        return held not in self._dirty and held.flight is None

    def forget(self, held: Held) -> None:
        """The unit is gone."""
        self._dirty.pop(held, None)
        held.flight = None

    def close(self) -> None:
        self.closed = True
        self._dirty.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, after_s: float) -> None:
        if self.closed:
            return
        if self._timer is not None:
            if after_s:
                return
            self._timer.cancel()
        loop = self._shell.loop
        self._timer = loop.call_later(after_s, self._flush) if after_s else loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Start a flight for each unit that has something to store and none in the air."""
        self._timer = None
        now = self._shell.loop.time()
        together: dict[int, list[tuple[Held, Flight]]] = {}
        wait_s: float | None = None
        for held in list(self._dirty):
            if held.flying:
                continue
            if held.retry_at > now:
                wait_s = min(held.retry_at - now, wait_s or held.retry_at)
                continue
            if held.flight is None:
                held.flight = self._prepare(held)
                if not held.finished:
                    del self._dirty[held]
            if held.flight is None:
                self._landings.settled(held)
                continue
            held.flying = True
            group = self._group_of(held)
            if held.flight.results:
                self._send(group, [(held, held.flight)])
            else:
                together.setdefault(group, []).append((held, held.flight))
        for group, flights in together.items():
            for at in range(0, len(flights), ENTRIES_MAX):
                self._send(group, flights[at : at + ENTRIES_MAX])
        if wait_s is not None:
            self._arm(wait_s)

    def _group_of(self, held: Held) -> int:
        route = self._shell.core.routing.topics.get(held.topic)
        return route.groups[held.partition] if route is not None and held.partition < route.partitions else 0

    def _prepare(self, held: Held) -> Flight | None:
        """What is done now, as a flight; None if that is stored already."""
        taken = _take(held.finished)
        for one in taken:
            held.progress.done(one.offset)
        checkpoint = held.progress.checkpoint()
        if checkpoint == held.committed and not taken and not held.reset and not held.handed:
            return None
        batches: dict[tuple[TopicId, int], list[RecordFields]] = {}
        for one in taken:
            for topic, partition, fields in one.results:
                batches.setdefault((topic, partition), []).append(fields)
        payload = tuple([encode_batch(records) for records in batches.values()])
        results = tuple([(*place, len(batch)) for place, batch in zip(batches, payload, strict=True)])
        offset, ranges = checkpoint
        entry = CommitEntry(
            held.topic_id,
            held.partition,
            held.slice,
            held.owner_epoch,
            held.version,
            Offset(offset),
            ranges,
            held.metadata,
            held.reset,
        )
        handed, held.handed = held.handed, []
        held.reset = False
        return Flight(entry, results, payload, handed)

    def _send(self, group: int, flights: list[tuple[Held, Flight]]) -> None:
        entries = tuple([flight.entry for _, flight in flights])
        results = flights[0][1].results if len(flights) == 1 else ()
        payload = flights[0][1].payload if len(flights) == 1 else ()
        message = Commit(self._group, self._member(), COMMIT_TIMEOUT_MS, entries, results)
        self.commits += 1
        self._shell.core.ask(
            message,
            lambda _, answer, __: self._landed(flights, answer),
            group=group,
            timeout_s=2 * COMMIT_TIMEOUT_MS / 1000,
            payload=payload,
        )

    def _landed(self, flights: list[tuple[Held, Flight]], answer: Answer) -> None:
        for place, (held, flight) in enumerate(flights):
            held.flying = False
            if held.flight is not flight or held.state is UnitState.GONE:
                continue
            error: CorgiError | None
            if isinstance(answer, CommitReply) and place < len(answer.entries):
                number = answer.entries[place] or next((number for number, _, _ in answer.results if number), 0)
                error = error_from_number(number, answer.message) if number else None
            else:
                error = answer if isinstance(answer, CorgiError) else CorgiError("malformed-frame")
            self._judge(held, flight, error)

    def _judge(self, held: Held, flight: Flight, error: CorgiError | None) -> None:
        if error is None:
            held.flight = None
            held.version += 1
            held.committed = (flight.entry.offset, flight.entry.ranges)
            self._backoff.reset()
            self._landings.stored(held, flight)
            if held in self._dirty:
                self._arm(0.0 if held.finished or held.handed or held.state is UnitState.DRAINING else self._interval_s)
        elif error.retryable or error.code == "outcome-unknown":
            pause_s = self._backoff.next()
            held.retry_at = self._shell.loop.time() + pause_s
            self._dirty[held] = None
            self._arm(pause_s)
        elif error.code in ("consumer-fenced", "unknown-topic", "unknown-partition"):
            self._landings.fenced(held)
        elif error.code == "checkpoint-moved":
            self._landings.moved(held)
        else:
            self._landings.refused(held, error)


def _take(finished: list[Finished]) -> list[Finished]:
    """As many as one commit takes, out of the list."""
    if not finished:
        return []
    size = count = 0
    for one in finished:
        size += sum(
            len(fields[0] or b"") + len(fields[1] or b"") + 64 + sum(len(h[0]) + len(h[1] or b"") for h in fields[2])
            for _, _, fields in one.results
        )
        if count and size > RESULT_BYTES:
            break
        count += 1
    taken = finished[:count]
    del finished[:count]
    return taken


def now_ms() -> int:
    return int(time() * 1000)
