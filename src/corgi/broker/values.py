"""Chosen values by slot: from the bounded tail in memory, else from the WAL through the slot table."""

from __future__ import annotations

from collections.abc import Callable

from corgi.base.command import Buffer, check_value
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, Position, Slot
from corgi.base.ports import LogRecord, RecordKind, Wal
from corgi.log.slots import SlotTable
from corgi.log.tail import TailCache


class Values:
    """Where the bytes of chosen slots are. Values not yet placed on disk are held here until they are.

    A slot may be written more than once before it is chosen, with different values, and the chosen one may be the last
    to reach the disk or be known chosen before it does; so a place counts only for the value that lies there.
    """

    def __init__(self, groups: int, wal: Wal, tail_bytes_max: int) -> None:
        self.tables = [SlotTable() for _ in range(groups)]
        self.tail = TailCache(tail_bytes_max)
        self._wal = wal
        self._chosen = [Slot(0)] * groups
        self._placed: dict[tuple[GroupId, Slot], Buffer] = {}  # on disk, not yet chosen: the value written last
        self._unplaced: dict[tuple[GroupId, Slot], Buffer] = {}  # chosen, not yet on disk

    def chosen(self, group: GroupId, slot: Slot, value: Buffer) -> None:
        self.tail.put(group, slot, value)
        self._chosen[group] = slot
        placed = self._placed.pop((group, slot), None)
        if placed is not value and placed != value:
            self._unplaced[group, slot] = value

    def placed(self, record: LogRecord) -> None:
        """A record with a value is on disk (or was found there by the scan)."""
        if record.kind not in (RecordKind.ACCEPT, RecordKind.LEARNED):
            return
        key = (record.group, record.slot)
        if record.slot > self._chosen[record.group]:
            self._placed[key] = record.payload
        elif key in self._unplaced and self._unplaced[key] == record.payload:
            del self._unplaced[key]
        else:
            return
        self.tables[record.group].put(record.slot, record.position, len(record.payload))

    def in_memory(self, group: GroupId, slot: Slot) -> Buffer | None:
        value = self.tail.get(group, slot)
        if value is None and self._unplaced:
            value = self._unplaced.get((group, slot))
        return value

    def read(self, group: GroupId, slot: Slot, done: Callable[[bytes | CorgiError], None]) -> Buffer | None:
        """The value if it is in memory; else None, and ``done`` is called later with it or with an error."""
        value = self.in_memory(group, slot)
        if value is not None:
            return value
        position: Position = self.tables[group].position(slot)
        if position < 0:
            raise CorgiError("invariant-failed", f"group {group}: the value of slot {slot} is nowhere")

        def checked(found: bytes | CorgiError) -> None:
            if not isinstance(found, CorgiError):
                try:
                    check_value(found)
                except CorgiError as error:
                    found = error
            done(found)

        self._wal.read(position, self.tables[group].length(slot), checked)
        return None
