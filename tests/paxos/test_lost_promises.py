"""Promises of a lost disk that are still on their way: nobody may count them once the node votes again."""

from __future__ import annotations

from typing import Any

from corgi.base.ids import NodeId
from corgi.base.ports import RecordKind
from corgi.base.records import encode_batch
from corgi.paxos.messages import Prepare, Promise
from memory_cluster import Cluster, records_of

LEADER, LOST, CALM, FAR, PAUSED = (NodeId(number) for number in (1, 2, 3, 4, 5))


def batch(value: bytes) -> bytes:
    return encode_batch([(None, value, (), 5)])


def stopped(cluster: Cluster, member: NodeId) -> Any:
    """The process stands still; its peers lose it."""
    node = cluster.nodes.pop(member)
    for other in cluster.nodes:
        cluster.links -= {(member, other), (other, member)}
        cluster.nodes[other].peer_lost(member)
    return node


def test_a_promise_that_was_on_its_way_when_its_disk_was_lost_elects_nobody() -> None:
    """(1) A candidate has the promise of a node on its way to it, in a ballot that no other has heard of, and stops.
    (2) The node loses its disk and asks for a fresh ballot: a majority of the others prepares a lower one. (3) Its vote
    makes a value chosen. (4) The candidate goes on, counts the old promise and another one, and finds no vote.

    So it waits for what the candidate has promised to itself, and asks for a ballot above. In a cluster of three that
    cannot be: the majority without the lost disk has the candidate in it.
    """
    cluster = Cluster(nodes=5, groups=1)
    cluster.run(1.0)
    assert cluster.leader() == LEADER
    held: list[Any] = []

    def only_the_lost_one_hears_the_candidate(sender: NodeId, to: NodeId, message: Any) -> bool:
        if isinstance(message, Promise) and to == PAUSED:
            held.append(message)
            return False
        return sender != PAUSED or (isinstance(message, Prepare) and to == LOST)

    cluster.filter = only_the_lost_one_hears_the_candidate
    cluster.nodes[PAUSED].groups[0].replica._start_candidate(forced=True)
    cluster.nodes[PAUSED].flush()
    cluster.settle()
    (promise,) = held
    paused = stopped(cluster, PAUSED)

    cluster.kill(LOST)
    cluster.incarnations[LOST] = b"new incarnation!"
    cluster.start(LOST, wiped=True, recovering=True)
    cluster.run(3.0)

    lost = cluster.nodes[LOST]
    assert lost.identity.state == "recovering", "the fresh ballot may be below one that the lost disk promised"
    assert not records_of(cluster.wals[LOST], RecordKind.ACCEPT)

    cluster.filter = lambda *_: True
    cluster.nodes[PAUSED] = paused
    cluster.cut = {way for other in (LEADER, CALM, FAR) for way in ((PAUSED, other), (other, PAUSED))}
    cluster.connect(PAUSED, LOST)
    cluster.run(3.0)
    assert lost.identity.state == "voting", "the leader was told of the higher ballot, which it has never heard of"
    assert lost.groups[0].replica.acceptor.promised > promise.ballot

    far = stopped(cluster, FAR)
    outcome = cluster.submit(LEADER, batch(b"acknowledged"))
    cluster.run(0.5)
    assert [told.error for told in outcome] == [0], "with the vote of the node that lost its disk"
    for member in (LEADER, CALM, LOST):
        stopped(cluster, member)
    cluster.nodes[FAR] = far
    cluster.cut.clear()
    paused.peer_message(LOST, promise, memoryview(b""))
    cluster.connect(PAUSED, FAR)
    cluster.run(3.0)
    assert not paused.groups[0].replica.proposing, "two of five"
