"""The files of the write-ahead log: naming, making, opening for a scan, reading.

A segment gets its name only when its header and its room are durable, so a file under a segment's name always has its
full length and a sound header; whatever else is found there is damage (``log.recovery``).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Position
from corgi.base.limits import MIB
from corgi.log.record import (
    DATA_FROM,
    RECORD_HEADER_BYTES,
    Damage,
    LogIdentity,
    check_in_place,
    encode_segment_header,
)

SUFFIX = ".wal"
UNFINISHED = ".new"
FIRST_FILL_BYTES = 2 * MIB  # zeroed when a segment is made, so that its first writes are quick
VECTOR_MAX = 1024  # buffers that the kernel takes in one write
BLOCK_BYTES = 4096  # what is lost with one bad sector
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_ZEROS = bytes(MIB)


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:016x}{SUFFIX}"


def segment_numbers(folder: Path) -> list[int]:
    """Numbers of the segments in ``folder``, ascending. Raises CorgiError "log-damaged" for a name that is none."""
    numbers = []
    for path in folder.iterdir():
        if path.suffix != SUFFIX:
            continue
        try:
            number = int(path.stem, 16)
        except ValueError:
            number = -1
        if number < 1 or path != segment_path(folder, number):
            raise CorgiError("log-damaged", f"{path.name} in the log's folder is not the name of a segment")
        numbers.append(number)
    return sorted(numbers)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_segment(folder: Path, identity: LogIdentity, number: int, segment_bytes: int, salt: int) -> None:
    """Make a segment durable under its name: header, and room that later writes cannot find missing.

    Raises OSError (ENOSPC leaves nothing behind).
    """
    path = segment_path(folder, number)
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(fd, 0, segment_bytes)
            write_fully(fd, [encode_segment_header(identity, number, segment_bytes, salt)], 0)
            write_zeros(fd, DATA_FROM, min(FIRST_FILL_BYTES, segment_bytes))
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.rename(path)
    sync_folder(folder)


def delete_segments(folder: Path, numbers: Sequence[int]) -> None:
    """Delete segments that nobody needs, the oldest first; those that are gone already are passed over."""
    for number in sorted(numbers):
        segment_path(folder, number).unlink(missing_ok=True)
    sync_folder(folder)


def write_fully(fd: int, buffers: Sequence[Buffer], offset: int) -> None:
    """Write all of ``buffers`` at ``offset``, going on after a short write. Raises OSError."""
    for begin in range(0, len(buffers), VECTOR_MAX):
        vector = buffers[begin : begin + VECTOR_MAX]
        wanted = sum(map(len, vector))
        written = os.pwritev(fd, vector, offset)
        offset += written
        if written < wanted:
            _write_rest(fd, b"".join(vector)[written:], offset)
            offset += wanted - written


def _write_rest(fd: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        if written <= 0:
            raise OSError(errno.EIO, "the disk takes no more bytes")
        rest = rest[written:]
        offset += written


def write_zeros(fd: int, start: int, end: int) -> None:
    """Overwrite [start, end) with zeros. Raises OSError."""
    while start < end:
        step = min(end - start, len(_ZEROS))
        write_fully(fd, [memoryview(_ZEROS)[:step]], start)
        start += step


def first_hole(path: Path, start: int) -> int:
    """Where room begins, from ``start`` on, that was taken and never written; the file's size if there is none."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(fd, start, os.SEEK_HOLE)
    except OSError:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def rewrite(fd: int, start: int, end: int) -> None:
    """Write the bytes of [start, end) again as they are read, so that a sync covers them. Raises OSError."""
    while start < end:
        chunk = os.pread(fd, min(end - start, MIB), start)
        if not chunk:
            raise OSError(errno.EIO, "the segment ends too early")
        write_fully(fd, [chunk], start)
        start += len(chunk)


def repair_record(
    folder: Path, identity: LogIdentity, segment_bytes: int, position: Position, payload: bytes
) -> CorgiError | None:
    """Put the payload of a record back in place and sync it, if the header in front of it is sound and names it.

    Returns "record-damaged" if not, "disk-failed" if the disk does not take it.
    """
    number, offset = divmod(position, segment_bytes)
    where = f"the record in segment {number:016x} at offset {offset}"
    try:
        fd = os.open(segment_path(folder, number), os.O_RDWR)
    except OSError as error:
        return CorgiError("record-damaged", f"{where} cannot be written: {error}")
    try:
        found = os.pread(fd, RECORD_HEADER_BYTES, offset - RECORD_HEADER_BYTES)
        check_in_place(os.pread(fd, DATA_FROM, 0), found, payload, identity, number)
    except (OSError, Damage, CorgiError) as error:
        os.close(fd)
        return CorgiError("record-damaged", f"{where} cannot be written in place: {error}")
    try:
        write_fully(fd, [payload], offset)
        os.fdatasync(fd)
    except OSError as error:
        return CorgiError("disk-failed", f"{where} cannot be written: {error}")
    finally:
        os.close(fd)
    return None


def open_segments(folder: Path, first: int = 1) -> Iterator[tuple[int, Buffer]]:
    """(number, content) of each segment from ``first`` on in order, one at a time.

    A file of another length is given as it is. The consumer lets go of it before it asks for the next. Read, and not
    mapped: a sector that the disk cannot read is zeros then, which no checksum holds for, and not the process's end.
    """
    for number in segment_numbers(folder):
        if number < first:
            continue
        fd = os.open(segment_path(folder, number), os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if size == 0:
                yield number, b""
                continue
            os.posix_fadvise(fd, 0, size, os.POSIX_FADV_SEQUENTIAL)
            with mmap.mmap(-1, size) as content, memoryview(content) as view:
                for start in range(0, size, MIB):
                    _read_what_can_be_read(fd, view[start : start + MIB], start)
                yield number, view
        finally:
            os.close(fd)


def _read_what_can_be_read(fd: int, into: memoryview, offset: int) -> None:
    """Fill ``into`` from ``offset`` on; blocks that the disk cannot read stay zero. Raises OSError of other kinds."""
    try:
        os.preadv(fd, [into], offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        for start in range(0, len(into), BLOCK_BYTES):
            with contextlib.suppress(OSError):
                os.preadv(fd, [into[start : start + BLOCK_BYTES]], offset + start)
