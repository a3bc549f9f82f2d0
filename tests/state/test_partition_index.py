"""The compact index of a partition against a list, over block borders, and with wild numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corgi.base.ids import LeaderEpoch, Offset, Slot, TopicId
from corgi.state import blocks, index
from corgi.state.blocks import BLOCK_BATCHES, ENTRY_BYTES
from corgi.state.index import Change, Entry, PartitionLog


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of four batches, so that short runs cross many borders."""
    for module in (blocks, index):
        monkeypatch.setattr(module, "BLOCK_BATCHES", 4)
    return


def add(log: PartitionLog, twin: list[Entry], slot: int, records: int, time_ms: int, epoch: int) -> None:
    newest = max([time_ms, *(entry.max_timestamp for entry in twin[-1:])])
    base = log.append(Slot(slot), slot & 0xFF, 61 + records % 9, records, time_ms, LeaderEpoch(epoch))
    twin.append(Entry(base, Slot(slot), slot & 0xFF, 61 + records % 9, LeaderEpoch(epoch), newest, records))


def compare(log: PartitionLog, twin: list[Entry]) -> None:
    assert [log.entry(i) for i in range(log.count)] == twin
    for offset in range(-1, log.end + 2):
        expected = next((i for i, e in enumerate(twin) if offset < e.base_offset + e.records), len(twin))
        assert log.find(Offset(offset)) == expected, offset
    for time_ms in range(-2, 25):
        expected = next((i for i, e in enumerate(twin) if e.max_timestamp >= time_ms), len(twin))
        assert log.find_time(time_ms) == expected, time_ms


STEP = st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(-1, 20), st.integers(0, 1))


@pytest.mark.usefixtures("small_blocks")
def test_empty() -> None:
    log = PartitionLog(TopicId(16), 0)
    compare(log, [])
    assert log.epoch_at(Offset(0)) == 0
    assert log.epoch_end(LeaderEpoch(9)) == (-1, -1)
    with pytest.raises(IndexError):
        log.entry(0)


