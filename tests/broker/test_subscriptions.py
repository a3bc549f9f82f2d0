"""Subscriptions: pushed in the turn of apply, within credit, to slow and fast clients, until they end."""

from __future__ import annotations

import pytest

from corgi.base import errors
from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.delivery import limits, session, turns
from corgi.wire import messages as m
from one_node import OneNode, a_batch, produce_of

CREDIT = 2**20


def values(records) -> list[bytes | None]:
    return [record.value for record in records]


def test_batches_are_pushed_in_the_turn_in_which_they_are_applied() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    reply = client.call(m.Subscribe(5, topic, 0, 0, CREDIT))
    assert reply == m.SubscribeReply(0, 0, 0)
    writer = node.client()
    writer.ask(*produce_of(2, (topic, 0, a_batch(b"a", b"b"))))
    assert not client.pushes
    node.turn()
    ((message, payload),) = client.pushes
    assert message == m.Deliver(5, 2, (len(payload),), 0)
    assert values(client.delivered(5)) == [b"a", b"b"]
    node.turns()
    assert len(client.pushes) == 1


def test_every_batch_comes_once_and_in_order_from_the_offset_on() -> None:
    node = OneNode()
    topic = node.create()
    for i in range(10):
        node.produce(topic, 0, b"%d" % i)
    client = node.client()
    client.call(m.Subscribe(1, topic, 0, 4, CREDIT))
    for i in range(10, 15):
        node.produce(topic, 0, b"%d" % i)
    records = client.delivered(1)
    assert [record.offset for record in records] == list(range(4, 15))
    assert values(records) == [b"%d" % i for i in range(4, 15)]


def test_one_turn_serves_all_subscriptions_of_all_clients() -> None:
    node = OneNode()
    topic = node.create("t", 4)
    clients = [node.client() for _ in range(3)]
    for client in clients:
        for p in range(4):
            client.call(m.Subscribe(p, topic, p, 0, CREDIT))
    node.client().ask(*produce_of(2, *[(topic, p, a_batch(b"%d" % p)) for p in range(4)]))
    node.turn()
    for client in clients:
        assert [values(client.delivered(p)) for p in range(4)] == [[b"%d" % p] for p in range(4)]


def test_nothing_is_pushed_without_credit_and_a_batch_may_overdraw_it() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    client.call(m.Subscribe(1, topic, 0, 0, 10))
    for i in range(3):
        node.produce(topic, 0, b"%d" % i)
    assert values(client.delivered(1)) == [b"0"], "larger than the whole credit, but it passes"
    size = len(client.pushes[0][1])
    client.call(m.Ping())
    client.ask(m.Credit(((1, size - 10),)))
    node.turns()
    assert values(client.delivered(1)) == [b"0"], "the debt is only just paid"
    client.ask(m.Credit(((1, 2 * size), (77, 5))))
    node.turns()
    assert values(client.delivered(1)) == [b"0", b"1", b"2"]


def test_credit_is_never_answered_and_too_much_of_it_ends_the_subscription() -> None:
    node = OneNode()
    topic = node.create("t", 2)
    client = node.client()
    for p in (0, 1):
        client.call(m.Subscribe(p, topic, p, 0, 100))
    credit = client.ask(m.Credit(((0, limits.CREDIT_MAX), (1, 0))))
    node.turns()
    assert credit not in client.replies
    ended = client.take(m.SubscriptionEnded)
    assert [(e.subscription, e.error) for e in ended] == [(0, errors.INVALID_ARGUMENT), (1, errors.INVALID_ARGUMENT)]
    assert not list(node.requests.pushes.sessions())


def test_modes_and_switches_are_visible() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    client.call(m.Subscribe(1, topic, 0, 0, 200))
    (one,) = node.requests.pushes.sessions()
    assert one.statistics().mode == session.TAIL
    for i in range(6):
        node.produce(topic, 0, b"%d" % i)
    seen = one.statistics()
    assert (seen.mode, seen.switches) == (session.CATCHING_UP, 1)
    assert seen.behind == 6 - seen.offset
    counters = node.requests.counters()
    assert counters["delivery_catching_up"] == 1
    assert counters["delivery_out_of_credit"] == 1
    client.ask(m.Credit(((1, CREDIT),)))
    node.turns()
    assert (one.statistics().mode, one.statistics().behind) == (session.TAIL, 0)
    counters = node.requests.counters()
    assert (counters["delivery_to_catching_up"], counters["delivery_to_tail"]) == (1, 1)
    assert counters["delivery_sessions_begun"] == 1
    client.call(m.Unsubscribe(1))
    client.call(m.Subscribe(2, topic, 0, 6, 200))
    assert node.requests.counters()["delivery_sessions_begun"] == 2
    assert counters["delivered_batches"] == 6


