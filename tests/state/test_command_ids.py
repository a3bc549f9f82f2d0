"""Duplicates are recognised by the command's id, exactly, in memory bounded by what is in flight."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from state_values import Driver, batch, data

from corgi.base import errors
from corgi.base.command import CommandKind, encode_command
from corgi.base.ids import NodeId, make_origin
from corgi.state.machine import Outcome

DATA = CommandKind.DATA


def test_a_duplicate_gives_the_first_outcome_and_appends_nothing() -> None:
    driver = Driver(3)
    command = driver.command(DATA, data((3, batch(2))))
    (first,) = driver.apply(command, timestamp_ms=10)
    driver.append(3, batch(1))
    (again,) = driver.apply(command, timestamp_ms=20)
    assert again == first
    assert (first.appends[0].base_offset, first.timestamp_ms) == (0, 10)
    assert driver.machine.partitions[16, 3].end == 3


def test_a_duplicate_in_the_same_value() -> None:
    driver = Driver(3)
    command = driver.command(DATA, data((3, batch(2))))
    first, again = driver.apply(command, command)
    assert first == again
    assert driver.machine.partitions[16, 3].end == 2


def test_a_refused_command_stays_refused() -> None:
    """Its origin was told so, and may have told a client: a second copy must not succeed behind their back."""
    driver = Driver(3)
    gap = driver.command(DATA, data((3, batch(1, 7, 0, 1))))
    (refused,) = driver.apply(gap)
    assert refused.error == errors.OUT_OF_ORDER_SEQUENCE
    driver.append(3, batch(1, 7, 0, 0))
    assert driver.apply(gap) == [refused]
    assert driver.append(3, batch(1, 7, 0, 1)) == (0, 1)


def test_what_its_origin_gave_up_is_not_applied() -> None:
    driver = Driver(3)
    late = driver.command(DATA, data((3, batch(1))))
    driver.settled = driver.counter + 1
    assert driver.append(3, batch(1)) == (0, 0)
    (outcome,) = driver.apply(late)
    assert (outcome.error, outcome.appends) == (errors.UNSETTLED, ())
    assert driver.machine.partitions[16, 3].end == 1


def test_settled_never_falls() -> None:
    driver = Driver(3)
    driver.settled = 50
    driver.counter = 60
    driver.append(3, batch(1))
    driver.settled = 0
    driver.append(3, batch(1))
    (outcome,) = driver.apply(driver.command(DATA, data((3, batch(1))), counter=49))
    assert outcome.error == errors.UNSETTLED


def test_a_command_cannot_settle_itself() -> None:
    driver = Driver(3)
    command = encode_command(DATA, driver.origin, 5, 6, data((3, batch(1))))
    (outcome,) = driver.apply(command)
    assert outcome.error == errors.INVALID_ARGUMENT
    assert driver.apply(driver.command(DATA, data((3, batch(1))), counter=5))[0].error == errors.OK


def test_a_later_start_of_a_node_ends_the_earlier() -> None:
    driver = Driver(3)
    old = driver.command(DATA, data((3, batch(1))))
    driver.apply(old)
    lost = driver.command(DATA, data((3, batch(1))))
    driver.origin, driver.counter = make_origin(NodeId(1), 2), 0
    assert driver.append(3, batch(1)) == (0, 1)
    assert [outcome.error for outcome in driver.apply(old, lost)] == [errors.UNSETTLED] * 2
    assert driver.machine.partitions[16, 3].end == 2
    assert list(driver.machine.windows) == [1]
    assert len(driver.machine.windows[1].outcomes) == 1


def test_origins_count_for_themselves() -> None:
    driver = Driver(3)
    other = make_origin(NodeId(2), 1)
    mine = driver.command(DATA, data((3, batch(1))))
    theirs = driver.command(DATA, data((3, batch(1))), counter=driver.counter, origin=other)
    first, second = driver.apply(mine, theirs)
    assert [first.appends[0].base_offset, second.appends[0].base_offset] == [0, 1]
    assert driver.apply(theirs, mine) == [second, first]


def test_outcomes_held_are_those_in_flight() -> None:
    driver = Driver(3)
    window = driver.machine.windows[1]
    for step in range(3_000):
        driver.settled = max(0, driver.counter - 16)
        driver.append(3, batch(1))
        assert len(window.outcomes) <= 18, step
    driver.settled = driver.counter + 1
    driver.append(3, batch(1))
    assert len(window.outcomes) == 1


def test_settled_may_jump_far() -> None:
    """The jump costs what is held, not what is skipped."""
    driver = Driver(3)
    driver.counter = driver.settled = 2**63
    driver.append(3, batch(1))
    assert list(driver.machine.windows[1].outcomes) == [2**63 + 1]


@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(0, 12), st.integers(0, 12)), max_size=80),
)
def test_against_a_twin_that_forgets_nothing(steps: list[tuple[int, int, int, int]]) -> None:
    """Commands of two nodes with several starts, in any order, over and over: each is applied at most once."""
    driver = Driver(3)
    first_outcomes: dict[tuple[int, int], Outcome] = {}
    settled_of: dict[int, int] = {}
    boots: dict[int, int] = {}
    end = 0
    for node, boot, counter, settled in steps:
        node += 100  # the driver itself is node 1
        origin = make_origin(NodeId(node), boot)
        command = encode_command(DATA, origin, counter, settled, data((3, batch(1))))
        (outcome,) = driver.apply(command)
        if boot < boots.get(node, 0) or counter < settled_of.get(origin, 0):
            assert outcome.error == errors.UNSETTLED
            continue
        boots[node] = boot
        if settled > counter and settled > settled_of.get(origin, 0):
            assert outcome.error == errors.INVALID_ARGUMENT
            continue
        settled_of[origin] = max(settled_of.get(origin, 0), settled)
        if (origin, counter) in first_outcomes:
            assert outcome == first_outcomes[origin, counter]
            continue
        first_outcomes[origin, counter] = outcome
        assert (outcome.error, outcome.appends[0].base_offset) == (errors.OK, end)
        end += 1
    assert driver.machine.partitions[16, 3].end == end
    for node, window in driver.machine.windows.items():
        if node > 100:
            assert all(counter >= window.settled for counter in window.outcomes)
