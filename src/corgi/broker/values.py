"""Chosen values by slot: from the bounded tail in memory, else from the WAL through the slot table.

Invariant: a value that fails its checksum is never given out and never forgotten; it is noted in ``faulty`` until it
was fetched from a peer and lies on the disk again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from corgi.base.command import Buffer, check_value
from corgi.base.errors import CorgiError, check
from corgi.base.ids import Ballot, GroupId, Position, Slot
from corgi.base.ports import FaultyRecord, LogRecord, RecordKind, Wal
from corgi.log.slots import SlotTable
from corgi.log.tail import TailCache

Done = Callable[[bytes | CorgiError], None]
NOWHERE = Position(-1)


class Faulty(NamedTuple):
    """What is known of a chosen value that this node cannot read: where it lies (-1: unknown), its ``length`` in bytes,
    and the ballot of the damaged record (0: unknown), whose value is the chosen one."""

    position: Position
    length: int
    ballot: Ballot


class Values:
    """Where the bytes of chosen slots are. Values not yet placed on disk are held here until they are.

    A slot may be written more than once before it is chosen, with different values, and the chosen one may be the last
    to reach the disk or be known chosen before it does; so a place counts only for the value that lies there.
    """

    def __init__(self, groups: int, wal: Wal, tail_bytes_max: int, mend: Callable[[GroupId, Slot, Done], None]) -> None:
        """``mend`` has a faulty value fetched from a peer; its last argument is called later with it or an error."""
        self.tables = [SlotTable() for _ in range(groups)]
        self.tail = TailCache(tail_bytes_max)
        self.faulty: list[dict[Slot, Faulty]] = [{} for _ in range(groups)]
        self._wal = wal
        self._mend = mend
        self._chosen = [Slot(0)] * groups
        self._placed: dict[tuple[GroupId, Slot], Buffer | FaultyRecord] = {}  # on disk, not yet chosen: written last
        self._unplaced: dict[tuple[GroupId, Slot], Buffer] = {}  # chosen, not yet on disk

    def chosen(self, group: GroupId, slot: Slot, value: Buffer) -> None:
        self.tail.put(group, slot, value)
        self._chosen[group] = slot
        placed = self._placed.pop((group, slot), None)
        if placed is not value and placed != value:
            self._unplaced[group, slot] = value

    def chosen_unread(self, group: GroupId, slot: Slot) -> None:
        """A slot is chosen whose value was on the disk and is damaged, or may be lost."""
        self._chosen[group] = slot
        placed = self._placed.pop((group, slot), None)
        if isinstance(placed, FaultyRecord):
            self._lose(group, slot, Faulty(placed.position, placed.length, placed.ballot))
        else:
            self._lose(group, slot, Faulty(NOWHERE, 0, Ballot(0)))

    def placed(self, record: LogRecord) -> None:
        """A record with a value is on disk (or was found there by the scan)."""
        if record.kind not in (RecordKind.ACCEPT, RecordKind.LEARNED):
            return
        group, slot = record.group, record.slot
        key = (group, slot)
        if isinstance(record, FaultyRecord):
            if slot > self._chosen[group]:
                self._placed[key] = record
            return
        if slot > self._chosen[group]:
            self._placed[key] = record.payload
        elif key in self._unplaced and self._unplaced[key] == record.payload:
            del self._unplaced[key]
        elif slot not in self.faulty[group] or (record.kind is RecordKind.ACCEPT and slot > record.commit):
            return
        self.faulty[group].pop(slot, None)
        self.tables[group].put(slot, record.position, len(record.payload))

    def fetched(self, group: GroupId, slot: Slot, value: bytes) -> None:
        """A peer had the faulty value; it is held here until it is ``restored`` or placed anew."""
        self._unplaced[group, slot] = value

    def restored(self, group: GroupId, slot: Slot, position: Position, length: int) -> None:
        """The value lies on the disk again where it lay."""
        self._unplaced.pop((group, slot), None)
        self.faulty[group].pop(slot, None)
        self.tables[group].put(slot, position, length)

    def readable(self, group: GroupId) -> Slot:
        """The values of all chosen slots up to here are on this node; -1: of all."""
        return Slot(min(self.faulty[group]) - 1) if self.faulty[group] else Slot(-1)

    def in_memory(self, group: GroupId, slot: Slot) -> Buffer | None:
        value = self.tail.get(group, slot)
        if value is None and self._unplaced:
            value = self._unplaced.get((group, slot))
        return value

    def read(self, group: GroupId, slot: Slot, done: Done) -> Buffer | None:
        """The value if it is in memory; else None, and ``done`` is called later with it or with an error.

        A damaged value is fetched from a peer first.
        """

        def mended(found: bytes | CorgiError) -> None:
            if isinstance(found, CorgiError) and found.code != "closed":
                self._mend(group, slot, done)
            else:
                done(found)

        value = self.read_here(group, slot, mended)
        if isinstance(value, CorgiError):
            self._mend(group, slot, done)
            return None
        return value

    def read_here(self, group: GroupId, slot: Slot, done: Done) -> Buffer | CorgiError | None:
        """As ``read``, without asking a peer: "record-damaged" is the answer, now or later."""
        value = self.in_memory(group, slot)
        if value is not None:
            return value
        if slot in self.faulty[group]:
            return CorgiError("record-damaged", f"the value of slot {slot} of group {group} is damaged here")
        position = self.tables[group].position(slot)
        check(position >= 0, f"group {group}: the value of slot {slot} is nowhere")
        length = self.tables[group].length(slot)

        def checked(found: bytes | CorgiError) -> None:
            if not isinstance(found, CorgiError):
                try:
                    check_value(found)
                except CorgiError as error:
                    found = CorgiError("record-damaged", f"slot {slot} of group {group}: {error.message}")
            if isinstance(found, CorgiError) and found.code == "record-damaged":
                self.damaged(group, slot, position)
            done(found)

        self._wal.read(position, length, checked)
        return None

    def damaged(self, group: GroupId, slot: Slot, position: Position) -> None:
        """The bytes at ``position`` are not those of the value; no matter if it lies elsewhere by now."""
        table = self.tables[group]
        if table.position(slot) == position:
            self._lose(group, slot, Faulty(position, table.length(slot), Ballot(0)))

    def _lose(self, group: GroupId, slot: Slot, faulty: Faulty) -> None:
        self.faulty[group][slot] = faulty
        self.tables[group].put(slot, NOWHERE, faulty.length)
