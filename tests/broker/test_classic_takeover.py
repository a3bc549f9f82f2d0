"""Classic groups on three nodes in memory: checkpoints, fences, other kinds of groups, and coordinators that die."""

from __future__ import annotations

from typing import Any

import pytest

from corgi.base.batch import parse_header
from corgi.base.command import CommandKind
from corgi.base.errors import BY_NUMBER, CorgiError
from corgi.base.ids import GroupId, NodeId, TopicId
from corgi.base.records import encode_batch
from corgi.broker.classic_claims import GENERATION_BITS
from corgi.broker.classic_commits import Committer, Entry, Found
from corgi.broker.classic_member import Join, Joined, Sync, Synced
from corgi.broker.consumer_protocol import encode_assignment, encode_subscription
from corgi.broker.reigns import kept_in
from corgi.wire import group_messages as g
from corgi.wire import messages as m
from memory_cluster import Cluster

GROUP = "billing"
PARTITIONS = 4


def code(error: int) -> str:
    return BY_NUMBER[error].code if error else ""


class Connection:
    def __init__(self) -> None:
        self.closed = False
        self.answers: dict[int, Any] = {}

    def reply(self, correlation: int, response: Any, payload: Any = ()) -> None:
        self.answers[correlation] = response

    def push(self, message: Any, payload: Any) -> None: ...

    def buffered(self) -> int:
        return 0

    def fail(self, error: CorgiError) -> None:
        raise AssertionError(f"the connection was failed: {error}")


class World:
    def __init__(self) -> None:
        self.cluster = Cluster(groups=4)
        self.cluster.run(0.5)
        self.client: Any = Connection()
        self.count = 0
        self.topic = TopicId(self.call(m.CreateTopic("t", PARTITIONS)).topic.topic)
        self.take_turns()
        for partition in range(PARTITIONS):
            batch = encode_batch([(None, b"x", (), 0)] * 10)
            assert parse_header(batch).record_count == 10
            self.call(m.Produce(1, 5_000, ((self.topic, partition, len(batch)),)), batch)

    def take_turns(self) -> None:
        for group in range(4):
            self.cluster.nodes[min(self.cluster.nodes)].submit(
                GroupId(group), CommandKind.BARRIER, b"", lambda _: None, timeout_s=5.0
            )
        self.cluster.run(0.3)

    @property
    def home(self) -> NodeId:
        return self.cluster.leader(kept_in(GROUP, 4))

    def call(self, message: Any, payload: bytes = b"") -> Any:
        self.count += 1
        node = self.cluster.nodes[self.home]
        node.client_request(self.client, self.count, message, memoryview(payload))
        node.flush()
        for _ in range(300):
            self.cluster.run(0.01)
            if self.count in self.client.answers:
                return self.client.answers[self.count]
        raise AssertionError(f"no answer to {message}")

    def wait(self, answers: list[Any]) -> Any:
        self.cluster.nodes[self.home].flush()
        for _ in range(300):
            self.cluster.run(0.01)
            if answers:
                return answers[0]
        raise AssertionError("no answer")

    def ask_join(
        self, member: str = "", instance: str = "", *, group: str = GROUP, takes_ids: bool = False
    ) -> list[Joined]:
        answers: list[Joined] = []
        request = Join(
            member, instance, "c", "/h", 5_000, 10_000, "consumer", (("range", encode_subscription(["t"])),), takes_ids
        )
        self.cluster.nodes[self.home].requests.classic.join(self.client, group, request, answers.append)
        return answers

    def ask_sync(self, member: str, generation: int, shares: dict[str, list[int]]) -> list[Synced]:
        answers: list[Synced] = []
        given = {name: encode_assignment([("t", number) for number in numbers]) for name, numbers in shares.items()}
        request = Sync(member, "", generation, "consumer", "range", given)
        self.cluster.nodes[self.home].requests.classic.sync(self.client, GROUP, request, answers.append)
        return answers

    def beat(self, member: str, generation: int) -> str:
        answers: list[int] = []
        classic = self.cluster.nodes[self.home].requests.classic
        classic.heartbeat(self.client, GROUP, (member, ""), generation, answers.append)
        return code(self.wait(answers))

    def stable(self) -> tuple[str, str, int]:
        """Two members that share the partitions: the leader, the other, their generation."""
        answers = [self.ask_join(), self.ask_join()]
        first, second = self.wait(answers[0]), self.wait(answers[1])
        assert first.generation == second.generation, "both started together"
        leader, other = (first, second) if first.leader == first.member else (second, first)
        shares = {leader.member: [0, 1], other.member: [2, 3]}
        waiting = self.ask_sync(other.member, first.generation, {})
        assert not self.wait(self.ask_sync(leader.member, first.generation, shares)).error
        assert not self.wait(waiting).error
        return leader.member, other.member, first.generation

    def commit(
        self, member: str, generation: int, partition: int, offset: int, metadata: str = "", epoch: int = -1,
        *, at: NodeId | None = None,
    ) -> str:  # fmt: skip
        answers: list[list[int]] = []
        commits = self.cluster.nodes[at or self.home].requests.classic_commits
        entry = Entry(self.topic, partition, offset, epoch, metadata)
        commits.commit(self.client, Committer(GROUP, member, "", generation), [entry], 3.0, answers.append)
        return code(self.wait(answers)[0])

    def fetch(self) -> dict[int, Found]:
        answers: list[Any] = []
        self.cluster.nodes[self.home].requests.classic_commits.fetch(
            self.client, GROUP, None, 3.0, lambda error, found: answers.append((error, found))
        )
        error, found = self.wait(answers)
        assert not error, code(error)
        return {partition: one for (_, partition), one in found.items()}

    def owners(self) -> dict[int, tuple[str, int]]:
        """(member, generation) of each partition, the same at every node."""
        found = [
            {
                key.partition: (cursor.member, cursor.owner_epoch >> GENERATION_BITS)
                for group in node.groups
                for key, cursor in sorted(group.machine.cursors.of_group(GROUP))
            }
            for node in self.cluster.nodes.values()
        ]
        assert all(one == found[0] for one in found)
        return found[0]


