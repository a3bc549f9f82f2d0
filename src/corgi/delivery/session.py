"""A delivery session: one subscriber of one partition, pushed to while it has credit.

    mode "push" at the tail: every batch leaves in the turn in which it was applied; it is still in memory
    mode "pull" behind: pieces as large as the subscriber asks for with its credit, in turn with the others who are
                behind, mostly from the disk

A subscriber is at the tail once it has been sent the end, and stays there until something holds it up before the next
end: no credit, a client that does not read, a value that has left memory. ``statistics()`` tells mode and switches.

Credit is in bytes: a push takes its bytes off, nothing is pushed at zero, and a batch may overdraw it, so that one
larger than the whole credit passes. The subscriber grants credit anew when it has used up half of what it gave, so that
at the tail its requests are few: a window of W bytes costs one grant per W/2 bytes delivered, and one Credit message
carries the grants of all its subscriptions.

Invariant: what is pushed are applied batches, whole, each once and in the order of their offsets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from corgi.base.errors import OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC
from corgi.base.ids import GroupId, Offset
from corgi.base.ports import ClientSession, Message
from corgi.delivery.committed import gather_for_reader, readable_end
from corgi.delivery.limits import CREDIT_MAX, FRAME_BATCHES, QUANTUM_BATCHES, QUANTUM_BYTES
from corgi.delivery.ports import AppliedLog
from corgi.delivery.turns import Turn
from corgi.delivery.values import Values

TAIL = "push"
CATCHING_UP = "pull"


class SessionStatistics(NamedTuple):
    """A snapshot. ``behind`` counts offsets between the position and the applied end."""

    subscription: int
    mode: str
    offset: Offset
    behind: int
    credit: int
    batches: int
    bytes: int
    switches: int


class DeliveryCounters:
    """Sums over all sessions of a node, ever."""

    __slots__ = ("batches", "begun", "bytes", "frames", "out_of_credit", "to_catching_up", "to_tail")

    def __init__(self) -> None:
        self.batches = 0
        self.bytes = 0
        self.frames = 0
        self.begun = 0
        self.out_of_credit = 0
        self.to_tail = 0
        self.to_catching_up = 0


class Surroundings(NamedTuple):
    """What all sessions share. The two makers build the protocol's messages, which delivery does not know."""

    values: Values
    counters: DeliveryCounters
    make_deliver: Callable[[int, Offset, tuple[int, ...], Offset], Message]  # with where these batches continue
    wake: Callable[[DeliverySession], None]
    end: Callable[[DeliverySession, int, str], None]


class DeliverySession:
    """One (client, partition). ``subscription`` is the client's name for it; credit in bytes."""

    __slots__ = (
        "_around",
        "_asked",
        "_index",
        "batches",
        "bytes",
        "client",
        "committed",
        "consumer_group",
        "credit",
        "ended",
        "group",
        "log",
        "member",
        "offset",
        "queued",
        "subscription",
        "switches",
        "tail",
        "told",
        "waiting",
    )

    def __init__(
        self,
        client: ClientSession,
        subscription: int,
        log: AppliedLog,
        group: GroupId,
        offset: Offset,
        credit: int,
        around: Surroundings,
        *,
        committed: bool = True,
    ) -> None:
        self.client = client
        self.subscription = subscription
        self.consumer_group = ""  # of whom it is, for those who look
        self.member = ""
        self.log = log
        self.group = group
        self.offset = offset
        self.credit = credit
        self.committed = committed
        self.told = offset  # up to here the subscriber was told; what lies between is not for it
        self.tail = offset >= readable_end(log, committed=committed)
        self.queued = False
        self.waiting = False  # for a value from the disk
        self.ended = False
        self.batches = 0
        self.bytes = 0
        self.switches = 0
        self._around = around
        self._asked = False  # for a value from the disk, and it was not taken yet
        self._index = -1  # where the batch at ``offset`` probably is

    @property
    def urgent(self) -> bool:
        return self.tail

    def statistics(self) -> SessionStatistics:
        return SessionStatistics(
            self.subscription,
            TAIL if self.tail else CATCHING_UP,
            self.offset,
            max(0, self.log.end - self.offset),
            self.credit,
            self.batches,
            self.bytes,
            self.switches,
        )

    def grant(self, credit: int) -> bool:
        """More credit; False, and nothing changed, if the sum would pass CREDIT_MAX."""
        if self.credit + credit > CREDIT_MAX:
            return False
        self.credit += credit
        return True

    def value_ready(self) -> None:
        self.waiting = False
        if not self.ended:
            self._around.wake(self)

    def parked(self) -> None:
        self.waiting = False
        self._around.values.forget(self)
        self._note_position(held_up=True)

    def run(self, turn: Turn) -> bool:
        """Push one piece; True if another could follow at once."""
        log = self.log
        if self.ended:
            return False
        if not log.open:
            self._around.end(self, UNKNOWN_TOPIC, "the topic was deleted")
            return False
        if self.waiting:
            return False
        if self.offset < log.start:
            self._around.end(self, OFFSET_OUT_OF_RANGE, f"offset {self.offset} is no longer stored")
            return False
        if self.credit <= 0:
            self._note_position(held_up=True)
            return False
        got = gather_for_reader(
            log,
            self.group,
            self.offset,
            bytes_max=min(self.credit, QUANTUM_BYTES, turn.bytes),
            batches_max=min(QUANTUM_BATCHES, turn.batches),
            values=self._around.values,
            waiter=self,
            urgent=self.tail,
            committed=self.committed,
            hint=self._index,
        )
        self._index = got.next_index
        if got.lengths:
            start, self.told = self.told, max(got.reached, self.told) if got.reached >= 0 else got.next_offset
            self._push(got.lengths, got.size, got.next_offset, turn)
            message = self._around.make_deliver(self.subscription, log.end, tuple(got.lengths), start)
            self.client.push(message, got.buffers)
        elif got.next_offset > self.offset:
            self.offset = got.next_offset
            turn.spend(FRAME_BATCHES, 0)
        if got.error is not None:
            self._around.end(self, got.error.kind.number, got.error.message)
            return False
        if self._asked and not got.pending:
            self._around.values.forget(self)  # compaction may have put elsewhere what was asked for
        self.waiting = self._asked = got.pending
        held_up = got.pending or self.credit <= 0
        self._note_position(held_up)
        return not held_up and self.offset < readable_end(log, committed=self.committed)

    def _push(self, lengths: list[int], size: int, next_offset: Offset, turn: Turn) -> None:
        batches = len(lengths)
        self.offset = next_offset
        self.credit -= size
        self.batches += batches
        self.bytes += size
        counters = self._around.counters
        counters.frames += 1
        counters.batches += batches
        counters.bytes += size
        if self.credit <= 0:
            counters.out_of_credit += 1
        turn.spend(batches + FRAME_BATCHES, size)

    def _note_position(self, held_up: bool) -> None:
        """At the end is at the tail; whoever is held up (no credit, slow client, cold value) before it falls behind."""
        at_end = self.offset >= readable_end(self.log, committed=self.committed)
        if self.tail:
            if held_up and not at_end:
                self.tail = False
                self.switches += 1
                self._around.counters.to_catching_up += 1
        elif at_end:
            self.tail = True
            self.switches += 1
            self._around.counters.to_tail += 1
