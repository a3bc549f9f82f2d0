"""What a node remembers of the disks of the others: who asks it after a start is told what is missing (``identity``).

Of each peer: the incarnation of its disk, the highest promises and votes that were heard since this process began, and
how far its log was durable. Incarnation and length are written down, the length about once a second.

Invariant: nothing is remembered of a disk that another one has replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base.ids import Ballot, NodeId, Slot
from corgi.broker.node_records import NodeRecord, log_record
from corgi.paxos.messages import Accepted, Promise, Recall

if TYPE_CHECKING:
    from corgi.broker.node import Node

MARK_S = 1.0  # how often at most the length of a peer's log is written down


class Memory:
    """What this node remembers of one peer."""

    __slots__ = ("ballots", "durable_to", "incarnation", "mark_at", "marked_to", "slots")

    def __init__(self, groups: int) -> None:
        self.incarnation = b""
        self.ballots = [Ballot(0)] * groups
        self.slots = [Slot(0)] * groups
        self.durable_to = 0  # position in its log
        self.marked_to = 0  # the same, as written down
        self.mark_at = 0.0  # not again before

    def forgotten(self, told: Recall) -> str:
        """What its disk, which is the one that is known, should hold and does not."""
        reason = ""
        for group, ballot, slot in told.marks:
            if not 0 <= group < len(self.ballots):
                continue
            if self.ballots[group] > ballot:
                reason = f"group {group}: the disk has forgotten a promise"
            elif self.slots[group] > slot:
                reason = f"group {group}: the disk has forgotten a vote"
        if self.durable_to > told.durable_to:
            reason = reason or "the disk has forgotten what was synced"
        return reason


class Memories:
    """Of all peers. ``of``: by peer."""

    def __init__(self, node: Node) -> None:
        self._node = node
        options = node.options
        self.of = {peer: Memory(options.all_groups) for peer in options.members if peer != options.node}

    def recover(self, told: NodeRecord) -> None:
        """A record on a peer, of the disk scan."""
        memory = self.of.get(NodeId(told.peer))
        if memory is not None:
            memory.incarnation = told.incarnation
            if told.durable_to >= 0:
                memory.durable_to = memory.marked_to = told.durable_to

    def remember(self, peer: NodeId, incarnation: bytes) -> None:
        """This is its disk."""
        self.of[peer].incarnation = incarnation
        self._persist(NodeRecord(peer, incarnation))

    def take_disk(self, peer: NodeId, incarnation: bytes) -> None:
        """It is another one than this node knew, and the right one."""
        memory = self.of[peer]
        memory.ballots = [Ballot(0)] * len(memory.ballots)
        memory.slots = [Slot(0)] * len(memory.slots)
        memory.durable_to = memory.marked_to = 0
        self.remember(peer, incarnation)

    def beaten(self, peer: NodeId, durable_to: int) -> None:
        """A heartbeat tells how far the log of a peer that votes is durable."""
        memory = self.of[peer]
        present = self._node.incarnations.get(peer, b"")
        if durable_to > 0 and memory.incarnation and present and present != memory.incarnation:
            self.take_disk(peer, present)  # this node was away, or had an old disk, when the peer's was replaced
        memory.durable_to = max(memory.durable_to, durable_to)
        if memory.durable_to > memory.marked_to and memory.incarnation and self._node.clock.now() >= memory.mark_at:
            self.mark(peer, memory)

    def mark(self, peer: NodeId, memory: Memory) -> None:
        """Write down how far its log is durable."""
        memory.marked_to = memory.durable_to
        memory.mark_at = self._node.clock.now() + MARK_S
        self._persist(NodeRecord(peer, memory.incarnation, durable_to=memory.marked_to))

    def promised(self, sender: NodeId, message: Promise) -> None:
        memory = self.of[sender]
        memory.ballots[message.group] = max(memory.ballots[message.group], message.ballot)

    def accepted(self, sender: NodeId, message: Accepted) -> None:
        memory = self.of[sender]
        if message.slot > memory.slots[message.group]:
            memory.slots[message.group] = message.slot
        if message.ballot > memory.ballots[message.group]:
            memory.ballots[message.group] = message.ballot

    def records(self) -> list[NodeRecord]:
        """What the start of a segment has to tell."""
        return [
            NodeRecord(peer, memory.incarnation, durable_to=memory.marked_to or -1)
            for peer, memory in self.of.items()
            if memory.incarnation
        ]

    def _persist(self, told: NodeRecord) -> None:
        self._node.wal.append(log_record(told))
