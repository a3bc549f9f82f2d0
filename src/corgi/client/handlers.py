"""``mq.run``: a handler for each message, many at a time, one at a time for each key.

No task is made for a message: as many workers as ``concurrency`` says take messages that are ready and run the handler
in a loop, so a handler that need not wait costs no more than its coroutine.

Invariant: of each lane (a key, or a partition) one message is in work at a time, in the order of offsets; one that
failed keeps its lane until it is done, moved to another topic, or given up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from corgi.base.errors import CorgiError
from corgi.client.consumption import OPEN_MAX, ConsumeOptions, Consumption
from corgi.client.core.lanes import Lanes
from corgi.client.failing import Failures
from corgi.client.handling import Handler, Handling, RunOptions
from corgi.client.held import Delivered, Flight, Held, UnitState
from corgi.client.messages import Message
from corgi.client.shell import Shell

LOW = 256  # ready messages below which more are taken
TURN_S = 0.005  # workers that never have to wait let the loop turn after this
TURN_MESSAGES = 32  # and look at the clock so rarely
Ready = tuple[Delivered[Any], Lanes[Delivered[Any]] | None]


class RunStatistics(NamedTuple):
    """Sums over a run. ``handled``: handlers that ended well; ``failed``: tries that did not; ``two_phase``: of the
    commits those that took two phases, because results lay in other Paxos groups than their input."""

    handled: int
    failed: int
    retried: int
    dead: int
    handovers: int
    lost_units: int
    commits: int
    two_phase: int


class Run:
    """One run of a handler over what its member holds of the group."""

    def __init__(
        self,
        shell: Shell,
        handler: Handler,
        consume: ConsumeOptions,
        options: RunOptions,
        failures: Failures,
        decode: Callable[[Message[bytes]], Any] | None = None,
    ) -> None:
        self.stopping = False
        self._loop = shell.loop
        self._options = options
        self._failures = failures
        self._by_key = options.order == "key"
        self._by_partition = options.order == "partition"
        self._first = consume.semantics == "at_most_once"  # the checkpoint comes first
        self._ready: deque[Delivered[Any]] = deque()
        self._resumed: deque[Ready] = deque()
        self._retried: dict[int, asyncio.TimerHandle] = {}  # by the message's id()
        self._limbo = 0  # messages whose checkpoint has to be stored before they are handled
        self._more = True
        self._full = False
        self._idle: deque[asyncio.Future[None]] = deque()
        self._workers: list[asyncio.Task[None]] = []
        self._current: list[Delivered[Any] | None] = []
        self._evicted: set[int] = set()
        self._fault: BaseException | None = None
        self._ended = asyncio.Event()
        self._handling = Handling(shell, handler, consume.semantics, options, failures, decode, self)
        self.consumption = self._handling.consumption = Consumption(shell, consume, self, self._handling)

    async def run(self, stop: asyncio.Event | None = None) -> RunStatistics:
        """Until ``stop`` is set, or for ever. Raises what made it impossible to go on; when it is cancelled, handlers
        are cancelled, and what is done is stored before the cancellation goes on."""
        count = self._options.concurrency
        self._current = [None] * count
        self._workers = [self._loop.create_task(self._work(number)) for number in range(count)]
        stopper = None if stop is None else self._loop.create_task(self._watch(stop))
        try:
            await self._ended.wait()
            self.stopping = True
            self._wake(count)
            if self._fault is None and self.consumption.error is None:
                await asyncio.wait(self._workers, timeout=self.consumption.options.wish.rebalance_ms / 1000)
        finally:
            self.stopping = True
            for task in [*self._workers, *([stopper] if stopper is not None else [])]:
                task.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
            for timer in self._retried.values():
                timer.cancel()
            await self.consumption.close()
        if self._fault is not None:
            raise self._fault
        if self.consumption.error is not None:
            raise self.consumption.error
        return self.statistics()

    def statistics(self) -> RunStatistics:
        return RunStatistics(
            self._handling.handled,
            self._handling.failed_tries,
            self._failures.retried,
            self._failures.dead,
            self.consumption.handovers,
            self.consumption.lost_units,
            self.consumption.committer.commits,
            self.consumption.committer.two_phase,
        )

    # The consumption's facts

    def notify(self) -> None:
        self._more = True
        if self.consumption.error is not None:
            self._ended.set()
        self._wake(1)

    def drained(self, held: Held) -> None:
        """Nothing begins any more: workers pass over what is ready of it."""

    def dropped(self, held: Held) -> None:
        """What still runs of it is for nothing, and its successor may be at the same key by now."""
        for number, message in enumerate(self._current):
            if message is not None and message.held is held and number not in self._evicted:
                self._evicted.add(number)
                self._workers[number].cancel()

    def stored(self, held: Held, flight: Flight) -> None:
        if flight.handed:
            self._limbo -= len(flight.handed)
            self._ready.extend(flight.handed)
        self._more = True
        self._wake(max(1, len(flight.handed)))

    # What its handling tells

    def end(self, fault: BaseException) -> None:
        if self._fault is None:
            self._fault = fault
        self._ended.set()

    def try_again(self, message: Delivered[Any], lanes: Lanes[Delivered[Any]] | None, pause_s: float) -> None:
        self._retried[id(message)] = self._loop.call_later(pause_s, self._resume, message, lanes)

    # Workers

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._ended.set()

    async def _work(self, number: int) -> None:
        try:
            await self._take_turns(number)
        except asyncio.CancelledError:
            raise
        except BaseException as fault:
            self.end(fault)
            raise

    async def _take_turns(self, number: int) -> None:
        now = self._loop.time
        turned_at, count = now(), 0
        while not self.stopping:
            if self._evicted and number in self._evicted:
                await self._absorb(number)
            found = self._next()
            if found is None:
                await self._wait()
                turned_at, count = now(), 0
                continue
            count += await self._follow(number, *found)
            if count >= TURN_MESSAGES:
                count = 0
                if now() - turned_at > TURN_S:
                    await asyncio.sleep(0)
                    turned_at = now()

    def _next(self) -> Ready | None:
        """A message that may be handled now; it has its lane, if it needs one."""
        ready = self._ready
        while True:
            if self._resumed:
                return self._resumed.popleft()
            if self._more and len(ready) < LOW:
                self._fill()
            if not ready:
                if self._resumed:
                    continue
                return None
            message = ready.popleft()
            held: Held = message.held
            if held.state is not UnitState.ACTIVE:
                continue
            if self._by_key:
                if message.key is None:
                    return message, None
                key: bytes | int = message.key
            elif self._by_partition:
                key = 0
            else:
                return message, None
            if held.lanes.enter(key, message):
                return message, held.lanes

    async def _follow(self, number: int, message: Delivered[Any], lanes: Lanes[Delivered[Any]] | None) -> int:
        """Handle a message, and those that waited in its lane meanwhile; returns how many."""
        held: Held = message.held
        count = 0
        following: Delivered[Any] | None = message
        while following is not None:
            message = following
            if self.stopping or not held.may_begin():
                break
            self._current[number] = message
            held.running += 1
            count += 1
            try:
                left = await self._handling.handle(message, held)
            except asyncio.CancelledError:
                if number not in self._evicted:
                    raise
                await self._absorb(number)
                break
            finally:
                self._current[number] = None
                held.running -= 1
                if not held.running and not held.may_begin():
                    self.consumption.finished(held)
            if self._full:
                self._more = True
            if lanes is None or not left:
                break
            following = lanes.leave((message.key or b"") if self._by_key else 0)
            if count >= TURN_MESSAGES and following is not None:
                self._resumed.append((following, lanes))
                break
        return count

    async def _absorb(self, number: int) -> None:
        """Take in a cancellation that was meant for a handler and not for its worker."""
        self._evicted.discard(number)
        task = self._workers[number]
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self.stopping:
                raise
        while task.cancelling():
            task.uncancel()

    async def _wait(self) -> None:
        future = self._loop.create_future()
        self._idle.append(future)
        try:
            await future
        finally:
            if not future.done() or future.cancelled():
                self._idle = deque([one for one in self._idle if one is not future])

    def _wake(self, count: int) -> None:
        idle = self._idle
        while idle and count > 0:
            future = idle.popleft()
            if not future.done():
                future.set_result(None)
                count -= 1

    def _fill(self) -> None:
        """Take what can be taken, as far as that is wanted."""
        ready = self._ready
        before = len(ready)
        while len(ready) < LOW and self._limbo < OPEN_MAX:
            try:
                messages = self.consumption.take()
            except CorgiError as error:
                self.end(error)
                return
            self._full = messages is None
            if not messages:
                self._more = False
                break
            if messages[0].topic in self.consumption.options.optional:
                messages = self._due(messages)
            if self._first:
                self._hand_later(messages)
            else:
                ready.extend(messages)
        self._wake(len(ready) - before - 1)

    def _hand_later(self, messages: list[Delivered[Any]]) -> None:
        """At most once: they count as done, and are handled when that is stored."""
        touched: dict[Held, None] = {}
        for message in messages:
            held = message.held
            held.progress.done(message.offset)
            held.handed.append(message)
            touched[held] = None
        self._limbo += len(messages)
        for held in touched:
            self.consumption.committer.touch(held, now=True)

    def _due(self, messages: list[Delivered[Any]]) -> list[Delivered[Any]]:
        """Those of a retry topic whose time has come; the others come when theirs does."""
        due = []
        for message in messages:
            wait_s = self._failures.restore(message)
            if wait_s <= 0:
                due.append(message)
            else:
                self.try_again(message, None, wait_s)
        return due

    def _resume(self, message: Delivered[Any], lanes: Lanes[Delivered[Any]] | None) -> None:
        """Another try."""
        del self._retried[id(message)]
        if message.held.state is UnitState.ACTIVE and message.offset in message.held.progress.open:
            self._resumed.append((message, lanes))
            self._wake(1)
