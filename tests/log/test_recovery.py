"""Reading a log back: a torn tail is cut, everything else that is wrong is damage and told with its place."""

import re
from collections.abc import Callable

import pytest
from log_world import IDENTITY, SEGMENT_BYTES, Log, accept, fields, state

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId, Position
from corgi.base.ports import FaultyRecord, Hole, LogRecord
from corgi.log.record import (
    DATA_FROM,
    BatchHeader,
    LogIdentity,
    encode_batch_header,
    encode_segment_header,
    segment_seed,
)
from corgi.log.recovery import Scan
from corgi.log.writer import Journal, LogEnd, WriteBatch


def filled(batches: int = 3, each: int = 4, size: int = 50) -> tuple[Log, list[WriteBatch]]:
    """A log of some batches in its first segment, the second one prepared."""
    log = Log(segment_bytes=1 << 16)
    log.prepare()
    log.prepare()
    out = []
    for number in range(batches):
        for slot in range(each):
            log.journal.append(accept(number * each + slot + 1, bytes([slot + 1]) * size))
        batch = log.write()
        assert batch is not None
        out.append(batch)
    return log, out


def rolled(segments: int = 3) -> tuple[Log, list[WriteBatch]]:
    """A log over several segments."""
    log = Log(states=lambda: [state()])
    batches: list[WriteBatch] = []
    slot = 0
    while log.journal.segment < segments:
        slot += 1
        log.journal.append(accept(slot, b"x" * 1000))
        batches += log.write_all()
    return log, batches


def appended(batches: list[WriteBatch]) -> list[LogRecord]:
    return [record for batch in batches for record in batch.records]


def slots(records: list[LogRecord]) -> list[int]:
    return [record.slot for record in records if record.kind is not state().kind]


def contradiction(log: Log) -> CorgiError:
    """The error that the scan must raise."""
    with pytest.raises(CorgiError) as caught:
        log.items()
    assert caught.value.code == "log-damaged"
    return caught.value


def damage(log: Log) -> tuple[list[FaultyRecord], list[Hole]]:
    """What the scan tells of damage."""
    items = log.items()[0]
    return [i for i in items if isinstance(i, FaultyRecord)], [i for i in items if isinstance(i, Hole)]


def known(log: Log) -> list[int]:
    """Slots whose records are whole, in order."""
    return slots([item for item in log.items()[0] if type(item) is LogRecord])


def test_everything_comes_back_in_order_with_its_position() -> None:
    log, batches = rolled()
    records, end = log.scan()
    wanted = appended(batches)
    got = [record for record in records if record.kind is not state().kind]
    assert [fields(record) for record in got] == [fields(record) for record in wanted]
    assert [record.position for record in got] == [record.position for record in wanted]
    last = batches[-1]
    assert (end.segment, end.offset, end.batch) == (last.segment, last.offset + last.length, last.number)
    assert (end.unsynced, end.torn, end.sealed) == (last.offset, None, False)


def test_nothing_was_ever_written() -> None:
    log = Log()
    assert log.scan() == ([], LogEnd())
    log.prepare()
    records, end = log.scan()
    assert records == []
    assert (end.segment, end.torn, [number for number, _ in end.salts]) == (0, None, [1])


def test_the_journal_goes_on_where_the_log_ends() -> None:
    log, batches = rolled()
    before = slots(log.restart())
    log.journal.append(accept(1000))
    batch = log.write()
    assert batch is not None
    assert (batch.number, batch.offset) == (batches[-1].number + 1, batches[-1].offset + batches[-1].length)
    assert slots(log.scan()[0]) == [*before, 1000]


@pytest.mark.parametrize("keep", [0, 1, 47, 48, 49, 100, 200])
def test_a_last_batch_that_was_written_in_part_is_cut_whole(keep: int) -> None:
    log, batches = filled()
    last = batches[-1]
    end = last.offset + last.length
    log.segments[1][last.offset + keep : end] = bytes(last.length - keep)
    records, found = log.scan()
    assert slots(records) == slots(appended(batches[:-1]))
    assert found.offset == last.offset
    assert found.batch == last.number - 1
    assert found.torn is None or found.torn[:2] == (1, last.offset)
    log.restart()
    assert not any(log.segments[1][last.offset :])
    log.journal.append(accept(77))
    log.write()
    assert slots(log.scan()[0]) == [*slots(records), 77]


