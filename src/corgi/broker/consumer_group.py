"""One consumer group as its coordinator sees it: members, who should hold what, and what is on its way.

What must outlive the coordinator is elsewhere: the members in the group's record in `__groups`, who holds a unit in
the unit's cursor. Here are the soft parts: when a member was last heard, what it told that it holds, which assignment
it was shown. No I/O and no node: the coordinator asks what should be done (``claims``) and tells what became of it.

Invariant: a unit is claimed for a member only when no other living member holds it, or the one that does has had its
time to let go; a member is shown a unit only while the unit's cursor names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from corgi.base.ids import TopicId
from corgi.base.ports import ClientSession
from corgi.broker.assignment import Unit, assign
from corgi.state.cursors import Cursor
from corgi.wire.group_messages import GroupHeartbeat

CLOSED_GRACE_S = 3.0  # a member whose connection closed may come back on another within this time
INTERVAL_MS_MAX = 3_000  # between two heartbeats
FORMAT = 1


class StoredMember(msgspec.Struct, frozen=True, array_like=True):
    """What of a member outlives its coordinator."""

    member: str
    instance: str
    client: str
    topics: tuple[str, ...]
    session_ms: int
    rebalance_ms: int


class StoredGroup(msgspec.Struct, frozen=True, array_like=True):
    """The value of a record in `__groups`. ``epoch`` counts the changes of the members."""

    format: int
    slices: int
    epoch: int
    members: tuple[StoredMember, ...]


encode_stored = msgspec.msgpack.Encoder().encode
decode_stored = msgspec.msgpack.Decoder(StoredGroup).decode


class Claim(NamedTuple):
    unit: Unit
    owner_epoch: int
    member: str


class Member:
    """A member and what it was told. ``serial`` numbers the assignments shown to it."""

    __slots__ = ("closed_at", "heard_at", "held", "replaced", "seen", "serial", "session", "shown", "stored")

    def __init__(self, stored: StoredMember, now: float, serial: int) -> None:
        self.stored = stored
        self.heard_at = now
        self.closed_at: float | None = None
        self.session: ClientSession | None = None
        self.held: frozenset[Unit] = frozenset()  # as it last told
        self.seen = 0  # the serial that its last heartbeat named
        self.serial = serial
        self.shown: dict[Unit, int] = {}  # unit -> owner epoch
        self.replaced = ""  # the member of the same instance whose units it takes over

    def dead(self, now: float) -> bool:
        if now - self.heard_at > self.stored.session_ms / 1000:
            return True
        return self.closed_at is not None and not self.stored.instance and now - self.closed_at > CLOSED_GRACE_S


class ConsumerGroup:
    """``cursor_of`` reads a unit's cursor as this node has applied it; ``serials`` gives numbers never given before,
    also by no earlier coordinator."""

    def __init__(
        self,
        name: str,
        stored: StoredGroup | None,
        now: float,
        cursor_of: Callable[[Unit], Cursor],
        serials: Callable[[], int],
    ) -> None:
        self.name = name
        self.slices = stored.slices if stored else 0
        self.epoch = stored.epoch if stored else 0
        self.members: dict[str, Member] = {}
        self.stored: tuple[StoredMember, ...] = stored.members if stored else ()
        self.exists = stored is not None
        self.units: tuple[Unit, ...] = ()
        self.barred: set[Unit] = set()  # nobody gets these for now: they are being reset
        self.claiming: set[Unit] = set()
        self.letting_go: dict[Unit, float] = {}  # until when their holder may keep them
        self._target: dict[Unit, str] = {}
        self._stale = True
        self._cursor_of = cursor_of
        self._serials = serials
        for one in self.stored:
            self.members[one.member] = Member(one, now, serials())

    # -- members --------------------------------------------------------------------------------------------------

    def heard(self, message: GroupHeartbeat, session: ClientSession, now: float) -> bool:
        """A heartbeat of a member, or of one that wants to be; True if the group's record has to change for it."""
        stored = StoredMember(
            message.member, message.instance, message.client, message.topics, message.session_ms, message.rebalance_ms
        )
        member = self.members.get(message.member)
        changed = member is None or member.stored != stored
        if member is None:
            member = self.members[message.member] = Member(stored, now, self._serials())
            for other in list(self.members.values()):
                if other is not member and message.instance and other.stored.instance == message.instance:
                    member.replaced = other.stored.member
                    del self.members[other.stored.member]
        if not self.slices:
            self.slices = message.slices
        member.stored = stored
        member.heard_at = now
        member.session = session
        member.closed_at = None
        member.seen = message.epoch
        if message.owned is not None:
            member.held = frozenset((topic, partition, number) for topic, partition, number, _ in message.owned)
        return changed

    def remove(self, member: str) -> bool:
        """True if it was there."""
        self._stale |= member in self.members
        return self.members.pop(member, None) is not None

    def session_closed(self, session: ClientSession, now: float) -> None:
        for member in self.members.values():
            if member.session is session:
                member.session = None
                member.closed_at = now

    def bury(self, now: float) -> list[str]:
        """Remove who is dead."""
        dead = [name for name, member in self.members.items() if member.dead(now)]
        for name in dead:
            self.remove(name)
        return dead

    @property
    def unsaved(self) -> bool:
        """Whether the record does not tell the members as they are."""
        return self.stored != self.present()

    def present(self) -> tuple[StoredMember, ...]:
        return tuple(member.stored for _, member in sorted(self.members.items()))

    def saved(self, members: tuple[StoredMember, ...], epoch: int) -> None:
        """The record with these members is applied: now units may be given to them."""
        self.stored = members
        self.epoch = epoch
        self.exists = True
        self._stale = True

    # -- units ----------------------------------------------------------------------------------------------------

    def set_units(self, units: Iterable[Unit]) -> None:
        """All units of the topics that members want, as far as their partitions are open."""
        found = tuple(units)
        if found != self.units:
            self.units = found
            self._stale = True

    def changed(self) -> None:
        """Something outside may have changed who holds what."""
        self._stale = True

    def claims(self, wishes: Mapping[str, frozenset[TopicId]], now: float) -> list[Claim]:
        """What is to be claimed now; each is in ``claiming`` until ``claimed``."""
        living = {one.member: wishes.get(one.member, frozenset()) for one in self.stored if one.member in self.members}
        cursors = {unit: self._cursor_of(unit) for unit in self.units}
        if self._stale:
            heirs = {member.replaced: name for name, member in self.members.items() if member.replaced}
            owners = {unit: heirs.get(cursor.member, cursor.member) for unit, cursor in cursors.items()}
            self._target = assign(living, self.units, owners)
            self._stale = False
        found: list[Claim] = []
        self.letting_go = {unit: until for unit, until in self.letting_go.items() if unit in cursors}
        for unit, cursor in cursors.items():
            wanted = self._target.get(unit)
            holder = self.members.get(cursor.member)
            if wanted is None or wanted == cursor.member or unit in self.barred:
                if holder is None or wanted is not None:
                    self.letting_go.pop(unit, None)
                else:
                    self.letting_go.setdefault(unit, now + holder.stored.rebalance_ms / 1000)
                continue
            if unit in self.claiming:
                continue
            if holder is not None:
                until = self.letting_go.setdefault(unit, now + holder.stored.rebalance_ms / 1000)
                let_go = unit not in holder.shown and unit not in holder.held and holder.seen == holder.serial
                if not let_go and now < until:
                    continue
            self.letting_go.pop(unit, None)
            self.claiming.add(unit)
            found.append(Claim(unit, cursor.owner_epoch + 1, wanted))
        return found

    def claimed(self, unit: Unit) -> None:
        """It has an outcome, whichever: who holds the unit, the cursor tells."""
        self.claiming.discard(unit)

    def show(self) -> list[Member]:
        """Bring what members are shown up to date; those for whom it changed."""
        shown: dict[str, dict[Unit, int]] = {name: {} for name in self.members}
        for unit in self.units:
            cursor = self._cursor_of(unit)
            moving = unit in self.letting_go or unit in self.claiming or unit in self.barred
            if cursor.member in shown and not moving:
                shown[cursor.member][unit] = cursor.owner_epoch
        changed: list[Member] = []
        for name, member in self.members.items():
            if member.shown != shown[name]:
                member.shown = shown[name]
                member.serial = self._serials()
                changed.append(member)
        return changed

    @property
    def state(self) -> str:
        """ "empty", "stable" or "rebalancing"."""
        if not self.members:
            return "empty"
        moving = self.claiming or self.letting_go or self.barred or self.unsaved
        held = all(self._target.get(unit) == self._cursor_of(unit).member for unit in self._target)
        return "rebalancing" if moving or not held else "stable"
