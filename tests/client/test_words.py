"""Durations, times and modes as users write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi import CorgiError
from corgi.client.words import as_datetime, header_list, milliseconds, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30s", 30),
        ("250ms", 0.25),
        ("1h30m", 5_400),
        ("1.5s", 1.5),
        ("2d", 172_800),
        ("1 m 5 s", 65),
        (3, 3),
        (0.5, 0.5),
    ],
)
def test_durations(text: Any, value: float) -> None:
    assert seconds(text) == pytest.approx(value)
    assert seconds(timedelta(seconds=value)) == pytest.approx(value)


@pytest.mark.parametrize(
    "wrong",
    ["", "30", "s", "30 seconds", "-5s", "1s2", "٣s", 0, -1, float("nan"), float("inf"), True, None, b"5s", 10**12],
)
def test_what_is_no_duration(wrong: Any) -> None:
    with pytest.raises(CorgiError, match="timeout") as caught:
        seconds(wrong, "timeout")
    assert caught.value.code == "invalid-argument"


@given(st.integers(0, 32_503_680_000_000))
def test_times_come_back(timestamp: int) -> None:
    time = as_datetime(timestamp)
    assert time.tzinfo is UTC
    assert milliseconds(time) == timestamp == milliseconds(timestamp)
    assert milliseconds(time.astimezone(timezone(timedelta(hours=-5)))) == timestamp


@pytest.mark.parametrize("wrong", [-1, 2**63, True, "now", 1.5, datetime(1969, 1, 1, tzinfo=UTC), datetime(2020, 1, 1)])  # noqa: DTZ001
def test_what_is_no_time(wrong: Any) -> None:
    with pytest.raises(CorgiError) as caught:
        milliseconds(wrong)
    assert caught.value.code == "invalid-argument"


def test_headers_are_pairs_in_order() -> None:
    assert header_list({"a": b"1", "b": None}) == [("a", b"1"), ("b", None)]
    assert header_list([("a", b"1"), ("a", b"2")]) == [("a", b"1"), ("a", b"2")]
    assert header_list({"größe": b"1"}) == [("größe", b"1")]


def test_half_a_letter_names_no_header() -> None:
    """No batch could tell it, and by then nobody would know whose it was."""
    with pytest.raises(CorgiError, match="UTF-8") as caught:
        header_list({"\ud800": b"1"})
    assert caught.value.code == "invalid-argument"
