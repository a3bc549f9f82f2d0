"""One test per sentence of docs/consensus.md, on whole nodes in memory; the sentence is each test's docstring."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from corgi.base import errors
from corgi.base.command import CommandKind, iter_commands
from corgi.base.ids import NodeId, Slot, TopicId, make_ballot
from corgi.base.ports import RecordKind
from corgi.base.records import encode_batch
from corgi.paxos.messages import (
    Accept,
    Accepted,
    Commit,
    Forward,
    ForwardRefused,
    Handover,
    LeaderLives,
    Prepare,
    Promise,
    Refuse,
    Rejoined,
    Remembered,
)
from memory_cluster import Cluster, records_of


def batch(producer: int, sequence: int, count: int = 1) -> bytes:
    records = [(b"k", f"{producer}/{sequence + i}".encode(), (), 1) for i in range(count)]
    return encode_batch(records, producer_id=producer, producer_epoch=0, base_sequence=sequence)


def settled_cluster(**kwargs: Any) -> Cluster:
    cluster = Cluster(**kwargs)
    cluster.run(0.3)
    return cluster


def followers(cluster: Cluster, group: int = 0) -> list[NodeId]:
    leader = cluster.leader(group)
    return [m for m in cluster.nodes if m != leader]


def push(cluster: Cluster, member: NodeId, data: bytes) -> Any:
    out = cluster.submit(member, data)
    cluster.nodes[member].flush()
    cluster.settle()
    return out


def test_every_group_has_its_preferred_leader_after_the_start() -> None:
    """Leaders are spread over the nodes when everything is in order."""
    cluster = settled_cluster(groups=3)
    assert [cluster.leader(g) for g in range(3)] == [1, 2, 3]


def test_a_vote_is_answered_only_when_it_is_durable() -> None:
    """A promise or an accept is answered only after it is durable."""
    cluster = settled_cluster()
    leader, (a, b) = cluster.leader(), followers(cluster)
    cluster.wals[a].held = cluster.wals[b].held = True
    cluster.log.clear()
    out = push(cluster, leader, batch(7, 0))
    assert [m for s, t, m in cluster.log if isinstance(m, Accept)]
    assert not [m for s, t, m in cluster.log if isinstance(m, Accepted)]
    assert out == []
    cluster.wals[a].held = False
    cluster.settle()
    assert out[0].error == 0


def test_a_leader_with_a_held_disk_does_not_count_its_own_vote() -> None:
    """A vote counts when it is durable, the leader's own as well."""
    cluster = settled_cluster()
    leader, (_a, b) = cluster.leader(), followers(cluster)
    cluster.wals[leader].held = cluster.wals[b].held = True
    out = push(cluster, leader, batch(7, 0))
    assert out == []
    cluster.wals[b].held = False
    cluster.settle()
    assert out[0].error == 0, "two followers are a majority"


def test_prepare_leaves_after_the_proposers_own_promise_is_durable() -> None:
    """A proposer's own promise is durable before its Prepare leaves."""
    cluster = settled_cluster()
    heir = followers(cluster)[0]
    cluster.wals[heir].held = True
    cluster.log.clear()
    cluster.kill(cluster.leader())
    out = cluster.submit(heir, batch(7, 0))
    cluster.nodes[heir].flush()
    cluster.settle()
    assert not [m for _, _, m in cluster.log if isinstance(m, Prepare)]
    cluster.wals[heir].held = False
    cluster.settle()
    assert [m for _, _, m in cluster.log if isinstance(m, Prepare)]
    assert out[0].error == 0


def test_takeover_needs_no_time() -> None:
    """When the link to the leader breaks, a replica with a write prepares at once: no timer runs."""
    cluster = settled_cluster()
    heir = followers(cluster)[0]
    cluster.kill(cluster.leader())
    before = cluster.clock.time
    out = push(cluster, heir, batch(7, 0))
    assert out[0].error == 0
    assert cluster.clock.time == before


