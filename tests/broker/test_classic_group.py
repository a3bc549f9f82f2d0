"""Kafka's classic groups: joining, assigning, staying and leaving, one group without a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corgi.base.errors import BY_NUMBER
from corgi.broker.classic_group import ClassicGroup, State
from corgi.broker.classic_member import Join, Joined, Sync, Synced
from corgi.broker.consumer_protocol import (
    EMPTY_ASSIGNMENT,
    empty_assignment,
    encode_assignment,
    encode_subscription,
    partitions_assigned,
    topics_wanted,
)
from corgi.broker.group_records import StoredClassic, decode_record
from corgi.state.consumer_groups import GROUP_BYTES_MAX

SESSION_S, REBALANCE_S, DELAY_S = 10.0, 60.0, 0.25


class Log:
    """What became of one request; complains when it is answered twice."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def __call__(self, answer: Any) -> None:
        assert not self.answers, "answered twice"
        self.answers.append(answer)

    @property
    def answer(self) -> Any:
        assert self.answers, "not answered yet"
        return self.answers[0]

    @property
    def error(self) -> str:
        return BY_NUMBER[self.answer.error].code if self.answer.error else ""


class World:
    """A group, its record, and time; ``crash`` puts another coordinator in its place."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.now = 100.0
        self.delay_s = delay_s
        self.names = 0
        self.stored: StoredClassic | None = None
        self.group = self._open()

    def _open(self) -> ClassicGroup:
        return ClassicGroup(self.stored, self.now, join_delay_s=self.delay_s, empty_assignment=empty_assignment)

    def crash(self) -> None:
        self.group.fail(12)
        self.group = self._open()
        self.drive()

    def save(self) -> None:
        revision, body = self.group.record()
        found = decode_record(body)
        assert isinstance(found, StoredClassic)
        self.stored = found
        self.group.saved(revision)

    def drive(self) -> None:
        self.group.expire(self.now)
        if self.group.unsaved:
            self.save()
        self.group.settled()
        self.group.release(self.now)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.group.due_at <= end:
            self.now = max(self.now, self.group.due_at)
            self.drive()
        self.now = end

    def join(
        self, member: str = "", instance: str = "", *protocols: str, metadata: bytes = b"m", skips: bool = False,
        takes_ids: bool = False, drive: bool = True,
    ) -> Log:  # fmt: skip
        self.names += 1
        log = Log()
        said = tuple((name, metadata) for name in protocols or ("range",))
        request = Join(
            member, instance, "client", "/host", int(SESSION_S * 1000), int(REBALANCE_S * 1000), "consumer", said,
            takes_ids, skips,
        )  # fmt: skip
        self.group.join(request, f"m{self.names}", log, self.now)
        if drive:
            self.drive()
        return log

    def sync(self, member: str, generation: int, assignments: dict[str, bytes] | None = None, instance: str = "",
             protocol: str = "", *, drive: bool = True) -> Log:  # fmt: skip
        log = Log()
        self.group.sync(Sync(member, instance, generation, "", protocol, assignments or {}), log, self.now)
        if drive:
            self.drive()
        return log

    def beat(self, member: str, generation: int | None = None, instance: str = "") -> str:
        number = self.group.generation if generation is None else generation
        error = self.group.heartbeat(member, instance, number, self.now)
        return BY_NUMBER[error].code if error else ""

    def leave(self, member: str, instance: str = "") -> str:
        error = self.group.leave(member, instance, self.now)
        self.drive()
        return BY_NUMBER[error].code if error else ""

    def stable(self, count: int, *, instances: bool = False) -> list[str]:
        """That many members in a stable group; the first leads."""
        first = self.join("", "i0" if instances else "")
        joined = [first]
        for number in range(1, count):
            joined.append(self.join("", f"i{number}" if instances else ""))
            for log in joined[:-1]:  # those before join again
                self.join(log.answers[0].member, f"i{joined.index(log)}" if instances else "")
        names = [log.answer.member for log in joined]
        synced = [
            self.sync(name, self.group.generation, {one: one.encode() for one in names}, drive=False)
            for name in reversed(names)
        ]
        self.drive()
        assert [log.error for log in synced] == [""] * count
        assert self.group.state is State.STABLE
        return names


def test_a_member_alone_leads_its_group() -> None:
    world = World()
    joined = world.join().answer
    assert (joined.generation, joined.protocol, joined.leader) == (1, "range", joined.member)
    assert joined.members == ((joined.member, "", b"m"),)
    synced = world.sync(joined.member, 1, {joined.member: b"all"}).answer
    assert synced == Synced(0, "consumer", "range", b"all")
    assert world.beat(joined.member) == ""


def test_a_client_that_takes_ids_joins_again_under_the_one_it_was_given() -> None:
    world = World()
    first = world.join(takes_ids=True)
    assert first.error == "member-id-required"
    assert world.join(first.answer.member, takes_ids=True).answer.generation == 1


def test_an_id_that_nobody_comes_back_with_is_forgotten() -> None:
    world = World()
    given_id = world.join(takes_ids=True).answer.member
    other = world.join()
    assert not other.answers, "the other one is waited for"
    world.wait(SESSION_S)
    assert other.answer.generation == 1
    assert world.join(given_id, takes_ids=True).error == "unknown-member"


def test_members_that_start_together_make_one_generation() -> None:
    world = World(delay_s=DELAY_S)
    logs = []
    for _ in range(5):
        logs.append(world.join())
        world.wait(DELAY_S / 2)
    world.wait(2 * DELAY_S)
    assert {log.answer.generation for log in logs} == {1}
    assert [len(log.answer.members) for log in logs] == [5, 0, 0, 0, 0]


def test_another_member_makes_the_rest_join_again() -> None:
    world = World()
    leader = world.stable(1)[0]
    late = world.join()
    assert not late.answers
    assert world.beat(leader) == "rebalancing"
    again = world.join(leader)
    assert (again.answer.generation, late.answer.generation) == (2, 2)
    assert again.answer.leader == late.answer.leader == leader
    assert [name for name, _, _ in again.answer.members] == [leader, late.answer.member]
    assert late.answer.members == ()


def test_followers_wait_for_the_assignment_of_the_leader() -> None:
    world = World()
    leader, follower = world.stable(2)
    world.join(leader)
    assert world.join(follower).answer.generation == 3
    waiting = world.sync(follower, 3)
    assert not waiting.answers
    assert world.sync(leader, 3, {leader: b"1", follower: b"2"}).answer.assignment == b"1"
    assert waiting.answer.assignment == b"2"


def test_a_member_that_the_leader_left_out_gets_an_empty_assignment_that_decodes() -> None:
    world = World()
    leader, follower = world.stable(2)
    world.join(leader)
    world.join(follower)
    waiting = world.sync(follower, 3)
    world.sync(leader, 3, {leader: b"1"})
    assert waiting.answer.assignment == EMPTY_ASSIGNMENT


def test_nothing_of_a_generation_is_told_before_it_is_in_the_record() -> None:
    world = World()
    log = world.join(drive=False)
    world.group.release(world.now)
    assert not log.answers
    world.save()
    world.group.release(world.now)
    joined = log.answer
    synced = world.sync(joined.member, 1, {joined.member: b"a"}, drive=False)
    world.group.release(world.now)
    assert not synced.answers
    world.save()
    world.group.release(world.now)
    assert not synced.answers, "units are claimed first"
    world.group.settled()
    world.group.release(world.now)
    assert synced.answer.assignment == b"a"


def test_who_does_not_join_again_in_time_is_no_member_any_more() -> None:
    world = World()
    leader, follower = world.stable(2)
    again = world.join(leader)
    for _ in range(int(REBALANCE_S)):  # the other one lives, and does nothing
        assert world.beat(follower) == "rebalancing"
        world.wait(1.0)
    assert again.answer.generation == 3
    assert world.beat(follower) == "unknown-member"


def test_silence_ends_a_membership() -> None:
    world = World()
    leader, follower = world.stable(2)
    for _ in range(12):
        world.wait(1.0)
        world.beat(leader)
    assert world.beat(follower) == "unknown-member"
    assert world.beat(leader) == "rebalancing"


def test_who_leaves_is_not_waited_for() -> None:
    world = World()
    leader, follower = world.stable(2)
    assert world.leave(leader) == ""
    joined = world.join(follower)
    assert (joined.answer.generation, joined.answer.leader) == (3, follower)
    assert world.leave(follower) == ""
    assert world.group.state is State.EMPTY
    assert world.stored is not None
    assert (world.stored.generation, world.stored.members) == (4, ())


def test_a_leader_that_never_assigns_loses_its_membership() -> None:
    world = World()
    leader, follower = world.stable(2)
    world.join(leader)
    world.join(follower)
    waiting = world.sync(follower, 3)
    for _ in range(int(REBALANCE_S) + 1):
        world.wait(1.0)
        world.beat(leader)
    assert waiting.error == "rebalancing"
    assert world.beat(leader) == "unknown-member"


def test_the_record_of_members_with_long_names_stays_within_its_bound() -> None:
    world = World()
    client = "c" * 249
    for number in range(800):
        log = Log()
        request = Join("", "", client, "/host", 10_000, 60_000, "consumer", (("range", b"m" * 100),), takes_ids=False)
        world.group.join(request, f"{client[:200]}-{number:032x}", log, world.now)
    world.wait(REBALANCE_S)  # the first one is asked to join again, and does not
    members = dict(world.group.members)
    assert 400 < len(members) < 800, "what does not fit is refused"
    assert len(world.group.record()[1]) <= GROUP_BYTES_MAX
    leader = world.group.leader
    shares = dict.fromkeys(members, b"a" * 230)
    log = world.sync(leader, world.group.generation, shares)
    assert log.error == "record-too-large"
    assert len(world.group.record()[1]) <= GROUP_BYTES_MAX


def test_an_instance_that_comes_back_keeps_its_place() -> None:
    world = World()
    leader, follower = world.stable(2, instances=True)
    generation = world.group.generation
    back = world.join("", "i1")
    assert back.answer.generation == generation
    assert world.group.state is State.STABLE
    assert world.sync(back.answer.member, generation, instance="i1").answer.assignment == follower.encode()
    assert world.beat(follower, instance="i1") == "instance-fenced"
    assert world.beat(leader, instance="i0") == ""


def test_a_leading_instance_that_comes_back_does_not_assign() -> None:
    world = World()
    leader, _ = world.stable(2, instances=True)
    old_client = world.join("", "i0").answer
    assert (old_client.leader, old_client.members) == (leader, ())
    new_client = world.join("", "i0", skips=True).answer
    assert (new_client.leader, new_client.skip_assignment) == (new_client.member, True)
    assert len(new_client.members) == 2


def test_an_instance_leaves_by_its_own_id() -> None:
    world = World()
    world.stable(2, instances=True)
    assert world.leave("", "i1") == ""
    assert world.leave("", "i1") == "unknown-member"
    assert len(world.group.members) == 1


def test_a_protocol_that_all_know_is_chosen_by_votes() -> None:
    world = World()
    first = world.join("", "", "range", "sticky").answer.member
    late = world.join("", "", "sticky", "range")
    third = world.join("", "", "sticky", "range", "other")
    world.join(first, "", "range", "sticky")
    assert {late.answer.protocol, third.answer.protocol} == {"sticky"}
    assert world.join("", "", "other").error == "inconsistent-protocol"


def test_a_leader_that_joins_again_always_makes_a_new_generation() -> None:
    world = World()
    leader = world.stable(1)[0]
    assert world.join(leader).answer.generation == 2


def test_a_follower_without_news_is_told_how_things_are() -> None:
    world = World()
    _, follower = world.stable(2)
    assert world.join(follower).answer.generation == 2
    assert not world.join(follower, metadata=b"news").answers


@pytest.mark.parametrize("state", ["stable", "assigning"])
def test_another_coordinator_goes_on_where_the_record_is(state: str) -> None:
    world = World()
    leader, follower = world.stable(2)
    generation = world.group.generation
    if state == "assigning":
        world.join(leader)
        world.join(follower)
        generation += 1
    world.crash()
    assert world.beat(leader) == world.beat(follower) == ""
    waiting = world.sync(follower, generation)
    world.sync(leader, generation, {leader: b"x", follower: follower.encode()})
    assert waiting.answer.assignment == follower.encode()
    assert world.group.generation == generation


def test_commits_are_for_members_of_the_generation_or_for_anybody_in_an_empty_group() -> None:
    world = World()
    assert world.group.may_commit("", "", -1, world.now) == 0
    member = world.stable(1)[0]
    assert world.group.may_commit(member, "", 1, world.now) == 0
    codes = [
        BY_NUMBER[world.group.may_commit(*who, world.now)].code
        for who in (("", "", -1), ("nobody", "", 1), (member, "", 0))
    ]
    assert codes == ["unknown-member", "unknown-member", "generation-over"]
    late = world.join()
    assert world.group.may_commit(member, "", 1, world.now) == 0, "a member commits before it joins again"
    world.join(member)
    assert BY_NUMBER[world.group.may_commit(member, "", 2, world.now)].code == "rebalancing"
    assert world.group.may_commit("", "", -1, world.now, in_transaction=True) == 0
    assert late.answer.generation == 2


def test_bytes_of_consumers_are_read_as_far_as_they_make_sense() -> None:
    assert topics_wanted(encode_subscription(["a", "é"])) == ("a", "é")
    given_ = (("a", 0), ("a", 2), ("b", 1))
    assert partitions_assigned(encode_assignment(given_)) == given_
    assert partitions_assigned(EMPTY_ASSIGNMENT) == ()
    for junk in (b"", b"\0", b"\0\0\x7f\xff\xff\xff", encode_assignment(given_)[:-9], b"\0\0\0\0\0\1\0\1\xff"):
        assert partitions_assigned(junk) in ((), given_)
        topics_wanted(junk)


class Clients:
    """Members that do what a drawn list of steps says, right or wrong."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.names: list[str] = [""]
        self.joins: list[Log] = []
        self.syncs: list[Log] = []
        self.generations: dict[int, set[tuple[str, str]]] = {}
        self.instances: dict[str, str] = {}  # a process follows another under the same instance

    def look(self) -> None:
        for log in self.joins:
            for joined in log.answers:
                assert isinstance(joined, Joined)
                if joined.member and joined.member not in self.names:
                    self.names.append(joined.member)
                if not joined.error:
                    views = self.generations.setdefault(joined.generation, set())
                    views.add((joined.protocol, self.instances.get(joined.leader, joined.leader)))
                    assert not joined.members or joined.member == joined.leader

    def step(self, kind: str, who: int, what: int) -> None:
        world, name = self.world, self.names[who % len(self.names)]
        drive = bool(what % 3)
        if kind == "join":
            protocols = (("range",), ("range", "sticky"), ("sticky", "range"))[what % 3]
            self.joins.append(
                world.join(name, "", *protocols, metadata=bytes([what % 2]), takes_ids=what % 2 == 0, drive=drive)
            )
        elif kind == "static":
            instance = f"i{who % 2}"
            self.joins.append(world.join("", instance, "range", skips=what % 2 == 0, drive=drive))
            self.instances[f"m{world.names}"] = instance
        elif kind == "sync":
            generation = world.group.generation - (what % 4 == 0)
            self.syncs.append(world.sync(name, generation, {name: b"x"}, drive=drive))
        elif kind == "beat":
            world.beat(name)
        elif kind == "leave":
            world.leave(name, f"i{who % 2}" if what % 2 and not name else "")
        elif kind == "crash":
            world.crash()
        elif kind == "save":
            world.drive()
        else:
            world.wait(what)
        self.look()


STEPS: Callable[[], Any] = lambda: st.lists(  # noqa: E731
    st.tuples(
        st.sampled_from(["join", "join", "sync", "sync", "static", "beat", "leave", "crash", "save", "wait"]),
        st.integers(0, 6),
        st.integers(0, 11),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(STEPS())
def test_of_one_generation_all_know_the_same_leader_and_everybody_is_answered(
    steps: list[tuple[str, int, int]],
) -> None:
    world = World(delay_s=DELAY_S)
    clients = Clients(world)
    for step in steps:
        clients.step(*step)
    world.drive()
    world.wait(1_000.0)
    assert all(log.answers for log in (*clients.joins, *clients.syncs)), "somebody waits for ever"
    assert world.group.state is State.EMPTY, "all fell silent"
    clients.look()
    assert all(len(views) == 1 for views in clients.generations.values()), clients.generations
