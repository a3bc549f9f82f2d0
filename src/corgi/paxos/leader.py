"""The two halves of leadership: a candidate gathers promises, a tenure proposes.

Both belong to one ballot and are thrown away with it. Neither knows of takeover timing, forwarding or the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, NodeId, Slot, ballot_node, ballot_round
from corgi.base.limits import RETRANSMIT_S
from corgi.paxos.acceptor import Vote
from corgi.paxos.messages import Promise
from corgi.paxos.quorum import Members


class _Chunks:
    """The chunks of one acceptor's promise; links may lose and reorder them."""

    __slots__ = ("by_number", "last")

    def __init__(self) -> None:
        self.by_number: dict[int, tuple[Promise, memoryview]] = {}
        self.last = -1

    def add(self, message: Promise, payload: memoryview) -> bool:
        """True when the promise is whole."""
        self.by_number[message.chunk] = (message, payload)
        if message.last:
            self.last = message.chunk
        return self.last >= 0 and len(self.by_number) == self.last + 1


class Candidate:
    """Phase 1 in one ballot, over all slots from the proposer's first unchosen one."""

    def __init__(self, ballot: Ballot, first: Slot, members: Members, *, forced: bool, now: float) -> None:
        self.ballot = ballot
        self.first = first
        self.members = members
        self.forced = forced
        self.started = now
        self.sent_at = now
        self.own_durable = False
        self.waits = False  # for further acceptors, because of votes that nobody can read
        self.mask = 0
        self.lossy: dict[NodeId, int] = {}  # who may have forgotten votes
        self.polite = 0  # who answered "the leader lives"
        self.votes: dict[Slot, dict[Ballot, _Told]] = {}
        self.prefix = Slot(0)  # highest chosen prefix among the promises
        self.prefix_holder = NodeId(0)
        self._prefixes: dict[NodeId, tuple[Slot, Slot]] = {}  # told: chosen, and readable there
        self._chunks: dict[NodeId, _Chunks] = {}

    def on_promise(self, sender: NodeId, message: Promise, payload: memoryview) -> None:
        """One chunk of a promise; the acceptor counts when all of its chunks are here."""
        if self.mask & self.members.bit[sender]:
            return
        chunks = self._chunks.setdefault(sender, _Chunks())
        if not chunks.add(message, payload):
            return
        for part, values in chunks.by_number.values():
            self._merge(sender, part, values)
        del self._chunks[sender]
        if message.lossy:
            self.lossy[sender] = message.lossy
        self.answered(sender, message.prefix, message.readable)
        if message.prefix > self.prefix:
            self.prefix = message.prefix
            self.prefix_holder = sender

    def answered(self, node: NodeId, prefix: Slot, readable: Slot) -> None:
        """All that ``node`` tells is here."""
        self.mask |= self.members.bit[node]
        self._prefixes[node] = (prefix, readable)

    def own_promise(self, me: NodeId, prefix: Slot, votes: dict[Slot, Vote], lossy: int = 0) -> None:
        """The proposer's own acceptor has promised, durably."""
        self.own_durable = True
        if lossy:
            self.lossy[me] = lossy
        self.answered(me, prefix, Slot(-1))
        for slot, vote in votes.items():
            if slot > prefix:
                for ballot, value in vote.told():
                    self.tell(me, slot, ballot, value)

    def tell(self, node: NodeId, slot: Slot, ballot: Ballot, value: Buffer | None) -> None:
        """A vote of ``node``; None: its value is damaged there."""
        told = self.votes.setdefault(slot, {}).setdefault(ballot, _Told())
        told.mask |= self.members.bit[node]
        if value is not None and told.value is None:
            told.value = bytes(value)

    def _merge(self, sender: NodeId, message: Promise, values: memoryview) -> None:
        at = 0
        for slot, ballot, length in message.entries:
            if length < 0:
                self.tell(sender, slot, ballot, None)
                continue
            value = values[at : at + length]
            if len(value) != length:
                raise CorgiError("malformed-frame", "a promise's values end too early")
            at += length
            self.tell(sender, slot, ballot, value)

    def has_quorum(self) -> bool:
        """A majority that has forgotten nothing, or everybody: then nobody knows more than those who have answered."""
        return self.members.has_majority(self._reliable(self.mask)) or self.unanimous

    @property
    def unanimous(self) -> bool:
        """Everybody has answered, and those who have forgotten nothing are no majority."""
        everybody = self.mask.bit_count() == len(self.members.nodes)
        return everybody and bool(self.lossy) and not self.members.has_majority(self._reliable(self.mask))

    def won(self, first: Slot) -> Tenure:
        """The tenure that proposes from ``first`` on."""
        tenure = Tenure(self.ballot, self.members, first)
        tenure.lossy = self.lossy if self.unanimous else {}
        tenure.doubt = self.lossy.get(ballot_node(self.ballot), 0)
        return tenure

    def _reliable(self, mask: int) -> int:
        for node in self.lossy:
            mask &= ~self.members.bit[node]
        return mask

    def has_quorum_within(self, prefix: Slot) -> bool:
        """Whether a majority answered even without those who know more chosen than ``prefix`` and cannot read it: what
        they know chosen was voted for by a majority, which the others overlap."""
        mask = 0
        for node, (chosen, readable) in self._prefixes.items():
            if chosen > prefix and not 0 <= readable <= prefix:
                return False  # it can be asked
            if chosen <= prefix:
                mask |= self.members.bit[node]
        return self.members.has_majority(self._reliable(mask))

    def plan(self, prefix: Slot, noop: Callable[[], bytes]) -> list[tuple[Slot, bytes, bool]] | Undecided:
        """What must be proposed again above ``prefix``: (slot, value, is a filled gap), consecutive, in order.

        Per slot the value of the highest ballot among the promises; a slot without any vote becomes a no-op. Called
        when the proposer itself has learned every slot up to the highest prefix among the promises that count.
        """
        if prefix < self.prefix and not self.has_quorum_within(prefix):
            raise CorgiError("invariant-failed", f"re-proposal below a chosen prefix ({prefix} < {self.prefix})")
        last = max(self.votes, default=Slot(0))
        plan: list[tuple[Slot, bytes, bool]] = []
        for number in range(prefix + 1, last + 1):
            found = self._value(Slot(number))
            if isinstance(found, Undecided):
                return found
            plan.append((Slot(number), noop() if found is None else found, found is None))
        return plan

    def _value(self, slot: Slot) -> bytes | Undecided | None:
        """The value of the highest ballot in which the slot can have been decided.

        A ballot whose votes are all damaged counts, unless those who voted in it and those who do not tell of this slot
        are fewer than a majority: then nothing was chosen in it, and nothing will be, since the others have promised
        this ballot. Each acceptor tells its faulty votes down to one that it can read, so no vote hides behind another.
        """
        told = self.votes.get(slot, {})
        silent = len(self.members.nodes) - sum(chosen < slot for chosen, _ in self._prefixes.values())
        for ballot in sorted(told, reverse=True):
            found = told[ballot]
            if found.value is not None:
                return found.value
            if found.mask.bit_count() + silent >= self.members.majority:
                return Undecided(slot, ballot)
        return None


