"""Requests of consumer groups: heartbeats, and what people and tools want to know or to change.

The coordinator answers for a group as a whole; cursors and the list of groups go through the log of the Paxos groups
concerned, at any node. What fails as a whole is told in the reply's own error, so that a client can tell it from a
broken request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base.errors import BY_NUMBER, OK, CorgiError
from corgi.base.ids import GroupId
from corgi.base.ports import ClientSession
from corgi.broker.barriers import Barriers
from corgi.broker.bounds import timeout_s
from corgi.broker.classic_group import State
from corgi.broker.classic_groups import ClassicGroups, Seat
from corgi.broker.consumer_protocol import topics_wanted
from corgi.broker.coordinator import Coordinator, cursors_of
from corgi.broker.group_changes import GroupChanges
from corgi.broker.group_records import StoredClassic, decode_record
from corgi.broker.places import Places
from corgi.broker.reigns import Reigns
from corgi.delivery.pushes import Pushes
from corgi.state.cursors import CursorKey
from corgi.wire import group_messages as g

if TYPE_CHECKING:
    from corgi.broker.node import Node


class GroupRequests:
    """Everything but Commit."""

    def __init__(
        self,
        node: Node,
        places: Places,
        barriers: Barriers,
        pushes: Pushes,
        reigns: Reigns,
        coordinator: Coordinator,
        classic: ClassicGroups,
    ) -> None:
        self._node = node
        self._places = places
        self._barriers = barriers
        self._pushes = pushes
        self._reigns = reigns
        self._coordinator = coordinator
        self._classic = classic
        self.changes = GroupChanges(node, reigns, coordinator, classic)

    def heartbeat(self, client: ClientSession, correlation: int, message: g.GroupHeartbeat) -> None:
        try:
            self._coordinator.heartbeat(client, correlation, message)
        except CorgiError as error:
            client.reply(correlation, g.GroupHeartbeatReply(error.kind.number, error.message))

    def cursors(self, client: ClientSession, correlation: int, message: g.Cursors) -> None:
        """Raises CorgiError "overloaded"."""
        groups: dict[GroupId, None] | None = None
        if message.units is not None:
            try:
                groups = {self._places.to_write(topic, partition).group: None for topic, partition, _ in message.units}
            except CorgiError as error:
                client.reply(correlation, g.CursorsReply(error.kind.number, error.message))
                return

        def confirmed(errors: dict[GroupId, int]) -> None:
            if errors:
                error = next(iter(errors.values()))
                client.reply(correlation, g.CursorsReply(error, BY_NUMBER[error].meaning))
                return
            client.reply(correlation, g.CursorsReply(OK, "", self._infos(message.group, message.units)))

        if groups is None:
            self._barriers.confirm_all(client, timeout_s(message.timeout_ms), confirmed)
        else:
            self._barriers.confirm(client, groups, timeout_s(message.timeout_ms), confirmed)

    def list_groups(self, client: ClientSession, correlation: int, message: g.ListGroups) -> None:
        """Raises CorgiError "overloaded"."""

        def confirmed(errors: dict[GroupId, int]) -> None:
            if errors:
                error = next(iter(errors.values()))
                client.reply(correlation, g.ListGroupsReply(error, BY_NUMBER[error].meaning))
                return
            client.reply(correlation, g.ListGroupsReply(OK, "", tuple(self._summaries())))

        self._barriers.confirm_all(client, timeout_s(message.timeout_ms), confirmed)

    def describe(self, client: ClientSession, correlation: int, message: g.DescribeGroup) -> None:
        now = self._node.clock.now()
        try:
            seat = self._classic.find(self._reigns.begun(message.group), message.group)
            if seat is not None:
                client.reply(correlation, self._described(seat, now))
                return
            group = self._coordinator.group(message.group)
        except CorgiError as error:
            client.reply(correlation, g.DescribeGroupReply(error.kind.number, error.message))
            return
        members = [
            g.MemberInfo(
                name, member.stored.instance, member.stored.client, member.stored.topics,
                int((now - member.heard_at) * 1000),
            )
            for name, member in sorted(group.members.items())
        ]  # fmt: skip
        units = set(group.units) | {key[1:] for _, key, _ in cursors_of(self._node, message.group)}
        reply = g.DescribeGroupReply(
            OK, "", group.state, group.epoch, max(group.slices, 1), tuple(members),
            self._infos(message.group, sorted(units)),
        )  # fmt: skip
        client.reply(correlation, reply)

    def _described(self, seat: Seat, now: float) -> g.DescribeGroupReply:
        """A group of Kafka clients, in the words of ours."""
        group = seat.group
        members = [
            g.MemberInfo(
                member.name, member.instance, member.client, topics_wanted(member.protocols[0][1]),
                int((now - member.heard_at) * 1000),
            )
            for member in group.members.values()
        ]  # fmt: skip
        state = "empty" if not group.members else "stable" if group.state is State.STABLE else "rebalancing"
        units = sorted(key[1:] for _, key, _ in cursors_of(self._node, seat.name))
        return g.DescribeGroupReply(
            OK, "", state, group.generation, 1, tuple(members), self._infos(seat.name, units), "classic"
        )

    def delete(self, client: ClientSession, correlation: int, message: g.DeleteGroup) -> None:
        def done(error: int, text: str) -> None:
            if not client.closed:
                client.reply(correlation, g.DeleteGroupReply(error, text))

        try:
            self.changes.delete(message.group, timeout_s(message.timeout_ms), done)
        except CorgiError as error:
            done(error.kind.number, error.message)

    def reset(self, client: ClientSession, correlation: int, message: g.ResetGroup) -> None:
        def done(error: int, text: str) -> None:
            if not client.closed:
                client.reply(correlation, g.ResetGroupReply(error, text))

        try:
            if not message.offsets:
                raise CorgiError("invalid-argument", "no partition is named")
            self.changes.reset(message.group, message.offsets, timeout_s(message.timeout_ms), done)
        except CorgiError as error:
            done(error.kind.number, error.message)

    def sessions(self, client: ClientSession, correlation: int, message: g.Sessions) -> None:
        """The delivery sessions of this node."""
        found = []
        for session in self._pushes.sessions():
            if message.group and session.consumer_group != message.group:
                continue
            s = session.statistics()
            found.append(
                g.SessionInfo(
                    session.consumer_group, session.member, session.log.topic, session.log.partition, s.mode, s.offset,
                    s.behind, s.credit, s.batches, s.bytes, s.switches,
                )
            )  # fmt: skip
        client.reply(correlation, g.SessionsReply(self._node.options.node, tuple(found)))

    def _infos(self, name: str, units: list[g.Unit] | tuple[g.Unit, ...] | None) -> tuple[g.CursorInfo, ...]:
        if units is None:
            keys = [key for _, key, _ in cursors_of(self._node, name)]
        else:
            keys = [CursorKey(name, *unit) for unit in units]
        infos = []
        for key in sorted(keys):
            try:
                group, log = self._places.to_read(key.topic, key.partition)
            except CorgiError:
                continue  # gone meanwhile
            cursor = self._node.groups[group].machine.cursors.get(key)
            infos.append(
                g.CursorInfo(
                    *key[1:], cursor.owner_epoch, cursor.member, cursor.version, cursor.offset, cursor.ranges,
                    cursor.metadata, cursor.log_time_ms, log.start, log.end,
                )
            )  # fmt: skip
        return tuple(infos)

    def _summaries(self) -> list[g.GroupSummary]:
        """Groups with a record, and those that only have cursors."""
        found: dict[str, g.GroupSummary] = {}
        for group in self._node.groups:
            for name, kept in group.machine.consumer_groups.by_name.items():
                stored, leader = decode_record(kept.body), group.replica.route()
                if isinstance(stored, StoredClassic):
                    wanted = {topic for one in stored.members for topic in topics_wanted(one.protocols[0][1])}
                    topics = tuple(sorted(wanted))
                    found[name] = g.GroupSummary(name, len(stored.members), topics, 1, leader, "classic")
                elif stored is not None:
                    topics = tuple(sorted({topic for member in stored.members for topic in member.topics}))
                    found[name] = g.GroupSummary(name, len(stored.members), topics, stored.slices, leader)
            for name in group.machine.cursors.groups():
                found.setdefault(name, g.GroupSummary(name, 0, (), 1, group.replica.route()))
        return [found[name] for name in sorted(found)]
