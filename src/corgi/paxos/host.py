"""What a replica asks of the node it lives in."""

from __future__ import annotations

from typing import Protocol

from corgi.base.command import Buffer
from corgi.base.ids import Ballot, GroupId, NodeId, Slot
from corgi.base.ports import LogRecord
from corgi.paxos.messages import PeerMessage


class Host(Protocol):
    """Implemented by the node. None of these calls comes back into the replica before it returns, except ``chosen``."""

    def now(self) -> float: ...

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def send(self, peer: NodeId, message: PeerMessage, payload: Buffer = b"") -> None: ...

    def persist(self, record: LogRecord) -> None:
        """Queue for the disk; it comes back through ``Replica.durable`` after its release message was sent."""
        ...

    def chosen(self, group: GroupId, slot: Slot, value: Buffer) -> None:
        """Apply: slots come in order, each once."""
        ...

    def chosen_unread(self, group: GroupId, slot: Slot) -> None:
        """Only during recovery: the slot is chosen and its value, once on this disk, is damaged. It comes in order with
        ``chosen``; nothing behind it is applied before its value was fetched."""
        ...

    def readable(self, group: GroupId) -> Slot:
        """This node holds the values of all chosen slots up to here (-1: of all); the next one is damaged."""
        ...

    def epoch_value(self, group: GroupId, ballot: Ballot) -> bytes:
        """The value with the epoch record of a new leadership."""
        ...

    def noop_value(self) -> bytes: ...

    def in_memory(self, group: GroupId, slot: Slot) -> Buffer | None:
        """A chosen value if it is in memory."""
        ...

    def linked(self, peer: NodeId) -> bool:
        """The data connection is up and the peer was heard within the suspicion time."""
        ...

    def serves(self, leader: NodeId, group: GroupId, ballot: Ballot) -> bool:
        """The leader of ``ballot`` is linked, and does not say itself that it has been without a majority for long: it
        may be heard and hear nobody."""
        ...

    def leader_lives(self, group: GroupId, ballot: Ballot) -> bool:
        """This node hears the leader of ``ballot``, which recently had a quorum and whose disk moves (self
        included)."""
        ...

    def relays(self, peer: NodeId, group: GroupId, ballot: Ballot) -> bool:
        """The peer is linked and says that it hears the leader of ``ballot``."""
        ...

    def heard_all(self) -> bool:
        """Every connected peer has sent a heartbeat since its connection came up."""
        ...

    def loss_accepted(self, group: GroupId, first: Slot) -> None:
        """A majority has forgotten votes, all have promised, and the group goes on from slot ``first`` with what is
        left: what was chosen there or behind may be lost."""
        ...

    def may_copy(self) -> bool:
        """The log has room for values that are known chosen."""
        ...

    def may_learn(self, value: Buffer) -> bool:
        """The log has room for this one."""
        ...

    def may_lead(self, group: GroupId) -> bool:
        """Clock, disk and state allow this node to lead the group; it has applied all that it knows chosen."""
        ...

    def wake_at(self, when: float) -> None:
        """Call ``Replica.tick`` at that time at the latest."""
        ...

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        ...

    def note(self, name: str, group: GroupId, detail: str = "") -> None:
        """Record an event of leadership with its time."""
        ...
