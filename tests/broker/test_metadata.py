"""Metadata, watching, topics, producer ids, status and ping."""

from __future__ import annotations

from types import SimpleNamespace

from corgi.base import errors
from corgi.base.ids import Ballot, NodeId
from corgi.broker.producer_ids import EPOCH_MS, IDS_PER_MS, ProducerIds
from corgi.delivery import limits
from corgi.wire import messages as m
from one_node import OneNode


def test_metadata_tells_nodes_groups_and_topics() -> None:
    node = OneNode(groups=4)
    topic = node.create("b", 3)
    node.create("a")
    node.groups[2].replica.leader = NodeId(3)
    node.groups[2].replica.ballot = Ballot(9 << 16 | 3)
    reply = node.client().call(m.Metadata())
    assert reply.cluster == (b"c" * 16).hex()
    assert [(n.node, n.port, n.alive, n.label) for n in reply.nodes] == [
        (1, 9001, True, "host-1"),
        (2, 9002, True, "host-2"),
        (3, 9003, False, "host-3"),
    ]
    assert [group.replicas for group in reply.groups] == [(1, 2, 3), (2, 3, 1), (3, 1, 2), (1, 2, 3)]
    assert (reply.groups[2].leader, reply.groups[2].term) == (3, 9 << 16 | 3)
    assert [t.name for t in reply.topics] == ["b", "a"]
    assert reply.topics[0].groups == tuple(node.group_of(topic, p) for p in range(3))


def test_a_topic_is_called_unknown_only_after_the_log_confirmed_it() -> None:
    node = OneNode()
    client = node.client()
    correlation = client.ask(m.Metadata(("made-elsewhere", "never-made")))
    barrier = node.submitted.pop()
    node.create("made-elsewhere")
    assert not client.replies
    node.submitted.append(barrier)
    node.turns()
    assert [t.error for t in client.answer(correlation).topics] == [0, errors.UNKNOWN_TOPIC]
    node.answer_instead = lambda group, kind: errors.NO_QUORUM
    assert [t.error for t in client.call(m.Metadata(("made-elsewhere", "never-made"))).topics] == [0, errors.NO_QUORUM]


def test_watchers_are_told_once_per_turn_and_others_never() -> None:
    node = OneNode(groups=4)
    watcher, other = node.client(), node.client()
    watcher.call(m.Metadata(watch=True))
    other.call(m.Metadata())
    for number in (1, 3, 1):
        node.groups[number].replica.ballot = Ballot(7 << 16 | 2)
        node.groups[number].replica.leader = NodeId(2)
        node.requests.leader_changed(node.groups[number])
    node.turns()
    assert watcher.take(m.LeaderChanged) == [m.LeaderChanged(((1, 2, 7 << 16 | 2), (3, 2, 7 << 16 | 2)))]
    node.create("t")
    node.client().call(m.DeleteTopic("t"))
    assert {name for message in watcher.take(m.TopicsChanged) for name in message.names} == {"t"}
    assert not other.pushes
    watcher.close()
    node.create("u")
    assert not watcher.pushes


def test_a_slow_watcher_is_told_the_sum_when_it_reads_again() -> None:
    node = OneNode()
    watcher = node.client()
    watcher.call(m.Metadata(watch=True))
    watcher.backlog = limits.CLIENT_BUFFER_HIGH
    node.create("a")
    node.create("b")
    node.requests.leader_changed(node.groups[1])
    node.turns()
    assert not watcher.pushes
    watcher.backlog = 0
    node.requests.session_drained(watcher)
    assert set(watcher.take(m.TopicsChanged)[0].names) == {"a", "b"}
    assert len(watcher.take(m.LeaderChanged)) == 1
    assert not watcher.pushes


