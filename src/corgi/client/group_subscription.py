"""Consuming in a group by iteration: messages, or batches of them, that the user settles.

async with mq.subscribe("orders", group="billing") as orders:
    async for m in orders:
        async with m:        # acknowledged when the block ends well, tried again later when it raises
            ...
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from corgi.base.errors import CorgiError
from corgi.client.consuming import consume_options, failures_of
from corgi.client.consumption import OPEN_MAX, ConsumeOptions, Consumption
from corgi.client.failing import Failures, Rejected, text_of
from corgi.client.held import Delivered, Finished, Flight, Held, UnitState, check_held
from corgi.client.messages import Message
from corgi.client.shell import Shell
from corgi.client.topics import Topics
from corgi.client.words import Duration, StartAt, Time, seconds

logger = logging.getLogger("corgi.client")
V = TypeVar("V")
TURN_S = 0.005


class GroupStatistics(NamedTuple):
    """A snapshot. ``units``: topic, partition, slice, owner epoch and checkpoint of what is held."""

    member: str
    units: tuple[tuple[str, int, int, int, int], ...]
    handovers: int
    lost_units: int
    commits: int
    retried: int
    dead: int


class Batch(list[Delivered[V]], Generic[V]):
    """Messages of one unit, in order. ``ack()`` or ``async with batch:`` settles them all."""

    def ack(self) -> None:
        """All of them are done. Raises "not-delivered" if some are not held any more; the others are acknowledged."""
        touched: dict[Held, None] = {}
        missing = 0
        for message in self:
            held: Held = message.held
            if held.progress.open.pop(message.offset, None) is None:
                missing += not held.keeper.settled_before
            else:
                held.running -= 1
                touched[held] = None
        for held in touched:
            held.keeper.finished(held)
        if missing:
            raise CorgiError(
                "not-delivered", f"{missing} of {len(self)} messages are not held by this consumer any more"
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            self.ack()
            return False
        if not isinstance(error, Exception):
            return False
        for message in self:
            if message.offset in message.held.progress.open:
                message.held.keeper.failed(message, error)
        return True


class GroupSubscription(Generic[V]):
    """A consumer of a group. Use ``async with``, or await ``close()``: it stores what is done and gives back the rest.

    What is handed out and never settled is delivered again, to whoever holds its partition next.
    """

    def __init__(
        self,
        shell: Shell,
        options: ConsumeOptions,
        failures: Failures,
        decode: Callable[[Message[bytes]], Message[V]] | None,
    ) -> None:
        self.topics = options.wish.topics
        self._shell = shell
        self._failures = failures
        self._decode = decode
        self._first = options.semantics == "at_most_once"
        self._waiting: deque[Delivered[Any]] = deque()
        self._again: dict[int, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._limbo = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._turned_at = shell.loop.time()
        self.consumption = Consumption(shell, options, self, self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivered[V]:
        while True:
            while self._waiting:
                message = self._waiting.popleft()
                if self._begin(message):
                    return message
            if not await self._more():
                raise StopAsyncIteration

    async def batches(self) -> AsyncIterator[Batch[V]]:
        """Batches of messages, each of one partition and in order."""
        while True:
            if self._waiting:
                held: Held = self._waiting[0].held
                batch: Batch[V] = Batch()
                while self._waiting and self._waiting[0].held is held:
                    message = self._waiting.popleft()
                    if self._begin(message):
                        batch.append(message)
                if batch:
                    yield batch
            elif not await self._more():
                return

    async def ready(self) -> None:
        """Wait until this consumer is a member of its group and streams what it was given."""
        while not self.consumption.streaming:
            if self.consumption.error is not None:
                raise self.consumption.error
            await self._wait()

    async def seek(self, at: Time | str, *, partition: int | None = None, topic: str | None = None) -> None:
        """Go on at "earliest", "latest", a time or an offset, in one partition or in all that this consumer holds.

        What is unsettled there is given up, and the checkpoint is set there. Raises "not-delivered" for a partition
        that this consumer does not hold.
        """
        for name in self.topics if topic is None else (topic,):
            held = {one.partition for one in self.consumption.units.values() if one.topic == name}
            wanted = held if partition is None else {partition}
            if type(at) is int:
                offsets = dict.fromkeys(wanted, at)
            else:
                offsets = await Topics(self._shell).offsets(name, at)
            for number in wanted:
                self.consumption.seek(name, number, offsets.get(number, 0))

    def pause(self, partitions: Iterable[int] | None = None) -> None:
        """Hand out nothing more of these partitions, or of all, until ``resume``; they stay this consumer's."""
        self.consumption.pause(partitions)

    def resume(self, partitions: Iterable[int] | None = None) -> None:
        self.consumption.resume(partitions)

    def statistics(self) -> GroupStatistics:
        consumption = self.consumption
        units = [
            (
                held.topic,
                held.partition,
                held.slice,
                held.owner_epoch,
                -1 if held.committed is None else held.committed[0],
            )
            for held in consumption.units.values()
        ]
        return GroupStatistics(
            consumption.membership.member,
            tuple(sorted(units)),
            consumption.handovers,
            consumption.lost_units,
            consumption.committer.commits,
            self._failures.retried,
            self._failures.dead,
        )

    async def close(self) -> None:
        """Store the checkpoints and leave the group; an iteration under way stops."""
        self._closed = True
        self._changed.set()
        self._waiting.clear()
        for timer in self._again.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await self.consumption.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # The consumption's facts

    def notify(self) -> None:
        self._changed.set()

    def drained(self, held: Held) -> None:
        """Nothing more of it is handed out."""

    def dropped(self, held: Held) -> None:
        held.running = 0

    def stored(self, held: Held, flight: Flight) -> None:
        self._limbo -= len(flight.handed)
        self._waiting.extend(flight.handed)
        self._changed.set()

    # Settling

    def ack(self, message: Delivered[Any]) -> None:
        if self.settled_before:
            return
        held = check_held(message)
        held.progress.open.pop(message.offset, None)
        held.running -= 1
        self.finished(held)

    @property
    def settled_before(self) -> bool:
        return self._first

    def finished(self, held: Held) -> None:
        self.consumption.finished(held)
        self._changed.set()

    def retry(self, message: Delivered[Any], after: Duration | None) -> None:
        check_held(message)
        pause_s = self._failures.pause_s(message.attempt) if after is None else seconds(after, "after")
        message.verdict = "retry"
        self._try_again(message, pause_s)

    def reject(self, message: Delivered[Any], reason: str) -> None:
        held = check_held(message)
        message.verdict = "reject"
        self._bury(held, message, Rejected(reason or "rejected"))

    def extend(self, message: Delivered[Any], by: Duration | None) -> None:
        """Nothing to do: a message is this consumer's as long as its partition is."""
        check_held(message)

    def failed(self, message: Delivered[Any], error: Exception) -> None:
        place = f"{message.topic}/{message.partition} at offset {message.offset}"
        if self._first or message.verdict is not None:
            logger.warning("%s was not handled: %s", place, text_of(error))
            return
        held = check_held(message)
        logger.info("%s, attempt %d of %d: %s", place, message.attempt, self._failures.attempts, text_of(error))
        if isinstance(error, Rejected) or message.attempt >= self._failures.attempts:
            self._bury(held, message, error)
        else:
            self._failures.retried += 1
            self._try_again(message, self._failures.pause_s(message.attempt))

    # Within

    def _begin(self, message: Delivered[Any]) -> bool:
        """Hand it out, if it is still this consumer's."""
        held: Held = message.held
        if self._first:
            return True
        if held.state is not UnitState.ACTIVE or message.offset not in held.progress.open:
            return False
        if self._decode is not None and type(message.value) is bytes:
            try:
                message.value = self._decode(message).value
            except CorgiError as error:
                held.running += 1
                self._bury(held, message, error)
                return False
        held.running += 1
        return True

    async def _more(self) -> bool:
        """Take another batch, or wait; False at the end."""
        while not self._closed:
            messages = self.consumption.take() if self._limbo < OPEN_MAX else None
            if messages and self._first:
                self._hand_later(messages)
                continue
            if messages:
                self._waiting.extend(messages)
            if self._waiting:
                if self._shell.loop.time() - self._turned_at > TURN_S:
                    await asyncio.sleep(0)
                    self._turned_at = self._shell.loop.time()
                return True
            if self.consumption.error is not None:
                raise self.consumption.error
            await self._wait()
            self._turned_at = self._shell.loop.time()
        return False

    def _hand_later(self, messages: list[Delivered[Any]]) -> None:
        for message in messages:
            message.held.progress.done(message.offset)
            message.held.handed.append(message)
        self._limbo += len(messages)
        for held in {id(message.held): message.held for message in messages}.values():
            self.consumption.committer.touch(held, now=True)

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _try_again(self, message: Delivered[Any], pause_s: float) -> None:
        message.held.running -= 1
        message.attempt += 1
        self._again[id(message)] = self._shell.loop.call_later(pause_s, self._resume, message)

    def _resume(self, message: Delivered[Any]) -> None:
        del self._again[id(message)]
        message.verdict = None
        self._waiting.appendleft(message)
        self._changed.set()

    def _bury(self, held: Held, message: Delivered[Any], error: BaseException) -> None:
        task = self._shell.loop.create_task(self._bury_later(held, message, error))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bury_later(self, held: Held, message: Delivered[Any], error: BaseException) -> None:
        try:
            result = await self._failures.bury(message, error)
        except CorgiError as fault:
            if fault.retryable:
                self._try_again(message, self._failures.pause_s(message.attempt))
            else:
                self.consumption.fail(fault)
            return
        if message.offset in held.progress.open:
            held.running -= 1
            held.finished.append(Finished(message.offset, (result,)))
            self.consumption.committer.touch(held, now=True)


