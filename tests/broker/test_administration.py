"""Creating, changing and deleting topics: what is answered when, and that every group ends up as `__meta` says."""

from __future__ import annotations

import pytest
from administration_world import GROUPS, Answers, World, ask
from hypothesis import given
from hypothesis import strategies as st

from corgi.base import errors
from corgi.base.command import CommandKind
from corgi.base.ids import TopicId
from corgi.broker.openings import COMMANDS_IN_FLIGHT, PARTITIONS_PER_TURN, RETRY_S
from corgi.state.commands import PARTITIONS_PER_COMMAND, decode_partition_open, encode_partition_open
from corgi.wire.messages import AlterTopic, CreateTopic, DeleteTopic

OPEN = CommandKind.PARTITION_OPEN
CLOSE = CommandKind.PARTITION_CLOSE


@pytest.fixture
def world() -> World:
    return World()


def create(world: World, name: str = "orders", partitions: int = 6, node: int = 0, **more: object) -> Answers:
    answers = ask(world.nodes[node], CreateTopic(name, partitions, **more))  # type: ignore[arg-type]
    world.settle()
    return answers


# -- create ---------------------------------------------------------------------------------------------------------


def test_a_created_topic_is_open_everywhere(world: World) -> None:
    answers = create(world, anchor=2, config={"max_batch_bytes": "5000"})
    assert (answers.error, answers.message) == (0, "")
    topic = answers.topic
    assert (topic.name, topic.topic, topic.error, topic.open) == ("orders", 16, 0, True)
    assert topic.groups == (2, 3, 0, 1, 2, 3)
    assert topic.config == {"max_batch_bytes": "5000"}
    world.check_partitions()
    for node in world.nodes:
        log = node.groups[3].machine.partitions[TopicId(16), 5]
        assert log.batch_bytes_max == 5000
        assert node.administration.topic_info("orders") == topic
        assert node.administration.topic_infos() == [topic]
    assert len(world.sent(OPEN)) == GROUPS, "one command per group, from its leader"


def test_the_answer_waits_for_every_group_here(world: World) -> None:
    node = world.nodes[0]
    node.frozen = {3}
    answers = ask(node, CreateTopic("orders", 6))
    world.settle()
    assert answers.answer is None
    assert not node.administration.topic_info("orders").open
    assert world.nodes[1].administration.topic_info("orders").open
    node.frozen = set()
    world.settle()
    assert answers.error == 0
    assert node.administration.topic_info("orders").open


def test_groups_without_a_partition_are_not_waited_for(world: World) -> None:
    world.held = {0, 1, 3}
    answers = ask(world.nodes[0], CreateTopic("orders", 1, anchor=2))
    world.held.discard(0)
    world.settle()
    assert answers.error == 0


def test_the_second_of_a_name_is_refused(world: World) -> None:
    assert create(world).error == 0
    again = create(world, partitions=1)
    assert again.error == errors.TOPIC_EXISTS
    assert "orders" in again.message
    assert len(world.nodes[0].administration.topic_infos()) == 1


def test_of_two_who_create_at_once_one_succeeds(world: World) -> None:
    both = [ask(node, CreateTopic("orders", 2)) for node in world.nodes]
    world.settle()
    assert [answers.error for answers in both] == [0, errors.TOPIC_EXISTS]
    world.check_partitions()


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (CreateTopic("", 1), errors.INVALID_TOPIC_NAME),
        (CreateTopic("__meta", 1), errors.INVALID_TOPIC_NAME),
        (CreateTopic("a b", 1), errors.INVALID_TOPIC_NAME),
        *[(CreateTopic("a", count), errors.INVALID_ARGUMENT) for count in (0, -1, 10_001, 2**31, 2**63)],
        *[(CreateTopic("a", 1, anchor=anchor), errors.INVALID_ARGUMENT) for anchor in (-2, 2**31, 2**63)],
        (CreateTopic("a", 1, {"durability": "memory"}), errors.INVALID_ARGUMENT),
        (CreateTopic("a", 1, {"durability": "disk"}), errors.INVALID_ARGUMENT),
        (CreateTopic("a", 1, {"retention_ms": "0"}), errors.INVALID_ARGUMENT),
        (CreateTopic("a", 1, colocate_with="b", anchor=1), errors.INVALID_ARGUMENT),
    ],
)
def test_bad_requests_are_refused_at_once(world: World, message: CreateTopic, error: int) -> None:
    answers = ask(world.nodes[0], message)
    assert answers.error == error
    assert answers.message
    assert world.history == []


