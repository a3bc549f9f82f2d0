"""``mq.run``: a handler for each message, many at a time, one at a time for each key.

No task is made for a message: as many workers as ``concurrency`` says take messages that are ready and run the handler
in a loop, so a handler that need not wait costs no more than its coroutine.

Invariant: of each lane (a key, or a partition) one message is in work at a time, in the order of offsets; one that
failed keeps its lane until it is done, moved to another topic, or given up.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from corgi.base.errors import CorgiError
from corgi.client.consumption import OPEN_MAX, ConsumeOptions, Consumption
from corgi.client.core.lanes import Lanes
from corgi.client.failing import Failures, Rejected, text_of
from corgi.client.held import Delivered, Finished, Flight, Held, Result, UnitState, check_held
from corgi.client.messages import Message
from corgi.client.results import Results, placed
from corgi.client.shell import Shell
from corgi.client.words import Duration, seconds

logger = logging.getLogger("corgi.client")
LOW = 256  # ready messages below which more are taken
TURN_S = 0.005  # workers that never have to wait let the loop turn after this
TURN_MESSAGES = 32  # and look at the clock so rarely
Handler = Callable[..., Any]
Ready = tuple[Delivered[Any], Lanes[Delivered[Any]] | None]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How handlers run. Times in seconds; ``handler_timeout_s`` 0: none."""

    concurrency: int = 64
    order: str = "key"
    retry: str = "place"
    handler_timeout_s: float = 0.0


class RunStatistics(NamedTuple):
    """Sums over a run. ``handled``: handlers that ended well; ``failed``: tries that did not."""

    handled: int
    failed: int
    retried: int
    dead: int
    handovers: int
    lost_units: int
    commits: int


