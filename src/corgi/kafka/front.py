"""The Kafka side of one node: the table of APIs, and the cluster as Kafka's clients know it.

Knows the node and its parts, and no connection. One object for all listeners of a node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from corgi.base.errors import CorgiError, InvariantError
from corgi.base.ids import FIRST_USER_TOPIC, GroupId, LeaderEpoch, NodeId, TopicId
from corgi.base.limits import BATCH_BYTES_MAX, MIB
from corgi.broker.metadata import takeover_order
from corgi.kafka.api import AnyApi, AnyCall
from corgi.kafka.errors import Code
from corgi.kafka.kept import Kept
from corgi.kafka.security import OPEN, Security
from corgi.kafka.topic_config import TopicKeys
from corgi.state.topics import Topic

if TYPE_CHECKING:
    from corgi.broker.node import Node

REQUEST_BYTES_MAX = 32 * MIB
SURE_S = 0.1  # for so long a client is told without another look who was found to lead
UUID_BYTES = 16
_ID_BYTES = 4

assert BATCH_BYTES_MAX < REQUEST_BYTES_MAX

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """``advertised``: by listener name, where clients reach each node (host, port). ``create_topics``: whether asking
    for a topic makes it, with ``partitions`` partitions. ``security``: who the clients are and what they may do."""

    advertised: Mapping[str, Mapping[NodeId, Address]] = field(default_factory=dict)
    create_topics: bool = True
    partitions: int = 3
    security: Security = OPEN


class Lead(NamedTuple):
    """Who leads a Paxos group. The epoch is that of the newest leader's record that is applied here."""

    leader: NodeId
    epoch: LeaderEpoch


class Front:
    """Everything that sessions share."""

    def __init__(self, node: Node, options: KafkaOptions, apis: Mapping[int, AnyApi]) -> None:
        self.node = node
        self.options = options
        self.apis = apis
        self.access = options.security.access
        self.metadata = Kept()
        self.topic_keys = TopicKeys(len(node.options.members))

    # -- the cluster ----------------------------------------------------------------------------------------------

    @property
    def cluster_id(self) -> str:
        return self.node.options.cluster.hex()

    def brokers(self, listener: str) -> dict[NodeId, Address]:
        """Where every node is reached by clients of this listener."""
        return dict(self.options.advertised.get(listener, {}))

    def alive(self) -> frozenset[NodeId]:
        """Nodes that this one has heard of lately, and itself: of a dead one the first is told soon, of a stuck one the
        silence."""
        detector = self.node.detector
        return frozenset((self.node.options.node, *filter(detector.linked, detector.peers)))

    def order(self, group: GroupId) -> tuple[NodeId, ...]:
        """The replicas of a Paxos group, the preferred leader first."""
        return takeover_order(self.node.options.members, group)

    def lead(self, group: GroupId, alive: frozenset[NodeId]) -> Lead:
        """Who leads, or who takes over: any replica may write, so there is always somebody to send clients to."""
        at = self.node.groups[group]
        leader = at.replica.leader
        if leader not in alive:
            leader = next((node for node in self.order(group) if node in alive), self.node.options.node)
        return Lead(leader, at.machine.epoch)

    def when_sure(self, call: AnyCall, then: Callable[[], None]) -> None:
        """Call ``then`` when the leaders that this node knows are known to live, now that the client asks for them. One
        that was told so just now is told from what is known, without waiting again."""
        session, now = call.session, self.node.clock.now()

        def sure() -> None:
            session.sure_at = self.node.clock.now()
            try:
                then()
            except InvariantError:
                raise
            except CorgiError as error:
                call.close(error)

        if now - session.sure_at < SURE_S:
            then()
        else:
            alive = self.alive()
            leaders = {self.lead(group.id, alive).leader for group in self.node.groups}
            self.node.requests.hearing.wait(session, leaders, sure)

    def controller(self) -> NodeId:
        """Whom administrators ask. Any node can do it; the leader of group 0 does it fastest."""
        return self.lead(GroupId(0), self.alive()).leader

    # -- topics ---------------------------------------------------------------------------------------------------

    def topic(self, name: str) -> Topic | None:
        """A topic of users by its name."""
        return self.node.requests.places.topics.by_name.get(name)

    def having(self, name: str, partition: int) -> Topic | None:
        """The topic of this name, if it has this partition."""
        topic = self.topic(name)
        return topic if topic is not None and 0 <= partition < topic.partitions else None

    def epoch_fault(self, group: GroupId, epoch: int) -> Code:
        """What a client is told that takes ``epoch`` for the present leader epoch of a Paxos group; -1: no opinion."""
        present = self.node.groups[group].machine.epoch
        if epoch < 0 or epoch == present:
            return Code.NONE
        return Code.FENCED_LEADER_EPOCH if epoch < present else Code.UNKNOWN_LEADER_EPOCH

    def uuid_of(self, topic: TopicId) -> bytes:
        """Kafka's id of a topic: never that of another one, as Corgi's own is never used again."""
        return self.node.options.cluster[: UUID_BYTES - _ID_BYTES] + topic.to_bytes(_ID_BYTES)

    def topic_of(self, uuid: bytes) -> Topic | None:
        """The topic with this id of Kafka's."""
        if uuid[: UUID_BYTES - _ID_BYTES] != self.node.options.cluster[: UUID_BYTES - _ID_BYTES]:
            return None
        topic = TopicId(int.from_bytes(uuid[UUID_BYTES - _ID_BYTES :]))
        return self.node.requests.places.topics.by_id.get(topic) if topic >= FIRST_USER_TOPIC else None
