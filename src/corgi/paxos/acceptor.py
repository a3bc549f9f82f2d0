"""The acceptor: promises and votes of one group.

Invariants (Lamport, "Paxos Made Simple", section 2.2): it answers a Prepare or an Accept only after the promise or the
vote is durable; it never votes below its promise; promise and vote are different things (a promise per group, a
(ballot, value) per slot). The disk keeps the order of ``persist``, so a promise that is durable covers every vote
given before it.
"""

from __future__ import annotations

from collections.abc import Iterator

from corgi.base.command import Buffer
from corgi.base.errors import check
from corgi.base.ids import Ballot, GroupId, NodeId, Slot, ballot_node
from corgi.base.limits import PROMISE_CHUNK_BYTES
from corgi.base.ports import FaultyRecord, LogRecord, RecordKind
from corgi.paxos.host import Host
from corgi.paxos.messages import Accepted, Promise

UNREADABLE = -1  # the length that a promise tells of a vote whose value is damaged


class Vote:
    """The highest-ballot value accepted in one slot above the chosen prefix.

    ``value`` None: a faulty vote. That it was given is known, what for is not, because its record is damaged. Then
    ``below`` is the vote of the next lower ballot that the disk still tells, if any. ``doubtful``: records that nobody
    can know any more lie behind it in the log, so a later vote in the same slot may be among them.
    """

    __slots__ = ("ballot", "below", "doubtful", "durable", "value")

    def __init__(self, ballot: Ballot, value: Buffer | None, durable: bool, below: Vote | None = None) -> None:
        self.ballot = ballot
        self.value = value
        self.durable = durable
        self.below = below
        self.doubtful = False

    def told(self) -> Iterator[tuple[Ballot, Buffer | None]]:
        """What others must hear of: faulty votes from the highest on, down to the first whose value is known."""
        vote: Vote | None = self
        while vote is not None:
            yield vote.ballot, vote.value
            vote = vote.below if vote.value is None else None


