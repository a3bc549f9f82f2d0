"""Progress against a list that is searched from end to end, and lanes against what order by key means."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from corgi.client.core.lanes import Lanes
from corgi.client.core.partitioner import partition_of
from corgi.client.core.progress import RANGES_MAX, Progress
from corgi.client.core.slices import KeyedSlices, slice_of


def covered(checkpoint: tuple[int, tuple[tuple[int, int], ...]], offset: int) -> bool:
    below, ranges = checkpoint
    return offset < below or any(first <= offset < end for first, end in ranges)


def well_formed(checkpoint: tuple[int, tuple[tuple[int, int], ...]]) -> bool:
    """As the cluster demands it: sorted, not empty, apart, above the offset."""
    below, ranges = checkpoint
    for first, end in ranges:
        if not below < first < end:
            return False
        below = end
    return True


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[int]], list[int], list[bool]]:
    """Batches of offsets with holes, an order of finishing, and where a restart happens."""
    offsets = sorted(draw(st.sets(st.integers(0, 60), min_size=1, max_size=40)))
    cuts = sorted(draw(st.sets(st.integers(1, len(offsets)), max_size=5)))
    batches = [offsets[a:b] for a, b in zip([0, *cuts], [*cuts, len(offsets)], strict=True) if a < b]
    order = draw(st.permutations(offsets))
    return batches, order, draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)))


@given(histories())
def test_a_checkpoint_covers_what_is_done_and_nothing_else_also_across_restarts(
    history: tuple[list[list[int]], list[int], list[bool]],
) -> None:
    batches, order, restarts = history
    progress = Progress(0)
    done: set[int] = set()
    left = list(batches)
    looked_at: list[int] = []
    for offset, restart in zip(order, restarts, strict=True):
        while offset not in looked_at and left:
            batch = left.pop(0)
            expected = [at for at in batch if at not in done]
            assert list(progress.hand_out(batch, batch[-1] + 1)) == expected
            looked_at += batch
        assert progress.done(offset) == (offset not in done)
        done.add(offset)
        assert not progress.done(offset)
        checkpoint = progress.checkpoint()
        assert well_formed(checkpoint)
        for at in looked_at:
            assert covered(checkpoint, at) == (at in done)
        if left:
            assert not covered(checkpoint, left[0][-1]) or left[0][-1] in done
        if restart:
            progress = Progress(*checkpoint)
            left = [kept for batch in batches if (kept := [at for at in batch if at >= checkpoint[0]])]
            looked_at = []


def test_when_all_is_done_the_checkpoint_is_the_position_behind_holes() -> None:
    progress = Progress(5)
    progress.hand_out([7, 9], 20)
    assert progress.checkpoint() == (7, ())
    assert progress.done(9)
    assert progress.checkpoint() == (7, ((8, 20),))
    assert progress.done(7)
    assert progress.checkpoint() == (20, ())


def test_what_was_never_handed_out_is_not_done() -> None:
    progress = Progress(0)
    progress.hand_out([0, 1], 2)
    assert not progress.done(2)
    assert not progress.done(-1)
    assert progress.checkpoint() == (0, ())


def test_a_position_inside_a_restored_range_is_carried_to_its_end() -> None:
    progress = Progress(0, [(2, 10)])
    assert list(progress.hand_out([0, 1, 2, 3], 4)) == [0, 1]
    assert progress.checkpoint() == (0, ((2, 10),))
    assert progress.done(0)
    assert progress.done(1)
    assert progress.checkpoint() == (10, ())


def test_ranges_are_bounded_and_the_lowest_are_told() -> None:
    progress = Progress(0)
    progress.hand_out(range(4 * RANGES_MAX), 4 * RANGES_MAX)
    for offset in range(1, 4 * RANGES_MAX, 2):
        progress.done(offset)
    offset, ranges = progress.checkpoint()
    assert (offset, len(ranges), ranges[0]) == (0, RANGES_MAX, (1, 2))
    assert well_formed((offset, ranges))


def test_a_key_that_is_blocked_for_long_costs_one_range_and_not_one_for_each_record() -> None:
    progress = Progress(0)
    for at in range(0, 100_000, 1_000):
        offsets = range(at, at + 1_000)
        progress.hand_out(offsets, at + 1_000)
        for offset in offsets:
            if offset != 17:
                progress.done(offset)
    assert progress.checkpoint() == (17, ((18, 100_000),))
    assert len(progress.open) == 1


@given(st.lists(st.integers(0, 4), max_size=60), st.randoms(use_true_random=False))
def test_lanes_let_in_one_of_each_key_as_they_came(keys: list[int], chance: object) -> None:
    lanes: Lanes[tuple[int, int]] = Lanes()
    started: dict[int, list[int]] = defaultdict(list)
    running: dict[int, int] = {}

    def start(key: int, number: int) -> None:
        assert key not in running
        running[key] = number
        started[key].append(number)

    def end() -> None:
        key = chance.choice(sorted(running))  # type: ignore[attr-defined]
        del running[key]
        item = lanes.leave(key)
        if item is not None:
            start(*item)

    for number, key in enumerate(keys):
        if lanes.enter(key, (key, number)):
            start(key, number)
        if running and chance.random() < 0.5:  # type: ignore[attr-defined]
            end()
    while running:
        end()
    assert lanes.waiting == len(lanes) == 0
    for key in set(keys):
        assert started[key] == [number for number, at in enumerate(keys) if at == key]


def test_slices_spread_the_keys_of_one_partition() -> None:
    keys = [key for n in range(4_000) if partition_of(key := b"key-%d" % n, 4) == 1]
    sizes = [0] * 16
    slices = KeyedSlices(16)
    for key in keys:
        sizes[slices[key]] += 1
        assert slices[key] == slice_of(key, 0, 16)
    assert min(sizes) > len(keys) / 16 / 2
    assert [slice_of(None, offset, 3) for offset in range(4)] == [0, 1, 2, 0]
