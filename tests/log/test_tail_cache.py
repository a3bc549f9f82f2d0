"""The cache of recent values stays within its bound and lets the oldest go first."""

from hypothesis import given
from hypothesis import strategies as st

from corgi.base.ids import GroupId, Slot
from corgi.log.tail import ENTRY_BYTES, TailCache

GROUP = GroupId(1)


def test_the_oldest_value_leaves_first() -> None:
    cache = TailCache(3 * (100 + ENTRY_BYTES))
    for slot in range(1, 5):
        cache.put(GROUP, Slot(slot), bytes([slot]) * 100)
    assert cache.get(GROUP, Slot(1)) is None
    assert [cache.get(GROUP, Slot(slot)) for slot in (2, 3, 4)] == [bytes([slot]) * 100 for slot in (2, 3, 4)]


def test_groups_share_the_room_and_not_the_slots() -> None:
    cache = TailCache()
    cache.put(GroupId(1), Slot(1), b"one")
    cache.put(GroupId(2), Slot(1), b"two")
    assert cache.get(GroupId(1), Slot(1)) == b"one"
    assert cache.get(GroupId(2), Slot(1)) == b"two"
    cache.discard(GroupId(1), Slot(1))
    assert cache.get(GroupId(1), Slot(1)) is None
    assert len(cache) == 1


def test_a_value_larger_than_the_cache_is_not_kept_and_its_forerunner_is_gone() -> None:
    cache = TailCache(1000)
    cache.put(GROUP, Slot(1), b"small")
    cache.put(GROUP, Slot(2), b"small")
    cache.put(GROUP, Slot(1), bytes(1000))
    assert cache.get(GROUP, Slot(1)) is None
    assert cache.get(GROUP, Slot(2)) == b"small"


def test_very_small_values_are_counted_with_what_they_cost() -> None:
    cache = TailCache(1 << 20)
    for slot in range(100_000):
        cache.put(GROUP, Slot(slot), b"")
    assert len(cache) <= (1 << 20) // ENTRY_BYTES


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12), st.integers(0, 500))))
def test_the_count_of_bytes_is_true_and_bounded(acts: list[tuple[bool, int, int]]) -> None:
    cache, model = TailCache(2500), dict[int, int]()
    for is_put, slot, size in acts:
        model.pop(slot, None)
        if is_put:
            cache.put(GROUP, Slot(slot), bytes(size))
            model[slot] = size
            while sum(model.values()) + len(model) * ENTRY_BYTES > 2500:
                del model[next(iter(model))]
        else:
            cache.discard(GROUP, Slot(slot))
        held = {number: len(value) for number in range(1, 13) if (value := cache.get(GROUP, Slot(number))) is not None}
        assert held == model
        assert cache.bytes_held == sum(model.values()) + len(model) * ENTRY_BYTES <= 2500
