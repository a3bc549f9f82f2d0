"""Messages between nodes, to whom they belong. One table; a sender that makes no sense loses its link."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from corgi.base.command import split_commands
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, NodeId
from corgi.broker.group import Group
from corgi.paxos.messages import (
    Accept,
    Accepted,
    AskSnapshot,
    Commit,
    Forward,
    ForwardRefused,
    Handover,
    LeaderLives,
    Learn,
    Learned,
    PeerMessage,
    Prepare,
    Promise,
    ReadSlot,
    ReadSlots,
    Recall,
    Refuse,
    Rejoin,
    Rejoined,
    Remembered,
    SlotRead,
    SlotsRead,
    SnapshotOffer,
    SnapshotPart,
)

if TYPE_CHECKING:
    from corgi.broker.node import Node

SMALL_VALUE_BYTES = 4096  # below it a received value is copied, so that it does not keep a receive buffer alive
FOREIGN_COMMANDS_MAX = 100_000


class PeerDispatch:
    """Hands each message to the replica or part that it is for."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._handlers: dict[type[PeerMessage], Callable[[NodeId, Any, memoryview], None]] = {
            Accept: self._accept,
            Accepted: self._accepted,
            Commit: lambda sender, m, _: self._group(m.group).replica.on_commit(sender, m),
            Prepare: lambda sender, m, _: self._prepare(sender, m),
            Promise: self._promise,
            Refuse: lambda sender, m, _: self._group(m.group).replica.on_refuse(sender, m),
            LeaderLives: lambda sender, m, _: self._group(m.group).replica.on_leader_lives(sender, m),
            Forward: self._forward,
            ForwardRefused: self._forward_refused,
            Learn: lambda sender, m, _: node.catch_up.on_learn(sender, m, self._group(m.group).replica.prefix),
            Learned: lambda sender, m, payload: self._group(m.group).replica.on_learned(sender, m, payload),
            Handover: lambda sender, m, _: self._group(m.group).replica.on_handover(sender, m),
            Recall: lambda sender, m, _: node.identity.on_recall(sender, m),
            Remembered: lambda sender, m, _: node.identity.on_remembered(sender, m),
            Rejoin: lambda sender, m, _: self._rejoin(sender, m),
            Rejoined: lambda sender, m, _: self._rejoined(sender, m),
            ReadSlot: lambda sender, m, _: self._read_slot(sender, m),
            SlotRead: self._slot_read,
            ReadSlots: lambda sender, m, _: node.repairs.on_read_slots(sender, m, self._group(m.group)),
            SlotsRead: self._slots_read,
            SnapshotOffer: lambda sender, m, _: node.snapshots.installs.on_offer(sender, m, self._group(m.group)),
            AskSnapshot: lambda sender, m, _: node.snapshots.installs.on_ask(sender, m, self._group(m.group)),
            SnapshotPart: self._snapshot_part,
        }

    def received(self, sender: NodeId, message: PeerMessage, payload: memoryview) -> None:
        """Raises CorgiError "malformed-frame" for what no honest peer sends."""
        handler = self._handlers.get(type(message))
        if handler is None:
            raise CorgiError("malformed-frame", f"{type(message).__name__} does not belong on a data connection")
        if self._node.identity.amnesia.reserved and not self._may_tell(message):
            return
        handler(sender, message, payload)

    def _may_tell(self, message: PeerMessage) -> bool:
        """Or it is of a group of which this node tells and takes nothing yet."""
        told = type(message) in (Rejoin, Rejoined)
        return told or self._node.identity.amnesia.tells(getattr(message, "group", GroupId(0)))

    def _snapshot_part(self, sender: NodeId, message: SnapshotPart, payload: memoryview) -> None:
        self._node.snapshots.installs.on_part(sender, message, payload)

    def _group(self, number: int) -> Group:
        groups = self._node.groups
        if not 0 <= number < len(groups):
            raise CorgiError("malformed-frame", f"group {number} does not exist here")
        return groups[number]

    def _accept(self, sender: NodeId, message: Accept, payload: memoryview) -> None:
        group = self._group(message.group)
        if not self._node.room.takes(payload):
            self._node.count("votes_withheld")
            return
        value = bytes(payload) if len(payload) < SMALL_VALUE_BYTES else payload
        group.replica.on_accept(sender, message, value)

    def _accepted(self, sender: NodeId, message: Accepted, _: memoryview) -> None:
        group = self._group(message.group)
        self._node.identity.memories.accepted(sender, message)
        self._node.detector.acknowledged(sender)
        group.replica.on_accepted(sender, message)

    def _prepare(self, sender: NodeId, message: Prepare) -> None:
        group = self._group(message.group)
        if self._node.room.any:
            group.replica.on_prepare(sender, message)

    def _promise(self, sender: NodeId, message: Promise, payload: memoryview) -> None:
        group = self._group(message.group)
        self._node.identity.memories.promised(sender, message)
        self._node.detector.acknowledged(sender)
        group.replica.on_promise(sender, message, payload)

    def _forward(self, sender: NodeId, message: Forward, payload: memoryview) -> None:
        group = self._group(message.group)
        tenure = group.replica.tenure
        if tenure is not None and tenure.ballot == message.ballot:
            if len(group.foreign) < FOREIGN_COMMANDS_MAX:  # else dropped: the origin forwards again
                group.foreign.extend([bytes(command) for command in split_commands(payload)])
            return
        replica = group.replica
        if message.hops > 0 and replica.ballot == message.ballot and self._node.linked(replica.leader):
            self._node.count("relayed")
            self._node.network.send(replica.leader, Forward(message.group, message.ballot, 0), bytes(payload))
            return
        leader = self._node.options.node if tenure is not None else replica.leader
        refusal = ForwardRefused(message.group, message.ballot, replica.acceptor.promised, leader)
        self._node.network.send(sender, refusal)

    def _forward_refused(self, sender: NodeId, message: ForwardRefused, _: memoryview) -> None:
        self._node.count("forwards_refused")
        if message.leader != sender:
            self._group(message.group).replica.leader_denies(sender, message.ballot)

    def _rejoin(self, sender: NodeId, message: Rejoin) -> None:
        self._group(message.group)
        self._node.identity.on_rejoin(sender, message, self._node.incarnations.get(sender, b""))

    def _rejoined(self, sender: NodeId, message: Rejoined) -> None:
        self._group(message.group)
        self._node.identity.on_rejoined(sender, message)

    def _read_slot(self, sender: NodeId, message: ReadSlot) -> None:
        self._group(message.group)
        self._node.repairs.on_read_slot(sender, message)

    def _slot_read(self, sender: NodeId, message: SlotRead, payload: memoryview) -> None:
        self._group(message.group)
        self._node.repairs.on_slot_read(sender, message, payload)

    def _slots_read(self, sender: NodeId, message: SlotsRead, payload: memoryview) -> None:
        self._group(message.group)
        self._node.repairs.on_slots_read(sender, message, payload)