def test_a_laggard_never_proposes_below_a_chosen_prefix() -> None:
    """No slot at or below the highest prefix among the promises is ever proposed in."""
    cluster = settled_cluster()
    leader, (a, b) = cluster.leader(), followers(cluster)
    cluster.partition(leader, b)
    cluster.partition(a, b)
    for i in range(5):
        push(cluster, leader, batch(7, i))
    cluster.run(0.1)
    chosen = cluster.nodes[leader].groups[0].replica.prefix
    # a has everything; the laggard b returns when the leader is gone and must take over with a's promise
    cluster.kill(leader)
    cluster.log.clear()
    cluster.heal(a, b)
    cluster.nodes[b].groups[0].replica._start_candidate(forced=True)
    cluster.settle()
    cluster.run(1.0)
    proposed = [m.slot for s, _, m in cluster.log if isinstance(m, Accept) and s == b and m.group == 0]
    assert proposed
    assert min(proposed) > chosen
    assert len(cluster.prefixes()) == 1


def test_the_highest_ballots_value_is_proposed_again() -> None:
    """Above the prefix the new leader re-proposes each slot's highest-ballot value."""
    cluster = settled_cluster()
    leader, (a, _b) = cluster.leader(), followers(cluster)
    cluster.filter = lambda s, t, m: not isinstance(m, Accepted)
    out = push(cluster, leader, batch(7, 0))
    assert out == []
    slot = Slot(cluster.nodes[leader].groups[0].replica.prefix + 1)
    value = bytes(cluster.nodes[a].groups[0].replica.acceptor.votes[slot].value)
    cluster.filter = lambda *_: True
    cluster.kill(leader)
    cluster.run(0.5)
    assert cluster.nodes[a].values.in_memory(0, slot) == value  # type: ignore[arg-type]
    assert cluster.nodes[cluster.leader()].counters["reproposals"] >= 1
    assert len(cluster.prefixes()) == 1


def test_gaps_become_no_ops() -> None:
    """Gaps are filled with no-ops before the leader's own first command."""
    cluster = settled_cluster()
    leader, (_a, _b) = cluster.leader(), followers(cluster)
    start = cluster.nodes[leader].groups[0].replica.prefix
    cluster.filter = lambda s, t, m: not (isinstance(m, Accept) and m.group == 0 and m.slot == start + 1)
    cluster.submit(leader, batch(7, 0))
    cluster.nodes[leader].flush()
    cluster.submit(leader, batch(8, 0))
    cluster.nodes[leader].flush()
    cluster.settle()
    cluster.filter = lambda *_: True
    cluster.kill(leader)
    cluster.run(0.5)
    heir = cluster.nodes[cluster.leader()]
    assert heir.counters["noop_fills"] == 1
    gap = heir.values.in_memory(0, Slot(start + 1))  # type: ignore[arg-type]
    assert gap is not None
    assert list(iter_commands(gap)) == []
    kinds = [c.kind for s in range(start + 2, start + 4) for c in iter_commands(heir.values.in_memory(0, Slot(s)))]  # type: ignore[arg-type]
    assert kinds == [CommandKind.DATA, CommandKind.EPOCH]


def test_order_survives_a_takeover() -> None:
    """Sequences 10-19 may be chosen while 0-9 became a no-op: refused as a gap, both go out again in order."""
    cluster = settled_cluster()
    leader, (_a, b) = cluster.leader(), followers(cluster)
    # b forwards three commands; the first Accept is lost, the others are voted for, then the leader dies
    start = cluster.nodes[leader].groups[0].replica.prefix
    cluster.filter = lambda s, t, m: (
        not ((isinstance(m, Accept) and m.group == 0 and m.slot == start + 1) or isinstance(m, Accepted))
    )
    outs = []
    for i in range(3):
        outs.append(cluster.submit(b, batch(7, i * 10, 10)))
        cluster.nodes[b].flush()
        cluster.settle()
    cluster.filter = lambda *_: True
    cluster.kill(leader)
    cluster.run(1.0)
    assert [o[0].error for o in outs] == [0, 0, 0]
    assert [o[0].appends[0].base_offset for o in outs] == [0, 10, 20]
    assert cluster.nodes[b].counters["own_gaps"] == 2
    assert cluster.nodes[b].groups[0].machine.partitions[TopicId(5), 0].end == 30


