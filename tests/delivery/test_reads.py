"""Gathering batches: whole, patched, bounded, and equal to a naive twin for any cut."""

from __future__ import annotations

from fake_logs import FakeDisk, FakeLog, Waiter
from hypothesis import given
from hypothesis import strategies as st

from corgi.base.ids import GroupId, Offset
from corgi.delivery.reads import Gathered, gather
from corgi.delivery.values import Values

GROUP = GroupId(0)


def read(log: FakeLog, offset: int, bytes_max: int = 10**9, batches_max: int = 10**9) -> Gathered:
    values = Values(log.disk.read, log.disk.length)
    return gather(
        log,
        GROUP,
        Offset(offset),
        bytes_max=bytes_max,
        batches_max=batches_max,
        values=values,
        waiter=Waiter(),
        urgent=False,
    )


@given(
    slots=st.lists(
        st.tuples(st.lists(st.integers(61, 6000), min_size=1, max_size=4), st.sampled_from([0, 10_000])), max_size=5
    ),
    offset=st.integers(0, 50),
    bytes_max=st.integers(1, 30_000),
    batches_max=st.integers(1, 10),
)
def test_gathering_equals_a_plain_walk(
    slots: list[tuple[list[int], int]], offset: int, bytes_max: int, batches_max: int
) -> None:
    log = FakeLog(FakeDisk())
    for sizes, padding in slots:
        log.append(sizes, padding=padding)
    got = read(log, offset, bytes_max, batches_max)
    expected: list[bytes] = []
    for base, batch in log.stored:
        if base + 2 <= offset:
            continue
        if len(expected) == batches_max or (expected and sum(map(len, expected)) + len(batch) > bytes_max):
            break
        expected.append(batch)
    assert b"".join(got.buffers) == b"".join(expected)
    assert got.lengths == [len(batch) for batch in expected]
    assert got.size == sum(got.lengths)
    assert got.next_offset == (offset if not expected else (offset & ~1) + 2 * len(expected))
    assert not got.pending
    assert got.error is None


def test_large_batches_are_not_copied() -> None:
    log = FakeLog(FakeDisk())
    slot = log.append([50_000, 60_000])
    got = read(log, 0)
    whole = [buffer for buffer in got.buffers if len(buffer) > 16]
    assert [len(buffer) for buffer in whole] == [50_000 - 16, 60_000 - 16]
    assert all(isinstance(buffer, memoryview) and buffer.obj is log.disk.values[slot] for buffer in whole)


def test_small_batches_travel_as_one_buffer() -> None:
    log = FakeLog(FakeDisk())
    log.append([100] * 20)
    assert len(read(log, 0).buffers) == 1


def test_a_small_part_of_a_large_value_does_not_keep_the_value_in_memory() -> None:
    log = FakeLog(FakeDisk())
    log.append([50_000], padding=1_000_000)
    assert not any(isinstance(buffer, memoryview) for buffer in read(log, 0).buffers)


def test_what_is_in_memory_is_given_before_the_first_value_that_is_not() -> None:
    log = FakeLog(FakeDisk())
    log.append([100])
    log.disk.cold.add(log.append([200]))
    got = read(log, 0)
    assert (got.lengths, got.pending, got.next_offset) == ([100], True, 2)
