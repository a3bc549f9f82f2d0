"""What is kept of a log and what is let go, on whole simulated nodes: segments are freed, laggards catch up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, NodeId, Offset, Position, Slot, TopicId
from corgi.base.limits import KIB
from corgi.base.ports import SnapshotName
from corgi.base.records import encode_batch
from corgi.broker import installs
from corgi.broker.group import Group
from corgi.broker.installs import ASK_AGAIN_S, Installs
from corgi.paxos.messages import AskSnapshot, SnapshotPart
from corgi.sim.cluster import Cluster, ClusterOptions
from corgi.sim.snapshots import SimSnapshots
from corgi.sim.world import World
from corgi.state.commands import encode_log_start
from corgi.state.fingerprint import fingerprint
from corgi.state.index import PartitionLog
from corgi.state.outcomes import Outcome
from corgi.wire.messages import CreateTopic

GROUPS = 8
BUSY = GroupId(3)
TOPIC = TopicId(16)
WALL_MS = 1_700_000_000_000  # at the beginning of a world
KEPT = 40  # batches that a log start leaves


class Scene:
    """Three nodes and a topic with one partition in the busy group."""

    def __init__(self, seed: int = 1, config: dict[str, str] | None = None, far_slots: int = 4096) -> None:
        self.world = World(seed)
        options = ClusterOptions(
            nodes=3,
            groups=GROUPS,
            segment_bytes=64 * KIB,
            tail_bytes_max=16 * KIB,
            snapshot_segments=1,
            far_slots=far_slots,
        )
        self.cluster = Cluster(self.world, options)
        self.cluster.start_all()
        self.run(1.0)
        done: list[int] = []
        requests = self.cluster.process_of(NodeId(1)).node.requests
        message = CreateTopic("busy", 1, config or {}, anchor=BUSY)
        self.call(1, lambda: requests.administration.create(message, lambda error, *_: done.append(error)))
        self.until(lambda: bool(done))
        assert done == [0]
        self.number = 0

    def run(self, seconds: float) -> None:
        assert not self.world.run(self.world.now + seconds), self.cluster.ledger.violations

    def until(self, done: Callable[[], bool], limit: float = 20.0) -> None:
        end = self.world.now + limit
        while not done():
            assert self.world.now < end, self.cluster.describe()
            self.run(0.02)

    def call(self, node: int, call: Callable[[], None]) -> None:
        process = self.cluster.process_of(NodeId(node))
        assert process is not None
        process.call(call)

    def submit(self, node: int, group: GroupId, kind: CommandKind, body: bytes) -> None:
        """Have a command applied, however often it takes."""
        outcomes: list[Outcome] = []
        process = self.cluster.process_of(NodeId(node))
        assert process is not None
        self.call(node, lambda: process.node.submit(group, kind, body, outcomes.append, timeout_s=10.0))
        self.until(lambda: bool(outcomes))
        assert outcomes[0].error == 0

    def write(self, node: int, batches: int, *, trim: bool) -> None:
        """Batches of 2 KiB into the busy group, and log starts behind them."""
        for _ in range(batches):
            self.number += 1
            batch = encode_batch(
                [(None, self.number.to_bytes(4, "big") * 512, (), WALL_MS + int(self.world.now * 1000))]
            )
            self.submit(node, BUSY, CommandKind.DATA, encode_data([(TOPIC, 0, batch)]))
            if trim and self.number % 20 == 0 and self.number > KEPT:
                body = encode_log_start([(TOPIC, 0, Offset(self.number - KEPT))])
                self.submit(node, BUSY, CommandKind.LOG_START, body)

    def log(self, node: int) -> PartitionLog:
        process = self.cluster.process_of(NodeId(node))
        assert process is not None
        return process.node.groups[BUSY].machine.partitions[TOPIC, 0]

    def missing(self, node: int) -> int:
        process = self.cluster.process_of(NodeId(node))
        assert process is not None
        return sum(group.slots.missing for group in process.node.groups)

    def equal(self) -> bool:
        return self.cluster.replicas_equal()

    def prints(self) -> list[set[str]]:
        nodes = [self.cluster.process_of(node).node for node in self.cluster.members]
        return [{fingerprint(node.groups[group].machine) for node in nodes} for group in range(GROUPS)]

    def stored(self, node: int) -> list[int]:
        """The numbers in the values that the index of the node names."""
        return [int.from_bytes(batch[-5:-1], "big") for batch in self.read(node, self.log(node))]

    def read(self, node: int, log: PartitionLog) -> list[bytes]:
        """Every batch of a partition, from the node's disk or memory."""
        process = self.cluster.process_of(NodeId(node))
        assert process is not None
        found: dict[Offset, bytes] = {}
        for i in range(log.count):
            entry = log.entry(i)

            def read(value: object, entry: object = entry) -> None:
                assert isinstance(value, bytes | memoryview), value
                found[entry.base_offset] = bytes(value[entry.at : entry.at + entry.length])

            value = process.node.values.read(BUSY, entry.slot, read)
            if value is not None:
                read(value)
        self.until(lambda: len(found) == log.count)
        return [found[offset] for offset in sorted(found)]