@given(st.lists(STEP, max_size=30), st.integers(0, 30))
def test_against_a_list(steps: list[tuple[int, int, int, int]], taken_back: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (blocks, index):
            patch.setattr(module, "BLOCK_BATCHES", 4)
        log, twin = PartitionLog(TopicId(16), 0), list[Entry]()
        slot = epoch = 1
        marks = [log.mark()]
        for slots, records, time_ms, epochs in steps:
            slot, epoch = slot + slots, epoch + epochs
            add(log, twin, slot, records, time_ms, epoch)
            marks.append(log.mark())
        compare(log, twin)
        kept = min(taken_back, len(steps))
        log.take_back(marks[kept])
        del twin[kept:]
        compare(log, twin)
        for _, records, time_ms, _ in steps:
            add(log, twin, slot, records, time_ms, epoch)
        compare(log, twin)


def test_epochs() -> None:
    log, twin = PartitionLog(TopicId(16), 0), list[Entry]()
    for epoch, records in ((2, 3), (2, 2), (5, 1), (9, 4)):
        add(log, twin, 1, records, 0, epoch)
    assert [log.epoch_at(Offset(offset)) for offset in range(10)] == [2] * 5 + [5] + [9] * 4
    ends = {epoch: log.epoch_end(LeaderEpoch(epoch)) for epoch in (1, 2, 3, 5, 8, 9, 99)}
    assert ends == {1: (-1, -1), 2: (2, 5), 3: (2, 5), 5: (5, 6), 8: (5, 6), 9: (9, 10), 99: (9, 10)}


def test_batches_that_claim_billions_of_records_and_slots_far_apart() -> None:
    log, twin = PartitionLog(TopicId(16), 0), list[Entry]()
    for i in range(5):
        add(log, twin, 1 + i * 2**33, 2**31, 2**62 if i == 2 else i, 1)
    assert [log.entry(i) for i in range(5)] == twin
    assert log.find(Offset(4 * 2**31)) == 4
    assert log.find(Offset(4 * 2**31 - 1)) == 3
    assert log.find_time(2**62) == 2


def test_bytes_per_batch() -> None:
    log = PartitionLog(TopicId(16), 0)
    batches = 20 * BLOCK_BATCHES
    for i in range(batches):
        log.append(Slot(1 + i), 100, 1000, 10, i, LeaderEpoch(1))
    columns = ("offsets", "slots", "places", "lengths", "times")
    held = sum(sys.getsizeof(getattr(block, column)) for block in log._blocks for column in columns)
    assert ENTRY_BYTES <= held / batches < ENTRY_BYTES * 1.1


def test_a_closed_partition_holds_nothing() -> None:
    log = PartitionLog(TopicId(16), 0)
    for i in range(3 * BLOCK_BATCHES):
        log.append(Slot(1 + i), 100, 1000, 10, i, LeaderEpoch(1))
    log.close()
    assert not log.open
    assert (log.count, log._blocks, log.producers) == (0, [], {})
    assert log.find(Offset(5)) == 0
    assert log.find_time(0) == 0


@pytest.mark.usefixtures("small_blocks")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_log_start_is_exact_and_forgets_whole_batches(seed: int) -> None:
    random = Random(seed)
    log = PartitionLog(TopicId(16), 0)
    model: list[tuple[int, int, int, int]] = []  # base offset, slot, length, newest time so far
    gone = 0
    begin = 0
    newest = 0
    for slot in range(1, 9):
        for _ in range(random.choice([0, 1, 3, 4, 9])):
            records, length, time = random.randrange(1, 4), random.randrange(61, 99), random.randrange(1000)
            newest = max(newest, time)
            model.append((log.end, slot, length, newest))
            log.append(Slot(slot), 0, length, records, time, LeaderEpoch(slot))
        offset = Offset(random.randrange(-2, log.end + 3))
        dropped = log.trim(offset)
        ends = [*[base for base, *_ in model], log.end][1:]
        kept = [entry for entry, end in zip(model, ends, strict=True) if end > offset]
        assert sum(stop - start for _, start, stop in dropped) == len(model) - len(kept)
        gone += len(model) - len(kept)
        if model and offset > begin:
            begin = max(offset, kept[0][0]) if kept else log.end
        model = kept
        assert log.start == begin
        assert log.count == len(model)
        assert log.bytes == sum(length for _, _, length, _ in model)
        for i in random.sample(range(len(model)), min(20, len(model))):
            entry = log.entry(i)
            assert (entry.base_offset, entry.slot, entry.length, entry.max_timestamp) == model[i]
            assert entry.epoch == entry.slot
            assert log.find(entry.base_offset) == i
            assert log.entry(log.find_time(entry.max_timestamp)).max_timestamp == entry.max_timestamp
        bytes_max = random.randrange(1, 1200)
        start = log.excess(bytes_max)
        left = [length for base, _, length, _ in model if base >= start]
        assert sum(left) <= bytes_max or len(left) == 1
        if start > log.start:
            assert sum([*left, model[len(model) - len(left) - 1][2]]) > bytes_max


@pytest.mark.usefixtures("small_blocks")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.integers(0, 2**32))
def test_compaction_leaves_holes(seed: int) -> None:
    """Against a list: batches appended, replaced, removed and trimmed in any order."""
    random = Random(seed)
    log, twin = PartitionLog(TopicId(16), 0), list[Entry]()
    slot = 1
    for _ in range(random.randrange(1, 12)):
        slot += 1
        step = random.choice(["append", "append", "replace", "replace", "trim", "take back"])
        if step == "append" or len(twin) < 2:
            for _ in range(random.choice([1, 3, 4, 9])):
                add(log, twin, slot, random.randrange(1, 4), random.randrange(20), 1)
        elif step == "take back":
            mark = log.mark()
            kept = list(twin)
            for _ in range(random.choice([1, 5])):
                add(log, twin, slot, 2, 3, 1)
            log.take_back(mark)
            twin = kept
        elif step == "trim":
            offset = random.randrange(log.end)  # the newest stays, and with it the newest time
            dropped = log.trim(Offset(offset))
            kept = [entry for entry in twin if entry.base_offset + entry.records > offset]
            assert sum(stop - start for _, start, stop in dropped) == len(twin) - len(kept)
            twin = kept
        else:
            chosen = sorted(random.sample(range(len(twin) - 1), random.randrange(1, len(twin))))
            changes = [Change(twin[i].base_offset, 7, random.choice([0, 0, 5])) for i in chosen]
            dropped = log.replace(Slot(slot), changes)
            gone = [part.block.slot + part.block.slots[j] for part in dropped for j in range(part.start, part.stop)]
            assert gone == [twin[i].slot for i in chosen]
            for i, change in reversed(list(zip(chosen, changes, strict=True))):
                if change.length:
                    twin[i] = twin[i]._replace(slot=Slot(slot), at=7, length=5)
                else:
                    del twin[i]
        compare(log, twin)
        assert log.bytes == sum(entry.length for entry in twin)
        slots = set(random.sample(range(slot + 2), 2))
        told = [offset for first, last in log.within(slots) for offset in range(first, last + 1)]
        assert told == [e.base_offset + i for e in twin if e.slot in slots for i in range(e.records)]
        i = random.randrange(len(twin) + 1)
        assert log.bytes_from(i, log.count) == sum(entry.length for entry in twin[i:])
        copy = PartitionLog(TopicId(16), 0)
        copy.become(log.freeze())
        compare(copy, twin)
        assert copy.bytes == log.bytes


@pytest.mark.usefixtures("small_blocks")
def test_batches_that_follow_each_other_are_told_as_one_range() -> None:
    log, twin = PartitionLog(TopicId(16), 0), list[Entry]()
    for slot in (1, 2, 2, 3, 3, 4, 5):
        add(log, twin, slot, 2, slot, 1)
    assert log.within({Slot(2), Slot(3), Slot(5)}) == [(2, 9), (12, 13)]
    log.replace(Slot(9), [Change(Offset(4), 7, 5)])
    assert log.within({Slot(2)}) == [(2, 3)]
    assert log.within({Slot(9), Slot(77)}) == [(4, 5)]


@pytest.mark.usefixtures("small_blocks")
def test_a_snapshot_does_not_see_what_compaction_does_later() -> None:
    log, twin = PartitionLog(TopicId(16), 0), list[Entry]()
    for slot in range(1, 12):
        add(log, twin, slot, 2, slot, 1)
    frozen = log.freeze()
    log.replace(Slot(12), [Change(entry.base_offset, 0, 0) for entry in twin[:10]])
    assert log.count == 1
    copy = PartitionLog(TopicId(16), 0)
    copy.become(frozen)
    compare(copy, twin)
