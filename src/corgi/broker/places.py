"""Where a partition lies: its group, its limit, its applied log, as far as this node knows.

The views of different groups are not of one moment: a topic that was just created elsewhere may be open in its group
here before group 0 tells of it here, or the other way round. What may yet come is answered "partition-not-open", which
a client retries; "unknown-topic" is said only of ids that no longer name a topic, or never can have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from corgi.base.errors import CorgiError
from corgi.base.ids import FIRST_USER_TOPIC, GroupId, TopicId
from corgi.base.records import iter_batch
from corgi.state.index import PartitionLog
from corgi.state.settings import batch_bytes_max, compacted
from corgi.state.topics import Topics

if TYPE_CHECKING:
    from corgi.broker.node import Node

IDS_AHEAD_MAX = 100_000  # an id this far above the known ones is not a topic that this node has yet to hear of
ROUTES_MAX = 100_000


class Place(NamedTuple):
    """A partition that may be written. ``bytes_max`` is the largest batch that it takes; ``keyed``: its records have
    keys."""

    group: GroupId
    bytes_max: int
    keyed: bool


class Places:
    """Answers from the views, remembered until the topics change."""

    __slots__ = ("_node", "_routes")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._routes: dict[tuple[TopicId, int], Place] = {}

    @property
    def topics(self) -> Topics:
        topics = self._node.groups[0].machine.topics
        assert topics is not None, "group 0 holds the topics"
        return topics

    def topics_changed(self) -> None:
        self._routes.clear()

    def to_write(self, topic: TopicId, partition: int) -> Place:
        """Raises CorgiError "unknown-topic", "unknown-partition", "partition-not-open"; system topics are refused."""
        place = self._routes.get((topic, partition))
        return place if place is not None else self._find(topic, partition)

    def to_read(self, topic: TopicId, partition: int) -> tuple[GroupId, PartitionLog]:
        """The applied log, also of a system topic. Raises as ``to_write`` does."""
        if topic < FIRST_USER_TOPIC:
            group = self.topics.group_of(topic, partition)
        else:
            group = self.to_write(topic, partition).group
        log = self._node.groups[group].machine.partitions.get((topic, partition))
        if log is None or not log.open:
            raise CorgiError("partition-not-open", f"partition {partition} of topic {topic} is not open on this node")
        return group, log

    def exists(self, topic: TopicId) -> bool:
        """False once the topic is known to be deleted."""
        return not self.topics.deleted(topic)

    def _find(self, topic: TopicId, partition: int) -> Place:
        if topic < FIRST_USER_TOPIC:
            raise CorgiError("unknown-topic", f"topic {topic} is not for clients to write")
        found = self.topics.by_id.get(topic)
        if found is None:
            return self._ahead_of_meta(topic, partition)
        group = found.group_of(partition)
        if not 0 <= partition < found.partitions:
            log = self._node.groups[group].machine.partitions.get((topic, partition))
            if log is None:
                raise CorgiError(
                    "unknown-partition", f"{found.name} has partitions 0 to {found.partitions - 1}, not {partition}"
                )
            return Place(group, log.batch_bytes_max, compacted(log.config))
        place = Place(group, batch_bytes_max(found.config), compacted(found.config))
        if len(self._routes) >= ROUTES_MAX:
            self._routes.clear()
        self._routes[topic, partition] = place
        return place

    def _ahead_of_meta(self, topic: TopicId, partition: int) -> Place:
        topics = self.topics
        if topics.deleted(topic):
            raise CorgiError("unknown-topic", f"the topic with the id {topic} was deleted")
        for group in self._node.groups:
            log = group.machine.partitions.get((topic, partition))
            if log is not None:
                return Place(group.id, log.batch_bytes_max, compacted(log.config))
        if topic >= FIRST_USER_TOPIC + topics.end + IDS_AHEAD_MAX:
            raise CorgiError("unknown-topic", f"no topic has the id {topic}")
        raise CorgiError("partition-not-open", f"this node does not know a topic with the id {topic} yet")


def check_writable(place: Place, batch: memoryview) -> None:
    """Whether the partition takes a batch that is sound in itself. Raises CorgiError "record-too-large", or
    "invalid-record" when the topic is compacted by key and a record has none."""
    if len(batch) > place.bytes_max:
        raise CorgiError("record-too-large", f"a batch of {len(batch)} bytes, the topic takes {place.bytes_max}")
    if place.keyed:
        for record in iter_batch(batch, checked=True):
            if record.key is None:
                raise CorgiError("invalid-record", "the topic is compacted by key, and a record has none")
