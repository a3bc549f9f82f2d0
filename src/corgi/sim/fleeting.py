"""A topic with durability memory in a run, with its own judge: acknowledged is lost only with the power of many.

One writer sends records to one or several of the partitions at once, of different sizes, so that a write of several
votes can be torn between them; at the end every node is read from start to end. The judge knows from the ledger which
memory groups went on although a majority had forgotten votes, and asks nothing of their partitions; of all others every
acknowledged record must be there, at its offset, on every node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from corgi.base import errors
from corgi.base.ids import GroupId, NodeId, Offset, TopicId
from corgi.base.records import encode_batch
from corgi.sim.clients import Client, values_of
from corgi.sim.readers import AtOneNode
from corgi.sim.scene import Scene
from corgi.wire.messages import (
    CreateTopic,
    Fetch,
    FetchReply,
    Metadata,
    MetadataReply,
    Produce,
    ProduceReply,
    WireMessage,
)

NAME = "fleeting"
PARTITIONS = 4
INTERVAL_S = 0.1
RETRY_S = 0.2
FETCH_BYTES = 64 * 1024
TIMEOUT_MS = 1_500
_QUORUM = 2


class FleetingWriter(Client):
    """Makes the topic and writes to it. ``stored``: what was acknowledged, by partition and offset."""

    def __init__(self, scene: Scene, given_up: Callable[[GroupId], bool]) -> None:
        """``given_up`` tells whether a memory group went on with a loss."""
        super().__init__(scene, "fleeting")
        self.topic = TopicId(0)
        self.groups: tuple[int, ...] = ()
        self.stored: dict[int, dict[int, bytes]] = {}
        self.given_up = given_up
        self._made = 0
        self._busy = False

    def start(self) -> None:
        super().start()
        self.world.after(INTERVAL_S, self._tick)

    def idle(self) -> bool:
        return not self._busy

    def _tick(self) -> None:
        if not self.scene.producing:
            return
        self.world.after(INTERVAL_S * (0.5 + self.chance.random()), self._tick)
        if self._busy or self.session is None:
            return
        if not self.groups:
            config = {"durability": "memory"}
            self._busy = self.ask(CreateTopic(NAME, PARTITIONS, config, "", -1, TIMEOUT_MS), b"", self._made_topic)
            return
        partitions = self.chance.sample(range(PARTITIONS), self.chance.choice((1, 1, 2, PARTITIONS)))
        self._made += 1
        value = f"fleeting.{self._made}".encode().ljust(self.chance.choice((0, 0, 400, 1200)), b".")
        batch = encode_batch([(b"", value, (), 1_700_000_000_000)])
        parts = tuple([(self.topic, partition, len(batch)) for partition in partitions])
        message = Produce(_QUORUM, TIMEOUT_MS, parts)
        self._busy = self.ask(message, batch * len(parts), lambda reply, _: self._outcome(partitions, value, reply))

    def _made_topic(self, reply: WireMessage | None, _: bytes) -> None:
        self._busy = False
        if reply is not None:
            self._busy = self.ask(Metadata((NAME,)), b"", self._found)

    def _found(self, reply: WireMessage | None, _: bytes) -> None:
        self._busy = False
        if isinstance(reply, MetadataReply):
            for info in reply.topics:
                if info.name == NAME and not info.error:
                    self.topic, self.groups = info.topic, info.groups

    def _outcome(self, partitions: Sequence[int], value: bytes, reply: WireMessage | None) -> None:
        self._busy = False
        self.scene.history.other_operations += 1
        if isinstance(reply, ProduceReply):
            for partition, (error, offset, _) in zip(partitions, reply.results, strict=True):
                if error == errors.OK:
                    self.stored.setdefault(partition, {})[offset] = value

    def judge(self, node: NodeId, partition: int, found: dict[int, bytes]) -> None:
        """What a node holds of a partition, against what was acknowledged."""
        if self.given_up(GroupId(self.groups[partition])):
            return
        for offset, value in sorted(self.stored.get(partition, {}).items()):
            if found.get(offset) != value:
                here = found.get(offset)
                text = f"{NAME}/{partition}@{offset} was acknowledged with {value!r}, node {node} has {here!r}"
                self.scene.violate("lost-write", text)


class FleetingReader(AtOneNode):
    """Reads all of the topic from one node at the end."""

    def __init__(self, writer: FleetingWriter, node: NodeId) -> None:
        super().__init__(writer.scene, "fleeting", node)
        self._writer = writer
        self._partition = 0 if writer.groups else PARTITIONS
        self._position = 0
        self._found: dict[int, bytes] = {}

    def idle(self) -> bool:
        return self._partition == PARTITIONS

    def connected(self) -> None:
        self._next()

    def _next(self) -> None:
        if not self.idle():
            place = (self._writer.topic, self._partition, Offset(self._position), FETCH_BYTES)
            self.ask(Fetch(0, 0, FETCH_BYTES, (place,)), b"", self._got)

    def _got(self, reply: WireMessage | None, payload: bytes) -> None:
        if reply is None:
            return
        if not isinstance(reply, FetchReply) or reply.partitions[0][0]:
            self.world.after(RETRY_S, self._next)
            return
        _, end, _, lengths = reply.partitions[0]
        found, self._position = values_of(payload, lengths, 0, self._position)
        self._found.update(found)
        if self._position >= end:
            self._writer.judge(self.node, self._partition, self._found)
            self._partition, self._position, self._found = self._partition + 1, 0, {}
        self._next()
