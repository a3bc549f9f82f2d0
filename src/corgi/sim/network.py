"""The links between nodes: delays, blocked directions, broken and re-made connections, and a ruder datagram mode.

In the stream mode a link behaves as TCP does: messages arrive in order, a blocked direction holds them back, and they
are lost only with the connection. When a process dies, what it sent before still arrives, and the other end hears of
the close later. In the datagram mode single messages are dropped, doubled and overtaken: rougher than anything a real
node meets, to stress the core; single directions can be in such ``trouble`` in either mode. Heartbeats have a
connection of their own.

Messages travel as objects and payloads as bytes; nobody may change either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corgi.base.command import Buffer
from corgi.base.ids import NodeId
from corgi.paxos.messages import Heartbeat, PeerMessage
from corgi.sim.world import World

if TYPE_CHECKING:
    from corgi.sim.process import Process

BEATS_HELD = 64  # heartbeats that a blocked direction keeps for later

SendWatch = Callable[["Process", NodeId, PeerMessage, Buffer], None]


@dataclass(slots=True)
class NetworkOptions:
    """What the links are like; times in seconds, chances per message."""

    delay_min: float = 0.000_1
    delay_mean: float = 0.000_3
    spike_chance: float = 0.002
    spike_max: float = 0.030
    close_delay_max: float = 0.025  # a killed process's sockets are closed late
    reconnect_max: float = 0.060
    break_after_max: float = 3.0  # a blocked connection gives up after at most this
    datagrams: bool = False
    drop: float = 0.0
    duplicate: float = 0.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What one direction of a link does beyond its usual delays, whatever the mode: chances per message."""

    drop: float = 0.0
    duplicate: float = 0.0
    overtake: float = 0.0  # it waits up to ``overtake_max`` seconds, and what is sent later passes it
    overtake_max: float = 0.050


NO_TROUBLE = Trouble()


class End:
    """One end of a connection: who listens there, since when, and what is on its way to it."""

    __slots__ = ("arrival", "heard", "held", "opened", "peer", "process")

    def __init__(self, process: Process, peer: NodeId, opened: float) -> None:
        self.process = process
        self.peer = peer
        self.opened = opened  # when it is told; nothing arrives before
        self.heard = False  # told that the connection is there
        self.arrival = opened  # when the last message on its way arrives: order
        self.held: list[tuple[PeerMessage, Buffer]] = []  # sent into a blocked direction


class Connection:
    """A connection of two processes, until it breaks."""

    __slots__ = ("broken", "ends")

    def __init__(self, ends: dict[NodeId, End]) -> None:
        self.ends = ends
        self.broken = False


