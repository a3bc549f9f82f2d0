"""Who is served in this loop turn, and how much: fairness between clients and an end to each turn.

Work is a job of one client: a subscription with something to push, or a poll with an answer. There are two lanes, one
for those at the tail and one for those behind, each with a bound of its own per turn, so that a long backlog neither
holds the loop nor delays what was just applied, and busy tails do not starve who is behind. Within a lane clients take
turns, then the jobs of a client do. What is left goes on in the next turn.

A client that does not take what was sent to it is parked with its jobs; nothing is read for it until it drained.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from corgi.base.limits import CLIENT_OUTPUT_LOW
from corgi.base.ports import ClientSession
from corgi.delivery.limits import (
    BACKLOG_TURN_BATCHES,
    BACKLOG_TURN_BYTES,
    CLIENT_BUFFER_HIGH,
    PARKED_CHECK_S,
    TAIL_TURN_BATCHES,
    TAIL_TURN_BYTES,
)


class Turn:
    """What may still be served in this turn."""

    __slots__ = ("batches", "bytes")

    def __init__(self, batches: int, size: int) -> None:
        self.batches = batches
        self.bytes = size

    def spend(self, batches: int, size: int) -> None:
        self.batches -= batches
        self.bytes -= size


class Job(Protocol):
    """``queued`` and nothing else of a job belongs to the schedule."""

    client: ClientSession
    queued: bool

    @property
    def urgent(self) -> bool:
        """At the tail: what it serves was just applied."""
        ...

    def run(self, turn: Turn) -> bool:
        """Serve a part; True if more can be served at once."""
        ...

    def parked(self) -> None:
        """Hold no resource: the client is slow."""
        ...


class _Lane:
    """Jobs in the order of service: clients in turn, and of each client its jobs in turn."""

    __slots__ = ("_jobs", "_order")

    def __init__(self) -> None:
        self._order: deque[ClientSession] = deque()
        self._jobs: dict[ClientSession, deque[Job]] = {}

    def __bool__(self) -> bool:
        return bool(self._order)

    def add(self, job: Job) -> None:
        jobs = self._jobs.get(job.client)
        if jobs is None:
            self._jobs[job.client] = deque((job,))
            self._order.append(job.client)
        else:
            jobs.append(job)

    def take(self) -> Job:
        client = self._order.popleft()
        jobs = self._jobs[client]
        job = jobs.popleft()
        if jobs:
            self._order.append(client)
        else:
            del self._jobs[client]
        return job

    def remove(self, client: ClientSession) -> list[Job]:
        """All jobs of a client."""
        jobs = self._jobs.pop(client, None)
        if jobs is None:
            return []
        self._order.remove(client)
        return list(jobs)


class Schedule:
    """All jobs of a node that can be served. ``parkings`` counts how often a slow client was set aside."""

    __slots__ = ("_backlog", "_parked", "_parked_check", "_tail", "parkings")

    def __init__(self) -> None:
        self._tail = _Lane()
        self._backlog = _Lane()
        self._parked: dict[ClientSession, list[Job]] = {}
        self._parked_check: float | None = None
        self.parkings = 0

    def wake(self, job: Job) -> None:
        """Serve this job in this turn's ``run`` if there is room."""
        if not job.queued:
            job.queued = True
            (self._tail if job.urgent else self._backlog).add(job)

    def run(self, now: float) -> None:
        """Serve until the lanes are empty or the turn's bounds are reached."""
        if self._tail:
            self._serve(self._tail, Turn(TAIL_TURN_BATCHES, TAIL_TURN_BYTES))
        if self._backlog:
            self._serve(self._backlog, Turn(BACKLOG_TURN_BATCHES, BACKLOG_TURN_BYTES))
        if self._parked and self._parked_check is None:
            self._parked_check = now + PARKED_CHECK_S

    def drained(self, client: ClientSession) -> None:
        """The client takes bytes again."""
        for job in self._parked.pop(client, ()):
            job.queued = False
            self.wake(job)

    def advance(self, now: float) -> None:
        """Look at parked clients again: the low mark of their connections may not be ours."""
        if self._parked_check is None or now < self._parked_check:
            return
        self._parked_check = None
        for client in [client for client in self._parked if client.buffered() <= CLIENT_OUTPUT_LOW]:
            self.drained(client)
        if self._parked:
            self._parked_check = now + PARKED_CHECK_S

    def next_deadline(self, now: float) -> float | None:
        """When ``advance`` and ``run`` are due: now, if a turn ended with work left."""
        return now if self._tail or self._backlog else self._parked_check

    def remove(self, client: ClientSession) -> None:
        """The client is gone."""
        for job in (
            *self._tail.remove(client), *self._backlog.remove(client), *self._parked.pop(client, ())
        ):  # fmt: skip
            job.queued = False

    @property
    def clients_parked(self) -> int:
        return len(self._parked)

    def _serve(self, lane: _Lane, turn: Turn) -> None:
        while lane and turn.batches > 0 and turn.bytes > 0:
            job = lane.take()
            client = job.client
            if client.buffered() >= CLIENT_BUFFER_HIGH:
                self._park(job)
                continue
            job.queued = False
            if job.run(turn):
                self.wake(job)

    def _park(self, job: Job) -> None:
        job.parked()
        jobs = self._parked.get(job.client)
        if jobs is None:
            self._parked[job.client] = [job]
            self.parkings += 1
        else:
            jobs.append(job)