def test_the_epoch_in_force_at_apply_counts() -> None:
    """A batch's leader epoch is the one in force when it is applied, alike on every replica."""
    cluster = settled_cluster()
    push(cluster, cluster.leader(), batch(7, 0))
    cluster.kill(cluster.leader())
    cluster.run(0.3)
    push(cluster, cluster.leader(), batch(7, 1))
    cluster.run(0.1)
    for node in cluster.nodes.values():
        log = node.groups[0].machine.partitions[TopicId(5), 0]
        epochs = [log.entry(i).epoch for i in range(log.count)]
        assert epochs == [1, 2]


def test_a_commit_makes_chosen_only_what_was_accepted_in_its_ballot() -> None:
    """A commit index makes a slot chosen at a follower only if it accepted that slot in the committing ballot."""
    cluster = settled_cluster()
    a = followers(cluster)[0]
    replica = cluster.nodes[a].groups[0].replica
    slot = Slot(replica.prefix + 1)
    replica.acceptor.accept(replica.ballot, slot, cluster.nodes[a].noop_value(), replica.prefix)
    higher = make_ballot(99, NodeId(3))
    replica.on_commit(NodeId(3), Commit(replica.group, higher, slot))
    assert replica.prefix == slot - 1


def test_only_the_named_ballots_leader_proposes_a_forward() -> None:
    """A forward names its ballot and only that ballot's leader may propose it."""
    cluster = settled_cluster()
    leader, (a, _) = cluster.leader(), followers(cluster)
    cluster.log.clear()
    stale = make_ballot(0, leader)
    cluster.post(a, leader, Forward(cluster.nodes[a].groups[0].id, stale), b"")
    cluster.settle()
    assert [m for _, t, m in cluster.log if isinstance(m, ForwardRefused) and t == a]
    assert not [m for _, _, m in cluster.log if isinstance(m, Accept)]


def test_a_chained_partition_neither_stops_nor_flaps() -> None:
    """Prepare is polite: in A-B-C without A-C the node that lost the leader writes through the one that hears it."""
    cluster = settled_cluster()
    leader, (a, _b) = cluster.leader(), followers(cluster)
    changes = _changes(cluster)
    cluster.partition(leader, a)
    for i in range(5):
        out = cluster.submit(a, batch(9, i))
        cluster.run(2.0)
        assert out[0].error == 0
    assert _changes(cluster) == changes
    assert cluster.leader() == leader
    assert [m for s, t, m in cluster.log if isinstance(m, LeaderLives) and t == a]
    cluster.heal(leader, a)
    cluster.run(1.0)
    push(cluster, leader, batch(10, 0))
    cluster.run(1.0)
    assert len(cluster.prefixes()) == 1
    assert _changes(cluster) - changes <= 2 * len(cluster.nodes)


def test_a_declined_prepare_is_answered_when_the_leader_is_lost() -> None:
    """kill -9 breaks all links, not all at the same instant: whoever declined a moment too early promises then."""
    cluster = settled_cluster()
    leader, (a, _b) = cluster.leader(), followers(cluster)
    cluster.partition(leader, a)
    out = cluster.submit(a, batch(9, 0))
    cluster.nodes[a].flush()
    cluster.settle()
    cluster.kill(leader)
    before = cluster.clock.time
    cluster.settle()
    assert cluster.leader() == a
    assert cluster.clock.time == before
    cluster.run(0.5)
    assert out[0].error == 0


def _changes(cluster: Cluster) -> int:
    return sum(g.replica.leadership_changes for n in cluster.nodes.values() for g in n.groups)


