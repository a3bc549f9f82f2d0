"""Chosen values by slot: from the bounded tail in memory, else from the WAL through the slot table.

Invariant: a value that fails its checksum is never given out and never forgotten; it is noted in ``faulty`` until it
was fetched from a peer and lies on the disk again. So is one that a snapshot names and that is not on this node.

What lives is counted per slot: a value is wanted while some partition's index names a batch in it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from corgi.base.command import Buffer, check_value
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, Position, Slot
from corgi.base.ports import FaultyRecord, LogRecord, RecordKind, Wal
from corgi.log.slots import SlotTable
from corgi.log.space import Space
from corgi.log.tail import TailCache
from corgi.state.index import Dropped

Done = Callable[[bytes | CorgiError], None]
NOWHERE = Position(-1)


class Faulty(NamedTuple):
    """What is known of a chosen value that this node cannot read: where it lies (-1: unknown), its ``length`` in bytes,
    and the ballot of the damaged record (0: unknown), whose value is the chosen one.

    Not ``proven``: what lies there is whole, but only a vote of this node, perhaps not for the chosen value.
    """

    position: Position
    length: int
    ballot: Ballot
    proven: bool = True


class Values:
    """Where the bytes of chosen slots are. Values not yet placed on disk are held here until they are.

    A slot may be written more than once before it is chosen, with different values, and the chosen one may be the last
    to reach the disk or be known chosen before it does; so a place counts only for the value that lies there.
    """

    def __init__(
        self, groups: int, wal: Wal, tail_bytes_max: int, mend: Callable[[GroupId, Slot, Done | None], None]
    ) -> None:
        """``mend`` has a faulty value fetched from a peer; its last argument is called later with it or an error."""
        self.space = Space(wal.segment_bytes)
        self.tables = [SlotTable(self.space) for _ in range(groups)]
        self.covered = [Slot(0)] * groups  # up to here a durable snapshot tells the state
        self.tail = TailCache(tail_bytes_max)
        self.faulty: list[dict[Slot, Faulty]] = [{} for _ in range(groups)]
        self._wal = wal
        self._mend = mend
        self._chosen = [Slot(0)] * groups
        self._placed: dict[tuple[GroupId, Slot], LogRecord] = {}  # on disk, not yet chosen: written last
        self._unplaced: dict[tuple[GroupId, Slot], Buffer] = {}  # chosen, not yet on disk
        self._uncounted: deque[tuple[GroupId, Dropped, int]] = deque()  # an index names these from now on, or no more
        self._unheld = 0  # of these parts, how many are named from now on

    def chosen(self, group: GroupId, slot: Slot, value: Buffer) -> None:
        self.tail.put(group, slot, value)
        self._chosen[group] = slot
        placed = self._placed.pop((group, slot), None)
        on_disk = None if placed is None or isinstance(placed, FaultyRecord) else placed.payload
        if on_disk is not value and on_disk != value:
            self._unplaced[group, slot] = value

    def chosen_unread(self, group: GroupId, slot: Slot) -> None:
        """A slot is chosen whose value was on the disk and is damaged, or may be lost."""
        self._chosen[group] = slot
        placed = self._placed.pop((group, slot), None)
        if isinstance(placed, FaultyRecord):
            self._lose(group, slot, Faulty(placed.position, placed.length, placed.ballot))
        else:
            self._lose(group, slot, Faulty(NOWHERE, 0, Ballot(0)))

    def placed(self, record: LogRecord) -> bool:
        """A record with a value is on disk (or was found there by the scan); True: the value is one that a snapshot
        names, and only the log tells where it lies now."""
        if record.kind not in (RecordKind.ACCEPT, RecordKind.LEARNED):
            return False
        group, slot = record.group, record.slot
        if slot < 1:
            raise CorgiError("log-damaged", f"group {group}: a record of the log holds the value of no slot")
        key = (group, slot)
        if isinstance(record, FaultyRecord):
            before = self._placed.get(key)
            again = before is not None and before.ballot == record.ballot and not isinstance(before, FaultyRecord)
            if slot > self._chosen[group] and not again:  # else the vote can be read where it lay before
                self._placed[key] = record
                self.tables[group].put(slot, record.position, record.length)  # a vote that is still needed lies there
            return False
        if slot > self._chosen[group]:
            self._placed[key] = record
        elif key in self._unplaced and self._unplaced[key] == record.payload:
            del self._unplaced[key]
        elif record.kind is RecordKind.LEARNED:
            pass  # known to be chosen: fetched, perhaps in an earlier life, because it was not where the snapshot told
        elif slot not in self.faulty[group] or slot > record.commit:
            self._voted(group, slot, Faulty(record.position, len(record.payload), record.ballot, proven=False))
            return False
        self.faulty[group].pop(slot, None)
        self.tables[group].put(slot, record.position, len(record.payload))
        return slot <= self.covered[group]

    def damaged_segments(self) -> set[int]:
        """Where records of values lie that are damaged and not yet repaired."""
        size = self.space.segment_bytes
        return {f.position // size for faulty in self.faulty for f in faulty.values() if f.position >= 0}

    def fetched(self, group: GroupId, slot: Slot, value: bytes) -> None:
        """A peer had the faulty value; it is held here until it is ``restored`` or placed anew."""
        self._unplaced[group, slot] = value

    def restored(self, group: GroupId, slot: Slot, position: Position, length: int) -> None:
        """The value lies on the disk again where it lay."""
        self._unplaced.pop((group, slot), None)
        self.faulty[group].pop(slot, None)
        self.tables[group].put(slot, position, length)

    def readable(self, group: GroupId) -> Slot:
        """All chosen slots up to here can be told by this node, by their values or by a snapshot; -1: all of them."""
        missing = [slot for slot in self.faulty[group] if slot > self.covered[group]]
        return Slot(min(missing) - 1) if missing else Slot(-1)

    def stored(self, record: LogRecord) -> None:
        """A value that a snapshot covers is on disk in a new place, if somebody wants it still."""
        group, slot = record.group, record.slot
        table = self.tables[group]
        if slot > self._chosen[group] or not (table.count(slot) or self._unheld):
            return
        if isinstance(record, FaultyRecord):
            self._lose(group, slot, Faulty(record.position, record.length, Ballot(0)))
        else:
            self.faulty[group].pop(slot, None)
            table.put(slot, record.position, len(record.payload))

    def applied(self, group: GroupId, slot: Slot, batches: int, dropped: list[Dropped]) -> None:
        """The value of ``slot`` was applied: so many of its batches are in an index, and these left one."""
        self.tables[group].hold(slot, batches)
        if dropped:
            self._uncounted.extend((group, part, -1) for part in dropped)

    def begin_from(
        self,
        group: GroupId,
        slot: Slot,
        index: Iterable[Dropped],
        votes: Mapping[Slot, Faulty] | None = None,
        *,
        known: Slot | None = None,
    ) -> None:
        """The group's state is that of a snapshot after ``slot``; ``index`` is all that it names; ``votes`` of this
        node are overtaken by it, perhaps for other values. What is ``known`` chosen may go further: only values that
        could not be read kept this node from applying it."""
        self._chosen[group] = max(slot, known or slot)
        for held in (self._placed, self._unplaced):
            for key in [key for key in held if key[0] == group and key[1] <= slot]:
                del held[key]
        for gone in [gone for gone in self.faulty[group] if gone <= slot]:
            del self.faulty[group][gone]
        self._uncounted = deque(part for part in self._uncounted if part[0] != group)
        self._uncounted.extend((group, part, 1) for part in index)
        self._unheld = sum(1 for _, _, sign in self._uncounted if sign > 0)
        self.tables[group].release_all()
        for voted, vote in (votes or {}).items():
            self._voted(group, voted, vote)

    def cut(self, group: GroupId, slot: Slot) -> None:
        """What was chosen behind ``slot`` is given up; nothing of it was applied."""
        for gone in range(slot + 1, self._chosen[group] + 1):
            self._unplaced.pop((group, Slot(gone)), None)
            self.faulty[group].pop(Slot(gone), None)
            self.tables[group].put(Slot(gone), NOWHERE, 0)
            self.tail.discard(group, Slot(gone))
        for key, placed in list(self._placed.items()):
            if key[0] == group and isinstance(placed, FaultyRecord):
                del self._placed[key]
        self._chosen[group] = min(self._chosen[group], slot)

    @property
    def counting(self) -> bool:
        """Whether something may live that is not counted yet."""
        return self._unheld > 0

    def recount(self, batches_max: int) -> bool:
        """Count what indexes name since snapshots were loaded, and what they have dropped, in the order in which it
        happened, so many batches at most; True if more is left."""
        while self._uncounted and batches_max > 0:
            group, (block, start, stop), sign = self._uncounted.popleft()
            until = min(stop, start + batches_max)
            if until < stop:
                self._uncounted.appendleft((group, Dropped(block, until, stop), sign))
            elif sign > 0:
                self._unheld -= 1
            batches_max -= until - start
            table, faulty = self.tables[group], self.faulty[group]
            for at, count in Counter(block.slots[start:until]).items():
                slot = Slot(block.slot + at)
                if sign > 0:
                    table.hold(slot, count)
                else:
                    table.release(slot, count)
                    if slot in faulty:
                        self.let_go(group, slot)
        return bool(self._uncounted)

    def unplaced(self, group: GroupId, last: Slot) -> bool:
        """Whether a value of a slot up to ``last`` is chosen and not yet on disk."""
        return any(key[0] == group and key[1] <= last for key in self._unplaced)

    def on_its_way(self, group: GroupId, slot: Slot) -> bool:
        """Whether a chosen value is held here until it is on disk."""
        return (group, slot) in self._unplaced

    @property
    def unwritten_bytes(self) -> int:
        """Of chosen values that are held here until they are on disk."""
        return sum(map(len, self._unplaced.values()))

    @property
    def to_come(self) -> int:
        """Values that indexes name and that are neither on disk nor on their way there."""
        return max(0, sum(table.missing for table in self.tables) - len(self._unplaced))

    def tellable(self, group: GroupId, slot: Slot) -> bool:
        """Whether the value of a chosen slot is on this node, as far as it knows."""
        return self.in_memory(group, slot) is not None or self.space.holds(self.tables[group].position(slot))

    def length(self, group: GroupId, slot: Slot) -> int:
        """Bytes of a value that is on this node; 0 if unknown."""
        value = self.in_memory(group, slot)
        return self.tables[group].length(slot) if value is None else len(value)

    def in_memory(self, group: GroupId, slot: Slot) -> Buffer | None:
        value = self.tail.get(group, slot)
        if value is None and self._unplaced:
            value = self._unplaced.get((group, slot))
        return value

    def read(self, group: GroupId, slot: Slot, done: Done) -> Buffer | CorgiError | None:
        """The value if it is in memory, an error if nobody wants it any more; else None, and ``done`` is called later.

        A damaged value is fetched from a peer first.
        """

        def mended(found: bytes | CorgiError) -> None:
            if isinstance(found, CorgiError) and found.code != "closed":
                self._mend(group, slot, done)
            else:
                done(found)

        value = self.read_here(group, slot, mended)
        if isinstance(value, CorgiError) and slot in self.faulty[group]:
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
        length = self.tables[group].length(slot)
        if not self.space.holds(position):
            if self.tables[group].count(slot):
                self.absent(group, slot)
            return CorgiError("record-damaged", f"the value of slot {slot} of group {group} is not on this node")

        self._wal.read(position, length, lambda found: done(self._checked(group, slot, position, found)))
        return None

    def tell(self, group: GroupId, slots: Sequence[Slot], done: Callable[[list[Buffer | CorgiError]], None]) -> None:
        """As ``read_here`` of several slots, in their order, for much less than one by one; ``done`` is called once,
        now or later."""
        found: list[Buffer | CorgiError] = []
        at: list[int] = []  # in ``slots``, of those that lie on the disk
        places: list[tuple[Position, int]] = []
        table = self.tables[group]
        for number, slot in enumerate(slots):
            value = self.in_memory(group, slot)
            if value is None and self.space.holds(position := table.position(slot)):
                at.append(number)
                places.append((position, table.length(slot)))
            missing = CorgiError("record-damaged", f"the value of slot {slot} of group {group} is not readable here")
            found.append(missing if value is None else value)

        def read(values: list[bytes | CorgiError]) -> None:
            for number, (position, _), value in zip(at, places, values, strict=True):
                found[number] = self._checked(group, slots[number], position, value)
            done(found)

        if at:
            self._wal.read_many(places, read)
        else:
            done(found)

    def _checked(self, group: GroupId, slot: Slot, position: Position, found: bytes | CorgiError) -> bytes | CorgiError:
        """What was read of a value; if it is damaged, that is noted."""
        if not isinstance(found, CorgiError):
            try:
                check_value(found)
            except CorgiError as error:
                found = CorgiError("record-damaged", f"slot {slot} of group {group}: {error.message}")
        if isinstance(found, CorgiError) and found.code == "record-damaged":
            self.damaged(group, slot, position)
        return found

    def damaged(self, group: GroupId, slot: Slot, position: Position) -> None:
        """The bytes at ``position`` are not those of the value; no matter if it lies elsewhere by now."""
        table = self.tables[group]
        if table.position(slot) != position:
            return
        self._lose(group, slot, Faulty(position, table.length(slot), Ballot(0)))
        if not self.let_go(group, slot):
            self._mend(group, slot, None)

    def let_go(self, group: GroupId, slot: Slot) -> bool:
        """Forget a faulty value if nobody can ask for it any more; True if it is not faulty now.

        No index names it, for certain, and a restart begins behind it: as if its segment had been freed. Peers may have
        freed it, so that nobody has it, and nothing is lost by that. Who wants to learn it is offered a snapshot.
        """
        if slot <= self.covered[group] and not self.counting and not self.tables[group].count(slot):
            self.faulty[group].pop(slot, None)
        return slot not in self.faulty[group]

    def give_up_vote(self, group: GroupId, slot: Slot) -> None:
        """Nobody can use the vote that lies in place of the chosen value."""
        faulty = self.faulty[group].get(slot)
        if faulty is not None and not faulty.proven:
            self._lose(group, slot, Faulty(NOWHERE, faulty.length, Ballot(0)))

    def absent(self, group: GroupId, slot: Slot) -> None:
        """A value that an index names is not on this node: have it fetched."""
        self._lose(group, slot, Faulty(NOWHERE, self.tables[group].length(slot), Ballot(0)))
        self._mend(group, slot, None)

    def _voted(self, group: GroupId, slot: Slot, vote: Faulty) -> None:
        """A vote for a value that a snapshot names and that is not on this node. It may be one of the last copies: kept
        until a peer's value tells whether it is one."""
        known, table = self.faulty[group].get(slot), self.tables[group]
        if slot > self.covered[group] or table.position(slot) >= 0 or (group, slot) in self._unplaced:
            return
        if vote.length == table.length(slot) and (known is None or known.position < 0 or not known.proven):
            self._lose(group, slot, vote)
            self.let_go(group, slot)

    def _lose(self, group: GroupId, slot: Slot, faulty: Faulty) -> None:
        self.faulty[group][slot] = faulty
        self.tables[group].put(slot, NOWHERE, faulty.length)
