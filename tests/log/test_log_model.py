"""Random lives of a log against a list: what was synced comes back whatever crashes do, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from log_world import SEGMENT_BYTES, Fields, Log, accept, fields, state

from corgi.base.ports import FaultyRecord, Hole, LogRecord, RecordKind
from corgi.log.record import RECORD_HEADER_BYTES
from corgi.log.writer import WriteBatch

SECTOR = 512
SIZES = st.one_of(st.integers(0, 64), st.integers(0, 1500), st.sampled_from([4096, 8000]))


class LogLife(RuleBasedStateMachine):
    """One log through appends, syncs, full disks, kills and power losses."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log(states=lambda: [state(0), state(1)])
        self.durable: list[Fields] = []  # synced, or found by a restart
        self.slot = 0
        self.under_way: WriteBatch | None = None
        self.before = b""  # what lay where the batch under way was written

    @initialize()
    def first_segment(self) -> None:
        self.log.prepare()

    @rule(size=SIZES, count=st.integers(1, 12))
    def append(self, size: int, count: int) -> None:
        for _ in range(count):
            self.slot += 1
            self.log.journal.append(accept(self.slot, bytes([self.slot % 256]) * size))

    @precondition(lambda self: self.log.journal.segments_ahead < 2)
    @rule()
    def prepare(self) -> None:
        self.log.prepare()

    @precondition(lambda self: self.under_way is None)
    @rule(close=st.booleans())
    def write(self, close: bool) -> None:
        batch = self.log.journal.take(0.0, close=close)
        if batch is not None:
            file = self.log.segments[batch.segment]
            self.before = bytes(file[batch.offset : batch.offset + batch.length])
            self.log.put(batch)
            self.under_way = batch

    @precondition(lambda self: self.under_way is not None)
    @rule()
    def sync(self) -> None:
        assert self.under_way is not None
        self.log.journal.synced(self.under_way)
        self.durable += [fields(record) for record in self.under_way.records]
        self.under_way = None

    @rule()
    def killed(self) -> None:
        """The process dies; what it wrote stays in the page cache, and is written again at the restart."""
        self.come_back()

    @rule(data=st.data())
    def power_lost(self, data: st.DataObject) -> None:
        """Of the write under way any sectors reach the disk, and one of them may be garbage."""
        batch = self.under_way
        if batch is not None:
            file = self.log.segments[batch.segment]
            at, end = batch.offset, batch.offset + batch.length
            while at < end:
                until = min((at // SECTOR + 1) * SECTOR, end)
                if not data.draw(st.booleans(), label=f"sector at {at} is written"):
                    file[at:until] = self.before[at - batch.offset : until - batch.offset]
                at = until
            if data.draw(st.booleans(), label="a bit flips"):
                file[data.draw(st.integers(batch.offset, end - 1), label="where")] ^= 1 << data.draw(st.integers(0, 7))
        self.come_back()

    def come_back(self) -> None:
        found = self.log.restart()
        got = [fields(record) for record in found if record.kind is not RecordKind.STATE]
        written = [fields(record) for record in self.under_way.records] if self.under_way else []
        assert got in (self.durable, self.durable + written)
        self.durable = got
        self.under_way = None

    @invariant()
    def what_is_stated_as_synced_was(self) -> None:
        journal = self.log.journal
        assert journal.synced_position <= journal.segment * SEGMENT_BYTES + journal.offset

    def teardown(self) -> None:
        self.killed()


LogLife.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLogLife = LogLife.TestCase


def a_log(sizes: list[int]) -> tuple[Log, list[WriteBatch]]:
    log = Log(states=lambda: [state(0)])
    batches = []
    for slot, size in enumerate(sizes, start=1):
        log.journal.append(accept(slot, bytes([slot % 256]) * size))
        if slot % 3 == 0:
            batches += log.write_all()
    return log, batches + log.write_all()


def lost(intact: list[LogRecord], items: list[LogRecord | Hole]) -> list[LogRecord]:
    """The records that are not given as they were; each must be known as faulty, or lie in a hole."""
    whole = {item.position: fields(item) for item in items if type(item) is LogRecord}
    faulty = {item.position: item for item in items if isinstance(item, FaultyRecord)}
    holes = [item for item in items if isinstance(item, Hole)]
    missing = [record for record in intact if whole.get(record.position) != fields(record)]
    for record in missing:
        segment, offset = divmod(record.position, SEGMENT_BYTES)
        known = faulty.get(record.position)
        if known is not None:
            assert fields(known)[:5] == fields(record)[:5]
            assert known.length == len(record.payload)
        else:
            assert any(hole.segment == segment and hole.start <= offset <= hole.end for hole in holes), record
    assert set(whole) <= {record.position for record in intact}, "nothing is made up"
    return missing


@given(sizes=st.lists(SIZES, min_size=2, max_size=30), data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_flip_below_the_last_batch_harms_one_record_and_is_told(sizes: list[int], data: st.DataObject) -> None:
    log, batches = a_log([*sizes, 100])
    log.journal.append(accept(1000))
    batches += log.write_all()
    intact = log.scan()[0]
    batch = data.draw(st.sampled_from(batches[:-1]), label="in the batch")
    offset = data.draw(st.integers(batch.offset, batch.offset + batch.length - 1), label="at")
    log.segments[batch.segment][offset] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    items, end = log.items()
    assert len(lost(intact, items)) <= 1
    assert (end.segment, end.offset, end.torn) == (batches[-1].segment, batches[-1].offset + batches[-1].length, None)


@given(sizes=st.lists(SIZES, min_size=1, max_size=20), garbage=st.binary(max_size=200), data=st.data())
@settings(max_examples=150, deadline=None)
def test_garbage_is_never_taken_for_records(sizes: list[int], garbage: bytes, data: st.DataObject) -> None:
    log, _ = a_log(sizes)
    intact = log.scan()[0]
    segment = data.draw(st.sampled_from(sorted(log.segments)))
    at = data.draw(st.integers(0, SEGMENT_BYTES - len(garbage)))
    log.segments[segment][at : at + len(garbage)] = garbage
    items, end = log.items()
    if end.torn is None:
        lost(intact, items)
    else:
        cut = end.torn[0] * SEGMENT_BYTES + end.torn[1]
        lost([record for record in intact if record.position - RECORD_HEADER_BYTES < cut], items)


@given(sizes=st.lists(SIZES, min_size=5, max_size=40), data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_log_goes_on_behind_any_damage(sizes: list[int], data: st.DataObject) -> None:
    """Delete, truncate, empty or spoil any segments; what is written then is found by the next scan."""
    log, _ = a_log(sizes)
    for segment in data.draw(st.lists(st.sampled_from(sorted(log.segments)), max_size=3, unique=True)):
        how = data.draw(st.sampled_from(["delete", "truncate", "header", "zero"]))
        if how == "delete":
            del log.segments[segment]
        elif how == "truncate":
            del log.segments[segment][data.draw(st.integers(0, SEGMENT_BYTES - 1)) :]
        elif how == "header":
            log.segments[segment][:4096] = bytes(4096)
        else:
            at = data.draw(st.integers(4096, SEGMENT_BYTES - 1))
            log.segments[segment][at:] = bytes(SEGMENT_BYTES - at)
    log.restart()
    for slot in range(2000, 2010):
        log.journal.append(accept(slot, b"z" * 3000))
    written = log.write_all()
    items, end = log.items()
    positions = {item.position for item in items if type(item) is LogRecord}
    assert {record.position for batch in written for record in batch.records} <= positions
    assert (end.segment, end.offset) == (written[-1].segment, written[-1].offset + written[-1].length)


def test_the_model_can_fail() -> None:
    """A log that loses a synced record, or makes one up, is not accepted by the comparison above."""
    life = LogLife()
    life.first_segment()
    life.append(10, 2)
    life.write(False)
    life.sync()
    life.durable.append(fields(accept(99)))
    with pytest.raises(AssertionError):
        life.come_back()
    life.durable = life.durable[:1]
    with pytest.raises(AssertionError):
        life.come_back()