@pytest.fixture
def world() -> World:
    return World()


def test_partitions_are_claimed_for_those_who_were_assigned_them(world: World) -> None:
    leader, other, generation = world.stable()
    assert world.owners() == {
        0: (leader, generation), 1: (leader, generation), 2: (other, generation), 3: (other, generation),
    }  # fmt: skip


def test_a_checkpoint_keeps_what_its_maker_told_and_may_go_back(world: World) -> None:
    leader, _, generation = world.stable()
    assert world.commit(leader, generation, 0, 7, "here", 3) == ""
    assert world.fetch() == {0: Found(7, 3, "here", False)}
    assert world.commit(leader, generation, 0, 2) == ""
    assert world.fetch() == {0: Found(2, -1, "", False)}
    assert world.commit(leader, generation, 0, 11) == "offset-out-of-range"
    assert world.commit(leader, generation, 0, 2, "x" * 5_000) == "metadata-too-large"


def test_a_member_may_commit_where_another_one_is_assigned(world: World) -> None:
    leader, other, generation = world.stable()
    assert world.commit(other, generation, 0, 4) == ""
    assert world.commit(leader, generation, 0, 5) == ""
    assert world.fetch()[0].offset == 5


def test_commits_of_an_older_generation_and_of_strangers_are_refused(world: World) -> None:
    leader, _, generation = world.stable()
    assert world.commit(leader, generation - 1, 0, 1) == "generation-over"
    assert world.commit("nobody", generation, 0, 1) == "unknown-member"
    assert world.commit("", -1, 0, 1) == "unknown-member"
    assert world.fetch() == {}


def test_without_members_anybody_commits_and_native_tools_reset_and_delete(world: World) -> None:
    assert world.commit("", -1, 0, 6, "m") == ""
    assert world.fetch() == {0: Found(6, -1, "m", False)}
    leader, other, generation = world.stable()
    assert code(world.call(g.ResetGroup(GROUP, ((world.topic, 0, 1),))).error) == "group-not-empty"
    assert code(world.call(g.DeleteGroup(GROUP)).error) == "group-not-empty"
    described = world.call(g.DescribeGroup(GROUP))
    assert (described.kind, described.state, described.epoch) == ("classic", "stable", generation)
    assert {(one.member, one.topics) for one in described.members} == {(leader, ("t",)), (other, ("t",))}
    assert {(one.partition, one.member, one.end - max(one.offset, 0)) for one in described.cursors} == {
        (0, leader, 4), (1, leader, 10), (2, other, 10), (3, other, 10),
    }  # fmt: skip
    assert [one.kind for one in world.call(g.ListGroups()).groups] == ["classic"]
    world.cluster.run(6.0)  # both fall silent
    assert world.call(g.DescribeGroup(GROUP)).state == "empty"
    assert world.call(g.ResetGroup(GROUP, ((world.topic, 0, 1),))).error == 0
    assert world.commit("", -1, 1, 3) == ""
    assert {number: one.offset for number, one in world.fetch().items()} == {0: 1, 1: 3}
    assert world.call(g.DeleteGroup(GROUP)).error == 0
    assert world.fetch() == {}
    assert world.call(g.ListGroups()).groups == ()


def test_a_name_belongs_to_one_kind_of_group_while_it_has_members(world: World) -> None:
    world.stable()
    native = g.GroupHeartbeat(GROUP, "n", 0, ("t",), session_ms=2_000)
    assert code(world.call(native).error) == "inconsistent-protocol"
    world.cluster.run(6.0)
    assert world.call(native).error == 0
    world.cluster.run(0.5)
    assert {member for member, _ in world.owners().values()} == {"n"}
    assert code(world.wait(world.ask_join()).error) == "inconsistent-protocol"
    assert world.commit("", -1, 0, 1) == "unknown-member"
    epochs = max(generation for _, generation in world.owners().values())
    world.cluster.run(4.0)
    _, _, generation = world.stable()
    assert generation > epochs, "who was an owner before is none any more"
    assert all(one == generation for _, one in world.owners().values())


