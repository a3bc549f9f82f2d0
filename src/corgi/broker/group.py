"""What one node holds of one Paxos group."""

from __future__ import annotations

from collections import deque

from corgi.base.command import Buffer
from corgi.base.ids import GroupId, Slot
from corgi.broker.proposals import Proposals
from corgi.broker.values import Values
from corgi.log.slots import SlotTable
from corgi.paxos.replica import Replica
from corgi.state.machine import Machine


class Group:
    """Consensus, state, own commands, and the commands that others forwarded to this leader."""

    __slots__ = ("foreign", "id", "machine", "proposals", "replica", "slots", "told_to", "values")

    def __init__(
        self, group: GroupId, replica: Replica, machine: Machine, proposals: Proposals, values: Values
    ) -> None:
        self.id = group
        self.replica = replica
        self.machine = machine
        self.proposals = proposals
        self.values = values
        self.slots: SlotTable = values.tables[group]
        self.foreign: deque[Buffer] = deque()
        self.told_to = Slot(0)  # up to this slot other nodes wait for outcomes

    @property
    def busy(self) -> bool:
        """Something waits for the next message. A memory group that stands still may do so for days."""
        replica = self.replica
        stands = replica.acceptor.lazy and not replica.acceptor.voting
        return bool(replica.open_slots and not stands) or self.proposals.queued