def test_restart_of_a_follower_changes_no_leadership() -> None:
    """A node that comes back listens before it prepares."""
    cluster = settled_cluster(groups=3)
    leader = cluster.leader(0)
    idle = next(m for m in cluster.nodes if m != leader)
    for group in cluster.nodes[idle].groups:
        group.replica.handover(leader)
    cluster.run(0.3)
    assert all(cluster.leader(g) != idle for g in range(3))
    others = [m for m in cluster.nodes if m != idle]
    before = [cluster.nodes[m].groups[g].replica.leadership_changes for m in others for g in range(3)]
    cluster.kill(idle)
    cluster.run(0.5)
    cluster.start(idle)
    cluster.run(3.0)
    assert [cluster.nodes[m].groups[g].replica.leadership_changes for m in others for g in range(3)] == before
    assert len(cluster.prefixes()) == 1


def test_a_graceful_stop_hands_leadership_over() -> None:
    """A node that stops leads no more, and nobody waits for a suspicion."""
    cluster = settled_cluster()
    leader = cluster.leader()
    cluster.nodes[leader].stop()
    cluster.run(0.2)
    assert cluster.nodes[leader].stopped
    assert cluster.leader() != leader


def test_a_restart_keeps_promises_and_values() -> None:
    """A promise and a vote survive kill -9."""
    cluster = settled_cluster()
    push(cluster, cluster.leader(), batch(7, 0))
    promised = {m: n.groups[0].replica.acceptor.promised for m, n in cluster.nodes.items()}
    for member in list(cluster.nodes):
        cluster.kill(member)
    for member in cluster.members:
        cluster.start(member)
    for member in cluster.members:
        assert cluster.nodes[member].groups[0].replica.acceptor.promised >= promised[member]
    cluster.run(1.0)
    assert len(cluster.prefixes()) == 1
    assert cluster.nodes[NodeId(1)].groups[0].machine.partitions[TopicId(5), 0].end == 1
    out = push(cluster, cluster.leader(), batch(7, 0))
    assert out[0].appends[0].base_offset == 0, "the producer's window survived: a duplicate"


def test_a_wiped_disk_does_not_vote_until_it_recovered() -> None:
    """A known node with a new incarnation does not vote until it recovered from a quorum."""
    cluster = settled_cluster()
    leader, (a, b) = cluster.leader(), followers(cluster)
    push(cluster, leader, batch(7, 0))
    cluster.kill(a)
    cluster.kill(b)
    cluster.incarnations[a] = b"new incarnation!"
    cluster.start(a, wiped=True)
    cluster.run(2.0)
    assert cluster.nodes[a].identity.state == "recovering"
    out = push(cluster, leader, batch(7, 1))
    cluster.run(1.0)
    assert out == [], "the wiped node must not make a majority"
    assert not records_of(cluster.wals[a], RecordKind.ACCEPT)
    cluster.start(b)
    cluster.run(3.0)
    assert cluster.nodes[a].identity.state == "voting"
    assert out[0].error == 0
    assert len(cluster.prefixes()) == 1


@pytest.mark.parametrize(("state", "lost"), [("asking", Remembered), ("recovering", Rejoined)])
def test_a_node_in_doubt_leads_in_no_way_and_recovers(state: str, lost: type) -> None:
    """It prepares nothing while it is in doubt: not for a command, a lost leader, a handover or a refusal. So there is
    always another node's ballot to recover by; as leader of its own it would ask for one for ever."""
    cluster = settled_cluster()
    leader, (a, b) = cluster.leader(), followers(cluster)
    cluster.kill(a)
    cluster.incarnations[a] = b"new incarnation!"
    cluster.filter = lambda _, to, message: not (to == a and type(message) is lost)
    node = cluster.start(a, wiped=True)
    cluster.run(0.5)
    assert node.identity.state == state
    cluster.log.clear()
    for group in node.groups:
        ballot = group.replica.ballot
        group.replica.on_handover(leader, Handover(group.id, ballot))
        group.replica.on_refuse(b, Refuse(group.id, ballot, make_ballot(99, b)))
        group.replica.want_leader()
    cluster.partition(a, leader)
    outcome = cluster.submit(a, batch(7, 0))
    cluster.run(2.0)
    cluster.partition(a, b)
    cluster.run(2.0)
    cluster.heal(a, b)
    cluster.run(2.0)
    assert node.identity.state == state
    assert not [message for sender, _, message in cluster.log if sender == a and isinstance(message, Prepare | Accept)]
    assert not records_of(cluster.wals[a], RecordKind.PROMISE)
    cluster.filter = lambda *_: True
    cluster.heal(a, leader)
    cluster.run(3.0)
    assert node.identity.state == "voting"
    assert outcome
    assert len(cluster.prefixes()) == 1


