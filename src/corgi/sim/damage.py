"""Damage of disks: which bits may go wrong so that no entry is damaged on more than a minority of the nodes.

It reads the disks as a restart would, so it knows what is there and what was damaged before and is not repaired yet. A
batch behind which nothing lies is left alone: nobody could tell damage there from a write that was torn.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from corgi.base.ids import GroupId, NodeId, Slot
from corgi.base.ports import FaultyRecord, Hole, LogRecord, RecordKind
from corgi.broker.values import NOWHERE
from corgi.log.record import BATCH_HEADER_BYTES, RECORD_HEADER_BYTES, SECOND_HEADER_AT
from corgi.log.recovery import Scan
from corgi.sim.cluster import Cluster

RECENT = 40  # records near the end of a log
NEWEST = 8  # votes that are not known chosen yet are among them
_WITH_VALUE = (RecordKind.ACCEPT, RecordKind.LEARNED, RecordKind.STORE)

_Key = tuple[GroupId, Slot]


class Content(NamedTuple):
    """What a disk holds: ``records`` that something lies behind, with the offset of their batch; entries of which some
    copy is damaged, or some is whole; up to which slot a snapshot covers each group."""

    records: list[tuple[LogRecord, int]]
    damaged: set[_Key]
    whole: set[_Key]
    covered: dict[GroupId, Slot]

    def lacks(self, key: _Key) -> bool:
        """The entry is damaged there, or is not there though the node knows it chosen: it came by a snapshot."""
        return key in self.damaged or (key not in self.whole and key[1] <= self.covered.get(key[0], 0))


class Damage:
    """Spoils disks. All chance comes from the faults' stream."""

    def __init__(self, cluster: Cluster, chance: Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._doubtful: dict[NodeId, tuple[int, int]] = {}  # nodes with a hole: starts and recoveries before it

    @property
    def clean(self) -> bool:
        """No disk has lost anything that is not made good: one may be lost now."""
        return not self._in_doubt() and not any(self._content(node).damaged for node in self._cluster.members)

    def flip_values(self, count: int, *, newest: bool = False) -> int:
        """Turn over a bit in up to ``count`` values, on nodes that run and on others; how many."""
        if self._in_doubt():
            return 0
        members = self._cluster.members
        contents = {node: self._content(node) for node in members}
        flipped = 0
        for _ in range(count):
            node = self._chance.choice(members)
            records = [r for r, _ in contents[node].records if r.kind in _WITH_VALUE and r.payload]
            if newest or self._chance.random() < 0.6:
                records = records[-NEWEST if newest else -RECENT :]
            if not records:
                continue
            record = self._chance.choice(records)
            key = (record.group, record.slot)
            others = sum(contents[other].lacks(key) for other in members if other != node)
            if others + 1 > (len(members) - 1) // 2:
                continue
            contents[node].damaged.add(key)
            self._flip(node, record.position + self._chance.randrange(len(record.payload)))
            flipped += 1
        return flipped

    def flip_header(self, node: NodeId) -> bool:
        """Spoil the header of a record, a batch or a segment; of a node that runs, only where it writes no more."""
        disk = self._cluster.computers[node].disk
        scanned = disk.scan_from * disk.segment_bytes
        records = [(record, batch) for record, batch in self._content(node).records if record.position >= scanned]
        process = self._cluster.computers[node].process
        if process is not None:
            current = process.wal.segment * disk.segment_bytes
            records = [(record, batch) for record, batch in records if record.position < current]
        if not records:
            return False
        record, batch = self._chance.choice(records)
        segment = record.position - record.position % disk.segment_bytes
        how = self._chance.random()
        if how < 0.4:
            start = record.position - RECORD_HEADER_BYTES
            self._flip(node, start + self._chance.randrange(RECORD_HEADER_BYTES))
        elif how < 0.7:
            self._flip(node, segment + batch + self._chance.randrange(BATCH_HEADER_BYTES))
        else:
            self._flip(node, segment + self._chance.randrange(60))
            self._flip(node, segment + SECOND_HEADER_AT + self._chance.randrange(60))
        self._doubt(node)
        return True

    def lose_segment(self, node: NodeId) -> bool:
        """Delete or truncate a file of a node that is down; it may be the newest, or one that was never used."""
        computer = self._cluster.computers[node]
        segments = computer.disk.segments
        scanned = [number for number in sorted(segments) if number >= computer.disk.scan_from]
        if not scanned:
            return False
        number = self._chance.choice(scanned)
        if self._chance.random() < 0.5:
            self._cluster.world.note("cluster", f"delete segment {number} of node {node}")
            del segments[number]
        else:
            size = self._chance.choice((0, self._chance.randrange(len(segments[number]))))
            self._cluster.world.note("cluster", f"truncate segment {number} of node {node} to {size} bytes")
            del segments[number][size:]
        computer.disk.damaged = True
        if not segments:
            self._cluster.begin_anew(node)
        self._doubt(node)
        return True

    def _flip(self, node: NodeId, position: int) -> None:
        disk = self._cluster.computers[node].disk
        segment, offset = divmod(position, disk.segment_bytes)
        self._cluster.world.note("cluster", f"flip a bit of node {node} in segment {segment} at {offset}")
        disk.damaged = True
        disk.segments[segment][offset] ^= 1 << self._chance.randrange(8)

    def _doubt(self, node: NodeId) -> None:
        computer = self._cluster.computers[node]
        self._doubtful[node] = (computer.starts, computer.memory.settled)

    def _in_doubt(self) -> bool:
        """A hole was made, and the node has not been started and recovered since, nor found it while it ran."""
        for node, (starts, settled) in list(self._doubtful.items()):
            computer = self._cluster.computers[node]
            if computer.memory.settled != settled or (computer.starts > starts and self._cluster.trusted(node)):
                del self._doubtful[node]
        return bool(self._doubtful)

    def _content(self, node: NodeId) -> Content:
        computer = self._cluster.computers[node]
        segments = computer.disk.segments
        first = min(segments, default=1)  # values live in segments before those that a restart scans
        scan = Scan(computer.disk.identity, segment_bytes=computer.disk.segment_bytes, first_segment=first)
        records: list[tuple[LogRecord, int]] = []
        damaged: set[_Key] = set()
        whole: set[_Key] = set()
        for item in scan.records(sorted(segments.items())):
            if isinstance(item, Hole):
                continue
            records.append((item, scan.batch_offset))
            if item.kind not in _WITH_VALUE:
                continue
            if not isinstance(item, FaultyRecord):
                whole.add((item.group, item.slot))
            elif self._counts(node, item):
                damaged.add((item.group, item.slot))
        end = scan.end
        last = end.segment * computer.disk.segment_bytes + end.unsynced
        safe = [(r, batch) for r, batch in records if r.position < last and not isinstance(r, FaultyRecord)]
        if (
            computer.process is not None or computer.disk.undoable
        ) and safe:  # a power loss may take the last batch and lay the one before bare
            record, batch = safe[-1]
            bare = record.position - record.position % computer.disk.segment_bytes + batch
            safe = [(r, batch) for r, batch in safe if r.position < bare]
        covered = {name.group: name.slot for name in sorted(computer.disk.snapshots)}
        return Content(safe, damaged, whole, covered)

    def _counts(self, node: NodeId, record: FaultyRecord) -> bool:
        """Whether the node may lack the entry because of this copy: it is the one in use, or a restart may rely on it.
        Another copy, which the node does not know of, does not help it."""
        computer = self._cluster.computers[node]
        if computer.process is None or record.position >= computer.disk.scan_from * computer.disk.segment_bytes:
            return True
        return computer.process.node.groups[record.group].slots.position(record.slot) in (record.position, NOWHERE)