@pytest.mark.parametrize("timeout_ms", [-(2**63), -1, 0, 2**31, 2**63])
def test_odd_timeouts_are_harmless(world: World, timeout_ms: int) -> None:
    assert create(world, timeout_ms=timeout_ms).error == 0


def test_anchors_beyond_the_groups_are_fine(world: World) -> None:
    assert create(world, partitions=2, anchor=2**31 - 1).topic.groups == (3, 0)


def test_colocated_topics_share_groups(world: World) -> None:
    first = create(world, "orders", 5)
    second = create(world, "bills", 5, colocate_with="orders", node=1)
    assert second.topic.groups == first.topic.groups


def test_colocation_needs_as_many_partitions(world: World) -> None:
    create(world, "orders", 5)
    answers = create(world, "bills", 4, colocate_with="orders")
    assert answers.error == errors.INVALID_ARGUMENT
    assert "5 partitions" in answers.message
    assert create(world, "bills", 4, colocate_with="absent").error == errors.UNKNOWN_TOPIC


def test_a_node_that_is_behind_looks_again_before_it_says_unknown(world: World) -> None:
    behind = world.nodes[1]
    behind.frozen = {0}
    create(world, "orders", 5)
    assert behind.administration.topic_info("orders").error == errors.UNKNOWN_TOPIC
    beside = ask(behind, CreateTopic("bills", 5, colocate_with="orders"))
    change = ask(behind, AlterTopic("orders", config={"cleanup": "compact"}))
    unknown = ask(behind, DeleteTopic("absent"))
    world.settle()
    assert [one.answer for one in (beside, change, unknown)] == [None] * 3
    behind.frozen = set()
    world.settle()
    assert [one.error for one in (beside, change, unknown)] == [0, 0, errors.UNKNOWN_TOPIC]


def test_colocation_with_a_topic_that_changes_meanwhile_is_decided_anew(world: World) -> None:
    create(world, "orders", 5)
    answers = [
        ask(world.nodes[0], AlterTopic("orders", partitions=7)),
        ask(world.nodes[1], CreateTopic("bills", 5, colocate_with="orders")),
    ]
    world.settle()
    assert [one.error for one in answers] == [0, errors.INVALID_ARGUMENT]


# -- alter and delete -----------------------------------------------------------------------------------------------


def test_settings_reach_open_partitions(world: World) -> None:
    create(world, config={"max_batch_bytes": "5000", "retention_ms": "60000"})
    answers = ask(world.nodes[1], AlterTopic("orders", config={"max_batch_bytes": "7000", "retention_ms": None}))
    world.settle()
    assert answers.topic.config == {"max_batch_bytes": "7000"}
    world.check_partitions()
    assert world.nodes[0].groups[0].machine.partitions
    log = next(log for key, log in world.nodes[0].groups[0].machine.partitions.items() if key[0] == 16)
    assert log.batch_bytes_max == 7000


def test_a_change_is_answered_when_every_group_knows_it_here(world: World) -> None:
    create(world)
    world.held = {3}
    answers = ask(world.nodes[0], AlterTopic("orders", config={"max_batch_bytes": "7000"}))
    world.settle()
    assert answers.answer is None
    world.held = set()
    world.settle()
    assert answers.error == 0
    world.check_partitions()


