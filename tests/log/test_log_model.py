"""Random lives of a log against a list: what was synced comes back whatever crashes do, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from log_world import SEGMENT_BYTES, Fields, Log, accept, fields, state

from corgi.base.errors import CorgiError
from corgi.base.ports import LogRecord, RecordKind
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


def is_padding(log: Log, records: list[LogRecord], segment: int, offset: int) -> bool:
    """Whether the byte is one of those that only fill a record up to eight bytes."""
    position = segment * SEGMENT_BYTES + offset
    return any(
        record.position + len(record.payload)
        <= position
        < record.position + len(record.payload) + -len(record.payload) % 8
        for record in records
    )


@given(sizes=st.lists(SIZES, min_size=2, max_size=30), data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_flip_below_the_last_batch_is_always_found(sizes: list[int], data: st.DataObject) -> None:
    log, batches = a_log([*sizes, 100])
    log.journal.append(accept(1000))
    batches += log.write_all()
    intact = log.scan()[0]
    batch = data.draw(st.sampled_from(batches[:-1]), label="in the batch")
    offset = data.draw(st.integers(batch.offset, batch.offset + batch.length - 1), label="at")
    log.segments[batch.segment][offset] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    if is_padding(log, intact, batch.segment, offset):
        assert list(map(fields, log.scan()[0])) == list(map(fields, intact))
        return
    with pytest.raises(CorgiError) as caught:
        log.scan()
    assert caught.value.code == "log-damaged"
    assert f"segment {batch.segment:016x} at offset {batch.offset}" in caught.value.message


@given(sizes=st.lists(SIZES, min_size=1, max_size=20), garbage=st.binary(max_size=200), data=st.data())
@settings(max_examples=60, deadline=None)
def test_garbage_is_never_taken_for_records(sizes: list[int], garbage: bytes, data: st.DataObject) -> None:
    log, _ = a_log(sizes)
    intact = list(map(fields, log.scan()[0]))
    segment = data.draw(st.sampled_from(sorted(log.segments)))
    at = data.draw(st.integers(0, SEGMENT_BYTES - len(garbage)))
    log.segments[segment][at : at + len(garbage)] = garbage
    try:
        got = list(map(fields, log.scan()[0]))
    except CorgiError:
        return
    assert got == intact[: len(got)]


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
