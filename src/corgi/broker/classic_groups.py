"""All classic groups that this node coordinates: their records are written, their units claimed, their time kept.

A group is a **seat** in a reign. Each change marks it; at the end of the turn it is driven: write the record, claim
units, let out the answers that waited for that, and arm the one timer. A coordinator that is none any more does no
harm: its record names an old version, its claims a generation that is over, and whoever waits at it is told to look
for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from corgi.base.errors import NOT_LEADER, OK, UNSETTLED, CorgiError
from corgi.base.ports import ClientSession
from corgi.broker.assignment import Unit
from corgi.broker.classic_claims import RETRY_S, Claims, generation_of
from corgi.broker.classic_group import ClassicGroup
from corgi.broker.classic_member import NEVER, Fault, Join, Joined, OnJoined, OnSynced, Sync, Synced
from corgi.broker.consumer_protocol import TYPE, empty_assignment, partitions_assigned
from corgi.broker.coordinator import GROUPS_MAX, cursors_of
from corgi.broker.group_records import StoredClassic, decode_record
from corgi.broker.reigns import SUBMIT_TIMEOUT_S, Records, Reign, Reigns
from corgi.state.consumer_groups import ABSENT
from corgi.state.outcomes import Outcome

if TYPE_CHECKING:
    from corgi.broker.node import Node

NAME_MAX = 249
CLIENT_MAX = 200  # characters of a client's name in a member's
SESSION_MS_MIN, SESSION_MS_MAX = 500, 3_600_000
CLAIMS_PER_TURN = 250
TURN_S = 0.002

Identity = tuple[str, str]  # member, instance


class Seat:
    """A group under its coordinator."""

    __slots__ = ("armed_at", "claiming", "claims", "group", "name", "reign", "retry_at", "saving")

    def __init__(self, name: str, reign: Reign, group: ClassicGroup, claims: Claims) -> None:
        self.name = name
        self.reign = reign
        self.group = group
        self.claims = claims
        self.claiming = False  # claims of the present assignments were begun
        self.saving = False
        self.retry_at = NEVER  # of a record that could not be written
        self.armed_at = NEVER

    @property
    def occupied(self) -> bool:
        return self.group.occupied

    @property
    def busy(self) -> bool:
        """Whether its record is being written."""
        return self.saving or self.group.unsaved

    @property
    def dropped(self) -> bool:
        return self.reign.ended or self.reign.classic.get(self.name) is not self


class ClassicGroups:
    """Everything about members; checkpoints are in ``classic_commits``."""

    def __init__(self, node: Node, reigns: Reigns) -> None:
        self._node = node
        self._reigns = reigns
        self._dirty: dict[Seat, None] = {}
        self._timers: list[tuple[float, int, Seat]] = []
        self._timer = 0
        reigns.when_begun.append(self._load)
        reigns.when_ended.append(self._ended)

    # -- requests -------------------------------------------------------------------------------------------------

    def join(self, client: ClientSession, name: str, request: Join, done: OnJoined) -> None:
        def go(reign: Reign) -> None:
            _check(request)
            seat = self.find(reign, name)
            if seat is None:
                if request.member:
                    raise CorgiError("unknown-member", f"{request.member!r} is no member of {name!r}")
                seat = self._new(reign, name)
            seat.group.join(request, self._member_name(request), done, self._node.clock.now())
            self._mark(seat)

        self.at(client, name, go, lambda error: done(Joined(error, request.member)))

    def sync(self, client: ClientSession, name: str, request: Sync, done: OnSynced) -> None:
        def go(reign: Reign) -> None:
            seat = self._member_seat(reign, name)
            seat.group.sync(request, done, self._node.clock.now())
            self._mark(seat)

        self.at(client, name, go, lambda error: done(Synced(error)))

    def heartbeat(
        self, client: ClientSession, name: str, who: Identity, generation: int, done: Callable[[int], None]
    ) -> None:
        def go(reign: Reign) -> None:
            seat = self._member_seat(reign, name)
            done(seat.group.heartbeat(*who, generation, self._node.clock.now()))

        self.at(client, name, go, done)

    def leave(
        self, client: ClientSession, name: str, who: Sequence[Identity], done: Callable[[int, list[int]], None]
    ) -> None:
        """``done``: an error for all, and one for each."""

        def go(reign: Reign) -> None:
            seat = self.find(reign, name)
            if seat is None:
                done(OK, [Fault.UNKNOWN_MEMBER] * len(who))
                return
            now = self._node.clock.now()
            errors = [seat.group.leave(*one, now) for one in who]
            self._mark(seat)
            done(OK, errors)

        self.at(client, name, go, lambda error: done(error, []))

    def at(self, client: ClientSession, name: str, go: Callable[[Reign], None], refuse: Callable[[int], None]) -> None:
        """Call ``go`` where the group is coordinated, when that is this node and its reign has begun."""

        def told(error: CorgiError) -> None:
            refuse(error.kind.number)

        try:
            if not 1 <= len(name) <= NAME_MAX:
                raise CorgiError("invalid-argument", f"a group is named by 1 to {NAME_MAX} characters")
            self._reigns.attend(name, client, go, told)
        except CorgiError as error:
            told(error)

    def find(self, reign: Reign, name: str) -> Seat | None:
        """The group in this reign, if it is a classic one."""
        seat = reign.classic.get(name)
        if seat is None and name not in reign.groups:
            kept = self._node.groups[reign.group].machine.consumer_groups.by_name.get(name)
            stored = None if kept is None else decode_record(kept.body)
            if isinstance(stored, StoredClassic):
                seat = self._place(reign, name, stored, 0)
        return seat

    def seats(self) -> Iterable[Seat]:
        """Every classic group that this node coordinates."""
        for reign in self._reigns.all():
            if reign.begun:
                yield from reign.classic.values()

    def drop(self, reign: Reign, name: str) -> None:
        """Its record is gone: forget the group, unless somebody has joined it meanwhile."""
        seat = reign.classic.get(name)
        if seat is not None and not seat.occupied and not seat.busy:
            del reign.classic[name]

    # -- time -----------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, seat = heappop(self._timers)
            seat.armed_at = NEVER
            if not seat.dropped:
                self._mark(seat)

    def next_deadline(self) -> float | None:
        if self._dirty:
            return self._node.clock.now()
        return self._timers[0][0] if self._timers else None

    def flush(self) -> None:
        """The end of a turn: drive groups in which something happened, those that do not fit into it in the next."""
        if not self._dirty:
            return
        until = self._node.clock.now() + TURN_S
        for seat in list(self._dirty):
            del self._dirty[seat]
            self._drive(seat)
            if self._node.clock.now() > until:
                return

    # -- reigns ---------------------------------------------------------------------------------------------------

    def _load(self, reign: Reign, records: Records) -> None:
        for name, stored in records.items():
            if isinstance(stored, StoredClassic):
                self._place(reign, name, stored, 0)

    def _ended(self, reign: Reign) -> None:
        for seat in reign.classic.values():
            self._dirty.pop(seat, None)
            seat.group.fail(NOT_LEADER)

    def _member_seat(self, reign: Reign, name: str) -> Seat:
        seat = self.find(reign, name)
        if seat is None:
            raise CorgiError("unknown-member", f"there is no classic group {name!r}")
        return seat

    def _new(self, reign: Reign, name: str) -> Seat:
        """Raises CorgiError when the name belongs to a group of another kind, or there are too many."""
        native = reign.groups.get(name)
        cursors = cursors_of(self._node, name)
        if native is not None:
            if native.members:
                raise CorgiError("inconsistent-protocol", f"{name!r} has members that speak Corgi's own protocol")
            if native.unsaved or name in reign.saving or name in reign.joining:
                raise CorgiError("unsettled", f"the last member of {name!r} has just left")
        if any(key.slice for _, key, _ in cursors):
            raise CorgiError(
                "inconsistent-protocol",
                f"the consumer group {name!r} cuts partitions into slices, which Kafka's protocol does not know",
                hint=f"corgi group delete {name}, or use another group",
            )
        kept = self._node.groups[reign.group].machine.consumer_groups.by_name
        if name not in kept and len(kept.keys() | reign.classic.keys()) >= GROUPS_MAX:
            raise CorgiError("overloaded", f"a Paxos group keeps at most {GROUPS_MAX} consumer groups")
        if native is not None:
            del reign.groups[name]
        floor = max((generation_of(cursor.owner_epoch) for _, _, cursor in cursors), default=0)
        return self._place(reign, name, None, floor)

    def _place(self, reign: Reign, name: str, stored: StoredClassic | None, floor: int) -> Seat:
        group = ClassicGroup(
            stored,
            self._node.clock.now(),
            join_delay_s=self._node.options.classic_join_delay_s,
            floor=floor,
            empty_assignment=empty_assignment,
        )
        claims = Claims(self._node, name, lambda: self._mark(seat))
        seat = reign.classic[name] = Seat(name, reign, group, claims)
        self._mark(seat)
        return seat

    def _member_name(self, request: Join) -> str:
        bits = self._node.random.getrandbits(128)
        return f"{(request.instance or request.client)[:CLIENT_MAX]}-{bits:032x}"

    # -- driving --------------------------------------------------------------------------------------------------

    def _mark(self, seat: Seat) -> None:
        self._dirty[seat] = None

    def _drive(self, seat: Seat) -> None:
        now = self._node.clock.now()
        group = seat.group
        if seat.dropped:
            group.release(now)
            return
        group.expire(now)
        if now >= seat.retry_at:
            seat.retry_at = NEVER
        if group.unsaved and not seat.saving and seat.retry_at == NEVER:
            self._save(seat)
        if not group.settling or group.unsaved:
            seat.claiming = False
        elif not seat.claiming:
            seat.claiming = True
            seat.claims.begin(group.generation, self._assigned(group))
        seat.claims.again(now)
        seat.claims.submit(CLAIMS_PER_TURN)
        if seat.claiming and seat.claims.tried:
            seat.claiming = False
            group.settled()
        group.release(now)
        if not seat.occupied and not seat.busy and self._reigns.version(seat.reign, seat.name) == ABSENT:
            del seat.reign.classic[seat.name]  # nobody stayed, and nothing tells of it
            return
        if seat.claims.ready:
            self._mark(seat)
        self._arm(seat)

    def _arm(self, seat: Seat) -> None:
        when = min(seat.group.due_at, seat.retry_at, seat.claims.retry_at)
        if when < seat.armed_at:
            seat.armed_at = when
            self._timer += 1
            heappush(self._timers, (when, self._timer, seat))

    def _assigned(self, group: ClassicGroup) -> list[tuple[Unit, str]]:
        """The units that the members were assigned, where that can be read."""
        topics = self._node.groups[0].machine.topics
        assert topics is not None, "group 0 holds the topics"
        found: list[tuple[Unit, str]] = []
        if group.protocol_type != TYPE:
            return found
        for member in group.members.values():
            for name, partition in partitions_assigned(member.assignment):
                topic = topics.get(name)
                if topic is not None and 0 <= partition < topic.partitions:
                    found.append(((topic.topic, partition, 0), member.name))
        return found

    def _save(self, seat: Seat) -> None:
        """Write the record; one at a time."""
        seat.saving = True
        revision, body = seat.group.record()

        def decided(outcome: Outcome) -> None:
            seat.saving = False
            if not outcome.error:
                seat.group.saved(revision)
            elif outcome.error != UNSETTLED:  # else the record is another by now
                seat.retry_at = self._node.clock.now() + RETRY_S
            self._mark(seat)

        version = self._reigns.version(seat.reign, seat.name)
        self._reigns.write(seat.reign, seat.name, body, version, decided, SUBMIT_TIMEOUT_S)


def _check(request: Join) -> None:
    """Raises CorgiError "invalid-argument"."""
    if not SESSION_MS_MIN <= request.session_ms <= SESSION_MS_MAX:
        raise CorgiError("invalid-session-timeout", f"a session time-out is {SESSION_MS_MIN} to {SESSION_MS_MAX} ms")
    names = (request.member, request.instance, request.protocol_type, *[name for name, _ in request.protocols])
    if any(len(name) > NAME_MAX for name in names):
        raise CorgiError("invalid-argument", f"members and protocols are named by at most {NAME_MAX} characters")
