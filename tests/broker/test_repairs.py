"""Which damaged values are asked for, and which are missed no more."""

from __future__ import annotations

import pytest

from corgi.base.command import CommandKind, encode_value
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Position, Slot
from corgi.base.ports import SnapshotName
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
