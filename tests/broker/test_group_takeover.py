"""Consumer groups on three nodes in memory: coordinators and members die in the middle of a move."""

from __future__ import annotations

from typing import Any

import pytest

from corgi.base.command import CommandKind
from corgi.base.errors import BY_NUMBER, CorgiError
from corgi.base.ids import GroupId, NodeId, TopicId
from corgi.broker.reigns import kept_in
from corgi.wire import group_messages as g
from corgi.wire import messages as m
from memory_cluster import Cluster

GROUP = "billing"
PARTITIONS = 6
SESSION_MS = 2_000


class Connection:
    """A connection to a node that remembers answers and pushes."""

    def __init__(self) -> None:
        self.closed = False
        self.answers: dict[int, Any] = {}
        self.pushes: list[Any] = []
        self.count = 0

    def reply(self, correlation: int, response: Any, payload: Any = ()) -> None:
        self.answers[correlation] = response

    def push(self, message: Any, payload: Any) -> None:
        self.pushes.append(message)

    def buffered(self) -> int:
        return 0

    def fail(self, error: CorgiError) -> None:
        raise AssertionError(f"the connection was failed: {error}")

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class World:
    def __init__(self) -> None:
        self.cluster = Cluster(groups=4)
        self.cluster.run(0.5)
        self.home = kept_in(GROUP, 4)
        reply = self.call(self.any(), m.CreateTopic("t", PARTITIONS))
        assert reply.error == 0
        self.topic = TopicId(reply.topic.topic)
        self.take_turns()

    def any(self) -> NodeId:
        return min(self.cluster.nodes)

    def take_turns(self) -> None:
        """Every Paxos group has a leader."""
        for group in range(4):
            self.cluster.nodes[self.any()].submit(
                GroupId(group), CommandKind.BARRIER, b"", lambda _: None, timeout_s=5.0
            )
        self.cluster.run(0.3)

    def call(self, node: NodeId, message: Any, connection: Connection | None = None) -> Any:
        connection = connection or Connection()
        connection.count += 1
        correlation = connection.count
        self.cluster.nodes[node].client_request(connection, correlation, message, memoryview(b""))  # type: ignore[arg-type]
        for _ in range(200):
            self.cluster.nodes[node].flush()
            self.cluster.run(0.01)
            if correlation in connection.answers:
                return connection.answers[correlation]
            if node not in self.cluster.nodes:
                break
        return None

    def owners(self) -> dict[int, tuple[str, int]]:
        """(member, owner epoch) of each partition, the same at every node."""
        found: list[dict[int, tuple[str, int]]] = []
        for node in self.cluster.nodes.values():
            cursors = {
                key.partition: (cursor.member, cursor.owner_epoch)
                for group in node.groups
                for key, cursor in group.machine.cursors.of_group(GROUP)
            }
            found.append(dict(sorted(cursors.items())))
        assert all(one == found[0] for one in found)
        return found[0]


class Member:
    """Beats at whoever coordinates; lets go at once unless ``busy``."""

    def __init__(self, world: World, name: str, *, busy: bool = False) -> None:
        self.world = world
        self.name = name
        self.busy = busy
        self.connections: dict[NodeId, Connection] = {}
        self.epoch = 0
        self.held: dict[int, g.Assigned] = {}
        self.taken: list[int] = []
        self.error = ""

    def beat(self) -> None:
        owned = tuple((self.world.topic, p, 0, one.owner_epoch) for p, one in self.held.items())
        message = g.GroupHeartbeat(
            GROUP, self.name, self.epoch, ("t",), session_ms=SESSION_MS, rebalance_ms=60_000, owned=owned
        )
        for node in sorted(self.world.cluster.nodes):
            reply = self.world.call(node, message, self.connections.setdefault(node, Connection()))
            if reply is None or not isinstance(reply, g.GroupHeartbeatReply):
                continue
            self.error = BY_NUMBER[reply.error].code if reply.error else ""
            if self.error == "not-leader":
                continue
            if not self.error:
                self.epoch = reply.epoch
                if reply.assignment is not None:
                    given = {one.partition: one for one in reply.assignment}
                    self.taken += [p for p in given if p not in self.held]
                    self.held = {**self.held, **given} if self.busy else given
            return

    def commit(self, partition: int) -> str:
        entry = g.CommitEntry(self.world.topic, partition, 0, self.held[partition].owner_epoch, -1, 0)  # type: ignore[arg-type]
        reply = self.world.call(self.world.any(), g.Commit(GROUP, self.name, 2_000, (entry,)))
        return BY_NUMBER[reply.entries[0]].code if reply.entries[0] else ""


def rounds(count: int, *members: Member) -> None:
    for _ in range(count):
        for member in members:
            member.beat()


@pytest.fixture
def world() -> World:
    return World()


