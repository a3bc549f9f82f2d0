"""Which disks are in doubt, and when a node that runs makes up for records that its log has lost."""

from corgi.base.ids import Ballot, GroupId, NodeId, Slot
from corgi.base.ports import LogRecord, RecordKind
from corgi.paxos.acceptor import Vote
from memory_cluster import Cluster, MemoryWal, records_of

ONE, TWO, THREE = (NodeId(number) for number in (1, 2, 3))
G = GroupId(0)


def votes_on(wal: MemoryWal) -> list[tuple[Ballot, Slot]]:
    return [(record.ballot, record.slot) for record in records_of(wal, RecordKind.ACCEPT)]


def test_promises_and_open_votes_are_written_again_behind_lost_records() -> None:
    cluster = Cluster(groups=1)
    cluster.run(0.3)
    node, wal = cluster.nodes[TWO], cluster.wals[TWO]
    acceptor, slot = node.groups[G].replica.acceptor, Slot(node.groups[G].replica.prefix + 2)
    acceptor.votes[slot] = Vote(acceptor.promised, b"value", durable=True)
    node.identity.reaffirm()
    wal.sync()
    assert votes_on(wal)[-1] == (acceptor.promised, slot)
    assert [record.kind for record in wal.durable[-4:]] == [
        RecordKind.NODE,
        RecordKind.PROMISE,
        RecordKind.ACCEPT,
        RecordKind.NODE,
    ]


def test_they_are_written_again_only_when_the_value_of_every_open_vote_is_known() -> None:
    """A vote whose record is damaged cannot be written again. Once the log says that nothing before is in doubt, a
    restart that does not find the record at all would take the slot for one without a vote."""
    cluster = Cluster(groups=1)
    cluster.run(0.3)
    node = cluster.nodes[TWO]
    acceptor, slot = node.groups[G].replica.acceptor, Slot(node.groups[G].replica.prefix + 2)
    acceptor.votes[slot] = Vote(acceptor.promised, None, durable=True)
    node.identity.reaffirm()
    cluster.run(2.5)
    assert "reaffirmed" not in node.counters
    acceptor.forget_chosen(slot)
    cluster.run(1.5)
    assert node.counters["reaffirmed"] == 1
    cluster.run(1.5)
    assert node.counters["reaffirmed"] == 1


def replaced(cluster: Cluster) -> tuple[list[LogRecord], list[LogRecord]]:
    """The disk of node 2 is another one from now on. What was on the disks of the first two before."""
    cluster.run(1.5)
    before = list(cluster.wals[ONE].durable), list(cluster.wals[TWO].durable)
    cluster.kill(TWO)
    cluster.incarnations[TWO] = b"n" * 16
    cluster.start(TWO, wiped=True, recovering=True)
    cluster.run(3.0)
    assert cluster.nodes[TWO].identity.voting
    return before


def restart(cluster: Cluster, *members: NodeId) -> None:
    for member in list(cluster.nodes):
        cluster.kill(member)
    for member in members:
        cluster.start(member)


def test_who_has_an_old_disk_makes_nobody_doubt_a_newer_one() -> None:
    """It knows the disk that the other had before, and would have both in doubt: too many to go on."""
    cluster = Cluster(groups=1)
    old, _ = replaced(cluster)
    for order in ((ONE, TWO, THREE), (THREE, TWO, ONE), (ONE, THREE, TWO)):
        cluster.wals[ONE].durable = list(old)
        restart(cluster, *order)
        cluster.run(4.0)
        assert [cluster.nodes[member].counters.get("recoveries", 0) for member in (ONE, TWO, THREE)] == [1, 0, 0]
        assert all(node.identity.voting for node in cluster.nodes.values())


def test_who_had_an_old_disk_learns_of_a_newer_one_from_its_votes() -> None:
    cluster = Cluster(groups=1)
    cluster.wals[ONE].durable, _ = replaced(cluster)
    restart(cluster, ONE, TWO, THREE)
    cluster.run(4.0)
    cluster.kill(THREE)
    cluster.kill(TWO)
    cluster.start(TWO)
    cluster.run(2.0)
    assert cluster.nodes[TWO].identity.voting
    assert "recoveries" not in cluster.nodes[TWO].counters


def test_the_disk_that_was_replaced_is_found_out_also_by_nodes_that_start_with_it() -> None:
    cluster = Cluster(groups=1)
    _, old = replaced(cluster)
    cluster.wals[TWO].durable, cluster.incarnations[TWO] = list(old), bytes([TWO]) * 16
    restart(cluster, TWO, ONE)
    cluster.run(2.0)
    assert [cluster.nodes[member].identity.voting for member in (ONE, TWO)] == [True, False]
    cluster.start(THREE)
    cluster.run(4.0)
    assert [cluster.nodes[member].counters.get("recoveries", 0) for member in (ONE, TWO, THREE)] == [0, 1, 0]
    assert all(node.identity.voting for node in cluster.nodes.values())


def test_a_damaged_vote_of_a_group_that_recovers_is_not_waited_for() -> None:
    """Its recovery settles it; meanwhile it would keep the other groups from being written again."""
    cluster = Cluster(groups=1, memory_groups=1)
    cluster.run(0.3)
    node = cluster.nodes[TWO]
    acceptor = node.groups[1].replica.acceptor
    acceptor.votes[Slot(node.groups[1].replica.prefix + 2)] = Vote(acceptor.promised, None, durable=True)
    node.identity.reaffirm()
    assert "reaffirmed" not in node.counters
    acceptor.voting = False
    node.identity.reaffirm()
    assert node.counters["reaffirmed"] == 1