def test_partitions_are_added(world: World) -> None:
    before = create(world, partitions=2).topic
    answers = ask(world.nodes[0], AlterTopic("orders", partitions=9))
    world.settle()
    assert answers.topic.groups[:2] == before.groups
    assert len(answers.topic.groups) == 9
    assert answers.topic.open
    world.check_partitions()


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (AlterTopic("absent"), errors.UNKNOWN_TOPIC),
        (AlterTopic("orders", partitions=5), errors.INVALID_ARGUMENT),
        (AlterTopic("orders", partitions=-1), errors.INVALID_ARGUMENT),
        (AlterTopic("orders", partitions=2**63), errors.INVALID_ARGUMENT),
        (AlterTopic("orders", config={"cleanup": "never"}), errors.INVALID_ARGUMENT),
        (AlterTopic("orders", config={"colour": None}), errors.INVALID_ARGUMENT),
    ],
)
def test_bad_changes_are_refused(world: World, message: AlterTopic, error: int) -> None:
    create(world)
    answers = ask(world.nodes[0], message)
    world.settle()
    assert answers.error == error


def test_two_changes_at_once_are_both_made(world: World) -> None:
    create(world)
    both = [
        ask(world.nodes[0], AlterTopic("orders", config={"cleanup": "compact"})),
        ask(world.nodes[1], AlterTopic("orders", config={"retention_ms": "7"})),
    ]
    world.settle()
    assert [answers.error for answers in both] == [0, 0]
    assert both[1].topic.config == {"cleanup": "compact", "retention_ms": "7"}
    world.check_partitions()


def test_a_deleted_topic_is_gone_everywhere(world: World) -> None:
    create(world)
    log = next(log for key, log in world.nodes[0].groups[0].machine.partitions.items() if key[0] == 16)
    answers = ask(world.nodes[1], DeleteTopic("orders"))
    world.settle()
    assert answers.answer == (0, "", None)
    assert not log.open
    world.check_partitions()
    missing = world.nodes[0].administration.topic_info("orders")
    assert (missing.error, missing.open) == (errors.UNKNOWN_TOPIC, False)
    assert len(world.sent(CLOSE)) == GROUPS
    again = ask(world.nodes[0], DeleteTopic("orders"))
    world.settle()
    assert again.error == errors.UNKNOWN_TOPIC
    assert create(world).topic.topic == 18, "a new topic, although of the same name"
    world.check_partitions()


def test_nothing_is_kept_of_deleted_topics(world: World) -> None:
    for i in range(20):
        assert create(world, f"topic-{i}").error == 0
        ask(world.nodes[0], DeleteTopic(f"topic-{i}"))
        world.settle()
    for node in world.nodes:
        assert node.administration._infos == {}
        assert node.administration._waiting == {}
        assert not any(group.machine.held for group in node.groups)


def test_a_topic_deleted_before_it_was_open(world: World) -> None:
    world.held = {3}
    created = ask(world.nodes[0], CreateTopic("orders", 6))
    world.settle()
    deleted = ask(world.nodes[1], DeleteTopic("orders"))
    world.settle()
    assert created.error == errors.UNKNOWN_TOPIC
    world.held = set()
    world.settle()
    assert deleted.error == 0
    world.check_partitions()


def test_system_topics_can_be_looked_up(world: World) -> None:
    administration = world.nodes[0].administration
    assert administration.topic_info("__events").groups == (0, 1, 2, 3)
    assert administration.topic_info("__meta").groups == (0,)
    assert administration.topic_infos() == []


# -- time and trouble -----------------------------------------------------------------------------------------------


def test_time_is_up_when_a_group_stands_still(world: World) -> None:
    world.held = {3}
    answers = ask(world.nodes[0], CreateTopic("orders", 6, timeout_ms=500))
    world.settle(0.4)
    assert answers.answer is None
    world.settle(0.2)
    assert answers.error == errors.TIMEOUT
    assert answers.topic.name == "orders", "it was decided"
    world.held = set()
    world.settle()
    world.check_partitions()


def test_time_is_up_when_group_0_stands_still(world: World) -> None:
    world.held = {0}
    answers = [
        ask(world.nodes[0], CreateTopic("orders", 6, timeout_ms=500)),
        ask(world.nodes[0], DeleteTopic("absent", timeout_ms=500)),
    ]
    while world.due():
        pass
    assert [one.error for one in answers] == [errors.TIMEOUT] * 2
    assert 0.5 <= world.clock.seconds < 0.7


