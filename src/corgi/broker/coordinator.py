"""The coordinator of consumer groups, in its reigns: the leader of the Paxos group in whose `__groups` partition they
are kept.

When a reign begins, members get their time in full again. Then it drives each group: save the members, claim units for
those who should hold them (OWNER in the unit's own Paxos group, next owner epoch), show each member what its cursors
say it holds. A coordinator that is none any more does no harm: its writes name versions and owner epochs that are over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base import errors
from corgi.base.command import CommandKind
from corgi.base.errors import OK, CorgiError
from corgi.base.ids import GroupId, TopicId
from corgi.base.ports import ClientSession
from corgi.broker.assignment import Unit
from corgi.broker.consumer_group import INTERVAL_MS_MAX, Claim, ConsumerGroup, Member
from corgi.broker.group_records import StoredGroup, decode_record, encode_record
from corgi.broker.reigns import SUBMIT_TIMEOUT_S, Records, Reign, Reigns
from corgi.state.commands import Owner, encode_owner
from corgi.state.cursors import NEW, Cursor, CursorKey
from corgi.state.outcomes import Outcome
from corgi.state.topics import Topics
from corgi.wire.group_messages import Assigned, GroupChanged, GroupHeartbeat, GroupHeartbeatReply

if TYPE_CHECKING:
    from corgi.broker.node import Node

CHECK_S = 0.1  # how late a silent member is noticed
TURN_S = 0.002  # for driving groups
MEMBERS_MAX = 1_000
UNITS_MAX = 5_000  # of one group
GROUPS_MAX = 10_000  # kept in one Paxos group


class Coordinator:
    """Every consumer group that is kept where this node leads."""

    def __init__(self, node: Node, reigns: Reigns) -> None:
        self._node = node
        self._reigns = reigns
        self._check_at = 0.0
        reigns.when_begun.append(self._load)
        reigns.when_ended.append(self._ended)
        self.turn_max_s = 0.0  # that driving groups took

    # -- requests -------------------------------------------------------------------------------------------------

    def heartbeat(self, client: ClientSession, correlation: int, message: GroupHeartbeat) -> None:
        """Answers GroupHeartbeatReply; raises CorgiError "not-leader", "overloaded", "invalid-argument"."""
        self._reigns.attend(
            message.group,
            client,
            lambda reign: self._heard(reign, client, correlation, message),
            lambda error: _refuse(client, correlation, error),
        )

    def group(self, name: str) -> ConsumerGroup:
        """A group that has a record or cursors, at its coordinator. Raises "not-leader", "unknown-group"."""
        reign = self._reigns.begun(name)
        group = self._group(reign, name)
        if group is None:
            if not cursors_of(self._node, name):
                raise CorgiError("unknown-group", f"there is no consumer group {name!r}")
            group = reign.groups[name] = self._new(reign, name, None)
        return group

    def touch(self, name: str) -> None:
        """Something was done to the group: drive it."""
        reign = self._reigns.known(name)
        if reign is not None and name in reign.groups:
            reign.dirty[name] = None

    # -- facts ----------------------------------------------------------------------------------------------------

    def topics_changed(self) -> None:
        for reign in self._reigns.all():
            for name, group in reign.groups.items():
                if group.members:
                    group.stale = True
                    group.units_of = None
                    reign.dirty[name] = None

    def client_closed(self, client: ClientSession) -> None:
        now = self._node.clock.now()
        for reign in self._reigns.all():
            for group in reign.groups.values():
                group.session_closed(client, now)

    def advance(self, now: float) -> None:
        """Notice who is silent, and try again what failed."""
        if now < self._check_at:
            return
        self._check_at = now + CHECK_S
        for reign in self._reigns.all():
            for name, group in reign.groups.items():
                group.bury(now)
                group.expire(now)
                if group.busy:
                    reign.dirty[name] = None

    def next_deadline(self) -> float | None:
        """When ``advance`` and ``flush`` must be called at the latest; None while nothing is coordinated here."""
        if any(reign.begun and reign.dirty for reign in self._reigns.all()):
            return self._node.clock.now()
        return self._check_at if self._reigns else None

    def flush(self) -> None:
        """The end of a turn: drive groups in which something happened, those that do not fit into it in the next."""
        if not self._reigns:
            return
        began = now = self._node.clock.now()
        for reign in self._reigns.all():
            if not reign.begun:
                continue
            for name in list(reign.dirty):
                if now > began + TURN_S:
                    break
                del reign.dirty[name]
                self._drive(reign, name, began + TURN_S)
                now = self._node.clock.now()
        self.turn_max_s = max(self.turn_max_s, now - began)

    # -- reigns ---------------------------------------------------------------------------------------------------

    def _ended(self, reign: Reign) -> None:
        error = CorgiError("not-leader", "the coordinator has changed")
        for joining in reign.joining.values():
            for client, correlation, _ in joining:
                _refuse(client, correlation, error)
        for asking in reign.asking.values():
            for client, correlation, _, _ in asking:
                _refuse(client, correlation, error)

    def _load(self, reign: Reign, records: Records) -> None:
        for name, stored in records.items():
            if isinstance(stored, StoredGroup):
                reign.groups[name] = self._new(reign, name, stored)
                reign.dirty[name] = None

    def _group(self, reign: Reign, name: str) -> ConsumerGroup | None:
        group = reign.groups.get(name)
        if group is None:
            kept = self._node.groups[reign.group].machine.consumer_groups.by_name.get(name)
            if kept is not None:
                stored = decode_record(kept.body)
                group = self._new(reign, name, stored if isinstance(stored, StoredGroup) else None)
                reign.groups[name] = group
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
        seat = reign.classic.get(name)
        if not known and seat is not None:
            if seat.occupied:
                raise CorgiError("inconsistent-protocol", f"Kafka clients are members of the consumer group {name!r}")
            if seat.busy:
                raise CorgiError("unsettled", f"the last member of {name!r} has just left")
            del reign.classic[name]  # an empty group may change its kind
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
        body = encode_record(StoredGroup(max(group.slices, 1), epoch, members))
        joining = reign.joining.pop(name, [])

        def decided(outcome: Outcome) -> None:
            reign.saving.discard(name)
            if reign.ended:
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

        self._reigns.write(reign, name, body, self._reigns.version(reign, name), decided, SUBMIT_TIMEOUT_S)

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


def _refuse(client: ClientSession, correlation: int, error: CorgiError) -> None:
    if not client.closed:
        client.reply(correlation, GroupHeartbeatReply(error.kind.number, error.message))
