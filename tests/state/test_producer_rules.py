"""Idempotent producers, rule by rule (KIP-98 and docs on what differs), and all of them against a naive twin."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from state_values import Driver, batch

from corgi.base import errors
from corgi.base.command import CommandKind
from corgi.state.commands import encode_producers_expired

GAP = (errors.OUT_OF_ORDER_SEQUENCE, -1)
FENCED = (errors.PRODUCER_FENCED, -1)
CORRUPT = (errors.CORRUPT_BATCH, -1)
LAST = 2**31 - 1

# Steps are (epoch, first sequence, records) of producer 7 and what becomes of the batch: (error, base offset).
RULES = {
    "the first batch begins at 0": [((0, 0, 3), (0, 0)), ((0, 3, 2), (0, 3)), ((0, 5, 1), (0, 5))],
    "without state no other sequence is taken": [((0, 1, 1), GAP), ((0, 5, 1), GAP), ((0, 0, 1), (0, 0))],
    "a gap is refused and leaves no state": [((0, 0, 2), (0, 0)), ((0, 4, 2), GAP), ((0, 2, 2), (0, 2))],
    "a duplicate of the last batch gives its offset": [((0, 0, 2), (0, 0)), ((0, 0, 2), (0, 0)), ((0, 2, 1), (0, 2))],
    "the five last batches are remembered": [
        *[((0, i, 1), (0, i)) for i in range(6)],
        *[((0, i, 1), (0, i)) for i in range(1, 6)],
        ((0, 0, 1), GAP),
        ((0, 6, 1), (0, 6)),
    ],
    "a batch cut in another way is no duplicate": [
        ((0, 0, 2), (0, 0)),
        ((0, 2, 2), (0, 2)),
        ((0, 0, 4), GAP),
        ((0, 2, 1), GAP),
        ((0, 3, 1), GAP),
        ((0, 1, 1), GAP),
    ],
    "an old epoch is fenced": [((1, 0, 1), (0, 0)), ((0, 1, 1), FENCED), ((0, 0, 1), FENCED), ((1, 1, 1), (0, 1))],
    "a new epoch begins at 0": [((0, 0, 1), (0, 0)), ((1, 1, 1), GAP), ((0, 1, 1), (0, 1)), ((2, 0, 1), (0, 2))],
    "a new epoch forgets the window": [((0, 0, 1), (0, 0)), ((1, 0, 2), (0, 1)), ((1, 0, 1), GAP), ((1, 0, 2), (0, 1))],
    "an epoch is not negative": [((-1, 0, 1), CORRUPT)],
    "a sequence is not negative": [((0, -1, 1), CORRUPT), ((0, 0, 1), (0, 0)), ((0, -1, 1), CORRUPT)],
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    driver = Driver(3)
    for (epoch, sequence, records), expected in RULES[rule]:
        assert driver.append(3, batch(records, 7, epoch, sequence)) == expected, (epoch, sequence, records)


def test_sequences_wrap_to_zero() -> None:
    driver = Driver(3)
    driver.run(CommandKind.PRODUCERS_EXPIRED, encode_producers_expired(8, 0))
    assert driver.append(3, batch(2, 7, 0, LAST - 2)) == (0, 0)
    assert driver.append(3, batch(3, 7, 0, LAST)) == (0, 2), "this batch has the sequences 2^31 - 1, 0 and 1"
    assert driver.append(3, batch(1, 7, 0, 0)) == GAP
    assert driver.append(3, batch(1, 7, 0, 2)) == (0, 5)
    assert driver.append(3, batch(3, 7, 0, LAST)) == (0, 2)
    assert driver.append(3, batch(2, 7, 0, LAST - 2)) == (0, 0)


def test_a_batch_may_end_at_the_last_sequence() -> None:
    driver = Driver(3)
    driver.run(CommandKind.PRODUCERS_EXPIRED, encode_producers_expired(8, 0))
    assert driver.append(3, batch(1, 7, 0, LAST)) == (0, 0)
    assert driver.append(3, batch(1, 7, 0, 0)) == (0, 1)


def test_an_expired_producer_goes_on_where_it_was() -> None:
    driver = Driver(3)
    driver.apply(timestamp_ms=1000)
    assert driver.append(3, batch(5, 7, 0, 0)) == (0, 0)
    assert driver.append(3, batch(5, 9, 0, 0)) == (0, 5)
    driver.apply(timestamp_ms=5000)
    assert driver.append(3, batch(5, 8, 0, 0)) == (0, 10)
    driver.run(CommandKind.PRODUCERS_EXPIRED, encode_producers_expired(9, 5000))
    producers = driver.machine.partitions[16, 3].producers
    assert sorted(producers) == [8, 9], "7 was silent; 8 was not; 9 is not below the mark"
    assert driver.append(3, batch(1, 7, 0, 5)) == (0, 15), "its state was forgotten on purpose"
    assert driver.append(3, batch(1, 9, 0, 6)) == GAP, "above the mark a missing sequence is a gap"
    assert driver.append(3, batch(1, 10, 0, 1)) == GAP


def test_the_mark_of_expired_producers_never_falls() -> None:
    driver = Driver(3)
    driver.run(CommandKind.PRODUCERS_EXPIRED, encode_producers_expired(9, 0))
    driver.run(CommandKind.PRODUCERS_EXPIRED, encode_producers_expired(2, 0))
    assert driver.append(3, batch(1, 8, 0, 5)) == (0, 0)


def test_producers_and_partitions_do_not_mix() -> None:
    driver = Driver(3, 11)
    assert driver.append(3, batch(1, 7, 0, 0)) == (0, 0)
    assert driver.append(11, batch(1, 7, 0, 1)) == GAP
    assert driver.append(11, batch(1, 7, 0, 0)) == (0, 0)
    assert driver.append(3, batch(1, 8, 0, 0)) == (0, 1)
    assert driver.append(3, batch(1, 7, 0, 1)) == (0, 2)


class Twin:
    """The rules as they are told, with lists of everything."""

    def __init__(self) -> None:
        self.end = 0
        self.state: dict[int, tuple[int, deque[tuple[int, int, int]]]] = {}

    def append(self, producer: int, epoch: int, first: int, records: int) -> tuple[int, int]:
        last = (first + records - 1) % 2**31
        known = self.state.get(producer)
        if known is not None and epoch < known[0]:
            return FENCED
        if known is None or epoch > known[0]:
            if first != 0:
                return GAP
            known = self.state[producer] = (epoch, deque(maxlen=5))
        else:
            for old_first, old_last, offset in known[1]:
                if (old_first, old_last) == (first, last):
                    return 0, offset
            if first != (known[1][-1][1] + 1) % 2**31:
                return GAP
        offset = self.end
        known[1].append((first, last, offset))
        self.end += records
        return 0, offset


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 9), st.integers(1, 3)), min_size=1, max_size=60
)


@given(STEPS, st.lists(st.integers(0, 100), max_size=30))
def test_against_the_twin(steps: list[tuple[int, int, int, int]], repeats: list[int]) -> None:
    """Random batches, then some of them again: duplicates, gaps, fences and overlaps."""
    driver, twin = Driver(3), Twin()
    for producer, epoch, first, records in [*steps, *(steps[i % len(steps)] for i in repeats)]:
        expected = twin.append(producer, epoch, first, records)
        assert driver.append(3, batch(records, producer, epoch, first)) == expected
    log = driver.machine.partitions[16, 3]
    assert log.end == twin.end
    for producer_id, (epoch, window) in twin.state.items():
        known = log.producers[producer_id]
        assert known.epoch == epoch
        assert list(known.window) == [cell for first, _, offset in window for cell in (first, offset)]


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=20, max_size=200))
def test_long_honest_runs_against_the_twin(steps: list[tuple[int, bool]]) -> None:
    """Mostly the next batch, sometimes one that was sent before: the window turns over many times."""
    driver, twin = Driver(3), Twin()
    sent: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    for step, (producer, again) in enumerate(steps):
        history = sent[producer]
        if again and history:
            first, records = history[max(0, len(history) - 1 - step % 8)]
        else:
            first = sum(history[-1]) if history else 0
            records = 1 + step % 4
            history.append((first, records))
        assert driver.append(3, batch(records, producer, 0, first)) == twin.append(producer, 0, first, records)
