"""Memory groups in doubt beside others: in which ballots a node with a lost disk votes, and what an old disk does."""

from __future__ import annotations

import pytest

from corgi.base.ids import GroupId, NodeId
from corgi.base.records import encode_batch
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
    assert put(made, first, b"after")
    assert len(made.prefixes(MEMORY)) == 1
