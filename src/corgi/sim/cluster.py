"""The simulated cluster: computers, their links, and what an operator or a calamity does to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from corgi.base.ids import NodeId, next_boot
from corgi.base.ports import SnapshotName
from corgi.broker.options import NodeOptions
from corgi.log.record import LogIdentity
from corgi.paxos.learner import FAR_SLOTS
from corgi.sim.disk import SimDisk
from corgi.sim.disk_memory import DiskMemory
from corgi.sim.ledger import Focus, Ledger
from corgi.sim.network import NetworkOptions, SimNetwork
from corgi.sim.process import Computer, Process
from corgi.sim.world import SimClock, World
from corgi.state.fingerprint import fingerprint

RETENTION_INTERVAL_S = 0.3
COMPACTION_INTERVAL_S = 0.5
NEVER_S = 1e6
REWRITE_BYTES_PER_S = 64 * 1024  # a small segment each second
SCRUB_PAUSE_S = 1.0
OPERATOR_S = 1.0
CLUSTER = bytes.fromhex("c0491c0491c0491c0491c0491c0491c0")
PORT = 7000  # of node 0, which there is not


def address_of(node: NodeId) -> tuple[str, int]:
    """Where clients are told to dial."""
    return f"node-{node}", PORT + node


def node_at(port: int) -> NodeId:
    return NodeId(port - PORT)


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """The shape of a cluster; sizes in bytes."""

    nodes: int = 3
    groups: int = 4
    memory_groups: int = 0
    segment_bytes: int = 256 * 1024
    tail_bytes_max: int = 64 * 1024
    value_bytes_max: int = 8 * 1024
    window_slots: int = 8
    snapshot_segments: int = 2
    far_slots: int = FAR_SLOTS
    rewrite_below: float = 0.25
    scrub_bytes_s: int = 0
    compaction_bytes_min: int = 1
    compaction_bytes_per_s: int = 1024 * 1024
    compaction_keys_bytes_max: int = 1024 * 1024
    network: NetworkOptions = field(default_factory=NetworkOptions)
    clock_skew: bool = True


@dataclass(slots=True)
class Image:
    """A disk as it was at some time, and what the onlooker knew to be on it."""

    segments: dict[int, bytes]
    memory: DiskMemory
    incarnation: bytes
    recovering: bool
    boot: int
    noted_kernel: int
    memory_lost: str
    durable_to: int  # as the node tells its peers
    starts: tuple[int, ...]  # of each computer, when the image was taken
    snapshots: dict[SnapshotName, bytes]
    freed: set[int]  # segments that the node had deleted


class Cluster:
    """All computers of a run. A node is up, paused, or down; what a client would reach is ``process_of``."""

    def __init__(self, world: World, options: ClusterOptions) -> None:
        self.world = world
        self.options = options
        self.ledger = Ledger(world, options.nodes, options.groups)
        self.network = SimNetwork(world, options.network, self.ledger.sent)
        self.members = tuple(NodeId(number) for number in range(1, options.nodes + 1))
        self.coverage: Counter[str] = Counter()
        self.on_exit: list[Callable[[Process], None]] = []
        self.on_turn: Callable[[Process], None] | None = None  # a trap of the faults
        self._chance = world.stream("cluster")
        self.computers = {node: self._computer(node) for node in self.members}

    def _computer(self, node: NodeId) -> Computer:
        chance = self._chance
        clock = SimClock(self.world)
        if self.options.clock_skew:
            clock = SimClock(
                self.world,
                offset=chance.random() * 1000,
                rate=1.0 + (chance.random() - 0.5) * 0.002,
                wall_offset_ms=chance.randrange(-800, 800),
            )
        stream = self.world.stream(f"disk/{node}")
        disk = SimDisk(stream, LogIdentity(CLUSTER, node), self.options.segment_bytes)
        disk.groups = self.options.groups + self.options.memory_groups
        return Computer(node, clock, disk, incarnation=self._fresh_incarnation())

    def _fresh_incarnation(self) -> bytes:
        return self._chance.getrandbits(128).to_bytes(16, "big")

    def count(self, name: str, by: int = 1) -> None:
        self.coverage[name] += by

    # ---- who runs

    def process_of(self, node: NodeId) -> Process | None:
        """The running process of a node, paused or not."""
        return self.computers[node].process

    def up(self) -> list[NodeId]:
        """Nodes that run and are not paused."""
        return [n for n in self.members if (p := self.process_of(n)) is not None and not p.paused]

    def down(self) -> list[NodeId]:
        return [n for n in self.members if self.process_of(n) is None]

    def trusted(self, node: NodeId) -> bool:
        """The node runs and votes in every group."""
        process = self.process_of(node)
        if process is None or process.paused:
            return False
        return all(group.replica.role != "recovering" for group in process.node.groups)

    # ---- lives

    def start_all(self) -> None:
        for node in self.members:
            self.world.after(self._chance.random() * 0.02, self.start, node)
        if self.options.memory_groups:
            self.world.after(OPERATOR_S, self.watch_memory)

    def start(self, node: NodeId) -> None:
        """Boot a node from what its disk holds."""
        computer = self.computers[node]
        if computer.process is not None:
            return
        computer.boot = next_boot(computer.boot, computer.clock.wall_ms(), self._chance)
        computer.starts += 1
        if self.options.memory_groups and computer.noted_kernel != computer.kernel:
            computer.memory_lost = f"loss before start {computer.starts}"
            self.count("power_losses_noticed")
        computer.noted_kernel = computer.kernel
        options = NodeOptions(
            node=node,
            cluster=CLUSTER,
            incarnation=computer.incarnation,
            boot=computer.boot,
            members=self.members,
            groups=self.options.groups,
            memory_groups=self.options.memory_groups,
            recovering=computer.recovering,
            memory_lost=computer.memory_lost,
            accept_lost_memory=computer.accepts_loss,
            addresses={other: address_of(other) for other in self.members},
            labels={other: f"host-{other}" for other in self.members},
            window_slots=self.options.window_slots,
            snapshot_segments=self.options.snapshot_segments,
            far_slots=self.options.far_slots,
            rewrite_below=self.options.rewrite_below,
            rewrite_bytes_per_s=REWRITE_BYTES_PER_S,
            retention_interval_s=RETENTION_INTERVAL_S,
            compaction_interval_s=COMPACTION_INTERVAL_S,
            compaction_bytes_min=self.options.compaction_bytes_min,
            compaction_bytes_per_s=self.options.compaction_bytes_per_s,
            compaction_keys_bytes_max=self.options.compaction_keys_bytes_max,
            scrub_bytes_s=self.options.scrub_bytes_s,
            scrub_pause_s=SCRUB_PAUSE_S,
            tail_bytes_max=self.options.tail_bytes_max,
            value_bytes_max=self.options.value_bytes_max,
        )
        self.world.note("cluster", f"start node {node} boot {computer.boot} recovering {computer.recovering}")
        computer.accepts_loss = False
        process = computer.process = Process(self, computer, options)
        if process.start():
            self.network.process_up(process)

    def watch_memory(self, stuck: bool = False) -> None:
        """The operator looks every second: where no majority of the memory groups votes for long, although all nodes
        run, those in doubt are started anew with the loss accepted."""
        first = self.options.groups
        groups = {node: p.node.groups[first:] for node in self.up() if (p := self.process_of(node)) is not None}
        acceptors = {node: [group.replica.acceptor for group in found] for node, found in groups.items()}
        voting = sum(all(acceptor.voting for acceptor in found) for found in acceptors.values())
        doubtful = [node for node, found in acceptors.items() if not all(acceptor.answers for acceptor in found)]
        needed = len(self.members) // 2 + 1
        now_stuck = bool(doubtful) and voting < needed and len(acceptors) == len(self.members)
        if stuck and now_stuck:
            for node in doubtful:
                self.kill(node)
                self.computers[node].accepts_loss = True
                self.count("losses_accepted_by_operator")
                self.world.after(0.05, self.start, node)
        self.world.after(OPERATOR_S, self.watch_memory, now_stuck)

    def kill(self, node: NodeId, *, power: bool = False) -> None:
        """kill -9, or with ``power`` the whole computer: then what was not synced is in danger."""
        computer = self.computers[node]
        process = computer.process
        if process is not None:
            self.world.note("cluster", f"{'power off' if power else 'kill'} node {node}")
            self._end(process)
            process.kill()
        if power:
            computer.disk.power_loss()
            computer.kernel += 1
            self.forget(node)

    def forget(self, node: NodeId) -> None:
        """What was not synced may be gone: votes in memory groups that were answered."""
        if self.options.memory_groups:
            computer = self.computers[node]
            computer.forgotten += 1
            self.ledger.power_lost(node, computer.memory)

    def stop(self, node: NodeId) -> None:
        """Ask a node to stop in good order."""
        process = self.process_of(node)
        if process is not None:
            self.world.note("cluster", f"stop node {node}")
            process.call(process.node.stop)

    def exited(self, process: Process) -> None:
        """A node has stopped by itself, as asked."""
        self.world.note("cluster", f"node {process.id} has stopped")
        self.count("graceful_stops")
        self._end(process)
        process.kill()

    def sync_failed(self, process: Process) -> None:
        """A node's disk failed: it stops at once and says nothing more."""
        self.world.note("cluster", f"a sync fails at node {process.id}, which stops")
        self.count("failed_syncs")
        self._end(process)
        process.kill()
        process.computer.noted_kernel = -1  # as the folder notes it
        self.forget(process.id)

    def failed(self, process: Process, text: str) -> None:
        """A node found a fault, in itself or on its disk."""
        self.ledger.violate("node-failed", f"node {process.id}: {text}", Focus(process.id))
        self._end(process)
        process.kill()

    def _end(self, process: Process) -> None:
        process.computer.process = None
        for name, number in process.node.counters.items():
            self.coverage[name] += int(number)
        self.count("turns", process.turns)
        self.count("facts", process.facts)
        self.count("syncs", process.wal.syncs)
        self.network.process_down(process)
        for told in self.on_exit:
            told(process)

    def finish(self) -> None:
        """Count what the living have counted."""
        for node in self.members:
            process = self.process_of(node)
            if process is not None:
                self._end(process)

    def pause(self, node: NodeId) -> None:
        process = self.process_of(node)
        if process is not None and not process.paused:
            self.world.note("cluster", f"pause node {node}")
            process.pause()

    def resume(self, node: NodeId) -> None:
        process = self.process_of(node)
        if process is not None and process.paused:
            self.world.note("cluster", f"resume node {node}")
            process.resume()

    # ---- disks

    def image(self, node: NodeId) -> Image:
        computer = self.computers[node]
        assert computer.process is not None
        durable_to = computer.process.node.durable_to
        disk, starts = computer.disk, self._starts(node)
        memory, snapshots, freed = computer.memory.copy(), dict(disk.snapshots), set(disk.freed)
        noted = (computer.noted_kernel, computer.memory_lost)
        life = (computer.incarnation, computer.recovering, computer.boot)
        return Image(disk.image(), memory, *life, *noted, durable_to, starts, snapshots, freed)

    def _starts(self, node: NodeId) -> tuple[int, ...]:
        return tuple(self.computers[other].starts for other in self.members if other != node)

    def outdated(self, node: NodeId, image: Image) -> bool:
        """Every peer has written down that the node's log was longer than this image of it."""
        peers = (self.computers[other].memory for other in self.members if other != node)
        return all(memory.marks.get(node, 0) > image.durable_to for memory in peers)

    def wipe(self, node: NodeId) -> None:
        """The disk of a node that is down is lost; the operator makes the node anew with --rejoin."""
        computer = self.computers[node]
        assert computer.process is None
        self.world.note("cluster", f"wipe the disk of node {node}")
        computer.disk.wipe()
        computer.memory = DiskMemory()
        computer.incarnation = self._fresh_incarnation()
        computer.boot = 0
        computer.recovering = True
        computer.doubted += 1
        self.count("wiped_disks")

    def begin_anew(self, node: NodeId) -> None:
        """Every segment is gone: what the data folder then does at the next start."""
        computer = self.computers[node]
        computer.disk.wipe()
        computer.incarnation = self._fresh_incarnation()
        computer.recovering = True

    def put_back(self, node: NodeId, image: Image) -> None:
        """Somebody puts an older copy of the disk back."""
        computer = self.computers[node]
        assert computer.process is None
        self.world.note("cluster", f"put an old disk back into node {node}")
        computer.disk.put_back(image.segments, image.snapshots, image.freed)
        if image.incarnation != computer.incarnation:  # it had been replaced by an empty one
            self.count("replaced_disks_back")
            computer.incarnation, computer.recovering = image.incarnation, image.recovering
            computer.doubted += 1
        elif image.memory.lacks(computer.memory):
            computer.doubted += 1
        computer.memory = image.memory.copy()
        computer.boot, computer.noted_kernel, computer.memory_lost = image.boot, image.noted_kernel, image.memory_lost
        self.forget(node)
        self.ledger.forget_unheard(node, computer.memory)
        self.count("old_disks")
        if image.starts != self._starts(node):
            self.count("old_disks_behind_restarts")

    # ---- the end

    def replicas_equal(self) -> bool:
        """Every node runs, and votes in memory groups, and every group has the same prefix and state everywhere."""
        processes = [self.process_of(node) for node in self.members]
        if any(p is None or p.paused for p in processes):
            return False
        acceptors = [g.replica.acceptor for p in processes if p is not None for g in p.node.groups]
        if not all(acceptor.voting for acceptor in acceptors if acceptor.lazy):
            return False  # the operator may yet start a node anew
        first, *others = (p.node.groups for p in processes if p is not None)
        return all(
            mine.replica.prefix == theirs.replica.prefix and mine.machine.digest == theirs.machine.digest
            for other in others
            for mine, theirs in zip(first, other, strict=True)
        )

    def rest_compaction(self) -> bool:
        """Have no node begin to compact any more; whether none is about to. Left alone it may go on for long: clocks
        that went back hold log time, and so the time of tombstones, and a small memory for keys takes many passes."""
        rests = True
        for node in self.members:
            process = self.process_of(node)
            if process is None:
                return False
            process.node.options = replace(process.node.options, compaction_interval_s=NEVER_S)
            compaction = process.node.snapshots.compaction
            rests = rests and not compaction.busy and compaction.look_at - process.node.clock.now() > NEVER_S / 2
        return rests

    def compare_states(self) -> None:
        """What replicas hold is the same to the last producer; the digest tells only of values and outcomes."""
        for group in range(self.options.groups + self.options.memory_groups):
            prints = {}
            for node in self.members:
                process = self.process_of(node)
                if process is not None:
                    machine = process.node.groups[group].machine
                    prints[node] = (machine.applied, fingerprint(machine))
            if len(set(prints.values())) > 1:
                self.ledger.violate("diverged", f"states of group {group} differ: {prints}")

    def describe(self) -> list[str]:
        """One line per node and group: for the transcript of a failure."""
        lines: list[str] = []
        for node in self.members:
            process = self.process_of(node)
            if process is None:
                lines.append(f"node {node}: down")
                continue
            for group in process.node.groups:
                r = group.replica
                ballot = f"{r.ballot >> 16}.{r.ballot & 0xFFFF}"
                state = f"{r.role} leader {r.leader} ballot {ballot} prefix {r.prefix} open {r.open_slots}"
                lines.append(f"node {node} group {group.id}: {state}{' paused' if process.paused else ''}")
        return lines
