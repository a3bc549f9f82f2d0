"""Lazy records: which batches need no sync, who is told when, and what a power loss leaves of them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from log_world import SEGMENT_BYTES, Fields, Log, accept, fields, state

from corgi.base.ports import FaultyRecord, Hole, LogRecord, RecordKind
from corgi.log.record import BATCH_HEADER_BYTES, RECORD_HEADER_BYTES, decode_batch_header, segment_seed
from corgi.log.writer import BATCH_BYTES_MAX, LAZY_BYTES_MAX, LAZY_SYNC_S, WriteBatch

SECTOR = 512
SURE, FLEETING = 1, 2  # groups


def lazy(slot: int, payload: bytes = b"value", group: int = FLEETING) -> LogRecord:
    return accept(slot, payload, group, lazy=True)


def begun() -> Log:
    """A log whose first batch, which is always synced, is behind."""
    log = Log(states=lambda: [state(0)])
    log.prepare()
    log.prepare()
    log.journal.append(accept(1, group=SURE))
    log.write()
    return log


def take(log: Log, now: float = 0.0) -> WriteBatch:
    batch = log.journal.take(now)
    assert batch is not None
    log.put(batch)
    if batch.sync:
        log.journal.synced(batch)
    else:
        log.journal.written(batch)
    return batch


def stated(log: Log, batch: WriteBatch) -> int:
    """Which position the header of the batch tells to be synced."""
    seed = segment_seed(batch.segment, 0xFEED_0000_0000_0000 | batch.segment)
    return decode_batch_header(log.segments[batch.segment], batch.offset, seed).synced


def place(batch: WriteBatch, *, end: bool = False) -> int:
    return batch.segment * SEGMENT_BYTES + batch.offset + (batch.length if end else 0)


def test_a_batch_of_lazy_records_needs_no_sync_and_is_not_stated_as_synced() -> None:
    log = begun()
    synced = log.journal.synced_position
    for slot in (2, 3):
        log.journal.append(lazy(slot))
        batch = take(log)
        assert (batch.sync, batch.early, batch.late) == (False, batch.records, [])
        assert log.journal.synced_position == synced == stated(log, batch)
        assert not log.journal.at_rest
    log.journal.append(accept(4, group=SURE))
    sure = take(log)
    assert sure.sync
    assert stated(log, sure) == synced, "what is before it becomes durable only with it"
    assert log.journal.synced_position == place(sure, end=True)
    assert log.journal.at_rest


def test_lazy_records_are_synced_after_a_while_by_what_follows_them() -> None:
    log = begun()
    for now, syncs in ((10.0, False), (10.0 + LAZY_SYNC_S / 2, False), (10.0 + LAZY_SYNC_S, True), (11.1, False)):
        log.journal.append(lazy(int(now * 10)))
        assert take(log, now).sync is syncs


def test_lazy_records_are_synced_when_they_are_many() -> None:
    """Whatever is synced behind them flushes them too."""
    log = Log(LAZY_BYTES_MAX * 8, lambda: [state(0)], BATCH_BYTES_MAX)
    log.prepare()
    log.journal.append(accept(1, group=SURE))
    log.write()
    unsynced, batches = 0, []
    for slot in range(2, 30):
        log.journal.append(lazy(slot, bytes(LAZY_BYTES_MAX // 8)))
        batches.append(take(log))
        unsynced = 0 if batches[-1].sync else unsynced + batches[-1].length
        assert unsynced <= LAZY_BYTES_MAX
    assert [batch.sync for batch in batches].count(True) == len(batches) // 8
    log.journal.append(lazy(31, bytes(LAZY_BYTES_MAX + 1)))
    assert take(log).sync, "more at once"


def test_at_rest_lazy_records_are_synced_and_stated_so() -> None:
    log = begun()
    log.journal.append(lazy(2))
    batch = take(log)
    closings = []
    while (closing := log.journal.take(0.0, close=True)) is not None:
        log.put(closing)
        log.journal.synced(closing)
        closings.append(closing)
    assert all(closing.sync for closing in closings)
    assert stated(log, closings[-1]) >= place(batch, end=True)
    assert log.journal.at_rest
    assert log.journal.close_at() is None


def test_the_last_batch_of_a_segment_is_synced() -> None:
    log = begun()
    slot, batches = 2, []
    while log.journal.segment == 1:
        log.journal.append(lazy(slot, b"x" * 900))
        slot += 1
        if not log.journal.segments_ahead:
            log.prepare()
        batches.append(take(log))
    assert [batch.sync for batch in batches].count(True) == 2, "the seal, and the states of the next one"
    first = next(batch for batch in batches if batch.segment == 2)
    assert stated(log, first) == place(batches[batches.index(first) - 1], end=True)


@pytest.mark.parametrize("left", [0, BATCH_HEADER_BYTES, 600])
def test_when_no_segment_is_left_lazy_records_are_synced_all_the_same(left: int) -> None:
    """What waits for it may be what frees one: a snapshot of their group. ``left``: room in the segment behind them."""
    log = Log(states=lambda: [state(0)])
    log.prepare()
    log.journal.append(accept(1, group=SURE))
    log.write()
    slot, size = 1, 1000
    while size == 1000:
        slot += 1
        room = log.journal.room - RECORD_HEADER_BYTES - left
        size = 1000 if room > 2500 else room
        log.journal.append(lazy(slot, bytes(size)))
        end = place(take(log), end=True)
    log.journal.append(accept(slot + 1, bytes(2000), group=SURE))
    assert log.journal.blocked
    while (batch := log.journal.take(0.0)) is not None:
        assert (batch.sync, batch.records) == (True, [])
        log.put(batch)
        log.journal.synced(batch)
    assert log.journal.synced_position >= end
    assert log.journal.blocked
    log.prepare()
    log.write_all()
    found = [item.slot for item in log.scan()[0] if item.kind is RecordKind.ACCEPT]
    assert found == [*range(1, slot + 2)]


def test_in_a_mixed_batch_lazy_records_are_told_early_unless_their_group_waits_for_something() -> None:
    log = begun()
    promise = LogRecord(RecordKind.PROMISE, accept(1, group=3).group, accept(1).ballot, accept(0).slot, accept(0).slot)
    sure, early, held = accept(2, group=SURE), lazy(3), lazy(4, group=3)
    for record in (sure, early, promise, held, lazy(5)):
        log.journal.append(record)
    batch = take(log)
    assert batch.sync
    assert [record.slot for record in batch.early] == [3, 5]
    assert batch.late == [sure, promise, held], "a group is told of its records in their order"


def spoil(log: Log, batch: WriteBatch) -> None:
    log.segments[batch.segment][batch.offset : batch.offset + batch.length] = bytes(batch.length)


def damage(log: Log) -> list[Hole]:
    return [item for item in log.items()[0] if isinstance(item, Hole)]


def test_only_what_was_never_stated_as_synced_is_a_lazy_hole() -> None:
    log = begun()
    batches = []
    for record in (lazy(2), lazy(3), accept(4, group=SURE), lazy(5), accept(6, group=SURE)):
        log.journal.append(record)
        batches.append(take(log))
    for batch, found in zip(batches[:-1], (True, True, False, True), strict=True):
        kept = bytes(log.segments[batch.segment])
        spoil(log, batch)
        assert [hole.lazy for hole in damage(log)] == [found], batch.records
        log.segments[batch.segment][:] = kept
    for batch in batches[1:3]:
        spoil(log, batch)
    assert [hole.lazy for hole in damage(log)] == [False], "it may have held anything"


def test_headers_of_lazy_batches_that_are_lost_leave_lazy_holes() -> None:
    log = begun()
    batches = []
    for slot in (2, 3, 4):
        log.journal.append(lazy(slot))
        batches.append(take(log))
    for batch in batches[:2]:
        log.segments[batch.segment][batch.offset : batch.offset + 48] = bytes(48)
    assert all(hole.lazy for hole in damage(log))


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_lazy_batch_torn_anywhere_puts_nothing_else_in_doubt(data: st.DataObject) -> None:
    """Its header may be there, and batches behind it, and sectors in the middle of it not."""
    log = begun()
    for slot in range(2, 9):
        log.journal.append(lazy(slot, b"x" * 300))
    torn = take(log)
    assert not torn.sync
    log.journal.append(lazy(9))
    take(log)
    log.journal.append(accept(10, group=SURE))
    assert take(log).sync
    file = log.segments[torn.segment]
    for at in range(-(-torn.offset // SECTOR) * SECTOR, torn.offset + torn.length, SECTOR):
        if data.draw(st.booleans(), label=f"sector at {at} is lost"):
            until = min(at + SECTOR, torn.offset + torn.length)
            file[at:until] = bytes(until - at)
    assert all(hole.lazy for hole in damage(log))


def test_a_hole_in_the_middle_of_a_batch_is_lazy_if_that_was_never_stated_as_synced() -> None:
    for make, found in ((lazy, True), (accept, False)):
        log = begun()
        for slot in range(2, 6):
            log.journal.append(make(slot, b"x" * 300))
        batch = take(log)
        log.journal.append(lazy(6))
        take(log)
        middle = batch.offset + batch.length // 2
        log.segments[batch.segment][middle : middle + SECTOR] = bytes(SECTOR)
        assert [hole.lazy for hole in damage(log)] == [found]


def two_lazy_batches(log: Log) -> tuple[WriteBatch, WriteBatch]:
    """Of seven records and of one; the end of the second is lost with the power."""
    for slot in range(2, 9):
        log.journal.append(lazy(slot, bytes([slot]) * 300))
    first = take(log)
    log.journal.append(lazy(9, bytes([9]) * 1500))
    second = take(log)
    end = second.offset + second.length
    log.segments[second.segment][end - SECTOR : end] = bytes(SECTOR)
    return first, second


def test_what_was_cut_stays_away() -> None:
    """A power loss takes the header of one lazy batch and the end of the next: both are cut. Another takes what was
    written over them: what was left of the first must not come back."""
    log = begun()
    first, _ = two_lazy_batches(log)
    file = log.segments[first.segment]
    file[first.offset : first.offset + SECTOR] = bytes(SECTOR)
    assert [record.slot for record in log.restart() if record.kind is RecordKind.ACCEPT] == [1]
    before = bytes(file)
    log.journal.append(lazy(20, bytes(1500)))
    lost = take(log)
    log.journal.append(accept(21, group=SURE))
    take(log)
    file[lost.offset : lost.offset + lost.length] = before[lost.offset : lost.offset + lost.length]
    found = [item.slot for item in log.items()[0] if isinstance(item, LogRecord) and item.kind is RecordKind.ACCEPT]
    assert found == [1, 21]


@pytest.mark.parametrize("lost", [False, True])
def test_a_lazy_hole_stays_one_when_the_batch_that_told_so_is_cut(*, lost: bool) -> None:
    """A power loss takes the middle of one lazy batch and the end of the next, whose header states what was synced. The
    log goes on in its place, and perhaps another power loss takes the first batch there."""
    log = begun()
    first, second = two_lazy_batches(log)
    file = log.segments[first.segment]
    middle = first.offset + first.length // 2
    file[middle : middle + SECTOR] = bytes(SECTOR)
    assert [hole.lazy for hole in damage(log)] == [True]
    log.restart()
    log.journal.append(lazy(20))
    anew = take(log)
    assert anew.offset == second.offset
    log.journal.append(lazy(21))
    take(log)
    log.journal.append(accept(22, group=SURE))
    take(log)
    if lost:
        spoil(log, anew)
    assert all(hole.lazy for hole in damage(log))
    log.restart()
    log.journal.append(accept(23, group=SURE))
    last = take(log)
    assert stated(log, last) == place(last), "all before is synced by now"


class LazyLife(RuleBasedStateMachine):
    """One log with records of both kinds through kills and power losses."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log(states=lambda: [state(0), state(1)])
        self.now = 0.0
        self.slot = 0
        self.durable: list[Fields] = []
        self.unsynced: list[WriteBatch] = []  # written, or under way
        self.under_way: WriteBatch | None = None
        self.told: list[Fields] = []  # early

    @initialize()
    def first_segment(self) -> None:
        self.log.prepare()

    @rule(kinds=st.lists(st.booleans(), min_size=1, max_size=6), size=st.sampled_from([0, 30, 400, 1500, 4096]))
    def append(self, kinds: list[bool], size: int) -> None:
        for kind in kinds:
            self.slot += 1
            make = lazy if kind else accept
            self.log.journal.append(make(self.slot, bytes([self.slot % 256]) * size))

    @precondition(lambda self: self.log.journal.segments_ahead < 2)
    @rule()
    def prepare(self) -> None:
        self.log.prepare()

    @precondition(lambda self: self.under_way is None)
    @rule(close=st.booleans(), later_s=st.sampled_from([0.0, 0.0, LAZY_SYNC_S]))
    def write(self, close: bool, later_s: float) -> None:
        self.now += later_s
        batch = self.log.journal.take(self.now, close=close)
        if batch is None:
            assert not (self.log.journal.blocked and self.log.journal.lazy_waits), "nothing would ever sync them"
            return
        self.log.put(batch)
        self.under_way = batch
        self.unsynced.append(batch)
        self.told += map(fields, batch.early)
        assert not (batch.late and not batch.sync)

    @precondition(lambda self: self.under_way is not None)
    @rule()
    def done(self) -> None:
        batch, self.under_way = self.under_way, None
        assert batch is not None
        if not batch.sync:
            self.log.journal.written(batch)
            return
        self.log.journal.synced(batch)
        self.durable += [fields(record) for batch in self.unsynced for record in batch.records]
        self.unsynced.clear()
        self.told.clear()

    @rule()
    def killed(self) -> None:
        """What was told early must be there: the page cache outlives the process."""
        written = [fields(record) for batch in self.unsynced for record in batch.records]
        found, holes, _ = self.look()
        assert not holes
        assert set(self.told) <= set(written)
        assert found == self.durable + written
        self.go_on(found)

    @rule(data=st.data())
    def power_lost(self, data: st.DataObject) -> None:
        """Of all that is not synced any sectors reach the disk."""
        for batch in self.unsynced:
            file = self.log.segments[batch.segment]
            at, end = batch.offset, batch.offset + batch.length
            fate = data.draw(st.sampled_from(["kept", "lost", "torn"]), label=f"batch {batch.number}")
            while at < end and fate != "kept":
                until = min((at // SECTOR + 1) * SECTOR, end)
                if fate == "lost" or data.draw(st.booleans(), label=f"sector at {at} is lost"):
                    file[at:until] = bytes(until - at)
                at = until
        found, holes, faulty = self.look()
        written = {fields(record): record.lazy for batch in self.unsynced for record in batch.records}
        assert [record for record in found if record not in written] == self.durable, "what was synced is there"
        assert all(hole.lazy for hole in holes), "nothing but lazy records is in doubt"
        for record in set(written) - set(found):
            assert written[record] or (self.under_way is not None and record in map(fields, self.under_way.records))
        known = {(item.group, item.slot) for item in faulty}
        last = max((record[3] for record in found), default=0)
        for record, is_lazy in written.items():
            if record not in found and record[3] < last and is_lazy:
                assert holes or (record[1], record[3]) in known, "a loss in front of something that is there is told"
        self.go_on(found)

    def look(self) -> tuple[list[Fields], list[Hole], list[FaultyRecord]]:
        """All but the states and what earlier power losses have left."""
        items, _ = self.log.items()
        records = [item for item in items if type(item) is LogRecord and item.kind is not RecordKind.STATE]
        places = [place(batch) for batch in self.unsynced]
        since = min(places, default=2**62)
        holes = [item for item in items if isinstance(item, Hole)]
        assert all(hole.lazy for hole in holes)
        new = [hole for hole in holes if hole.segment * SEGMENT_BYTES + hole.start >= since]
        faulty = [item for item in items if isinstance(item, FaultyRecord) and item.position >= since]
        return [fields(record) for record in records], new, faulty

    def go_on(self, found: list[Fields]) -> None:
        self.log.restart()
        self.durable = found
        self.unsynced.clear()
        self.told.clear()
        self.under_way = None

    def teardown(self) -> None:
        self.killed()


LazyLife.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLazyLife = LazyLife.TestCase


@given(lost=st.sets(st.integers(0, 9)), sizes=st.lists(st.sampled_from([0, 30, 440, 700]), min_size=10, max_size=10))
@settings(max_examples=150, deadline=None)
def test_any_lazy_batches_may_be_lost_and_the_others_stand(lost: set[int], sizes: list[int]) -> None:
    log = Log(states=lambda: [state(0)], segment_bytes=SEGMENT_BYTES)
    log.prepare()
    log.journal.append(accept(100, group=SURE))
    log.write()
    batches = []
    for slot, size in enumerate(sizes):
        log.journal.append(lazy(slot, b"x" * size))
        batches.append(take(log))
    assert not any(batch.sync for batch in batches)
    for number in lost:
        spoil(log, batches[number])
    items, end = log.items()
    found = [item.slot for item in items if type(item) is LogRecord and item.kind is RecordKind.ACCEPT]
    assert found == [100, *(slot for slot in range(10) if slot not in lost)]
    assert all(item.lazy for item in items if isinstance(item, Hole))
    whole = max((slot for slot in range(10) if slot not in lost), default=-1)
    assert end.offset == (batches[whole].offset + batches[whole].length if whole >= 0 else batches[0].offset)
    gaps = [slot for slot in lost if slot < whole]
    assert bool(gaps) == any(isinstance(item, Hole) for item in items)
