"""Which damaged values are asked for, and which are missed no more."""

from __future__ import annotations

import pytest

from corgi.base.command import CommandKind, encode_value
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Position, Slot
from corgi.base.limits import KIB
from corgi.base.ports import SnapshotName
from corgi.broker.repair import ASKED_BYTES_MAX, UNKNOWN_BYTES
from corgi.broker.values import Faulty
from corgi.paxos.messages import ReadSlot, ReadSlots, SlotRead, SlotsRead, SnapshotOffer
from corgi.state.commands import encode_log_start
from memory_cluster import Cluster

ONE, TWO, THREE = NodeId(1), NodeId(2), NodeId(3)
G, S = GroupId(0), Slot(1)  # the value of the first slot holds no batch


def cluster_with_a_missing_value(*, covered: Slot) -> Cluster:
    cluster = Cluster(groups=1)
    cluster.run(0.3)
    cluster.log.clear()
    node = cluster.nodes[TWO]
    node.values.tail.discard(G, S)
    node.values.covered[G] = covered
    node.values.absent(G, S)
    assert node.repairs.wanted == 1
    return cluster


def asked(cluster: Cluster) -> bool:
    return any(isinstance(message, ReadSlot) for _, _, message in cluster.log)


def test_a_missing_value_that_a_restart_begins_with_is_asked_for() -> None:
    cluster = cluster_with_a_missing_value(covered=Slot(0))
    cluster.run(0.3)
    assert asked(cluster)
    assert cluster.nodes[TWO].repairs.wanted == 0


def test_a_missing_value_that_a_snapshot_made_needless_is_missed_no_more() -> None:
    """Everybody may have freed it: it was told as lost, and the node as incomplete, for ever."""
    cluster = cluster_with_a_missing_value(covered=S)
    cluster.run(0.3)
    assert not asked(cluster)
    assert cluster.nodes[TWO].repairs.wanted == 0
    assert cluster.nodes[TWO].repairs.lost == []


def test_a_snapshot_is_offered_only_to_who_has_nothing_that_is_missing_here() -> None:
    """Installing it lets go of votes: one for a value that is damaged here may be the last copy, whatever other slot
    the peer asked for."""
    cluster = Cluster(groups=1)
    cluster.run(0.3)
    cluster.filter = lambda _, to, message: to != TWO
    node = cluster.nodes[TWO]
    applied = node.groups[G].machine.applied
    node.snapshots.durable[G] = SnapshotName(G, Slot(applied + 10), 1)
    freed, damaged = Slot(applied + 1), Slot(applied + 5)
    node.values.tables[G].hold(damaged, 1)

    def offered(peer: NodeId) -> bool:
        cluster.log.clear()
        node.snapshots.installs.offer(peer, G, freed)
        cluster.run(0.0)
        return any(isinstance(message, SnapshotOffer) for _, _, message in cluster.log)

    assert offered(ONE)
    node.values.absent(G, damaged)
    assert not offered(ONE)
    node.repairs.on_slot_read(ONE, SlotRead(G, damaged, found=False), memoryview(b""))
    assert offered(ONE)
    assert not offered(THREE)
    node.repairs.on_slot_read(THREE, SlotRead(G, damaged, found=False), memoryview(b""))
    assert offered(THREE)
    assert node.repairs.lost == [(G, damaged)]


def test_values_that_are_missing_together_are_asked_for_together() -> None:
    cluster = Cluster(groups=1)
    cluster.run(0.3)
    leader = cluster.nodes[cluster.leader()]
    for _ in range(180):
        leader.submit(G, CommandKind.LOG_START, encode_log_start([]), lambda _: None, timeout_s=5.0)
        cluster.run(0.02)
    node = cluster.nodes[TWO]
    slots = [Slot(slot) for slot in range(2, 180)]
    values = {slot: node.values.in_memory(G, slot) for slot in slots}
    assert None not in values.values()
    for slot in slots:
        node.values.tail.discard(G, slot)
        node.values.absent(G, slot)
    cluster.log.clear()
    cluster.run(2.0)
    questions = [message for _, _, message in cluster.log if isinstance(message, ReadSlots)]
    assert [slot for question in questions[:3] for slot in question.slots] == slots
    assert max(len(question.slots) for question in questions) == 64
    assert not asked(cluster), "none one by one"
    stored = cluster.wals[TWO].bytes
    assert {slot: stored[node.values.tables[G].position(slot)] for slot in slots} == values
    assert node.repairs.wanted == 0


class _Missing:
    """A node that misses many values, whose questions reach nobody: the test answers them, or not."""

    def __init__(self, count: int) -> None:
        self.cluster = cluster = Cluster(groups=1)
        cluster.run(0.3)
        leader = cluster.nodes[cluster.leader()]
        for _ in range(count + 2):
            leader.submit(G, CommandKind.LOG_START, encode_log_start([]), lambda _: None, timeout_s=5.0)
            cluster.run(0.02)
        self.node = cluster.nodes[TWO]
        self.slots = [Slot(slot) for slot in range(2, count + 2)]
        self.values = {slot: bytes(self.node.values.in_memory(G, slot) or b"") for slot in self.slots}
        self.asked: list[tuple[NodeId, ReadSlot | ReadSlots]] = []
        cluster.filter = self.take

    def lose(self, *, known: bool = True) -> None:
        values = self.node.values
        for slot in self.slots:
            values.tail.discard(G, slot)
            if not known:
                values.tables[G].put(slot, Position(-1), 0)
            values.absent(G, slot)

    def take(self, sender: NodeId, to: NodeId, message: object) -> bool:
        if isinstance(message, ReadSlot | ReadSlots):
            assert sender == TWO
            self.asked.append((to, message))
            return False
        return True

    def answer(self, peer: NodeId, slots: tuple[Slot, ...]) -> None:
        values = [self.values[slot] for slot in slots]
        told = SlotsRead(G, slots, tuple(len(value) for value in values))
        self.node.repairs.on_slots_read(peer, told, memoryview(b"".join(values)))