class Acceptor:
    """One group's acceptor on one node. ``voting`` is False while its state is in doubt (rules 12 and 13).

    ``lazy``: of a memory group, whose votes count when they are written. ``lossy`` not 0: the state is in doubt, the
    operator has accepted that, and this names the doubt; its promises count only beside those of all other members.
    Then it takes no part in ballots up to ``floor``: a lost disk may have promised higher ones.
    """

    def __init__(self, group: GroupId, me: NodeId, host: Host) -> None:
        self.group = group
        self.me = me
        self.host = host
        self.voting = True
        self.lazy = False
        self.lossy = 0
        self.floor = Ballot(0)
        self.promised = Ballot(0)
        self.promised_durable = Ballot(0)
        self.votes: dict[Slot, Vote] = {}
        self.highest = Slot(0)  # highest slot ever voted in

    def promise(self, ballot: Ballot, prefix: Slot) -> None:
        """Promise ``ballot`` (greater than any before); ``Replica.durable`` answers when it is on disk."""
        check(ballot > self.promised, "a promise never goes back")
        self.promised = ballot
        self.host.persist(LogRecord(RecordKind.PROMISE, self.group, ballot, Slot(0), prefix))

    def accept(self, ballot: Ballot, slot: Slot, value: Buffer, prefix: Slot) -> None:
        """Vote for ``value``; the caller has checked that ``ballot`` is not below the promise.

        A vote in a chosen slot is stored as well: a new leader that does not know it chosen proposes the same value.
        """
        check(ballot >= self.promised, "no vote below the promise")
        self.promised = ballot
        leader = ballot_node(ballot)
        old = self.votes.get(slot)
        if old is not None and old.ballot == ballot and old.value is not None:
            if old.durable and leader != self.me:
                self.host.send(leader, Accepted(self.group, ballot, slot))
            return
        if slot > prefix:
            self.votes[slot] = Vote(ballot, value, durable=False)
        if slot > self.highest:
            self.highest = slot
        release = None if leader == self.me else (leader, Accepted(self.group, ballot, slot))
        kind = RecordKind.ACCEPT
        self.host.persist(LogRecord(kind, self.group, ballot, slot, prefix, value, release, lazy=self.lazy))

    def durable(self, record: LogRecord) -> None:
        """A record of this group is on disk; its release message has left."""
        self.promised_durable = max(self.promised_durable, record.ballot)
        if record.kind is RecordKind.ACCEPT:
            vote = self.votes.get(record.slot)
            if vote is not None and vote.ballot == record.ballot:
                vote.durable = True

    def forget_chosen(self, slot: Slot) -> None:
        """The slot is chosen: its vote is no longer needed."""
        self.votes.pop(slot, None)

    def send_promise(self, ballot: Ballot, prefix: Slot, readable: Slot) -> None:
        """Answer a Prepare in ``ballot`` with the chosen prefix and every vote above it, in chunks.

        A faulty vote is told as one: whoever took it for absent could choose another value in a slot that is decided.
        """
        to = ballot_node(ballot)
        entries: list[tuple[Slot, Ballot, int]] = []
        values: list[Buffer] = []
        size = 0
        chunk = 0
        for slot in sorted(self.votes):
            if slot <= prefix:
                continue
            for voted, value in self.votes[slot].told():
                if value is None:
                    self.host.count("faulty_votes_told")
                    entries.append((slot, voted, UNREADABLE))
                    continue
                if values and size + len(value) > PROMISE_CHUNK_BYTES:
                    message = Promise(self.group, ballot, prefix, tuple(entries), chunk, False, readable, self.lossy)
                    self.host.send(to, message, b"".join(values))
                    chunk += 1
                    entries, values, size = [], [], 0
                entries.append((slot, voted, len(value)))
                values.append(value)
                size += len(value)
        last = Promise(self.group, ballot, prefix, tuple(entries), chunk, True, readable, self.lossy)
        self.host.send(to, last, b"".join(values))

    @property
    def answers(self) -> bool:
        """Whether it takes part at all."""
        return self.voting or self.lossy != 0

    def takes(self, ballot: Ballot) -> bool:
        """Whether it takes part in this ballot."""
        return self.voting or (self.lossy != 0 and ballot > self.floor)

    def holds(self, ballot: Ballot, first: Slot, last: Slot) -> bool:
        """Whether it has voted in ``ballot`` in each of these slots."""
        votes = map(self.votes.get, map(Slot, range(first, last + 1)))
        return all(vote is not None and vote.ballot == ballot and vote.value is not None for vote in votes)

    def forget_votes(self) -> None:
        """Another disk was in use since they were given."""
        self.votes.clear()
        self.highest = Slot(0)

    def forget_faulty(self) -> None:
        """The loss of votes whose values are damaged is accepted."""
        self.votes = {slot: vote for slot, vote in self.votes.items() if vote.value is not None}
        for vote in self.votes.values():
            vote.doubtful = False

    def recover(self, record: LogRecord) -> None:
        """Take one record of the disk scan, in order. An accept is also a promise of its ballot."""
        if record.kind in (RecordKind.PROMISE, RecordKind.ACCEPT, RecordKind.STATE):
            self.promised = max(self.promised, record.ballot)
            self.promised_durable = self.promised
        if record.kind is RecordKind.ACCEPT:
            self.highest = max(self.highest, record.slot)
            self._recover_vote(record)

    def recover_hole(self) -> None:
        """Records are lost here in the log: any vote before may have been followed by another."""
        for vote in self.votes.values():
            vote.doubtful = True

    def _recover_vote(self, record: LogRecord) -> None:
        old = self.votes.get(record.slot)
        if not isinstance(record, FaultyRecord):
            self.votes[record.slot] = Vote(record.ballot, record.payload, durable=True)
        elif old is None or old.ballot != record.ballot or old.value is None:
            self.votes[record.slot] = Vote(record.ballot, None, durable=True, below=old)
