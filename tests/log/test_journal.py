"""The plan of the log: what goes into which batch and segment, and when nothing may be written."""

import pytest
from log_world import SEGMENT_BYTES, Log, accept, fields, state

from corgi.base.errors import InvariantError
from corgi.base.ids import GroupId
from corgi.base.limits import COMMAND_BYTES_MAX
from corgi.base.ports import LogRecord, RecordKind
from corgi.log.record import DATA_FROM, FLAG_SEALS, decode_batch_header, segment_seed
from corgi.log.writer import BATCH_RECORDS_MAX, Journal, WriteBatch


def flags(log: Log, batch: WriteBatch) -> int:
    seed = segment_seed(batch.segment, 0xFEED_0000_0000_0000 | batch.segment)
    return decode_batch_header(log.segments[batch.segment], batch.offset, seed).flags


def test_what_is_appended_together_is_one_batch() -> None:
    log = Log()
    log.prepare()
    records = [accept(slot) for slot in range(1, 6)]
    for record in records:
        log.journal.append(record)
    batch = log.journal.take(0.0)
    assert batch is not None
    assert batch.records == records
    assert (batch.segment, batch.offset, batch.number) == (1, DATA_FROM, 1)
    assert batch.length == sum(len(buffer) for buffer in batch.buffers)


def test_positions_name_the_payloads_bytes() -> None:
    log = Log()
    records = [accept(slot, bytes([slot]) * (slot * 37)) for slot in range(1, 40)]
    for record in records:
        log.journal.append(record)
    log.write_all()
    for record in records:
        segment, offset = divmod(record.position, SEGMENT_BYTES)
        assert log.segments[segment][offset : offset + len(record.payload)] == record.payload


def test_no_second_batch_is_given_out_before_the_first_is_synced() -> None:
    log = Log()
    log.prepare()
    log.journal.append(accept(1))
    first = log.journal.take(0.0)
    assert first is not None
    log.journal.append(accept(2))
    log.journal.append(accept(3))
    assert log.journal.take(0.0) is None
    log.journal.synced(first)
    second = log.journal.take(0.0)
    assert second is not None
    assert [record.slot for record in second.records] == [2, 3]
    assert second.offset == first.offset + first.length


def test_a_segment_counts_as_written_when_its_first_batch_is_durable() -> None:
    """A snapshot that names it as the first to scan may be durable before: then the states in it must be."""
    log = Log(states=lambda: [state()])
    assert log.journal.synced_segment == 0
    slot = 0
    while log.journal.segment < 2:
        assert log.journal.synced_segment == log.journal.segment
        slot += 1
        log.journal.append(accept(slot, b"x" * 1000))
        if not log.journal.segments_ahead:
            log.prepare()
        batch = log.journal.take(0.0)
        assert batch is not None
        assert log.journal.synced_segment == max(batch.segment - (batch.offset == DATA_FROM), 0)
        log.put(batch)
        log.journal.synced(batch)
    log.restart()
    assert log.journal.synced_segment == 2


def test_only_the_batch_that_is_outstanding_can_be_synced() -> None:
    log = Log()
    log.journal.append(accept(1))
    batch = log.write()
    assert batch is not None
    with pytest.raises(InvariantError):
        log.journal.synced(batch)


def test_each_batch_states_as_synced_what_was() -> None:
    log = Log()
    synced = []
    for slot in range(1, 4):
        log.journal.append(accept(slot))
        synced.append(log.journal.synced_position)
        batch = log.write()
        assert batch is not None
        seed = segment_seed(1, 0xFEED_0000_0000_0001)
        assert decode_batch_header(log.segments[1], batch.offset, seed).synced == synced[-1]
    assert synced == sorted(set(synced))


def test_nothing_is_written_without_a_prepared_segment() -> None:
    log = Log()
    log.journal.append(accept(1))
    assert log.journal.take(0.0) is None
    assert log.journal.blocked
    log.prepare()
    assert not log.journal.blocked
    assert log.journal.take(0.0) is not None


def test_only_the_segment_that_is_wanted_can_be_prepared() -> None:
    log = Log()
    assert log.journal.segment_wanted == 1
    with pytest.raises(InvariantError):
        log.journal.prepared(2, 0)
    log.prepare()
    assert (log.journal.segment_wanted, log.journal.segments_ahead) == (2, 1)


def test_a_batch_never_spans_segments_and_the_last_one_seals() -> None:
    log = Log()
    for slot in range(1, 200):
        log.journal.append(accept(slot, b"x" * 700))
    batches = log.write_all()
    assert len(log.segments) > 3
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        assert batch.offset + batch.length <= SEGMENT_BYTES
        last = following is None or following.segment != batch.segment
        assert bool(flags(log, batch) & FLAG_SEALS) == (last and following is not None)


def test_a_segment_without_room_for_the_next_record_is_sealed_by_an_empty_batch() -> None:
    log = Log()
    log.journal.append(accept(1, b"x" * 6000))
    log.write_all()
    log.journal.append(accept(2, b"y" * 8000))
    log.prepare()
    seal = log.write()
    assert seal is not None
    assert seal.records == []
    assert flags(log, seal) == FLAG_SEALS
    first = log.write()
    assert first is not None
    assert (first.segment, first.offset, [record.slot for record in first.records]) == (2, DATA_FROM, [2])


