"""Who should lead: groups go home to the node that is preferred, and only when that is sure to help."""

from __future__ import annotations

from corgi.base.ids import NodeId
from corgi.base.records import encode_batch
from corgi.broker.leadership import HOME_AFTER_S
from corgi.paxos.messages import Accept, Handover
from memory_cluster import Cluster

ONE, TWO, THREE = NodeId(1), NodeId(2), NodeId(3)


def led_by(cluster: Cluster) -> list[NodeId]:
    return [cluster.leader(group) for group in range(cluster.group_count)]


def cluster_without_one_at_home() -> Cluster:
    """Node 1 was away: its group is led by another, it has come back just now."""
    cluster = Cluster(groups=3)
    cluster.run(0.3)
    cluster.kill(ONE)
    cluster.run(1.0)
    assert led_by(cluster) == [TWO, TWO, THREE]
    cluster.start(ONE)
    return cluster


def test_a_group_goes_home_when_its_node_was_there_for_a_while() -> None:
    cluster = cluster_without_one_at_home()
    cluster.run(HOME_AFTER_S - 0.5)
    assert led_by(cluster) == [TWO, TWO, THREE]
    cluster.run(1.0)
    assert led_by(cluster) == [ONE, TWO, THREE]
    assert cluster.nodes[TWO].counters["sent_home"] == 1


def test_what_is_written_while_a_group_goes_home_is_stored_once() -> None:
    cluster = cluster_without_one_at_home()
    outs = []
    for number in range(40):
        batch = encode_batch(
            [(b"k", str(number).encode(), (), 1)], producer_id=7, producer_epoch=0, base_sequence=number
        )
        outs.append(cluster.submit(THREE, batch))
        cluster.run(0.2)
    assert led_by(cluster)[0] == ONE
    assert [out[0].error for out in outs] == [0] * 40
    assert [out[0].appends[0].base_offset for out in outs] == list(range(40))


def test_a_node_that_comes_and_goes_is_given_nothing() -> None:
    cluster = cluster_without_one_at_home()
    for _ in range(4):
        cluster.run(HOME_AFTER_S - 1.0)
        cluster.kill(ONE)
        cluster.run(0.3)
        cluster.start(ONE)
    assert led_by(cluster) == [TWO, TWO, THREE]
    assert "sent_home" not in cluster.nodes[TWO].counters


def test_a_node_that_may_not_lead_is_given_nothing() -> None:
    cluster = cluster_without_one_at_home()
    cluster.nodes[ONE].log_full(True)
    cluster.run(2 * HOME_AFTER_S)
    assert led_by(cluster) == [TWO, TWO, THREE]
    cluster.nodes[ONE].log_full(False)
    cluster.run(0.5)
    assert led_by(cluster) == [ONE, TWO, THREE]


def test_a_node_that_does_not_take_over_is_not_asked_again_at_once() -> None:
    cluster = cluster_without_one_at_home()
    cluster.filter = lambda sender, to, message: not isinstance(message, Handover)
    cluster.run(HOME_AFTER_S + 5.0)
    assert led_by(cluster) == [TWO, TWO, THREE]
    assert cluster.nodes[TWO].counters["sent_home"] == 1
    out = cluster.submit(TWO, encode_batch([(b"k", b"v", (), 1)]))
    cluster.run(0.1)
    assert out[0].error == 0


def test_a_node_far_behind_is_given_nothing() -> None:
    cluster = cluster_without_one_at_home()
    cluster.filter = lambda sender, to, message: to != ONE or not isinstance(message, Accept)
    cluster.nodes[ONE].groups[0].replica.learner.ask = lambda *_: None  # type: ignore[method-assign]
    for number in range(400):
        cluster.submit(TWO, encode_batch([(b"k", str(number).encode(), (), 1)]))
        cluster.nodes[TWO].flush()
        cluster.settle()
    cluster.run(HOME_AFTER_S + 1.0)
    assert led_by(cluster)[0] == TWO
    assert "sent_home" not in cluster.nodes[TWO].counters
