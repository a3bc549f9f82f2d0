"""What the clients of a run share: the cluster's front, the topics that exist, the history, and when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from corgi.base.ids import NodeId, TopicId
from corgi.history.model import History, Partition
from corgi.sim.sessions import Front
from corgi.sim.world import World

NOT_YET = TopicId(0)


@dataclass(slots=True)
class Topic:
    """A topic as the clients of a run know it; ``id`` 0 until somebody was told. ``partitions`` are wanted, ``open``
    those that somebody was told of. ``keyed``: each record has a key that follows from its value."""

    name: str
    partitions: int
    id: TopicId = NOT_YET
    colocate_with: str = ""
    config: dict[str, str] = field(default_factory=dict)
    open: int = 0
    gone: bool = False
    keyed: bool = False

    @property
    def lasting(self) -> bool:
        """Its log start never moves."""
        return "retention_bytes" not in self.config


@dataclass(slots=True)
class Scene:
    """What the clients of a run share. ``producing`` and ``reading`` end towards the end of a run; ``violate`` takes
    the name of a broken promise and what was seen.
    ``padding`` are the bytes that each record has besides what tells it from others."""

    world: World
    front: Front
    nodes: tuple[NodeId, ...]
    history: History
    violate: Callable[[str, str], None]
    topics: dict[str, Topic] = field(default_factory=dict)
    producing: bool = True
    reading: bool = True
    padding: int = 0

    def compacted(self, partition: Partition) -> bool:
        return partition in self.history.compacted

    def keyed(self, partition: Partition) -> bool:
        return self.topics[partition.topic].keyed

    def ready(self) -> list[Topic]:
        """Topics that can be used, in the order of their making."""
        return [topic for topic in self.topics.values() if topic.id]

    def partitions(self, *, lasting: bool = False) -> list[tuple[Partition, TopicId]]:
        """``lasting``: only of topics whose log start never moves."""
        topics = [topic for topic in self.ready() if topic.lasting or not lasting]
        return [(Partition(t.name, number), t.id) for t in topics for number in range(t.open)]
