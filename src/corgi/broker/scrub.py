"""The scrubber: reads sealed segments from the disk at a bounded rate, for ever, and has repaired what it finds.

Cold data rots unread: without it a second copy may go before anybody notices that the first one has. One small read is
under way at a time, off the loop; what was read is checked in a turn of its own. Invariant: on average no more than the
rate is read, and nothing at all while a repair waits for peers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, Position
from corgi.base.ports import FaultyRecord, Hole, LogRecord, RecordKind
from corgi.log.record import LogIdentity
from corgi.log.scrub import Scrub, Wanted, scrub_segment

if TYPE_CHECKING:
    from corgi.broker.node import Node

REPAIRS_MAX = 64  # values on their way from peers, above which scrubbing pauses
PAUSE_S = 0.25


class Scrubber:
    """``segment``: the one being read, 0 between two passes. ``passed_at``: when a pass over all was complete."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rate = node.options.scrub_bytes_s
        self._scrub: Scrub | None = None
        self._reading = False
        self._known: set[tuple[int, int]] = set()  # holes that were told
        self.segment = 0
        self.passed_at: float | None = None
        self.next_at = node.clock.now() + node.options.scrub_pause_s if self._rate else float("inf")

    def advance(self, now: float) -> None:
        if now < self.next_at or self._reading:
            return
        if self._node.repairs.hopeful > REPAIRS_MAX:
            self.next_at = now + PAUSE_S
            return
        if self._scrub is None and not self._begin(now):
            return
        self._step(b"")

    def _begin(self, now: float) -> bool:
        """Go to the next sealed segment; False at the end of a pass."""
        wal = self._node.wal
        ahead = [number for number in wal.segments() if self.segment < number < wal.segment]
        if not ahead:
            if self.segment:
                self._node.count("scrub_passes")
                self.passed_at = now
            self.segment = 0
            self.next_at = now + self._node.options.scrub_pause_s
            return False
        self.segment = ahead[0]
        identity = LogIdentity(self._node.options.cluster, self._node.options.node)
        self._scrub = scrub_segment(self.segment, wal.segment_bytes, identity, self._found)
        return True

    def _step(self, data: bytes) -> None:
        """Send what was read, and ask for more."""
        assert self._scrub is not None
        try:
            wanted = self._scrub.send(data) if data else next(self._scrub)
        except StopIteration:
            self._scrub = None
            self._node.count("scrubbed_segments")
            return
        self._read(wanted)

    def _read(self, wanted: Wanted) -> None:
        offset, length = wanted
        self._reading = True
        self._node.count("scrubbed_bytes", length)
        self.next_at = max(self.next_at, self._node.clock.now()) + length / self._rate
        position = Position(self.segment * self._node.wal.segment_bytes + offset)
        self._node.wal.read_disk(position, length, self._arrived)

    def _arrived(self, data: bytes | CorgiError) -> None:
        self._reading = False
        if isinstance(data, CorgiError):
            if self.segment in self._node.wal.segments():
                self._hole(Hole(self.segment, 0, self._node.wal.segment_bytes, data.message))
            self._scrub = None  # the file cannot be read, or was freed meanwhile
            return
        self._step(data)

    # -- what is found --------------------------------------------------------------------------------------------

    def _found(self, item: LogRecord | Hole) -> None:
        if isinstance(item, Hole):
            self._hole(item)
        elif isinstance(item, FaultyRecord) and item.kind is not RecordKind.NODE:
            self._faulty(item)

    def _hole(self, hole: Hole) -> None:
        """The node itself lacks nothing now; a restart would. So what a recovery would give it is written once more."""
        if (hole.segment, hole.start) in self._known:
            return
        self._known.add((hole.segment, hole.start))
        self._node.count("scrub_holes")
        where = f"segment {hole.segment:016x} at {hole.start}: {hole.what}"
        self._node.note("scrub-hole", GroupId(0), where)
        self._node.identity.reaffirm()

    def _faulty(self, record: FaultyRecord) -> None:
        """The copy in use is fetched from a peer; any other is written again from what this node has."""
        group = self._node.groups[record.group]
        if group.slots.position(record.slot) == record.position and record.slot <= group.replica.prefix:
            self._node.count("scrub_damaged")
            group.values.damaged(group.id, record.slot, record.position)
            return
        vote = group.replica.acceptor.votes.get(record.slot)
        value: Buffer | None = None
        if vote is not None and vote.ballot == record.ballot:
            value = vote.value
        elif record.slot <= group.replica.prefix:
            value = group.values.in_memory(group.id, record.slot)
        if value is not None:
            self._node.count("scrub_damaged")
            self._node.wal.repair(record.position, bytes(value), self._mended)

    def _mended(self, error: CorgiError | None) -> None:
        if error is None:
            self._node.count("repaired_in_place")
