"""A simulated computer (disk, clock, identity) and the processes that run a node on it, one life after another.

A process has turns, as an event loop has: facts gather while a turn is due, then all of them are handed to the node,
which is advanced and flushed once. A killed process takes nothing more and says nothing more; a paused one finds all
that came meanwhile when it goes on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from corgi.base import errors
from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Slot
from corgi.base.ports import Hole, LogRecord, Message, SnapshotName
from corgi.broker.node import Node
from corgi.broker.options import NodeOptions
from corgi.paxos.messages import Accepted, Heartbeat, PeerMessage, Rejoined
from corgi.runtime.drive import LATE_S
from corgi.sim.disk import SimDisk, SimWal
from corgi.sim.disk_memory import DiskMemory
from corgi.sim.ledger import Focus
from corgi.sim.snapshots import SimSnapshots
from corgi.sim.world import SimClock, World
from corgi.state.machine import Outcome

if TYPE_CHECKING:
    from corgi.sim.cluster import Cluster

TURN_DELAY_S = 0.000_02  # from the first fact to the turn that handles it
TURN_COST_S = 0.000_05
FACT_COST_S = 0.000_02
WAKE_AFTER_S = 0.000_05  # timers fire a little late, as real ones do


class Synced(msgspec.Struct, frozen=True, array_like=True):
    """A record that became durable, for the transcript."""

    kind: str
    group: GroupId
    ballot: Ballot
    slot: Slot


@dataclass(slots=True)
class Computer:
    """What outlives a process. ``doubted`` counts how often the disk was lost or replaced by an older one."""

    id: NodeId
    clock: SimClock
    disk: SimDisk
    incarnation: bytes
    boot: int = 0
    starts: int = 0
    recovering: bool = False  # as told in node.json
    kernel: int = 0  # how often the computer has lost its power
    noted_kernel: int = 0  # as told in node.json, at the last start
    memory_lost: str = ""  # as told in node.json
    accepts_loss: bool = False  # the operator starts it with --accept-loss memory
    forgotten: int = 0  # how often votes in memory groups may have been lost
    doubted: int = 0
    memory: DiskMemory = field(default_factory=DiskMemory)
    process: Process | None = None


class Process:
    """One life of a node, from start to kill or stop."""

    def __init__(self, cluster: Cluster, computer: Computer, options: NodeOptions) -> None:
        self.cluster = cluster
        self.world: World = cluster.world
        self.computer = computer
        self.id = computer.id
        self.incarnation = computer.incarnation
        self.doubted = computer.doubted
        self.forgotten = computer.forgotten
        self.memory = computer.memory
        self.clock = computer.clock
        self.alive = True
        self.paused = False
        self.beaten = 0  # number of the last heartbeat that the onlooker has seen
        self._replaying = True
        self.turns = 0
        self.facts = 0
        self.name = f"node {self.id}"
        self._inbox: list[tuple[str | Callable[..., None], tuple[object, ...]]] = []
        self._turn_due = False
        self._free_at = 0.0
        self._deadline: float | None = None
        self._wake_at = float("inf")
        self.wal = SimWal(self.world, computer.disk, self)
        chance = self.world.stream(f"node/{self.id}/{computer.starts}")
        self.snapshots = SimSnapshots(self.world, computer.disk, self)
        self.node = Node(options, self.clock, chance, self.wal, _Port(self), self.snapshots)
        for group in self.node.groups:
            setattr(group.machine, "apply", self._counted(group.machine.apply))  # noqa: B010 - an onlooker, not a change
        self.node.identity.recovered = self._recovered
        self.node.identity.amnesia.recovered = self._memory_recovered
        self.seen = [0] * options.all_groups  # chosen prefixes that the ledger has checked

    def start(self) -> bool:
        """Recover from the disk, then live; False if that fails."""
        try:
            first_segment = self.node.snapshots.restore(self.snapshots.names(), self.snapshots.content, self._damaged)
            covered = [group.replica.prefix for group in self.node.groups]
            self.cluster.count("snapshot_restarts", any(covered))
            if any(number >= first_segment for number in self.computer.disk.freed):
                text = f"node {self.id} scans from segment {first_segment}, and has freed {self.computer.disk.freed}"
                self.cluster.ledger.violate("synced-record-lost", text)
            found = self.wal.open(first_segment)
            records = [item for item in found if not isinstance(item, Hole)]
            damage = [item for item in found if isinstance(item, Hole) and not item.lazy]
            if damage and not self.computer.disk.damaged:
                self.cluster.ledger.violate("hole-without-damage", f"node {self.id}: {damage}", Focus(self.id))
            holes = len(damage) + self.computer.recovering
            lazy = sum(isinstance(item, Hole) and item.lazy for item in found)
            self.cluster.count("lazy_holes_found", lazy)
            if lazy and self.cluster.ledger.lazily_lost(self.id, self.memory, records, covered):
                self.cluster.forget(self.id)  # by damage, which looks like a loss of power
                self.forgotten = self.computer.forgotten
            if self.cluster.ledger.recovered(self.id, self.memory, records, holes=holes, covered=covered):
                self.computer.doubted += 1
                self.doubted = self.computer.doubted
            self.cluster.count("recovered_records", len(records))
            for item in found:
                self.node.recover(item)
            self._replaying = False
            self.node.start()
        except Exception:  # noqa: BLE001 - whatever a node raises is a finding
            self._failed()
            return False
        self._due()
        return True

    def _damaged(self, name: SnapshotName, error: CorgiError) -> None:
        self.cluster.ledger.violate("node-failed", f"node {self.id}: {name}: {error}")

    def _counted(self, apply: Callable[[Slot, Buffer], list[Outcome]]) -> Callable[[Slot, Buffer], list[Outcome]]:
        """Count what apply refuses, for the coverage of a suite."""
        count = self.cluster.count

        def counted(slot: Slot, value: Buffer) -> list[Outcome]:
            outcomes = apply(slot, value)
            if self._replaying:
                return outcomes
            for outcome in outcomes:
                if outcome.error == errors.TOPIC_EXISTS:
                    count("guard_refusals")
                elif outcome.error == errors.OUT_OF_ORDER_SEQUENCE:
                    count("refused_gaps")
                elif outcome.error == errors.UNSETTLED:
                    count("refused_copies")
            return outcomes

        return counted

    def _memory_recovered(self) -> None:
        self.computer.memory_lost = ""

    def _recovered(self) -> None:
        """As the data folder does: the disk is no longer in doubt."""
        self.computer.recovering = False

    # ---- facts

    def fact(self, name: str, *arguments: object) -> None:
        """Something happened that the node must hear of: a method of the node and its arguments."""
        if not self.alive:
            return
        self._inbox.append((name, arguments))
        if not self._turn_due:
            self._due()

    def call(self, function: Callable[..., None], *arguments: object) -> None:
        """Call back into the node in its next turn."""
        if self.alive:
            self._inbox.append((function, arguments))
            if not self._turn_due:
                self._due()

    def synced(self, records: Sequence[LogRecord]) -> None:
        """The disk has these records."""
        self.world.note(self.name, tuple(Synced(r.kind.name, r.group, r.ballot, r.slot) for r in records))
        self.cluster.ledger.synced(self.id, self.memory, records)
        self.fact("log_synced", records)

    def written(self, records: Sequence[LogRecord]) -> None:
        """The disk has these records, and may lose them with its power."""
        self.world.note(self.name, tuple(Synced(r.kind.name, r.group, r.ballot, r.slot) for r in records))
        self.cluster.ledger.synced(self.id, self.memory, records)
        self.fact("log_written", records)

    def peer_losses(self, peer: NodeId, group: GroupId) -> tuple[NodeId, int]:
        """How often a peer has lost what it knew of the group, for the ledger."""
        computer = self.cluster.computers[peer]
        return peer, computer.doubted + (computer.forgotten if group >= self.node.options.groups else 0)

    # ---- turns

    def _due(self) -> None:
        self._turn_due = True
        if not self.paused:
            self.world.at(max(self.world.now + TURN_DELAY_S, self._free_at), self._turn)

    def _turn(self) -> None:
        if not self.alive or self.paused or not self._turn_due:
            return
        self._turn_due = False
        inbox, self._inbox = self._inbox, []
        node = self.node
        try:
            late = 0.0 if self._deadline is None else self.clock.now() - self._deadline
            if late > LATE_S:  # as runtime.drive does: blame nobody for the time in which this loop stood still
                self.cluster.count("loop_stalls")
                node.loop_lag(late)
            for call, arguments in inbox:
                self._handle(call, arguments)
            if late >= 0.0 and self._deadline is not None:
                node.advance()
            node.flush()
            self._deadline = node.next_deadline()
        except Exception:  # noqa: BLE001 - whatever a node raises is a finding
            self._failed()
            return
        self.turns += 1
        self.facts += len(inbox)
        self._free_at = self.world.now + TURN_COST_S + FACT_COST_S * len(inbox)
        self._look()
        if node.stopped:
            self.cluster.exited(self)
        elif self._deadline is not None:
            self._arm(self._deadline)

    def _handle(self, call: str | Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """One fact of the inbox: noted, then told to the node."""
        note = self.world.note
        if call == "peer_message":
            sender, message, payload = arguments
            note(self.name, (sender, message.TYPE, message, len(payload)))
            if isinstance(message, Accepted):
                self.cluster.ledger.heard(sender, message)
            elif isinstance(message, Rejoined) and self.node.identity.recovers(message.group):
                self.cluster.ledger.granted(self.id, message)
            self.node.peer_message(sender, message, payload)
        elif call == "heartbeat":
            self.node.heartbeat(*arguments)
        elif isinstance(call, str):
            if call == "client_request":
                note(self.name, (arguments[0].listener.name, arguments[1], arguments[2]))
            elif call not in ("log_synced", "log_written"):  # noted when it was
                note(self.name, call)
            getattr(self.node, call)(*arguments)
        else:
            note(self.name, "callback")
            call(*arguments)

    def _look(self) -> None:
        """The end of a turn: the onlooker looks, the disk begins to write, a trap may close."""
        self.cluster.ledger.turn_ended(self)
        self.wal.turn_ended()
        if self.cluster.on_turn is not None:
            self.cluster.on_turn(self)

    def _arm(self, deadline: float) -> None:
        when = max(self.clock.true_time(deadline), self.world.now) + WAKE_AFTER_S
        if when < self._wake_at or self._wake_at <= self.world.now:
            self._wake_at = when
            self.world.at(when, self._wake, when)

    def _wake(self, when: float) -> None:
        if when == self._wake_at:
            self._wake_at = float("inf")
            if self.alive and not self._turn_due:
                self._due()

    def _failed(self) -> None:
        self.cluster.failed(self, traceback.format_exc())

    # ---- faults

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.wal.resumed()
        self._due()

    def kill(self) -> None:
        """No further turn; what the disk has not synced is lost as ``SimDisk`` decides."""
        self.alive = False
        self._inbox.clear()
        self.wal.crash()


class _Port:
    """The Network port of one process."""

    __slots__ = ("_network", "_process")

    def __init__(self, process: Process) -> None:
        self._process = process
        self._network = process.cluster.network

    def send(self, peer: NodeId, message: Message, payload: Buffer = b"") -> None:
        assert isinstance(message, PeerMessage)
        self._network.send(self._process, peer, message, payload)

    def beat(self, peer: NodeId, message: Message) -> None:
        assert isinstance(message, Heartbeat)
        self._network.beat(self._process, peer, message)
