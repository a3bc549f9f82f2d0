"""The histogram against sorting, which cannot be wrong."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.bench.histogram import Histogram, _index, _upper

DURATIONS = st.lists(st.floats(min_value=0.0, max_value=100.0), min_size=1, max_size=300)


def filled(durations: list[float]) -> Histogram:
    histogram = Histogram()
    histogram.record_all(durations)
    return histogram


@given(DURATIONS, st.floats(min_value=0.0, max_value=1.0))
def test_a_percentile_is_the_value_of_that_rank_within_one_percent(durations: list[float], share: float) -> None:
    exact = sorted(durations)[max(1, math.ceil(len(durations) * share)) - 1]
    assert exact * 0.999 - 1e-6 <= filled(durations).percentile(share) <= exact * 1.008 + 2e-6


@given(DURATIONS, DURATIONS)
def test_merged_histograms_are_the_histogram_of_all(left: list[float], right: list[float]) -> None:
    merged = filled(left)
    merged.merge(filled(right))
    both = filled(left + right)
    assert merged.count == both.count
    assert merged.summary()._replace(mean_ms=0) == both.summary()._replace(mean_ms=0)
    assert merged.total_s == pytest.approx(both.total_s)


@given(st.integers(min_value=0, max_value=2**63))
def test_a_value_lies_in_its_bucket(value: int) -> None:
    assert value < _upper(_index(value)) <= value * (1 + 1 / 128) + 1


def test_an_empty_histogram_is_all_zero() -> None:
    assert not any(Histogram().summary())


def test_a_clock_that_steps_back_does_not_hurt() -> None:
    assert filled([-1.0]).summary().max_ms == 0.0