def test_at_the_tail_requests_are_few_when_credit_is_granted_at_half() -> None:
    node = OneNode()
    topic = node.create("t", 4)
    client = node.client()
    window = 20_000
    for p in range(4):
        client.call(m.Subscribe(p, topic, p, 0, window))
    before = dict(node.requests.counters())
    used = dict.fromkeys(range(4), 0)
    seen = 0
    for i in range(1000):
        node.client().ask(*produce_of(2, (topic, i % 4, a_batch(b"x" * 200))))
        node.turn()
        for message, payload in client.pushes[seen:]:
            used[message.subscription] += len(payload)
        seen = len(client.pushes)
        if max(used.values()) > window // 2:
            client.ask(m.Credit(tuple([(p, size) for p, size in used.items() if size])))
            used = dict.fromkeys(range(4), 0)
    after = node.requests.counters()
    delivered = after["delivered_batches"] - before["delivered_batches"]
    asked = after["client_requests"] - before["client_requests"] - 1000
    assert delivered == 1000
    assert 0 < asked < 0.1 * delivered


def test_a_client_that_does_not_read_holds_up_nobody_and_costs_no_reads() -> None:
    node = OneNode()
    topic = node.create()
    slow, fast = node.client(), node.client()
    for client in (slow, fast):
        client.call(m.Subscribe(1, topic, 0, 0, CREDIT))
    slow.backlog = limits.CLIENT_BUFFER_HIGH
    for i in range(5):
        node.produce(topic, 0, b"%d" % i)
    assert not slow.pushes
    assert len(fast.delivered(1)) == 5
    assert node.requests.counters()["delivery_clients_parked"] == 1
    node.chill()
    node.produce(topic, 0, b"5")
    assert not node.reads, "nothing is read for a client that does not take it"
    slow.backlog = 0
    node.requests.session_drained(slow)
    node.turns()
    node.thaw(len(node.reads))
    assert values(slow.delivered(1)) == [b"%d" % i for i in range(6)]
    assert node.requests.counters()["delivery_clients_parked"] == 0


def test_a_client_whose_draining_nobody_told_is_found_in_time() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    client.call(m.Subscribe(1, topic, 0, 0, CREDIT))
    client.backlog = limits.CLIENT_BUFFER_HIGH
    node.produce(topic, 0, b"v")
    client.backlog = 0
    deadline = node.requests.next_deadline()
    assert deadline == pytest.approx(node.time + limits.PARKED_CHECK_S)
    node.wait(limits.PARKED_CHECK_S + 0.001)
    assert len(client.delivered(1)) == 1
    assert node.requests.next_deadline() is None


def test_a_long_backlog_is_pushed_in_bounded_turns_and_does_not_delay_the_tail(monkeypatch) -> None:
    monkeypatch.setattr(turns, "BACKLOG_TURN_BATCHES", 16)
    monkeypatch.setattr(session, "QUANTUM_BATCHES", 4)
    node = OneNode(groups=1)
    topic = node.create("t", 2)
    for i in range(100):
        node.produce(topic, 0, b"%d" % i)
    behind, also_behind, tail = node.client(), node.client(), node.client()
    tail.call(m.Subscribe(1, topic, 1, 0, CREDIT))
    behind.ask(m.Subscribe(1, topic, 0, 0, CREDIT))
    also_behind.ask(m.Subscribe(1, topic, 0, 0, CREDIT))
    node.client().ask(*produce_of(2, (topic, 1, a_batch(b"news"))))
    node.turn()
    assert len(tail.delivered(1)) == 1
    assert (len(behind.delivered(1)), len(also_behind.delivered(1))) == (4, 4), "in turn"
    assert node.requests.next_deadline() == node.time, "the rest goes on at once"
    node.turns()
    assert len(behind.delivered(1)) == len(also_behind.delivered(1)) == 100


