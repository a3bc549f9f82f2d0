"""The Snapshots port of one simulated process: whole files on the disk, or none.

What was committed is safe from kills and power losses; an unfinished snapshot is gone with its process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ports import SnapshotName, Stored
from corgi.sim.disk import SimDisk
from corgi.sim.world import World

if TYPE_CHECKING:
    from corgi.sim.process import Process


class SimSnapshots:
    """Every call takes as long as a sync of the disk, and pieces reach it one after the other."""

    def __init__(self, world: World, disk: SimDisk, process: Process) -> None:
        self.world = world
        self.disk = disk
        self.process = process
        self._unfinished: dict[SnapshotName, bytearray] = {}

    def names(self) -> list[SnapshotName]:
        return sorted(self.disk.snapshots, key=lambda name: (name.group, -name.slot, -name.first_segment))

    def content(self, name: SnapshotName) -> memoryview:
        return memoryview(self.disk.snapshots[name])

    # ---- the port

    def write(self, name: SnapshotName, chunks: Sequence[Buffer], done: Stored) -> None:
        content = self._unfinished.setdefault(name, bytearray())
        for chunk in chunks:
            content += chunk
        self._later(lambda: done(None))

    def commit(self, name: SnapshotName, done: Stored) -> None:
        def committed() -> None:
            for other in [other for other in self.disk.snapshots if other.group == name.group]:
                del self.disk.snapshots[other]
            self.disk.snapshots[name] = bytes(self._unfinished.pop(name))
            self.process.call(done, None)

        self.world.at(self.disk.sync_time(self.world.now), self._if_alive, committed)

    def discard(self, name: SnapshotName) -> None:
        self._unfinished.pop(name, None)

    def anchor(self, name: SnapshotName, first_segment: int, done: Stored) -> None:
        def anchored() -> None:
            content = self.disk.snapshots.pop(name)
            self.disk.snapshots[name._replace(first_segment=first_segment)] = content
            self.process.call(done, None)

        self.world.at(self.disk.sync_time(self.world.now), self._if_alive, anchored)

    def read(self, name: SnapshotName, offset: int, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        content = self.disk.snapshots.get(name)
        if content is None:
            answer: bytes | CorgiError = CorgiError("disk-failed", f"there is no snapshot {name}")
        else:
            answer = content[offset : offset + length]
        self._later(lambda: done(answer))

    def _later(self, call: Callable[[], None]) -> None:
        self.world.at(self.disk.sync_time(self.world.now), self.process.call, call)

    def _if_alive(self, call: Callable[[], None]) -> None:
        if self.process.alive:
            call()