def test_an_old_disk_put_back_is_noticed() -> None:
    """A node whose accepted slots are below what a peer remembers does not vote until it recovered."""
    cluster = settled_cluster()
    leader, (a, _) = cluster.leader(), followers(cluster)
    old = list(cluster.wals[a].durable)
    for i in range(3):
        push(cluster, leader, batch(7, i))
    cluster.kill(a)
    cluster.wals[a].durable = old
    cluster.start(a)
    cluster.settle()
    assert cluster.nodes[a].counters["recoveries"] == 1
    cluster.run(3.0)
    assert cluster.nodes[a].identity.state == "voting"
    assert len(cluster.prefixes()) == 1


def test_a_refused_leader_falls_back_to_prepare() -> None:
    """Only the owner of the highest ballot promised by a quorum may skip Prepare; on any refusal it falls back."""
    cluster = settled_cluster()
    leader, (a, b) = cluster.leader(), followers(cluster)
    ballot = cluster.nodes[leader].groups[0].replica.ballot
    for member in (a, b):
        cluster.nodes[member].groups[0].replica.acceptor.promise(make_ballot(50, member), Slot(0))
    out = push(cluster, leader, batch(7, 0))
    assert [m for _, t, m in cluster.log if isinstance(m, Refuse) and t == leader]
    cluster.run(1.0)
    assert out[0].error == 0
    now = cluster.nodes[cluster.leader()].groups[0].replica.ballot
    assert now > ballot
    assert len(cluster.prefixes()) == 1


def test_duelling_proposers_part() -> None:
    """A candidate that is overtaken by a higher ballot does not prepare again at once, though it has a command."""
    cluster = settled_cluster()
    a, b = followers(cluster)
    cluster.kill(cluster.leader())
    cluster.filter = lambda s, t, m: not isinstance(m, Prepare | Promise)
    replica = cluster.nodes[a].groups[0].replica
    replica._start_candidate(forced=False)
    cluster.settle()
    replica.on_prepare(b, Prepare(replica.group, make_ballot(900, b), Slot(1), forced=True))
    cluster.settle()
    replica.want_leader()
    assert replica.candidate is None
    assert replica.takeover.at is not None
    assert replica.takeover.at > cluster.clock.time


def test_without_a_majority_writes_are_refused_clearly() -> None:
    """Without a quorum: refuse clearly."""
    cluster = settled_cluster()
    leader = cluster.leader()
    for member in followers(cluster):
        cluster.kill(member)
    survivor = cluster.nodes[leader]
    out: list[Any] = []
    survivor.groups[0].proposals.submit(CommandKind.BARRIER, b"", out.append, cluster.clock.now() + 2.0)
    cluster.run(3.0)
    assert out[0].error in (errors.TIMEOUT, errors.NO_QUORUM)


def test_no_slot_is_chosen_twice_over_many_takeovers() -> None:
    """One value per slot, equal prefixes, whoever leads."""
    cluster = settled_cluster(seed=5)
    for i in range(12):
        leader = cluster.leader()
        outs = [cluster.submit(m, batch(100 + m, i)) for m in cluster.nodes]
        cluster.nodes[leader].flush()
        cluster.kill(leader)
        cluster.run(0.6)
        cluster.start(leader)
        cluster.run(0.6)
        assert len(cluster.prefixes()) == 1
        assert all(o and o[0].error == 0 for m, o in zip(cluster.members, outs, strict=False) if m != leader) or outs
    epochs = [n.groups[0].machine.epoch for n in cluster.nodes.values()]
    assert len(set(epochs)) == 1
    assert epochs[0] >= 12


