"""Requests, answers and pushes between a client and a node. Each is a msgpack array in the frame's header.

Frame types 1-63 are requests, 128 + n answers request n, 240-254 are pushed without a request, 255 is an error. Record
batches travel raw behind the header, in the order in which the header lists them. Fields are only ever added at the
end, with a default; a reader skips what it does not know.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from corgi.base.ids import NodeId, Offset, TopicId

NATIVE_VERSION = 1


class WireMessage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all client messages."""

    TYPE: ClassVar[int] = 0


class Hello(WireMessage, frozen=True, array_like=True, gc=False):
    """First frame of a client. ``cluster``: the id expected, empty for any."""

    TYPE: ClassVar[int] = 1
    version_min: int
    version_max: int
    software: str = ""
    cluster: str = ""


class HelloReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 129
    version: int
    cluster: str  # 32 hex digits
    node: NodeId
    frame_bytes_max: int
    software: str = ""


class Produce(WireMessage, frozen=True, array_like=True, gc=False):
    """Append batches. ``acks``: 0 none (no answer comes), 1 leader's disk, 2 quorum. Entries: topic id, partition,
    bytes."""

    TYPE: ClassVar[int] = 2
    acks: int
    timeout_ms: int
    batches: tuple[tuple[TopicId, int, int], ...]


class ProduceReply(WireMessage, frozen=True, array_like=True, gc=False):
    """One entry per batch, in order: error number (0 ok), base offset (-1 unknown), timestamp ms of the value."""

    TYPE: ClassVar[int] = 130
    results: tuple[tuple[int, Offset, int], ...]
    message: str = ""


class Fetch(WireMessage, frozen=True, array_like=True, gc=False):
    """Long poll. Entries: topic id, partition, offset, bytes wanted. Answers when ``bytes_min`` are there or time is
    up. ``committed``: only what is decided and was not aborted."""

    TYPE: ClassVar[int] = 3
    wait_ms: int
    bytes_min: int
    bytes_max: int
    partitions: tuple[tuple[TopicId, int, Offset, int], ...]
    committed: bool = True


class FetchReply(WireMessage, frozen=True, array_like=True, gc=False):
    """Per partition, in order: error number, end offset (applied here), log start, lengths of the batches.

    ``onward`` and ``stable``, per partition: where to ask next, also behind what was left out; the last stable offset.
    """

    TYPE: ClassVar[int] = 131
    partitions: tuple[tuple[int, Offset, Offset, tuple[int, ...]], ...]
    onward: tuple[Offset, ...] = ()
    stable: tuple[Offset, ...] = ()


class Subscribe(WireMessage, frozen=True, array_like=True, gc=False):
    """Push a partition from ``offset`` on, at most ``credit`` bytes ahead. ``subscription`` is chosen by the client."""

    TYPE: ClassVar[int] = 4
    subscription: int
    topic: TopicId
    partition: int
    offset: Offset
    credit: int
    group: str = ""  # the consumer group and its member, for those who look at the sessions
    member: str = ""
    committed: bool = True  # only what is decided and was not aborted


class SubscribeReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 132
    error: int
    end: Offset
    start: Offset
    message: str = ""


class Credit(WireMessage, frozen=True, array_like=True, gc=False):
    """Allow that many more bytes per subscription. No answer."""

    TYPE: ClassVar[int] = 5
    grants: tuple[tuple[int, int], ...]