def test_a_failed_opening_is_tried_again_after_a_while(world: World) -> None:
    world.held = {3}
    answers = ask(world.nodes[0], CreateTopic("orders", 6))
    world.settle()
    (opening,) = [submitted for submitted in world.submitted if submitted.kind is OPEN]
    world.submitted.remove(opening)
    opening.fail(errors.NO_QUORUM)
    failed_at = world.clock.seconds
    world.held = set()
    assert not world.turn()
    world.settle(RETRY_S * 0.9)
    assert answers.answer is None
    world.settle()
    assert answers.error == 0
    assert world.sent(OPEN)[-1].group == 3
    assert world.clock.seconds >= failed_at + RETRY_S


def test_a_new_leader_finishes_what_the_old_one_left(world: World) -> None:
    world.held = {3}
    answers = ask(world.nodes[0], CreateTopic("orders", 6))
    world.settle()
    assert [submitted.node for submitted in world.submitted] == [world.nodes[1]]
    world.submitted.clear()  # it dies with its leader
    world.lead(3, 0)
    world.held = set()
    world.settle()
    assert answers.error == 0
    assert world.sent(OPEN)[-1].node is world.nodes[0]
    world.check_partitions()


def test_a_new_leader_closes_what_the_old_one_left(world: World) -> None:
    create(world)
    world.held = {3}
    answers = ask(world.nodes[0], DeleteTopic("orders"))
    world.settle()
    assert [submitted.kind for submitted in world.submitted] == [CLOSE]
    world.submitted.clear()
    world.lead(3, 0)
    world.held = set()
    world.settle()
    assert answers.error == 0
    world.check_partitions()


def test_a_leader_that_comes_back_does_not_send_what_is_still_under_way(world: World) -> None:
    world.held = {3}
    ask(world.nodes[0], CreateTopic("orders", 6))
    world.settle()
    for leader in (0, 1, 0, 1):
        world.lead(3, leader)
        world.settle(0.5)
    assert len([submitted for submitted in world.submitted if submitted.kind is OPEN]) == 2, "one from each node"
    world.held = set()
    world.settle()
    world.check_partitions()


def test_an_opening_that_arrives_after_the_deletion_is_closed_again(world: World) -> None:
    """Of a topic that the group never opened: no closing has raised its mark, so the late command gets through."""
    world.held = {3}
    create(world)
    (late,) = [submitted for submitted in world.submitted if submitted.kind is OPEN]
    world.submitted.clear()
    world.lead(3, 0)
    world.held = set()
    world.nodes[0].frozen = {3}
    ask(world.nodes[1], DeleteTopic("orders"))
    world.settle()
    world.submitted.append(late)
    world.nodes[0].frozen = set()
    world.settle()
    assert len([slot for slot in world.logs[3] if late.encoded in slot]) == 1
    world.check_partitions()


def test_a_group_leader_that_knows_less_of_meta_closes_nothing(world: World) -> None:
    """The partitions are there before it has heard of the topic: somebody else knew."""
    behind = world.nodes[1]
    behind.frozen = {0}
    create(world, "other", 1, node=0)
    world.submitted.clear()
    body = encode_partition_open(TopicId(16), [0], 1, {})
    world.nodes[0].submit(behind.groups[1].id, OPEN, body, lambda _: None, timeout_s=9.0)
    world.lead(1, 1)
    world.settle()
    assert (TopicId(16), 0) in behind.groups[1].machine.partitions
    assert world.sent(CLOSE) == []


def test_a_large_topic_is_opened_in_pieces(world: World) -> None:
    answers = ask(world.nodes[0], CreateTopic("orders", 10_000))
    world.settle()
    assert answers.error == 0
    openings = [decode_partition_open(submitted.encoded[32:]) for submitted in world.sent(OPEN)]
    sizes = [len(opening.partitions) for opening in openings if opening]
    assert sum(sizes) == 10_000, "each partition once"
    assert max(sizes) == PARTITIONS_PER_COMMAND
    world.check_partitions()
    ask(world.nodes[0], DeleteTopic("orders"))
    world.settle()
    world.check_partitions()
    assert not any(group.machine.held for node in world.nodes for group in node.groups)


