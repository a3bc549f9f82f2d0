"""Consumer groups at their coordinator: who gets what, when it moves, and what a commit may do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.base.command import CommandKind
from corgi.base.errors import BY_NUMBER
from corgi.base.ids import TopicId
from corgi.broker.assignment import assign
from corgi.broker.consumer_group import CLOSED_GRACE_S
from corgi.broker.coordinator import TURN_S
from corgi.state.commands import Owner, encode_owner
from corgi.wire import group_messages as g
from corgi.wire import messages as m
from one_node import Client, OneNode, a_batch


class Consumer:
    """A member as the SDK is one: it takes what it is shown, and lets go at once unless told to be ``slow``."""

    def __init__(
        self, node: OneNode, name: str, *topics: str, slices: int = 1, instance: str = "", slow: bool = False
    ) -> None:
        self.node = node
        self.name = name
        self.client: Client = node.client()
        self.topics = topics or ("t",)
        self.slices = slices
        self.instance = instance
        self.slow = slow
        self.epoch = 0
        self.held: dict[g.Unit, g.Assigned] = {}
        self.error = "ok"
        self.read = 0

    def beat(self, *, leave: bool = False) -> None:
        owned = tuple((*unit, assigned.owner_epoch) for unit, assigned in self.held.items())
        message = g.GroupHeartbeat(
            "billing", self.name, self.epoch, self.topics, self.instance, "test", self.slices, owned=owned, leave=leave
        )
        reply: Any = self.client.call(message)
        self.error = BY_NUMBER[reply.error].code if reply.error else "ok"
        if reply.error:
            return
        if reply.assignment is not None and not leave:
            given = {(one.topic, one.partition, one.slice): one for one in reply.assignment}
            self.held = {**self.held, **given} if self.slow else given
        self.epoch = reply.epoch

    def told(self) -> bool:
        """Whether it was pushed that something changed since last asked."""
        pushes = [message for message, _ in self.client.pushes if isinstance(message, g.GroupChanged)]
        news, self.read = len(pushes) > self.read, len(pushes)
        return news

    def commit(self, unit: g.Unit, offset: int, version: int = -1, results: tuple[Any, ...] = (), **fields: Any) -> Any:
        entry = g.CommitEntry(*unit, self.held[unit].owner_epoch, version, offset, **fields)
        table = tuple((topic, partition, len(batch)) for topic, partition, batch in results)
        payload = b"".join(batch for _, _, batch in results)
        return self.client.call(g.Commit("billing", self.name, 1000, (entry,), table), payload)


def settle(*consumers: Consumer) -> None:
    """Heartbeats for whoever is told of news, until nobody is."""
    for consumer in consumers:
        consumer.beat()
    for _ in range(20):
        busy = [consumer for consumer in consumers if consumer.told()]
        if not busy:
            return
        for consumer in busy:
            consumer.beat()  # takes the new assignment
            consumer.beat()  # tells what is held now
    raise AssertionError("the group does not come to rest")


def world(partitions: int = 6) -> tuple[OneNode, TopicId]:
    node = OneNode()
    return node, node.create("t", partitions)


def describe(node: OneNode) -> Any:
    return node.client().call(g.DescribeGroup("billing"))


# -- who gets what ----------------------------------------------------------------------------------------------------

members = st.sets(st.sampled_from("abcdefgh"), min_size=1)


@given(members, members, st.integers(1, 40), st.integers(1, 3))
def test_an_assignment_is_even_and_moves_only_what_must(
    before: set[str], after: set[str], partitions: int, slices: int
) -> None:
    units = [(TopicId(16), p, s) for p in range(partitions) for s in range(slices)]
    first = assign({name: {TopicId(16)} for name in before}, units, {})
    second = assign({name: {TopicId(16)} for name in after}, units, first)
    for wanted, got in ((before, first), (after, second)):
        loads = Counter(dict.fromkeys(wanted, 0)) + Counter(got.values())
        counts = [loads[name] for name in wanted]
        assert set(got) == set(units)
        assert set(got.values()) <= wanted
        assert max(counts) - min(counts) <= 1
    homeless = sum(first[unit] not in after for unit in units)
    fair = len(units) // len(after)
    newcomers = sum(min(fair + 1, list(second.values()).count(name)) for name in after - before)
    assert sum(first[unit] != second[unit] for unit in units) <= max(homeless, newcomers) + len(after)
    assert assign({name: {TopicId(16)} for name in after}, units, second) == second


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.integers(16, 19)), min_size=1), st.integers(1, 8))
def test_nobody_gets_what_it_does_not_want(wishes: dict[str, set[int]], partitions: int) -> None:
    units = [(TopicId(topic), p, 0) for topic in range(16, 20) for p in range(partitions)]
    got = assign({name: {TopicId(t) for t in topics} for name, topics in wishes.items()}, units, {})
    assert all(unit[0] in wishes[member] for unit, member in got.items())
    assert {unit[0] for unit in got} == set().union(*wishes.values())


def test_one_member_gets_everything() -> None:
    node, topic = world()
    one = Consumer(node, "one")
    settle(one)
    assert sorted(one.held) == [(topic, p, 0) for p in range(6)]
    assert {(a.name, a.owner_epoch, a.version, a.offset) for a in one.held.values()} == {("t", 1, 0, -1)}
    assert describe(node).state == "stable"


def test_a_second_member_gets_half_and_the_rest_never_pauses() -> None:
    node, _ = world()
    one, two = Consumer(node, "one"), Consumer(node, "two")
    settle(one)
    kept = dict(one.held)
    settle(one, two)
    assert len(one.held) == len(two.held) == 3
    assert not set(one.held) & set(two.held)
    assert all(kept[unit] == assigned for unit, assigned in one.held.items()), "no new owner epoch: nothing happened"
    assert {assigned.owner_epoch for assigned in two.held.values()} == {2}


def test_a_unit_moves_when_its_holder_has_let_go() -> None:
    node, _ = world(2)
    one, two = Consumer(node, "one", slow=True), Consumer(node, "two")
    settle(one)
    two.beat()
    for _ in range(5):
        one.beat()
        two.beat()
    assert len(one.held) == 2
    assert not two.held
    assert describe(node).state == "rebalancing"
    one.slow = False
    one.epoch = 0  # asks anew
    settle(one, two)
    assert len(one.held) == len(two.held) == 1


def test_whoever_does_not_let_go_in_time_is_fenced() -> None:
    node, _ = world(2)
    one, two = Consumer(node, "one", slow=True), Consumer(node, "two")
    settle(one)
    two.beat()
    for _ in range(8):
        node.wait(5.0)
        one.beat()
        two.beat()
    (moved,) = two.held
    reply = one.commit(moved, 0)
    assert BY_NUMBER[reply.entries[0]].code == "consumer-fenced"


def test_a_holder_has_its_time_from_when_it_knows_what_it_has_to_let_go() -> None:
    node, _ = world(2)
    one, two = Consumer(node, "one", slow=True), Consumer(node, "two")
    settle(one)
    two.beat()
    known = one.epoch
    for _ in range(7):  # 35 s, more than its rebalance time, and no answer reaches it
        node.wait(5.0)
        one.beat()
        one.epoch = known
        two.beat()
    assert not two.held
    for _ in range(2):
        node.wait(4.0)
        one.beat()
        two.beat()
    assert len(two.held) == 1  # nor may it ignore its answers for ever


def test_a_silent_member_loses_everything() -> None:
    node, _ = world()
    one, two = Consumer(node, "one"), Consumer(node, "two")
    settle(one, two)
    for _ in range(6):
        node.wait(2.0)
        two.beat()
    settle(two)
    assert len(two.held) == 6
    one.beat()
    assert one.error == "unknown-member"


def test_a_member_whose_connection_closed_is_given_three_seconds() -> None:
    node, _ = world()
    one, two = Consumer(node, "one"), Consumer(node, "two")
    settle(one, two)
    one.client.close()
    node.wait(CLOSED_GRACE_S - 0.5)
    settle(two)
    assert len(two.held) == 3
    node.wait(1.0)
    settle(two)
    assert len(two.held) == 6


def test_a_member_that_comes_back_on_another_connection_keeps_what_it_holds() -> None:
    node, _ = world()
    one, two = Consumer(node, "one"), Consumer(node, "two")
    settle(one, two)
    held = dict(one.held)
    one.client.close()
    one.client, one.read = node.client(), 0
    one.beat()
    node.wait(CLOSED_GRACE_S + 1.0)
    settle(one, two)
    assert one.held == held


def test_a_member_that_leaves_is_missed_at_once() -> None:
    node, _ = world()
    one, two = Consumer(node, "one"), Consumer(node, "two")
    settle(one, two)
    one.beat(leave=True)
    settle(two)
    assert len(two.held) == 6


def test_a_new_process_of_the_same_instance_takes_its_place() -> None:
    node, _ = world()
    one, two = Consumer(node, "one", instance="rack-1"), Consumer(node, "two", instance="rack-2")
    settle(one, two)
    kept = dict(two.held)
    again = Consumer(node, "one-again", instance="rack-1")
    settle(again, two)
    assert set(again.held) == set(one.held)
    assert two.held == kept
    one.beat()
    assert one.error == "unknown-member"


def test_slices_are_units_like_partitions() -> None:
    node, _ = world(1)
    consumers = [Consumer(node, name, slices=16) for name in ("one", "two", "three")]
    settle(*consumers)
    assert sorted(len(consumer.held) for consumer in consumers) == [5, 5, 6]
    other = Consumer(node, "four", slices=8)
    other.beat()
    assert other.error == "invalid-argument"


def test_partitions_and_topics_that_come_later_are_given_out() -> None:
    node, _ = world(1)
    one = Consumer(node, "one", "t", "later")
    settle(one)
    assert len(one.held) == 1
    node.create("later", 3)
    settle(one)
    assert len(one.held) == 4


def test_a_coordinator_that_was_elected_anew_knows_who_holds_what() -> None:
    node, _ = world()
    one, two = Consumer(node, "one"), Consumer(node, "two")
    settle(one, two)
    held = dict(one.held), dict(two.held)
    for group in node.groups:
        group.replica.ballot += 1 << 16
        node.requests.leader_changed(group)
    settle(one, two)
    assert (one.held, two.held) == held
    assert (one.error, two.error) == ("ok", "ok")
    assert node.counters["group_claims"] == 6 + 3


def test_a_node_that_does_not_lead_says_so() -> None:
    node, _ = world()
    for group in node.groups:
        group.replica.leading = False
    one = Consumer(node, "one")
    one.beat()
    assert one.error == "not-leader"


# -- commits ----------------------------------------------------------------------------------------------------------


def test_a_new_owner_goes_on_at_the_checkpoint() -> None:
    node, topic = world(1)
    for i in range(10):
        node.produce(topic, 0, b"%d" % i)
    one = Consumer(node, "one")
    settle(one)
    assert one.commit((topic, 0, 0), 4, ranges=((6, 8),), metadata="so far").entries == (0,)
    one.beat(leave=True)
    two = Consumer(node, "two")
    settle(two)
    (assigned,) = two.held.values()
    assert assigned == g.Assigned("t", topic, 0, 0, 2, 1, 4, ((6, 8),), "so far")
    assert BY_NUMBER[one.commit((topic, 0, 0), 5).entries[0]].code == "consumer-fenced"


def test_cursors_of_a_topic_that_is_deleted_meanwhile_are_left_out() -> None:
    node, topic = world()
    kept = node.create("kept", 1)
    client = node.client()
    client.ask(m.DeleteTopic("t"))
    asked = client.ask(g.Cursors("billing", ((topic, 0, 0), (kept, 0, 0))))
    node.turns()
    assert [one.topic for one in client.answer(asked).cursors] == [kept]


def test_each_checkpoint_of_a_commit_stands_for_itself() -> None:
    node, topic = world(3)
    for p in range(3):
        node.produce(topic, p, b"x")
    one = Consumer(node, "one")
    settle(one)
    entries = [g.CommitEntry(*unit, a.owner_epoch, -1, 1) for unit, a in sorted(one.held.items())]
    entries[1] = g.CommitEntry(topic, 1, 0, 1, -1, 2)
    reply = one.client.call(g.Commit("billing", "one", 1000, tuple(entries)))
    assert [BY_NUMBER[e].code if e else "ok" for e in reply.entries] == ["ok", "offset-out-of-range", "ok"]
    cursors = node.client().call(g.Cursors("billing")).cursors
    assert [(c.partition, c.offset, c.end) for c in cursors] == [(0, 1, 1), (1, -1, 1), (2, 1, 1)]


def test_results_and_checkpoint_are_stored_once_however_often_they_are_sent() -> None:
    node, topic = world(1)
    out = node.create("out", 1, colocate_with="t")
    node.produce(topic, 0, b"in")
    one = Consumer(node, "one")
    settle(one)
    results = ((out, 0, a_batch(b"a", b"b")), (out, 0, a_batch(b"c")))
    first = one.commit((topic, 0, 0), 1, 0, results)
    assert first.entries == (0,)
    assert [(error, offset) for error, offset, _ in first.results] == [(0, 0), (0, 2)]
    again = one.commit((topic, 0, 0), 1, 0, results)
    assert again.entries == (0,)
    assert [(error, offset) for error, offset, _ in again.results] == [(0, -1), (0, -1)]
    assert node.groups[node.group_of(out, 0)].machine.partitions[out, 0].end == 3


def test_results_elsewhere_are_refused_with_the_way_out() -> None:
    node, topic = world(2)
    out = node.create("out", 2, colocate_with="t")
    node.produce(topic, 0, b"in")
    one = Consumer(node, "one")
    settle(one)
    reply = one.commit((topic, 0, 0), 1, 0, ((out, 1, a_batch(b"a")),))
    assert BY_NUMBER[reply.error].code == "invalid-argument"
    assert "Paxos group" in reply.message


# -- people and tools -------------------------------------------------------------------------------------------------


def test_a_group_is_listed_described_and_deleted() -> None:
    node, topic = world(2)
    node.produce(topic, 0, b"x")
    one = Consumer(node, "one")
    settle(one)
    one.commit((topic, 0, 0), 1)
    (summary,) = node.client().call(g.ListGroups()).groups
    assert summary == g.GroupSummary("billing", 1, ("t",), 1, 1)
    told = describe(node)
    assert [member.member for member in told.members] == ["one"]
    assert [(c.partition, c.member, c.offset, c.end) for c in told.cursors] == [(0, "one", 1, 1), (1, "one", -1, 0)]
    refused = node.client().call(g.DeleteGroup("billing"))
    assert BY_NUMBER[refused.error].code == "group-not-empty"
    one.beat(leave=True)
    assert node.client().call(g.DeleteGroup("billing")).error == 0
    assert node.client().call(g.ListGroups()).groups == ()
    assert BY_NUMBER[describe(node).error].code == "unknown-group"


def test_a_reset_takes_units_away_and_gives_them_back_behind_it() -> None:
    node, topic = world(2)
    for i in range(5):
        node.produce(topic, 0, b"%d" % i)
    one = Consumer(node, "one")
    settle(one)
    one.commit((topic, 0, 0), 5)
    other = one.held[topic, 1, 0]
    assert node.client().call(g.ResetGroup("billing", ((topic, 0, 2),))).error == 0
    settle(one)
    assert (one.held[topic, 0, 0].offset, one.held[topic, 0, 0].owner_epoch) == (2, 3)
    assert one.held[topic, 1, 0] == other
    assert describe(node).state == "stable"
    far = node.client().call(g.ResetGroup("billing", ((topic, 0, 99),)))
    assert BY_NUMBER[far.error].code == "offset-out-of-range"


def test_sessions_tell_whose_they_are_and_how_they_are_served() -> None:
    node, topic = world(1)
    node.produce(topic, 0, b"x")
    client = node.client()
    client.call(m.Subscribe(5, topic, 0, 0, 2**20, "billing", "one"))
    node.turns()
    reply = node.client().call(g.Sessions("billing"))
    (session,) = reply.sessions
    assert (session.group, session.member, session.mode) == ("billing", "one", "push")
    assert (session.offset, session.behind) == (1, 0)
    assert node.client().call(g.Sessions("other")).sessions == ()


@pytest.mark.parametrize("name", ["unknown", "nobody"])
def test_what_does_not_exist_is_said_to(name: str) -> None:
    node, _ = world(1)
    assert BY_NUMBER[node.client().call(g.DescribeGroup(name)).error].retryable, "its coordinator has just begun"
    for message in (g.DescribeGroup(name), g.DeleteGroup(name), g.ResetGroup(name, ((TopicId(16), 0, 0),))):
        assert BY_NUMBER[node.client().call(message).error].code == "unknown-group"


# -- holes ------------------------------------------------------------------------------------------------------------


def elect(node: OneNode) -> None:
    for group in node.groups:
        group.replica.ballot += 1 << 16
        node.requests.leader_changed(group)


def test_a_new_coordinator_does_not_take_silence_for_having_let_go() -> None:
    node, _ = world(2)
    one, two = Consumer(node, "one", slow=True), Consumer(node, "two")
    settle(one)
    elect(node)
    two.beat()
    for _ in range(4):
        reply: Any = one.client.call(g.GroupHeartbeat("billing", "one", one.epoch, ("t",), client="test"))
        one.epoch = reply.epoch  # owned: as told last, but to whom?
        two.beat()
    assert not two.held
    one.slow = False
    one.epoch = 0
    one.beat()
    settle(one, two)
    assert len(two.held) == 1


def test_what_an_instance_held_waits_for_its_new_process_however_often_it_is_replaced() -> None:
    node, _ = world()
    one, two = Consumer(node, "one", instance="rack-1"), Consumer(node, "two")
    settle(one, two)
    kept = set(one.held)
    first = Consumer(node, "first", instance="rack-1")
    second = Consumer(node, "second", instance="rack-1")
    for again in (first, second):  # both before anything of it is written down
        again.client.ask(g.GroupHeartbeat("billing", again.name, 0, ("t",), "rack-1"))
    settle(second, two)
    assert set(second.held) == kept


def test_a_claim_of_an_earlier_coordinator_that_comes_late_is_noticed() -> None:
    node, topic = world(1)
    one = Consumer(node, "one")
    settle(one)
    number = node.group_of(topic, 0)
    late = encode_owner(Owner("billing", topic, 0, 0, 2, "who is dead"))
    node.submit(number, CommandKind.OWNER, late, lambda _: None, timeout_s=1.0)
    for _ in range(3):
        node.wait(1.1)
        settle(one)
    assert [assigned.owner_epoch for assigned in one.held.values()] == [3]


def test_a_group_that_nobody_hears_of_costs_nothing_per_heartbeat() -> None:
    node, _ = world(40)
    consumers = [Consumer(node, name) for name in ("one", "two", "three")]
    settle(*consumers)
    group = node.requests.coordinator.group("billing")
    looked: list[g.Unit] = []
    original = group._look_at
    group._look_at = lambda unit, now: looked.append(unit) or original(unit, now)  # type: ignore[func-returns-value]
    for consumer in consumers:
        consumer.beat()
    assert not looked
    consumers[0].beat(leave=True)
    node.turns()
    assert looked


def test_more_units_than_fit_into_a_turn_are_given_out_over_several() -> None:
    node, _ = world(3)
    members = [Consumer(node, name, slices=200) for name in ("one", "two")]
    settle(*members)
    assert sorted(len(member.held) for member in members) == [300, 300]
    assert describe(node).state == "stable"
    node.create("wide", 64)
    greedy = Consumer(node, "three", "wide", slices=200)
    greedy.beat()
    assert greedy.error == "overloaded"


def test_a_plan_takes_several_turns_and_is_begun_anew_when_a_member_leaves_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, _ = world(partitions=1_500)
    stays, leaves = Consumer(node, "stays"), Consumer(node, "leaves")
    stays.beat()
    (group,) = [group for reign in node.requests.reigns.all() for group in reign.groups.values()]
    before = dict(stays.held)

    def now() -> float:  # whatever is done takes as long as a turn may
        node.time += TURN_S
        return node.time

    monkeypatch.setattr(node, "now", now)
    leaves.client.ask(g.GroupHeartbeat("billing", "leaves", 0, ("t",), "", "test", 1))
    turns = 0
    while not group.planning:
        node.turn()
    while group.planning and turns < 7:
        turns += 1
        assert not group.claiming
        node.turn()
    assert turns == 7, "to look at the owners alone takes six steps"
    leaves.client.ask(g.GroupHeartbeat("billing", "leaves", 0, ("t",), "", "test", 1, leave=True))
    monkeypatch.undo()
    settle(stays)
    assert group.state == "stable"
    assert stays.held == before, "nothing moved for who had gone again"


def test_a_topic_that_nobody_wants_any_more_does_not_keep_the_group_busy() -> None:
    node, _ = world(1)
    node.create("u", 1)
    one = Consumer(node, "one", "t", "u")
    settle(one)
    one.topics = ("t",)
    settle(one)
    assert len(one.held) == 1
    assert describe(node).state == "stable"
    one.topics = ("t", "u")
    settle(one)
    assert len(one.held) == 2


def test_a_reset_while_partitions_are_given_out_is_tried_again() -> None:
    node, topic = world(1)
    one = Consumer(node, "one")
    settle(one)
    client = node.client()
    first = client.ask(g.ResetGroup("billing", ((topic, 0, 0),)))
    second = client.ask(g.ResetGroup("billing", ((topic, 0, 0),)))
    node.turns()
    assert client.answer(first).error == 0
    assert BY_NUMBER[client.answer(second).error].code == "unsettled"
    settle(one)
    assert len(one.held) == 1


def test_whoever_joins_a_group_while_it_is_deleted_is_a_member() -> None:
    node, _ = world(1)
    one = Consumer(node, "one")
    settle(one)
    one.beat(leave=True)
    client = node.client()
    deletion = client.ask(g.DeleteGroup("billing"))
    two = Consumer(node, "two")
    settle(two)
    assert len(client.replies[deletion]) == 1
    assert len(two.held) == 1
    assert [group.members for group in node.client().call(g.ListGroups()).groups] == [1]
    assert describe(node).state == "stable"
