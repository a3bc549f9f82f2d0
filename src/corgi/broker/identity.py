"""May this node vote? Amnesia, wiped and old disks (rules 12 and 13 of docs/consensus.md).

After every start a node asks its peers what they remember of it, and does not vote before enough of them found nothing
above what its disk holds: with itself a majority, after a moment's patience for the others. Beside the promises and
votes that reached them they remember how far its log was durable, which also covers what a leader voted for by itself.
About once a second they write down how far the other's log was durable: so a disk that is older than that is found out
even when they restart themselves before it comes back.

A node in doubt recovers group by group, as a story: (1) it asks the group's leader for a fresh ballot; (2) the leader
prepares anew with a majority that cannot include the asker, since that does not answer Prepare; (3) the leader tells
ballot and slot of its epoch record; (4) the asker learns everything up to that slot, promises that ballot, and votes
again. Any older ballot that the lost disk had promised needed a majority without the asker that overlaps the fresh
ballot's, so it cannot complete unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Slot
from corgi.base.ports import Hole, LogRecord, RecordKind
from corgi.broker.amnesia import MemoryDoubt
from corgi.broker.memories import Memories
from corgi.broker.node_records import NodeRecord, log_record
from corgi.paxos.leader import Tenure
from corgi.paxos.messages import Recall, Rejoin, Rejoined, Remembered

if TYPE_CHECKING:
    from corgi.broker.node import Node

REJOIN_RETRY_S = 0.5
RECALL_PATIENCE_S = 0.15  # how long a peer that has not answered yet may still object
ACCEPTED_MAX = 100  # accepted losses that are carried along in the log
REAFFIRM_RETRY_S = 1.0


class Identity:
    """Whether this node may vote, and whether the others may."""

    def __init__(self, node: Node) -> None:
        self._node = node
        options = node.options
        self.state = "asking"
        self.recovered: Callable[[], None] | None = None  # called once when a recovery is complete and durable
        self.amnesia = MemoryDoubt(self, node)
        self.memories = Memories(node)
        self._trusted_by: set[NodeId] = set()
        self._unsure: set[NodeId] = set()  # peers that know another disk of this node, or have an old one themselves
        self._patience_until = float("inf")
        self._needed = len(options.members) // 2  # peers that make a majority with this node
        self._told: dict[NodeId, tuple[Ballot, ...]] = {}  # what peers had promised since this process began
        self._nonces: dict[GroupId, int] = {}  # of the groups that recover
        self._beginnings = 0  # of recoveries, on their way to the disk
        self._targets: dict[GroupId, tuple[Ballot, Slot]] = {}
        self._ask_at = self._rejoin_at = 0.0
        self._wanted: dict[tuple[GroupId, NodeId], tuple[int, Ballot]] = {}  # rejoins asked of this node
        self._doubted = "the disk was replaced" if options.recovering else ""
        self.given_up: list[str] = []  # losses that the operator accepted, in this life and in earlier ones
        self._hole_behind = False  # of the log, behind the beginning of the last recovery
        self._reaffirm_at = float("inf")
        self._found: Recall  # by ``start``

    @property
    def voting(self) -> bool:
        return self.state == "voting"

    def recovers(self, group: GroupId) -> bool:
        """The group does not vote before it has recovered."""
        return group in self._nonces

    def start(self) -> None:
        self.amnesia.start()
        self._found = self._recall_of()
        if self._doubted and self._needed == 0 and self._node.options.accept_lost_votes:
            self._accept(self._doubted)
        elif self._doubted:
            self._doubt(self._doubted)
        elif self._needed == 0:
            self._trust()
        else:
            self._set_voting(False)

    def recover(self, record: LogRecord) -> None:
        """A NODE record of the disk scan; of those on this node itself the last one holds. Raises "log-damaged"."""
        try:
            found = msgspec.msgpack.decode(record.payload, type=NodeRecord)
        except (msgspec.DecodeError, ValueError) as error:
            what = f"a record about nodes, at {record.position}, makes no sense: {error}"
            raise CorgiError("log-damaged", what) from None
        if found.accepted:
            self.remember_accepted(found.accepted)
        elif found.memory:
            self.amnesia.recover(found)
        elif found.peer == 0:
            if found.recovering:
                self._doubted = self._doubted or "a recovery was interrupted"
                self._hole_behind &= found.repeated
            elif not self._hole_behind:
                self._doubted = ""
        else:
            self.memories.recover(found)

    def recover_hole(self, hole: Hole) -> None:
        """Promises or votes may be lost here in the log. A recovery that began behind it has made up for them."""
        if hole.lazy:
            self.amnesia.recover_hole(hole)
            return
        self._hole_behind = True
        self.amnesia.recover_hole(hole)
        where = f"segment {hole.segment:016x} at offset {hole.start}"
        self._node.count("log_holes")
        self._node.note("log-hole", GroupId(0), f"{where}: {hole.what}")
        for group in self._node.groups:
            group.replica.learner.recover_hole(alone=self._needed == 0)
        self._doubted = f"the log is damaged in {where}: {hole.what}"

    # -- asking ---------------------------------------------------------------------------------------------------

    def peer_connected(self, peer: NodeId) -> None:
        if self.state != "voting":
            self._recall(peer)

    def _recall(self, peer: NodeId) -> None:
        self._node.network.send(peer, self._found)

    def _recall_of(self) -> Recall:
        """What the disk held at the start. Not what it holds later: what a node is told of chosen values while it asks
        makes its log longer, and a disk that has forgotten votes would look as if it had not."""
        marks = tuple(
            (
                group.id,
                group.replica.acceptor.promised_durable,
                max(group.replica.acceptor.highest, group.replica.prefix),
            )
            for group in self._node.groups
            if group.id not in self._nonces  # of those in doubt nothing is claimed
        )
        return Recall(self._node.options.incarnation, marks, self._node.durable_to)

    def on_remembered(self, sender: NodeId, message: Remembered) -> None:
        if len(message.promised) == len(self._node.groups):
            self._told.setdefault(sender, message.promised)
        self._heard_all()
        self._finish_groups()
        if self.state != "asking":
            return
        if not message.sure:
            self._unsure.add(sender)
            self._trusted_by.discard(sender)
            return
        self._unsure.discard(sender)
        if not message.trusted:
            if message.reason:
                self._doubt(message.reason, another=message.another)
            return
        self._trusted_by.add(sender)
        if len(self._trusted_by) == len(self.memories.of):
            self._trust()
        elif self._patience_until == float("inf"):
            self._patience_until = self._node.clock.now() + RECALL_PATIENCE_S

    def _heard_all(self) -> None:
        """What the lost disk had promised is known, as far as anybody knows it."""
        if self.state != "asking" and len(self._told) == len(self.memories.of):
            self.amnesia.asked(self._nonces, self._told.values())

    def _trust(self) -> None:
        self.state = "voting"
        self._set_voting(True)
        self.amnesia.asked(self._nonces)

    def _set_voting(self, voting: bool) -> None:
        for group in self._node.groups:
            group.replica.acceptor.voting = voting and group.id not in self._nonces

    # -- answering ------------------------------------------------------------------------------------------------

    def on_recall(self, sender: NodeId, message: Recall) -> None:
        """Which of two disks of the asker is the newer one only a node can tell whose own disk is not an old one."""
        memory = self.memories.of[sender]
        another = bool(memory.incarnation) and memory.incarnation != message.incarnation
        reason = "the node had another disk before" if another else memory.forgotten(message)
        if not reason and not memory.incarnation:
            self.memories.remember(sender, message.incarnation)
        promised = tuple([group.replica.acceptor.promised for group in self._node.groups])
        told = "" if another and self.state == "recovering" else reason
        sure = not another or self.state != "asking"
        self._node.network.send(sender, Remembered(not reason, told, promised, sure, another))

    # -- recovering -----------------------------------------------------------------------------------------------

    def _doubt(self, reason: str, *, another: bool = False) -> None:
        """``another``: a peer knows another disk of this node."""
        self.state = "recovering"
        self._set_voting(False)
        self._doubted = reason
        self._node.note("recovering", GroupId(0), reason)
        self._node.count("recoveries")
        self._targets.clear()
        if another:
            self.amnesia.replaced()
        self.amnesia.doubt(reason)
        self.begin(range(self._node.options.groups), NodeRecord(0, self._node.options.incarnation, recovering=True))
        self._heard_all()

    def begin(self, groups: Iterable[int], told: NodeRecord) -> None:
        """These groups recover; that is durable before anybody is asked: the peers forget when they are."""
        for number in groups:
            self._nonces[GroupId(number)] = self._nonce()
            self._node.groups[number].replica.acceptor.voting = False
        self._begins(told)

    def _begins(self, told: NodeRecord) -> None:
        self._beginnings += 1
        self.persist(told)

    def reaffirm(self) -> None:
        """Records in the log were lost while this node runs, which knows all that they told. It writes its promises and
        open votes once more, as a recovery behind the loss, so that no later restart is in doubt because of it.

        Not while the value of an open vote cannot be read: that one could not be written again, and a restart that
        cannot find it must be in doubt.
        """
        self._reaffirm_at = float("inf")
        if self.state != "voting":
            return  # the recovery under way, or the peers, settle it
        every = [group.replica.acceptor for group in self._node.groups]
        acceptors = [acceptor for acceptor in every if acceptor.voting]  # others recover, which settles it
        if any(vote.value is None for acceptor in acceptors for vote in acceptor.votes.values()):
            self._reaffirm_at = self._node.clock.now() + REAFFIRM_RETRY_S
            self._node.wake_at(self._reaffirm_at)
            return
        self._write_again()

    def _write_again(self) -> None:
        """Promises and open votes, as a recovery."""
        self._node.count("reaffirmed")
        incarnation = self._node.options.incarnation
        self._begins(NodeRecord(0, incarnation, recovering=True))
        memory = self.amnesia.certain
        if memory:
            self._begins(NodeRecord(0, incarnation, recovering=True, memory=memory))
        for group in self._node.groups:
            if not group.replica.acceptor.voting:
                continue  # its recovery under way settles it
            acceptor, prefix = group.replica.acceptor, group.replica.prefix
            self._node.persist(LogRecord(RecordKind.PROMISE, group.id, acceptor.promised, Slot(0), prefix))
            for slot, vote in acceptor.votes.items():
                if vote.value is not None:
                    record = LogRecord(RecordKind.ACCEPT, group.id, vote.ballot, slot, prefix, vote.value)
                    self._node.persist(record)
        self.persist(NodeRecord(0, incarnation))
        if memory:
            self.persist(NodeRecord(0, incarnation, memory=memory))

    def _accept(self, loss: str) -> None:
        """There is nobody to recover from, and the operator has this node vote all the same. That is written down, and
        told from now on; as is, for later restarts, that behind it nothing is in doubt."""
        self._doubted = ""
        self._node.note("loss-accepted", GroupId(0), loss)
        self.remember_accepted(loss)
        self.persist(NodeRecord(0, self._node.options.incarnation, accepted=loss))
        self._trust()
        self._write_again()

    def remember_accepted(self, loss: str) -> None:
        if loss not in self.given_up and len(self.given_up) < ACCEPTED_MAX:
            self.given_up.append(loss)
            self._node.count("losses_accepted")

    def tick(self, now: float) -> None:
        """Ask again for what is missing, and finish groups that have learned enough."""
        enough = len(self._trusted_by) >= self._needed and not self._unsure
        if self.state == "asking" and now >= self._patience_until and enough:
            self._trust()
        if self.state == "asking" and now >= self._ask_at:
            self._ask_at = now + REJOIN_RETRY_S
            for peer in self.memories.of:
                self._recall(peer)
        self._finish_groups()
        if self._nonces and self.state != "asking" and not self._beginnings and now >= self._rejoin_at:
            self._rejoin_at = now + REJOIN_RETRY_S
            self._ask_rejoins()
        if now >= self._reaffirm_at:
            self.reaffirm()

    def _nonce(self) -> int:
        return self._node.random.getrandbits(48) or 1

    def _ask_rejoins(self) -> None:
        for peer in self.memories.of:
            if peer not in self._told:
                self._recall(peer)
        for group, nonce in self._nonces.items():
            if group not in self._targets:
                for peer in self.memories.of:
                    above = max((told[group] for told in self._told.values()), default=Ballot(0))
                    self._node.network.send(peer, Rejoin(group, nonce, above))

    def on_rejoined(self, sender: NodeId, message: Rejoined) -> None:
        if self.state == "asking" or message.nonce != self._nonces.get(message.group):
            return
        self.amnesia.give_up(message.group)
        self._targets[message.group] = (message.ballot, message.slot)
        replica = self._node.groups[message.group].replica
        if replica.prefix < message.slot:
            replica.learner.ask(sender, message.slot)
        self._finish_groups()

    def _above_old_promises(self, group: GroupId, ballot: Ballot) -> bool:
        """No promise of the lost disk can elect anybody above the fresh ballot; if one might, another is asked for.

        (1) A peer that took no part in the fresh ballot prepares a higher one; the promise that the lost disk gave is
        on its way to it. (2) This node votes in the fresh ballot, and a value is chosen. (3) The peer counts that
        promise, and others who have heard of no vote. So the fresh ballot must be above what each peer has promised,
        itself before all, when asked by this process. If all the others made the majority for it, it is.
        """
        if len(self.memories.of) == self._needed + 1:
            return True
        if len(self._told) < len(self.memories.of):
            return False
        if any(ballot < told[group] for told in self._told.values()):
            del self._targets[group]
            self._nonces[group] = self._nonce()
            return False
        return True

    def _finish_groups(self) -> None:
        if not self._nonces or self.state == "asking":
            return
        self._look_at_own_ballots()
        for group_id, (ballot, slot) in list(self._targets.items()):
            replica = self._node.groups[group_id].replica
            acceptor = replica.acceptor
            if not self._above_old_promises(group_id, ballot):
                continue
            first = Slot(replica.prefix + 1)
            if replica.prefix >= slot or (acceptor.lossy and acceptor.holds(ballot, first, slot)):
                if acceptor.promised < ballot:
                    acceptor.promise(ballot, replica.prefix)
                acceptor.voting, acceptor.lossy = True, 0
                del self._nonces[group_id], self._targets[group_id]
        own = self._node.options.incarnation
        if self.state == "recovering" and not any(group < self._node.options.groups for group in self._nonces):
            self.state = "voting"
            self._node.note("recovered", GroupId(0), "")
            self.persist(NodeRecord(0, own, recovering=False))
        if not any(group >= self._node.options.groups for group in self._nonces):
            self.amnesia.finish()

    def _look_at_own_ballots(self) -> None:
        """A ballot of this node, promised by all or by a majority besides it, leaves it nothing to learn from others:
        they follow it, and lead in no ballot of which they could tell."""
        for group, nonce in self._nonces.items():
            tenure = self._node.groups[group].replica.tenure
            if tenure is not None and tenure.epoch_slot and tenure.doubt == nonce:
                self._targets[group] = (tenure.ballot, tenure.epoch_slot)

    def durable(self, record: LogRecord) -> None:
        """A NODE record is on disk; the last one of a recovery lets the folder forget its doubt."""
        found = msgspec.msgpack.decode(record.payload, type=NodeRecord)
        if found.peer != 0 or found.accepted or found.cut or found.emptied:
            return
        if found.recovering:
            self._beginnings = max(0, self._beginnings - 1)
            return
        if found.memory:
            self.amnesia.durable(found)
            return
        self._doubted = ""
        if self.recovered is not None:
            self.recovered()

    def records(self) -> list[LogRecord]:
        """What the log knows of disks, for the start of a new segment: older ones may be freed.

        A doubt is told from before it is durable until its end is. That there is none is not told: behind a hole in the
        log that nobody has noticed yet, it would be taken for the end of the doubt that comes of it.
        """
        known = self.memories.records()
        own = self._node.options.incarnation
        known += [NodeRecord(0, own, repeated=True, accepted=what) for what in self.given_up]
        if self._doubted:
            known.append(NodeRecord(0, own, recovering=True, repeated=True))
        known += self.amnesia.records()
        return [log_record(told) for told in known]

    # -- helping another to recover -------------------------------------------------------------------------------

    def on_rejoin(self, sender: NodeId, message: Rejoin, incarnation: bytes) -> None:
        """The asker's nonce makes a fresh ballot necessary once; asking again repeats the answer."""
        memory = self.memories.of[sender]
        if incarnation != memory.incarnation:
            self.memories.take_disk(sender, incarnation)
        if message.group < self._node.options.groups:
            memory.durable_to = 0  # its log is another one, or a shorter one
            if memory.marked_to:
                self.memories.mark(sender, memory)
        replica = self._node.groups[message.group].replica
        key = (message.group, sender)
        if replica.tenure is not None and replica.tenure.lossy.get(sender) == message.nonce:
            self._tell_lossy(sender, message, replica.tenure)
            return
        if self._wanted.get(key, (0, Ballot(0)))[0] != message.nonce:
            memory.ballots[message.group], memory.slots[message.group] = Ballot(0), Slot(0)  # it says so itself
            replica.highest_seen = max(replica.highest_seen, message.above)
            self._wanted[key] = (message.nonce, replica.highest_seen)
            if replica.tenure is not None:
                replica.prepare_anew()
            else:
                replica.want_leader()
        self.epoch_applied(message.group)

    def _tell_lossy(self, peer: NodeId, message: Rejoin, tenure: Tenure) -> None:
        """Its own promise, given since it began to recover, was needed for this ballot: no fresher one is possible, and
        there is nothing older that somebody could still complete."""
        if tenure.epoch_slot:
            told = Rejoined(message.group, message.nonce, tenure.ballot, tenure.epoch_slot)
            self._node.network.send(peer, told)

    def epoch_applied(self, group_id: GroupId) -> None:
        """This node may have become leader in a fresh ballot: tell those who wait for one."""
        replica = self._node.groups[group_id].replica
        tenure = replica.tenure
        if tenure is None or not replica.leading:
            return
        for (group, peer), (nonce, seen) in list(self._wanted.items()):
            if group != group_id:
                continue
            if tenure.ballot > seen:
                self._node.network.send(peer, Rejoined(group, nonce, tenure.ballot, tenure.epoch_slot))
            elif replica.proposing:
                replica.prepare_anew()

    def persist(self, record: NodeRecord) -> None:
        self._node.wal.append(log_record(record))
