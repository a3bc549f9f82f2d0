"""When a group's state is written down, what of the log is then needed no more, and how a node begins from it.

A snapshot of a group, as a story: (1) the log has grown by so many segments since its last one; (2) the state is
captured at the slot applied then, piece by piece between the turns; every record for a later slot lies in the present
segment or behind, except open votes, which name the segment to begin a scan from; (3) when every value that the state
names is on disk, the places of the values follow; (4) it is made durable, and counts from then on. A group that has not
changed since only has its snapshot named anew. Open votes that would hold old segments are written once more.

Invariant: a segment is freed only when no scan begins before its end and no value in it is live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError, check
from corgi.base.ids import Ballot, GroupId, Position, Slot
from corgi.base.limits import KIB
from corgi.base.ports import LogRecord, RecordKind, SnapshotName, Snapshots
from corgi.broker.compaction import Compaction
from corgi.broker.installs import Installs
from corgi.broker.retention import Retention
from corgi.broker.rewriting import Rewriting
from corgi.log.slots import Run
from corgi.log.snapshot import (
    SLOTS,
    decode_header,
    decode_run,
    encode_end,
    encode_header,
    encode_run,
    encode_section,
    read_sections,
)  # fmt: skip
from corgi.state.machine import Machine
from corgi.state.snapshot import Capture, Restorer

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node

PIECE_BYTES = 512 * KIB  # of one write: what making it may cost a turn
PIECE_SECTIONS = 64
LOOK_S = 0.050
RETRY_S = 5.0  # after a snapshot could not be written
COUNTED_PER_TURN = 4096  # batches whose slots are counted up or down in one turn


class _Taking:
    """A snapshot on its way to the disk; ``done`` is called when it is durable."""

    __slots__ = ("capture", "done", "name", "pieces", "size", "waiting")

    def __init__(
        self,
        name: SnapshotName,
        capture: Capture,
        pieces: Iterator[list[Buffer] | None],
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.capture = capture
        self.pieces = pieces
        self.done = done
        self.size = 0
        self.waiting = False


class Snapshotting:
    """Takes snapshots of all groups, one at a time, and frees segments. Without a port it does nothing."""

    def __init__(self, node: Node, port: Snapshots | None) -> None:
        self._node = node
        self._port = port
        groups = node.options.all_groups
        self.durable: list[SnapshotName | None] = [None] * groups
        self.sizes = [0] * groups  # bytes of the durable snapshots
        self.taken_at = [node.clock.now()] * groups
        self._moved = [False] * groups  # values were moved since the durable snapshot was begun
        self._moved_now = [False] * groups  # ... since the one under way was
        self._taking: _Taking | None = None
        self._anchoring = False
        self._copied: dict[tuple[GroupId, Slot], tuple[Ballot, int]] = {}  # votes written again, in which segment
        self._due: list[Group] = []  # whose scan would begin too early, the earliest first
        self._look_at = 0.0
        self._retry_at = 0.0
        self._forgotten_to = 0
        self._content: Callable[[SnapshotName], memoryview] | None = None  # of those found, until the scan is over
        self._counted = False  # everything that lived at the start
        self.installs = Installs(node, self, port)
        self.retention = Retention(node)
        self.compaction = Compaction(node)
        self.rewriting = Rewriting(node)
        node.catch_up.absent = self.installs.offer
        node.catch_up.newer = partial(self.installs.offer, lean=True)
        node.catch_up.nearer = self.installs.offer_if_less

    # -- beginning from a snapshot ------------------------------------------------------------------------------------

    def restore(
        self,
        names: Sequence[SnapshotName],
        content: Callable[[SnapshotName], memoryview],
        damaged: Callable[[SnapshotName, CorgiError], None],
    ) -> int:
        """Begin from the newest whole snapshot of each group, before the scan; the segment at which that must begin.

        ``names`` by group, the newest first. One that is ``damaged`` is passed over for an older one, or for the whole
        log: whether that is still there, the scan will tell. Raises CorgiError "unsupported-version".
        """
        self._content = content
        for name in names:
            if name.group < len(self.durable) and self.durable[name.group] is None:
                try:
                    self._restore(name, content(name))
                except CorgiError as error:
                    if error.code != "snapshot-damaged":
                        raise
                    damaged(name, error)
        return min(1 if name is None else name.first_segment for name in self.durable)

    def restore_again(self, group: GroupId) -> None:
        """Within the scan: go back to the group's snapshot, since what was applied behind it is not to count. Raises
        CorgiError "snapshot-damaged"."""
        name = self.durable[group]
        if name is not None and self._content is not None:
            self._restore(name, self._content(name))

    def begin_from_nothing(self, group: Group) -> list[Slot]:
        """The group's state, what it knows chosen and its votes are given up. The slots of its snapshots, in case that
        a start finds them."""
        void = [Slot(0) if (name := self.durable[group.id]) is None else name.slot]
        if self._taking is not None and self._taking.name.group == group.id:
            void.append(self._taking.name.slot)
            self._give_up(self._taking)
        self.durable[group.id] = None
        self.sizes[group.id] = 0
        self._moved[group.id] = self._moved_now[group.id] = False
        self.installs.forget(group)
        values = self._node.values
        values.covered[group.id] = Slot(0)
        values.cut(group.id, Slot(0))
        values.begin_from(group.id, Slot(0), ())
        capture = Capture(Machine(group.id, self._node.options.all_groups))
        restorer = Restorer(group.id, self._node.options.all_groups)
        for kind, chunks in capture.sections():
            restorer.take(kind, b"".join(chunks))
        capture.end()
        restorer.finish()
        restorer.adopt_into(group.machine)
        group.replica.learner.cut(Slot(0))
        group.replica.acceptor.forget_votes()
        return void

    def _restore(self, name: SnapshotName, content: memoryview) -> None:
        """Changes nothing if the snapshot is damaged."""
        node = self._node
        if decode_header(content)[:2] != (name.group, name.slot):
            raise CorgiError("snapshot-damaged", "a snapshot is of another group or slot than its name says")
        group = node.groups[name.group]
        restorer = Restorer(group.id, node.options.all_groups)
        runs: list[Run] = []
        for kind, body in read_sections(content):
            if kind == SLOTS:
                runs.append(decode_run(body))
            else:
                restorer.take(kind, body)
        restorer.finish()
        if restorer.state.applied != name.slot:
            raise CorgiError("snapshot-damaged", f"it is of slot {restorer.state.applied}, not {name.slot}")
        for run in runs:
            group.slots.load(run)
        restorer.adopt_into(group.machine)
        index = [part for log in group.machine.partitions.values() for part in log.held()]
        node.values.begin_from(group.id, name.slot, index)
        group.replica.learner.prefix = name.slot
        self.durable[group.id] = name
        self.sizes[group.id] = len(content)
        node.values.covered[group.id] = name.slot

    def start(self) -> None:
        """The scan is over."""
        self._content = None
        segments = self._node.wal.segments()
        if segments:
            self._node.values.space.present(segments)

    def _want_lost(self) -> None:
        """What lies in segments that are gone is missing, also where no scan needed them."""
        space = self._node.values.space
        for lost in space.lost():
            start, end = Position(lost * space.segment_bytes), Position((lost + 1) * space.segment_bytes)
            for group in self._node.groups:
                for slot in filter(None, list(group.slots.live_within(start, end))):
                    group.slots.put(slot, Position(-1), group.slots.length(slot))

    # -- time ---------------------------------------------------------------------------------------------------------

    def flush(self) -> bool:
        """End of a turn; True if there is more to do in the next."""
        more = self._node.values.recount(COUNTED_PER_TURN)
        if not self._counted and not self._node.values.counting:
            self._counted = True
            self._want_lost()
        due, self._due = self._due, []
        for group in due:
            if self._renew(group):
                break
        taking = self._taking
        if taking is not None and taking.waiting:
            taking.waiting = False
            self._write(taking)
        return self.compaction.step() or more

    def advance(self, now: float) -> None:
        """Look whether a log start has to move, a snapshot is due or a segment free."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        self.retention.advance(now)
        self.compaction.advance(now)
        if self._port is None:
            return
        self.installs.tick(now)
        self._free(now)
        if self._taking is not None or self._anchoring or now < self._retry_at:
            return
        latest = self._node.wal.segment - self._distance()
        due = [group for group in self._node.groups if self.first_segment(group.id) <= latest]
        self._due = sorted(due, key=lambda group: self.first_segment(group.id))

    def gauges(self) -> dict[str, float]:
        """How things stand: what the log holds, what of it lives, and what is to come. Sizes in bytes."""
        node = self._node
        segments = len(node.wal.segments())
        now = node.clock.now()
        ages = [now - at for at, name in zip(self.taken_at, self.durable, strict=True) if name is not None]
        return {
            "log_segments": segments,
            "log_bytes_held": segments * node.values.space.segment_bytes,
            "log_live_bytes": node.values.space.live_bytes,
            "snapshot_bytes_held": sum(self.sizes),
            "snapshot_age_max_s": round(max(ages, default=0.0), 3),
            "values_to_come": node.values.to_come,
        }

    def held_in_doubt(self) -> int:
        """Bytes of the log that scans of all other groups would pass over: a memory group that recovers knows that
        something is chosen which nobody can tell it, or has voted for it, and no snapshot is taken until that is known
        or given up."""
        doubtful = {group for group in self._node.groups if self._node.identity.recovers(group.id)}
        stuck = [g for g in doubtful if g.replica.acceptor.lazy and self._cannot_renew(g)]
        if not stuck:
            return 0
        first = min(self.first_segment(group.id) for group in stuck)
        others = [self.first_segment(group.id) for group in self._node.groups if group not in doubtful]
        return max(0, min(others, default=0) - first) * self._node.values.space.segment_bytes

    @staticmethod
    def _cannot_renew(group: Group) -> bool:
        """A chosen value is missing, or one that was voted for."""
        behind = group.machine.applied < group.replica.prefix
        return behind or any(vote.value is None for vote in group.replica.acceptor.votes.values())

    def first_segment(self, group: GroupId) -> int:
        """Where a scan would have to begin for this group."""
        name = self.durable[group]
        return max(1, self._node.values.space.oldest) if name is None else name.first_segment

    def stored(self, record: LogRecord) -> None:
        """A value that was moved is on disk in its new place."""
        self._node.values.stored(record)
        self.moved(record.group)
        self.rewriting.stored(record.group, record.slot)

    def moved(self, group: GroupId) -> None:
        """A value has a new place that only the log tells."""
        self._moved[group] = self._moved_now[group] = True

    @property
    def busy(self) -> bool:
        """One is being written."""
        return self._taking is not None or self._anchoring

    def keep(self, group: Group, machine: Machine, runs: Iterator[Run], done: Callable[[], None]) -> None:
        """Write the state of another machine, received from a peer, as the group's snapshot; none is being written.

        ``runs``: where the values lie in this node's log. ``done`` is called when it is durable, with nothing changed
        yet; it never is if that fails.
        """
        check(not self.busy, "one snapshot is written at a time")
        # What is chosen above it lies somewhere behind, and so do votes for values that it names and that are not here.
        first = min(self._first_needed(group, machine.applied), self.first_segment(group.id))
        self._begin(group, machine, first, runs, done)

    def _distance(self) -> int:
        """Segments of log between two snapshots of a group: more when snapshots are large, so that they cost little.
        With a full disk the one that is written does not move on, and everything before it should become free."""
        if self._node.room.full:
            return 1
        options = self._node.options
        return max(options.snapshot_segments, 4 * sum(self.sizes) // self._node.values.space.segment_bytes)

    def _renew(self, group: Group) -> bool:
        """Have the group's scan begin later; False if that cannot be done yet."""
        if group.machine.applied < group.replica.prefix:
            return False  # a value before the prefix is damaged, and being fetched
        name = self.durable[group.id]
        first = self._first_needed(group, group.machine.applied)
        if first <= self.first_segment(group.id) and name is not None:
            return False  # an open vote lies there; it is being copied
        if name is None or self._moved[group.id] or group.machine.applied != name.slot:
            self._begin(group, group.machine, first, None, lambda: None)
            return True
        assert self._port is not None
        self._anchoring = True
        self._port.anchor(name, first, lambda error: self._anchored(name, first, error))
        return True

    def _anchored(self, name: SnapshotName, first: int, error: CorgiError | None) -> None:
        self._anchoring = False
        if error is not None:
            self._failed(error)
        elif self.durable[name.group] == name:
            self._node.count("snapshots_anchored")
            self.durable[name.group] = name._replace(first_segment=first)

    def _first_needed(self, group: Group, applied: Slot) -> int:
        """The segment from which a scan finds every vote above a slot."""
        first = segment = self._node.wal.segment
        size = self._node.values.space.segment_bytes
        for slot, vote in group.replica.acceptor.votes.items():
            if slot <= applied:
                continue
            position = group.slots.position(slot)
            lies_in = position // size if position >= 0 else segment
            first = min(first, lies_in)
            if lies_in < segment and vote.durable and vote.value is not None:
                self._copy_forward(group, slot, vote.ballot, vote.value, segment)
        unproven = [f for f in self._node.values.faulty[group.id].values() if not f.proven]
        return min([first, *(vote.position // size for vote in unproven)])

    def _copy_forward(self, group: Group, slot: Slot, ballot: Ballot, value: Buffer, segment: int) -> None:
        copied, when = self._copied.get((group.id, slot), (Ballot(0), 0))
        if copied == ballot and when + 1 >= segment:
            return
        self._copied = {key: seen for key, seen in self._copied.items() if seen[1] + 1 >= segment}
        self._copied[group.id, slot] = (ballot, segment)
        self._node.count("votes_copied")
        self._node.persist(LogRecord(RecordKind.ACCEPT, group.id, ballot, slot, group.replica.prefix, value))

    # -- taking one ---------------------------------------------------------------------------------------------------

    def _begin(
        self, group: Group, machine: Machine, first: int, runs: Iterator[Run] | None, done: Callable[[], None]
    ) -> None:
        check(machine is not group.machine or machine.quiet, "a snapshot begins when readers were told of all changes")
        name = SnapshotName(group.id, machine.applied, first)
        capture = Capture(machine)
        self._moved_now[group.id] = False
        self._taking = _Taking(name, capture, self._pieces(group, capture, runs), done)
        self._write(self._taking)

    def _pieces(self, group: Group, capture: Capture, runs: Iterator[Run] | None) -> Iterator[list[Buffer] | None]:
        """The file, section by section; None: not now, something has to reach the disk first."""
        yield [encode_header(group.id, capture.slot, capture.ballot)]
        count = 0
        for kind, chunks in capture.sections():
            yield encode_section(kind, chunks)
            count += 1
        while runs is None and self._node.values.unplaced(group.id, capture.slot):
            yield None
        faulty = self._node.values.faulty[group.id]
        for run in runs or group.slots.runs(capture.slot):
            for slot in [slot for slot in faulty if 0 <= slot - run.first < len(run.positions)]:
                if faulty[slot].proven:
                    run.positions[slot - run.first] = faulty[slot].position  # where it is repaired, or found damaged
            while max(run.positions) >= self._node.wal.synced_position:
                yield None  # else a power loss could leave something else there
            yield encode_run(run)
            count += 1
        yield encode_end(count)

    def _write(self, taking: _Taking, error: CorgiError | None = None) -> None:
        """Write the next piece, or make the whole durable."""
        if taking is not self._taking or self._port is None:
            return
        if error is not None:
            self._failed(error)
            self._give_up(taking)
            return
        chunks: list[Buffer] = []
        size = 0
        for piece in islice(taking.pieces, PIECE_SECTIONS):
            if piece is None:
                taking.waiting = not chunks
                break
            chunks += piece
            size += sum(map(len, piece))
            if size >= PIECE_BYTES:
                break
        if chunks:
            taking.size += size
            self._port.write(taking.name, chunks, lambda error: self._write(taking, error))
        elif not taking.waiting:
            self._port.commit(taking.name, lambda error: self._committed(taking, error))

    def _committed(self, taking: _Taking, error: CorgiError | None) -> None:
        if taking is not self._taking:
            return
        self._taking = None
        taking.capture.end()
        name = taking.name
        if error is not None:
            self._failed(error)
            return
        self._node.count("snapshots")
        self._node.count("snapshot_bytes", taking.size)
        self.durable[name.group] = name
        self._node.values.covered[name.group] = name.slot
        self.sizes[name.group] = taking.size
        self.taken_at[name.group] = self._node.clock.now()
        self._moved[name.group] = self._moved_now[name.group]
        taking.done()

    def _give_up(self, taking: _Taking) -> None:
        assert self._port is not None
        self._taking = None
        taking.capture.end()
        self._port.discard(taking.name)

    def _failed(self, error: CorgiError) -> None:
        """Tried again later: until then the log only grows."""
        self._node.count("snapshots_failed")
        self._node.note("snapshot-failed", GroupId(0), error.message)
        self._retry_at = self._node.clock.now() + RETRY_S

    # -- freeing ------------------------------------------------------------------------------------------------------

    def _free(self, now: float) -> None:
        space = self._node.values.space
        if any(name is None for name in self.durable) or self._node.values.counting:
            return
        needed = min(name.first_segment for name in self.durable if name is not None)
        damaged = self._node.values.damaged_segments()  # what is left of a record tells which value it held
        free = [
            s
            for s in range(max(1, space.oldest), needed)
            if space.has(s) and not space.values_in(s) and s not in damaged
        ]
        if free:
            for segment in free:
                space.freed(segment)
            self._node.count("segments_freed", len(free))
            self._node.wal.free(free)
        self.rewriting.advance(now, needed)
        if needed > self._forgotten_to:
            self._forgotten_to = needed
            for name in self.durable:
                if name is not None:
                    below = Position(needed * space.segment_bytes)
                    self._node.groups[name.group].slots.forget(below, name.slot)