def test_one_busy_and_seven_idle_groups() -> None:
    """Idle groups pin no segment, and forget neither promise nor vote: the onlooker looks after each restart."""
    scene = Scene()
    scene.write(1, 300, trim=True)
    scene.run(1.0)
    for node in scene.cluster.members:
        disk = scene.cluster.computers[node].disk
        assert min(disk.segments) > 3, "the first segments are gone, what lived in them was moved"
        assert len(disk.segments) <= 8
        assert len(disk.snapshots) == GROUPS
    assert scene.cluster.coverage["snapshots"] == 0, "counted when a process ends"
    for node in scene.cluster.members:
        scene.cluster.kill(node)
        scene.run(0.5)
        scene.cluster.start(node)
        scene.until(scene.equal)
    assert scene.cluster.coverage["snapshots_anchored"] > 0
    assert all(len(prints) == 1 for prints in scene.prints())
    assert scene.stored(1) == scene.stored(2) == scene.stored(3)
    assert scene.stored(1)[-1] == 300


def test_a_node_that_was_away_catches_up_by_snapshot() -> None:
    scene = Scene()
    scene.write(1, 50, trim=False)
    scene.cluster.kill(NodeId(3))
    scene.write(1, 300, trim=True)
    assert not any({2, 3} & set(scene.cluster.computers[NodeId(node)].disk.segments) for node in (1, 2))
    scene.cluster.start(NodeId(3))
    scene.until(scene.equal)
    assert scene.log(3).start > 0
    scene.until(lambda: not scene.missing(3))
    assert scene.stored(3) == scene.stored(1)
    assert all(len(prints) == 1 for prints in scene.prints())
    scene.write(2, 30, trim=True)
    scene.cluster.kill(NodeId(3))
    assert scene.cluster.coverage["snapshot_installs"] >= 1
    scene.cluster.start(NodeId(3))
    scene.until(scene.equal)
    assert scene.stored(3) == scene.stored(1)


def test_what_was_fetched_is_found_again() -> None:
    """Also when the snapshot of an idle group is only named anew: the places of fetched values must outlast it."""
    scene = Scene()
    scene.cluster.kill(NodeId(3))
    scene.write(1, 300, trim=True)
    scene.cluster.start(NodeId(3))
    scene.until(lambda: scene.missing(3) > 0)
    scene.until(lambda: not scene.missing(3))
    for batches in (0, 200):
        scene.write(2, batches, trim=True)
        scene.cluster.kill(NodeId(3))
        scene.run(0.2)
        scene.cluster.start(NodeId(3))
        scene.until(scene.equal)
        scene.run(1.0)
        assert scene.missing(3) == 0
        process = scene.cluster.process_of(NodeId(3))
        assert process is not None
        assert "repaired_values" not in process.node.counters, "nothing had to be fetched again"
    assert scene.stored(3) == scene.stored(1)


