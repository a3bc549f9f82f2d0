"""Which damaged values are asked for, and which are missed no more."""

from __future__ import annotations

from corgi.base.ids import GroupId, NodeId, Slot
from corgi.paxos.messages import ReadSlot
from memory_cluster import Cluster

G, S, TWO = GroupId(0), Slot(1), NodeId(2)  # the value of the first slot holds no batch


def cluster_with_a_missing_value(*, covered: Slot) -> Cluster:
    cluster = Cluster(groups=1)
    cluster.run(0.3)
    cluster.log.clear()
    node = cluster.nodes[TWO]
    node.values.tail.discard(G, S)
    node.values.covered[G] = covered
    node.values.absent(G, S)
    node.repairs.want(G, S)
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
