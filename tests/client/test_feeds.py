"""What a consumer takes out of a partition that it shares by key with others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from corgi.base.batch import PREFIX_BYTES, patched_prefix
from corgi.base.ids import Offset, TopicId
from corgi.base.records import encode_batch
from corgi.client.core.slices import SLICES_SHARED, slice_of
from corgi.client.core.subscriber import Delivery
from corgi.client.feeds import Feed
from corgi.client.held import Held
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