class _Again(Exception):
    """The handler asked for another try."""

    def __init__(self, after_s: float | None) -> None:
        super().__init__("another try was asked for")
        self.after_s = after_s


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
        self.handled = 0
        self.failed_tries = 0
        self._shell = shell
        self._loop = shell.loop
        self._handler = handler
        self._options = options
        self._failures = failures
        self._decode = decode
        self._awaits = inspect.iscoroutinefunction(handler)
        self._by_key = options.order == "key"
        self._by_partition = options.order == "partition"
        self._exact = consume.semantics == "exactly_once"
        self._first = consume.semantics == "at_most_once"  # the checkpoint comes first
        self._wants_results = self._exact and _takes_two(handler)
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
        self._timeouts: dict[int, asyncio.Timeout] = {}
        self._stopping = False
        self._fault: BaseException | None = None
        self._ended = asyncio.Event()
        self.consumption = Consumption(shell, consume, self, self)

    async def run(self, stop: asyncio.Event | None = None) -> RunStatistics:
        """Until ``stop`` is set, or for ever. Raises what made it impossible to go on; when it is cancelled, handlers
        are cancelled, and what is done is stored before the cancellation goes on."""
        count = self._options.concurrency
        self._current = [None] * count
        self._workers = [self._loop.create_task(self._work(number)) for number in range(count)]
        stopper = None if stop is None else self._loop.create_task(self._watch(stop))
        try:
            await self._ended.wait()
            self._stopping = True
            self._wake(count)
            if self._fault is None and self.consumption.error is None:
                await asyncio.wait(self._workers, timeout=self.consumption.options.wish.rebalance_ms / 1000)
        finally:
            self._stopping = True
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
            self.handled,
            self.failed_tries,
            self._failures.retried,
            self._failures.dead,
            self.consumption.handovers,
            self.consumption.lost_units,
            self.consumption.committer.commits,
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

    # Settling, as handlers ask for it

    def ack(self, message: Delivered[Any]) -> None:
        check_held(message)

    def retry(self, message: Delivered[Any], after: Duration | None) -> None:
        check_held(message)
        message.verdict = _Again(None if after is None else seconds(after, "after"))

    def reject(self, message: Delivered[Any], reason: str) -> None:
        check_held(message)
        message.verdict = Rejected(reason or "rejected")

    def extend(self, message: Delivered[Any], by: Duration | None) -> None:
        check_held(message)
        timeout = self._timeouts.get(id(message))
        if timeout is not None:
            by_s = self._options.handler_timeout_s if by is None else seconds(by, "by")
            timeout.reschedule(self._loop.time() + by_s)

    def failed(self, message: Delivered[Any], error: Exception) -> None:
        check_held(message)
        message.verdict = error

    def finished(self, held: Held) -> None:
        self.consumption.finished(held)

    @property
    def settled_before(self) -> bool:
        return self._first

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
            self._end(fault)
            raise

    async def _take_turns(self, number: int) -> None:
        now = self._loop.time
        turned_at, count = now(), 0
        while not self._stopping:
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
            if self._stopping or not held.may_begin():
                break
            self._current[number] = message
            held.running += 1
            count += 1
            try:
                left = await self._handle(message, held)
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
            if self._stopping:
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
                self._end(error)
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
                self._retried[id(message)] = self._loop.call_later(wait_s, self._resume, message, None)
        return due

    def _resume(self, message: Delivered[Any], lanes: Lanes[Delivered[Any]] | None) -> None:
        """Another try."""
        del self._retried[id(message)]
        if message.held.state is UnitState.ACTIVE and message.offset in message.held.progress.open:
            self._resumed.append((message, lanes))
            self._wake(1)

    def _end(self, fault: BaseException) -> None:
        if self._fault is None:
            self._fault = fault
        self._ended.set()

    # One message

    async def _handle(self, message: Delivered[Any], held: Held) -> bool:
        """Run the handler and settle the message; False if it keeps its lane for another try."""
        results = Results() if self._exact else None
        try:
            if self._decode is not None:
                message.value = self._decoded(message)
            if self._options.handler_timeout_s:
                returned = await self._in_time(message, results)
            elif self._awaits and not self._wants_results:
                returned = await self._handler(message)
            else:
                returned = await self._call(message, results)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stopping or (task is not None and task.cancelling()):
                raise
            return await self._settle_failed(message, held, asyncio.CancelledError("it cancelled itself"))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises
            return await self._settle_failed(message, held, error)
        if message.verdict is not None:
            verdict, message.verdict = message.verdict, None
            return await self._settle_failed(message, held, verdict)
        self.handled += 1
        if results is not None:
            try:
                results.add(returned)
                found = await placed(self._shell, results, message)
            except CorgiError as error:
                self._end(error)
                return False
            self._finish(message, held, found)
        elif not self._first:
            held.progress.open.pop(message.offset, None)
            self.consumption.committer.touch(held)
        return True

    async def _call(self, message: Delivered[Any], results: Results | None) -> object:
        returned = self._handler(message, results) if self._wants_results else self._handler(message)
        return await returned if isinstance(returned, Awaitable) else returned

    async def _in_time(self, message: Delivered[Any], results: Results | None) -> object:
        timeout = asyncio.timeout(self._options.handler_timeout_s)
        self._timeouts[id(message)] = timeout
        try:
            async with timeout:
                return await self._call(message, results)
        except TimeoutError:
            if timeout.expired():
                raise CorgiError("handler-timeout") from None
            raise
        finally:
            del self._timeouts[id(message)]

    def _decoded(self, message: Delivered[Any]) -> Any:
        if message.value is None or type(message.value) is not bytes or self._decode is None:
            return message.value
        try:
            return self._decode(message).value
        except CorgiError as error:
            raise Rejected(str(error)) from error  # it will not decode better next time

    def _finish(self, message: Delivered[Any], held: Held, results: tuple[Result, ...]) -> None:
        if held.state is UnitState.GONE or message.offset not in held.progress.open:
            return
        held.finished.append(Finished(message.offset, results))
        self.consumption.committer.touch(held, now=True)

    async def _settle_failed(self, message: Delivered[Any], held: Held, error: BaseException) -> bool:
        self.failed_tries += 1
        place = f"{message.topic}/{message.partition} at offset {message.offset}"
        if self._first:
            logger.warning("%s was not handled, and will not be again: %s", place, text_of(error))
            return True
        dead = isinstance(error, Rejected) or message.attempt >= self._failures.attempts
        pause_s = self._failures.pause_s(message.attempt)
        if isinstance(error, _Again) and error.after_s is not None:
            pause_s = error.after_s
        if dead or self._options.retry == "topic":
            try:
                found = await (
                    self._failures.bury(message, error) if dead else self._failures.again(message, error, pause_s)
                )
            except CorgiError as fault:
                if not fault.retryable:
                    self._end(fault)
                    return False
                logger.warning("%s cannot be moved for now: %s", place, fault)
            else:
                where = "the dead letters" if dead else "the retry topic"
                logger.warning("%s, attempt %d: %s; moved to %s", place, message.attempt, text_of(error), where)
                self._finish(message, held, (found,))
                return True
        else:
            logger.info("%s, attempt %d of %d: %s", place, message.attempt, self._failures.attempts, text_of(error))
            self._failures.retried += 1
            message.attempt += 1
        lanes = held.lanes if self._options.order == "partition" or message.key is not None else None
        lanes = None if self._options.order == "none" else lanes
        self._retried[id(message)] = self._loop.call_later(pause_s, self._resume, message, lanes)
        return False


def _takes_two(handler: Handler) -> bool:
    """Does the handler want ``tx`` as well?"""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len([one for one in parameters if one.kind in kinds and one.default is one.empty]) >= 2
