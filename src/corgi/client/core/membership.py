"""A consumer's membership of its group: heartbeats, what it holds, and when it must take itself for dead.

The coordinator tells which units the member should hold. What is gained is told to the listener with its cursor; what
has to go is wound down by the listener and ``released``; only then the next heartbeat leaves it out, and another member
gets it. A member that had no answer for its session time has lost everything: the others take it for dead by then.

    not joined --(answered)--> member --(unknown-member, silence for the session time)--> not joined, under a new name

Invariants: a heartbeat that names an assignment tells every unit that is still held; a unit is gained once, and not
again before it was released or lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from corgi.base.errors import CorgiError, error_from_number
from corgi.client.core.asks import Asks
from corgi.client.core.backoff import Backoff
from corgi.client.core.links import Answer, Clock
from corgi.client.core.routing import Routing
from corgi.wire.group_messages import Assigned, GroupChanged, GroupHeartbeat, GroupHeartbeatReply, Unit
from corgi.wire.messages import WireMessage

CUT_S = 2.5  # a coordinator gives a member whose connection closed 3 s: by then this one must know
ASK_S_MAX = 3.0  # one heartbeat, retries included; the next one tells what is true then


@dataclass(frozen=True, slots=True)
class Wish:
    """What a member wants of its group."""

    group: str
    topics: tuple[str, ...]
    instance: str = ""
    client: str = ""
    slices: int = 1
    session_ms: int = 10_000
    rebalance_ms: int = 30_000


class Listener(Protocol):
    """Who consumes; nothing here is called while it calls the membership, but from ``released``."""

    def gained(self, unit: Unit, assigned: Assigned) -> None:
        """The unit is this member's, from the cursor on that is told with it."""
        ...

    def given_back(self, unit: Unit, assigned: Assigned) -> None:
        """As ``gained``, of a unit that was just released: checkpoints that were stored meanwhile are not told."""
        ...

    def revoked(self, unit: Unit) -> None:
        """Finish it and call ``released``, within the rebalance time."""
        ...

    def lost(self, unit: Unit) -> None:
        """It belongs to somebody else already."""
        ...

    def failed(self, error: CorgiError) -> None:
        """The membership cannot go on."""
        ...


