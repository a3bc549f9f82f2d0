"""Requests, answers and pushes of consumer groups; docs/protocol.md tells how they work together.

A **unit** is what one member holds: a slice of a partition of a topic. Slice 0 is all of a partition that is not shared
by key.
"""

from __future__ import annotations

from typing import ClassVar

from corgi.base.ids import NodeId, Offset, TopicId
from corgi.wire.messages import WireMessage

Ranges = tuple[tuple[int, int], ...]  # from, to before: what is done above a checkpoint
Unit = tuple[TopicId, int, int]  # topic, partition, slice


class GroupHeartbeat(WireMessage, frozen=True, array_like=True, gc=False):
    """Join, stay, change what is wanted, or leave. ``member`` is chosen by the client, once for each of its lives.

    ``epoch``: of the assignment that the client has (0: none). ``instance``: a name that outlives the process; a new
    member of the same instance takes the place of the old one. ``topics``: names. ``owned``: the units held, with their
    owner epochs; None if they are those told last. ``slices``: into how many each partition is cut, 1 to 256.
    """

    TYPE: ClassVar[int] = 15
    group: str
    member: str
    epoch: int
    topics: tuple[str, ...]
    instance: str = ""
    client: str = ""
    slices: int = 1
    session_ms: int = 10_000
    rebalance_ms: int = 30_000
    owned: tuple[tuple[TopicId, int, int, int], ...] | None = None
    leave: bool = False


class Assigned(WireMessage, frozen=True, array_like=True, gc=False):
    """A unit with the cursor from which its new owner goes on; ``offset`` -1: nobody has made a checkpoint yet."""

    name: str
    topic: TopicId
    partition: int
    slice: int
    owner_epoch: int
    version: int
    offset: Offset
    ranges: Ranges = ()
    metadata: str = ""


class GroupHeartbeatReply(WireMessage, frozen=True, array_like=True, gc=False):
    """``assignment`` None: that of the epoch which the client has. ``missing``: topics that do not exist."""

    TYPE: ClassVar[int] = 143
    error: int
    message: str
    epoch: int = 0
    interval_ms: int = 0
    assignment: tuple[Assigned, ...] | None = None
    missing: tuple[str, ...] = ()


class CommitEntry(WireMessage, frozen=True, array_like=True, gc=False):
    """One checkpoint. ``version``: that of the cursor which it replaces, -1 for any. ``reset``: it may go back."""

    topic: TopicId
    partition: int
    slice: int
    owner_epoch: int
    version: int
    offset: Offset
    ranges: Ranges = ()
    metadata: str = ""
    reset: bool = False


class Commit(WireMessage, frozen=True, array_like=True, gc=False):
    """Checkpoints, and perhaps results. Without results each checkpoint stands for itself. With results (topic,
    partition, bytes of the batch in the payload) all of it happens or nothing, everything lies in one Paxos group, and
    each checkpoint names its version."""

    TYPE: ClassVar[int] = 16
    group: str
    member: str
    timeout_ms: int
    entries: tuple[CommitEntry, ...]
    results: tuple[tuple[TopicId, int, int], ...] = ()


class CommitReply(WireMessage, frozen=True, array_like=True, gc=False):
    """An error number per checkpoint; per result error, offset (-1: stored by an earlier sending), timestamp ms."""

    TYPE: ClassVar[int] = 144
    entries: tuple[int, ...]
    results: tuple[tuple[int, Offset, int], ...] = ()
    message: str = ""


class Cursors(WireMessage, frozen=True, array_like=True, gc=False):
    """Where a group is, confirmed through the log. ``units`` None: everywhere."""

    TYPE: ClassVar[int] = 17
    group: str
    units: tuple[Unit, ...] | None = None
    timeout_ms: int = 10_000


class CursorInfo(WireMessage, frozen=True, array_like=True, gc=False):
    """``start`` and ``end`` are the partition's."""

    topic: TopicId
    partition: int
    slice: int
    owner_epoch: int
    member: str
    version: int
    offset: Offset
    ranges: Ranges
    metadata: str
    log_time_ms: int
    start: Offset
    end: Offset


class CursorsReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 145
    error: int
    message: str = ""
    cursors: tuple[CursorInfo, ...] = ()


class ListGroups(WireMessage, frozen=True, array_like=True, gc=False):
    """Every group of the cluster, confirmed through the log."""

    TYPE: ClassVar[int] = 18
    timeout_ms: int = 10_000


class GroupSummary(WireMessage, frozen=True, array_like=True, gc=False):
    """``coordinator`` 0: nobody leads at the moment. ``kind``: "native", or "classic" for one of Kafka's clients."""

    name: str
    members: int
    topics: tuple[str, ...]
    slices: int
    coordinator: NodeId
    kind: str = "native"


class ListGroupsReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 146
    error: int
    message: str = ""
    groups: tuple[GroupSummary, ...] = ()


class DescribeGroup(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 19
    group: str
    timeout_ms: int = 10_000


class MemberInfo(WireMessage, frozen=True, array_like=True, gc=False):
    member: str
    instance: str
    client: str
    topics: tuple[str, ...]
    silent_ms: int  # since its last heartbeat


class DescribeGroupReply(WireMessage, frozen=True, array_like=True, gc=False):
    """``state``: "empty", "stable", or "rebalancing" while a unit is on its way to another member. ``kind`` as in
    GroupSummary."""

    TYPE: ClassVar[int] = 147
    error: int
    message: str = ""
    state: str = ""
    epoch: int = 0
    slices: int = 1
    members: tuple[MemberInfo, ...] = ()
    cursors: tuple[CursorInfo, ...] = ()
    kind: str = "native"


class DeleteGroup(WireMessage, frozen=True, array_like=True, gc=False):
    """Only without members; its cursors go with it."""

    TYPE: ClassVar[int] = 20
    group: str
    timeout_ms: int = 10_000


class DeleteGroupReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 148
    error: int
    message: str = ""


class ResetGroup(WireMessage, frozen=True, array_like=True, gc=False):
    """Set checkpoints, all slices of (topic, partition) to an offset. Members that hold them are taken off first and
    get them again behind the reset; a classic group has to be empty, for its members would not hear of it."""

    TYPE: ClassVar[int] = 21
    group: str
    offsets: tuple[tuple[TopicId, int, Offset], ...]
    timeout_ms: int = 10_000


class ResetGroupReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 149
    error: int
    message: str = ""


class Sessions(WireMessage, frozen=True, array_like=True, gc=False):
    """The delivery sessions of this node; of one consumer group, or ("") all."""

    TYPE: ClassVar[int] = 22
    group: str = ""


class SessionInfo(WireMessage, frozen=True, array_like=True, gc=False):
    """``mode``: "push" at the tail, "pull" behind it. Sizes in bytes; ``behind`` counts offsets."""

    group: str
    member: str
    topic: TopicId
    partition: int
    mode: str
    offset: Offset
    behind: int
    credit: int
    batches: int
    bytes: int
    switches: int


class SessionsReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 150
    node: NodeId
    sessions: tuple[SessionInfo, ...]


class GroupChanged(WireMessage, frozen=True, array_like=True, gc=False):
    """Pushed to a member: its assignment is another now; send a heartbeat to get it."""

    TYPE: ClassVar[int] = 244
    group: str
    member: str