def test_every_flipped_bit_of_the_last_batch_cuts_it() -> None:
    log, batches = filled(2, 1, 16)
    last = batches[-1]
    for bit in range(last.offset * 8, (last.offset + last.length) * 8):
        log.segments[1][bit // 8] ^= 1 << bit % 8
        records, found = log.scan()
        assert (slots(records), found.offset) == ([1], last.offset)
        log.segments[1][bit // 8] ^= 1 << bit % 8


def test_every_flipped_bit_of_a_batch_with_another_behind_it_is_told_and_nothing_else_is_lost() -> None:
    log, batches = filled(3, 1, 16)
    first = batches[1]
    told = []
    for bit in range(first.offset * 8, (first.offset + first.length) * 8):
        log.segments[1][bit // 8] ^= 1 << bit % 8
        faulty, holes = damage(log)
        told.append((slots(faulty), len(holes), known(log)))
        log.segments[1][bit // 8] ^= 1 << bit % 8
    header, record, payload = told[: 48 * 8], told[48 * 8 : 88 * 8], told[88 * 8 :]
    assert {str(found) for found in header} == {"([], 0, [1, 2, 3])"}, "a batch header tells nothing of its own"
    assert {str(found) for found in record} == {"([], 1, [1, 3])"}
    assert {str(found) for found in payload} == {"([2], 0, [1, 3])"}


def test_the_closing_batch_turns_a_flip_in_the_last_records_into_damage() -> None:
    log, batches = filled()
    closing = log.journal.take(0.0, close=True)
    assert closing is not None
    log.put(closing)
    log.journal.synced(closing)
    assert slots(log.scan()[0]) == slots(appended(batches))
    log.segments[1][batches[-1].offset + 48 + 40] ^= 1
    faulty, holes = damage(log)
    assert (slots(faulty), holes) == ([9], [])
    assert known(log) == [*range(1, 9), 10, 11, 12]


def test_a_hole_in_the_last_batch_is_a_torn_tail_and_one_before_is_not() -> None:
    log, batches = filled(3, 20, 200)
    middle = batches[-1].offset + batches[-1].length // 2
    log.segments[1][middle : middle + 512] = bytes(512)
    assert slots(log.scan()[0]) == slots(appended(batches[:-1]))
    middle = batches[1].offset + batches[1].length // 2
    log.segments[1][middle : middle + 512] = bytes(512)
    faulty, holes = damage(log)
    assert len(faulty) == len(holes) == 1
    whole = len(appended(batches[:-1]))
    assert whole - 4 <= len(known(log)) <= whole - 2
    assert holes[0].start <= middle + 511
    assert middle < holes[0].end


def test_a_bad_end_of_a_segment_is_damage_when_the_next_one_is_written() -> None:
    log, batches = rolled()
    before = known(log)
    sealing = max((batch for batch in batches if batch.segment == 1), key=lambda batch: batch.offset)
    log.segments[1][sealing.offset + 10] ^= 1
    assert (damage(log), known(log)) == (([], []), before), "the batch header is not needed"
    log.segments[1][sealing.offset + 60] ^= 1
    faulty, holes = damage(log)
    assert (faulty, [hole.segment for hole in holes]) == ([], [1])
    assert (sealing.records, known(log)) == ([], before), "it only sealed the segment"


def test_a_first_batch_that_is_torn_is_cut_and_the_segment_begun_anew() -> None:
    log, batches = rolled()
    first = next(batch for batch in batches if batch.segment == 3)
    log.segments[3][first.offset + 3] ^= 1
    log.segments[3][first.offset + first.length :] = bytes(SEGMENT_BYTES - first.offset - first.length)
    records, end = log.scan()
    kept = [batch for batch in batches if batch.segment < 3]
    assert slots(records) == slots(appended(kept))
    assert (end.segment, end.sealed, end.offset) == (2, True, kept[-1].offset + kept[-1].length)
    assert end.torn == (3, DATA_FROM, first.offset + first.length)
    log.restart()
    log.journal.append(accept(500))
    log.write()
    assert slots(log.scan()[0]) == [*slots(records), 500]


def test_the_very_first_batch_may_be_torn() -> None:
    log, batches = filled(1, size=56)
    log.segments[1][batches[0].offset] ^= 1
    records, end = log.scan()
    assert records == []
    assert (end.segment, end.batch, end.torn) == (0, 0, (1, DATA_FROM, DATA_FROM + batches[0].length))


def test_a_sealed_segment_with_nothing_behind_it_yet_is_whole() -> None:
    log, _ = rolled()
    for _ in range(20):
        log.journal.append(accept(900, b"y" * 1000))
    while (batch := log.write()) is not None and batch.offset + batch.length < SEGMENT_BYTES - 1200:
        pass
    records, end = log.scan()
    assert end.sealed
    restarted = log.restart()
    assert slots(restarted) == slots(records)
    log.journal.append(accept(901))
    batch = log.write()
    assert batch is not None
    assert (batch.segment, batch.offset) == (end.segment + 1, DATA_FROM)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_segment_missing_in_the_middle_is_a_hole(missing: int) -> None:
    log, batches = rolled()
    del log.segments[missing]
    assert damage(log) == ([], [Hole(missing, 0, SEGMENT_BYTES, "the segment is missing")])
    assert known(log) == slots(appended([batch for batch in batches if batch.segment != missing]))


def test_a_segment_missing_at_the_end_is_a_hole_and_never_the_end() -> None:
    log, batches = rolled()
    for number in [number for number in log.segments if number >= 3]:
        del log.segments[number]
    assert damage(log) == ([], [Hole(3, 0, SEGMENT_BYTES, "the segment is missing")])
    end = log.items()[1]
    assert (end.segment, end.offset, end.sealed, end.salts, end.torn) == (3, SEGMENT_BYTES, True, (), None)
    assert end.batch > batches[-1].number, "a number that the lost segment may have used is not used again"
    log.restart()
    log.journal.append(accept(500))
    batch = log.write()
    assert batch is not None
    assert batch.segment == 4
    assert damage(log)[1] == [Hole(3, 0, SEGMENT_BYTES, "the segment is missing")]
    assert known(log)[-1] == 500


def test_a_prepared_segment_that_is_missing_or_spoilt_is_made_anew() -> None:
    for spoil in (None, bytearray(100), bytearray(SEGMENT_BYTES)):
        log, batches = filled()
        if spoil is None:
            del log.segments[2]
        else:
            log.segments[2] = spoil
        records, end = log.scan()
        assert slots(records) == slots(appended(batches))
        assert [number for number, _ in end.salts] == [1]


@pytest.mark.parametrize("size", [0, 100, DATA_FROM, SEGMENT_BYTES // 2])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_file_that_is_too_short_has_a_hole_at_its_end(size: int, number: int) -> None:
    log, batches = rolled()
    del log.segments[number][size:]
    faulty, holes = damage(log)
    assert faulty == []
    assert {hole.segment for hole in holes} == {number}
    assert holes[-1].end == SEGMENT_BYTES
    kept = [b for b in batches if b.segment != number or b.offset + b.length <= size]
    assert known(log) == slots(appended(kept))
    end = log.items()[1]
    assert (end.segment, end.sealed) == (3, number == 3)
    log.restart()
    log.journal.append(accept(500))
    log.write()
    assert known(log) == [*slots(appended(kept)), 500]


def test_a_file_that_is_too_long_lacks_nothing() -> None:
    log, batches = rolled()
    log.segments[2] += b"more"
    assert slots(log.scan()[0]) == slots(appended(batches))


def test_a_bad_segment_header_makes_a_hole_of_the_segment_if_its_copy_is_bad_too() -> None:
    log, batches = rolled()
    log.segments[2][20] ^= 1
    assert slots(log.scan()[0]) == slots(appended(batches))
    log.segments[2][2048 + 20] ^= 1
    assert damage(log) == ([], [Hole(2, 0, SEGMENT_BYTES, "the segment header fails its checksum")])
    log.segments[2][:DATA_FROM] = bytes(DATA_FROM)
    assert damage(log) == ([], [Hole(2, 0, SEGMENT_BYTES, "the segment header has the wrong magic")])
    assert known(log) == slots(appended([batch for batch in batches if batch.segment != 2]))


def test_the_newest_segment_without_a_header_is_not_the_end() -> None:
    log, batches = rolled()
    log.segments[3][:DATA_FROM] = bytes(DATA_FROM)
    assert [hole.segment for hole in damage(log)[1]] == [3]
    assert log.items()[1].segment == 3
    log.restart()
    log.journal.append(accept(500))
    log.write()
    assert known(log) == [*slots(appended([batch for batch in batches if batch.segment < 3])), 500]


def test_exchanged_files_are_damage() -> None:
    log, batches = rolled()
    log.segments[1], log.segments[2] = log.segments[2], log.segments[1]
    assert [hole.what for hole in damage(log)[1]] == [f"the segment says that it is segment {n}" for n in (2, 1)]
    assert known(log) == slots(appended([batch for batch in batches if batch.segment == 3]))


def test_a_segment_of_another_size_is_refused() -> None:
    log, _ = rolled()
    log.segments[1][:DATA_FROM] = encode_segment_header(IDENTITY, 1, 1 << 20, 1)
    assert f"made with {1 << 20} bytes" in contradiction(log).message


@pytest.mark.parametrize("identity", [LogIdentity(b"d" * 16, NodeId(3)), LogIdentity(b"c" * 16, NodeId(9))])
def test_the_log_of_another_node_is_refused(identity: LogIdentity) -> None:
    log, _ = rolled()
    scan = Scan(identity, segment_bytes=SEGMENT_BYTES)
    with pytest.raises(CorgiError) as caught:
        list(scan.records(sorted(log.segments.items())))
    assert caught.value.code == "wrong-cluster"


Change = Callable[[BatchHeader], BatchHeader]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda header: header._replace(number=2), "batch 2 of segment 1 follows batch 2"),
        (lambda header: header._replace(records=9), "tells 9 records, it has 4"),
        (lambda header: header._replace(segment=7), "batch 3 of segment 7 follows batch 2"),
        (lambda header: header._replace(synced=Position(1 << 40)), "is synced, which lies behind it"),
        (lambda header: header._replace(records_bytes=1 << 20), "beyond the segment"),
    ],
)
def test_a_sound_header_that_contradicts_the_log_is_refused(change: Change, told: str) -> None:
    log, batches = filled()
    seed = segment_seed(1, 0xFEED_0000_0000_0001)
    at = batches[-1].offset
    header = BatchHeader(0, 1, 3, Position(0), batches[-1].length - 48, len(batches[-1].records))
    log.segments[1][at : at + 48] = encode_batch_header(change(header), seed)
    assert told in contradiction(log).message


def test_batches_that_vanished_leave_a_hole() -> None:
    log, batches = filled()
    at = batches[-1].offset
    header = BatchHeader(0, 1, 9, Position(0), batches[-1].length - 48, len(batches[-1].records))
    log.segments[1][at : at + 48] = encode_batch_header(header, segment_seed(1, 0xFEED_0000_0000_0001))
    assert damage(log) == ([], [Hole(1, at, at, "batch 9 follows batch 2")])
    assert known(log) == list(range(1, 13))


def test_a_payload_that_imitates_the_format_does_not_make_damage_of_a_torn_tail() -> None:
    log = Log(segment_bytes=1 << 16)
    log.journal.append(accept(1))
    log.write()
    imitation = encode_batch_header(BatchHeader(0, 1, 3, Position(0), 0, 0), segment_seed(1, 0)) * 20 + b"CWSB" * 500
    log.journal.append(accept(2, imitation))
    last = log.write()
    assert last is not None
    log.segments[1][last.offset : last.offset + 16] = bytes(16)
    records, end = log.scan()
    assert slots(records) == [1]
    assert end.torn is not None
    assert end.torn[:2] == (1, last.offset)


def test_a_log_may_begin_behind_recycled_segments() -> None:
    log, batches = rolled()
    del log.segments[1]
    scan = Scan(IDENTITY, segment_bytes=SEGMENT_BYTES, first_segment=2)
    records = list(scan.records(sorted(log.segments.items())))
    assert slots(records) == slots(appended([batch for batch in batches if batch.segment >= 2]))


@pytest.mark.parametrize("left", ["nothing", "an empty file", "a header", "garbage"])
def test_a_log_that_has_lost_all_that_a_scan_needs_is_not_an_empty_one(left: str) -> None:
    """Segments before are there, and are not written over."""
    log, _ = rolled()
    for number in [number for number in log.segments if number > 3]:
        del log.segments[number]
    if left == "nothing":
        del log.segments[3]
    elif left == "an empty file":
        log.segments[3] = bytearray()
    else:
        filling = b"\x55" if left == "garbage" else b"\0"
        log.segments[3][DATA_FROM:] = filling * (SEGMENT_BYTES - DATA_FROM)
    scan = Scan(IDENTITY, segment_bytes=SEGMENT_BYTES, first_segment=3)
    items = list(scan.records((n, content) for n, content in sorted(log.segments.items()) if n >= 3))
    assert {item.segment for item in items if isinstance(item, Hole)} == {3}
    end = scan.end
    assert (end.segment, end.sealed, end.torn) == (3, True, None)
    log.journal = Journal(list, end, segment_bytes=SEGMENT_BYTES)
    log.journal.append(accept(500))
    batch = log.write()
    assert batch is not None
    assert batch.segment == 4


def test_the_end_is_known_only_at_the_end() -> None:
    log, _ = filled()
    scan = Scan(IDENTITY, segment_bytes=1 << 16)
    records = scan.records(sorted(log.segments.items()))
    next(records)
    with pytest.raises(RuntimeError, match="all its records"):
        _ = scan.end


def test_a_scan_lets_go_of_a_segment_before_it_asks_for_the_next() -> None:
    log, _ = rolled()

    def one_at_a_time():
        for number, content in sorted(log.segments.items()):
            with memoryview(content) as view:
                yield number, view
            content.append(0)  # raises BufferError while anybody holds a view
            content.pop()

    scan = Scan(IDENTITY, segment_bytes=SEGMENT_BYTES)
    assert list(scan.records(one_at_a_time()))


def test_messages_name_the_file_as_it_is_named_on_disk() -> None:
    log, _ = rolled()
    log.segments[2][:DATA_FROM] = encode_segment_header(IDENTITY, 2, 1 << 20, 1)
    assert re.search(r"segment 0000000000000002 at offset 0", contradiction(log).message)