class Unsubscribe(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 6
    subscription: int


class UnsubscribeReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 134


class Metadata(WireMessage, frozen=True, array_like=True, gc=False):
    """``topics``: names, or None for all. ``watch``: push LeaderChanged and TopicsChanged on this connection.
    ``confirm``: answer with what holds now in the cluster; else the node tells of topics as it knows them.
    """

    TYPE: ClassVar[int] = 7
    topics: tuple[str, ...] | None = None
    watch: bool = False
    confirm: bool = False


class NodeInfo(WireMessage, frozen=True, array_like=True, gc=False):
    node: NodeId
    host: str
    port: int
    alive: bool
    label: str = ""  # failure domain


class GroupInfo(WireMessage, frozen=True, array_like=True, gc=False):
    """``leader`` 0: unknown. ``term`` orders what different nodes say: believe the highest (it is the ballot)."""

    leader: NodeId
    term: int
    replicas: tuple[NodeId, ...]  # in the order in which they take over from the preferred one


class TopicInfo(WireMessage, frozen=True, array_like=True, gc=False):
    """``groups[p]`` is the Paxos group of partition p. ``error`` is set when a topic that was asked for is missing."""

    name: str
    topic: TopicId
    groups: tuple[int, ...]
    config: dict[str, str]
    error: int = 0
    open: bool = True


class MetadataReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 135
    cluster: str
    node: NodeId
    nodes: tuple[NodeInfo, ...]
    groups: tuple[GroupInfo, ...]
    topics: tuple[TopicInfo, ...]
    memory_groups: int = 0  # the last ones of the groups


class CreateTopic(WireMessage, frozen=True, array_like=True, gc=False):
    """``config``: "max_batch_bytes", "retention_ms", "retention_bytes", "cleanup" … as text; unknown keys are
    refused."""

    TYPE: ClassVar[int] = 8
    name: str
    partitions: int
    config: dict[str, str] = msgspec.field(default_factory=dict)
    colocate_with: str = ""
    anchor: int = -1
    timeout_ms: int = 10_000


class AlterTopic(WireMessage, frozen=True, array_like=True, gc=False):
    """``partitions`` 0 keeps the count; it never shrinks. A config value of None returns it to its default."""

    TYPE: ClassVar[int] = 9
    name: str
    partitions: int = 0
    config: dict[str, str | None] = msgspec.field(default_factory=dict)
    timeout_ms: int = 10_000


class DeleteTopic(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 10
    name: str
    timeout_ms: int = 10_000


class TopicReply(WireMessage, frozen=True, array_like=True, gc=False):
    """Answers CreateTopic, AlterTopic and DeleteTopic (the one exception to 128 + n)."""

    TYPE: ClassVar[int] = 136
    error: int
    message: str
    topic: TopicInfo | None


class ListOffsets(WireMessage, frozen=True, array_like=True, gc=False):
    """Per partition a time in ms, -1 for the end (confirmed through the log), -2 for the start, -3 for how far
    compaction has come."""

    TYPE: ClassVar[int] = 11
    partitions: tuple[tuple[TopicId, int, int], ...]
    timeout_ms: int = 10_000


class ListOffsetsReply(WireMessage, frozen=True, array_like=True, gc=False):
    """Per partition: error number, offset, timestamp ms (-1 when the question was not a time).

    For a time: the first batch whose newest record is not older; the client looks inside. None: the end offset, -1.
    """

    TYPE: ClassVar[int] = 139
    partitions: tuple[tuple[int, Offset, int], ...]


class DeleteRecords(WireMessage, frozen=True, array_like=True, gc=False):
    """Forget what lies before an offset. Entries: topic id, partition, the offset; -1 is the end, all that is there."""

    TYPE: ClassVar[int] = 31
    partitions: tuple[tuple[TopicId, int, int], ...]
    timeout_ms: int = 10_000


class DeleteRecordsReply(WireMessage, frozen=True, array_like=True, gc=False):
    """Per partition: error number, the log start now (-1 with an error)."""

    TYPE: ClassVar[int] = 159
    partitions: tuple[tuple[int, Offset], ...]


class InitProducer(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 12


class InitProducerReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 140
    producer_id: int
    producer_epoch: int


class Status(WireMessage, frozen=True, array_like=True, gc=False):
    """What this node knows of itself: one look for people, metrics for programs."""

    TYPE: ClassVar[int] = 13


class GroupStatus(WireMessage, frozen=True, array_like=True, gc=False):
    group: int
    leader: NodeId
    term: int
    role: str  # "leader", "follower", "candidate", "recovering"
    prefix: int  # chosen
    applied: int
    open_slots: int
    pending: int
    leadership_changes: int


class StatusReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 141
    cluster: str
    node: NodeId
    software: str
    uptime_s: float
    voting: bool
    peers: tuple[tuple[NodeId, bool, float, float], ...]  # node, connected, silent for s, clock offset ms
    groups: tuple[GroupStatus, ...]
    counters: dict[str, float]
    lost: tuple[tuple[TopicId, int, Offset, Offset], ...] = ()  # topic, partition, first and last offset


class Ping(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 14


class Pong(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 142


class Deliver(WireMessage, frozen=True, array_like=True, gc=False):
    """Pushed batches of one subscription. ``end`` is the partition's applied end; lengths cut the payload.

    ``start``: these are all the batches from this offset on that the subscriber may see; -1: not told.
    """

    TYPE: ClassVar[int] = 240
    subscription: int
    end: Offset
    lengths: tuple[int, ...]
    start: Offset = Offset(-1)


class SubscriptionEnded(WireMessage, frozen=True, array_like=True, gc=False):
    """The node ends a subscription: topic deleted, offset out of range, node stopping."""

    TYPE: ClassVar[int] = 241
    subscription: int
    error: int
    message: str = ""


class LeaderChanged(WireMessage, frozen=True, array_like=True, gc=False):
    """For watchers: group, leader, term; believe the highest term."""

    TYPE: ClassVar[int] = 242
    leaders: tuple[tuple[int, NodeId, int], ...]


class TopicsChanged(WireMessage, frozen=True, array_like=True, gc=False):
    """For watchers: these topics were created, altered or deleted; ask again."""

    TYPE: ClassVar[int] = 243
    names: tuple[str, ...]


class ErrorReply(WireMessage, frozen=True, array_like=True, gc=False):
    """Answers any request that failed as a whole; with correlation 0 the connection is closed behind it."""

    TYPE: ClassVar[int] = 255
    error: int
    message: str = ""