class _Told:
    """The votes of one ballot in one slot."""

    __slots__ = ("mask", "value")

    def __init__(self) -> None:
        self.mask = 0
        self.value: bytes | None = None


class Undecided(NamedTuple):
    """The value of ``ballot`` in ``slot`` may be chosen, and nobody who answered can read it."""

    slot: Slot
    ballot: Ballot

    def __str__(self) -> str:
        return (
            f"slot {self.slot}: the votes in ballot {ballot_round(self.ballot)}.{ballot_node(self.ballot)} are damaged"
        )


class Flight:
    """One slot on its way: proposed, not yet known chosen."""

    __slots__ = ("chosen", "mask", "on_own_disk", "sent_at", "value")

    def __init__(self, value: Buffer, now: float, on_own_disk: Callable[[], None] | None) -> None:
        self.value = value
        self.mask = 0
        self.chosen = False
        self.sent_at = now
        self.on_own_disk = on_own_disk


class Tenure:
    """Phase 2 in one ballot: the window of slots in flight and their votes."""

    def __init__(self, ballot: Ballot, members: Members, next_slot: Slot) -> None:
        self.ballot = ballot
        self.members = members
        self.next_slot = next_slot
        self.epoch_slot = Slot(0)
        self.flights: dict[Slot, Flight] = {}
        self.commit_sent = Slot(0)
        self.lossy: dict[NodeId, int] = {}  # whose lossy promises were needed for it
        self.doubt = 0  # what the leader's own promise was given in, needed or not
        self.handing_to = NodeId(0)
        self.handing_until = 0.0

    def open(self, value: Buffer, now: float, on_own_disk: Callable[[], None] | None = None) -> Slot:
        """Give ``value`` the next slot."""
        slot = self.next_slot
        self.next_slot = Slot(slot + 1)
        self.flights[slot] = Flight(value, now, on_own_disk)
        return slot

    def overdue(self, now: float) -> list[tuple[Slot, Flight]]:
        """Slots in flight for too long; their clocks start anew."""
        found = [(slot, flight) for slot, flight in self.flights.items() if now - flight.sent_at >= RETRANSMIT_S]
        for _, flight in found:
            flight.sent_at = now
        return found

    def learned_to(self, prefix: Slot) -> bool:
        """Slots up to ``prefix`` are known chosen from elsewhere; False: even slots that this leader has not used."""
        for slot in [slot for slot in self.flights if slot <= prefix]:
            del self.flights[slot]
        return self.next_slot > prefix

    def vote(self, node: NodeId, slot: Slot) -> bool:
        """Count a durable vote in this ballot; True when it made the slot chosen."""
        flight = self.flights.get(slot)
        if flight is None:
            return False
        flight.mask |= self.members.bit[node]
        if flight.chosen or not self.members.has_majority(flight.mask):
            return False
        flight.chosen = True
        return True
