"""What the onlooker knows to be durable on one disk, whatever its node believes."""

from __future__ import annotations

from corgi.base.ids import Ballot, GroupId, NodeId, Slot


class DiskMemory:
    """Promises, votes and recoveries, as records told of them."""

    __slots__ = (
        "excused",
        "faulty",
        "given_up",
        "known",
        "marks",
        "past",
        "promised",
        "settled",
        "settling",
        "sworn",
        "votes",
        "written",
    )

    def __init__(self) -> None:
        self.marks: dict[NodeId, int] = {}  # how far the log of each peer was durable, as this disk tells
        self.past: set[tuple[GroupId, Slot, Ballot]] = set()  # votes that a recovery made up for
        self.promised: dict[GroupId, Ballot] = {}  # by any record
        self.written: dict[GroupId, Ballot] = {}  # by promises and votes; a segment's state may run ahead of them
        self.votes: set[tuple[GroupId, Slot, Ballot]] = set()
        self.faulty: set[tuple[GroupId, Slot, Ballot]] = set()  # of them those whose values are damaged
        self.given_up: set[tuple[GroupId, Slot, Ballot]] = set()  # by the operator's word
        self.known: dict[GroupId, Slot] = {}  # up to where records tell that slots are chosen
        self.sworn: dict[GroupId, Ballot] = {}  # by promises
        self.settled = 0  # recoveries that are complete
        self.settling: set[tuple[GroupId, Slot, Ballot]] = set()  # votes before a recovery, which makes up for them
        self.excused: set[tuple[GroupId, Slot, Ballot]] = set()  # synced in this life; a restart need not find them

    def lacks(self, other: DiskMemory) -> bool:
        """A vote or a promise of the other is not here."""
        promised = any(self.promised.get(group, 0) < ballot for group, ballot in other.promised.items())
        return promised or not other.votes <= self.votes

    def copy(self) -> DiskMemory:
        """For a disk image: what the image holds."""
        other = DiskMemory()
        other.marks = dict(self.marks)
        other.promised = dict(self.promised)
        other.written = dict(self.written)
        other.known = dict(self.known)
        other.sworn = dict(self.sworn)
        other.votes = set(self.votes)
        other.faulty = set(self.faulty)
        other.past = set(self.past)
        other.settling = set(self.settling)
        return other
