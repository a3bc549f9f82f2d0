"""The coordinator of consumer groups: the leader of the Paxos group in whose `__groups` partition they are kept.

A new leader first goes through the log of every Paxos group, so that it sees all cursors and records as of its
election; heartbeats that come meanwhile wait. Members get their time in full again. Then it drives each group: save the
members, claim units for those who should hold them (OWNER in the unit's own Paxos group, next owner epoch), show each
member what its cursors say it holds. A coordinator that is none any more does no harm: its writes name versions and
owner epochs that are over.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from corgi.base import errors
from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import OK, CorgiError
from corgi.base.ids import GROUPS, GroupId, TopicId
from corgi.base.ports import ClientSession
from corgi.broker.assignment import Unit
from corgi.broker.consumer_group import (
    FORMAT,
    INTERVAL_MS_MAX,
    Claim,
    ConsumerGroup,
    Member,
    StoredGroup,
    decode_stored,
    encode_stored,
)
from corgi.state.commands import Owner, encode_owner, guard_group_at
from corgi.state.consumer_groups import encode_group
from corgi.state.cursors import NEW, Cursor, CursorKey
from corgi.state.outcomes import Outcome
from corgi.state.topics import Topics
from corgi.wire.group_messages import Assigned, GroupChanged, GroupHeartbeat, GroupHeartbeatReply

if TYPE_CHECKING:
    from corgi.broker.node import Node

CHECK_S = 0.1  # how late a silent member is noticed
SUBMIT_TIMEOUT_S = 5.0
TURN_S = 0.002  # for driving groups
WAITING_MAX = 10_000  # heartbeats that wait for a coordinator to become one
MEMBERS_MAX = 1_000
UNITS_MAX = 5_000  # of one group
GROUPS_MAX = 10_000  # kept in one Paxos group


def kept_in(group: str, groups: int) -> GroupId:
    """The Paxos group that keeps a consumer group."""
    return GroupId(zlib.crc32(group.encode()) % groups)


class Reign:
    """What this node coordinates as the leader of one Paxos group in one ballot."""

    def __init__(self, group: GroupId, ballot: int) -> None:
        self.group = group
        self.ballot = ballot
        self.begun = False  # every log was gone through
        self.waiting: list[tuple[ClientSession, int, GroupHeartbeat]] = []
        self.groups: dict[str, ConsumerGroup] = {}
        self.saving: set[str] = set()
        self.dirty: dict[str, None] = {}
        self.asking: dict[
            str, list[tuple[ClientSession, int, str, int]]
        ] = {}  # answered when it is known who holds what
        self.joining: dict[str, list[tuple[ClientSession, int, str]]] = {}  # answered when the record is saved
        self._serial = ballot << 24

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial


class Coordinator:
    """Every consumer group that is kept where this node leads."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._reigns: dict[GroupId, Reign] = {}
        self._check_at = 0.0

    # -- requests -------------------------------------------------------------------------------------------------

    def heartbeat(self, client: ClientSession, correlation: int, message: GroupHeartbeat) -> None:
        """Answers GroupHeartbeatReply; raises CorgiError "not-leader", "overloaded", "invalid-argument"."""
        reign = self._reign(message.group)
        if not reign.begun:
            if len(reign.waiting) >= WAITING_MAX:
                raise CorgiError("overloaded", "too many consumers wait for their coordinator")
            reign.waiting.append((client, correlation, message))
            return
        self._heard(reign, client, correlation, message)

    def group(self, name: str) -> ConsumerGroup:
        """A group that has a record or cursors, at its coordinator. Raises "not-leader", "unknown-group"."""
        reign = self._reign(name)
        if not reign.begun:
            raise CorgiError("not-leader", "the coordinator has just been elected")
        group = self._group(reign, name)
        if group is None:
            if not cursors_of(self._node, name):
                raise CorgiError("unknown-group", f"there is no consumer group {name!r}")
            group = reign.groups[name] = self._new(reign, name, None)
        return group

    def reign_of(self, name: str) -> Reign:
        """Where a group is coordinated by this node. Raises "not-leader"."""
        return self._reign(name)

    def version(self, reign: Reign, name: str) -> int:
        """Of the group's record."""
        return self._node.groups[reign.group].machine.consumer_groups.version(name)

    def write(
        self,
        reign: Reign,
        name: str,
        body: bytes | None,
        version: int,
        done: Callable[[Outcome], None],
        timeout_s: float,
    ) -> None:
        """Replace the group's record of ``version``; None ends it."""
        batch = encode_group(name, body, self._node.clock.wall_ms())
        command = encode_data([(GROUPS, int(reign.group), batch)], [guard_group_at(name, version)])
        self._node.submit(reign.group, CommandKind.DATA, command, done, timeout_s=timeout_s)

    def touch(self, name: str) -> None:
        """Something was done to the group: drive it."""
        reign = self._reigns.get(kept_in(name, len(self._node.groups)))
        if reign is not None and name in reign.groups:
            reign.dirty[name] = None

    # -- facts ----------------------------------------------------------------------------------------------------

    def leader_changed(self, group: GroupId) -> None:
        """Whatever was begun under another leader is over."""
        reign = self._reigns.get(group)
        if reign is not None and not self._reigns_still(reign):
            self._end(reign)

    def topics_changed(self) -> None:
        for reign in self._reigns.values():
            for name, group in reign.groups.items():
                if group.members:
                    group.stale = True
                    group.units_of = None
                    reign.dirty[name] = None

    def client_closed(self, client: ClientSession) -> None:
        now = self._node.clock.now()
        for reign in self._reigns.values():
            reign.waiting = [waiting for waiting in reign.waiting if waiting[0] is not client]
            for group in reign.groups.values():
                group.session_closed(client, now)

    def advance(self, now: float) -> None:
        """Notice who is silent, and try again what failed."""
        if now < self._check_at:
            return
        self._check_at = now + CHECK_S
        for reign in list(self._reigns.values()):
            if not self._reigns_still(reign):
                self._end(reign)
                continue
            for name, group in reign.groups.items():
                group.bury(now)
                group.expire(now)
                if group.busy:
                    reign.dirty[name] = None

    def next_deadline(self) -> float | None:
        """When ``advance`` and ``flush`` must be called at the latest; None while nothing is coordinated here."""
        if any(reign.begun and reign.dirty for reign in self._reigns.values()):
            return self._node.clock.now()
        return self._check_at if self._reigns else None

    def flush(self) -> None:
        """The end of a turn: drive groups in which something happened, those that do not fit into it in the next."""
        if not self._reigns:
            return
        until = self._node.clock.now() + TURN_S
        for reign in self._reigns.values():
            if not reign.begun:
                continue
            for name in list(reign.dirty):
                del reign.dirty[name]
                self._drive(reign, name, until)
                if self._node.clock.now() > until:
                    return

    # -- reigns ---------------------------------------------------------------------------------------------------

    def _reign(self, name: str) -> Reign:
        """Raises "not-leader"; if nobody leads, has somebody take over."""
        number = kept_in(name, len(self._node.groups))
        group = self._node.groups[number]
        reign = self._reigns.get(number)
        if reign is not None and self._reigns_still(reign):
            return reign
        if reign is not None:
            self._end(reign)
        if self._node.stopping:
            raise CorgiError("not-leader", "the node is stopping")
        if not group.replica.leading:
            if not group.replica.route():
                self._node.submit(number, CommandKind.BARRIER, b"", lambda _: None, timeout_s=1.0)
            raise CorgiError("not-leader", f"consumer group {name!r} is coordinated by node {group.replica.route()}")
        reign = self._reigns[number] = Reign(number, int(group.replica.ballot))
        self._begin(reign)
        return reign

    def _reigns_still(self, reign: Reign) -> bool:
        replica = self._node.groups[reign.group].replica
        return replica.leading and int(replica.ballot) == reign.ballot

    def _begin(self, reign: Reign) -> None:
        left = {group.id for group in self._node.groups}

        def gone_through(number: GroupId, outcome: Outcome) -> None:
            if self._reigns.get(reign.group) is not reign:
                return
            if outcome.error:
                self._end(reign)
                return
            left.discard(number)
            if not left:
                reign.begun = True
                waiting, reign.waiting = reign.waiting, []
                self._load(reign)
                for client, correlation, message in waiting:
                    if client.closed:
                        continue
                    try:
                        self._heard(reign, client, correlation, message)
                    except CorgiError as error:
                        _refuse(client, correlation, error)

        for group in self._node.groups:
            number = group.id
            self._node.submit(
                number,
                CommandKind.BARRIER,
                b"",
                lambda outcome, number=number: gone_through(number, outcome),  # type: ignore[misc]
                timeout_s=SUBMIT_TIMEOUT_S,
            )

    def _end(self, reign: Reign) -> None:
        del self._reigns[reign.group]
        error = CorgiError("not-leader", "the coordinator has changed")
        for client, correlation, _ in reign.waiting:
            _refuse(client, correlation, error)
        for joining in reign.joining.values():
            for client, correlation, _ in joining:
                _refuse(client, correlation, error)
        for asking in reign.asking.values():
            for client, correlation, _, _ in asking:
                _refuse(client, correlation, error)

    def _load(self, reign: Reign) -> None:
        for name in self._node.groups[reign.group].machine.consumer_groups.by_name:
            self._group(reign, name)
            reign.dirty[name] = None

    def _group(self, reign: Reign, name: str) -> ConsumerGroup | None:
        group = reign.groups.get(name)
        if group is None:
            kept = self._node.groups[reign.group].machine.consumer_groups.by_name.get(name)
            if kept is not None:
                group = reign.groups[name] = self._new(reign, name, _decoded(kept.body))
        return group

    def _new(self, reign: Reign, name: str, stored: StoredGroup | None) -> ConsumerGroup:
        numbers: dict[tuple[TopicId, int], GroupId] = {}  # they are for ever
        groups, topics = self._node.groups, self._topics

        def cursor_of(unit: Unit) -> Cursor:
            topic, partition, slice_ = unit
            number = numbers.get((topic, partition))
            if number is None:
                if topic not in topics.by_id:
                    return NEW
                number = numbers[topic, partition] = topics.group_of(topic, partition)
            cursors = groups[number].machine.cursors.by_partition.get((topic, partition))
            return NEW if cursors is None else cursors.get((name, slice_), NEW)

        return ConsumerGroup(name, stored, self._node.clock.now(), cursor_of, reign.next_serial)

    # -- members --------------------------------------------------------------------------------------------------

    def _heard(self, reign: Reign, client: ClientSession, correlation: int, message: GroupHeartbeat) -> None:
        name = message.group
        group = self._group(reign, name)
        if message.leave:
            if group is not None and group.remove(message.member):
                reign.dirty[name] = None
            client.reply(correlation, GroupHeartbeatReply(OK, ""))
            return
        known = group is not None and message.member in group.members
        if not known and message.epoch:
            raise CorgiError("unknown-member", f"{message.member!r} is no member of {name!r} any more")
        if group is None:
            group = reign.groups[name] = self._new(reign, name, None)
        if group.slices not in (0, message.slices) and (group.members or cursors_of(self._node, name)):
            raise CorgiError(
                "invalid-argument",
                f"the consumer group {name!r} cuts each partition into {group.slices} slices, not {message.slices}",
                hint="all members share alike; to change it, stop them and delete the group",
            )
        self._check_room(reign, group, message, known=known)
        if group.slices not in (0, message.slices):
            group.slices = message.slices
        changed = group.heard(message, client, self._node.clock.now())
        if group.busy:
            reign.dirty[name] = None
        if changed:
            reign.joining.setdefault(name, []).append((client, correlation, message.member))
        else:
            self._answer(reign, group, client, correlation, message.member, message.epoch)

    def _check_room(self, reign: Reign, group: ConsumerGroup, message: GroupHeartbeat, *, known: bool) -> None:
        """Raises "overloaded" for what would be too much to be kept or shared out."""
        if known and group.members[message.member].stored.topics == message.topics:
            return
        if not known and len(group.members) >= MEMBERS_MAX:
            raise CorgiError("overloaded", f"a consumer group has at most {MEMBERS_MAX} members")
        kept = self._node.groups[reign.group].machine.consumer_groups.by_name
        if not group.members and group.name not in kept and len(kept) >= GROUPS_MAX:
            raise CorgiError("overloaded", f"a Paxos group keeps at most {GROUPS_MAX} consumer groups")
        if not group.room_for(message):
            raise CorgiError("overloaded", "the names of all members and their topics together are too long")
        wanted = {text for member in group.members.values() for text in member.stored.topics}.union(message.topics)
        found = [topic for text in wanted if (topic := self._topics.get(text)) is not None]
        units = sum(topic.partitions for topic in found) * message.slices
        if units > UNITS_MAX:
            raise CorgiError("overloaded", f"a consumer group shares at most {UNITS_MAX} units, not {units}")

    def _answer(
        self, reign: Reign, group: ConsumerGroup, client: ClientSession, correlation: int, name: str, epoch: int
    ) -> None:
        if client.closed:
            return
        if not group.seen_through:  # a coordinator that has just begun must not tell members that they hold nothing
            reign.asking.setdefault(group.name, []).append((client, correlation, name, epoch))
            return
        member = group.members.get(name)
        if member is None:
            _refuse(client, correlation, CorgiError("unknown-member"))
            return
        assignment = None if epoch == member.serial else self._assignment(group, member)
        missing = tuple(topic for topic in member.stored.topics if self._topics.get(topic) is None)
        interval_ms = min(member.stored.session_ms // 3, INTERVAL_MS_MAX)
        client.reply(correlation, GroupHeartbeatReply(OK, "", member.serial, interval_ms, assignment, missing))

    def _assignment(self, group: ConsumerGroup, member: Member) -> tuple[Assigned, ...]:
        found: list[Assigned] = []
        for unit in member.shown:
            topic = self._topics.by_id.get(unit[0])
            if topic is None:
                continue
            number = topic.group_of(unit[1])
            cursor = self._node.groups[number].machine.cursors.get(CursorKey(group.name, *unit))
            found.append(
                Assigned(
                    topic.name, *unit, cursor.owner_epoch, cursor.version, cursor.offset, cursor.ranges, cursor.metadata
                )
            )
        return tuple(found)

    # -- driving --------------------------------------------------------------------------------------------------

    def _drive(self, reign: Reign, name: str, until: float) -> None:
        group = reign.groups.get(name)
        if group is None:
            return
        if group.unsaved:
            self._save(reign, group)
        if group.stale:
            self._begin_plan(group)
        if group.planning:
            while group.go_on_planning() and self._node.clock.now() <= until:
                pass
            reign.dirty[name] = None  # planning is enough for one turn
            return
        for claim in group.claims(self._node.clock.now()):
            self._claim(reign, group, claim)
        for member in group.show():
            if member.session is not None and not member.session.closed:
                member.session.push(GroupChanged(name, member.stored.member), ())
        if group.looks_left:
            reign.dirty[name] = None
        if group.seen_through and name in reign.asking:
            for asked in reign.asking.pop(name):
                self._answer(reign, group, *asked)

    def _begin_plan(self, group: ConsumerGroup) -> None:
        wishes = self._wishes(group)
        wanted: set[TopicId] = set().union(*wishes.values()) if wishes else set()
        key = (frozenset(wanted), group.slices)
        if group.units_of != key:
            group.units_of = key
            group.set_units(self._units(wanted, max(group.slices, 1)))
        group.plan(wishes)

    def _wishes(self, group: ConsumerGroup) -> dict[str, frozenset[TopicId]]:
        topics = self._topics
        return {
            name: frozenset(found.topic for text in member.stored.topics if (found := topics.get(text)) is not None)
            for name, member in group.members.items()
        }

    def _units(self, wanted: set[TopicId], slices: int) -> list[Unit]:
        units: list[Unit] = []
        for topic_id in sorted(wanted):
            topic = self._topics.by_id[topic_id]
            for partition in range(topic.partitions):
                machine = self._node.groups[topic.group_of(partition)].machine
                if (topic_id, partition) in machine.partitions:
                    units += [(topic_id, partition, number) for number in range(slices)]
        return units

    def _claim(self, reign: Reign, group: ConsumerGroup, claim: Claim) -> None:
        def decided(outcome: Outcome) -> None:
            known = outcome.error in (OK, errors.CONSUMER_FENCED)
            group.claimed(claim.unit, known=known)
            if known:
                reign.dirty[group.name] = None

        number = self._topics.group_of(claim.unit[0], claim.unit[1])
        owner = encode_owner(Owner(group.name, *claim.unit, claim.owner_epoch, claim.member))
        self._node.submit(number, CommandKind.OWNER, owner, decided, timeout_s=SUBMIT_TIMEOUT_S)
        self._node.count("group_claims")

    def _save(self, reign: Reign, group: ConsumerGroup) -> None:
        """Write the members down; one record at a time."""
        name = group.name
        if name in reign.saving:
            return
        reign.saving.add(name)
        (roster, members), epoch = group.roster(), group.epoch + 1
        body = encode_stored(StoredGroup(FORMAT, max(group.slices, 1), epoch, members))
        joining = reign.joining.pop(name, [])

        def decided(outcome: Outcome) -> None:
            reign.saving.discard(name)
            if self._reigns.get(reign.group) is not reign:
                for client, correlation, _ in joining:
                    _refuse(client, correlation, CorgiError("not-leader"))
                return
            if outcome.error:
                reign.joining.setdefault(name, [])[:0] = joining
                if outcome.error == errors.UNSETTLED:
                    reign.dirty[name] = None  # the record is another by now
                return  # otherwise advance tries again
            group.saved(roster, members, epoch)
            reign.dirty[name] = None
            for client, correlation, member in joining:
                self._answer(reign, group, client, correlation, member, 0)

        self.write(reign, name, body, self.version(reign, name), decided, SUBMIT_TIMEOUT_S)

    @property
    def _topics(self) -> Topics:
        topics = self._node.groups[0].machine.topics
        assert topics is not None, "group 0 holds the topics"
        return topics


def cursors_of(node: Node, name: str) -> list[tuple[GroupId, CursorKey, Cursor]]:
    """The cursors of a consumer group, as far as this node has applied."""
    return [
        (group.id, key, cursor) for group in node.groups for key, cursor in sorted(group.machine.cursors.of_group(name))
    ]


def _decoded(body: bytes) -> StoredGroup | None:
    """None for what this release does not understand: the group's members join anew."""
    try:
        stored = decode_stored(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return stored if stored.format == FORMAT else None


def _refuse(client: ClientSession, correlation: int, error: CorgiError) -> None:
    if not client.closed:
        client.reply(correlation, GroupHeartbeatReply(error.kind.number, error.message))
