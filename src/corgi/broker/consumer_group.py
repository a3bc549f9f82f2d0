"""One consumer group as its coordinator sees it: members, who should hold what, and what is on its way.

What must outlive the coordinator is elsewhere: the members in the group's record in `__groups`, who holds a unit in
the unit's cursor. Here are the soft parts: when a member was last heard, what it told that it holds, which assignment
it was shown. No I/O and no node: the coordinator asks what should be done (``claims``) and tells what became of it.

Who should hold what is planned anew when members or partitions change, in short steps, and nothing is given to anybody
meanwhile; otherwise only those units are looked at that something happened to, at most LOOKS_MAX in one turn. So
neither a plan nor a heartbeat holds up a turn, in a group of any size.

Invariant: a unit is claimed for a member only when no other living member holds it, or the one that does has had its
time to let go; a member is shown a unit only while the unit's cursor names it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from corgi.base.ids import TopicId
from corgi.base.ports import ClientSession
from corgi.broker.assignment import STEP, Unit, assigning
from corgi.broker.group_records import StoredGroup, StoredMember, encode_record
from corgi.state.consumer_groups import GROUP_BYTES_MAX
from corgi.state.cursors import Cursor
from corgi.wire.group_messages import GroupHeartbeat

CLOSED_GRACE_S = 3.0  # a member whose connection closed may come back on another within this time
INTERVAL_MS_MAX = 3_000  # between two heartbeats
PATROL_S = 1.0
PATROL_UNITS = 100
LOOKS_MAX = 250  # units looked at in one turn, and claims begun
RECORD_BYTES_MAX = GROUP_BYTES_MAX - 1024  # of all members together


class Claim(NamedTuple):
    unit: Unit
    owner_epoch: int
    member: str


class Member:
    """A member and what it was told. ``serial`` numbers the assignments shown to it."""

    __slots__ = (
        "closed_at", "due", "heard_at", "held", "replaced", "seen", "serial", "session", "shown", "size", "stored",
    )  # fmt: skip

    def __init__(self, stored: StoredMember, now: float, serial: int) -> None:
        self.stored = stored
        self.size = len(encode_record(stored))
        self.heard_at = now
        self.closed_at: float | None = None
        self.session: ClientSession | None = None
        self.held: frozenset[Unit] | None = None  # as it last told; None: nothing yet, at least not to this coordinator
        self.seen = 0  # the serial that its last heartbeat named
        self.serial = serial
        self.shown: dict[Unit, int] = {}  # unit -> owner epoch
        self.due: dict[Unit, int] = {}  # what is to be shown next
        self.replaced: frozenset[str] = frozenset()  # members of the same instance whose units it takes over

    def dies_at(self) -> float:
        silent = self.heard_at + self.stored.session_ms / 1000
        if self.closed_at is None or self.stored.instance:
            return silent
        return min(silent, self.closed_at + CLOSED_GRACE_S)


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
        self.units: tuple[Unit, ...] = ()
        self.units_of: tuple[frozenset[TopicId], int] | None = None  # the topics and slices that they are of
        self.stale = True  # to be planned anew, also while that is being done
        self._planning: Generator[None, None, dict[Unit, str]] | None = None
        self.seen_through = False  # members are shown what they hold: before, nothing may be concluded from it
        self.claiming: dict[Unit, str] = {}
        self.bytes = 0  # of the members in the record
        self._roster = self._roster_saved = 0  # changes of the members
        self._by_session: dict[ClientSession, dict[str, None]] = {}
        self._target: dict[Unit, str] = {}
        self._barred: set[Unit] = set()  # nobody gets these for now: they are being reset
        self._due_to: dict[Unit, str] = {}
        self._news: dict[str, None] = {}  # members whose ``due`` has changed
        self._leaving: dict[str, dict[Unit, float]] = {}  # holder -> units to let go, and until when
        self._look: dict[Unit, None] = {}
        self._leaves: dict[Unit, str] = {}  # unit -> who has to let it go
        self._patrol: Iterator[Unit] = iter(())
        self._patrol_at = 0.0
        self._failed: dict[Unit, None] = {}  # claims without a known outcome
        self._death_at = 0.0  # nobody dies before
        self._cursor_of = cursor_of
        self._serials = serials
        for one in self.stored:
            member = self.members[one.member] = Member(one, now, serials())
            self.bytes += member.size

    # -- members --------------------------------------------------------------------------------------------------

    def room_for(self, message: GroupHeartbeat) -> bool:
        """Whether the group's record takes the member as it says it is."""
        known = self.members.get(message.member)
        more = len(encode_record(_stored(message))) - (known.size if known else 0)
        return self.bytes + more <= RECORD_BYTES_MAX

    def heard(self, message: GroupHeartbeat, session: ClientSession, now: float) -> bool:
        """A heartbeat of a member, or of one that wants to be; True if the group's record has to change for it."""
        name = message.member
        stored = _stored(message)
        member = self.members.get(name)
        changed = member is None or member.stored != stored
        if member is None:
            member = Member(stored, now, self._serials())
            if message.instance:
                member.replaced = self._replace(message.instance)
            self.members[name] = member
            self.bytes += member.size
        elif changed:
            self.bytes -= member.size
            member.stored, member.size = stored, len(encode_record(stored))
            self.bytes += member.size
        if changed:
            self._roster += 1
        if not self.slices:
            self.slices = message.slices
        if member.session is not session:
            self._disconnect(name, member)
            member.session = session
            self._by_session.setdefault(session, {})[name] = None
        member.heard_at = now
        member.closed_at = None
        member.seen = message.epoch
        if message.owned is not None:
            member.held = frozenset((topic, partition, number) for topic, partition, number, _ in message.owned)
        self._death_at = min(self._death_at, member.dies_at())
        if name in self._leaving:
            units = self._leaving[name]
            if member.seen == member.serial:  # from now on it has its time; before, it could not know
                until = now + member.stored.rebalance_ms / 1000
                units.update({unit: min(units[unit], until) for unit in units if unit not in member.shown})
            self._look.update(dict.fromkeys(units))
        return changed

    def remove(self, name: str) -> bool:
        """True if it was there."""
        member = self.members.pop(name, None)
        if member is None:
            return False
        self._disconnect(name, member)
        for unit in member.due:
            del self._due_to[unit]
        for unit in self._leaving.pop(name, ()):
            del self._leaves[unit]
        self._news.pop(name, None)
        self.bytes -= member.size
        self._roster += 1
        self.stale = True
        return True

    def session_closed(self, session: ClientSession, now: float) -> None:
        for name in self._by_session.pop(session, ()):
            member = self.members[name]
            member.session = None
            member.closed_at = now
            self._death_at = min(self._death_at, member.dies_at())

    def bury(self, now: float) -> None:
        """Remove who is dead."""
        if now < self._death_at:
            return
        for name in [name for name, member in self.members.items() if member.dies_at() < now]:
            self.remove(name)
        self._death_at = min((member.dies_at() for member in self.members.values()), default=float("inf"))

    @property
    def unsaved(self) -> bool:
        """Whether the record does not tell the members as they are."""
        return self._roster != self._roster_saved

    def roster(self) -> tuple[int, tuple[StoredMember, ...]]:
        """The members for the record; the number says which state of them this is."""
        return self._roster, tuple([member.stored for _, member in sorted(self.members.items())])

    def saved(self, roster: int, members: tuple[StoredMember, ...], epoch: int) -> None:
        """The record with these members is applied: now units may be given to them."""
        self._roster_saved = roster
        self.stored = members
        self.epoch = epoch
        self.stale = True

    def _replace(self, instance: str) -> frozenset[str]:
        replaced: set[str] = set()
        for name, member in list(self.members.items()):
            if member.stored.instance == instance:
                replaced |= {name, *member.replaced}
                self.remove(name)
        return frozenset(replaced)

    def _disconnect(self, name: str, member: Member) -> None:
        if member.session is not None:
            mine = self._by_session.get(member.session, {})
            mine.pop(name, None)
            if not mine:
                self._by_session.pop(member.session, None)

    # -- units ----------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether there is something to do now."""
        return bool(self._look or self.stale or self.planning or self.unsaved or self._news)

    @property
    def planning(self) -> bool:
        """Whether a plan was begun and is not done."""
        return self._planning is not None

    @property
    def looks_left(self) -> bool:
        """Whether this turn was too short for all that happened."""
        return bool(self._look)

    def set_units(self, units: Iterable[Unit]) -> None:
        """The units of all topics wanted, as far as their partitions are open."""
        found = tuple(units)
        for unit in set(self.units).difference(found):
            self._hide(unit)
            self._settled(unit)
        self.units = found
        self.stale = True

    def plan(self, wishes: Mapping[str, frozenset[TopicId]]) -> None:
        """Begin to decide who should hold what, anew if that was going on. ``wishes``: of all members."""
        self.stale = False
        self._planning = self._plan(wishes)

    def go_on_planning(self) -> bool:
        """One step; False when it was the last."""
        assert self._planning is not None
        try:
            next(self._planning)
        except StopIteration as end:
            self._planning = None
            self._target = end.value
            self._look = dict.fromkeys(self.units)
        return self.planning

    def _plan(self, wishes: Mapping[str, frozenset[TopicId]]) -> Generator[None, None, dict[Unit, str]]:
        """Owners may change between two steps: afterwards all units are looked at. When anything else does, the plan is
        ``stale``, and begun anew."""
        found = self.units
        living = {one.member: wishes[one.member] for one in self.stored if one.member in self.members}
        heirs = {old: name for name, member in self.members.items() for old in member.replaced}
        owners: dict[Unit, str] = {}
        for work, unit in enumerate(found, start=1):
            if not work % STEP:
                yield
            owner = self.claiming.get(unit) or self._cursor_of(unit).member
            owners[unit] = heirs.get(owner, owner)
        # What an instance held is kept for its new process until the record tells of that.
        ready = [unit for unit in found if owners[unit] in living or owners[unit] not in self.members]
        yield
        return (yield from assigning(living, ready, owners))

    def claims(self, now: float) -> list[Claim]:
        """What is to be claimed now; each is in ``claiming`` until ``claimed``."""
        if len(self._look) <= LOOKS_MAX:
            looks, self._look = self._look, {}
        else:
            looks = dict.fromkeys(islice(self._look, LOOKS_MAX))
            self._look = dict.fromkeys(islice(self._look, LOOKS_MAX, None))
        found = []
        for unit in looks:
            claim = self._look_at(unit, now)
            if claim is not None:
                self.claiming[unit] = claim.member
                found.append(claim)
        return found

    def claimed(self, unit: Unit, *, known: bool) -> None:
        """It has an outcome: who holds the unit, the cursor tells. ``known`` False: or not, try again later."""
        self.claiming.pop(unit, None)
        if unit in self._target:
            (self._look if known else self._failed)[unit] = None

    def expire(self, now: float) -> None:
        """Look at what members had time to let go, try again what failed, and see whether owners are as thought: an
        earlier coordinator's claim may have been on its way for long."""
        self._look.update(self._failed)
        self._failed.clear()
        for units in self._leaving.values():
            self._look.update({unit: None for unit, until in units.items() if now >= until})
        if now >= self._patrol_at:
            self._patrol_at = now + PATROL_S
            self._look.update(dict.fromkeys(self._strange(PATROL_UNITS)))

    def bar(self, units: Iterable[Unit]) -> bool:
        """Take units from whoever holds them; False if some are on their way to somebody."""
        wanted = set(units)
        if wanted & self._barred or any(unit in self.claiming for unit in wanted):
            return False
        self._barred |= wanted
        self._look.update(dict.fromkeys(unit for unit in wanted if unit in self._target))
        return True

    def unbar(self, units: Iterable[Unit]) -> None:
        for unit in units:
            self._barred.discard(unit)
            if unit in self._target:
                self._look[unit] = None

    def show(self) -> list[Member]:
        """Members whose assignment has become another; none while there are units to look at."""
        if self._look or self.stale or self.planning:
            return []
        self.seen_through = True
        changed: list[Member] = []
        news, self._news = self._news, {}
        for name in news:
            member = self.members[name]
            if member.shown != member.due:
                member.shown = dict(member.due)
                member.serial = self._serials()
                changed.append(member)
        return changed

    @property
    def state(self) -> str:
        """ "empty", "stable" or "rebalancing"."""
        if not self.members:
            return "empty"
        moving = self.claiming or self._leaving or self._barred or self._failed
        return "rebalancing" if moving or self.busy else "stable"

    def _look_at(self, unit: Unit, now: float) -> Claim | None:
        cursor = self._cursor_of(unit)
        owner = cursor.member
        wanted = self._target.get(unit)
        barred = unit in self._barred
        if unit in self.claiming:  # looked at again when that is decided
            self._hide(unit)
            self._settled(unit)
            return None
        holder = self.members.get(owner)
        if holder is not None and wanted == owner and not barred:
            if holder.due.get(unit) != cursor.owner_epoch:
                self._hide(unit)
                holder.due[unit] = cursor.owner_epoch
                self._due_to[unit] = owner
                self._news[owner] = None
            self._settled(unit)
            return None
        self._hide(unit)
        if wanted is None or barred:
            self._settled(unit)
            return None
        if holder is not None:
            if self._leaves.get(unit) != owner:
                self._settled(unit)
                self._leaves[unit] = owner
                # Whoever does not even take note of it within its session has no more time than that besides.
                patience_ms = holder.stored.session_ms + holder.stored.rebalance_ms
                self._leaving.setdefault(owner, {})[unit] = now + patience_ms / 1000
            if now < self._leaving[owner][unit] and not self._let_go(holder, unit):
                return None
        self._settled(unit)
        return Claim(unit, cursor.owner_epoch + 1, wanted)

    def _let_go(self, holder: Member, unit: Unit) -> bool:
        """It knows that it has to, and has told that it has."""
        told = holder.held is not None and holder.seen == holder.serial
        return told and unit not in holder.shown and unit not in (holder.held or ())

    def _strange(self, most: int) -> list[Unit]:
        """Of the next units those with an owner that they should not have."""
        some = list(islice(self._patrol, most))
        if not some:
            self._patrol = iter(self.units)
        found = []
        for unit in some:
            cursor = self._cursor_of(unit)
            shown = self._due_to.get(unit)
            known = shown is None or (shown, self.members[shown].due[unit]) == (cursor.member, cursor.owner_epoch)
            wanted = shown is not None or unit not in self._target or unit in self._leaves or unit in self._barred
            if not known or not (wanted or unit in self.claiming):
                found.append(unit)
        return found

    def _hide(self, unit: Unit) -> None:
        name = self._due_to.pop(unit, None)
        if name is not None:
            del self.members[name].due[unit]
            self._news[name] = None

    def _settled(self, unit: Unit) -> None:
        """Nobody has to let it go."""
        name = self._leaves.pop(unit, None)
        if name is not None:
            del self._leaving[name][unit]
            if not self._leaving[name]:
                del self._leaving[name]


def _stored(message: GroupHeartbeat) -> StoredMember:
    return StoredMember(
        message.member, message.instance, message.client, message.topics, message.session_ms, message.rebalance_ms
    )
