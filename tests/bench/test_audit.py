"""Hand-made bad histories, each of which the audit must reject by its name."""

import pytest

from corgi.bench.audit import Item, Verdict, audit

SENT: list[Item] = [("a", 1), ("b", 1), ("a", 2), ("a", 3)]


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (SENT, Verdict(0, 0, 0, 0)),
        ([("a", 1), ("a", 2), ("a", 3), ("b", 1)], Verdict(0, 0, 0, 0)),  # streams are independent
        ([("a", 1), ("a", 2), ("a", 3)], Verdict(1, 0, 0, 0)),
        ([*SENT, ("a", 3)], Verdict(0, 1, 0, 0)),
        ([("a", 1), ("b", 1), ("a", 1), ("a", 2), ("a", 3)], Verdict(0, 1, 0, 0)),
        ([("a", 3), ("b", 1), ("a", 1), ("a", 2)], Verdict(0, 0, 2, 0)),
        ([*SENT, ("a", 4)], Verdict(0, 0, 0, 1)),
        ([*SENT, ("b", 2)], Verdict(0, 0, 0, 1)),
        ([*SENT, ("c", 1)], Verdict(0, 0, 0, 1)),
        ([("a", 1), ("a", 2), ("a", 3), ("a", 1.5)], Verdict(1, 0, 0, 1)),  # one was damaged
        ([], Verdict(4, 0, 0, 0)),
    ],
)
def test_what_happened_is_named(seen: list[Item], verdict: Verdict) -> None:
    assert audit(SENT, seen) == verdict
    assert verdict.clean == (not any(verdict))


def test_an_unknown_outcome_may_be_missing_or_there_but_not_twice() -> None:
    maybe: list[Item] = [("a", 9)]
    assert audit(SENT, SENT, unacknowledged=maybe).clean
    assert audit(SENT, [*SENT, ("a", 9)], unacknowledged=maybe).clean
    assert audit(SENT, [*SENT, ("a", 9), ("a", 9)], unacknowledged=maybe) == Verdict(0, 1, 0, 0)


def test_items_that_cannot_be_told_apart_are_a_mistake_of_the_test() -> None:
    with pytest.raises(AssertionError, match="unique"):
        audit([("a", 1), ("a", 1)], [])
