"""Memory groups in doubt beside others: in which ballots a node with a lost disk votes, and what an old disk does."""

from __future__ import annotations

import pytest

from corgi.base.ids import GroupId, NodeId, Slot
from corgi.base.ports import Hole, LogRecord, RecordKind, SnapshotName
from corgi.base.records import encode_batch
from corgi.broker.group import Group
from corgi.paxos.messages import Heartbeat, Rejoined
from corgi.state.snapshot import Capture
from memory_cluster import Cluster

MEMORY = GroupId(1)


def batch(value: bytes) -> bytes:
    return encode_batch([(None, value, (), 5)])


def cluster() -> tuple[Cluster, NodeId, NodeId, NodeId]:
    """Three nodes with one group of either kind; the leader of the memory group is told first."""
    made = Cluster(nodes=3, groups=1, memory_groups=1)
    made.run(2.0)
    leader = made.leader(MEMORY)
    first, second = [node for node in made.members if node != leader]
    return made, leader, first, second


def put(made: Cluster, node: NodeId, value: bytes, seconds: float = 0.5) -> bool:
    """Whether the value was acknowledged in that time."""
    outcomes = made.submit(node, batch(value), MEMORY)
    made.nodes[node].flush()
    made.run(seconds)
    return [outcome.error for outcome in outcomes] == [0]


def replace_disk(made: Cluster, node: NodeId) -> None:
    made.incarnations[node] = b"new incarnation!"
    made.start(node, wiped=True, recovering=True)


def test_a_lossy_vote_is_given_in_no_ballot_that_the_lost_disk_may_have_promised_past() -> None:
    """The leader was cut off, and what the others acknowledged since lay on the lost disk and on one that is away."""
    made, leader, other, lost = cluster()
    for node in (other, lost):
        made.partition(leader, node)
    assert put(made, other, b"acknowledged in a higher ballot", 2.0)
    late = made.submit(leader, batch(b"proposed in the old ballot"), MEMORY)
    made.nodes[leader].flush()
    made.settle()
    made.kill(lost)
    away = made.nodes.pop(other)
    made.links = {pair for pair in made.links if other not in pair}
    made.cut = {(other, lost), (lost, other), (other, leader), (leader, other)}
    made.accepting.add(lost)
    replace_disk(made, lost)
    made.run(1.0)
    assert not late, "two values were chosen for one slot"
    made.nodes[other] = away
    made.cut.clear()
    made.links.clear()
    for one, two in ((leader, other), (other, lost), (leader, lost)):
        made.connect(one, two)
    made.run(5.0)
    assert len(made.prefixes(MEMORY)) == 1
    assert put(made, lost, b"and goes on")
    assert [outcome.error for outcome in late] == [0]
    assert len(made.prefixes(MEMORY)) == 1


@pytest.mark.parametrize("lost", [1, 2])
def test_members_whose_disks_were_lost_go_on_together_with_the_others(lost: int) -> None:
    """Also where no majority is left that remembers."""
    made, leader, first, second = cluster()
    assert put(made, leader, b"before")
    replaced = (first, second)[:lost]
    for node in replaced:
        made.kill(node)
    made.accepting.update(made.members)
    for node in replaced:
        made.incarnations[node] = b"new incarnation%d" % node
        made.start(node, wiped=True, recovering=True)
    made.run(5.0)
    assert all(node.groups[MEMORY].replica.acceptor.voting for node in made.nodes.values())
    for node in replaced:
        (loss,) = made.nodes[node].identity.given_up
        assert "the disk was replaced" in loss
    assert put(made, first, b"after")
    assert len(made.prefixes(MEMORY)) == 1


def snapshot_of(made: Cluster, group: Group) -> dict[SnapshotName, bytes]:
    capture = Capture(group.machine)
    pieces = made.nodes[NodeId(1)].snapshots._pieces(group, capture, None)
    content = b"".join(bytes(chunk) for piece in pieces if piece is not None for chunk in piece)
    capture.end()
    return {SnapshotName(group.id, group.machine.applied, 1): content}


