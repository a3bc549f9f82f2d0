"""The scrubber finds what a scan finds, whatever is damaged, and reads no more at once than it says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from log_world import IDENTITY, SEGMENT_BYTES, Log, accept, state

from corgi.base.ports import FaultyRecord, Hole, LogRecord
from corgi.log.scrub import WINDOW_BYTES, scrub_segment


def a_log(size: int = 900, count: int = 60) -> Log:
    log = Log(states=lambda: [state()])
    for slot in range(1, count + 1):
        log.journal.append(accept(slot, bytes([slot % 256]) * size))
        log.write_all()
    return log


def scrubbed(log: Log, number: int) -> list[LogRecord | Hole]:
    """What is found in a sealed segment."""
    found: list[LogRecord | Hole] = []
    scrub = scrub_segment(number, SEGMENT_BYTES, IDENTITY, found.append)
    wanted = next(scrub, None)
    while wanted is not None:
        offset, length = wanted
        assert offset + length <= SEGMENT_BYTES
        try:
            wanted = scrub.send(bytes(log.segments[number][offset : offset + length]))
        except StopIteration:
            break
    return found


def shown(items: list[LogRecord | Hole]) -> list[object]:
    return [
        item if isinstance(item, Hole) else (item.position, item.slot, item.ballot, item.length)
        for item in items
        if isinstance(item, Hole | FaultyRecord)
    ]


def test_a_sound_segment_has_nothing_to_tell() -> None:
    log = a_log()
    assert log.journal.segment > 2
    assert [scrubbed(log, number) for number in range(1, log.journal.segment)] == [[]] * (log.journal.segment - 1)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_it_finds_what_a_scan_finds(data: st.DataObject) -> None:
    log = a_log(data.draw(st.sampled_from([0, 5, 900])), 90)
    number = data.draw(st.integers(1, max(1, log.journal.segment - 1)))
    if number == log.journal.segment:
        return
    end = len(bytes(log.segments[number]).rstrip(b"\0"))
    at = data.draw(st.integers(0, end - 1))
    log.segments[number][at] ^= 1 << data.draw(st.integers(0, 7))
    scanned = shown([item for item in log.items()[0] if not isinstance(item, Hole) or item.segment == number])
    found = shown(scrubbed(log, number))
    if scanned and all(isinstance(item, Hole) for item in scanned):
        assert found, "a scan is in doubt of what the scrubber does not see"
    else:
        assert [item for item in found if not isinstance(item, Hole)] == scanned


def test_a_large_payload_is_read_piece_by_piece() -> None:
    log = Log(segment_bytes=1 << 20, states=lambda: [state()])
    for slot in range(1, 9):
        log.journal.append(accept(slot, bytes([slot]) * 200_000))
        log.write_all()
    asked: list[int] = []
    found: list[LogRecord | Hole] = []
    log.segments[1][4096 + 300_000] ^= 1
    scrub = scrub_segment(1, 1 << 20, IDENTITY, found.append)
    wanted = next(scrub)
    while True:
        asked.append(wanted[1])
        try:
            wanted = scrub.send(bytes(log.segments[1][wanted[0] : sum(wanted)]))
        except StopIteration:
            break
    assert max(asked) <= WINDOW_BYTES
    assert [item.slot for item in found if isinstance(item, FaultyRecord)] == [2]
