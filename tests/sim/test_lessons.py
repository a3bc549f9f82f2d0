"""What seeds have taught, as small tests: a seed changes its meaning with the simulator, these do not."""

from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest

from corgi.base.command import Buffer, CommandKind, encode_command, encode_value
from corgi.base.ids import Ballot, GroupId, NodeId, Position, Slot, make_ballot, make_origin, next_boot, origin_boot
from corgi.base.ports import Hole, LogRecord, RecordKind
from corgi.broker.amnesia import A_HOLE
from corgi.broker.detector import Detector
from corgi.broker.identity import Identity
from corgi.broker.node import Node
from corgi.broker.node_records import NodeRecord
from corgi.broker.options import NodeOptions
from corgi.log.record import NO_GROUP
from corgi.paxos.leader import Candidate
from corgi.paxos.messages import (
    Accept,
    Accepted,
    Commit,
    Handover,
    Heartbeat,
    Lead,
    LeaderLives,
    Learned,
    Promise,
    Recall,
    Remembered,
)
from corgi.paxos.quorum import Members
from corgi.paxos.replica import Replica
from corgi.sim.cluster import Cluster, ClusterOptions
from corgi.sim.world import SimClock, World

ME, LEADER, OTHER = NodeId(1), NodeId(2), NodeId(3)
G = GroupId(0)
OLD, NEW = make_ballot(1, LEADER), make_ballot(2, OTHER)
CHOSEN, REJECTED, EPOCH = (encode_value(number, []) for number in (1, 2, 3))


