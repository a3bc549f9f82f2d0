"""The search for an order of a register's operations, against one that tries them all."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from corgi.history.model import FAILED, NEVER, OK, OPEN, REFUSED, UNKNOWN, Call, State
from corgi.history.registers import judge_register, judge_registers


def explained(calls: list[Call]) -> bool:
    """The naive twin: is there an order of some of the calls, all answered ones among them, that fits?"""
    known = [call for call in calls if call.status != FAILED]
    must = {n for n, call in enumerate(known) if call.status in (OK, REFUSED)}
    for size in range(len(must), len(known) + 1):
        for order in permutations(range(len(known)), size):
            if must <= set(order) and in_real_time(known, order) and replays(known, order):
                return True
    return False


def in_real_time(calls: list[Call], order: tuple[int, ...]) -> bool:
    ends = [calls[n].ended if calls[n].status in (OK, REFUSED) else float("inf") for n in order]
    return all(
        not ends[later] < calls[order[earlier]].invoked
        for later in range(len(order))
        for earlier in range(later)
    )  # fmt: skip


def replays(calls: list[Call], order: tuple[int, ...]) -> bool:
    state: State = None
    for number in order:
        call = calls[number]
        if call.status == REFUSED:
            if state == call.old:
                return False
        elif call.action == "write":
            state = call.new
        elif state != call.old:
            return False
        elif call.action == "swap":
            state = call.new
    return True


@st.composite
def call(draw: st.DrawFn) -> Call:
    states = st.sampled_from([None, "a", "b"])
    action = draw(st.sampled_from(["read", "write", "swap"]))
    outcomes = [OK, OK, OK, UNKNOWN, FAILED, OPEN] + [REFUSED] * (action == "swap")
    status = draw(st.sampled_from(outcomes))
    invoked = draw(st.integers(0, 8))
    ended = NEVER if status == OPEN else float(invoked + draw(st.integers(0, 4)))
    return Call("p", "r", action, draw(states), draw(states), status, float(invoked), ended)


@given(st.lists(call(), max_size=5))
def test_it_finds_an_order_exactly_where_there_is_one(calls: list[Call]) -> None:
    outcome = judge_register(calls)
    assert not outcome.undecided
    assert (outcome.broken == "") == explained(calls)


def test_a_doubtful_operation_may_take_effect_long_after() -> None:
    calls = [
        Call("p", "r", "write", None, "a", OK, 0, 1),
        Call("p", "r", "write", None, "b", UNKNOWN, 2, 3),
        Call("q", "r", "read", "a", None, OK, 4, 5),
        Call("q", "r", "read", "b", None, OK, 6, 7),
    ]
    assert judge_register(calls) == ("", 0.0, False)
    back = [*calls, Call("q", "r", "read", "a", None, OK, 8, 9)]
    told = judge_register(back)
    assert told.time == 9
    assert "could only be 'b'" in told.broken


def test_many_equal_doubts_are_no_trouble_and_too_many_kinds_are_told() -> None:
    same = [Call("p", "r", "write", None, "a", UNKNOWN, n, n + 1) for n in range(200)]
    same += [Call("q", "r", "read", None, None, OK, 300 + n, 301 + n) for n in range(20)]
    assert not judge_register(same).undecided
    kinds = [Call("p", "r", "write", None, n, UNKNOWN, 0, 1) for n in range(20)]
    kinds.append(Call("q", "r", "read", 99, None, OK, 2, 3))
    assert judge_register(kinds, configurations_max=1000).undecided


def test_a_search_that_would_take_for_ever_gives_up() -> None:
    """Its configurations are never too many at a time, but it would look at them again and again."""
    doubts = [Call("p", "r", "write", None, n % 8, UNKNOWN, 0, 1) for n in range(24)]
    reads = [Call("q", "r", "read", n % 8, None, OK, 2 + n, 2.5 + n) for n in range(24)]
    assert judge_register([*doubts, *reads]).undecided
    assert not judge_register([*doubts[:8], *reads[:8]]).undecided


def test_registers_are_judged_one_by_one() -> None:
    calls = [Call("p", name, "write", None, "x", OK, 0, 1) for name in ("one", "two")]
    calls.append(Call("p", "two", "read", None, None, OK, 2, 3))
    assert [(name, bool(outcome.broken)) for name, outcome in judge_registers(calls)] == [("one", False), ("two", True)]