def test_a_busy_tail_does_not_starve_who_is_behind(monkeypatch) -> None:
    monkeypatch.setattr(turns, "TAIL_TURN_BATCHES", 2)
    node = OneNode(groups=1)
    topic = node.create("t", 2)
    for i in range(20):
        node.produce(topic, 0, b"%d" % i)
    busy, behind = node.client(), node.client()
    busy.call(m.Subscribe(1, topic, 1, 0, CREDIT))
    behind.ask(m.Subscribe(1, topic, 0, 0, CREDIT))
    for i in range(3):
        node.client().ask(*produce_of(2, *[(topic, 1, a_batch(b"%d" % i))] * 5))
        node.turn()
    assert len(behind.delivered(1)) == 20
    assert len(busy.delivered(1)) >= 6
    node.turns()
    assert len(busy.delivered(1)) == 15


def test_cold_values_come_in_order_whatever_the_order_of_the_disk() -> None:
    node = OneNode(groups=1)
    topic = node.create("t", 2)
    for i in range(8):
        node.produce(topic, i % 2, b"%d" % i)
    node.chill()
    client = node.client()
    client.ask(m.Subscribe(0, topic, 0, 0, CREDIT))
    client.ask(m.Subscribe(1, topic, 1, 0, CREDIT))
    node.turns()
    assert len(client.replies) == 2
    assert not client.pushes
    while node.reads:
        node.thaw(1, last=True)
    assert values(client.delivered(0)) == [b"0", b"2", b"4", b"6"]
    assert values(client.delivered(1)) == [b"1", b"3", b"5", b"7"]
    assert node.requests.counters()["cold_reads"] == 8


def test_a_value_is_read_once_for_all_who_want_it() -> None:
    node = OneNode()
    topic = node.create()
    node.produce(topic, 0, b"v")
    node.chill()
    clients = [node.client() for _ in range(5)]
    for client in clients:
        client.ask(m.Subscribe(1, topic, 0, 0, CREDIT))
    node.turns()
    assert len(node.reads) == 1
    node.thaw()
    for client in clients:
        assert values(client.delivered(1)) == [b"v"]


def test_a_damaged_value_ends_its_subscription_and_no_other() -> None:
    node = OneNode()
    topic = node.create("t", 2)
    for p in (0, 1):
        node.produce(topic, p, b"%d" % p)
    node.chill()
    client = node.client()
    for p in (0, 1):
        client.ask(m.Subscribe(p, topic, p, 0, CREDIT))
    node.turns()
    _, done = node.reads.pop(0)
    done(CorgiError("record-damaged"))
    node.turns()
    node.thaw()
    (ended,) = client.take(m.SubscriptionEnded)
    assert (ended.subscription, ended.error) == (0, errors.RECORD_DAMAGED)
    assert values(client.delivered(1)) == [b"1"]


def test_deleting_a_topic_ends_its_subscriptions() -> None:
    node = OneNode()
    topic, other = node.create("t", 2), node.create("other")
    client = node.client()
    for p in (0, 1):
        client.call(m.Subscribe(p, topic, p, 0, CREDIT))
    client.call(m.Subscribe(2, other, 0, 0, CREDIT))
    node.client().call(m.DeleteTopic("t"))
    ended = client.take(m.SubscriptionEnded)
    assert sorted((e.subscription, e.error) for e in ended) == [(0, errors.UNKNOWN_TOPIC), (1, errors.UNKNOWN_TOPIC)]
    node.produce(other, 0, b"still")
    assert values(client.delivered(2)) == [b"still"]
    assert client.call(m.Subscribe(0, topic, 0, 0, CREDIT)).error == errors.UNKNOWN_TOPIC


def test_deleting_a_topic_ends_also_who_waits_for_the_disk_or_has_no_credit() -> None:
    node = OneNode()
    topic = node.create()
    for _ in range(2):
        node.produce(topic, 0, b"v")
    poor, cold = node.client(), node.client()
    poor.call(m.Subscribe(1, topic, 0, 0, 1))
    node.chill()
    cold.ask(m.Subscribe(1, topic, 0, 0, CREDIT))
    node.turns()
    assert node.reads
    node.client().call(m.DeleteTopic("t"))
    assert len(poor.take(m.SubscriptionEnded)) == 1
    assert len(cold.take(m.SubscriptionEnded)) == 1
    node.thaw(len(node.reads))
    assert not cold.pushes


