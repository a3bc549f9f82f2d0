"""What a node keeps on disk, as the node sees it: answers come back as facts, and a start begins from its snapshots."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Position
from corgi.base.ports import SnapshotName, Stored
from corgi.broker.node import Node
from corgi.log.snapshot import stem
from corgi.runtime.disk import DiskLog
from corgi.runtime.snapshots import SnapshotFiles

logger = logging.getLogger("corgi.node")

Own = Callable[..., None]  # hands a fact to the node


class NodeWal:
    """The log as the node sees it: what a read brings back is a fact like any other."""

    __slots__ = ("_disk", "_own", "append", "free", "segment_bytes", "segments", "unsynced_age")

    def __init__(self, disk: DiskLog, own: Own) -> None:
        self._disk = disk
        self._own = own
        self.append = disk.append
        self.free = disk.free
        self.segments = disk.segments
        self.segment_bytes = disk.segment_bytes
        self.unsynced_age = disk.unsynced_age

    @property
    def segment(self) -> int:
        return self._disk.segment

    @property
    def synced_position(self) -> Position:
        return self._disk.synced_position

    @property
    def room(self) -> int:
        return self._disk.room

    def read(self, position: Position, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        own = self._own
        self._disk.read(position, length, lambda result: own(done, result))

    def read_many(
        self, places: Sequence[tuple[Position, int]], done: Callable[[list[bytes | CorgiError]], None]
    ) -> None:
        own = self._own
        self._disk.read_many(places, lambda found: own(done, found))

    def read_disk(self, position: Position, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        own = self._own
        self._disk.read_disk(position, length, lambda result: own(done, result))

    def repair(self, position: Position, payload: bytes, done: Stored) -> None:
        own = self._own
        self._disk.repair(position, payload, lambda error: own(done, error))


class NodeSnapshots:
    """The snapshots as the node sees them."""

    __slots__ = ("_files", "_own", "discard")

    def __init__(self, files: SnapshotFiles, own: Own) -> None:
        self._files = files
        self._own = own
        self.discard = files.discard

    def write(self, name: SnapshotName, chunks: Sequence[Buffer], done: Stored) -> None:
        own = self._own
        self._files.write(name, chunks, lambda error: own(done, error))

    def commit(self, name: SnapshotName, done: Stored) -> None:
        own = self._own
        self._files.commit(name, lambda error: own(done, error))

    def anchor(self, name: SnapshotName, first_segment: int, done: Stored) -> None:
        own = self._own
        self._files.anchor(name, first_segment, lambda error: own(done, error))

    def read(self, name: SnapshotName, offset: int, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        own = self._own
        self._files.read(name, offset, length, lambda result: own(done, result))


def restore(node: Node, files: SnapshotFiles) -> int:
    """Have a new node begin from its snapshots; the segment at which its scan begins."""

    def damaged(name: SnapshotName, error: CorgiError) -> None:
        logger.error("the snapshot %s is not used: %s", stem(name), error)

    return node.snapshots.restore(files.names(), files.content, damaged)
