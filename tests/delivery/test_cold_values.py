"""Values from the disk: read once, bounded, in turn, and never for those who left."""

from __future__ import annotations

import pytest
from fake_logs import FakeDisk, FakeLog, Waiter

from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, Slot
from corgi.delivery import values as values_module
from corgi.delivery.values import Values

GROUP = GroupId(0)
SIZE = 1000


def cold_disk(count: int) -> FakeDisk:
    disk = FakeDisk()
    log = FakeLog(disk)
    for _ in range(count):
        disk.cold.add(log.append([SIZE - 24]))
    return disk


def get(values: Values, slot: int, waiter: Waiter, *, urgent: bool = False) -> object:
    return values.get(GROUP, Slot(slot), waiter, urgent=urgent)


def test_a_value_is_read_once_and_then_found_in_the_cache() -> None:
    disk = cold_disk(1)
    values = Values(disk.read, disk.length)
    first, second, late = Waiter(), Waiter(), Waiter()
    assert get(values, 1, first) is None
    assert get(values, 1, second) is None
    assert len(disk.reads) == 1
    disk.answer()
    assert (first.ready, second.ready) == (1, 1)
    for waiter in (first, second, late):
        assert get(values, 1, waiter) == disk.values[Slot(1)]
    assert not disk.reads
    assert not values._reads
    assert values.bytes_held == SIZE


def test_what_is_on_its_way_is_bounded_and_readers_queue_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values_module, "COLD_BYTES_MAX", 2 * SIZE)
    disk = cold_disk(5)
    values = Values(disk.read, disk.length)
    waiters = [Waiter() for _ in range(6)]
    for slot in range(1, 5):
        assert get(values, slot, waiters[slot]) is None
    assert [slot for slot, _ in disk.reads] == [1, 2]
    assert get(values, 5, waiters[5], urgent=True) is None
    assert [slot for slot, _ in disk.reads] == [1, 2, 5], "the tail does not queue"
    disk.answer(0)
    assert waiters[3].ready == 0, "an arrived value takes room until it is taken"
    disk.answer(1)
    assert get(values, 5, waiters[5]) is not None
    assert get(values, 1, waiters[1]) is not None
    assert waiters[3].ready == 1
    assert waiters[4].ready == 0
    assert get(values, 3, waiters[3]) is None
    disk.answer(0)
    assert get(values, 2, waiters[2]) is not None
    assert waiters[4].ready == 1


def test_a_reader_who_was_let_in_and_did_not_come_does_not_stop_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values_module, "COLD_BYTES_MAX", SIZE)
    disk = cold_disk(3)
    values = Values(disk.read, disk.length)
    first, absent, last = Waiter(), Waiter(), Waiter()
    for slot, waiter in ((1, first), (2, absent), (3, last)):
        get(values, slot, waiter)
    disk.answer()
    get(values, 1, first)
    assert absent.ready == 1
    assert last.ready == 0
    values.admit()
    assert last.ready == 1


def test_who_left_is_not_called_and_keeps_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values_module, "COLD_BYTES_MAX", SIZE)
    disk = cold_disk(3)
    values = Values(disk.read, disk.length)
    reading, queued, next_one = Waiter(), Waiter(), Waiter()
    get(values, 1, reading)
    get(values, 2, queued)
    get(values, 3, next_one)
    values.forget(queued)
    values.forget(reading)
    disk.answer()
    assert (reading.ready, queued.ready, next_one.ready) == (0, 0, 1)
    assert not values._reads
    get(values, 3, next_one)
    disk.answer()
    values.forget(next_one)
    assert not values._reads
    assert values._reading_bytes == 0


def test_the_cache_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values_module, "COLD_CACHE_BYTES", 3 * SIZE)
    disk = cold_disk(5)
    values = Values(disk.read, disk.length)
    for slot in range(1, 6):
        waiter = Waiter()
        get(values, slot, waiter)
        disk.answer()
        get(values, slot, waiter)
    assert values.bytes_held == 3 * SIZE
    assert get(values, 5, Waiter()) is not None
    assert get(values, 1, Waiter()) is None


def test_an_error_reaches_all_who_wait_and_is_not_remembered() -> None:
    disk = cold_disk(1)
    values = Values(disk.read, disk.length)
    waiters = [Waiter(), Waiter()]
    for waiter in waiters:
        get(values, 1, waiter)
    _, done = disk.reads.pop()
    done(CorgiError("record-damaged"))
    for waiter in waiters:
        assert isinstance(get(values, 1, waiter), CorgiError)
    assert get(values, 1, waiters[0]) is None, "the next time the disk is asked again"


def test_reading_ahead_is_bounded_and_goes_on_when_it_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values_module, "AHEAD_BYTES", 3 * SIZE)
    disk = cold_disk(10)
    values = Values(disk.read, disk.length)
    get(values, 1, Waiter())
    values.ahead(GROUP, [Slot(slot) for slot in range(2, 10)])
    assert [slot for slot, _ in disk.reads] == [1, 2, 3, 4]
    values.ahead(GROUP, [Slot(slot) for slot in range(3, 10)])
    assert len(disk.reads) == 4
    for _ in range(4):
        disk.answer()
    values.ahead(GROUP, [Slot(slot) for slot in range(5, 10)])
    assert [slot for slot, _ in disk.reads] == [5, 6, 7]
