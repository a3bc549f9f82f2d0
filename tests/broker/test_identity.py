"""When a node that runs makes up for records that its log has lost, so that no restart is in doubt because of them."""

from corgi.base.ids import Ballot, GroupId, NodeId, Slot
from corgi.base.ports import RecordKind
from corgi.paxos.acceptor import Vote
from memory_cluster import Cluster, MemoryWal, records_of

TWO, G = NodeId(2), GroupId(0)


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