def test_a_topic_that_is_deleted_while_its_checkpoint_moves_is_told(world: World) -> None:
    leader, _, generation = world.stable()
    other = TopicId(world.call(m.CreateTopic("other", 4)).topic.topic)
    world.take_turns()
    node = world.cluster.nodes[world.home]
    answers: list[list[int]] = []
    held = Entry(world.topic, 0, 1, -1, "")
    claimed = [Entry(other, number, 0, -1, "") for number in range(4)]
    node.client_request(world.client, 0, m.DeleteTopic("t"), memoryview(b""))
    node.requests.classic_commits.commit(
        world.client, Committer(GROUP, leader, "", generation), [held, *claimed], 3.0, answers.append
    )
    assert [code(error) for error in world.wait(answers)] == ["unknown-topic", "", "", "", ""]


def test_a_name_goes_to_another_kind_of_group_only_when_everybody_is_answered(world: World) -> None:
    node = world.cluster.nodes[world.home]
    joined = world.ask_join()
    node.flush()
    for _ in range(100):
        world.cluster.run(0.01)
        seat = node.requests.reigns.begun(GROUP).classic[GROUP]
        if seat.busy:
            break
    assert seat.busy, "the record of the first generation is under way"
    assert seat.group.leave(next(iter(seat.group.members)), "", node.clock.now()) == 0
    native = g.GroupHeartbeat(GROUP, "n", 0, ("t",), session_ms=2_000)
    node.client_request(world.client, 9_999, native, memoryview(b""))
    world.wait(joined)
    assert code(world.client.answers[9_999].error) == "unsettled"
    assert world.call(native).error == 0


def test_a_group_in_which_nobody_stayed_takes_no_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corgi.broker.classic_groups.GROUPS_MAX", 2)
    names = [name for name in map(str, range(100)) if kept_in(name, 4) == kept_in(GROUP, 4)]
    for name in names[:2]:
        assert code(world.wait(world.ask_join(group=name, takes_ids=True)).error) == "member-id-required"
    assert code(world.wait(world.ask_join(group=names[2], takes_ids=True)).error) == "overloaded"
    world.cluster.run(6.0)  # none of them comes back
    for name in names[2:4]:
        assert not world.wait(world.ask_join(group=name)).error
    assert code(world.wait(world.ask_join(group=names[4])).error) == "overloaded"


def test_members_go_on_with_another_coordinator(world: World) -> None:
    leader, other, generation = world.stable()
    assert world.commit(leader, generation, 0, 4) == ""
    world.cluster.kill(world.home)
    world.cluster.run(1.0)
    world.take_turns()
    assert world.beat(leader, generation) == world.beat(other, generation) == ""
    assert world.commit(other, generation, 2, 5) == ""
    assert {number: one.offset for number, one in world.fetch().items()} == {0: 4, 2: 5}
    late = world.ask_join()
    assert world.beat(leader, generation) == "rebalancing"
    again = [world.ask_join(leader), world.ask_join(other)]
    assert {world.wait(one).generation for one in (late, *again)} == {generation + 1}


def test_a_coordinator_that_is_none_any_more_moves_no_checkpoint(world: World) -> None:
    leader, _, generation = world.stable()
    assert world.commit(leader, generation, 0, 4) == ""
    old = world.home
    for other in world.cluster.members:  # it hears of nobody, and takes itself for the coordinator
        if other != old:
            world.cluster.partition(old, other)
    answers: list[list[int]] = []
    commits = world.cluster.nodes[old].requests.classic_commits
    commits.commit(
        world.client, Committer(GROUP, leader, "", generation), [Entry(world.topic, 0, 9, -1, "")], 30.0, answers.append
    )
    world.cluster.nodes[old].flush()
    node = next(number for number in world.cluster.members if number != old)
    for group in range(4):
        world.cluster.nodes[node].submit(GroupId(group), CommandKind.BARRIER, b"", lambda _: None, timeout_s=5.0)
    world.cluster.run(1.0)
    assert world.home != old
    assert world.beat(leader, generation) == ""
    world.cluster.run(6.0)  # at the new one both members fall silent, and others come
    new_leader, _, new_generation = world.stable()
    assert new_generation > generation
    for other in world.cluster.members:
        if other != old:
            world.cluster.heal(old, other)
    world.cluster.run(3.0)
    assert world.fetch()[0].offset == 4
    assert not answers or code(answers[0][0]) != ""
    assert world.owners()[0] == (new_leader, new_generation)
