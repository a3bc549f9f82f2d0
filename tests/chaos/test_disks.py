"""What is done to a log is what it is called: a torn write is cut, a flipped bit found, a lost tail gone."""

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest

from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Position, Slot
from corgi.base.ports import Hole, LogRecord, RecordKind
from corgi.chaos import disks, node_process
from corgi.log.record import (
    DATA_FROM,
    BatchHeader,
    LogIdentity,
    encode_batch_header,
    encode_record_header,
    encode_segment_header,
    padded,
    segment_seed,
)
from corgi.log.recovery import Scan
from corgi.runtime.segments import segment_path

IDENTITY = LogIdentity(b"c" * 16, NodeId(1))
SEGMENT_BYTES = 256 * 1024
BATCHES = 12
SEEDS = range(30)


def record(slot: int) -> LogRecord:
    return LogRecord(RecordKind.ACCEPT, GroupId(0), Ballot(1), Slot(slot), Slot(0), b"value %d" % slot)


def write_log(folder: Path, batches: int = BATCHES, segments: int = 1) -> None:
    """A log as the writer would leave it after a kill."""
    slot = 0
    for number in range(1, segments + 1):
        salt = 77 + number
        seed = segment_seed(number, salt)
        content = bytearray(encode_segment_header(IDENTITY, number, SEGMENT_BYTES, salt))
        for at in range(batches):
            slot += 1
            entry = record(slot)
            body = encode_record_header(entry, seed) + entry.payload
            body = body.ljust(padded(len(body)), b"\0")
            synced = Position(number * SEGMENT_BYTES + len(content))
            seals = int(number < segments and at == batches - 1)
            content += encode_batch_header(BatchHeader(seals, number, slot, synced, len(body), 1), seed) + body
        segment_path(folder, number).write_bytes(content.ljust(SEGMENT_BYTES, b"\0"))


def slots(folder: Path) -> list[int]:
    contents = [(int(path.stem, 16), path.read_bytes()) for path in sorted(folder.glob("*.wal"))]
    scan = Scan(IDENTITY, segment_bytes=SEGMENT_BYTES)
    return [0 if isinstance(entry, Hole) else int(entry.slot) for entry in scan.records(contents)]


def test_the_log_of_these_tests_is_one(tmp_path: Path) -> None:
    write_log(tmp_path, segments=2)
    assert slots(tmp_path) == list(range(1, 2 * BATCHES + 1))
    found = disks.batches(tmp_path, IDENTITY)
    assert [batch.header.number for batch in found] == slots(tmp_path)
    assert found[0].at == DATA_FROM


@pytest.mark.parametrize("seed", SEEDS)
def test_a_torn_write_is_cut_and_costs_nothing(tmp_path: Path, seed: int) -> None:
    write_log(tmp_path)
    assert "torn batch" in disks.tear(tmp_path, IDENTITY, random.Random(seed))
    assert slots(tmp_path) == list(range(1, BATCHES + 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lost_tail_is_shorter_and_no_damage(tmp_path: Path, seed: int) -> None:
    write_log(tmp_path)
    assert "are lost" in disks.lose_tail(tmp_path, IDENTITY, random.Random(seed))
    assert 1 <= len(slots(tmp_path)) < BATCHES


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_flipped_bits_are_found(tmp_path: Path, seed: int, sealed: bool) -> None:
    write_log(tmp_path, segments=2)
    told = disks.flip(tmp_path, IDENTITY, random.Random(seed), sealed=sealed)
    assert ("sealed segment 1" if sealed else "current segment 2") in told
    found = slots(tmp_path)
    whole = list(range(1, 2 * BATCHES + 1))
    assert found == whole or 0 in found  # it hit what no checksum covers, which is padding, or was found
    assert set(found) <= {0, *whole}


@pytest.mark.parametrize("seed", range(5))
def test_a_segment_is_cut_short_or_gone(tmp_path: Path, seed: int) -> None:
    write_log(tmp_path, segments=3)
    told = disks.cut_segment(tmp_path, random.Random(seed), delete=False)
    sizes = sorted(path.stat().st_size for path in tmp_path.iterdir())
    assert sizes[0] < sizes[1] == sizes[2] == SEGMENT_BYTES
    assert f"only {sizes[0]} bytes" in told
    assert "is gone" in disks.cut_segment(tmp_path, random.Random(seed), delete=True)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_log_without_a_batch_is_told(tmp_path: Path) -> None:
    segment_path(tmp_path, 1).write_bytes(encode_segment_header(IDENTITY, 1, SEGMENT_BYTES, 1))
    with pytest.raises(CorgiError, match="no batch"):
        disks.batches(tmp_path, IDENTITY)


class Inner:
    """Writes at once."""

    name = "inner"

    def __init__(self) -> None:
        self.written: list[int] = []
        self.closed = False

    def write(
        self, fd: int, buffers: object, offset: int, done: object, *, sync: bool = True, written: object = None
    ) -> None:
        self.written.append(offset)

    def close(self) -> None:
        self.closed = True


async def test_a_disk_suffers_what_its_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Inner()
    monkeypatch.setattr(node_process, "best_syncer", lambda loop: inner)
    before = signal.getsignal(signal.SIGUSR1)
    try:
        path = tmp_path / "node-1.disk"
        sufferings = node_process.Sufferings(path)
        syncer = node_process.SlowSyncer(asyncio.get_running_loop(), sufferings)
        syncer.write(0, (), 1, lambda *_: None)
        assert inner.written == [1]
        clock = node_process.WrongClock(sufferings)
        assert abs(clock.wall_ms() - time.time() * 1000) < 10_000
        path.write_text('{"slow_s": 3600.0, "full": true, "clock_ms": -60000}', encoding="utf-8")
        os.kill(os.getpid(), signal.SIGUSR1)
        assert sufferings.slow_s == 3600.0
        assert abs(clock.wall_ms() - time.time() * 1000 + 60_000) < 10_000
        assert clock.now() <= time.monotonic()
        syncer.write(0, (), 2, lambda *_: None)
        assert inner.written == [1]
        with pytest.raises(OSError, match="No space left"):
            sufferings.make_segment(tmp_path, IDENTITY, 1, SEGMENT_BYTES, 1)
        assert not segment_path(tmp_path, 1).exists()
        path.write_text('{"slow_s": 0.0, "full": false}', encoding="utf-8")
        os.kill(os.getpid(), signal.SIGUSR1)
        sufferings.make_segment(tmp_path, IDENTITY, 1, SEGMENT_BYTES, 1)
        assert segment_path(tmp_path, 1).exists()
        syncer.close()
        assert inner.closed
    finally:
        signal.signal(signal.SIGUSR1, before)