def test_promises_come_in_chunks_and_count_when_whole() -> None:
    """A promise carries the acceptor's chosen prefix and accepted pairs, in chunks."""
    from corgi.paxos.leader import Candidate
    from corgi.paxos.quorum import Members

    members = Members([NodeId(1), NodeId(2), NodeId(3)])
    candidate = Candidate(make_ballot(3, NodeId(1)), Slot(1), members, forced=False, now=0.0)
    low, high = make_ballot(1, NodeId(2)), make_ballot(2, NodeId(3))
    first = Promise(cluster_group(), candidate.ballot, Slot(0), ((Slot(1), low, 1), (Slot(3), high, 1)), 0, last=False)
    second = Promise(cluster_group(), candidate.ballot, Slot(0), ((Slot(4), low, 1),), 1, last=True)
    candidate.on_promise(NodeId(2), second, memoryview(b"d"))
    assert not candidate.mask
    candidate.on_promise(NodeId(2), first, memoryview(b"ac"))
    assert candidate.mask
    other = Promise(cluster_group(), candidate.ballot, Slot(0), ((Slot(1), high, 1),))
    candidate.on_promise(NodeId(3), other, memoryview(b"A"))
    assert candidate.plan(Slot(0), lambda: b"-") == [
        (1, b"A", False),
        (2, b"-", True),
        (3, b"c", False),
        (4, b"d", False),
    ]
    assert all(y[0] == x[0] + 1 for x, y in pairwise(candidate.plan(Slot(0), lambda: b"-")))


def cluster_group() -> Any:
    return 0


def test_re_proposal_below_a_chosen_prefix_is_an_invariant() -> None:
    """A proposer that has not learned the highest prefix among its promises stops rather than proposes."""
    from corgi.paxos.leader import Candidate
    from corgi.paxos.quorum import Members

    members = Members([NodeId(1), NodeId(2), NodeId(3)])
    candidate = Candidate(make_ballot(3, NodeId(1)), Slot(1), members, forced=False, now=0.0)
    candidate.on_promise(NodeId(2), Promise(cluster_group(), candidate.ballot, Slot(9), ()), memoryview(b""))
    with pytest.raises(errors.CorgiError, match="chosen prefix"):
        candidate.plan(Slot(8), lambda: b"-")


def test_a_cluster_that_stops_as_a_whole_does_not_wait() -> None:
    """A node that stops hands over only to one that does not stop as well."""
    cluster = settled_cluster()
    for node in cluster.nodes.values():
        node.stop()
    cluster.run(0.3)
    assert all(node.stopped for node in cluster.nodes.values())


def test_a_node_whose_disk_is_full_learns_nothing_until_there_is_room() -> None:
    """What is learned is written down; on a full disk it would wait in memory, without bound."""
    cluster = settled_cluster(groups=1)
    leader, (full, _) = cluster.leader(), followers(cluster)
    cluster.wals[full].room = 0
    cluster.nodes[full].log_full(True)
    cluster.wals[full].held = True
    for sequence in range(100):
        push(cluster, leader, batch(7, sequence))
        cluster.run(0.02)
    assert len(cluster.wals[full].waiting) < 5
    assert len(cluster.prefixes()) == 2
    cluster.wals[full].held = False
    cluster.nodes[full].log_full(False)
    cluster.run(1.0)
    assert len(cluster.prefixes()) == 1


def test_a_node_that_can_neither_follow_nor_lead_tells_the_leader_without_writes() -> None:
    """A node that promised more than a leader has, knows no leader and may not lead refuses the leader's heartbeats."""
    cluster = settled_cluster()
    leader, (a, b) = cluster.leader(), followers(cluster)
    ballot = cluster.nodes[leader].groups[0].replica.ballot
    cluster.nodes[a].groups[0].replica.acceptor.promise(make_ballot(50, b), Slot(0))  # b was not heard of again
    cluster.settle()
    cluster.kill(a)
    cluster.start(a)
    cluster.nodes[a].may_lead = lambda group: False  # type: ignore[method-assign]
    cluster.run(3.0)
    replica = cluster.nodes[a].groups[0].replica
    assert replica.leader == cluster.leader()
    assert replica.ballot > ballot