def group_subscription(
    shell: Shell,
    topics: str | Iterable[str],
    group: str,
    decode: Callable[[Message[bytes]], Message[V]] | None,
    *,
    start: StartAt = "latest",
    prefetch_bytes: int = 0,
    semantics: str = "at_least_once",
    sharing: str = "partition",
    slices: int = 0,
    instance: str = "",
    mode: str = "cluster",
    attempts: int = 5,
    backoff: Duration = "100ms",
    backoff_max: Duration = "30s",
    session_timeout: Duration = "10s",
    rebalance_timeout: Duration = "30s",
    commit_interval: Duration = "100ms",
    read: str = "committed",
) -> GroupSubscription[V]:
    """See ``Corgi.subscribe``. Raises "invalid-argument", "invalid-topic-name"."""
    if semantics == "exactly_once":
        raise CorgiError("invalid-argument", "exactly_once needs a handler that returns results", hint="mq.run(...)")
    options = consume_options(
        shell,
        topics,
        group,
        start=start,
        semantics=semantics,
        sharing=sharing,
        slices=slices,
        instance=instance,
        mode=mode,
        session_timeout=session_timeout,
        rebalance_timeout=rebalance_timeout,
        commit_interval=commit_interval,
        prefetch_bytes=prefetch_bytes,
        read=read,
    )
    failures = failures_of(shell, options.wish.group, attempts, backoff, backoff_max)
    return GroupSubscription(shell, options, failures, decode)
