"""Bytes of a snapshot: a header and sections with checksums (docs/adr/0001-formats.md, docs/adr/0004-snapshots.md).

Knows layouts and checksums only: what the sections of the state mean is told in ``state.snapshot``; the one kind that
belongs to the node, where each slot lies in its own log, is laid out here. A file is whole exactly when its last
section says how many there are.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence

import crc32c

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, Slot
from corgi.base.limits import MIB
from corgi.base.ports import SnapshotName
from corgi.log.slots import Run

MAGIC = b"CORGISNP"
FORMAT_VERSION = 1
SLOTS = 16  # section kind: where slots lie, little-endian columns; of the node that wrote the file
END = 0xFFFF  # section kind: the number of sections before it

_HEADER = struct.Struct(">8sHHQQI")
_SECTION = struct.Struct(">HHQI")  # kind, version, bytes of the body, CRC of these and the body
_SECTION_START = struct.Struct(">HHQ")
_RUN = struct.Struct("<QII")
_COUNT = struct.Struct(">Q")
_NAME = re.compile(r"([0-9a-f]{4})-([0-9a-f]{16})-([0-9a-f]{16})")

HEADER_BYTES = _HEADER.size
SECTION_HEADER_BYTES = _SECTION.size
SECTION_BYTES_MAX = 64 * MIB  # of one body: a reader holds it until it is whole


def stem(name: SnapshotName) -> str:
    """What its file is called, without the suffix."""
    return f"{name.group:04x}-{name.slot:016x}-{name.first_segment:016x}"


def name_of(text: str) -> SnapshotName | None:
    """The name that ``stem`` made; None if it is none."""
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    group, slot, first_segment = (int(part, 16) for part in found.groups())
    return SnapshotName(GroupId(group), Slot(slot), first_segment)


def encode_header(group: GroupId, slot: Slot, ballot: Ballot) -> bytes:
    """The first bytes; ``ballot`` is that of the last epoch record applied."""
    fields = _HEADER.pack(MAGIC, FORMAT_VERSION, group, slot, ballot, 0)[:-4]
    return fields + crc32c.crc32c(fields).to_bytes(4, "big")


def encode_section(kind: int, chunks: Sequence[Buffer]) -> list[Buffer]:
    """A section's header and its body, which is not copied."""
    length = sum(map(len, chunks))
    start = _SECTION_START.pack(kind, 1, length)
    crc = crc32c.crc32c(start)
    for chunk in chunks:
        crc = crc32c.crc32c(chunk, crc)
    return [start + crc.to_bytes(4, "big"), *chunks]


def encode_end(sections: int) -> list[Buffer]:
    return encode_section(END, [_COUNT.pack(sections)])


def encode_run(run: Run) -> list[Buffer]:
    """A section with the places of some slots."""
    columns = [run.positions, run.lengths]
    if sys.byteorder != "little":
        columns = [column[:] for column in columns]
        for column in columns:
            column.byteswap()
    return encode_section(
        SLOTS, [_RUN.pack(run.first, len(run.positions), 0), *(memoryview(column).cast("B") for column in columns)]
    )


def decode_run(body: Buffer) -> Run:
    """Raises CorgiError "snapshot-damaged"."""
    if len(body) < _RUN.size:
        raise _damaged("a table of slots is too short")
    first, count, _ = _RUN.unpack_from(body)
    if len(body) != _RUN.size + count * 12 or first < 0:
        raise _damaged("a table of slots has another size than it tells")
    positions, lengths = array("q"), array("I")
    positions.frombytes(body[_RUN.size : _RUN.size + 8 * count])
    lengths.frombytes(body[_RUN.size + 8 * count :])
    if sys.byteorder != "little":
        positions.byteswap()
        lengths.byteswap()
    return Run(Slot(first), positions, lengths)


def decode_header(content: Buffer) -> tuple[GroupId, Slot, Ballot]:
    """Raises CorgiError "snapshot-damaged", "unsupported-version"."""
    if len(content) < HEADER_BYTES:
        raise _damaged("it ends inside its header")
    magic, version, group, slot, ballot, crc = _HEADER.unpack_from(content)
    if magic != MAGIC or crc32c.crc32c(content[: HEADER_BYTES - 4]) != crc:
        raise _damaged("its header is not one")
    if version != FORMAT_VERSION:
        raise CorgiError("unsupported-version", f"a snapshot has format {version}, not {FORMAT_VERSION}")
    return GroupId(group), Slot(slot), Ballot(ballot)


class SectionReader:
    """Takes the bytes of a snapshot as they come and gives its sections, each checked first.

    Raises CorgiError "snapshot-damaged" where a section is not whole, "unsupported-version" for one of another format.
    """

    def __init__(self) -> None:
        self.ended = False
        self._number = 0

    def take(self, content: memoryview, at: int) -> tuple[int, memoryview, int] | None:
        """(kind, body, where the next one begins) of the section at ``at``; None: not all of it is there, or it was
        the end."""
        if self.ended or at + _SECTION.size > len(content):
            return None
        kind, version, length, crc = _SECTION.unpack_from(content, at)
        start = at + _SECTION.size
        if length > SECTION_BYTES_MAX:
            raise _damaged(f"section {self._number} tells {length} bytes")
        if length > len(content) - start:
            return None
        body = content[start : start + length]
        if crc32c.crc32c(body, crc32c.crc32c(content[at : at + _SECTION_START.size])) != crc:
            raise _damaged(f"section {self._number} fails its checksum")
        if version != 1:
            raise CorgiError("unsupported-version", f"section {self._number} of a snapshot has version {version}")
        if kind == END:
            if length != _COUNT.size or _COUNT.unpack(body)[0] != self._number:
                raise _damaged("its end does not fit")
            self.ended = True
            return None
        self._number += 1
        return kind, body, start + length


def read_sections(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(kind, body) of every section of a whole snapshot; the views are of ``content``. Raises as ``SectionReader``."""
    reader, at = SectionReader(), HEADER_BYTES
    while (found := reader.take(content, at)) is not None:
        kind, body, at = found
        yield kind, body
    if not reader.ended:
        raise _damaged("it ends too early")


def _damaged(what: str) -> CorgiError:
    return CorgiError("snapshot-damaged", f"a snapshot is damaged: {what}")
