"""Putting a payload back where it lay: what is not there any more is told, and no reader dies of it."""

import asyncio
from pathlib import Path

import pytest

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId, Position
from corgi.log.record import DATA_FROM, RECORD_HEADER_BYTES, LogIdentity
from corgi.runtime.reads import Reads
from corgi.runtime.segments import make_segment, repair_record, segment_path

IDENTITY = LogIdentity(b"c" * 16, NodeId(1))
SEGMENT_BYTES = 64 * 1024


@pytest.mark.parametrize("size", [0, 100, DATA_FROM, DATA_FROM + 10, DATA_FROM + RECORD_HEADER_BYTES])
def test_a_segment_that_was_cut_short_has_no_place_for_the_record(tmp_path: Path, size: int) -> None:
    """Found by a run with cut segments: the reader's thread ended, and with the last of them every cold read."""
    make_segment(tmp_path, IDENTITY, 1, SEGMENT_BYTES, 7)
    with segment_path(tmp_path, 1).open("r+b") as file:
        file.truncate(size)
    position = Position(SEGMENT_BYTES + DATA_FROM + RECORD_HEADER_BYTES)
    error = repair_record(tmp_path, IDENTITY, SEGMENT_BYTES, position, b"payload")
    assert error is not None
    assert error.code == "record-damaged"
    assert segment_path(tmp_path, 1).stat().st_size == size


async def test_a_reader_outlives_the_work_that_fails(tmp_path: Path) -> None:

    def fail() -> None:
        raise IndexError

    make_segment(tmp_path, IDENTITY, 1, SEGMENT_BYTES, 7)
    reads = Reads(tmp_path, SEGMENT_BYTES, asyncio.get_running_loop())
    try:
        for _ in range(4):  # more than there are threads
            told: asyncio.Future[CorgiError | None] = asyncio.get_running_loop().create_future()
            reads.call(fail, told.set_result)
            error = await asyncio.wait_for(told, 20)
            assert error is not None
            assert error.code == "invariant-failed"
        read: asyncio.Future[bytes | CorgiError] = asyncio.get_running_loop().create_future()
        reads.read(Position(SEGMENT_BYTES), 8, read.set_result)
        assert await asyncio.wait_for(read, 20) == b"CORGIWAL"
    finally:
        reads.close()
