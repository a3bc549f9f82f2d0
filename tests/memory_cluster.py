"""A small cluster in memory for protocol tests: FIFO links, virtual time, disks that sync when told or at once."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from corgi.base.command import Buffer, CommandKind, encode_data
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, NodeId, Position
from corgi.base.ports import Hole, LogRecord, RecordKind, SnapshotName
from corgi.broker.node import Node
from corgi.broker.options import NodeOptions
from corgi.sim.disk import read_each
from corgi.state.outcomes import Outcome


class TestClock:
    __test__ = False

    def __init__(self) -> None:
        self.time = 100.0
        self.offset_ms = 0

    def now(self) -> float:
        return self.time

    def wall_ms(self) -> int:
        return int(self.time * 1000) + 1_700_000_000_000 + self.offset_ms


class WrongClock(TestClock):
    """A node's own clock, which is wrong by so much and goes as the others do."""

    def __init__(self, clock: TestClock, wrong_ms: int) -> None:
        self._clock = clock
        self._wrong_ms = wrong_ms

    def now(self) -> float:
        return self._clock.now()

    def wall_ms(self) -> int:
        return self._clock.wall_ms() + self._wrong_ms


class MemoryWal:
    """Keeps records; ``held`` stops syncing."""

    def __init__(self) -> None:
        self.node: Node | None = None
        self.waiting: list[LogRecord] = []
        self.durable: list[LogRecord | Hole] = []
        self.bytes: dict[int, bytes] = {}
        self.held = False
        self.reads: deque[tuple[int, int, Callable[[bytes | CorgiError], None]]] = deque()
        self._position = 0

    def append(self, record: LogRecord) -> None:
        self.waiting.append(record)

    def read(self, position: Position, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        self.reads.append((position, length, done))

    def read_many(
        self, places: Sequence[tuple[Position, int]], done: Callable[[list[bytes | CorgiError]], None]
    ) -> None:
        read_each(self.read, places, done)

    def repair(self, position: Position, payload: bytes, done: Callable[[CorgiError | None], None]) -> None:
        named = self.bytes.get(position) == payload  # nothing is damaged here: what is there is what the header names
        done(None if named else CorgiError("record-damaged"))

    def unsynced_age(self) -> float:
        return 0.0

    segment_bytes = 2**40
    segment = 0
    room = 2**40

    @property
    def synced_position(self) -> Position:
        return Position(self._position)

    def segments(self) -> list[int]:
        return []

    def free(self, segments: Sequence[int]) -> None:
        raise AssertionError("nothing is freed without snapshots")

    def sync(self) -> bool:
        if self.held or not self.waiting:
            return False
        records, self.waiting = self.waiting, []
        for record in records:
            record.payload = bytes(record.payload)
            record.position = Position(self._position)
            self.bytes[self._position] = record.payload
            self._position += len(record.payload) + 1
        self.durable.extend(records)
        assert self.node is not None
        self.node.log_synced(records)
        return True


class Link:
    def __init__(self, cluster: Cluster, me: NodeId) -> None:
        self.cluster = cluster
        self.me = me

    def send(self, peer: NodeId, message: Any, payload: Buffer = b"") -> None:
        self.cluster.post(self.me, peer, message, bytes(payload))

    def beat(self, peer: NodeId, message: Any) -> None:
        self.cluster.post(self.me, peer, message, b"")


class Cluster:
    """``cut`` holds ordered pairs whose messages are dropped; ``dead`` nodes neither run nor receive."""

    def __init__(
        self,
        nodes: int = 3,
        groups: int = 2,
        seed: int = 1,
        memory_groups: int = 0,
        wrong_ms: Mapping[NodeId, int] | None = None,
    ) -> None:
        self.clock = TestClock()
        self.wrong_ms = wrong_ms or {}
        self.members = tuple(NodeId(n) for n in range(1, nodes + 1))
        self.group_count = groups
        self.memory_groups = memory_groups
        self.accepting: set[NodeId] = set()  # who is started with the loss of votes in memory groups accepted
        self.memory_lost: dict[NodeId, str] = {}  # the loss of power that a folder tells
        self.random = random.Random(seed)
        self.nodes: dict[NodeId, Node] = {}
        self.wals: dict[NodeId, MemoryWal] = {}
        self.boots: dict[NodeId, int] = dict.fromkeys(self.members, 0)
        self.incarnations = {n: bytes([n]) * 16 for n in self.members}
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.links: set[tuple[NodeId, NodeId]] = set()
        self.posted: deque[tuple[NodeId, NodeId, Any, bytes]] = deque()
        self.log: list[tuple[NodeId, NodeId, Any]] = []
        self.filter: Callable[[NodeId, NodeId, Any], bool] = lambda *_: True
        for member in self.members:
            self.start(member)

    def post(self, sender: NodeId, to: NodeId, message: Any, payload: bytes) -> None:
        if (sender, to) in self.links and (sender, to) not in self.cut:
            self.posted.append((sender, to, message, payload))

    def start(
        self,
        member: NodeId,
        *,
        wiped: bool = False,
        recovering: bool = False,
        snapshots: Mapping[SnapshotName, bytes] | None = None,
    ) -> Node:
        old = [] if wiped or member not in self.wals else self.wals[member].durable
        wal = MemoryWal()
        self.boots[member] += 1
        options = NodeOptions(
            node=member,
            cluster=b"c" * 16,
            incarnation=self.incarnations[member],
            boot=self.boots[member],
            members=self.members,
            groups=self.group_count,
            recovering=recovering,
            memory_groups=self.memory_groups,
            memory_lost=self.memory_lost.get(member, ""),
            accept_lost_memory=member in self.accepting,
        )
        clock = WrongClock(self.clock, self.wrong_ms[member]) if member in self.wrong_ms else self.clock
        node = Node(options, clock, random.Random(self.random.random()), wal, Link(self, member))
        wal.node = node
        found = snapshots or {}
        node.snapshots.restore(list(found), lambda name: memoryview(found[name]), lambda *_: None)
        for record in old:
            node.recover(record)
        old = [record for record in old if not isinstance(record, Hole)]
        wal.durable = list(old)
        wal.bytes = {int(r.position): bytes(r.payload) for r in old}
        wal._position = max((int(r.position) + len(r.payload) + 1 for r in old), default=0)
        self.nodes[member] = node
        self.wals[member] = wal
        node.start()
        for other in list(self.nodes):
            if other != member:
                self.connect(member, other)
        return node

    def kill(self, member: NodeId) -> None:
        del self.nodes[member]
        self.wals[member].waiting.clear()
        self.links = {pair for pair in self.links if member not in pair}
        self.posted = deque(p for p in self.posted if member not in p[:2])
        for other, node in self.nodes.items():
            if (other, member) not in self.cut:
                node.peer_lost(member)

    def connect(self, a: NodeId, b: NodeId) -> None:
        if (a, b) in self.cut:
            return
        self.links |= {(a, b), (b, a)}
        self.nodes[a].peer_connected(b, self.incarnations[b])
        self.nodes[b].peer_connected(a, self.incarnations[a])

    def partition(self, a: NodeId, b: NodeId) -> None:
        """Break the link between two nodes, both ways."""
        self.cut |= {(a, b), (b, a)}
        self.links -= {(a, b), (b, a)}
        self.posted = deque(p for p in self.posted if {p[0], p[1]} != {a, b})
        self.nodes[a].peer_lost(b)
        self.nodes[b].peer_lost(a)

    def heal(self, a: NodeId, b: NodeId) -> None:
        self.cut -= {(a, b), (b, a)}
        self.connect(a, b)

    def settle(self) -> None:
        """Deliver messages and sync disks until nothing moves, without time passing."""
        for _ in range(10_000):
            moved = False
            while self.posted:
                sender, to, message, payload = self.posted.popleft()
                moved = True
                if to not in self.nodes or not self.filter(sender, to, message):
                    continue
                self.log.append((sender, to, message))
                node = self.nodes[to]
                if type(message).__name__ == "Heartbeat":
                    node.heartbeat(sender, message)
                else:
                    node.peer_message(sender, message, memoryview(payload))
                node.flush()
            for member, wal in list(self.wals.items()):
                if member not in self.nodes:
                    continue
                while wal.reads:
                    position, length, done = wal.reads.popleft()
                    moved = True
                    done(wal.bytes[position][:length])
                moved = wal.sync() or moved
                self.nodes[member].flush()
            if not moved:
                return
        raise AssertionError("the cluster does not come to rest")

    def run(self, seconds: float, step: float = 0.005) -> None:
        end = self.clock.time + seconds
        self.settle()
        while self.clock.time < end:
            self.clock.time += step
            for node in list(self.nodes.values()):
                deadline = node.next_deadline()
                if deadline is not None and deadline <= self.clock.time:
                    node.advance()
                node.flush()
            self.settle()

    def leader(self, group: int = 0) -> NodeId:
        leaders = [m for m, n in self.nodes.items() if n.groups[group].replica.leading]
        assert leaders, "nobody leads"
        return max(leaders, key=lambda m: self.nodes[m].groups[group].replica.ballot)

    def submit(self, member: NodeId, batch: bytes, group: int = 0, topic: int = 5) -> list[Outcome]:
        """Append to a system partition; the returned list fills when the outcome is known."""
        out: list[Outcome] = []
        body = encode_data([(topic, group, batch)])  # type: ignore[list-item]
        self.nodes[member].submit(GroupId(group), CommandKind.DATA, body, out.append, timeout_s=30.0)
        return out

    def prefixes(self, group: int = 0) -> set[tuple[int, int]]:
        return {(n.groups[group].replica.prefix, n.groups[group].machine.digest) for n in self.nodes.values()}


def records_of(wal: MemoryWal, kind: RecordKind) -> Sequence[LogRecord]:
    return [r for r in wal.durable if r.kind is kind]