class Host:
    """The node around one replica: keeps what it is asked to do, and believes everybody."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.sent: list[Any] = []
        self.values: dict[Slot, Buffer] = {}

    def now(self) -> float:
        return 1.0

    def persist(self, record: LogRecord) -> None:
        self.records.append(record)

    def send(self, peer: NodeId, message: Any, payload: Buffer = b"") -> None:
        self.sent.append(message)

    def chosen(self, group: GroupId, slot: Slot, value: Buffer) -> None:
        self.values[slot] = value

    def may_lead(self, group: GroupId) -> bool:
        return True

    def may_copy(self) -> bool:
        return True

    def may_learn(self, value: Buffer) -> bool:
        return True

    def jitter(self) -> float:
        return 0.5

    def epoch_value(self, group: GroupId, ballot: Ballot) -> bytes:
        return EPOCH

    def in_memory(self, group: GroupId, slot: Slot) -> Buffer | None:
        return self.values.get(slot)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def replica(host: Host) -> Replica:
    return Replica(G, ME, Members((ME, LEADER, OTHER)), host)


def test_a_segment_claims_only_a_prefix_whose_values_lie_before_it(replica: Replica, host: Host) -> None:
    replica.on_accept(LEADER, Accept(G, OLD, Slot(1), Slot(0)), CHOSEN)
    replica.on_accept(LEADER, Accept(G, OLD, Slot(2), Slot(1)), CHOSEN)
    assert replica.prefix == 1
    assert replica.state_record().slot == 0, "both votes still wait for their place in the log"
    for record in host.records:
        replica.durable(record)
    assert replica.state_record().slot == 1, "the second vote told of the first one's choice"


def test_no_vote_against_what_is_chosen(replica: Replica, host: Host) -> None:
    """A leader that was cut off proposes in a slot that a higher ballot has chosen since, without this node."""
    replica.learner.choose(Slot(1), CHOSEN)
    replica.on_accept(LEADER, Accept(G, OLD, Slot(1), Slot(0)), REJECTED)
    assert host.records == []
    assert not [message for message in host.sent if isinstance(message, Accepted)]
    replica.on_accept(OTHER, Accept(G, NEW, Slot(1), Slot(0)), CHOSEN)
    assert [record.slot for record in host.records] == [1], "the same value may have a vote"


def test_a_leader_that_learns_another_value_than_it_proposed_leads_no_more(replica: Replica, host: Host) -> None:
    """Its commit index would make followers choose what they had voted for in its ballot."""
    replica.on_handover(LEADER, Handover(G, Ballot(0)))
    ballot = replica.acceptor.promised
    replica.durable(host.records.pop())
    replica.on_promise(LEADER, Promise(G, ballot, Slot(0), ()), memoryview(b""))
    assert replica.tenure is not None
    replica.propose(REJECTED)
    assert replica.tenure.next_slot == 3
    host.sent.clear()
    learned = Learned(G, Slot(1), (len(EPOCH), len(CHOSEN)), Slot(2))
    replica.on_learned(OTHER, learned, memoryview(EPOCH + CHOSEN))
    replica.send_commit()
    assert replica.prefix == 2
    assert replica.tenure is None
    assert not [message for message in host.sent if isinstance(message, Commit)]


def test_a_leader_is_believed_in_the_ballot_in_which_it_lives(replica: Replica, host: Host) -> None:
    """Forwards named the higher ballot of a leader that was gone; the living one refused them for ever."""
    replica.heard_of(OTHER, NEW, Slot(0), lives=True)
    assert (replica.leader, replica.ballot) == (OTHER, NEW)
    replica.prepare_anew()
    replica.peer_lost(OTHER)
    replica.candidate = Candidate(make_ballot(3, ME), Slot(1), replica.members, forced=False, now=1.0)
    replica.on_leader_lives(LEADER, LeaderLives(G, make_ballot(3, ME), OLD, Slot(0)))
    assert (replica.leader, replica.ballot) == (LEADER, OLD)


@pytest.mark.parametrize("lives", [True, False])
def test_a_leader_that_hears_of_a_higher_ballot_leads_no_more(replica: Replica, host: Host, lives: bool) -> None:
    """Who follows a higher ballot would refuse its Accepts; without writes nobody would have told it so."""
    replica.on_handover(LEADER, Handover(G, Ballot(0)))
    replica.durable(host.records.pop())
    replica.on_promise(LEADER, Promise(G, replica.acceptor.promised, Slot(0), ()), memoryview(b""))
    assert replica.tenure is not None
    higher = make_ballot(9, OTHER)
    replica.heard_of(LEADER, higher, Slot(0), lives=lives)
    assert replica.tenure is None
    assert (replica.takeover.at is None) == lives, "it prepares anew unless that leader lives"
    if lives:
        assert (replica.leader, replica.relay) == (OTHER, LEADER)


def test_a_leader_that_learns_what_it_proposed_goes_on_with_the_slots_behind(replica: Replica, host: Host) -> None:
    """They may have their majority already: nobody would tell of them again."""
    replica.on_handover(LEADER, Handover(G, Ballot(0)))
    ballot = replica.acceptor.promised
    replica.durable(host.records.pop())
    replica.on_promise(LEADER, Promise(G, ballot, Slot(0), ((Slot(1), OLD, len(CHOSEN)),)), memoryview(CHOSEN))
    for record in host.records:
        replica.durable(record)
    replica.on_accepted(OTHER, Accepted(G, ballot, Slot(2)))
    assert replica.prefix == 0, "the first slot lacks a vote"
    replica.on_learned(OTHER, Learned(G, Slot(1), (len(CHOSEN),), Slot(1)), memoryview(CHOSEN))
    assert replica.prefix == 2
    assert replica.leading


class Clock:
    def __init__(self) -> None:
        self.time = 10.0

    def now(self) -> float:
        return self.time

    def wall_ms(self) -> int:
        return 1_000_000


def told(detector: Detector, peer: NodeId, ballot: Ballot = OLD, skew_ms: int = 0) -> None:
    detector.connected(peer)
    detector.beat(peer, Heartbeat(1, 0, 1_000_000 + skew_ms, 0, (Lead(G, ballot, Slot(0), 1),)))


def test_a_leader_whose_heartbeats_tell_of_a_lower_ballot_has_forgotten_that_it_led() -> None:
    clock = Clock()
    detector = Detector(ME, (ME, LEADER, OTHER), 0.15, clock)
    higher = make_ballot(9, LEADER)
    told(detector, LEADER)
    assert detector.leader_age_ms(G, higher, self_leads=False, heard_at=clock.time) >= 0, "it may just have won"
    assert detector.leader_age_ms(G, higher, self_leads=False, heard_at=clock.time - 1.0) == -1
    assert detector.leader_age_ms(G, higher, self_leads=False, heard_at=float("-inf")) == -1


@pytest.mark.parametrize("offsets_ms", [(0, 60_000), (0, -40_000, 60_000), (0, 20_000, 40_000, 60_000, 80_000)])
def test_somebody_is_trusted_to_lead_however_far_the_clocks_are_apart(offsets_ms: tuple[int, ...]) -> None:
    trusted = []
    for mine in offsets_ms:
        nodes = tuple(NodeId(number) for number in range(1, len(offsets_ms) + 1))
        detector = Detector(ME, nodes, 0.15, Clock())
        others = [offset for offset in offsets_ms if offset != mine]
        for node, offset in zip(nodes[1:], others, strict=True):
            told(detector, node, skew_ms=offset - mine)
        if detector.clock_trusted():
            trusted.append(mine)
    assert len(trusted) == 1


class LoneNode:
    """What an identity sees of its node while the log is read."""

    class options:  # noqa: N801 - an attribute of the node
        members = (ME, LEADER, OTHER)
        node = ME
        groups = all_groups = 1
        recovering = False
        incarnation = bytes(16)
        memory_lost = ""

    groups: tuple[Any, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def test_the_last_record_about_itself_tells_a_node_whether_it_is_in_doubt() -> None:
    identity = Identity(LoneNode())  # type: ignore[arg-type]
    for doubt in (True, False):
        body = msgspec.msgpack.encode(NodeRecord(0, bytes(16), recovering=doubt))
        identity.recover(LogRecord(RecordKind.NODE, NO_GROUP, Ballot(0), Slot(0), Slot(0), body))
    identity.start()
    assert identity.state == "asking"


def test_a_node_that_asks_again_tells_what_its_disk_held_at_the_start() -> None:
    """What it is told of meanwhile makes its log longer: an old disk would look as if it had forgotten nothing."""
    node = LoneNode()
    sent: list[Recall] = []
    node.network = SimpleNamespace(send=lambda _peer, message: sent.append(message))  # type: ignore[attr-defined]
    node.durable_to = 100  # type: ignore[attr-defined]
    identity = Identity(node)  # type: ignore[arg-type]
    identity.start()
    identity.peer_connected(LEADER)
    node.durable_to = 500  # type: ignore[attr-defined]
    identity.peer_connected(LEADER)
    assert [message.durable_to for message in sent] == [100, 100]


@pytest.mark.parametrize("doubtful", [(ME,), (ME, LEADER), (ME, LEADER, OTHER)])
def test_a_leader_in_doubt_has_recovered_by_its_own_ballot(doubtful: tuple[NodeId, ...]) -> None:
    """Also when the others were a majority without it: they follow it, so nobody can tell it of another ballot."""
    members, nonce, epoch = Members((ME, LEADER, OTHER)), 77, Slot(5)
    candidate = Candidate(make_ballot(3, ME), epoch, members, forced=False, now=0.0)
    candidate.own_promise(ME, Slot(4), {}, lossy=nonce)
    for node in (LEADER, OTHER):
        told = Promise(GroupId(0), candidate.ballot, Slot(4), (), lossy=88 if node in doubtful else 0)
        candidate.on_promise(node, told, memoryview(b""))
    assert candidate.has_quorum()
    tenure = candidate.won(epoch)
    tenure.epoch_slot = epoch
    acceptor = SimpleNamespace(voting=False, lazy=True, lossy=nonce, promised=candidate.ballot)
    replica = SimpleNamespace(acceptor=acceptor, tenure=tenure, prefix=epoch)
    node = LoneNode()
    node.options = SimpleNamespace(  # type: ignore[misc, assignment]
        members=members.nodes, node=ME, groups=0, all_groups=1, recovering=False, incarnation=bytes(16),
        memory_lost="x", accept_lost_memory=True,
    )  # fmt: skip
    node.wal = SimpleNamespace(append=lambda _: None)  # type: ignore[attr-defined]
    node.random = SimpleNamespace(getrandbits=lambda _: nonce)  # type: ignore[attr-defined]
    node.groups = (SimpleNamespace(id=GroupId(0), replica=replica),)
    identity = Identity(node)  # type: ignore[arg-type]
    identity.state = "voting"
    identity.amnesia.doubt("the computer lost its power")
    assert identity.recovers(GroupId(0))
    identity.on_remembered(LEADER, Remembered(True, "", (Ballot(0),)))
    assert not identity.recovers(GroupId(0))
    assert acceptor.voting


BEGUN, REPEATED, ENDED, HOLE, NAMED = "begun", "repeated", "ended", "hole", "named"


@pytest.mark.parametrize(
    ("log", "doubted"),
    [
        ([HOLE, BEGUN, ENDED], False),
        ([HOLE, BEGUN, REPEATED, ENDED], False),
        ([HOLE, BEGUN, HOLE, ENDED], True),
        ([HOLE, BEGUN, HOLE, REPEATED, ENDED], True),  # told again at the start of a segment
        ([HOLE, BEGUN, HOLE, BEGUN, ENDED], False),
        ([HOLE, BEGUN, ENDED, HOLE], True),
        ([HOLE, ENDED], True),
        ([BEGUN, ENDED], False),
        ([BEGUN], True),
    ],
)
def test_a_recovery_makes_up_for_holes_before_its_beginning(log: list[str], doubted: bool) -> None:
    """A group votes as soon as it has recovered: its votes lay in a hole before the end of the whole recovery."""
    identity = Identity(LoneNode())  # type: ignore[arg-type]
    for what in log:
        if what is HOLE:
            identity.recover_hole(Hole(1, 4096, 8192, "nothing can be read"))
            continue
        told = NodeRecord(0, bytes(16), recovering=what is not ENDED, repeated=what is REPEATED)
        body = msgspec.msgpack.encode(told)
        identity.recover(LogRecord(RecordKind.NODE, NO_GROUP, Ballot(0), Slot(0), Slot(0), body))
    assert bool(identity._doubted) == doubted


class MemoryNode(LoneNode):
    """One group of either kind; the computer has lost its power, and named that."""

    class options(LoneNode.options):  # noqa: N801
        all_groups = 2
        memory_lost = "the loss"

    def __init__(self) -> None:
        self.groups = (_Member(), _Member())


class _Member:
    class replica:  # noqa: N801
        class learner:  # noqa: N801
            recover_hole = staticmethod(lambda alone=False: None)

        class acceptor:  # noqa: N801
            lazy = False


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize(
    ("log", "doubted", "settled"),
    [
        ([HOLE, BEGUN, ENDED], False, False),
        ([HOLE, BEGUN, REPEATED, ENDED], False, False),
        ([HOLE, BEGUN, HOLE, ENDED], True, False),
        ([HOLE, BEGUN, HOLE, REPEATED, ENDED], True, False),
        ([HOLE, BEGUN, HOLE, BEGUN, ENDED], False, False),
        ([HOLE, BEGUN, ENDED, HOLE], True, False),
        ([HOLE, ENDED], True, False),
        ([BEGUN], True, False),
        ([BEGUN, NAMED], False, True),
        ([NAMED, BEGUN], True, True),
        ([BEGUN, NAMED, HOLE], True, True),
        ([], False, False),
    ],
)
def test_a_lazy_hole_puts_memory_groups_in_doubt_until_they_have_recovered(
    log: list[str], doubted: bool, settled: bool, lazy: bool
) -> None:
    """They alone; and a power loss, which the log does not tell, is settled only by a recovery of its own name."""
    identity = Identity(MemoryNode())  # type: ignore[arg-type]
    for what in log:
        if what is HOLE:
            identity.recover_hole(Hole(1, 4096, 8192, "nothing can be read", lazy=lazy))
            continue
        name = "the loss" if what is NAMED else A_HOLE
        told = NodeRecord(0, bytes(16), recovering=what in (BEGUN, REPEATED), repeated=what is REPEATED, memory=name)
        body = msgspec.msgpack.encode(told)
        identity.recover(LogRecord(RecordKind.NODE, NO_GROUP, Ballot(0), Slot(0), Slot(0), body))
    assert bool(identity.amnesia.reason) == doubted
    assert identity.amnesia._settled == settled
    assert bool(identity._doubted) == (HOLE in log and not lazy)


def test_a_node_that_restarted_still_objects_to_an_old_disk_of_a_peer() -> None:
    """Twice the same old disk came back: the peer that knew better had restarted meanwhile."""
    appended: list[LogRecord] = []
    answers: list[Remembered] = []

    class Node:
        class options:  # noqa: N801 - an attribute of the node
            members = (ME, LEADER)
            node = ME
            groups = all_groups = 1
            recovering = False
            memory_lost = ""

        class wal:  # noqa: N801
            append = staticmethod(appended.append)

        class network:  # noqa: N801
            @staticmethod
            def send(_: NodeId, message: Remembered) -> None:
                answers.append(message)

        clock = Clock()
        groups = ()
        incarnations: ClassVar[dict[NodeId, bytes]] = {}

    def life() -> Identity:
        identity = Identity(Node())  # type: ignore[arg-type]
        for record in appended:
            identity.recover(record)
        return identity

    def asked(identity: Identity, durable_to: int) -> bool:
        identity.on_recall(LEADER, Recall(b"disk", ((G, OLD, Slot(1)),), durable_to))
        return answers[-1].trusted

    first = life()
    assert asked(first, 100)
    first.memories.beaten(LEADER, 5_000)
    first.memories.beaten(LEADER, 6_000)
    assert len(appended) == 2, "its identity, and one mark a second"
    assert not asked(life(), 4_000)
    assert asked(life(), 5_500), "younger than the mark: nobody can tell"


def test_a_process_that_was_stopped_writes_what_waited_when_it_goes_on() -> None:
    """Its disk finished meanwhile; the simulator waited for another append, which a full window never made."""
    world = World(1)
    cluster = Cluster(world, ClusterOptions(nodes=1))
    cluster.start(ME)
    world.run(0.5)
    process = cluster.process_of(ME)
    assert process is not None
    journal = process.wal.journal
    assert journal is not None
    mark = msgspec.msgpack.encode(NodeRecord(0, bytes(16)))
    for _ in range(2):  # the first is being written, the second waits
        process.wal.append(LogRecord(RecordKind.NODE, NO_GROUP, Ballot(0), Slot(0), Slot(0), mark))
        process.wal.turn_ended()
    assert journal.pending
    cluster.pause(ME)
    world.run(1.0)
    assert journal.pending
    cluster.resume(ME)
    world.run(1.5)
    assert not journal.pending


def lone_node(boot: int, chance: int = 1) -> Node:
    """A node that nobody hears."""
    world = World(chance)
    options = NodeOptions(node=ME, cluster=bytes(16), incarnation=bytes(16), boot=boot, members=(ME, LEADER), groups=1)
    ports = LoneNode()
    return Node(options, SimClock(world), world.stream("node"), ports, ports)  # type: ignore[arg-type]


def of_earlier_life(boot: int) -> bytes:
    """A value with a command of this node."""
    return encode_value(1, [encode_command(CommandKind.BARRIER, make_origin(ME, boot), 1, 1, b"")])


def test_two_lives_that_go_on_above_the_same_one_do_not_take_the_same_number() -> None:
    """The second of two wiped disks issued command ids of the first, and a delete was answered without being done."""
    lives = [lone_node(100, chance) for chance in (1, 2)]
    for node in lives:
        node.start()
        node.chosen(G, Slot(1), of_earlier_life(900))
    first, second = (origin_boot(node.origin) for node in lives)
    assert first != second
    assert min(first, second) > 900


@pytest.mark.parametrize(("seen", "goes_on_above"), [(100, True), (101, True), (99, False)])
def test_a_life_whose_number_was_used_before_takes_another(seen: int, goes_on_above: bool) -> None:
    node = lone_node(100)
    node.recover(LogRecord(RecordKind.LEARNED, G, Ballot(0), Slot(1), Slot(0), of_earlier_life(seen)))
    node.start()
    assert node.groups[0].machine.applied == 1
    assert (origin_boot(node.origin) > max(seen, 100)) == goes_on_above


def test_a_boot_number_is_above_the_last_one_and_above_those_of_a_lost_disk() -> None:
    assert next_boot(0, 1_700_000_000_000, Random(1)) == 1_700_000_000_000
    assert next_boot(1_700_000_000_005, 1_700_000_000_000, Random(1)) > 1_700_000_000_005


def test_two_starts_from_the_same_disk_with_the_clock_behind_do_not_take_the_same_number() -> None:
    """The second answered a batch with the place of another, which the first had stored: it was told stored, lost."""
    world = World(1)
    cluster = Cluster(world, ClusterOptions(nodes=1))
    computer = cluster.computers[ME]
    cluster.start(ME)
    computer.clock.jump(-60_000)
    world.run(0.1)
    image = cluster.image(ME)
    boots = [computer.boot]
    for _ in range(2):
        cluster.kill(ME)
        cluster.put_back(ME, image)
        cluster.start(ME)
        boots.append(computer.boot)
        world.run(world.now + 0.1)
    assert len(set(boots)) == 3
    assert min(boots) == boots[0]


@pytest.mark.parametrize("deaf", [True, False])
def test_a_leader_that_is_half_cut_off_is_succeeded(deaf: bool) -> None:
    """It hears nobody, and its heartbeats still arrive, telling how long ago it had a majority; or the other way round.

    Nobody waits for the end of the partition: 400 ms after it began another node leads.
    """
    world = World(1)
    cluster = Cluster(world, ClusterOptions(nodes=3, groups=1))
    cluster.start_all()
    world.run(2.0)

    def leaders() -> set[NodeId]:
        processes = [cluster.process_of(node) for node in cluster.members]
        return {p.id for p in processes if p is not None and p.node.groups[G].replica.leading}

    (leader,) = leaders()
    for other in cluster.members:
        if other != leader:
            cluster.network.block(*((other, leader) if deaf else (leader, other)))
    world.run(2.4)
    assert leaders() - {leader}


@pytest.mark.parametrize("kind", [RecordKind.STORE, RecordKind.LEARNED])
def test_a_place_that_only_the_log_tells_is_told_by_the_next_snapshot(kind: RecordKind) -> None:
    """A group at rest: its node was started anew, found there where values had been moved to, and kept the snapshot
    with their old places for a scan that began behind those records."""
    node = lone_node(boot=1)
    node.values.space.segment_bytes = 64 * 1024
    node.values.begin_from(GroupId(0), Slot(9), [])
    node.values.covered[GroupId(0)] = node.groups[0].replica.learner.prefix = Slot(9)
    node.groups[0].slots.put(Slot(3), Position(4096), 5)
    node.groups[0].slots.hold(Slot(3), 1)
    record = LogRecord(kind, GroupId(0), Ballot(0), Slot(3), Slot(0), b"value")
    record.position = Position(70_000)
    assert not node.snapshots._moved[0]
    node.recover(record)
    assert node.groups[0].slots.position(Slot(3)) == 70_000
    assert node.snapshots._moved[0], "the next one is written anew"
