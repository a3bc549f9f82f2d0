"""Messages handled inside a database's own transactions, each of which also stores how far the partition is done.

The database says where a consumer goes on; the group's cursor follows it, for those who look at the lag. As a story:
(1) a consumer stands still for so long that its partition is given to another one, under the next owner epoch; (2) the
new one writes that epoch into the database before it asks where to begin, and so waits for a transaction of the old one
that is not over; (3) the old one wakes and goes on: its next transaction names an epoch that is over, and is refused
with "consumer-fenced", results and all.

Invariant: of each partition one transaction runs at a time here, in the order of offsets.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeVar

from corgi.base.errors import CorgiError
from corgi.base.limits import MIB
from corgi.client.consumption import ConsumeOptions, Consumption
from corgi.client.core.subscriber import Start
from corgi.client.failing import Failures, dead_topic, text_of
from corgi.client.held import Delivered, Flight, Held, UnitState
from corgi.client.publishing import Publisher
from corgi.client.shell import Shell
from corgi.client.topics import Topics, ask_for
from corgi.client.words import Duration
from corgi.wire.group_messages import Cursors, CursorsReply

logger = logging.getLogger("corgi.client")
QUEUED_MAX = 4  # transactions of a partition that wait for their turn; then no more of it is taken
QUEUED_BYTES = 16 * MIB  # likewise
NOT_BEGUN = -1
R = TypeVar("R")


class LocalUnit(NamedTuple):
    """A partition as a database knows it. ``topic_id`` tells a topic from an earlier one of the same name."""

    cluster: str
    group: str
    topic: str
    topic_id: int
    partition: int


class StoreTroubleError(Exception):
    """The database cannot be reached, or is busy: no message is to blame, and what became of a commit is not known."""


class HandlerFailedError(Exception):
    """The transaction was rolled back because of what its handler did."""

    def __init__(self, error: Exception) -> None:
        super().__init__(text_of(error))
        self.error = error


class Store(Protocol):
    """A database. All raise StoreTroubleError, and CorgiError "consumer-fenced" if the unit was claimed under a higher
    owner epoch."""

    @property
    def concurrency(self) -> int:
        """How many transactions it takes at a time."""
        ...

    async def claim(self, unit: LocalUnit, owner_epoch: int) -> int:
        """From here on only this owner epoch (and higher ones) may act; the next offset, -1 if nothing was done yet."""
        ...

    async def act(
        self, unit: LocalUnit, owner_epoch: int, messages: Sequence[Delivered[Any]], next_offset: int
    ) -> None:
        """One transaction: the handler with these messages, if there are any, and the next offset.

        Raises HandlerFailedError; "checkpoint-moved" if what is stored is beyond the first message."""
        ...


class LocalStatistics(NamedTuple):
    """Sums over a run. ``handled``: messages; ``failed``: transactions that were rolled back; ``dead``: messages that
    went to the dead-letter topic."""

    handled: int
    transactions: int
    failed: int
    dead: int
    handovers: int
    lost_units: int


class _Lane:
    """What waits of one unit. ``size``: so many messages in the next transaction."""

    def __init__(self, held: Held, size: int) -> None:
        self.held = held
        self.size = size
        self.queue: deque[Delivered[Any]] = deque()
        self.bytes = 0
        self.task: asyncio.Task[None] | None = None


class LocalRun:
    """One run. ``batch_max``: messages in one transaction."""

    def __init__(
        self,
        shell: Shell,
        publisher: Publisher,
        store: Store,
        consume: ConsumeOptions,
        failures: Failures,
        batch_max: int,
    ) -> None:
        self._shell = shell
        self._publisher = publisher
        self._store = store
        self._failures = failures
        self._batch_max = batch_max
        self._turns = asyncio.Semaphore(store.concurrency)
        self._lanes: dict[Held, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._fault: Exception | None = None
        self._handled = self._transactions = self._failed = 0
        self._consumption = Consumption(shell, consume, self, self, self._begin)

    async def run(self, stop: asyncio.Event | None) -> LocalStatistics:
        """Until ``stop`` is set, or for ever. Raises what made it impossible to go on."""
        taking = self._shell.loop.create_task(self._take())
        waiting = {taking}
        if stop is not None:
            waiting.add(self._shell.loop.create_task(self._watch(stop)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            self._stopped.set()
            if self._tasks and self._consumption.error is None:
                await asyncio.wait(self._tasks, timeout=self._consumption.options.wish.rebalance_ms / 1000)
        finally:
            self._stopped.set()
            for task in [*waiting, *self._tasks]:
                task.cancel()
            await asyncio.gather(*waiting, *self._tasks, return_exceptions=True)
            await self._consumption.close()
        if self._fault is not None:
            raise self._fault
        if self._consumption.error is not None:
            raise self._consumption.error
        consumption = self._consumption
        return LocalStatistics(
            self._handled,
            self._transactions,
            self._failed,
            self._failures.dead,
            consumption.handovers,
            consumption.lost_units,
        )

    # The consumption's facts

    def notify(self) -> None:
        self._changed.set()

    def drained(self, held: Held) -> None:
        """What waits is for its next owner."""
        self._lanes.pop(held, None)

    def dropped(self, held: Held) -> None:
        self.drained(held)

    def stored(self, held: Held, flight: Flight) -> None:
        """The cursor has followed."""
        self._changed.set()

    # Settling by hand: it is the transaction that settles

    def ack(self, message: Delivered[Any]) -> None:
        raise _settled_by_transaction()

    def retry(self, message: Delivered[Any], after: Duration | None) -> None:
        raise _settled_by_transaction()

    def reject(self, message: Delivered[Any], reason: str) -> None:
        raise _settled_by_transaction()

    def extend(self, message: Delivered[Any], by: Duration | None) -> None:
        raise _settled_by_transaction()

    def failed(self, message: Delivered[Any], error: Exception) -> None:
        raise _settled_by_transaction()

    def finished(self, held: Held) -> None:
        self._consumption.finished(held)

    @property
    def settled_before(self) -> bool:
        return False

    # Beginning

    async def _begin(self, held: Held) -> int:
        """Where the database says that a unit goes on, or the user, if it says nothing."""
        try:
            return await self._until_answered(held, lambda: self._claim(held))
        except CorgiError as error:
            if error.code == "consumer-fenced":
                await self._check_lost(held, error)
            raise
        except Exception as fault:
            self._end(fault)
            raise CorgiError("closed", f"the database raised {text_of(fault)}") from fault

    async def _claim(self, held: Held) -> int:
        offset = await self._store.claim(self._unit(held), held.owner_epoch)
        if offset == NOT_BEGUN:
            offset = await self._start_of(held)
            await self._store.act(self._unit(held), held.owner_epoch, (), offset)
        return offset

    async def _until_answered(self, held: Held, ask: Callable[[], Awaitable[R]]) -> R:
        """Ask again as long as the database or the cluster does not answer."""
        failures = 0
        while True:
            try:
                return await ask()
            except (StoreTroubleError, CorgiError) as trouble:
                if isinstance(trouble, CorgiError) and not trouble.retryable:
                    raise
                failures += 1
                logger.warning("%s/%d cannot go on for now: %s", held.topic, held.partition, trouble)
            await asyncio.sleep(self._failures.pause_s(failures))

    def _end(self, fault: Exception) -> None:
        if self._fault is None:
            self._fault = fault
        self._changed.set()

    def _unit(self, held: Held) -> LocalUnit:
        routing, wish = self._shell.core.routing, self._consumption.options.wish
        return LocalUnit(routing.cluster, wish.group, held.topic, int(held.topic_id), held.partition)

    async def _check_lost(self, held: Held, error: CorgiError) -> None:
        """Raises CorgiError if the cluster says that the unit is ours all the same."""
        wish = self._consumption.options.wish
        question = Cursors(wish.group, (held.unit,))
        reply = await self._until_answered(held, lambda: ask_for(self._shell, question, CursorsReply))
        cursor = reply.cursors[0]
        if (cursor.owner_epoch, cursor.member) == (held.owner_epoch, self._consumption.membership.member):
            raise CorgiError(
                "invalid-argument",
                f"{error.message}; but the cluster knows of no later owner than epoch {held.owner_epoch}",
                hint=f"if the group {wish.group!r} was deleted and made anew, have the database forget the old one",
            )

    async def _start_of(self, held: Held) -> int:
        start = self._consumption.options.start
        if isinstance(start, dict):
            start = start.get(held.partition, Start("earliest"))
        if start.kind == "offset":
            return start.number
        if start.kind == "time":
            held.not_before_ms = start.number
        at = start.number if start.kind == "time" else start.kind
        return (await Topics(self._shell).offsets(held.topic, at))[held.partition]

    # Taking

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()

    async def _take(self) -> None:
        """Put what arrives into lanes, until something makes it impossible."""
        while self._fault is None and self._consumption.error is None and not self._stopped.is_set():
            messages = self._consumption.take()
            if not messages:
                self._changed.clear()
                await self._changed.wait()
                continue
            held: Held = messages[0].held
            lane = self._lanes.get(held)
            if lane is None:
                lane = self._lanes[held] = _Lane(held, self._batch_max)
            lane.queue.extend(messages)
            lane.bytes += sum(map(_size, messages))
            if len(lane.queue) > QUEUED_MAX * self._batch_max or lane.bytes > QUEUED_BYTES:
                held.full = True
            if lane.task is None:
                lane.task = self._shell.loop.create_task(self._work(lane))
                self._tasks.add(lane.task)
                lane.task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0)

    async def _work(self, lane: _Lane) -> None:
        """One transaction after the other, as long as something waits and the unit is ours."""
        held = lane.held
        try:
            while lane.queue and held.may_begin() and not self._stopped.is_set() and self._lanes.get(held) is lane:
                async with self._turns:
                    if not held.may_begin() or self._stopped.is_set():
                        break
                    pause_s = await self._transact(lane)
                if held.full and len(lane.queue) <= self._batch_max and lane.bytes <= QUEUED_BYTES:
                    held.full = False
                    self._changed.set()
                if pause_s:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stopped.wait(), pause_s)
        except CorgiError as error:
            await self._refused(held, error)
        except Exception as fault:  # noqa: BLE001 - raised to who runs it
            self._end(fault)
        finally:
            lane.task = None
            if held.state is UnitState.DRAINING:
                self._consumption.finished(held)

    async def _refused(self, held: Held, error: CorgiError) -> None:
        if error.code != "consumer-fenced":
            self._consumption.fail(error)
            return
        logger.warning("%s/%d: %s", held.topic, held.partition, error)
        if held.state is UnitState.GONE:
            return
        try:
            await self._check_lost(held, error)
        except CorgiError as worse:
            self._consumption.fail(worse)
        else:
            self._consumption.fenced(held)

    async def _transact(self, lane: _Lane) -> float:
        """The next messages in one transaction; how long to wait before the next one."""
        held = lane.held
        some = [lane.queue.popleft() for _ in range(min(lane.size, len(lane.queue)))]
        lane.bytes -= sum(map(_size, some))
        held.running += 1
        try:
            await self._store.act(self._unit(held), held.owner_epoch, some, some[-1].offset + 1)
        except StoreTroubleError as trouble:
            return await self._in_doubt(lane, some, trouble)
        except HandlerFailedError as failed:
            return await self._rolled_back(lane, some, failed.error)
        finally:
            held.running -= 1
        lane.size = min(self._batch_max, lane.size * 2)
        self._committed(held, some)
        return 0.0

    async def _rolled_back(self, lane: _Lane, some: list[Delivered[Any]], error: Exception) -> float:
        """Try again, one message at a time, so that the one that fails is found."""
        self._failed += 1
        message, held = some[0], lane.held
        where = f"{message.topic}/{message.partition} at offset {message.offset}"
        if len(some) > 1:
            logger.info("%s and %d more: %s; each alone now", where, len(some) - 1, text_of(error))
        elif message.attempt < self._failures.attempts:
            logger.info("%s, attempt %d of %d: %s", where, message.attempt, self._failures.attempts, text_of(error))
            message.attempt += 1
        else:
            try:
                await self._bury(held, message, error)
            except (StoreTroubleError, CorgiError) as trouble:
                if isinstance(trouble, CorgiError) and not trouble.retryable:
                    raise
                logger.warning("%s cannot be moved for now: %s", where, trouble)
            else:
                logger.warning("%s: %s; moved to the dead letters", where, text_of(error))
                self._done(held, some)
                return 0.0
        lane.size = 1
        self._put_back(lane, some)
        return self._failures.pause_s(message.attempt)

    async def _in_doubt(self, lane: _Lane, some: list[Delivered[Any]], trouble: StoreTroubleError) -> float:
        """Perhaps it is stored: ask when the database can be asked again, as at the beginning."""
        held = lane.held
        logger.warning("%s/%d at offset %d: %s", held.topic, held.partition, some[0].offset, trouble)
        done_to = await self._begin(held)
        done = [message for message in some if message.offset < done_to]
        if done:
            self._committed(held, done)
        else:
            self._failed += 1
        self._put_back(lane, some[len(done) :])
        return self._failures.pause_s(1)

    def _put_back(self, lane: _Lane, some: list[Delivered[Any]]) -> None:
        lane.queue.extendleft(reversed(some))
        lane.bytes += sum(map(_size, some))

    async def _bury(self, held: Held, message: Delivered[Any], error: Exception) -> None:
        """First the dead letter, then the database: a crash in between leaves two of them, and never none."""
        result = await self._failures.bury(message, error)
        key, value, headers, _ = result.fields
        topic = dead_topic(message.topic, self._consumption.options.wish.group)
        await self._publisher.publish(
            topic, value, key=key, headers=headers, timestamp=message.timestamp, partition=result.partition
        )
        await self._store.act(self._unit(held), held.owner_epoch, (), message.offset + 1)

    def _committed(self, held: Held, some: Sequence[Delivered[Any]]) -> None:
        self._transactions += 1
        self._handled += len(some)
        self._done(held, some)

    def _done(self, held: Held, some: Sequence[Delivered[Any]]) -> None:
        for message in some:
            held.progress.open.pop(message.offset, None)
        self._consumption.finished(held)


def _settled_by_transaction() -> CorgiError:
    return CorgiError(
        "invalid-argument",
        "a message is done when the transaction of its handler is",
        hint="raise an exception to have the transaction rolled back",
    )


def _size(message: Delivered[Any]) -> int:
    return len(message.value or b"") + len(message.key or b"")
