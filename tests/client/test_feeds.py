"""What a consumer takes out of a partition that it shares by key with others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from corgi.base.batch import PREFIX_BYTES, patched_prefix
from corgi.base.ids import Offset, TopicId
from corgi.base.records import encode_batch
from corgi.client.consumption import Consumption
from corgi.client.core.slices import SLICES_SHARED, slice_of
from corgi.client.core.subscriber import Delivery, Start
from corgi.client.feeds import Feed
from corgi.client.held import Held, UnitState
from corgi.client.shell import Shell

MINE, OTHERS = b"k1", b"k2"
SLICE = slice_of(MINE, 0, SLICES_SHARED)
assert slice_of(OTHERS, 0, SLICES_SHARED) != SLICE


def feed_of(keys: list[bytes]) -> tuple[Feed, Held]:
    """A feed whose stream has a batch for each of these keys."""
    deliveries = []
    for offset, key in enumerate(keys):
        batch = encode_batch([(key, b"v", [], 1)])
        placed = b"".join((patched_prefix(Offset(offset), len(batch), 0), batch[PREFIX_BYTES:]))
        deliveries.append(Delivery(0, memoryview(placed), Offset(offset), Offset(offset + 1), -1, Offset(len(keys))))
    feed = Feed(cast(Shell, None), "t", 0, SLICES_SHARED)
    feed.stream = cast(Any, SimpleNamespace(take=lambda: deliveries.pop(0) if deliveries else None, error=None))
    held = Held(cast(Any, None), "t", (TopicId(1), 0, SLICE), 1, 0, "")
    held.begin(0)
    feed.units[SLICE] = held
    return feed, held


def test_batches_with_nothing_for_this_consumer_are_passed_over_whatever_bounds_it() -> None:
    for open_max in (0, 10):
        feed, held = feed_of([OTHERS, OTHERS, MINE, OTHERS])
        assert [message.offset for message in feed.take(open_max)] == [2]
        assert feed.take(open_max) == []
        assert held.progress.position == 4


@pytest.mark.parametrize("open_max", [0, 10])
def test_a_unit_that_comes_is_read_from_where_it_is_though_another_that_has_to_go_stands_there(open_max: int) -> None:
    """The stream had passed that place, was taken to be where the other unit stands, and the message was lost."""
    feed, going = feed_of([OTHERS, OTHERS])
    going.state = UnitState.DRAINING
    for _ in range(3):
        assert feed.take(open_max) == []
    assert going.progress.position == 0
    came = Held(cast(Any, None), "t", (TopicId(1), 0, slice_of(OTHERS, 0, SLICES_SHARED)), 1, 0, "")
    came.committed = (1, ())
    came.begin(1)
    opened: list[Start] = []
    consumption = object.__new__(Consumption)
    consumption._feeds = {feed.key: feed}
    consumption._open = lambda feed, start: opened.append(start)  # type: ignore[method-assign]
    consumption._attach(came)
    assert opened == [Start("offset", 1)]


def test_a_unit_that_has_to_go_is_not_begun_anew_by_a_seek() -> None:
    feed, going = feed_of([MINE])
    going.state = UnitState.DRAINING
    consumption = object.__new__(Consumption)
    consumption._feeds = {feed.key: feed}
    consumption._open = lambda feed, start: None  # type: ignore[method-assign]
    consumption.seek("t", 0, 0)
    assert going.state is UnitState.DRAINING