def test_what_replaces_a_lost_segment_is_found_again() -> None:
    """The snapshot still tells the old places; only the log tells where the fetched values lie. They were asked for
    again after each restart, and were gone when the peers had lost theirs meanwhile."""
    scene = Scene()
    scene.write(1, 200, trim=False)
    node = scene.cluster.process_of(NodeId(3)).node
    first = node.snapshots.first_segment(BUSY)
    covered = node.values.covered[BUSY]
    positions = [node.groups[BUSY].slots.position(Slot(slot)) for slot in range(1, covered + 1)]
    old = [position // node.values.space.segment_bytes for position in positions if position >= 0]
    lost = min(segment for segment in old if segment < first)
    scene.cluster.kill(NodeId(3))
    del scene.cluster.computers[NodeId(3)].disk.segments[lost]
    scene.cluster.start(NodeId(3))
    scene.until(lambda: scene.cluster.process_of(NodeId(3)).node.counters.get("repaired_values", 0) > 5)
    for life in range(3):
        scene.run(1.0 if life else 0.05)
        scene.until(lambda: scene.equal() and not scene.missing(3))
        node = scene.cluster.process_of(NodeId(3)).node
        assert not node.repairs.wanted
        assert ("repaired_values" in node.counters) == (life == 0), "nothing has to be fetched twice"
        scene.cluster.kill(NodeId(3))
        scene.run(0.2)
        scene.cluster.start(NodeId(3))
    scene.until(lambda: scene.equal() and not scene.missing(3))
    assert scene.stored(3) == scene.stored(1)


def test_a_node_that_dies_before_its_values_have_come_goes_on_fetching() -> None:
    scene = Scene()
    scene.cluster.kill(NodeId(3))
    scene.write(1, 300, trim=True)
    scene.cluster.start(NodeId(3))
    scene.until(lambda: scene.missing(3) > 0)
    scene.cluster.kill(NodeId(3))
    scene.run(0.2)
    scene.cluster.start(NodeId(3))
    assert scene.log(3).count > 0, "the snapshot was durable before it counted"
    scene.until(lambda: scene.equal() and not scene.missing(3))
    assert scene.stored(3) == scene.stored(1)


def test_a_wiped_node_gets_the_state_and_the_values() -> None:
    scene = Scene()
    scene.write(1, 200, trim=True)
    scene.cluster.kill(NodeId(2))
    scene.cluster.wipe(NodeId(2))
    scene.cluster.start(NodeId(2))
    scene.until(lambda: scene.equal() and not scene.missing(2))
    assert scene.stored(2) == scene.stored(1)


def test_who_lags_far_takes_a_snapshot_instead_of_the_values() -> None:
    """All of them could be told: a node that lags that far would learn and apply each of them before it votes."""
    scene = Scene(far_slots=50)
    scene.write(1, 200, trim=False)
    scene.cluster.kill(NodeId(2))
    scene.cluster.wipe(NodeId(2))
    scene.cluster.start(NodeId(2))
    scene.until(scene.equal)
    counters = scene.cluster.process_of(NodeId(2)).node.counters
    assert counters["snapshot_installs"] == 1
    assert counters["learned_slots"] < 100
    scene.until(lambda: not scene.missing(2))
    assert scene.stored(2) == scene.stored(1) == list(range(1, 201))
    assert all(len(prints) == 1 for prints in scene.prints())


class _Parts:
    """The parts of snapshots that node 2 gets come as ``come`` has them, and what it asks for is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, come: Callable[[int, Callable[[], None]], None]) -> None:
        self.asked: Counter[int] = Counter()
        self.came = 0
        on_part, on_ask = Installs.on_part, Installs.on_ask

        def count(installs: Installs, sender: NodeId, message: AskSnapshot, group: Group) -> None:
            self.asked[message.offset] += 1
            on_ask(installs, sender, message, group)

        def take(installs: Installs, sender: NodeId, message: SnapshotPart, payload: memoryview) -> None:
            self.came += 1
            content = bytes(payload)
            come(self.came, lambda: on_part(installs, sender, message, memoryview(content)))

        monkeypatch.setattr(installs, "PART_BYTES", 512)
        monkeypatch.setattr(Installs, "on_ask", count)
        monkeypatch.setattr(Installs, "on_part", take)


def _wiped_and_far(scene: Scene) -> None:
    scene.write(1, 200, trim=False)
    scene.cluster.kill(NodeId(2))
    scene.cluster.wipe(NodeId(2))
    scene.cluster.start(NodeId(2))


def test_parts_of_a_snapshot_may_be_lost_and_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    def come(number: int, deliver: Callable[[], None]) -> None:
        for _ in range((0, 1, 1, 2, 1)[number % 5]):
            deliver()

    scene = Scene(far_slots=50)
    parts = _Parts(monkeypatch, come)
    _wiped_and_far(scene)
    scene.until(scene.equal, limit=60.0)
    assert scene.cluster.process_of(NodeId(2)).node.counters["snapshot_installs"] == 1
    assert parts.asked.total() == parts.came
    assert parts.asked.total() <= len(parts.asked) + parts.came / 5 + 1, "only what was lost is asked for again"


def test_parts_that_come_slowly_are_not_asked_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part takes longer than it is waited for, and each one that is asked for again comes behind the others."""
    scene = Scene(far_slots=50)
    free_at = 0.0

    def come(number: int, deliver: Callable[[], None]) -> None:
        nonlocal free_at
        free_at = max(free_at, scene.world.now) + 1.5 * ASK_AGAIN_S
        scene.world.at(free_at, scene.call, 2, deliver)

    parts = _Parts(monkeypatch, come)
    _wiped_and_far(scene)
    scene.until(scene.equal, limit=200.0)
    assert scene.cluster.process_of(NodeId(2)).node.counters["snapshot_installs"] == 1
    assert len(parts.asked) > 4
    assert max(parts.asked.values()) <= 3, parts.asked


def test_who_cannot_have_a_snapshot_learns_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(
        self: SimSnapshots, name: SnapshotName, offset: int, length: int, done: Callable[[bytes | CorgiError], None]
    ) -> None:
        self._later(lambda: done(CorgiError("disk-failed", "the disk cannot be read here")))

    scene = Scene(far_slots=50)
    scene.write(1, 200, trim=False)
    scene.cluster.kill(NodeId(2))
    scene.cluster.wipe(NodeId(2))
    monkeypatch.setattr(SimSnapshots, "read", unreadable)
    scene.cluster.start(NodeId(2))
    scene.until(scene.equal, limit=60.0)
    assert "snapshot_installs" not in scene.cluster.process_of(NodeId(2)).node.counters
    assert scene.stored(2) == scene.stored(1)


def test_retention_bounds_the_disk() -> None:
    """By size: what is kept is what was asked for, and the disk holds little more."""
    scene = Scene(config={"retention_bytes": str(40 * 2048)})
    scene.write(1, 400, trim=False)
    scene.run(2.0)
    for node in (1, 2, 3):
        log = scene.log(node)
        assert 40 * 2048 - 2200 < log.bytes <= 40 * 2048
        assert log.end == 400
        disk = scene.cluster.computers[NodeId(node)].disk
        assert len(disk.segments) <= 8
    assert scene.stored(2)[-1] == 400


def test_retention_by_age_empties_a_quiet_partition() -> None:
    """Nobody writes any more; the leader's clock is what moves log time."""
    scene = Scene(config={"retention_ms": "4000"})
    scene.write(1, 20, trim=False)
    assert scene.log(2).count == 20
    scene.run(6.0)
    for node in (1, 2, 3):
        assert (scene.log(node).count, scene.log(node).start) == (0, 20)
    scene.write(2, 1, trim=False)
    assert scene.stored(2) == [21]


def test_what_lives_in_sparse_segments_is_moved_and_found_again() -> None:
    """A few lasting batches among many brief ones: the segments go, the batches stay, over restarts and installs."""
    scene = Scene(config={"retention_bytes": str(20 * 2048)})
    done: list[object] = []
    requests = scene.cluster.process_of(NodeId(1)).node.requests
    message = CreateTopic("lasting", 1, {}, anchor=BUSY)
    scene.call(1, lambda: requests.administration.create(message, lambda *told: done.append(told[2].topic)))
    scene.until(lambda: bool(done))
    lasting = done[0]
    for number in range(12):
        batch = encode_batch([(None, b"lasting %d" % number, (), 1)])
        scene.submit(1, BUSY, CommandKind.DATA, encode_data([(lasting, 0, batch)]))
        scene.write(1, 40, trim=False)
    scene.run(3.0)
    for node in (1, 2, 3):
        disk = scene.cluster.computers[NodeId(node)].disk
        assert min(disk.segments) > 5
        assert len(disk.segments) <= 8
    for node in (3, 2, 1):
        scene.cluster.kill(NodeId(node))
        if node == 2:
            scene.cluster.wipe(NodeId(2))
        scene.run(0.3)
        scene.cluster.start(NodeId(node))
        scene.until(lambda: scene.equal() and not any(scene.missing(n) for n in (1, 2, 3)))
    assert scene.cluster.coverage["values_moved"] > 12
    for node in (1, 2, 3):
        log = scene.cluster.process_of(NodeId(node)).node.groups[BUSY].machine.partitions[lasting, 0]
        assert log.count == 12
        found = scene.read(node, log)
        assert [batch.partition(b"lasting ")[2].rstrip(b"\0") for batch in found] == [b"%d" % n for n in range(12)]


def dead_below_the_snapshot(scene: Scene, node: int) -> dict[Slot, Position]:
    """Slots of the busy group that no index names, that a snapshot covers and that still lie in the node's log."""
    held = scene.cluster.process_of(NodeId(node)).node
    slots = held.groups[BUSY].slots
    return {
        Slot(slot): slots.position(Slot(slot))
        for slot in range(1, held.values.covered[BUSY] + 1)
        if not slots.count(Slot(slot)) and held.values.space.holds(slots.position(Slot(slot)))
    }


def test_damage_of_what_nobody_wants_is_missed_by_nobody_and_stops_nobody() -> None:
    """A damaged value that had died below the snapshot was asked for, told as lost and missed for ever. Not asked for,
    it must not seem to be there either: a node that lags waits for it, or for a snapshot."""
    scene = Scene()
    scene.write(1, 30, trim=True)
    prefix = scene.cluster.process_of(NodeId(3)).node.groups[BUSY].replica.prefix
    scene.cluster.kill(NodeId(3))
    scene.write(1, 60, trim=True)
    dead = {node: dead_below_the_snapshot(scene, node) for node in (1, 2)}
    slot = max(set(dead[1]) & set(dead[2]))
    assert slot > prefix, "the third node has yet to learn it"
    for node in (1, 2):
        disk = scene.cluster.computers[NodeId(node)].disk
        segment, offset = divmod(dead[node][slot], disk.segment_bytes)
        disk.segments[segment][offset + 20] ^= 1
        values = scene.cluster.process_of(NodeId(node)).node.values
        values.tail.discard(BUSY, slot)
        scene.call(node, lambda values=values: values.read_here(BUSY, slot, lambda _: None))
    scene.run(0.5)
    for node in (1, 2):
        values = scene.cluster.process_of(NodeId(node)).node.values
        assert not values.tellable(BUSY, slot)
        assert scene.cluster.process_of(NodeId(node)).node.repairs.wanted == 0
    scene.cluster.start(NodeId(3))
    scene.until(lambda: scene.equal() and not scene.missing(3))
    assert scene.stored(3) == scene.stored(1)
    assert scene.cluster.process_of(NodeId(3)).node.counters["snapshot_installs"] >= 1


@pytest.mark.parametrize("restarted", [False, True])
def test_a_vote_that_a_snapshot_overtakes_still_heals_a_peer(restarted: bool) -> None:
    """Two nodes hold a value, one as a vote. That one gets the state by a snapshot, and before the values have followed
    the other's copy is damaged."""
    scene = Scene()
    one = scene.cluster.process_of(NodeId(1)).node
    scene.cluster.kill(NodeId(3))
    scene.write(1, 200, trim=True)
    scene.cluster.kill(NodeId(2))
    offer, one.catch_up.absent = one.catch_up.absent, lambda *_: None
    answer, one.repairs.on_read_slot = one.repairs.on_read_slot, lambda *_: None
    scene.cluster.start(NodeId(3))
    scene.write(1, 100, trim=False)
    three = scene.cluster.process_of(NodeId(3)).node
    votes = three.groups[BUSY].replica.acceptor.votes
    voted = [slot for slot in votes if slot <= one.values.covered[BUSY] and one.groups[BUSY].slots.count(slot)]
    assert len(voted) > 10
    one.catch_up.absent = offer
    scene.until(lambda: three.values.covered[BUSY] >= max(voted))
    lie = {vote.position // three.values.space.segment_bytes for vote in three.values.faulty[BUSY].values()}
    assert min(lie) >= three.snapshots.first_segment(BUSY), "a restart finds them again"
    if restarted:
        scene.cluster.kill(NodeId(3))
        scene.run(0.2)
    for slot in voted[::3]:
        position = one.groups[BUSY].slots.position(slot)
        segment, offset = divmod(position, one.values.space.segment_bytes)
        scene.cluster.computers[NodeId(1)].disk.segments[segment][offset + 40] ^= 1
        one.values.tail.discard(BUSY, slot)
    one.repairs.on_read_slot = answer
    if restarted:
        scene.cluster.start(NodeId(3))
    scene.until(lambda: scene.log(3).end == scene.log(1).end and not scene.missing(3) and not one.repairs.wanted)
    assert scene.stored(1) == scene.stored(3)
    assert scene.stored(3)[-1] == 300