def test_an_offset_beyond_the_end_is_confirmed_and_credit_meanwhile_counts() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    correlation = client.ask(m.Subscribe(1, topic, 0, 1, 1))
    barrier = node.submitted.pop()
    client.ask(m.Credit(((1, 1000),)))
    second = client.call(m.Subscribe(1, topic, 0, 1, 1))
    assert second.error == errors.INVALID_ARGUMENT
    node.produce(topic, 0, b"a")
    node.submitted.append(barrier)
    node.turns()
    assert client.answer(correlation) == m.SubscribeReply(0, 1, 0)
    for i in range(3):
        node.produce(topic, 0, b"%d" % i)
    assert len(client.delivered(1)) == 3


def test_an_offset_beyond_the_confirmed_end_is_refused() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    assert client.call(m.Subscribe(1, topic, 0, 1, CREDIT)).error == errors.OFFSET_OUT_OF_RANGE
    node.answer_instead = lambda group, kind: errors.NO_QUORUM
    assert client.call(m.Subscribe(1, topic, 0, 1, CREDIT)).error == errors.NO_QUORUM


def test_unsubscribing_ends_the_pushes_also_before_they_began() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    client.call(m.Subscribe(1, topic, 0, 0, CREDIT))
    assert client.call(m.Unsubscribe(1)) == m.UnsubscribeReply()
    client.ask(m.Subscribe(2, topic, 0, 1, CREDIT))
    assert client.call(m.Unsubscribe(2)) == m.UnsubscribeReply()
    assert client.call(m.Unsubscribe(3)) == m.UnsubscribeReply()
    node.produce(topic, 0, b"a")
    node.produce(topic, 0, b"b")
    assert not client.pushes
    assert not node.requests.barriers._by_client


def test_a_client_that_left_leaves_nothing_behind() -> None:
    node = OneNode()
    topic = node.create()
    for _ in range(3):
        node.produce(topic, 0, b"v")
    node.chill()
    client = node.client()
    client.ask(m.Subscribe(1, topic, 0, 0, CREDIT))
    client.ask(m.Subscribe(2, topic, 0, 50, CREDIT))
    parked = node.client()
    parked.call(m.Subscribe(1, topic, 0, 3, CREDIT))
    parked.backlog = limits.CLIENT_BUFFER_HIGH
    node.produce(topic, 0, b"w")
    node.requests.flush()
    for gone in (client, parked):
        gone.close()
    node.thaw(len(node.reads))
    node.wait(1.0)
    pushes, schedule = node.requests.pushes, node.requests.schedule
    assert not pushes._by_client
    assert not pushes._by_partition
    assert not schedule._parked
    assert not schedule._backlog
    assert not node.requests.subscriptions._starting
    assert not node.requests.values._reads


def test_subscriptions_of_unknown_partitions_are_refused_in_the_reply() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    for place, error in (
        ((topic, 1), errors.UNKNOWN_PARTITION),
        ((TopicId(2**31), 0), errors.UNKNOWN_TOPIC),
        ((TopicId(topic + 1), 0), errors.PARTITION_NOT_OPEN),
    ):
        reply = client.call(m.Subscribe(1, *place, 0, CREDIT))
        assert isinstance(reply, m.SubscribeReply)
        assert reply.error == error


def test_the_subscriptions_of_a_connection_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr("corgi.delivery.pushes.SUBSCRIPTIONS_MAX", 3)
    node = OneNode()
    topic = node.create()
    client = node.client()
    for i in range(3):
        assert client.call(m.Subscribe(i, topic, 0, 0, CREDIT)).error == 0
    assert client.call(m.Subscribe(3, topic, 0, 0, CREDIT)).error == errors.OVERLOADED
    assert client.call(m.Subscribe(2, topic, 0, 0, CREDIT)).error == errors.INVALID_ARGUMENT


def test_a_stopping_node_sends_subscribers_to_another_node() -> None:
    node = OneNode()
    topic = node.create()
    client = node.client()
    client.call(m.Subscribe(1, topic, 0, 0, CREDIT))
    node.stopping = True
    node.requests.stopping()
    (ended,) = client.take(m.SubscriptionEnded)
    assert ended.error == errors.NOT_LEADER
    assert client.call(m.Subscribe(1, topic, 0, 0, CREDIT)).error == errors.NOT_LEADER
