"""What the client believes of the cluster: nodes, leaders, topics; and where a request should go.

Nodes tell leaders with a term; the highest term wins, whoever told it. The believed leader is a preference
only: every node accepts every write, so when the leader's link is down the next in takeover order gets it
at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from corgi.base.errors import UNKNOWN_PARTITION, UNKNOWN_TOPIC, CorgiError
from corgi.base.ids import NodeId, TopicId
from corgi.base.limits import BATCH_BYTES_DEFAULT
from corgi.client.core.links import Address, Link
from corgi.client.core.partitioner import KeyedPartitions
from corgi.wire.messages import GroupInfo, MetadataReply, TopicInfo

NO_NODE = NodeId(0)
_MAX_BATCH_BYTES = "max_batch_bytes"
_CLEANUP = "cleanup"


class TopicRoute:
    """A topic as the producer needs it; replaced when the topic's metadata changes."""

    __slots__ = ("batch_bytes_max", "compacted", "groups", "info", "keyed", "name", "partitions", "topic")

    def __init__(self, info: TopicInfo) -> None:
        self.info = info
        self.name = info.name
        self.topic: TopicId = info.topic
        self.groups = info.groups
        self.partitions = len(info.groups)
        self.keyed = KeyedPartitions(self.partitions)
        self.compacted = "compact" in info.config.get(_CLEANUP, "")
        text = info.config.get(_MAX_BATCH_BYTES, "")
        self.batch_bytes_max = int(text) if text.isdecimal() else BATCH_BYTES_DEFAULT

    def keyless(self) -> CorgiError:
        """Why a record without a key is not for this topic; a node would refuse its whole batch."""
        return CorgiError("invalid-record", f"the topic {self.name!r} is compacted by key, and a record has none")

    def newer_than(self, info: TopicInfo) -> bool:
        """Is that what a node that lags says? Ids are given out in order, and partitions never become fewer."""
        return info.topic < self.topic or (info.topic == self.topic and len(info.groups) < self.partitions)


class Routing:
    """Facts from metadata, pushes and links; answers which link a group's request should take."""

    def __init__(self) -> None:
        self.cluster = ""
        self.addresses: dict[NodeId, Address] = {}
        self.leaders: list[NodeId] = []  # per group
        self.memory_groups = 0  # the last ones
        self.terms: list[int] = []
        self.replicas: list[tuple[NodeId, ...]] = []
        self.topics: dict[str, TopicRoute] = {}
        self.links: dict[NodeId, Link] = {}  # those that are up
        self.suspected: dict[NodeId, float] = {}  # up, but said nothing for unusually long; since when

    def learn(self, reply: MetadataReply) -> list[str]:
        """Take in an answer; returns the names of topics that changed or appeared."""
        self.cluster = reply.cluster
        for node in reply.nodes:
            self.addresses[node.node] = Address(node.host, node.port)
        self.memory_groups = reply.memory_groups
        for group, info in enumerate(reply.groups):
            self._learn_group(group, info)
        return [info.name for info in reply.topics if self.learn_topic(info)]

    def learn_topic(self, info: TopicInfo) -> bool:
        """True if the topic is new or different from what was known. One that is missing is forgotten.

        A node that cannot find out for now whether it is there changes nothing of what is known. A topic that is not
        open is being made, or grows: some of its partitions refuse for a moment, the others work.
        """
        if info.error:
            return info.error == UNKNOWN_TOPIC and self.topics.pop(info.name, None) is not None
        known = self.topics.get(info.name)
        if known is not None and (known.info == info or known.newer_than(info)):
            return False
        self.topics[info.name] = TopicRoute(info)
        return True

    def lags(self, number: int, name: str, topic: int, partition: int) -> bool:
        """Does a node say with this error that it has not heard of a partition yet that the cluster told us of?"""
        route = self.topics.get(name)
        if number not in (UNKNOWN_TOPIC, UNKNOWN_PARTITION) or route is None:
            return False
        return route.topic == topic and 0 <= partition < route.partitions

    def leader_changed(self, group: int, leader: NodeId, term: int) -> bool:
        """True if that is news."""
        if group >= len(self.terms) or term < self.terms[group]:
            return False
        if term == self.terms[group] and (self.leaders[group] or not leader):
            return False
        self.terms[group] = term
        changed = self.leaders[group] != leader
        self.leaders[group] = leader
        return changed

    def group_of(self, topic: str, partition: int) -> int:
        """The Paxos group of a partition; 0 while it is not known."""
        route = self.topics.get(topic)
        return int(route.groups[partition]) if route is not None and partition < route.partitions else 0

    def coordinates(self, consumer_group: str) -> int:
        """The Paxos group whose leader coordinates a consumer group."""
        return crc32(consumer_group.encode()) % max(1, len(self.leaders) - self.memory_groups)

    def preferred(self, group: int) -> NodeId:
        """The node that should get this group's requests now; NO_NODE if no link is up."""
        leader = self.leaders[group] if group < len(self.leaders) else NO_NODE
        if leader in self.links and not self._suspects(leader):
            return leader
        for suspected in (False, True):
            for node in self._order(group):
                if node in self.links and (suspected or not self._suspects(node)):
                    return node
        return NO_NODE

    def other_than(self, group: int, avoided: Iterable[NodeId]) -> NodeId:
        """A node with a link that is none of ``avoided``, in takeover order; any with a link if there is none."""
        avoided = set(avoided)
        for node in self._order(group):
            if node in self.links and node not in avoided:
                return node
        return self.preferred(group)

    def _suspects(self, node: NodeId) -> bool:
        """Until it says anything. As a story: (1) a node falls silent and is suspected; (2) it is well again, but leads
        nothing, so it is asked nothing; (3) the leader is cut off from the others, and the node takes over; (4) who
        still suspected it would go on asking the old leader, which answers pings and nothing else."""
        since = self.suspected.get(node)
        if since is not None and self.links[node].heard_at() > since:
            del self.suspected[node]
            return False
        return since is not None

    def _order(self, group: int) -> list[NodeId]:
        """Leader, then the others as they take over, then nodes that only relay."""
        if group >= len(self.leaders):
            return sorted(self.links)
        leader = self.leaders[group]
        replicas = self.replicas[group]
        order = [leader] if leader else []
        order += [node for node in replicas if node != leader]
        order += [node for node in sorted(self.links) if node not in replicas and node != leader]
        return order

    def _learn_group(self, group: int, info: GroupInfo) -> None:
        if group == len(self.leaders):
            self.leaders.append(info.leader)
            self.terms.append(info.term)
            self.replicas.append(info.replicas)
            return
        self.replicas[group] = info.replicas
        self.leader_changed(group, info.leader, info.term)