class SimNetwork:
    """All links between the nodes of a cluster."""

    def __init__(self, world: World, options: NetworkOptions, watch: SendWatch) -> None:
        self.world = world
        self.options = options
        self.watch = watch
        self.chance = world.stream("network")
        self.processes: dict[NodeId, Process] = {}
        self.slow: dict[NodeId, float] = {}  # seconds added to whatever the node sends
        self.loss: dict[NodeId, float] = {}  # chance that a datagram of the node is dropped, if above the usual
        self.trouble: dict[tuple[NodeId, NodeId], Trouble] = {}  # source and target
        self.blocked: set[tuple[NodeId, NodeId]] = set()
        self._connections: dict[tuple[NodeId, NodeId], Connection] = {}
        self._closing: dict[tuple[NodeId, NodeId], float] = {}  # (who, peer): when the last close is told
        self._beats_held: dict[tuple[NodeId, NodeId], list[Heartbeat]] = {}
        self.dropped = self.doubled = self.overtaken = 0

    # ---- what nodes do

    def send(self, process: Process, peer: NodeId, message: PeerMessage, payload: Buffer) -> None:
        """A message of ``process``; dropped unless its end of a connection to ``peer`` is open."""
        self.watch(process, peer, message, payload)
        source = process.id
        connection = self._connections.get(_pair(source, peer))
        if connection is None:
            return
        own = connection.ends[source]
        if own.process is not process or not own.heard:
            return
        target = connection.ends[peer]
        if (source, peer) in self.blocked:
            if self.options.datagrams:
                self.dropped += 1
            else:
                target.held.append((message, payload))
        else:
            self._carry(connection, target, message, payload)

    def beat(self, process: Process, peer: NodeId, message: Heartbeat) -> None:
        """A heartbeat, on its own connection."""
        source = process.id
        if process.beaten != message.number:
            process.beaten = message.number
            process.cluster.ledger.beaten(process, message)
        target = self.processes.get(peer)
        if target is None or _pair(source, peer) not in self._connections:
            return
        if (source, peer) in self.blocked:
            held = self._beats_held.setdefault((source, peer), [])
            if not self.options.datagrams and len(held) < BEATS_HELD:
                held.append(message)
            return
        if self.options.drop and self.chance.random() < self.options.drop:
            self.dropped += 1
            return
        self.world.after(self._delay(source), target.fact, "heartbeat", source, message)

    # ---- what happens to processes

    def process_up(self, process: Process) -> None:
        """A process listens: connect it with everybody it can reach, one by one."""
        self.processes[process.id] = process
        for other in sorted(self.processes):
            if other != process.id:
                self._reconnect_later(process.id, other)

    def process_down(self, process: Process) -> None:
        """A process died: its peers hear of it when the kernel has closed its sockets."""
        if self.processes.get(process.id) is process:
            del self.processes[process.id]
        delay = self.chance.random() * self.options.close_delay_max
        for pair, connection in list(self._connections.items()):
            if process.id in pair and connection.ends[process.id].process is process:
                self._break(pair, connection, delay)

    # ---- what faults do

    def block(self, source: NodeId, target: NodeId, *, reset: bool = False) -> None:
        """Let nothing pass from ``source`` to ``target``; with ``reset`` the connection breaks at once."""
        self.blocked.add((source, target))
        pair = _pair(source, target)
        connection = self._connections.get(pair)
        if connection is not None:
            patience = 0.0 if reset else self.chance.random() * self.options.break_after_max
            self.world.after(patience, self._break_if_blocked, pair, connection)

    def unblock(self, source: NodeId, target: NodeId) -> None:
        """Let messages pass again, those held first."""
        self.blocked.discard((source, target))
        connection = self._connections.get(_pair(source, target))
        if connection is not None:
            end = connection.ends[target]
            held, end.held = end.held, []
            for message, payload in held:
                self._carry(connection, end, message, payload)
        for beat in self._beats_held.pop((source, target), ()):
            receiver = self.processes.get(target)
            if receiver is not None:
                self.world.after(self._delay(source), receiver.fact, "heartbeat", source, beat)

    def unblock_all(self) -> None:
        for source, target in sorted(self.blocked):
            self.unblock(source, target)

    def cut(self, one: NodeId, other: NodeId) -> None:
        """Break the connection of two nodes; they connect again."""
        pair = _pair(one, other)
        connection = self._connections.get(pair)
        if connection is not None:
            self._break(pair, connection, 0.0)

    def connected(self, one: NodeId, other: NodeId) -> bool:
        return _pair(one, other) in self._connections

    # ---- how it is done

    def _delay(self, source: NodeId) -> float:
        options, chance = self.options, self.chance
        delay = options.delay_min + chance.expovariate(1.0) * options.delay_mean
        if chance.random() < options.spike_chance:
            delay += chance.random() * options.spike_max
        return delay + self.slow.get(source, 0.0)

    def _carry(self, connection: Connection, end: End, message: PeerMessage, payload: Buffer) -> None:
        """Put a message on its way; in the stream mode behind everything sent before."""
        options, chance = self.options, self.chance
        source = end.peer
        trouble = self.trouble.get((source, end.process.id), NO_TROUBLE)
        arrival = self.world.now + self._delay(source)
        drop, duplicate, ordered = trouble.drop, trouble.duplicate, not options.datagrams
        if options.datagrams:
            drop = max(drop, options.drop, self.loss.get(source, 0.0))
            duplicate = max(duplicate, options.duplicate)
        if drop and chance.random() < drop:
            self.dropped += 1
            return
        if trouble.overtake and chance.random() < trouble.overtake:
            ordered = False
            arrival += chance.random() * trouble.overtake_max
            self.overtaken += 1
        if ordered:
            arrival = end.arrival = max(arrival, end.arrival)
        else:
            arrival = max(arrival, end.opened)
        if duplicate and chance.random() < duplicate:
            self.doubled += 1
            self.world.at(arrival + self._delay(source), self._arrive, connection, end, message, payload)
        self.world.at(arrival, self._arrive, connection, end, message, payload)

    def _arrive(self, connection: Connection, end: End, message: PeerMessage, payload: Buffer) -> None:
        if end.heard:
            end.process.fact("peer_message", end.peer, message, memoryview(payload))

    def _reconnect_later(self, one: NodeId, other: NodeId) -> None:
        delay = 0.001 + self.chance.random() * self.options.reconnect_max
        self.world.after(delay, self._try_connect, one, other)

    def _try_connect(self, one: NodeId, other: NodeId) -> None:
        pair = _pair(one, other)
        if pair in self._connections or one not in self.processes or other not in self.processes:
            return
        if (one, other) in self.blocked or (other, one) in self.blocked:
            self._reconnect_later(one, other)
            return
        now = self.world.now
        ends: dict[NodeId, End] = {}
        for node, peer in ((pair[0], pair[1]), (pair[1], pair[0])):
            opened = now + 0.000_2 + self.chance.random() * 0.002
            ends[node] = End(self.processes[node], peer, max(opened, self._closing.get((node, peer), 0.0)))
        connection = self._connections[pair] = Connection(ends)
        for end in ends.values():
            self.world.at(end.opened, self._open, connection, end)

    def _open(self, connection: Connection, end: End) -> None:
        if connection.broken:
            return
        end.heard = True
        incarnation = connection.ends[end.peer].process.incarnation
        end.process.fact("peer_connected", end.peer, incarnation)

    def _break_if_blocked(self, pair: tuple[NodeId, NodeId], connection: Connection) -> None:
        still = pair in self.blocked or (pair[1], pair[0]) in self.blocked
        if still and self._connections.get(pair) is connection:
            self._break(pair, connection, self.chance.random() * 0.2)

    def _break(self, pair: tuple[NodeId, NodeId], connection: Connection, delay: float) -> None:
        """Both ends hear of it, each at its own time, after what is still on its way to them."""
        connection.broken = True
        del self._connections[pair]
        self._beats_held.pop(pair, None)
        self._beats_held.pop((pair[1], pair[0]), None)
        for node, end in connection.ends.items():
            when = self.world.now + delay + self.chance.random() * 0.002
            when = self._closing[node, end.peer] = max(when, end.arrival)
            self.world.at(when, self._close, end)
        self._reconnect_later(*pair)

    def _close(self, end: End) -> None:
        if end.heard:
            end.heard = False
            end.process.fact("peer_lost", end.peer)


def _pair(one: NodeId, other: NodeId) -> tuple[NodeId, NodeId]:
    return (one, other) if one < other else (other, one)