class Membership:
    """One member. ``held``: its units with their owner epochs, those that are wound down too."""

    def __init__(
        self,
        wish: Wish,
        asks: Asks,
        routing: Routing,
        clock: Clock,
        backoff: Backoff,
        name: Callable[[], str],
        wake: Callable[[], None],
        listener: Listener,
    ) -> None:
        self.wish = wish
        self.member = name()
        self.held: dict[Unit, int] = {}
        self.joined = False
        self.ended = False
        self.lives = 1
        self.missing: tuple[str, ...] = ()
        self._asks = asks
        self._routing = routing
        self._clock = clock
        self._backoff = backoff
        self._name = name
        self._wake = wake
        self._listener = listener
        self._epoch = 0
        self._assigned: dict[Unit, Assigned] = {}
        self._leaving: dict[Unit, None] = {}
        self._told: dict[Unit, int] | None = None  # what the coordinator surely knows to be held
        self._asking = False
        self._next_at: float | None = clock.now()
        self._heard_at = clock.now()  # when the last heartbeat that was answered left
        self._cut_at: float | None = None  # since when a connection is broken that may have been the coordinator's

    # The consumer's side

    def released(self, unit: Unit) -> None:
        """A revoked unit is finished and its checkpoint is stored, or given up."""
        if self.ended or unit not in self._leaving:
            return
        del self._leaving[unit]
        del self.held[unit]
        assigned = self._assigned.get(unit)
        if assigned is not None:
            self.held[unit] = assigned.owner_epoch
            self._listener.given_back(unit, assigned)
        self._soon()

    def leave(self, done: Callable[[], None]) -> None:
        """Say goodbye; ``done`` follows, whatever becomes of it."""
        if self.ended:
            done()
            return
        self.ended = True
        if not self.joined and not self._asking:
            done()
            return
        message = GroupHeartbeat(self.wish.group, self.member, self._epoch, self.wish.topics, leave=True)
        self._asks.ask(
            message,
            lambda *_: done(),
            group=self._routing.coordinates(self.wish.group),
            judge=_error_of,
            timeout_s=ASK_S_MAX,
        )
        self._wake()

    # Facts

    def changed(self) -> None:
        """The coordinator, or a broken connection, asks for a heartbeat."""
        self._soon()

    def link_lost(self) -> None:
        """A connection broke. If it was the coordinator's, there is less time than otherwise to be heard on another."""
        if self._cut_at is None and not self.wish.instance:
            self._cut_at = self._clock.now()
        self._soon()

    def advance(self, now: float) -> None:
        """Heartbeats that are due, and the end of a membership that nobody confirms any more."""
        if self.ended:
            return
        if self.joined and now >= self._fenced_at:
            self._begin_anew()
        if self._next_at is not None and now >= self._next_at and not self._asking:
            self._ask(now)

    def next_deadline(self) -> float | None:
        if self.ended:
            return None
        times = [] if self._asking or self._next_at is None else [self._next_at]
        if self.joined:
            times.append(self._fenced_at)
        return min(times, default=None)

    # Heartbeats

    @property
    def _fenced_at(self) -> float:
        silent = self._heard_at + self.wish.session_ms / 1000
        return silent if self._cut_at is None else min(silent, self._cut_at + CUT_S)

    def _soon(self) -> None:
        if not self.ended:
            self._next_at = self._clock.now()
            self._wake()

    def _ask(self, now: float) -> None:
        wish = self.wish
        owned = dict(self.held)
        message = GroupHeartbeat(
            wish.group,
            self.member,
            self._epoch,
            wish.topics,
            wish.instance,
            wish.client,
            wish.slices,
            wish.session_ms,
            wish.rebalance_ms,
            None if owned == self._told else tuple([(*unit, epoch) for unit, epoch in owned.items()]),
        )
        member = self.member
        self._asking = True
        self._next_at = None
        self._asks.ask(
            message,
            lambda _, answer, __: self._answered(member, owned, now, answer),
            group=self._routing.coordinates(self.wish.group),
            judge=_error_of,
            timeout_s=min(ASK_S_MAX, wish.session_ms / 3000),
        )
        self._wake()

    def _answered(self, member: str, owned: dict[Unit, int], asked_at: float, answer: Answer) -> None:
        self._asking = False
        if self.ended:
            return
        if member != self.member:
            self._soon()
            return
        if isinstance(answer, GroupHeartbeatReply):
            self._backoff.reset()
            self._heard_at = asked_at
            if self._cut_at is not None and asked_at >= self._cut_at:
                self._cut_at = None
            self._told = owned if answer.assignment is None else None  # another coordinator knows nothing of it
            self.joined = True
            self.missing = answer.missing
            if self._next_at is None:
                self._next_at = self._clock.now() + answer.interval_ms / 1000
            if answer.assignment is not None and answer.epoch != self._epoch:
                self._epoch = answer.epoch
                self._assign({(one.topic, one.partition, one.slice): one for one in answer.assignment})
                self._soon()  # the coordinator waits to hear that this one is known
            self._wake()
            return
        error = answer if isinstance(answer, CorgiError) else CorgiError("malformed-frame", "no answer to a heartbeat")
        if error.code == "unknown-member":
            if self.wish.instance and self.joined:
                # Silence would have ended it before: somebody else has taken the name of its instance.
                self.end(CorgiError("consumer-fenced", f"another consumer is instance {self.wish.instance!r} now"))
                return
            self._begin_anew()
        elif error.retryable or error.code == "outcome-unknown":
            self._next_at = self._clock.now() + self._backoff.next()
            self._wake()
        else:
            self.end(error)

    def end(self, error: CorgiError) -> None:
        """It cannot go on; what it holds is lost."""
        if self.ended:
            return
        self.ended = True
        self._lose_all()
        self._listener.failed(error)

    def _begin_anew(self) -> None:
        """Under another name: the old one is dead, whatever was on its way."""
        self.member = self._name()
        self.lives += 1
        self.joined = False
        self._epoch = 0
        self._told = None
        self._lose_all()
        self._soon()

    def _lose_all(self) -> None:
        held = list(self.held)
        self.held.clear()
        self._leaving.clear()
        self._assigned.clear()
        for unit in held:
            self._listener.lost(unit)

    def _assign(self, assigned: dict[Unit, Assigned]) -> None:
        self._assigned = assigned
        for unit, epoch in list(self.held.items()):
            told = assigned.get(unit)
            if told is not None and told.owner_epoch != epoch:
                del self.held[unit]
                self._leaving.pop(unit, None)
                self._listener.lost(unit)
            elif told is None and unit not in self._leaving:
                self._leaving[unit] = None
                self._listener.revoked(unit)
        for unit, told in assigned.items():
            if unit not in self.held:
                self.held[unit] = told.owner_epoch
                self._listener.gained(unit, told)


class Memberships:
    """All memberships of a client."""

    def __init__(self) -> None:
        self._members: list[Membership] = []

    def add(self, membership: Membership) -> None:
        self._members.append(membership)

    def remove(self, membership: Membership) -> None:
        if membership in self._members:
            self._members.remove(membership)

    def pushed(self, message: GroupChanged) -> None:
        for one in self._members:
            if one.wish.group == message.group and one.member == message.member:
                one.changed()

    def link_lost(self) -> None:
        """The coordinator may have been there: it wants to hear of its members on another connection soon."""
        for one in self._members:
            one.link_lost()

    def advance(self, now: float) -> None:
        for one in list(self._members):
            one.advance(now)

    def close(self, error: CorgiError) -> None:
        """The client is closed or broken."""
        for one in list(self._members):
            one.end(error.copy())

    def next_deadline(self) -> float | None:
        return min([at for one in self._members if (at := one.next_deadline()) is not None], default=None)


def _error_of(answer: WireMessage) -> CorgiError | None:
    if not isinstance(answer, GroupHeartbeatReply):
        return CorgiError("malformed-frame", "the answer to a heartbeat was another")
    return error_from_number(answer.error, answer.message) if answer.error else None