def even(*members: Member) -> bool:
    held = [p for member in members for p in member.held]
    return sorted(held) == list(range(PARTITIONS)) and len({len(member.held) for member in members}) == 1


def test_a_coordinator_that_dies_loses_no_member_and_moves_nothing(world: World) -> None:
    one, two = Member(world, "one"), Member(world, "two")
    rounds(4, one, two)
    assert even(one, two)
    before = world.owners()
    taken = list(one.taken), list(two.taken)
    world.cluster.kill(world.cluster.leader(world.home))
    world.cluster.run(0.5)
    rounds(4, one, two)
    assert even(one, two)
    assert (one.taken, two.taken) == taken, "nobody was told even for a moment that it holds nothing"
    assert (one.error, two.error) == ("", "")
    assert world.owners() == before
    assert all(not member.commit(p) for member in (one, two) for p in member.held)


def test_a_coordinator_that_dies_in_the_middle_of_a_move_is_replaced_and_the_move_ends(world: World) -> None:
    one = Member(world, "one", busy=True)
    rounds(2, one)
    assert len(one.held) == PARTITIONS
    two = Member(world, "two")
    rounds(2, two, one)  # what must move is revoked, and still held
    assert not two.held
    world.cluster.kill(world.cluster.leader(world.home))
    world.cluster.run(0.5)
    rounds(3, two, one)
    assert not two.held, "the new coordinator waits for it too"
    one.busy, one.epoch = False, 0
    rounds(4, one, two)
    assert even(one, two)
    kept = {p for p, (_, epoch) in world.owners().items() if epoch == 1}
    assert kept == set(one.held), "what did not have to move was never touched"
    assert not [p for p in two.held if two.commit(p)]


def test_claims_under_way_when_the_coordinator_dies_give_no_unit_to_two(world: World) -> None:
    one = Member(world, "one")
    rounds(2, one)
    two, three = Member(world, "two"), Member(world, "three")
    home = world.cluster.leader(world.home)
    message = g.GroupHeartbeat(GROUP, "two", 0, ("t",), session_ms=SESSION_MS)
    world.cluster.nodes[home].client_request(Connection(), 1, message, memoryview(b""))  # type: ignore[arg-type]
    world.cluster.nodes[home].flush()  # on its way: nobody was answered
    world.cluster.kill(home)
    world.cluster.run(0.5)
    rounds(5, one, two, three)
    assert even(one, two, three)
    owners = world.owners()
    for member in (one, two, three):
        assert all(owners[p] == (member.name, held.owner_epoch) for p, held in member.held.items())


def test_a_member_that_dies_is_replaced_by_the_others_and_is_fenced(world: World) -> None:
    one, two = Member(world, "one"), Member(world, "two")
    rounds(4, one, two)
    lost = dict(two.held)
    for _ in range(6):
        world.cluster.run(SESSION_MS / 5000)
        one.beat()
    rounds(2, one)
    assert len(one.held) == PARTITIONS
    assert {two.commit(p) for p in lost} == {"consumer-fenced"}
    two.beat()
    assert two.error == "unknown-member"


def test_a_member_that_comes_and_goes_disturbs_only_what_it_takes(world: World) -> None:
    one, two = Member(world, "one"), Member(world, "two")
    rounds(4, one, two)
    for turn in range(3):
        flapping = Member(world, f"flapping-{turn}")
        rounds(3, flapping, one, two)
        assert len(flapping.held) == 2
        message = g.GroupHeartbeat(GROUP, flapping.name, flapping.epoch, ("t",), leave=True)
        for node in world.cluster.nodes:
            world.call(node, message)
        rounds(3, one, two)
        assert even(one, two)
    assert len(one.taken) + len(two.taken) <= PARTITIONS + PARTITIONS // 2 + 3 * 2 + 3


def test_a_coordinator_cut_off_gives_nothing_away(world: World) -> None:
    one, two = Member(world, "one"), Member(world, "two")
    rounds(4, one, two)
    home = world.cluster.leader(world.home)
    others = [node for node in world.cluster.nodes if node != home]
    for other in others:
        world.cluster.partition(home, other)
    alone = Connection()
    message = g.GroupHeartbeat(GROUP, "three", 0, ("t",), session_ms=SESSION_MS)
    world.cluster.nodes[home].client_request(alone, 1, message, memoryview(b""))  # type: ignore[arg-type]
    world.cluster.run(1.0)
    assert not any(isinstance(a, g.GroupHeartbeatReply) and a.assignment for a in alone.answers.values())
    for other in others:
        world.cluster.heal(home, other)
    for _ in range(8):  # "three" may have become a member after all, and dies of silence
        world.cluster.run(SESSION_MS / 5000)
        rounds(1, one, two)
    owners = world.owners()
    assert sorted(p for member in (one, two) for p in member.held) == list(range(PARTITIONS))
    assert {name for name, _ in owners.values()} == {"one", "two"}
