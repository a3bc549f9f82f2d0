"""``mq.groups``: the consumer groups of the cluster, who holds what in them, and how far they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from corgi.base.errors import CorgiError
from corgi.base.ids import Offset, TopicId
from corgi.client.shell import Shell
from corgi.client.topics import Topics, ask_each_node, ask_for, info_of
from corgi.client.words import Duration, StartAt, group_name, partition_numbers, seconds, start_at, topic_name
from corgi.wire.group_messages import (
    CursorInfo,
    DeleteGroup,
    DeleteGroupReply,
    DescribeGroup,
    DescribeGroupReply,
    ListGroups,
    ListGroupsReply,
    ResetGroup,
    ResetGroupReply,
    Sessions,
    SessionsReply,
)
from corgi.wire.messages import Metadata, MetadataReply, TopicInfo

ResetTo = StartAt


class GroupSummary(msgspec.Struct, frozen=True):
    """A consumer group in the list. ``coordinator`` 0: no node leads it at the moment. ``kind``: "native", or "classic"
    for a group of Kafka clients."""

    name: str
    members: int
    topics: tuple[str, ...]
    slices: int
    coordinator: int
    kind: str


class GroupMember(msgspec.Struct, frozen=True):
    """A living member; ``silent_ms`` since its last heartbeat."""

    member: str
    instance: str
    client: str
    topics: tuple[str, ...]
    silent_ms: int


class GroupUnit(msgspec.Struct, frozen=True):
    """A slice of a partition, and how far the group is in it.

    ``member`` "": nobody holds it. ``checkpoint``: the offset of the next message to be done, -1 before the first
    commit; ``ahead``: how many are done above it. ``lag``: offsets of the partition that are not done; where
    partitions are cut into slices it counts the other slices' messages above the checkpoint, too.
    """

    topic: str
    partition: int
    slice: int
    member: str
    owner_epoch: int
    checkpoint: int
    ahead: int
    start: int
    end: int
    lag: int
    metadata: str
    committed_ms: int


class GroupDelivery(msgspec.Struct, frozen=True):
    """A delivery session of a member at a node. ``mode``: "push" at the tail, "pull" behind it."""

    node: int
    member: str
    topic: str
    partition: int
    mode: str
    offset: int
    behind: int
    credit: int
    batches: int
    bytes: int
    switches: int


class GroupDescription(msgspec.Struct, frozen=True):
    """``state``: "empty", "stable", or "rebalancing" while a unit is on its way to another member. ``kind`` as in
    GroupSummary; the ``epoch`` of a classic group is its generation."""

    name: str
    kind: str
    state: str
    epoch: int
    slices: int
    members: tuple[GroupMember, ...]
    units: tuple[GroupUnit, ...]
    deliveries: tuple[GroupDelivery, ...]

    @property
    def lag(self) -> int:
        """Messages that are not done: per partition what its slowest slice lacks."""
        worst: dict[tuple[str, int], int] = {}
        for unit in self.units:
            place = (unit.topic, unit.partition)
            worst[place] = max(worst.get(place, 0), unit.lag)
        return sum(worst.values())


class Groups:
    """``mq.groups``. Durations bound the whole call, retries included."""

    def __init__(self, shell: Shell, topics: Topics) -> None:
        self._shell = shell
        self._topics = topics

    async def list(self, *, timeout: Duration = "10s") -> list[GroupSummary]:
        """Every consumer group, by name."""
        timeout_s = seconds(timeout, "timeout")
        reply = await ask_for(self._shell, ListGroups(int(timeout_s * 1000)), ListGroupsReply, timeout_s=timeout_s)
        return [GroupSummary(g.name, g.members, g.topics, g.slices, int(g.coordinator), g.kind) for g in reply.groups]

    async def describe(self, name: str, *, timeout: Duration = "10s") -> GroupDescription:
        """A group's members, its units and their lag, and how its members are delivered to. Raises "unknown-group"."""
        group_name(name)
        timeout_s = seconds(timeout, "timeout")
        message = DescribeGroup(name, int(timeout_s * 1000))
        reply = await ask_for(
            self._shell,
            message,
            DescribeGroupReply,
            group=self._shell.core.routing.coordinates(name),
            timeout_s=timeout_s,
        )
        sessions = await ask_each_node(self._shell, Sessions(name), SessionsReply)
        metadata = await ask_for(self._shell, Metadata(None), MetadataReply)
        names = {int(info.topic): info.name for info in metadata.topics if not info.error}
        members = [GroupMember(m.member, m.instance, m.client, m.topics, m.silent_ms) for m in reply.members]
        units = [_unit(cursor, names) for cursor in reply.cursors]
        deliveries = [
            GroupDelivery(
                int(told.node), s.member, names.get(s.topic, str(s.topic)), s.partition, s.mode, s.offset, s.behind,
                s.credit, s.batches, s.bytes, s.switches,
            )
            for told in sessions
            for s in told.sessions
        ]  # fmt: skip
        return GroupDescription(
            name,
            reply.kind,
            reply.state,
            reply.epoch,
            reply.slices,
            tuple(members),
            tuple(sorted(units, key=lambda unit: (unit.topic, unit.partition, unit.slice))),
            tuple(sorted(deliveries, key=lambda one: (one.topic, one.partition, one.member, one.node))),
        )

    async def reset(
        self,
        name: str,
        topic: str,
        to: ResetTo,
        *,
        partitions: Iterable[int] | None = None,
        timeout: Duration = "10s",
    ) -> dict[int, int]:
        """Set where a group goes on in a topic: "earliest", "latest", an aware datetime, an offset, or
        {partition: offset}. Returns the offset by partition.

        Works while members consume: they lose the partitions, and get them again behind the reset. A classic group has
        to be empty: Kafka clients would not hear of it. An offset is between 0 and the partition's end. Raises
        "unknown-group", "unknown-topic", "unknown-partition", "offset-out-of-range", "group-not-empty".
        """
        group_name(name)
        timeout_s = seconds(timeout, "timeout")
        info = await info_of(self._shell, topic_name(topic))
        offsets = await self._places(info, to, partitions)
        entries = tuple([(TopicId(info.topic), number, Offset(offset)) for number, offset in offsets.items()])
        message = ResetGroup(name, entries, int(timeout_s * 1000))
        await ask_for(
            self._shell, message, ResetGroupReply, group=self._shell.core.routing.coordinates(name), timeout_s=timeout_s
        )
        return offsets

    async def delete(self, name: str, *, timeout: Duration = "10s") -> None:
        """Forget a group without members, and how far it was. Raises "unknown-group", "group-not-empty"."""
        group_name(name)
        timeout_s = seconds(timeout, "timeout")
        message = DeleteGroup(name, int(timeout_s * 1000))
        await ask_for(
            self._shell,
            message,
            DeleteGroupReply,
            group=self._shell.core.routing.coordinates(name),
            timeout_s=timeout_s,
            gone_is_done="unknown-group",
        )

    async def _places(self, info: TopicInfo, to: ResetTo, partitions: Iterable[int] | None) -> dict[int, int]:
        """Offset by partition. Raises "invalid-argument", "unknown-partition"."""
        numbers = range(len(info.groups)) if partitions is None else partition_numbers(partitions)
        if isinstance(to, Mapping):
            if partitions is not None and set(to) != set(numbers):
                raise CorgiError("invalid-argument", "to names other partitions than partitions")
            numbers = partition_numbers(to, "to")
        for number in numbers:
            if not 0 <= number < len(info.groups):
                told = f"the topic {info.name!r} has partitions 0 to {len(info.groups) - 1}, not {number}"
                raise CorgiError("unknown-partition", told)
        start_at(to)  # its form
        if isinstance(to, Mapping):
            return {number: to[number] for number in numbers}
        if isinstance(to, int):
            return dict.fromkeys(numbers, to)
        found = await self._topics.offsets(info.name, to)
        return {number: found[number] for number in numbers}


def _unit(cursor: CursorInfo, names: Mapping[int, str]) -> GroupUnit:
    ahead = sum(end - first for first, end in cursor.ranges)
    done_to = max(cursor.offset, cursor.start)
    return GroupUnit(
        names.get(cursor.topic, str(cursor.topic)),
        cursor.partition,
        cursor.slice,
        cursor.member,
        cursor.owner_epoch,
        int(cursor.offset),
        ahead,
        int(cursor.start),
        int(cursor.end),
        max(int(cursor.end) - done_to - ahead, 0),
        cursor.metadata,
        cursor.log_time_ms,
    )
