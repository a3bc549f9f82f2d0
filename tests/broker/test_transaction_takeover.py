"""Transactions on three nodes: nodes die between any two steps, and the outcome is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from corgi.base.command import Buffer
from corgi.base.errors import BY_NUMBER
from corgi.base.ids import NodeId, TopicId
from corgi.base.records import restamped
from corgi.broker.decisions import ABORT, COMMIT
from corgi.state.fingerprint import fingerprint
from corgi.wire import messages as m
from corgi.wire import transaction_messages as t
from memory_cluster import Cluster
from one_node import a_batch, values_of

ALL = 2**20


class Caller:
    """A client of one node."""

    def __init__(self, cluster: Cluster, node: int) -> None:
        self.cluster = cluster
        self.node = NodeId(node)
        self.closed = False
        self.replies: dict[int, tuple[Any, bytes]] = {}
        self.correlation = 0

    def reply(self, correlation: int, response: Any, payload: Sequence[Buffer] = ()) -> None:
        self.replies[correlation] = (response, b"".join(payload))

    def push(self, message: Any, payload: Sequence[Buffer]) -> None: ...

    def buffered(self) -> int:
        return 0

    def fail(self, error: Exception) -> None:
        raise AssertionError(error)

    def ask(self, message: Any, payload: bytes = b"") -> int:
        self.correlation += 1
        node = self.cluster.nodes[self.node]
        node.client_request(self, self.correlation, message, memoryview(payload))
        node.flush()
        return self.correlation

    def call(self, message: Any, payload: bytes = b"", seconds: float = 5.0) -> Any:
        correlation = self.ask(message, payload)
        for _ in range(int(seconds / 0.05)):
            self.cluster.run(0.05)
            if correlation in self.replies:
                return self.replies[correlation][0]
        raise AssertionError(f"no answer to {message}")


class World:
    """Three nodes with four groups, and a topic with a partition in each."""

    def __init__(self) -> None:
        self.cluster = Cluster(3, 4)
        self.cluster.run(0.5)
        reply = Caller(self.cluster, 1).call(m.CreateTopic("t", 4))
        assert reply.error == 0
        self.topic: TopicId = reply.topic.topic
        self.cluster.run(0.5)

    def read(self, node: int, partition: int) -> list[bytes | None]:
        caller = Caller(self.cluster, node)
        correlation = caller.ask(m.Fetch(0, 0, ALL, ((self.topic, partition, 0, ALL),)))  # type: ignore[arg-type]
        self.cluster.run(0.01)
        reply, body = caller.replies[correlation]
        return values_of(body, reply.partitions[0][3])

    def everywhere(self) -> list[list[list[bytes | None]]]:
        """What committed readers find in partitions 0 and 1, at each living node."""
        return [[self.read(node, 0), self.read(node, 1)] for node in sorted(self.cluster.nodes)]

    def kill_and_start(self, member: NodeId) -> None:
        self.cluster.kill(member)
        self.cluster.run(2.0)
        self.cluster.start(member)
        self.cluster.run(3.0)


def code(reply: Any) -> str:
    return BY_NUMBER[reply.error].code if reply.error else "ok"


def opened(world: World, node: int, name: str = "p", life_ms: int = 60_000) -> tuple[Caller, Any]:
    """A transaction with a batch in partition 0 and one in partition 1."""
    caller = Caller(world.cluster, node)
    who = caller.call(t.InitTransactions(name))
    places = ((world.topic, 0), (world.topic, 1))
    message = t.OpenTransaction(name, who.producer_id, who.producer_epoch, who.number + 1, places, life_ms=life_ms)
    assert code(caller.call(message)) == "ok"
    for partition in (0, 1):
        batch = bytes(restamped(a_batch(b"x"), who.producer_id, who.producer_epoch, 0, transactional=True))
        reply = caller.call(m.Produce(2, 5000, ((world.topic, partition, len(batch)),)), batch)
        assert reply.results[0][0] == 0
    return caller, who


def end_of(who: Any, *, commit: bool, name: str = "p") -> t.EndTransaction:
    return t.EndTransaction(name, who.producer_id, who.producer_epoch, who.number + 1, commit)


def mute(world: World, *nodes: int) -> None:
    """These nodes propose no markers until they are started again."""
    for node in nodes:
        decisions = world.cluster.nodes[NodeId(node)].requests.transactions.decisions
        decisions.mark = lambda *_args, **_more: None  # type: ignore[method-assign]


@pytest.mark.parametrize("commit", [True, False])
def test_who_decided_dies_before_any_marker(commit: bool) -> None:
    world = World()
    caller, who = opened(world, 2)
    home = world.cluster.nodes[NodeId(1)].requests.transactions.decisions.home("p")

    mute(world, 2)
    caller.ask(end_of(who, commit=commit))
    world.cluster.run(0.2)
    found = world.cluster.nodes[NodeId(1)].requests.transactions.decisions.get("p")
    assert found is not None
    assert found.state == (COMMIT if commit else ABORT)
    assert world.everywhere()[0] == [[], []]
    world.kill_and_start(NodeId(2))
    expected = [[b"x"], [b"x"]] if commit else [[], []]
    assert world.everywhere() == [expected] * 3
    other = Caller(world.cluster, 3)
    assert code(other.call(end_of(who, commit=commit))) == "ok"
    assert code(other.call(end_of(who, commit=not commit))) == (
        "transaction-ended" if commit else "transaction-aborted"
    )
    states = {fingerprint(node.groups[home].machine) for node in world.cluster.nodes.values()}
    assert len(states) == 1


def test_the_leader_of_the_decision_dies_as_well() -> None:
    world = World()
    caller, who = opened(world, 2)
    home = world.cluster.nodes[NodeId(1)].requests.transactions.decisions.home("p")
    mute(world, 1, 2, 3)
    caller.ask(end_of(who, commit=True))
    world.cluster.run(0.2)
    assert world.everywhere() == [[[], []]] * 3
    world.kill_and_start(world.cluster.leader(home))
    for member in list(world.cluster.nodes):
        world.kill_and_start(member)
    assert world.everywhere() == [[[b"x"], [b"x"]]] * 3


def test_a_producer_that_died_is_aborted_by_log_time_whoever_leads() -> None:
    world = World()
    opened(world, 2, life_ms=3_000)
    home = world.cluster.nodes[NodeId(1)].requests.transactions.decisions.home("p")
    world.cluster.kill(world.cluster.leader(home))
    world.cluster.run(1.0)
    batch = a_batch(b"plain")
    living = sorted(world.cluster.nodes)[0]
    caller = Caller(world.cluster, living)
    assert caller.call(m.Produce(2, 5000, ((world.topic, 0, len(batch)),)), batch).results[0][0] == 0
    assert world.read(living, 0) == []
    world.cluster.run(4.0)
    assert world.everywhere() == [[[b"plain"], []]] * 2


def test_two_nodes_that_begin_under_one_name_give_different_epochs() -> None:
    world = World()
    callers = [Caller(world.cluster, node) for node in (1, 2, 3)]
    asked = [caller.ask(t.InitTransactions("p")) for caller in callers]
    world.cluster.run(2.0)
    replies = [caller.replies[correlation][0] for caller, correlation in zip(callers, asked, strict=True)]
    assert [code(reply) for reply in replies] == ["ok"] * 3
    assert len({reply.producer_id for reply in replies}) == 1
    assert len({reply.producer_epoch for reply in replies}) == 3


def test_a_zombie_behind_a_partition_does_not_write() -> None:
    world = World()
    zombie, who = opened(world, 2)
    newer = Caller(world.cluster, 3)
    mine = newer.call(t.InitTransactions("p"))
    assert code(mine) == "ok"
    assert code(zombie.call(end_of(who, commit=True))) == "transaction-fenced"
    assert world.everywhere() == [[[], []]] * 3