def test_a_full_segment_waits_for_the_next_and_loses_nothing() -> None:
    log = Log()
    log.prepare()
    for slot in range(1, 30):
        log.journal.append(accept(slot, b"x" * 1000))
    placed = []
    while (batch := log.journal.take(0.0)) is not None:
        log.put(batch)
        placed += [record.slot for record in batch.records]
        log.journal.synced(batch)
    assert log.journal.blocked
    assert 0 < len(placed) < 29
    while log.journal.pending:
        log.prepare()
        placed += [record.slot for batch in log.write_all() for record in batch.records]
    assert placed == list(range(1, 30))
    assert [record.slot for record in log.scan()[0]] == placed


def test_each_segment_begins_with_the_states_of_all_groups() -> None:
    groups = [state(group) for group in range(4)]
    asked = []
    log = Log(states=lambda: asked.append(1) or groups)  # type: ignore[func-returns-value]
    for slot in range(1, 30):
        log.journal.append(accept(slot, b"x" * 1000))
    batches = log.write_all()
    assert len(asked) == len({batch.segment for batch in batches}) > 1
    assert not [record for batch in batches for record in batch.records if record.kind is RecordKind.STATE]
    kinds = [record.kind for record in log.scan()[0]]
    assert kinds[:5] == [RecordKind.STATE] * 4 + [RecordKind.ACCEPT]
    assert kinds.count(RecordKind.STATE) == 4 * len(asked)


def test_a_state_that_was_appended_is_told_as_appended() -> None:
    log = Log(states=lambda: [state(0)])
    record = state(1)
    log.journal.append(record)
    assert [batch.records for batch in log.write_all()] == [[record]]


def test_batches_are_bounded_in_bytes_and_a_larger_record_goes_alone() -> None:
    log = Log(batch_bytes_max=2048)
    for size in (500, 500, 5000, 500, 900, 900):
        log.journal.append(accept(1, b"x" * size))
    assert [[len(record.payload) for record in batch.records] for batch in log.write_all()] == [
        [500, 500],
        [5000],
        [500, 900],
        [900],
    ]


def test_batches_are_bounded_in_records() -> None:
    log = Log(segment_bytes=1 << 20, batch_bytes_max=1 << 19)
    for slot in range(BATCH_RECORDS_MAX + 1):
        log.journal.append(accept(slot, b""))
    assert [len(batch.records) for batch in log.write_all()] == [BATCH_RECORDS_MAX, 1]


def test_large_payloads_are_not_copied() -> None:
    log = Log(segment_bytes=1 << 20, batch_bytes_max=1 << 18)
    log.prepare()
    payload = b"x" * 100_000
    for record in (accept(1, b"small"), accept(2, payload), accept(3, b"small")):
        log.journal.append(record)
    batch = log.journal.take(0.0)
    assert batch is not None
    assert [buffer for buffer in batch.buffers if buffer is payload]
    assert len(batch.buffers) == 3


def test_a_vector_is_never_longer_than_the_kernel_takes() -> None:
    log = Log(segment_bytes=64 << 20, batch_bytes_max=16 << 20)
    log.prepare()
    for slot in range(2000):
        log.journal.append(accept(slot, b"x" * 8192))
    batch = log.journal.take(0.0)
    assert batch is not None
    assert len(batch.buffers) <= 1024


def test_the_largest_command_fits_and_a_larger_record_is_our_fault() -> None:
    journal = Journal(list)
    assert journal.record_bytes_max > COMMAND_BYTES_MAX + (1 << 20)
    journal.append(accept(1, bytes(journal.record_bytes_max)))
    with pytest.raises(InvariantError):
        journal.append(accept(2, bytes(journal.record_bytes_max + 1)))


def test_the_largest_record_fits_behind_the_largest_states() -> None:
    states = [LogRecord(RecordKind.STATE, GroupId(0), state().ballot, state().slot, state().commit, bytes(4056))]
    log = Log(states=lambda: states)
    for slot in range(3):
        log.journal.append(accept(slot, b"x" * log.journal.record_bytes_max))
    log.write_all()
    assert [record.kind for record in log.scan()[0]] == [RecordKind.STATE, RecordKind.ACCEPT] * 3


def test_states_that_leave_no_room_are_our_fault() -> None:
    log = Log(states=lambda: [state(group) for group in range(200)])
    log.journal.append(accept(1))
    with pytest.raises(InvariantError):
        log.write()


def test_an_idle_writer_closes_once() -> None:
    log = Log()
    journal = log.journal
    log.prepare()
    assert journal.take(0.0) is None
    assert journal.close_at() is None
    journal.append(accept(1))
    log.write()
    assert journal.take(10.0) is None
    at = journal.close_at()
    assert at is not None
    assert at > 10.0
    assert journal.take(at - 0.001) is None
    closing = journal.take(at)
    assert closing is not None
    assert closing.records == []
    log.put(closing)
    journal.synced(closing)
    assert journal.take(at + 100.0) is None
    assert journal.close_at() is None
    assert [fields(record) for record in log.scan()[0]] == [fields(accept(1))]


def test_an_append_puts_the_closing_off() -> None:
    log = Log()
    log.journal.append(accept(1))
    log.write()
    assert log.journal.take(10.0) is None
    log.journal.append(accept(2))
    log.write()
    assert log.journal.take(10.05) is None
    assert log.journal.close_at() == pytest.approx(10.15)


def test_closing_can_be_asked_for() -> None:
    log = Log()
    log.journal.append(accept(1))
    log.write()
    assert log.journal.take(0.0, close=True) is not None
