"""Compaction by key: whoever leads a group has of its compacted partitions what newer records supersede removed.

A pass over one partition, as a story: (1) enough of it is new since the last pass, or its tombstones may go; (2) the
new part is read, up to what is too young or what the memory for keys allows, and the newest offset of each key noted;
(3) everything up to there is read, and what is left of each batch that is not left whole is proposed, piece by piece,
the next one when the last was applied; (4) the last command says how far the pass went. If anything goes wrong (another
node leads, somebody else compacted, a value cannot be read), the pass ends where it is: what was applied holds, and a
later pass begins anew.

Invariant: one pass at a time; at most so many bytes read per second, STEP_BYTES between two turns of the loop, one
command on its way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from corgi.base import errors
from corgi.base.command import Buffer, CommandKind
from corgi.base.errors import CorgiError
from corgi.base.ids import FIRST_USER_TOPIC, Offset, Slot
from corgi.base.limits import KIB
from corgi.state.compaction import (
    CHANGES_MAX,
    CHUNK_BYTES,
    ENTRIES_MAX,
    Compacted,
    NewestOffsets,
    encode_compacted,
    horizon_due,
    survivors,
)
from corgi.state.index import PartitionLog
from corgi.state.outcomes import Outcome
from corgi.state.settings import compacted, min_cleanable_dirty_ratio, min_compaction_lag_ms

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node

PARTITIONS_PER_LOOK = 200
STEP_BYTES = 48 * KIB  # of batches: with small records about a millisecond
STEP_BATCHES = 200
SUBMIT_TIMEOUT_S = 10.0
REST_S = 5.0  # after a pass that was given up
VALUE_S = 60.0  # for a value, which may have to come from a peer


class Work(NamedTuple):
    """What is to be done in a partition: everything below ``to``, tombstones below ``horizon`` as well."""

    to: Offset
    horizon: Offset
    dirty_bytes: int


class _Pass:
    """One pass. ``position``: the next offset to look at, in the new part first (``noting``), then in all of it."""

    __slots__ = (
        "before",
        "changes",
        "entries",
        "group",
        "left",
        "log",
        "newest",
        "noting",
        "position",
        "size",
        "slot",
        "submitted",
        "value",
        "waiting",
        "waiting_until",
        "work",
    )

    def __init__(self, group: Group, log: PartitionLog, work: Work, keys_bytes_max: int) -> None:
        self.group = group
        self.log = log
        self.work = work
        self.newest = NewestOffsets(keys_bytes_max)
        self.noting = True
        self.position = max(log.cleaned.to, log.start)
        self.before = log.cleaned.commands
        self.left = False  # tombstones
        self.changes: list[tuple[Offset, Buffer | None]] = []
        self.size = 0
        self.entries = 0
        self.waiting = False  # for a value
        self.waiting_until = 0.0
        self.submitted = False
        self.slot = Slot(0)
        self.value: Buffer = b""


class Compaction:
    """Drives the partitions of the groups that this node leads."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pass: _Pass | None = None
        self._round: Iterator[tuple[Group, PartitionLog]] = iter(())  # partitions that are still to be looked at
        self._retired: NewestOffsets | None = None
        self._budget = 0.0
        self._since = node.clock.now()
        self.look_at = node.clock.now()  # when it looks for something to do, if it has nothing

    @property
    def busy(self) -> bool:
        return self._pass is not None

    def advance(self, now: float) -> None:
        """Time has passed: there is budget to read, or something to look for."""
        per_second = self._node.options.compaction_bytes_per_s
        self._budget = min(self._budget + (now - self._since) * per_second, per_second / 4)
        self._since = now
        found = self._pass
        if found is not None:
            late = found.waiting and now >= found.waiting_until
            if late or not found.group.replica.leading or not found.log.open:
                self._give_up()
        elif now >= self.look_at:
            self._look(now)

    def step(self) -> bool:
        """At the end of a turn: do a piece of the pass; True if more could be done at once."""
        if self._retired is not None and not self._retired.free():
            self._retired = None
        found = self._pass
        size = batches = 0
        while found is not None and found is self._pass and not (found.waiting or found.submitted):
            if self._budget <= 0:
                return self._retired is not None
            if size >= STEP_BYTES or batches >= STEP_BATCHES:
                return True
            size += self._one_batch(found)
            batches += 1
        return self._retired is not None

    def _look(self, now: float) -> None:
        """Look for a partition in which something is to be done."""
        room = PARTITIONS_PER_LOOK
        now_ms = max(self._node.clock.wall_ms(), 0)
        for group, log in self._round:
            if group.replica.leading:
                work = due(log, max(group.machine.log_time_ms, now_ms), self._node.options.compaction_bytes_min)
                if work is not None:
                    self._pass = _Pass(group, log, work, self._node.options.compaction_keys_bytes_max)
                    self._node.count("compaction_passes")
                    return
            room -= 1
            if not room:
                return
        self.look_at = now + self._node.options.compaction_interval_s
        self._round = self._partitions()

    def _partitions(self) -> Iterator[tuple[Group, PartitionLog]]:
        for group in self._node.groups:
            if group.replica.leading:
                for log in list(group.machine.partitions.values()):
                    yield group, log

    def _one_batch(self, found: _Pass) -> int:
        """Take the next batch, or what comes when there is none; the bytes that it had."""
        log, to = found.log, found.work.to
        if not log.open or log.cleaned.commands != found.before:
            self._give_up()
            return 0
        i = log.find(found.position)
        entry = log.entry(i) if i < log.count else None
        if entry is None or entry.base_offset >= to or (found.noting and found.newest.full):
            if found.noting:
                if entry is not None and entry.base_offset < to:
                    found.work = found.work._replace(to=entry.base_offset)
                found.noting = False
                found.position = log.start
            else:
                self._submit(found, done_to=to)
            return 0
        value = self._value(found, entry.slot)
        if value is None:
            return 0
        batch = memoryview(value)[entry.at : entry.at + entry.length]
        found.position = Offset(entry.base_offset + entry.records)
        if found.noting:
            found.newest.add(batch, entry.base_offset)
            return entry.length
        found.entries += 1
        rest = survivors(batch, entry.base_offset, found.newest, found.work.horizon)
        found.left |= rest.tombstones
        if rest.batch is not batch:
            found.changes.append((entry.base_offset, rest.batch))
            found.size += 0 if rest.batch is None else len(rest.batch)
            self._node.count("compacted_records", rest.records)
        if found.changes and (
            found.size >= CHUNK_BYTES or len(found.changes) == CHANGES_MAX or found.entries >= ENTRIES_MAX
        ):
            self._submit(found, done_to=Offset(0))
        elif not found.changes:
            found.entries = 0
        return entry.length

    def _value(self, found: _Pass, slot: Slot) -> Buffer | None:
        """The value of a slot, or None: it is being read, or the pass was given up."""
        if slot == found.slot:
            return found.value
        self._budget -= found.group.slots.length(slot)

        def read(value: bytes | CorgiError) -> None:
            found.waiting = False
            if found is self._pass:
                self._take(found, slot, value)

        value = self._node.values.read(found.group.id, slot, read)
        if value is None:
            found.waiting, found.waiting_until = True, self._node.clock.now() + VALUE_S
            return None
        return self._take(found, slot, value)

    def _take(self, found: _Pass, slot: Slot, value: Buffer | CorgiError) -> Buffer | None:
        if isinstance(value, CorgiError):
            self._give_up()
            return None
        found.slot, found.value = slot, value
        return value

    def _submit(self, found: _Pass, done_to: Offset) -> None:
        """Propose what was found, and go on when it is applied."""
        body = encode_compacted(
            Compacted(
                found.log.topic,
                found.log.partition,
                found.before,
                done_to,
                found.work.horizon,
                found.left,
                [change for change in found.changes if change[0] >= found.log.start],
            )
        )
        found.submitted = True
        found.changes = []
        found.size = found.entries = 0
        self._node.count("compaction_commands")
        self._node.submit(
            found.group.id,
            CommandKind.COMPACTED,
            body,
            lambda outcome: self._applied(found, outcome, last=bool(done_to)),
            timeout_s=SUBMIT_TIMEOUT_S,
        )

    def _applied(self, found: _Pass, outcome: Outcome, *, last: bool) -> None:
        found.submitted = False
        if found is not self._pass:
            return
        if outcome.error != errors.OK:
            self._give_up()
        elif last:
            self._end()
        else:
            found.before += 1

    def _give_up(self) -> None:
        self._node.count("compaction_passes_given_up")
        self.look_at = self._node.clock.now() + REST_S
        self._round = iter(())
        self._end()

    def _end(self) -> None:
        if self._pass is not None:
            self._retired = self._pass.newest
        self._pass = None


