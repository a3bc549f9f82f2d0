"""The checks at each step: an onlooker who sees every disk, every message and every replica, and trusts no node.

It reckons by itself which value is chosen in which slot, from the votes that are durable, and holds against it what
replicas believe, what acceptors answer and what clients are told. A broken rule is noted once, by name; the run stops.

    agreement             two values for one slot, or a vote against a value already chosen
    promise-went-back     a disk holds a lower promise behind a higher one, or a vote below a promise
    synced-record-lost    a restart forgot a promise or a vote that was synced
    hole-without-damage   a restart finds a loss that puts all groups in doubt, where no disk was damaged
    learned-unchosen      a node wrote down as chosen what no majority had voted for
    chosen-without-quorum a replica takes a slot as chosen that no majority had voted for
    diverged              two replicas applied the same slots and hold different states
    answer-not-durable    a Prepare, a Promise or an Accepted left before its record was synced
    false-commit          a leader's commit index covers a slot in which its ballot lost to another value
    amnesiac-vote         a node without its old state voted before it had recovered from a quorum
    forward-out-of-ballot a leader proposed a forwarded command in another ballot than the forward named
    early-answer          a client was told of an append that this node has not applied
    node-failed           a node found a fault in itself
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from corgi.base.command import Buffer, iter_commands, peek_command, split_commands
from corgi.base.ids import Ballot, GroupId, NodeId, Origin, Slot, ballot_node, ballot_round, origin_node
from corgi.base.ports import FaultyRecord, LogRecord, RecordKind
from corgi.broker.node_records import NodeRecord
from corgi.history.model import Violation
from corgi.paxos.messages import Accept, Accepted, Commit, Forward, Heartbeat, PeerMessage, Prepare, Promise, Rejoined
from corgi.sim.disk_memory import DiskMemory
from corgi.sim.world import World
from corgi.wire.messages import Produce, ProduceReply, WireMessage

if TYPE_CHECKING:
    from corgi.sim.process import Process

_PROMISING = (RecordKind.PROMISE, RecordKind.ACCEPT, RecordKind.STATE)


class Focus(NamedTuple):
    """Where a rule was broken, as far as one can tell: 0 is every node or slot, -1 every group."""

    node: int = 0
    group: int = -1
    slot: int = 0


NOWHERE = Focus()


class Ballots:
    """The votes of one slot: per ballot the value and who voted."""

    __slots__ = ("by_ballot", "chosen", "value")

    def __init__(self) -> None:
        self.by_ballot: dict[Ballot, tuple[bytes, set[NodeId]]] = {}
        self.chosen = Ballot(0)  # the lowest ballot known to have chosen
        self.value = b""


class Ledger:
    """One run's onlooker."""

    def __init__(self, world: World, nodes: int, groups: int = 2**16) -> None:
        """``groups``: how many are not memory groups, which lie behind them."""
        self._groups = groups
        self._lossy_seen: set[tuple[GroupId, Ballot]] = set()
        # Memory groups that went on although a majority had forgotten votes: from which slot on, and the ballot that
        # all had promised; votes below it choose nothing there any more.
        self.restarted: dict[GroupId, list[tuple[Slot, Ballot]]] = {}
        self.world = world
        self.majority = nodes // 2 + 1
        self.violations: list[Violation] = []
        self.focus = NOWHERE
        self.chosen_slots = 0
        self._slots: dict[tuple[GroupId, Slot], Ballots] = {}
        self._digests: dict[tuple[GroupId, Slot], tuple[int, NodeId]] = {}
        self._highest: dict[GroupId, Slot] = {}  # prefix of the replica that is furthest
        self._heard: set[tuple[NodeId, GroupId, Slot, Ballot]] = set()
        self._unheard: set[tuple[NodeId, GroupId, Slot, Ballot]] = set()  # forgotten, but perhaps still on their way
        self._committed: dict[tuple[GroupId, Ballot], Slot] = {}  # commit indexes told, per ballot
        self._forwards: dict[tuple[Origin, int], set[Ballot]] = {}  # command, in which ballots it may be proposed
        self._proposed: dict[tuple[GroupId, Slot], list[Buffer]] = {}
        self._taken: dict[tuple[NodeId, GroupId], list[Ballot]] = {}  # granted and told to a node in doubt
        self._granted: dict[tuple[NodeId, int, GroupId], Ballot] = {}  # who, after which loss, from which ballot on

    def violate(self, name: str, detail: str, focus: Focus | None = None) -> None:
        """A broken rule, by name; ``focus`` tells where, for those who read what led to it."""
        if not self.violations and focus is not None:
            self.focus = focus
        self.violations.append(Violation(name, detail, self.world.now))
        self.world.halt()

    # ---- disks

    def synced(self, node: NodeId, memory: DiskMemory, records: Sequence[LogRecord]) -> None:
        """These records became durable on this node's disk, in this order."""
        for record in records:
            self._write_down(node, memory, record)
            if record.kind in (RecordKind.LEARNED, RecordKind.STORE):
                ballots = self._slots.get((record.group, record.slot))
                if ballots is None or not ballots.chosen or ballots.value != record.payload:
                    self.violate("learned-unchosen", f"node {node} learned {record}", _of(node, record))

    def recovered(
        self,
        node: NodeId,
        memory: DiskMemory,
        records: Sequence[LogRecord],
        *,
        holes: int,
        covered: Sequence[Slot] = (),
    ) -> bool:
        """A restart read these records. What was synced before is among them, covered by a group's snapshot, or
        overtaken by a later vote in the slot, unless there are ``holes``.

        True: promises or votes are lost in one.
        """
        found = DiskMemory()
        for record in records:
            self._write_down(node, found, record, memory)
        found.votes |= {vote for vote in memory.votes if covered and vote[1] <= covered[vote[0]]}
        highest = {(group, slot): ballot for group, slot, ballot in sorted(found.votes)}
        known = {
            (group, slot, ballot)
            for group, slot, ballot in memory.votes - found.votes
            if covered and (slot <= covered[group] or ballot < highest.get((group, slot), 0))
        }
        found.votes |= known
        # The end of a recovery, or the operator's word, may have reached the disk without anybody's hearing of it.
        memory.votes -= (found.past & memory.settling) | found.given_up
        if holes:
            memory.votes -= {vote for vote in memory.votes - found.votes if self._made_up_for(node, vote, found)}
        lost = holes > 0 and found.lacks(memory)
        if lost:
            self.forget_unheard(node, found)
            memory.promised, memory.written, memory.votes = {}, {}, set()
        for group, ballot in sorted(memory.promised.items()):
            if found.promised.get(group, 0) < ballot:
                self.violate(
                    "synced-record-lost",
                    f"node {node} group {group}: promise {_show(ballot)} is gone",
                    Focus(node, group),
                )
        for group, slot, ballot in sorted(memory.votes - found.votes):
            text = f"node {node} group {group}: vote {_show(ballot)} in {slot} is gone"
            self.violate("synced-record-lost", text, Focus(node, group, slot))
        memory.marks = found.marks
        memory.known = found.known
        memory.promised = found.promised
        memory.sworn = {**memory.sworn, **found.sworn}
        memory.written = {**memory.written, **found.written}
        memory.votes = found.votes
        memory.faulty = found.faulty
        memory.settling = found.settling
        memory.past |= found.past
        memory.excused = set()
        return lost

    def lazily_lost(
        self, node: NodeId, memory: DiskMemory, records: Sequence[LogRecord], covered: Sequence[Slot]
    ) -> bool:
        """Of what a restart is about to read, votes in memory groups are missing that nothing has made up for."""
        found = DiskMemory()
        highest: dict[tuple[GroupId, Slot], Ballot] = {}
        for record in records:
            if record.kind in _PROMISING:
                group, ballot = record.group, record.ballot
                found.promised[group] = max(found.promised.get(group, Ballot(0)), ballot)
                if record.kind is RecordKind.ACCEPT:
                    highest[group, record.slot] = max(highest.get((group, record.slot), Ballot(0)), ballot)
        return any(
            group >= self._groups
            and slot > (covered[group] if covered else 0)
            and ballot > highest.get((group, slot), 0)
            and not self._made_up_for(node, (group, slot, ballot), found)
            for group, slot, ballot in memory.votes
        )

    def power_lost(self, node: NodeId, memory: DiskMemory) -> None:
        """What this disk knew of memory groups may be gone, but for its promises."""
        for group in [group for group in memory.promised if group >= self._groups]:
            memory.promised[group] = memory.sworn.get(group, Ballot(0))
            memory.written.pop(group, None)
        gone = {vote for vote in memory.votes if vote[0] >= self._groups}
        memory.past |= gone
        memory.votes -= gone
        memory.settling = {vote for vote in memory.settling if vote[0] < self._groups}
        self.forget_unheard(node, memory, first=self._groups)

    def restarted_with_loss(self, process: Process, group: GroupId, first: Slot) -> None:
        """A leader was promised by all, of whom a majority may have forgotten votes: what was chosen from ``first`` on,
        which none of them has applied, may be gone."""
        running = [other for node in process.cluster.members if (other := process.cluster.process_of(node)) is not None]
        first = Slot(max(first, 1 + max(other.node.groups[group].machine.applied for other in running)))
        for key in [key for key in self._slots if key[0] == group and key[1] >= first]:
            del self._slots[key]
        for applied in [key for key in self._digests if key[0] == group and key[1] >= first]:
            del self._digests[applied]
        self._highest[group] = min(self._highest.get(group, Slot(0)), Slot(first - 1))
        tenure = process.node.groups[group].replica.tenure
        if tenure is not None:
            self.restarted.setdefault(group, []).append((first, tenure.ballot))
            for node in tenure.lossy:
                self._granted[(*process.peer_losses(node, group), group)] = tenure.ballot

    def _made_up_for(self, node: NodeId, vote: tuple[GroupId, Slot, Ballot], found: DiskMemory) -> bool:
        """The node has recovered since, and promised a ballot above this vote: a hole where it lay means nothing."""
        group, _, ballot = vote
        promised = found.promised.get(group, 0)
        return any(ballot < granted <= promised for granted in self._taken.get((node, group), ()))

    def granted(self, node: NodeId, message: Rejoined) -> None:
        """A node in doubt is told of a fresh ballot."""
        self._taken.setdefault((node, message.group), []).append(message.ballot)

    def forget_unheard(self, node: NodeId, kept: DiskMemory, *, first: int = 0) -> None:
        """A disk lost votes. Those that nobody has heard of never happened, unless somebody hears of them yet."""
        for (group, slot), ballots in sorted(self._slots.items()):
            if slot <= self._highest.get(group, 0) or group < first:
                continue
            for ballot, (_, voters) in sorted(ballots.by_ballot.items()):
                heard = (node, group, slot, ballot) in self._heard
                if node in voters and not heard and (group, slot, ballot) not in kept.votes:
                    voters.discard(node)
                    self._unheard.add((node, group, slot, ballot))
            if ballots.chosen and all(len(voters) < self.majority for _, voters in ballots.by_ballot.values()):
                ballots.chosen = Ballot(0)

    def heard(self, sender: NodeId, message: Accepted) -> None:
        """A proposer counts this vote."""
        vote = (sender, message.group, message.slot, message.ballot)
        self._heard.add(vote)
        if vote in self._unheard:
            self._unheard.discard(vote)
            ballots = self._slots[message.group, message.slot]
            value, voters = ballots.by_ballot[message.ballot]
            voters.add(sender)
            if len(voters) >= self.majority:
                self._choose((message.group, message.slot), ballots, message.ballot, value)

    def _write_down(
        self, node: NodeId, memory: DiskMemory, record: LogRecord, before: DiskMemory | None = None
    ) -> None:
        """``before``: what is known of the disk, if this is a second look at it."""
        if record.kind is RecordKind.NODE:
            self._told(memory, msgspec.msgpack.decode(record.payload, type=NodeRecord))
        group, ballot = record.group, record.ballot
        itself = record.kind in (RecordKind.STATE, RecordKind.LEARNED)
        memory.known[group] = max(memory.known.get(group, Slot(0)), record.slot if itself else record.commit)
        if record.kind not in _PROMISING:
            return
        if record.kind is RecordKind.ACCEPT:
            vote = (group, record.slot, ballot)
            memory.settling.discard(vote)
            if not isinstance(record, FaultyRecord):
                memory.faulty.discard(vote)
            elif vote not in memory.votes:  # else it can be read where it lay before
                memory.faulty.add(vote)
            if vote in memory.votes:
                return  # copied forward to a newer segment
            memory.votes.add(vote)
            if not isinstance(record, FaultyRecord) and not (before is not None and self._given_up(vote)):
                self._vote(node, record)
            known = vote in memory.past and record.release is None  # only a copy is told to nobody
            known |= before is not None and (vote in before.votes or vote in before.past)
            if known and memory.written.get(group, 0) > ballot:
                return  # copied forward, and the segment where it lay first was freed
        memory.promised[group] = max(memory.promised.get(group, Ballot(0)), ballot)
        if record.kind is not RecordKind.STATE:
            written = memory.written.get(group, Ballot(0))
            if ballot < written:
                text = f"node {node}: {record} behind a promise of {_show(written)}"
                self.violate("promise-went-back", text, _of(node, record))
            memory.written[group] = max(written, ballot)
        if record.kind is RecordKind.PROMISE:
            memory.sworn[group] = max(memory.sworn.get(group, Ballot(0)), ballot)

    def _given_up(self, vote: tuple[GroupId, Slot, Ballot]) -> bool:
        """A lossy restart went past this vote, of which no promise told: what a disk still tells of it is history."""
        group, slot, ballot = vote
        return any(slot >= first and ballot < promised for first, promised in self.restarted.get(group, ()))

    def _told(self, memory: DiskMemory, told: NodeRecord) -> None:
        for group, slot in told.cut:  # the operator accepts the loss: of what was known chosen, and of damaged votes
            known = memory.known.get(group, Slot(0))
            behind = {vote for vote in memory.votes if vote[0] == group and vote[1] > slot}
            lost = {vote for vote in behind if vote[1] <= known or vote in memory.faulty}
            memory.known[group] = min(known, slot)
            memory.votes -= lost
            memory.faulty -= lost
            memory.given_up |= lost
            memory.past |= lost
        if told.accepted or told.cut or told.emptied:
            return
        if told.peer:
            if told.durable_to >= 0:
                memory.marks[NodeId(told.peer)] = told.durable_to
            return
        lazy = bool(told.memory)  # a recovery is of the memory groups, or of all others
        over = {vote for vote in memory.settling if (vote[0] >= self._groups) == lazy}
        if told.recovering and not told.repeated:
            memory.settling -= over
            memory.settling |= {vote for vote in memory.votes if (vote[0] >= self._groups) == lazy}
        elif not told.recovering:
            memory.excused |= memory.votes & over
            memory.past |= memory.votes & over
            memory.votes -= over
            memory.settling -= over
            memory.settled += not lazy

    def _vote(self, node: NodeId, record: LogRecord) -> None:
        key = (record.group, record.slot)
        ballots = self._slots.get(key)
        if ballots is None:
            ballots = self._slots[key] = Ballots()
        known = ballots.by_ballot.get(record.ballot)
        if known is None:
            known = ballots.by_ballot[record.ballot] = (bytes(record.payload), set())
        value, voters = known
        if value != record.payload:
            self.violate("agreement", f"two values in one ballot: {record} at node {node}", _of(node, record))
        voters.add(node)
        if ballots.chosen and record.ballot > ballots.chosen and record.payload != ballots.value:
            text = f"node {node} votes {record} against the value chosen in {_show(ballots.chosen)}"
            self.violate("agreement", text, _of(node, record))
        if len(voters) >= self.majority:
            self._choose(key, ballots, record.ballot, value)

    def _choose(self, key: tuple[GroupId, Slot], ballots: Ballots, ballot: Ballot, value: bytes) -> None:
        if not ballots.chosen:
            self.chosen_slots += 1
            ballots.value = value
            ballots.chosen = ballot
        elif ballots.value != value:
            self.violate("agreement", f"group {key[0]} slot {key[1]} is chosen twice, with two values", Focus(0, *key))
        ballots.chosen = min(ballots.chosen, ballot)
        for other, (rival, voters) in sorted(ballots.by_ballot.items()):
            if other > ballots.chosen and rival != value:
                who = sorted(voters)
                text = f"group {key[0]} slot {key[1]} is chosen in {_show(ballot)}, against it {who} in {_show(other)}"
                self.violate("agreement", text, Focus(0, *key))

    # ---- messages

    def sent(self, process: Process, peer: NodeId, message: PeerMessage, payload: Buffer) -> None:
        """A node sends: what it says must be on its disk."""
        if isinstance(message, Accepted):
            vote = (message.group, message.slot, message.ballot)
            if vote not in process.memory.votes and vote not in process.memory.excused:
                text = f"node {process.id} sends {message} without a synced vote"
                self.violate("answer-not-durable", text, Focus(process.id, message.group, message.slot))
            self._amnesia(process, message.group, message.ballot)
        elif isinstance(message, Accept):
            self._check_commit(process, message.group, message.ballot, message.commit)
            self._check_proposal(process, message, payload)
        elif isinstance(message, Commit):
            self._check_commit(process, message.group, message.ballot, message.commit)
        elif isinstance(message, Forward):
            for command in split_commands(payload):
                _, origin, counter = peek_command(command)
                self._forwards.setdefault((origin, counter), set()).add(message.ballot)
        elif isinstance(message, Promise | Prepare):
            if process.memory.promised.get(message.group, 0) < message.ballot:
                text = f"node {process.id} sends {message} without a synced promise"
                self.violate("answer-not-durable", text, Focus(process.id, message.group))
            self._amnesia(process, message.group, message.ballot)
        elif isinstance(message, Rejoined):
            key = (*process.peer_losses(peer, message.group), message.group)
            self._granted[key] = min(message.ballot, self._granted.get(key, message.ballot))

    def beaten(self, process: Process, message: Heartbeat) -> None:
        """A node sends a heartbeat: a leader's tells a commit index as well."""
        for lead in message.leads:
            if lead.quorum_age_ms >= 0 and ballot_node(lead.ballot) == process.id:
                self._check_commit(process, lead.group, lead.ballot, lead.prefix)

    def _check_commit(self, process: Process, group: GroupId, ballot: Ballot, commit: Slot) -> None:
        """Who voted in this ballot will take its vote for chosen up to the commit index."""
        told = self._committed.get((group, ballot), 0)
        if commit <= told:
            return
        self._committed[group, ballot] = commit
        for slot in range(told + 1, commit + 1):
            ballots = self._slots.get((group, Slot(slot)))
            vote = ballots.by_ballot.get(ballot) if ballots is not None else None
            if ballots is not None and vote is not None and ballots.chosen and vote[0] != ballots.value:
                text = (
                    f"node {process.id} tells slot {slot} of group {group} as chosen in {_show(ballot)}, where it lost"
                )
                self.violate("false-commit", text, Focus(process.id, group, slot))

    def _check_proposal(self, process: Process, message: Accept, value: Buffer) -> None:
        """What others forwarded may enter the log only in the ballot that the forward named."""
        known = self._proposed.setdefault((message.group, message.slot), [])
        if any(other is value or other == value for other in known):
            return  # proposed again, as it was
        known.append(value)
        for command in iter_commands(value):
            if origin_node(command.origin) != process.id:
                ballots = self._forwards.get((command.origin, command.counter), ())
                if message.ballot not in ballots:
                    what = f"command {command.counter} of node {origin_node(command.origin)}"
                    text = (
                        f"node {process.id} proposes {what} in {_show(message.ballot)}, forwarded in {sorted(ballots)}"
                    )
                    self.violate("forward-out-of-ballot", text, Focus(process.id, message.group, message.slot))

    def _amnesia(self, process: Process, group: GroupId, ballot: Ballot) -> None:
        memory = group >= self._groups
        if memory and process.node.groups[group].replica.acceptor.lossy:
            return  # says so, and counts only beside all others
        losses = process.doubted + (process.forgotten if memory else 0)
        if losses:
            granted = self._granted.get((process.id, losses, group))
            if granted is None or ballot < granted:
                text = f"node {process.id} lost its state and acts in group {group} in {_show(ballot)}"
                self.violate("amnesiac-vote", text, Focus(process.id, group))

    # ---- replicas

    def turn_ended(self, process: Process) -> None:
        """Compare what this node believes with what the onlooker knows."""
        seen = process.seen
        for group in process.node.groups:
            replica = group.replica
            tenure = replica.tenure
            if tenure is not None and tenure.lossy and (group.id, tenure.ballot) not in self._lossy_seen:
                self._lossy_seen.add((group.id, tenure.ballot))
                self.restarted_with_loss(process, group.id, Slot(min(tenure.flights, default=tenure.next_slot)))
            prefix = replica.prefix
            number = group.id
            if prefix != seen[number]:
                for slot in range(seen[number] + 1, prefix + 1):
                    ballots = self._slots.get((number, Slot(slot)))
                    if ballots is None or not ballots.chosen:
                        text = f"node {process.id} takes slot {slot} of group {number} as chosen"
                        self.violate("chosen-without-quorum", text, Focus(process.id, number, slot))
                seen[number] = prefix
                if prefix > self._highest.get(number, 0):
                    self._highest[number] = prefix
                self._compare(process, number, group.machine.applied, group.machine.digest)
                if group.machine.applied > prefix:
                    text = f"node {process.id} applied {group.machine.applied} of group {number}, chosen {prefix}"
                    self.violate("chosen-without-quorum", text, Focus(process.id, number))

    def _compare(self, process: Process, group: GroupId, applied: Slot, digest: int) -> None:
        known = self._digests.setdefault((group, applied), (digest, process.id))
        if known[0] != digest:
            text = f"group {group} after slot {applied}: node {process.id} differs from node {known[1]}"
            self.violate("diverged", text, Focus(process.id, group, applied))

    # ---- clients

    def answered(self, process: Process, request: WireMessage, reply: WireMessage) -> None:
        """A node answers a client: what it confirms it must have applied."""
        if not isinstance(request, Produce) or not isinstance(reply, ProduceReply) or request.acks != 2:
            return
        for (topic, partition, _), (error, offset, _) in zip(request.batches, reply.results, strict=True):
            if error == 0:
                logs = (group.machine.partitions.get((topic, partition)) for group in process.node.groups)
                ends = [log.end for log in logs if log is not None]
                if ends and not any(0 <= offset < end for end in ends):  # none: deleted in the same turn
                    text = f"node {process.id} confirms {topic}/{partition}@{offset}, its end is {ends}"
                    self.violate("early-answer", text, Focus(process.id))


def _of(node: NodeId, record: LogRecord) -> Focus:
    return Focus(node, record.group, record.slot)


def _show(ballot: Ballot) -> str:
    return f"{ballot_round(ballot)}.{ballot & 0xFFFF}"
