"""A consumer of a group, whatever face it has: membership, a stream for each partition it holds, and checkpoints.

Messages are taken from it in batches and settled one by one; it tells its owner when something can be taken, when a
unit has to go, and when it cannot go on.

Invariant: a message is handed out only while its unit is held, and a unit is released only when nothing of it runs and
its checkpoint is stored, or when its time to go is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from corgi.base.errors import CorgiError, error_from_number
from corgi.client.committing import Committer
from corgi.client.core.asks import Ask
from corgi.client.core.backoff import Backoff
from corgi.client.core.links import Answer
from corgi.client.core.membership import Membership, Wish
from corgi.client.core.options import PREFETCH_BYTES
from corgi.client.core.subscriber import Start
from corgi.client.feeds import Feed
from corgi.client.held import Delivered, Flight, Held, Keeper, UnitState
from corgi.client.shell import Shell
from corgi.wire.group_messages import Assigned, Cursors, CursorsReply, Unit
from corgi.wire.messages import ListOffsets, ListOffsetsReply, WireMessage

logger = logging.getLogger("corgi.client")
OPEN_MAX = 20_000  # records that one consumer holds unsettled; nothing more is read then
EXACT_OPEN_MAX = 1_000  # of one unit in exactly-once: so its checkpoint never needs more ranges than it may have
LEAVE_S = 5.0  # for the last checkpoints and for saying goodbye
Origin = Callable[["Held"], Awaitable[int]]
_QUESTIONS = {"earliest": -2, "latest": -1}


@dataclass(frozen=True, slots=True)
class ConsumeOptions:
    """How a consumer of a group consumes. Times in seconds."""

    wish: Wish
    start: Start | dict[int, Start]
    semantics: str = "at_least_once"
    commit_interval_s: float = 0.1
    prefetch_bytes: int = PREFETCH_BYTES
    optional: frozenset[str] = field(default_factory=frozenset)  # topics that need not exist
    committed: bool = True  # read only what is decided and was not aborted


class Owner(Protocol):
    """Whose consumption it is."""

    def notify(self) -> None:
        """Something can be taken, or the consumption has ended."""
        ...

    def drained(self, held: Held) -> None:
        """Begin nothing more of this unit."""
        ...

    def dropped(self, held: Held) -> None:
        """The unit is gone: what still runs of it is for nothing."""
        ...

    def stored(self, held: Held, flight: Flight) -> None:
        """A checkpoint is stored."""
        ...


class Consumption:
    """``error``: why it ended. ``handovers`` counts units gained, ``lost_units`` those that were taken."""

    def __init__(
        self, shell: Shell, options: ConsumeOptions, owner: Owner, keeper: Keeper, origin: Origin | None = None
    ) -> None:
        """``origin`` tells where a unit begins, instead of its cursor."""
        self.options = options
        self.error: CorgiError | None = None
        self.units: dict[Unit, Held] = {}
        self.handovers = 0
        self.lost_units = 0
        self.skipped = 0  # jumps over what retention took before it was consumed
        self._shell = shell
        self._owner = owner
        self._keeper = keeper
        self._origin = origin
        self._beginning: set[asyncio.Task[None]] = set()
        self._feeds: dict[tuple[str, int], Feed] = {}
        self._order: list[Feed] = []
        self._paused: set[int] = set()
        self._all_paused = False
        self._draining: dict[Held, asyncio.TimerHandle] = {}
        self._settled: asyncio.Event = asyncio.Event()
        self._closing = False
        self.exact = options.semantics == "exactly_once"
        interval_s = 0.0 if options.semantics != "at_least_once" else options.commit_interval_s
        self.committer = Committer(shell, options.wish.group, lambda: self.membership.member, interval_s, self)
        core = shell.core
        backoff = Backoff(core.options.retry_min_s, core.options.retry_max_s, lambda: 0.5)
        self.membership = Membership(
            options.wish,
            core.asks,
            core.routing,
            shell.core.clock,
            backoff,
            lambda: f"{options.wish.client or 'corgi'}-{shell.token()}",
            shell.wake,
            self,
        )
        core.memberships.add(self.membership)
        if core.refusal is not None:
            self.membership.end(core.refusal)
        shell.wake()

    # Taking

    def take(self) -> list[Delivered[Any]] | None:
        """Messages of one batch; empty if there are none, None if too many are open."""
        if sum([len(held.progress.open) for held in self.units.values()]) >= OPEN_MAX:
            return None
        for _ in range(len(self._order)):
            feed = self._order.pop(0)
            self._order.append(feed)
            if self._all_paused or feed.key[1] in self._paused or any(held.full for held in feed.units.values()):
                continue
            messages = feed.take(self._open_max(feed))
            if messages:
                return messages
            if feed.error is not None:
                self._stream_failed(feed, feed.error)
        return []

    def _open_max(self, feed: Feed) -> int:
        """How many messages of a unit may be open; 0: any number. Those that wait for another try leave room for the
        others, however many they are: the rest of them waits in its topic."""
        if feed.key[0] in self.options.optional:
            optional = sum([held.topic in self.options.optional for held in self.units.values()])
            return max(1, OPEN_MAX // 2 // max(1, optional))
        return EXACT_OPEN_MAX if self.exact else 0

    @property
    def streaming(self) -> bool:
        """Is it a member, and streams all that it holds?"""
        attached = all(feed.stream is not None and feed.stream.attached for feed in self._order)
        begun = all(held.state is not UnitState.STARTING for held in self.units.values())
        return self.membership.joined and attached and begun

    def finished(self, held: Held) -> None:
        """A message of the unit has been settled: its progress moved."""
        if held.state is UnitState.DRAINING and not held.running:
            self.committer.touch(held, now=True)
            self._check_drained(held)
        else:
            self.committer.touch(held)

    def fail(self, error: CorgiError) -> None:
        """It cannot go on."""
        if self.error is None:
            self.error = error
            self._owner.notify()

    # Moving about

    def pause(self, partitions: Iterable[int] | None) -> None:
        """Hand out nothing more of these partitions; of all if None."""
        if partitions is None:
            self._all_paused = True
        else:
            self._paused |= set(partitions)

    def resume(self, partitions: Iterable[int] | None) -> None:
        self._all_paused = False
        self._paused -= self._paused.copy() if partitions is None else set(partitions)
        self._owner.notify()

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on elsewhere in a partition; what is unsettled of it is given up. Raises "not-delivered". Units that have
        to go are left to their next owners."""
        feed = self._feeds.get((topic, partition))
        if feed is None:
            raise CorgiError("not-delivered", f"this consumer does not hold {topic}/{partition}")
        for held in [one for one in feed.units.values() if one.state is UnitState.ACTIVE]:
            self._owner.dropped(held)
            held.lanes = type(held.lanes)()
            held.finished.clear()
            held.handed.clear()
            held.begin(offset)
            held.reset = True
            self.committer.touch(held, now=True)
        self._open(feed, Start("offset", offset))

    # The membership's facts

    def gained(self, unit: Unit, assigned: Assigned) -> None:
        held = self._hold(unit, assigned)
        if self._origin is not None:
            self._ask_origin(held, self._origin, assigned.offset)
        elif assigned.offset >= 0:
            held.committed = (assigned.offset, assigned.ranges)
            held.begin(assigned.offset, assigned.ranges)
            self._attach(held)
        else:
            self._place(held)

    def given_back(self, unit: Unit, assigned: Assigned) -> None:
        self._read_cursor(self._hold(unit, assigned))

    def revoked(self, unit: Unit) -> None:
        held = self.units.get(unit)
        if held is None:  # a commit was refused because it has another owner already
            self.membership.released(unit)
            return
        if held.state is UnitState.STARTING:
            self._release(held)
            return
        held.state = UnitState.DRAINING
        patience_s = self.options.wish.rebalance_ms / 1000 * 0.8
        self._draining[held] = self._shell.loop.call_later(patience_s, self._give_up, held)
        self._owner.drained(held)
        self.committer.touch(held, now=True)
        self._shell.loop.call_soon(self._check_drained, held)

    def lost(self, unit: Unit) -> None:
        held = self.units.get(unit)
        if held is not None:
            self.lost_units += 1
            self._drop(held)

    def failed(self, error: CorgiError) -> None:
        self.fail(error)

    # The committer's facts

    def stored(self, held: Held, flight: Flight) -> None:
        self._owner.stored(held, flight)
        self._check_drained(held)

    def settled(self, held: Held) -> None:
        self._check_drained(held)

    def fenced(self, held: Held) -> None:
        self.lost_units += 1
        if held.state is UnitState.DRAINING:
            self._give_away(held)
            return
        self._drop(held)
        self.membership.changed()

    def moved(self, held: Held) -> None:
        """What was in flight is given up: the cursor says what is done, and the rest is consumed again from there; by
        its next owner, if it has to go."""
        if held.state is UnitState.DRAINING:
            self._give_away(held)
            return
        held.flight = None
        self.committer.forget(held)
        self._owner.dropped(held)
        unit, epoch = held.unit, held.owner_epoch
        held.end()
        fresh = Held(self._keeper, held.topic, unit, epoch, held.version, held.metadata)
        self.units[unit] = fresh
        self._detach(held)
        self._read_cursor(fresh)

    def refused(self, held: Held, error: CorgiError) -> None:
        self._drop(held)
        self.fail(error)

    # The end

    async def close(self) -> None:
        """Store what is done, give the units back and leave. What still runs is given up."""
        if self._closing:
            return
        self._closing = True
        try:
            async with asyncio.timeout(LEAVE_S):
                if self.error is None:
                    await self._store_all()
                await self._shell.until(self.membership.leave)
        except TimeoutError:
            logger.warning("consumer group %r: left without an answer", self.options.wish.group)
        finally:
            for task in self._beginning:
                task.cancel()
            self._shell.core.memberships.remove(self.membership)
            self.membership.ended = True
            for held in list(self.units.values()):
                self._drop(held)
            await self.committer.close()

    async def _store_all(self) -> None:
        """Until every checkpoint is stored, or nobody waits for it any more."""
        for held in self.units.values():
            if held.state is not UnitState.STARTING:
                self.committer.touch(held, now=True)
        while not all(map(self.committer.idle, self.units.values())):
            self._settled.clear()
            await self._settled.wait()

    # Units

    def _hold(self, unit: Unit, assigned: Assigned) -> Held:
        held = Held(self._keeper, assigned.name, unit, assigned.owner_epoch, assigned.version, assigned.metadata)
        self.units[unit] = held
        self.handovers += 1
        return held

    def _place(self, held: Held) -> None:
        """Nobody has made a checkpoint: begin where the user said."""
        start = self.options.start
        if isinstance(start, dict):
            start = start.get(held.partition, Start("earliest"))
        if held.topic in self.options.optional:
            start = Start("earliest")  # of a topic that was made for this group
        if start.kind == "earliest":
            held.begin(0)
            self._attach(held)
        elif start.kind == "offset":
            held.begin(start.number)
            self._attach(held)
        else:
            self._ask_offset(held, start)

    def _ask_origin(self, held: Held, origin: Origin, cursor_offset: int) -> None:
        async def begin() -> None:
            try:
                offset = await origin(held)
            except CorgiError as error:
                if self.units.get(held.unit) is held:
                    if error.code == "consumer-fenced":
                        self.fenced(held)
                    else:
                        self.fail(error)
                return
            if self.units.get(held.unit) is held and held.state is UnitState.STARTING:
                held.begin(offset)
                held.reset = cursor_offset > offset  # the cursor follows, also backwards
                self.committer.touch(held)
                self._attach(held)

        task = self._shell.loop.create_task(begin())
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    def _ask_offset(self, held: Held, start: Start) -> None:
        question = _QUESTIONS.get(start.kind, start.number)

        def told(_: Ask, answer: Answer, __: memoryview) -> None:
            if self.units.get(held.unit) is not held or held.state is not UnitState.STARTING:
                return
            if isinstance(answer, ListOffsetsReply):
                offset, found_ms = answer.partitions[0][1:]
                held.not_before_ms = start.number if start.kind == "time" and found_ms >= 0 else -1
                held.begin(offset)
                held.reset = True  # stored even if nothing comes: "latest" is decided once
                self.committer.touch(held, now=True)
                self._attach(held)
            elif isinstance(answer, CorgiError) and answer.retryable:
                self._ask_offset(held, start)
            elif isinstance(answer, CorgiError):
                self.fail(answer)

        message = ListOffsets(((held.topic_id, held.partition, question),))
        self._shell.core.ask(
            message, told, group=self._shell.core.routing.group_of(held.topic, held.partition), judge=_offsets_error
        )

    def _read_cursor(self, held: Held) -> None:
        def told(_: Ask, answer: Answer, __: memoryview) -> None:
            if self.units.get(held.unit) is not held or held.state is not UnitState.STARTING:
                return
            if isinstance(answer, CursorsReply) and answer.cursors:
                [cursor] = answer.cursors
                if (cursor.owner_epoch, cursor.member) != (held.owner_epoch, self.membership.member):
                    self.fenced(held)
                    return
                held.version = cursor.version
                if self._origin is not None:
                    self._ask_origin(held, self._origin, cursor.offset)
                    return
                if cursor.offset < 0:
                    self._place(held)
                    return
                held.committed = (cursor.offset, cursor.ranges)
                held.begin(cursor.offset, cursor.ranges)
                self._attach(held)
            elif isinstance(answer, CorgiError) and not answer.retryable:
                self.fail(answer)
            else:
                self._read_cursor(held)

        message = Cursors(self.options.wish.group, (held.unit,))
        self._shell.core.ask(
            message, told, group=self._shell.core.routing.group_of(held.topic, held.partition), judge=_cursors_error
        )

    def _attach(self, held: Held) -> None:
        """Have the unit's partition streamed from where the unit is."""
        key = (held.topic, held.partition)
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(self._shell, *key, self.options.wish.slices)
            self._order.append(feed)
        behind = feed.stream is None or held.progress.position < feed.position
        feed.units[held.slice] = held
        if behind:
            earliest = held.committed is None and held.progress.position == 0
            self._open(feed, Start("earliest") if earliest else Start("offset", held.progress.position))

    def _open(self, feed: Feed, start: Start) -> None:
        share = self.options.prefetch_bytes // max(1, len(self._feeds))
        labels = (self.options.wish.group, self.membership.member)
        feed.open(start, self._owner.notify, share, labels, committed=self.options.committed)

    def _detach(self, held: Held) -> None:
        key = (held.topic, held.partition)
        feed = self._feeds.get(key)
        if feed is None or feed.units.get(held.slice) is not held:
            return
        del feed.units[held.slice]
        if not feed.units:
            feed.close()
            del self._feeds[key]
            self._order.remove(feed)

    def _check_drained(self, held: Held) -> None:
        self._settled.set()
        if held.state is UnitState.DRAINING and not held.running and self.committer.idle(held):
            self._release(held)

    def _give_up(self, held: Held) -> None:
        """Its time to go is over: another consumer gets it now, whatever still runs here."""
        logger.warning("consumer group %r: %s/%d was taken while messages were in work", self.options.wish.group,
                       held.topic, held.partition)  # fmt: skip
        self._give_away(held)

    def _give_away(self, held: Held) -> None:
        self._owner.dropped(held)
        self._release(held)

    def _release(self, held: Held) -> None:
        self._drop(held, told=True)
        self.membership.released(held.unit)

    def _drop(self, held: Held, *, told: bool = False) -> None:
        timer = self._draining.pop(held, None)
        if timer is not None:
            timer.cancel()
        if self.units.get(held.unit) is held:
            del self.units[held.unit]
        self._detach(held)
        self.committer.forget(held)
        held.end()
        if not told:
            self._owner.dropped(held)
        self._settled.set()

    # Streams

    def _stream_failed(self, feed: Feed, error: CorgiError) -> None:
        if error.code != "offset-out-of-range":
            self.fail(error)
            return
        position = feed.position
        feed.close()

        def told(_: Ask, answer: Answer, __: memoryview) -> None:
            if self._feeds.get(feed.key) is not feed:
                return
            if isinstance(answer, ListOffsetsReply) and answer.partitions[0][1] > position:
                first = answer.partitions[0][1]
                self.skipped += 1
                logger.warning("%s/%d: retention took offsets %d to %d before consumer group %r read them",
                               *feed.key, position, first - 1, self.options.wish.group)  # fmt: skip
                self._open(feed, Start("offset", first))
            else:
                self.fail(answer if isinstance(answer, CorgiError) else error)

        held = next(iter(feed.units.values()))
        message = ListOffsets(((held.topic_id, held.partition, _QUESTIONS["earliest"]),))
        self._shell.core.ask(
            message, told, group=self._shell.core.routing.group_of(held.topic, held.partition), judge=_offsets_error
        )


def _offsets_error(answer: WireMessage) -> CorgiError | None:
    if isinstance(answer, ListOffsetsReply) and len(answer.partitions) == 1:
        number = answer.partitions[0][0]
        return error_from_number(number) if number else None
    return CorgiError("timeout", "the answer was no answer")


def _cursors_error(answer: WireMessage) -> CorgiError | None:
    if isinstance(answer, CursorsReply):
        return error_from_number(answer.error, answer.message) if answer.error else None
    return CorgiError("timeout", "the answer was no answer")