def due(log: PartitionLog, now_ms: int, bytes_min: int) -> Work | None:
    """What compaction has to do in a partition at ``now_ms`` by its settings, if anything."""
    if not log.open or log.count < 2 or log.topic < FIRST_USER_TOPIC or not compacted(log.config):
        return None
    cleaned = log.cleaned
    until = log.count - 1  # the newest batch is never touched
    lag_ms = min_compaction_lag_ms(log.config)
    if lag_ms:
        until = min(until, log.find_time(now_ms - lag_ms + 1))
    first = log.find(cleaned.to)
    horizon = horizon_due(log, now_ms)
    if until < first or (until == first and not horizon):
        return None
    to = max(cleaned.to, log.entry(until).base_offset)
    dirty_bytes = log.bytes_from(first, until)
    ratio = min_cleanable_dirty_ratio(log.config)
    if not horizon and (dirty_bytes < bytes_min or dirty_bytes < ratio * (dirty_bytes + log.bytes_from(0, first))):
        return None
    return Work(Offset(to), horizon, dirty_bytes)


def dirty_ratio(log: PartitionLog) -> float:
    """The share of a partition's bytes that compaction has not seen."""
    size = log.bytes
    return log.bytes_from(log.find(log.cleaned.to), log.count) / size if size else 0.0
