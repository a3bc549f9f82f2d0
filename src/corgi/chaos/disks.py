"""What may happen to the disk of a node that does not run: torn writes, lost tails, flipped bits, old copies.

Finds its way in a log by the headers of its segments and batches alone; everything that it does is drawn from the
``chance`` that it is given and told in words.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import NamedTuple

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId, Position
from corgi.log.record import (
    BATCH_HEADER_BYTES,
    DATA_FROM,
    BatchHeader,
    Damage,
    LogIdentity,
    decode_batch_header,
    decode_segment_header,
    encode_batch_header,
    segment_seed,
)
from corgi.runtime.segments import segment_numbers, segment_path

TORN_BYTES = 16 * 1024
SECTOR = 512


class Batch(NamedTuple):
    """A whole batch in a segment's file."""

    path: Path
    at: int
    header: BatchHeader
    seed: int

    @property
    def end(self) -> int:
        return self.at + BATCH_HEADER_BYTES + self.header.records_bytes


def batches(wal: Path, identity: LogIdentity) -> list[Batch]:
    """All batches of a log in order. Raises CorgiError "log-damaged" if there are none."""
    found: list[Batch] = []
    for number in segment_numbers(wal):
        path = segment_path(wal, number)
        content = path.read_bytes()
        seed = segment_seed(number, decode_segment_header(content, identity).salt)
        at = DATA_FROM
        while True:
            try:
                header = decode_batch_header(content, at, seed)
            except Damage:
                break
            found.append(Batch(path, at, header, seed))
            at = found[-1].end
    if not found:
        raise CorgiError("log-damaged", f"there is no batch in {wal}")
    return found


def tear(wal: Path, identity: LogIdentity, chance: random.Random) -> str:
    """A write that was under way when the node died reached the disk in part; nothing relied on it."""
    last = batches(wal, identity)[-1]
    size = chance.randrange(SECTOR, TORN_BYTES, 8)
    position = Position(last.header.segment * last.path.stat().st_size + last.end)
    header = BatchHeader(0, last.header.segment, last.header.number + 1, position, size, 1)
    torn = bytearray(encode_batch_header(header, last.seed) + chance.randbytes(size))
    for at in range(0, len(torn), SECTOR):
        if at and chance.random() < 0.5:
            torn[at : at + SECTOR] = bytes(len(torn[at : at + SECTOR]))
    room = last.path.stat().st_size - last.end
    if last.header.flags or room < len(torn):
        return "no room for a torn write"
    with last.path.open("r+b") as file:
        file.seek(last.end)
        file.write(torn)
    return f"{len(torn)} bytes of a torn batch behind batch {last.header.number}"


def flip(wal: Path, identity: LogIdentity, chance: random.Random, *, sealed: bool) -> str:
    """One to three bits of a batch are flipped, in the segment being written or in an older one if there is any."""
    every = batches(wal, identity)
    current = every[-1].path
    old = [batch for batch in every if batch.path != current]
    among = old if sealed and old else [batch for batch in every[:-1] if batch.path == current] or every
    batch = chance.choice(among)
    places = []
    with batch.path.open("r+b") as file:
        for _ in range(chance.choice((1, 1, 2, 3))):
            at = chance.randrange(batch.at, batch.end)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << chance.randrange(8)]))
            places.append(at)
    where = "sealed" if batch.path != current else "current"
    return f"{len(places)} bits of batch {batch.header.number} in {where} segment {batch.header.segment} at {places}"


def lose_tail(wal: Path, identity: LogIdentity, chance: random.Random) -> str:
    """The last synced batches are gone, as on a disk that lies about what it has written."""
    every = batches(wal, identity)
    segment = [batch for batch in every if batch.path == every[-1].path]
    lost = segment[-min(len(segment) - 1, chance.choice((1, 2, 5, 20))) :]
    if len(segment) < 2:
        return "nothing to lose"
    with lost[0].path.open("r+b") as file:
        file.seek(lost[0].at)
        file.write(bytes(lost[-1].end - lost[0].at))
    return f"the last {len(lost)} batches are lost"


def cut_segment(wal: Path, chance: random.Random, *, delete: bool) -> str:
    """A segment of the log, old or new, is shorter than it was made, or gone altogether."""
    number = chance.choice(segment_numbers(wal))
    path = segment_path(wal, number)
    if delete:
        path.unlink()
        return f"segment {number} is gone"
    size = chance.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"segment {number} has only {size} bytes"


def copy_folder(folder: Path, to: Path) -> None:
    """A copy of a node's whole folder; holes stay holes."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)


def put_back(folder: Path, copy: Path) -> None:
    """An earlier copy takes the folder's place."""
    shutil.rmtree(folder)
    copy.rename(folder)


def identity_of(cluster_id: str, node: int) -> LogIdentity:
    return LogIdentity(bytes.fromhex(cluster_id), NodeId(node))
