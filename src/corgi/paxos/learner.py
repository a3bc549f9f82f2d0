"""The learner: which prefix of a group's slots is chosen, and the values on their way to apply.

A commit index makes a slot chosen here only if this node voted in that slot in the committing ballot; any other slot's
value is fetched from a peer that knows it chosen. Slots are handed to apply in order, without gaps, each once.
"""

from __future__ import annotations

from corgi.base.command import Buffer, check_value
from corgi.base.errors import CorgiError, InvariantError
from corgi.base.ids import Ballot, GroupId, NodeId, Slot
from corgi.base.ports import FaultyRecord, LogRecord, RecordKind
from corgi.paxos.acceptor import Acceptor
from corgi.paxos.host import Host
from corgi.paxos.messages import Learn, Learned

LEARN_RETRY_S = 0.3
LEARN_SLOTS_MAX = 1024  # in one question: taking in the answer costs tens of microseconds a slot
FAR_SLOTS = 4096  # behind; then a snapshot may be better


class Learner:
    """``prefix``: every slot up to it is chosen and was handed to apply."""

    def __init__(self, group: GroupId, acceptor: Acceptor, host: Host) -> None:
        self.group = group
        self.acceptor = acceptor
        self.host = host
        self.prefix = Slot(0)
        self.known = Slot(0)  # somebody knows this much chosen
        self.claimed = Slot(0)  # a prefix that the log tells behind everything that makes it up
        self.damaged = False  # the log of this node has lost records
        self.no_snapshot_until = 0.0  # one could not be had: values are asked for, however many they are
        self.far_slots = FAR_SLOTS
        self._asked: NodeId | None = None
        self._ask_again_at = 0.0

    def choose(self, slot: Slot, value: Buffer) -> None:
        """Slot ``prefix + 1`` is chosen with ``value``."""
        if slot != self.prefix + 1:
            raise InvariantError(f"group {self.group}: slot {slot} chosen after {self.prefix}")
        self.prefix = slot
        self.acceptor.forget_chosen(slot)
        self.host.chosen(self.group, slot, value)

    def choose_unread(self, slot: Slot) -> None:
        """Slot ``prefix + 1`` is chosen; its value was on the own disk and is damaged."""
        self.prefix = slot
        self.acceptor.forget_chosen(slot)
        self.host.chosen_unread(self.group, slot)

    def begin_from(self, slot: Slot) -> None:
        """A snapshot holds the state after ``slot``: everything up to it is chosen, whatever this node voted for."""
        self.prefix = max(self.prefix, slot)
        for old in [old for old in self.acceptor.votes if old <= slot]:
            self.acceptor.forget_chosen(old)
        self._asked = None

    def cut(self, slot: Slot) -> None:
        """The loss of what is known chosen behind ``slot`` is accepted; votes there stay what they are."""
        self.prefix = self.known = min(self.prefix, slot)
        self.claimed = min(self.claimed, slot)
        self.damaged = True
        self.acceptor.forget_faulty()

    def commit(self, ballot: Ballot, index: Slot, source: NodeId) -> None:
        """The leader of ``ballot`` knows slots up to ``index`` chosen; choose what was voted for in that ballot."""
        votes = self.acceptor.votes
        while self.prefix < index:
            slot = Slot(self.prefix + 1)
            vote = votes.get(slot)
            if vote is None or vote.ballot != ballot or vote.value is None:
                break
            self.choose(slot, vote.value)
        if self.prefix < index:
            self.ask(source, index)

    def ask(self, source: NodeId, index: Slot) -> None:
        """Fetch chosen values up to ``index`` from ``source``; one question at a time.

        One value at a time while the disk is full: what is learned is written down, and would wait in memory for room
        without bound. Then a snapshot, which takes little room, is better: what lies in front of it may not be needed.
        """
        self.known = max(self.known, index)
        now = self.host.now()
        if self._asked is not None and now < self._ask_again_at:
            return
        self._asked = source
        self._ask_again_at = now + LEARN_RETRY_S
        first = Slot(self.prefix + 1)
        self.host.count("learn_requests")
        lean = not self.host.may_copy()
        last = first if lean else Slot(min(index, first + LEARN_SLOTS_MAX))
        far = self.known - self.prefix >= self.far_slots and now >= self.no_snapshot_until
        self.host.send(source, Learn(self.group, first, last, lean, far))

    def on_learned(self, source: NodeId, message: Learned, payload: memoryview) -> Ballot:
        """Chosen values from a peer. They are written as LEARNED records: knowledge, not votes.

        Returns the highest ballot in which this node had voted against one of them; 0 if it had not.
        """
        lost = Ballot(0)
        if sum(message.lengths) != len(payload):
            raise CorgiError("malformed-frame", "the values of a Learned do not fill its payload")
        at = 0
        slot = message.first
        before = self.prefix
        for length in message.lengths:
            value = payload[at : at + length]
            at += length
            if slot == self.prefix + 1:
                check_value(value)
                if not self.host.may_learn(value):
                    break
                lost = max(lost, self._take(slot, bytes(value)))
            slot = Slot(slot + 1)
        if source == self._asked and (self.prefix > before or self.host.may_copy()):
            self._asked = None
        self.known = max(self.known, message.prefix)
        if message.lengths and self.prefix < message.prefix:
            self.ask(source, message.prefix)
        return lost

    def peer_lost(self, peer: NodeId) -> None:
        if peer == self._asked:
            self._asked = None

    def _take(self, slot: Slot, value: bytes) -> Ballot:
        self.host.count("learned_slots")
        self.host.count("learned_bytes", len(value))
        vote = self.acceptor.votes.get(slot)
        against = Ballot(0)
        if vote is not None and vote.value is not None and vote.value != value:
            against = vote.ballot
        if vote is None or vote.value != value:
            record = LogRecord(RecordKind.LEARNED, self.group, Ballot(0), slot, self.prefix, value)
            self.host.persist(record)
        self.choose(slot, value)
        return against

    def recover(self, record: LogRecord) -> None:
        """Take one record of the disk scan: ``commit`` is the prefix that this node knew when it wrote the record.

        What is known chosen has, for each slot, the value of the last record written before: a chosen slot's value
        never changes, and a learned value was written before the prefix moved past it. If that record is damaged, or
        may be lost in a hole, the slot is chosen all the same; its value must come from a peer.
        """
        bound = record.slot if record.kind is RecordKind.STATE else record.commit
        self._recover_to(bound)
        if record.kind is RecordKind.LEARNED:
            self._recover_to(Slot(record.slot - 1))
            if record.slot == self.prefix + 1 and isinstance(record, FaultyRecord):
                self.choose_unread(record.slot)
            elif record.slot == self.prefix + 1:
                self.choose(record.slot, record.payload)

    def recover_hole(self, *, alone: bool = False) -> None:
        """Records are lost here in the log. A member that is ``alone`` proposed nothing else where it had voted."""
        self.damaged = True
        if not alone:
            self.acceptor.recover_hole()

    def _recover_to(self, bound: Slot) -> None:
        while self.prefix < bound:
            slot = Slot(self.prefix + 1)
            vote = self.acceptor.votes.get(slot)
            if vote is None and not self.damaged and not self.acceptor.lazy:
                raise CorgiError(
                    "log-damaged",
                    f"group {self.group}: slot {slot} is known chosen up to {bound}, but its value is missing",
                )
            if vote is None or vote.value is None or vote.doubtful:
                self.choose_unread(slot)
            else:
                self.choose(slot, vote.value)