def test_topics_are_created_altered_and_deleted() -> None:
    node = OneNode()
    client = node.client()
    node.create("t", 2)
    again = client.call(m.CreateTopic("t", 2))
    assert (again.error, isinstance(again, m.TopicReply)) == (errors.TOPIC_EXISTS, True)
    assert client.call(m.CreateTopic("__own", 1)).error == errors.INVALID_TOPIC_NAME
    altered = client.call(m.AlterTopic("t", 3, {"retention_ms": "1000"}))
    assert len(altered.topic.groups) == 3
    assert altered.topic.config == {"retention_ms": "1000"}
    assert client.call(m.DeleteTopic("t")).error == 0
    assert client.call(m.DeleteTopic("t")).error == errors.UNKNOWN_TOPIC


def test_producer_ids_differ_between_nodes_milliseconds_and_requests() -> None:
    ids = [ProducerIds(NodeId(n)) for n in (1, 2, 65_535)]
    wall = EPOCH_MS + 123_456_789
    given = [each.next(wall + ms, ()) for ms in range(3) for each in ids for _ in range(IDS_PER_MS)]
    assert None not in given
    assert len(set(given)) == len(given)
    assert all(0 < number < 2**63 for number in given if number is not None)
    assert given == sorted(given, key=lambda number: (number or 0) >> 22)


def test_producer_ids_wait_for_the_next_millisecond_when_this_one_is_used_up() -> None:
    node = OneNode()
    node.wait(5.0)
    client = node.client()
    asked = [client.ask(m.InitProducer()) for _ in range(IDS_PER_MS + 3)]
    node.turn()
    assert len(client.replies) == IDS_PER_MS
    assert node.requests.next_deadline() == node.time + 0.001
    node.wait(0.0015)
    numbers = [client.answer(correlation).producer_id for correlation in asked]
    assert len(set(numbers)) == len(asked)
    assert all(client.answer(correlation).producer_epoch == 0 for correlation in asked)


def test_producer_ids_do_not_repeat_when_the_clock_was_set_back() -> None:
    ids = ProducerIds(NodeId(1))
    wall = EPOCH_MS + 10_000_000
    given = [ids.next(wall, ()) for _ in range(10)]
    given += [ids.next(wall - 5_000, ()) for _ in range(3 * IDS_PER_MS)]
    assert None not in given
    assert len(set(given)) == len(given)
    restarted = ProducerIds(NodeId(1))
    after = restarted.next(wall - 5_000, [wall + 50])
    assert after is not None
    assert after > max(number for number in given if number is not None)


def test_producer_ids_of_several_starts_differ_while_the_clock_is_behind_log_time() -> None:
    wall = EPOCH_MS + 10_000_000
    starts = [ProducerIds(NodeId(1), boot) for boot in range(wall, wall + 100)]
    given = [ids.next(wall, [wall + 3_000]) for ids in starts for _ in range(50)]
    assert len(set(given)) == len(given)
    assert min(number for number in given if number is not None) >> 22 > wall + 3_000 - EPOCH_MS


def test_producer_ids_go_out_until_2089() -> None:
    number = ProducerIds(NodeId(1)).next(EPOCH_MS + 2**41 - 1, ())
    assert number is not None
    assert number < 2**63


def test_status_tells_groups_peers_and_counters() -> None:
    node = OneNode(groups=2)
    node.counters["takeovers"] = 3
    node.groups[1].replica.role = "follower"
    node.groups[1].proposals = (SimpleNamespace(), SimpleNamespace())
    node.time += 7.0
    reply = node.client().call(m.Status())
    assert (reply.node, reply.software, reply.voting) == (1, "corgi test", True)
    assert reply.uptime_s >= 7.0
    assert reply.peers[0] == (2, True, 0.01, 1.5)
    assert [(g.group, g.role, g.pending) for g in reply.groups] == [(0, "leader", 0), (1, "follower", 2)]
    assert reply.counters["takeovers"] == 3
    assert reply.counters["client_requests_status"] == 1
    assert reply.counters["fetches_waiting"] == 0
    node.wait(1.0)
    assert node.counters["client_requests_status"] == 1, "metrics read the node's counters"
    assert "fetches_waiting" not in node.counters
    node.groups[0].replica.role = "recovering"
    assert not node.client().call(m.Status()).voting


def test_ping() -> None:
    assert OneNode().client().call(m.Ping()) == m.Pong()
