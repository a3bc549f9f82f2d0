"""Checkpoints on their way: coalesced, one in flight for each unit, sent again as they are until the outcome is known.

As a story: (1) a checkpoint with results is sent and the connection breaks; (2) nobody knows whether it is stored; (3)
the same is sent again, naming the version of the cursor that it replaces; (4) a cursor that has that checkpoint already
says so, and the results are not stored twice. So a flight is never changed, and none follows before it has landed.
What lies in several Paxos groups goes another way, see ``commit_transactions``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from corgi.base.errors import CorgiError, error_from_number
from corgi.client.commit_transactions import CommitTransactions
from corgi.client.core.backoff import Backoff
from corgi.client.core.links import Answer
from corgi.client.flights import prepare
from corgi.client.held import Flight, Held, UnitState
from corgi.client.shell import Shell
from corgi.wire.group_messages import Commit, CommitReply

ENTRIES_MAX = 500
COMMIT_TIMEOUT_MS = 10_000
ABORT_S = 1.0
AGAIN = frozenset(("outcome-unknown", "transaction-aborted", "transaction-ended", "transaction-fenced"))
logger = logging.getLogger("corgi.client")


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
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False  # at the end of this turn
        self._backoff = Backoff(0.01, 1.0, lambda: 0.5)
        self._transactions = CommitTransactions(shell)
        self._tasks: set[asyncio.Task[None]] = set()
        self.commits = 0
        self.two_phase = 0  # of them
        self.closed = False

    def touch(self, held: Held, *, now: bool = False) -> None:
        """Its progress moved. Of a unit that is gone nothing is stored: what was in work there is not told any more."""
        if held.state is UnitState.GONE:
            return
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

    async def close(self) -> None:
        """Give up what is on its way; one in two phases is aborted, as far as that can be told in a moment."""
        self.closed = True
        self._dirty.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=ABORT_S)

    def _arm(self, after_s: float) -> None:
        if self.closed or self._soon:
            return
        if after_s and self._timer is None:
            self._timer = self._shell.loop.call_later(after_s, self._shell.before_end, self._flush)
        elif not after_s:
            self._soon = True
            self._shell.before_end(self._flush)

    def _flush(self) -> None:
        """Start a flight for each unit that has something to store and none in the air."""
        self._soon = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.closed:
            return
        now = self._shell.loop.time()
        together: dict[int, list[tuple[Held, Flight]]] = {}
        wait_s: float | None = None
        for held in list(self._dirty):
            if held.flying:
                continue
            if held.retry_at > now:
                wait_s = min(held.retry_at - now, wait_s or held.retry_at)
                continue
            group = self._shell.core.routing.group_of(held.topic, held.partition)
            flight = held.flight or self._prepare(held, group)
            if flight is None:
                continue
            held.flying = True
            if flight.two_phase:
                self._start_transaction(group, held, flight)
            elif flight.parts:
                self._send(group, [(held, flight)])
            else:
                together.setdefault(group, []).append((held, flight))
        for group, flights in together.items():
            for at in range(0, len(flights), ENTRIES_MAX):
                self._send(group, flights[at : at + ENTRIES_MAX])
        if wait_s is not None:
            self._arm(wait_s)

    def _prepare(self, held: Held, group: int) -> Flight | None:
        """What is to be stored of it becomes its flight, if there is anything."""
        try:
            held.flight = prepare(held, group)
        except CorgiError as error:  # a result that no batch takes
            del self._dirty[held]
            self._landings.refused(held, error)
            return None
        if not held.finished:
            del self._dirty[held]
        if held.flight is None:
            self._landings.settled(held)
        return held.flight

    def _start_transaction(self, group: int, held: Held, flight: Flight) -> None:
        if not self.two_phase:
            logger.info(
                "consumer group %r: results of %s/%d lie in other Paxos groups, and are stored in two phases",
                self._group, held.topic, held.partition,
            )  # fmt: skip
        self.two_phase += 1
        self.commits += 1
        task = self._shell.loop.create_task(self._carry_out(group, held, flight))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, group: int, held: Held, flight: Flight) -> None:
        try:
            outcome = await self._transactions.store(self._group, self._member(), group, flight)
            self._judge(held, flight, outcome)
        except Exception as fault:  # noqa: BLE001 - a fault of the client itself, which nobody awaits
            self._shell.fail(fault)

    def _send(self, group: int, flights: list[tuple[Held, Flight]]) -> None:
        entries = tuple([flight.entry for _, flight in flights])
        parts = flights[0][1].parts if len(flights) == 1 else ()
        results = tuple([(part.topic, part.partition, len(part.batch)) for part in parts])
        payload = tuple([part.batch for part in parts])
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
            error: CorgiError | None
            if isinstance(answer, CommitReply) and place < len(answer.entries):
                number = answer.entries[place] or next((number for number, _, _ in answer.results if number), 0)
                error = error_from_number(number, answer.message) if number else None
            else:
                error = answer if isinstance(answer, CorgiError) else CorgiError("malformed-frame")
            self._judge(held, flight, error)

    def _judge(self, held: Held, flight: Flight, error: CorgiError | None) -> None:
        held.flying = False
        if held.flight is not flight or held.state is UnitState.GONE:
            return
        if error is None:
            held.flight = None
            held.version += 1
            held.committed = (flight.entry.offset, flight.entry.ranges)
            self._backoff.reset()
            self._landings.stored(held, flight)
            if held in self._dirty:
                self._arm(0.0 if held.finished or held.handed or held.state is UnitState.DRAINING else self._interval_s)
        elif error.retryable or error.code in AGAIN:
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