def test_what_was_given_up_is_not_applied_behind_a_snapshot_that_was_taken_since() -> None:
    """The log still says that it was chosen, and its values can be read."""
    made, one = Cluster(nodes=1, groups=1, memory_groups=1), NodeId(1)
    made.run(0.5)
    for number in range(8):
        assert put(made, one, b"before %d" % number)
    wal = made.wals[one]
    replica = made.nodes[one].groups[MEMORY].replica
    prefix = replica.prefix
    wal.append(LogRecord(RecordKind.PROMISE, MEMORY, replica.acceptor.promised, Slot(0), prefix))  # tells all chosen
    wal.sync()
    made.kill(one)

    lost = next(
        record for record in wal.durable if (record.kind, record.group, record.slot) == (RecordKind.ACCEPT, 1, 4)
    )
    wal.durable[wal.durable.index(lost)] = Hole(1, 4096, 8192, "nothing can be read", lazy=True)
    made.accepting.add(one)
    made.start(one)
    made.run(1.0)
    assert put(made, one, b"after")
    group = made.nodes[one].groups[MEMORY]
    assert 3 < group.machine.applied < prefix
    snapshot, digest = snapshot_of(made, group), group.machine.digest
    assert put(made, one, b"and one that the snapshot does not cover")
    expected = (group.machine.applied, group.machine.digest)
    made.kill(one)

    made.accepting.clear()
    machine = made.start(one, snapshots=snapshot).groups[MEMORY].machine
    assert (machine.applied, machine.digest) in (expected, (expected[0] - 1, digest))
    made.run(1.0)
    assert put(made, one, b"and goes on")


def values(made: Cluster, node: NodeId) -> list[bytes]:
    """The messages in the memory group as this node applied them, those that are still in its memory."""
    group = made.nodes[node].groups[MEMORY]
    told = [bytes(group.values.in_memory(MEMORY, Slot(slot)) or b"") for slot in range(1, group.machine.applied + 1)]
    return [value[value.rindex(b"<") : value.rindex(b">")] for value in told if b">" in value]


@pytest.mark.parametrize(("longer", "crash"), [(False, False), (True, False), (True, True)])
def test_what_an_old_disk_of_a_replaced_member_knows_of_memory_groups_is_given_up(longer: bool, crash: bool) -> None:
    """It comes back after the others, with a new disk in its place, went on without what only it knows; also where it
    knows more slots than they do, by which they would take what it knows for what they have missed."""
    made, a, b, c = cluster()
    made.partition(a, c)
    made.partition(b, c)
    known = made.nodes[c].groups[MEMORY].replica.prefix
    for number in range(12 if longer else 2):
        assert put(made, a, b"<old %d>" % number, 0.1)
    snapshot = snapshot_of(made, made.nodes[a].groups[MEMORY])
    for node in (a, b, c):
        made.kill(node)
    # The power is lost. What was not synced at one is gone, the other never had it, and the third has a broken disk.
    old, incarnation = list(made.wals[a].durable), made.incarnations[a]
    made.wals[b].durable = [
        record
        for record in made.wals[b].durable
        if isinstance(record, Hole) or record.group != MEMORY or max(record.slot, record.commit) <= known
    ]
    made.cut.clear()
    made.accepting.update((a, b, c))
    made.memory_lost.update({b: "loss at b", c: "loss at c"})
    made.start(b)
    made.start(c)
    replace_disk(made, a)
    made.run(5.0)
    assert put(made, b, b"<new>")
    told = values(made, b)
    assert told == [b"<new"]

    # What is left of the old disk is built in again.
    made.accepting.clear()
    made.memory_lost.clear()
    made.kill(a)
    made.incarnations[a], made.wals[a].durable = incarnation, old
    made.start(a, snapshots=snapshot)
    if crash:
        made.filter = lambda _sender, _to, message: type(message).__name__ != "Rejoined"
        made.run(1.0)
        assert made.nodes[a].identity.amnesia.suspects
        made.filter = lambda *_: True
        made.kill(a)
        made.start(a, snapshots=snapshot)
    made.run(5.0)
    assert made.nodes[a].groups[MEMORY].replica.acceptor.voting
    assert put(made, a, b"<newer>")
    told.append(b"<newer")
    made.run(0.5)
    assert len(made.prefixes(MEMORY)) == 1
    assert values(made, a) == values(made, b) == values(made, c) == told

    # Later starts find the old records and the old snapshot, or one that was taken since.
    for found in (snapshot, {}, snapshot_of(made, made.nodes[a].groups[MEMORY]), {}):
        made.kill(a)
        made.start(a, snapshots=found)
        made.run(3.0)
        assert put(made, a, b"<again>")
        assert len(made.prefixes(MEMORY)) == 1
        assert made.nodes[a].groups[MEMORY].replica.acceptor.voting
        assert len(made.prefixes(0)) == 1


