"""Damaged values are fetched from peers, checked, and written again. Serves the same question of peers.

A value is asked of one peer after the other until one has it, together with others that are asked of the same peer. It
goes back to where it lay if the record's header there is sound, so that the segment is as it was, byte for byte; else
into a new record, which is knowledge and not a vote.
When every other member has said that it cannot read the value either, it is lost as far as anybody knows: that is told,
those who wait get "record-lost", and it is asked for again from time to time.

Invariant: nothing is written that does not hold the value's own checksum and, in place, the one the header tells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from corgi.base.command import Buffer, check_value
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Offset, Slot, TopicId
from corgi.base.limits import KIB, MIB, VALUE_BYTES_MAX
from corgi.base.ports import LogRecord, RecordKind
from corgi.broker.values import Done, Faulty
from corgi.paxos.acceptor import Vote
from corgi.paxos.messages import ReadSlot, ReadSlots, SlotRead, SlotsRead

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node

ASKS_MAX = 1024  # values asked for and not answered
ASKED_BYTES_MAX = 8 * MIB
UNKNOWN_BYTES = VALUE_BYTES_MAX  # what a value counts whose length is not known
TOGETHER_MAX = 64  # values in one question, and …
TOGETHER_BYTES = 256 * KIB  # … bytes, so that taking in the answer holds nobody up
READS_MAX = 64  # of other nodes, served at once; what is above is dropped and asked again
ASK_RETRY_S = 0.5  # without an answer
BUSY_RETRY_S = 5.0  # … while its peer answers other questions: on a slow link they come one behind the other
TOGETHER_VERSION = 2  # who speaks it knows ReadSlots
LOST_RETRY_S = 5.0  # a peer that was down may have the value
PATIENCE_S = 2.0  # those who wait are told that it takes longer
CHOSEN = Ballot(0)  # in an answer: the value of no vote but of the slot
RANGES_MAX = 100  # lost values that are told with their offsets
NOTES_MAX = 100  # values named one by one in the log of events

_Key = tuple[GroupId, Slot]


class _Want:
    """One value that is missing here."""

    __slots__ = ("asked", "at", "denied", "length", "lost", "since", "waiters")

    def __init__(self, now: float) -> None:
        self.waiters: list[Done] = []
        self.asked = NodeId(0)
        self.length = 0  # of what was asked for, in bytes, as far as it is known
        self.at = now  # asked then; or, while nobody is asked, not before
        self.since = now
        self.denied: set[NodeId] = set()
        self.lost = False


class Repairs:
    """See the module. ``lost``: values that no member could read when it was asked last."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._peers = [peer for peer in node.options.members if peer != node.options.node]
        self._wants: dict[_Key, _Want] = {}
        self._queue: deque[_Key] = deque()  # to be asked as soon as there is room
        self._asking: dict[_Key, _Want] = {}
        self._resting: dict[_Key, _Want] = {}  # nobody to ask at the moment
        self._serving = 0
        self._answered = dict.fromkeys(self._peers, 0.0)  # when each peer answered last
        self._together: set[NodeId] = set()  # peers that can be asked for several values in one question
        self._notes = 0

    @property
    def wanted(self) -> int:
        """Values that are missing here."""
        return len(self._wants)

    @property
    def lost(self) -> list[tuple[GroupId, Slot]]:
        return [key for key, want in self._wants.items() if want.lost]

    @property
    def hopeful(self) -> int:
        """Values that are missing here and may come from a member."""
        return sum(1 for want in self._wants.values() if not want.lost)

    def hopes_for(self, peer: NodeId, group: GroupId, last: Slot) -> bool:
        """Some value up to ``last`` is missing here and may come from this peer, which has not said that it cannot."""
        return any(
            key[0] == group and key[1] <= last and not want.lost and peer not in want.denied
            for key, want in self._wants.items()
        )

    def lost_ranges(self) -> list[tuple[TopicId, int, Offset, Offset]]:
        """What of the partitions is lost, as far as anybody knows: (topic, partition, first and last offset)."""
        slots: dict[GroupId, set[Slot]] = {}
        for group, slot in self.lost[:RANGES_MAX]:
            slots.setdefault(group, set()).add(slot)
        return [
            (topic, partition, first, last)
            for group, lost in slots.items()
            for (topic, partition), log in self._node.groups[group].machine.partitions.items()
            for first, last in log.within(lost)
        ]

    def start(self) -> None:
        """The scan is over: ask for whatever it found damaged."""
        for group in self._node.groups:
            for slot in group.values.faulty[group.id]:
                self.want(group.id, slot)

    def want(self, group: GroupId, slot: Slot, done: Done | None = None) -> None:
        """Have a faulty value back; ``done`` is called later with it, with "record-damaged" if it takes long, or with
        "record-lost"."""
        key = (group, slot)
        want = self._wants.get(key)
        if want is None:
            want = self._wants[key] = _Want(self._node.clock.now())
            if done is None:
                self._queue.append(key)
            else:
                self._queue.appendleft(key)  # a reader waits
            self._note("value-damaged", key)
        elif not want.waiters:
            want.since = self._node.clock.now()
        if done is not None:
            want.waiters.append(done)
            if want.lost:
                self._node.later(partial(self._tell, key, want))
        self._node.wake_at(self._node.clock.now())

    def peer_connected(self, peer: NodeId, version: int) -> None:
        """Somebody new may have what is missing."""
        if version >= TOGETHER_VERSION:
            self._together.add(peer)
        else:
            self._together.discard(peer)
        for key, want in list(self._resting.items()):
            if want.lost:
                want.denied.clear()
            self._again(key, want)

    def tick(self, now: float) -> None:
        """Ask the next peer when one does not answer, and go on with what waits."""
        for key, want in list(self._asking.items()):
            busy = now < self._answered[want.asked] + ASK_RETRY_S
            if now >= want.at + (BUSY_RETRY_S if busy else ASK_RETRY_S):
                del self._asking[key]
                self._queue.append(key)
        for key, want in list(self._resting.items()):
            if want.waiters and now >= want.since + PATIENCE_S:
                self._tell(key, want)
            if now >= want.at:
                want.denied.clear()  # who had not got it may have it by now
                self._look_again(key)
                self._again(key, want)
        self._pump(now)

    def on_read_slot(self, sender: NodeId, message: ReadSlot) -> None:
        """A peer's value is damaged. Answered with this node's, if it is readable here; with nothing if it is not."""
        group, slot = self._node.groups[message.group], message.slot
        if not 1 <= slot <= group.replica.prefix:
            self._serve_vote(sender, message, group.replica.acceptor.votes.get(slot))
        elif self._serving < READS_MAX:
            self._read_slot(sender, group, slot)

    def on_read_slots(self, sender: NodeId, message: ReadSlots, group: Group) -> None:
        """The same of several: what lies on this node as it should is answered together, the rest one by one. What
        makes the answer too large is left out, and asked for again."""
        if len(message.slots) != len(message.ballots) or len(message.slots) > TOGETHER_MAX:
            raise CorgiError("malformed-frame", "a ReadSlots names other ballots than slots, or too many slots")
        if self._serving >= READS_MAX:
            return
        told: list[Slot] = []
        size = 0
        for slot, ballot in zip(message.slots, message.ballots, strict=True):
            if not 1 <= slot <= group.replica.prefix:
                self.on_read_slot(sender, ReadSlot(group.id, slot, ballot))
            elif group.values.tellable(group.id, slot):
                if size < TOGETHER_BYTES:
                    told.append(slot)
                size += group.values.length(group.id, slot)
            else:
                self._read_slot(sender, group, slot)
        if told:
            self._serving += 1
            group.values.tell(group.id, told, lambda found: self._serve_many(sender, group, told, found))

    def _serve_many(self, sender: NodeId, group: Group, slots: list[Slot], found: list[Buffer | CorgiError]) -> None:
        self._serving -= 1
        values: dict[Slot, Buffer] = {}
        for slot, value in zip(slots, found, strict=True):
            if isinstance(value, CorgiError):
                self._read_slot(sender, group, slot)
            else:
                values[slot] = value
        if values:
            self._node.count("repairs_served", len(values))
            lengths = tuple([len(value) for value in values.values()])
            self._node.network.send(sender, SlotsRead(group.id, tuple(values), lengths), b"".join(values.values()))

    def _read_slot(self, sender: NodeId, group: Group, slot: Slot) -> None:
        """A chosen value, or whatever this node has for it."""
        self._serving += 1

        def answer(found: Buffer | CorgiError, ballot: Ballot) -> None:
            self._serving -= 1
            self._serve(sender, group.id, slot, None if isinstance(found, CorgiError) else found, ballot)

        def read(found: Buffer | CorgiError) -> None:
            vote = group.values.faulty[group.id].get(slot)
            if isinstance(found, CorgiError) and vote is not None and not vote.proven:
                self._node.wal.read(vote.position, vote.length, lambda found: answer(found, vote.ballot))
            else:
                answer(found, CHOSEN)

        value = group.values.read_here(group.id, slot, read)
        if value is not None:
            read(value)

    def on_slot_read(self, sender: NodeId, message: SlotRead, payload: memoryview) -> None:
        """A peer's answer."""
        self._take(sender, message, payload)
        self._pump(self._node.clock.now())

    def on_slots_read(self, sender: NodeId, message: SlotsRead, payload: memoryview) -> None:
        """A peer's answer to a question for several. Raises CorgiError "malformed-frame"."""
        if len(message.slots) != len(message.lengths) or sum(message.lengths) != len(payload):
            raise CorgiError("malformed-frame", "the values of a SlotsRead do not fill its payload")
        at = 0
        for slot, length in zip(message.slots, message.lengths, strict=True):
            self._take(sender, SlotRead(message.group, slot, found=True), payload[at : at + length])
            at += length
        self._pump(self._node.clock.now())

    def _take(self, sender: NodeId, message: SlotRead, payload: memoryview) -> None:
        key = (message.group, message.slot)
        self._answered[sender] = self._node.clock.now()
        want = self._wants.get(key)
        if want is None:
            return
        faulty = self._node.groups[message.group].values.faulty[message.group].get(message.slot)
        if faulty is None:
            self._settle(key, want)
        elif not message.found or not self._sound(payload, faulty):
            self._deny(key, want, sender)
        elif message.ballot == CHOSEN or (faulty.proven and message.ballot == faulty.ballot):
            self._restore(key, want, faulty, bytes(payload))
        elif faulty.proven and faulty.position >= 0:
            self._try_in_place(key, want, faulty, bytes(payload), sender)
        else:
            self._deny(key, want, sender)

    def _look_again(self, key: _Key) -> None:
        """Nobody had the value for a while: a disk that failed to read may read now."""
        group, slot = self._node.groups[key[0]], key[1]
        faulty = group.values.faulty[key[0]].get(slot)
        if faulty is None or faulty.position < 0 or not faulty.proven:
            return

        def read(found: bytes | CorgiError) -> None:
            want = self._wants.get(key)
            sound = isinstance(found, bytes) and self._sound(memoryview(found), faulty)
            if want is not None and sound and group.values.faulty[key[0]].get(slot) == faulty:
                assert isinstance(found, bytes)
                group.values.restored(*key, faulty.position, faulty.length)
                self._restored(key, want, found)

        self._node.wal.read_disk(faulty.position, faulty.length, read)

    # -- asking ---------------------------------------------------------------------------------------------------

    def _again(self, key: _Key, want: _Want) -> None:
        self._asking.pop(key, None)
        self._resting.pop(key, None)
        if key not in self._queue:
            self._queue.append(key)

    def _pump(self, now: float) -> None:
        if not self._queue:
            return
        together: dict[tuple[NodeId, GroupId], list[Slot]] = {}
        size = sum(want.length for want in self._asking.values())
        while self._queue and len(self._asking) < ASKS_MAX and size < ASKED_BYTES_MAX:
            key = self._queue.popleft()
            want = self._wants.get(key)
            if want is None:
                continue
            values = self._node.values
            if values.let_go(*key):
                self._settle(key, want)
                continue
            peer = self._next_peer(want)
            if peer:
                want.asked, want.at = peer, now
                want.length = values.faulty[key[0]][key[1]].length or UNKNOWN_BYTES
                size += want.length
                self._asking[key] = want
                together.setdefault((peer, key[0]), []).append(key[1])
            else:
                self._rest(key, want, now)
        for (peer, group), slots in together.items():
            self._ask(peer, group, slots)

    def _ask(self, peer: NodeId, group: GroupId, slots: list[Slot]) -> None:
        """In questions whose answers are not too large."""
        faulty = self._node.values.faulty[group]
        at = 0
        while at < len(slots):
            size, first = 0, at
            most = TOGETHER_MAX if peer in self._together else 1
            while at < len(slots) and at - first < most and size < TOGETHER_BYTES:
                size += self._asking[group, slots[at]].length
                at += 1
            asked = tuple(slots[first:at])
            ballots = tuple([faulty[slot].ballot for slot in asked])
            single = len(asked) == 1
            message = ReadSlot(group, asked[0], ballots[0]) if single else ReadSlots(group, asked, ballots)
            self._node.network.send(peer, message)

    def _next_peer(self, want: _Want) -> NodeId:
        """The next one in the ring that is linked and did not deny; 0 if there is none."""
        at = self._peers.index(want.asked) + 1 if want.asked else 0
        for peer in self._peers[at:] + self._peers[:at]:
            if peer not in want.denied and self._node.linked(peer):
                return peer
        return NodeId(0)

    def _rest(self, key: _Key, want: _Want, now: float) -> None:
        want.at = now + (LOST_RETRY_S if want.denied else ASK_RETRY_S)
        if len(want.denied) == len(self._peers):
            if not want.lost:
                want.lost = True
                self._node.values.give_up_vote(*key)
                self._node.count("lost_values")
                self._note("value-lost", key)
            self._node.later(partial(self._tell, key, want))
        self._resting[key] = want
        self._node.wake_at(want.at)

    def _tell(self, key: _Key, want: _Want) -> None:
        """Those who wait do not wait longer."""
        what = f"the value of slot {key[1]} of group {key[0]} is damaged"
        if want.lost:
            error = CorgiError("record-lost", f"{what} on every node")
        else:
            error = CorgiError("record-damaged", f"{what} here, and no node that can be reached has it")
        waiters, want.waiters = want.waiters, []
        for done in waiters:
            done(error)

    def _deny(self, key: _Key, want: _Want, peer: NodeId) -> None:
        want.denied.add(peer)
        self._again(key, want)

    # -- restoring ------------------------------------------------------------------------------------------------

    def _sound(self, payload: memoryview, faulty: Faulty) -> bool:
        try:
            check_value(payload)
        except CorgiError:
            return False
        return faulty.position < 0 or len(payload) == faulty.length

    def _try_in_place(self, key: _Key, want: _Want, faulty: Faulty, value: bytes, peer: NodeId) -> None:
        """A peer has voted for this value and does not know whether it was chosen. It was, if it is what the header of
        the damaged record names by length and checksum."""
        group = self._node.groups[key[0]]

        def written(error: CorgiError | None) -> None:
            if key not in self._wants:
                return
            if error is not None:
                self._deny(key, want, peer)
                return
            group.values.restored(*key, faulty.position, len(value))
            self._node.count("repaired_in_place")
            self._restored(key, want, value)

        self._in_place(faulty, value, written)

    def _in_place(self, faulty: Faulty, value: bytes, written: Callable[[CorgiError | None], None]) -> None:
        """What is only written, and not yet synced, lies where the writer is."""
        if faulty.position >= 0 and faulty.position + len(value) <= self._node.wal.synced_position:
            self._node.wal.repair(faulty.position, value, written)
        else:
            written(CorgiError("record-damaged"))

    def _restored(self, key: _Key, want: _Want, value: bytes) -> None:
        self._node.snapshots.moved(key[0])  # the last snapshot may have told it as missing
        self._finish(key)
        self._node.count("repaired_values")
        self._node.count("repaired_bytes", len(value))
        if want.lost:
            self._node.count("lost_values", -1)
        self._note("value-repaired", key)
        for done in want.waiters:
            done(value)

    def _restore(self, key: _Key, want: _Want, faulty: Faulty, value: bytes) -> None:
        """Serve it from memory at once, and write it down."""
        group = self._node.groups[key[0]]
        group.values.fetched(*key, value)
        self._restored(key, want, value)

        def written(error: CorgiError | None) -> None:
            if error is None:
                self._node.count("repaired_in_place")
                group.values.restored(*key, faulty.position, len(value))
            else:
                record = LogRecord(RecordKind.LEARNED, key[0], Ballot(0), key[1], group.replica.prefix, value)
                self._node.persist(record)

        self._in_place(faulty, value, written)

    def _settle(self, key: _Key, want: _Want) -> None:
        """The value came another way, or is no longer wanted."""
        self._finish(key)
        if want.lost:
            self._node.count("lost_values", -1)
        for done in want.waiters:
            value = self._node.values.read(*key, done)
            if value is not None:
                done(value if isinstance(value, CorgiError) else bytes(value))

    def _finish(self, key: _Key) -> None:
        self._wants.pop(key, None)
        self._asking.pop(key, None)
        self._resting.pop(key, None)

    def _serve_vote(self, peer: NodeId, message: ReadSlot, vote: Vote | None) -> None:
        """The vote in the ballot that is asked for, else the highest that can be read."""
        told = {} if vote is None else {ballot: value for ballot, value in vote.told() if value is not None}
        ballot = message.ballot if message.ballot in told else max(told, default=Ballot(0))
        self._serve(peer, message.group, message.slot, told.get(ballot), ballot)

    def _serve(self, peer: NodeId, group: GroupId, slot: Slot, value: Buffer | None, ballot: Ballot = CHOSEN) -> None:
        if value is None:
            self._node.network.send(peer, SlotRead(group, slot, found=False))
            self._node.catch_up.absent(peer, group, slot)
        else:
            self._node.count("repairs_served")
            self._node.network.send(peer, SlotRead(group, slot, True, ballot), value)

    def _note(self, name: str, key: _Key) -> None:
        self._notes += 1
        if self._notes <= NOTES_MAX or name == "value-lost":
            self._node.note(name, key[0], f"slot {key[1]}")