def test_many_topics_are_opened_a_few_at_a_time(world: World) -> None:
    topics = 40
    answers = [ask(world.nodes[0], CreateTopic(f"topic-{i}", GROUPS)) for i in range(topics)]
    most = 0
    while world.turn() or any(one.answer is None for one in answers):
        for group in range(GROUPS):
            most = max(most, len([one for one in world.submitted if one.group == group and one.kind is OPEN]))
        world.tick()
    assert [one.error for one in answers] == [0] * topics
    assert most == COMMANDS_IN_FLIGHT
    assert len(world.sent(OPEN)) == topics * GROUPS


def test_a_new_leader_looks_at_everything_in_slices(world: World) -> None:
    partitions = 100
    for i in range(2 + PARTITIONS_PER_TURN * GROUPS // partitions):
        ask(world.nodes[0], CreateTopic(f"topic-{i}", partitions))
    world.settle()
    world.check_partitions()
    node = world.nodes[0]
    world.lead(1, 0)
    before = len(world.history)
    world.clock.seconds += 1.0
    node.administration.advance(world.clock.seconds)
    deadline = node.administration.next_deadline()
    assert deadline is not None
    assert deadline <= world.clock.seconds, "there is more to look at"
    node.administration.advance(world.clock.seconds)
    assert node.administration.next_deadline() is None
    assert len(world.history) == before, "nothing was to be done"


# -- everything at once ---------------------------------------------------------------------------------------------

STEP = st.one_of(
    st.tuples(st.just("create"), st.integers(0, 1), st.sampled_from("abc"), st.integers(1, 6)),
    st.tuples(st.just("alter"), st.integers(0, 1), st.sampled_from("abc"), st.integers(0, 9)),
    st.tuples(st.just("delete"), st.integers(0, 1), st.sampled_from("abc"), st.just(0)),
    st.tuples(st.just("lead"), st.integers(0, 1), st.just(""), st.integers(0, GROUPS - 1)),
    st.tuples(st.just("freeze"), st.integers(0, 1), st.just(""), st.integers(0, GROUPS - 1)),
    st.tuples(st.just("hold"), st.integers(0, 1), st.just(""), st.integers(0, GROUPS - 1)),
    st.tuples(st.just("lose"), st.just(0), st.just(""), st.integers(0, 3)),
    st.tuples(st.just("turn"), st.just(0), st.just(""), st.just(0)),
    st.tuples(st.just("wait"), st.just(0), st.just(""), st.just(0)),
)


@given(st.lists(STEP, max_size=60))
def test_whatever_happens_all_are_answered_and_the_groups_follow(steps: list[tuple[str, int, str, int]]) -> None:
    """Requests at both nodes, changing leaders, groups that stand still, nodes that lag, commands that get lost."""
    world, answers = World(), []
    for what, number, name, amount in steps:
        node = world.nodes[number]
        match what:
            case "create":
                answers.append(ask(node, CreateTopic(name, amount, timeout_ms=2_000)))
            case "alter":
                config = {"retention_ms": str(1 + amount)}
                answers.append(ask(node, AlterTopic(name, amount, config, timeout_ms=2_000)))  # type: ignore[arg-type]
            case "delete":
                answers.append(ask(node, DeleteTopic(name, timeout_ms=2_000)))
            case "lead":
                world.lead(amount, number)
            case "freeze":
                node.frozen ^= {amount}
            case "hold":
                world.held ^= {amount}
            case "lose" if amount < len(world.submitted):
                lost = world.submitted.pop(amount)
                lost.node.waiting.pop((lost.group, lost.counter))
                lost.fail(errors.TIMEOUT)
            case "turn":
                world.turn()
            case "wait":
                world.due()
    world.held = set()
    for node in world.nodes:
        node.frozen = set()
    world.settle(10.0)
    assert all(one.answer is not None for one in answers)
    world.check_partitions()
    for node in world.nodes:
        assert node.administration.next_deadline() is None
        assert all(info.open for info in node.administration.topic_infos())
    for group in range(GROUPS):
        assert len({node.groups[group].machine.digest for node in world.nodes}) == 1
