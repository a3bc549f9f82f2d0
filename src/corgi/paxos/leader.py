"""The two halves of leadership: a candidate gathers promises, a tenure proposes.

Both belong to one ballot and are thrown away with it. Neither knows of takeover timing, forwarding or the disk.
"""

from __future__ import annotations

from collections.abc import Callable

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, NodeId, Slot
from corgi.base.limits import RETRANSMIT_S
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
        self.mask = 0
        self.polite = 0  # who answered "the leader lives"
        self.best: dict[Slot, tuple[Ballot, bytes]] = {}
        self.prefix = Slot(0)  # highest chosen prefix among the promises
        self.prefix_holder = NodeId(0)
        self._chunks: dict[NodeId, _Chunks] = {}

    def on_promise(self, sender: NodeId, message: Promise, payload: memoryview) -> None:
        """One chunk of a promise; the acceptor counts when all of its chunks are here."""
        if self.mask & self.members.bit[sender]:
            return
        chunks = self._chunks.setdefault(sender, _Chunks())
        if not chunks.add(message, payload):
            return
        for part, values in chunks.by_number.values():
            self._merge(part, values)
        del self._chunks[sender]
        self.mask |= self.members.bit[sender]
        if message.prefix > self.prefix:
            self.prefix = message.prefix
            self.prefix_holder = sender

    def _merge(self, message: Promise, values: memoryview) -> None:
        at = 0
        for slot, ballot, length in message.entries:
            value = bytes(values[at : at + length])
            if len(value) != length:
                raise CorgiError("malformed-frame", "a promise's values end too early")
            at += length
            best = self.best.get(slot)
            if best is None or ballot > best[0]:
                self.best[slot] = (ballot, value)

    def has_quorum(self) -> bool:
        return self.members.has_majority(self.mask)

    def plan(self, prefix: Slot, noop: Callable[[], bytes]) -> list[tuple[Slot, bytes, bool]]:
        """What must be proposed again above ``prefix``: (slot, value, is a filled gap), consecutive, in order.

        Per slot the value of the highest ballot among the promises; a slot without any vote becomes a no-op. Called
        when the proposer itself has learned every slot up to the highest prefix among the promises.
        """
        if prefix < self.prefix:
            raise CorgiError("invariant-failed", f"re-proposal below a chosen prefix ({prefix} < {self.prefix})")
        last = max((slot for slot in self.best), default=Slot(0))
        plan: list[tuple[Slot, bytes, bool]] = []
        for number in range(prefix + 1, last + 1):
            found = self.best.get(Slot(number))
            if found is None:
                plan.append((Slot(number), noop(), True))
            else:
                plan.append((Slot(number), found[1], False))
        return plan


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