def test_what_comes_slowly_is_not_asked_for_again() -> None:
    """On a slow link answers come one behind the other; each question asked again would put one more on the link."""
    missing = _Missing(256)
    missing.lose()
    missing.cluster.run(0.1)
    questions = list(missing.asked)
    assert len(questions) == 4
    for peer, question in questions[:3]:
        assert isinstance(question, ReadSlots)
        missing.cluster.run(0.4)
        missing.answer(peer, question.slots)
    assert missing.asked == questions
    missing.cluster.run(0.6)
    assert len(missing.asked) == 5, "silence means that it is lost"
    assert missing.asked[4][0] != questions[3][0], "another peer is asked"


def test_what_a_busy_peer_does_not_answer_is_asked_for_again_in_the_end() -> None:
    missing = _Missing(128)
    missing.lose()
    missing.cluster.run(0.1)
    (peer, first), (_, second) = missing.asked
    assert isinstance(first, ReadSlots)
    for slot in first.slots[:14]:
        missing.cluster.run(0.4)
        missing.answer(peer, (slot,))
    again = {slot for _, question in missing.asked[2:] if isinstance(question, ReadSlots) for slot in question.slots}
    assert isinstance(second, ReadSlots)
    assert again >= set(second.slots)


def test_values_of_unknown_length_may_be_long_and_are_asked_for_one_by_one() -> None:
    missing = _Missing(40)
    missing.lose(known=False)
    missing.cluster.run(0.1)
    assert len(missing.asked) == ASKED_BYTES_MAX / UNKNOWN_BYTES
    assert all(isinstance(question, ReadSlot) for _, question in missing.asked)


def test_a_peer_of_an_older_release_is_asked_for_one_value_at_a_time() -> None:
    missing = _Missing(80)
    for peer in (ONE, THREE):
        missing.node.peer_connected(peer, bytes([peer]) * 16, 1)
    missing.lose()
    missing.cluster.run(0.1)
    assert len(missing.asked) == 80
    assert all(isinstance(question, ReadSlot) for _, question in missing.asked)


def test_an_answer_is_not_larger_than_a_question_may_ask_for() -> None:
    cluster = Cluster(groups=1)
    cluster.run(0.3)
    node = cluster.nodes[TWO]
    slots = tuple(Slot(slot) for slot in range(1, 6))
    node.groups[G].replica.learner.prefix = Slot(5)
    for slot in slots:
        node.values.tail.put(G, slot, bytes(100 * KIB))
    cluster.posted.clear()
    node.repairs.on_read_slots(ONE, ReadSlots(G, slots, (Ballot(0),) * 5), node.groups[G])
    answers = [message for _, _, message, _ in cluster.posted if isinstance(message, SlotsRead)]
    assert [message.slots for message in answers] == [slots[:3]]


@pytest.mark.parametrize(
    "message",
    [ReadSlots(G, (S,), ()), ReadSlots(G, tuple(Slot(slot) for slot in range(1, 66)), (Ballot(0),) * 65)],
)
def test_a_question_for_several_values_that_makes_no_sense_is_refused(message: ReadSlots) -> None:
    node = Cluster(groups=1).nodes[TWO]
    with pytest.raises(CorgiError, match="malformed-frame"):
        node.repairs.on_read_slots(ONE, message, node.groups[G])


@pytest.mark.parametrize("message", [SlotsRead(G, (S,), ()), SlotsRead(G, (S, S), (1, 2)), SlotsRead(G, (S,), (5,))])
def test_an_answer_of_several_values_that_makes_no_sense_is_refused(message: SlotsRead) -> None:
    with pytest.raises(CorgiError, match="malformed-frame"):
        Cluster(groups=1).nodes[TWO].repairs.on_slots_read(ONE, message, memoryview(b"four"))


def test_votes_in_one_ballot_prove_nothing() -> None:
    """Where the value should be lies a vote: another node's in the same ballot is for the same, and may have lost."""
    cluster = Cluster(groups=1)
    cluster.run(0.3)
    cluster.filter = lambda _, to, message: to != TWO
    node = cluster.nodes[TWO]
    value, other = encode_value(1, []), encode_value(2, [])
    node.values.tail.discard(G, S)
    node.values.tables[G].hold(S, 1)
    node.values.faulty[G][S] = Faulty(Position(0), len(value), Ballot(7), proven=False)
    node.repairs.want(G, S)
    node.repairs.on_slot_read(ONE, SlotRead(G, S, True, Ballot(7)), memoryview(value))
    assert node.repairs.wanted == 1
    node.repairs.on_slot_read(THREE, SlotRead(G, S, True, Ballot(0)), memoryview(other))
    assert node.repairs.wanted == 0
    assert node.values.in_memory(G, S) == other