def test_a_disk_keeps_what_it_knows_until_the_others_can_do_without_it() -> None:
    """The one that knows another disk may be an old disk itself."""
    made, a, b, c = cluster()
    for number in range(3):
        assert put(made, a, b"<old %d>" % number)
    made.run(0.5)
    made.kill(a)
    made.kill(c)
    made.nodes[b].identity.memories.of[c].incarnation = b"another one"
    made.start(c)
    made.run(2.0)
    assert not made.nodes[c].groups[MEMORY].replica.acceptor.voting
    assert len(values(made, c)) == 2
    assert all(lead.prefix == 0 for lead in last_beat(made, c).leads if lead.group == MEMORY)
    made.start(a)
    made.run(3.0)
    assert made.nodes[c].groups[MEMORY].replica.acceptor.voting
    assert put(made, c, b"<new>")
    assert len(made.prefixes(MEMORY)) == 1
    assert len(values(made, c)) == 4


def last_beat(made: Cluster, node: NodeId) -> Heartbeat:
    return next(
        message for sender, _, message in reversed(made.log) if sender == node and isinstance(message, Heartbeat)
    )


def test_if_the_one_whose_clock_is_right_is_in_doubt_another_leads_its_memory_groups_meanwhile() -> None:
    one, two, three = members = [NodeId(number) for number in (1, 2, 3)]
    made = Cluster(nodes=3, groups=1, memory_groups=1, wrong_ms={one: 60_000, three: -17_000})
    made.run(2.0)
    assert made.leader(MEMORY) == two, "the clocks of the others are wrong"
    assert put(made, two, b"before")
    made.kill(two)
    made.memory_lost[two] = "a loss of power"
    made.start(two)
    made.run(2.0)
    assert put(made, two, b"behind")
    assert [made.nodes[node].identity.amnesia.bars for node in members] == [False] * 3
    made.run(5.0)
    assert made.leader(MEMORY) == two, "it is in doubt no more, and the others give up what they led"


@pytest.mark.parametrize("lost", [(1, 2, 3), (1, 3)])
def test_a_wrong_clock_does_not_lead_while_those_in_doubt_take_part_with_the_loss_accepted(
    lost: tuple[int, ...],
) -> None:
    """Log time would run ahead with it, and never goes back: retention would follow it."""
    one, two, three = (NodeId(number) for number in (1, 2, 3))
    made = Cluster(nodes=3, groups=1, memory_groups=1, wrong_ms={two: 60_000})
    made.run(2.0)
    assert made.leader(MEMORY) != two
    assert put(made, one, b"before")
    for node in map(NodeId, lost):
        made.kill(node)
        made.memory_lost[node] = "a loss of power"
        made.accepting.add(node)
    for node in map(NodeId, lost):
        made.start(node)
    made.run(3.0)
    assert put(made, three, b"behind")
    for node in made.nodes.values():
        assert node.groups[MEMORY].machine.log_time_ms <= made.clock.wall_ms()


def test_a_memory_group_is_given_to_the_one_whose_clock_is_the_nearest_of_those_that_may_lead_it() -> None:
    one, two, three = (NodeId(number) for number in (1, 2, 3))
    made = Cluster(nodes=3, groups=1, memory_groups=1, wrong_ms={one: -17_000, three: 60_000})
    made.run(2.0)
    made.kill(one)
    made.kill(two)
    made.start(two)
    made.run(3.0)
    assert made.leader(MEMORY) == three, "of two the clock that is ahead counts"
    made.kill(two)
    made.memory_lost[two] = "a loss of power"
    made.filter = lambda _, to, message: not (isinstance(message, Rejoined) and to == two)  # its recovery takes long
    made.start(one)
    made.start(two)
    made.run(3.0)
    assert made.nodes[two].identity.recovers(MEMORY)
    assert made.leader(MEMORY) == one
