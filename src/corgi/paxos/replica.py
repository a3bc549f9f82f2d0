"""One Paxos group on one node: acceptor, learner and, at times, candidate or leader, behind one dispatch.

The replica decides who leads and what is chosen; it knows neither commands nor offsets. Facts come in as calls,
requests go out through ``Host``. Sources: Lamport, "Paxos Made Simple"; van Renesse and Altinbuken, "Paxos Made
Moderately Complex"; Ongaro's thesis (leadership transfer); docs/consensus.md.

Takeover on write, as a story: (1) the link to the leader breaks, or it was silent for the suspicion time; (2) the first
in the line of succession prepares at once, the others only if they hold a command and their turn has come; (3) an
acceptor that still hears a living leader with a quorum says so instead of promising, and relays; (4) if that acceptor
loses the leader a moment later, it answers the Prepare that it declined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from corgi.base.command import Buffer, check_value
from corgi.base.errors import InvariantError
from corgi.base.ids import Ballot, GroupId, NodeId, Slot, ballot_node, ballot_round, make_ballot
from corgi.base.limits import RANK_DELAY_S
from corgi.base.ports import LogRecord, RecordKind
from corgi.paxos.acceptor import Acceptor
from corgi.paxos.host import Host
from corgi.paxos.leader import Candidate, Flight, Tenure, Undecided
from corgi.paxos.learner import Learner
from corgi.paxos.messages import Accept, Accepted, Commit, Handover, LeaderLives, Learned, Prepare, Promise, Refuse
from corgi.paxos.quorum import Members
from corgi.paxos.takeover import Takeover

UNHEARD, PREPARE_RETRY_S = float("-inf"), 0.100
HANDOVER_PATIENCE_S, IDLE_TAKEOVER_S = 0.5, 0.25  # a group without writes waits the latter per rank


class Replica:
    """See the module. ``leader`` and ``ballot`` are what this node believes; ``leading`` is certain for this ballot."""

    def __init__(self, group: GroupId, me: NodeId, members: Members, host: Host) -> None:
        self.group, self.me, self.host = group, me, host
        self.members, self.others = members, members.others(me)
        self.acceptor = Acceptor(group, me, host)
        self.learner = Learner(group, self.acceptor, host)
        self.candidate: Candidate | None = None
        self.tenure: Tenure | None = None
        self.leader, self.ballot = NodeId(0), Ballot(0)
        self.leader_heard_at = UNHEARD  # when the leader first spoke as such on its present link
        self.relay = NodeId(0)  # a peer that hears the leader when this node does not
        self.leadership_changes, self.highest_seen = 0, Ballot(0)
        self.takeover = Takeover(group, me, members, host)
        self._declined: tuple[NodeId, Prepare] | None = None

    # -- what others ask ------------------------------------------------------------------------------------------

    @property
    def prefix(self) -> Slot:
        """Everything up to here is chosen."""
        return self.learner.prefix

    @property
    def leading(self) -> bool:
        """This node won its ballot and has applied its own epoch record."""
        return self.tenure is not None and 0 < self.tenure.epoch_slot <= self.learner.prefix

    @property
    def proposing(self) -> bool:
        """This node may propose now (its epoch record may still be in flight)."""
        return self.tenure is not None and not self.tenure.handing_to

    @property
    def open_slots(self) -> int:
        return len(self.tenure.flights) if self.tenure is not None else len(self.acceptor.votes)

    @property
    def role(self) -> str:
        if self.tenure is not None:
            return "leader"
        if not self.acceptor.voting:
            return "recovering"
        return "follower" if self.candidate is None else "candidate"

    def route(self) -> NodeId:
        """Where a command goes now: this node, the leader, a relay, or 0 if there is nobody."""
        if self.tenure is not None:
            return self.me
        if self.leader == 0 or self.leader == self.me:
            return NodeId(0)
        if self.leader_heard_at > UNHEARD and self.host.serves(self.leader, self.group, self.ballot):
            return self.leader
        if self.relay and self.host.relays(self.relay, self.group, self.ballot):
            return self.relay
        return NodeId(0)

    # -- recovery and durability ----------------------------------------------------------------------------------

    def recover(self, record: LogRecord) -> None:
        """Take one record of the disk scan, in order."""
        self.learner.recover(record)
        if record.kind is not RecordKind.ACCEPT or record.slot > self.prefix:
            self.acceptor.recover(record)
        else:
            self.acceptor.promised = self.acceptor.promised_durable = max(self.acceptor.promised, record.ballot)
            self.acceptor.highest = max(self.acceptor.highest, record.slot)
        self.highest_seen = max(self.highest_seen, self.acceptor.promised)
        self.learner.claimed = self.prefix

    def state_record(self) -> LogRecord:
        """What a new segment must know of this group before anything else in it.

        The promise may run ahead of records that wait for their place behind this one; the prefix may not, because a
        scan takes the last value before a claim for the chosen one.
        """
        return LogRecord(RecordKind.STATE, self.group, self.acceptor.promised, *(self.learner.claimed,) * 2)

    def durable(self, record: LogRecord) -> None:
        """A record of this group is on disk."""
        self.learner.claimed = max(self.learner.claimed, record.commit)
        self.acceptor.durable(record)
        if record.kind is RecordKind.PROMISE:
            self._promise_durable(record.ballot)
        elif record.kind is RecordKind.ACCEPT and self.tenure is not None and record.ballot == self.tenure.ballot:
            flight = self.tenure.flights.get(record.slot)
            if flight is not None and flight.on_own_disk is not None:
                flight.on_own_disk()
                flight.on_own_disk = None
            self._count_vote(self.me, record.slot)

    def _promise_durable(self, ballot: Ballot) -> None:
        if ballot != self.acceptor.promised or not self.acceptor.takes(ballot):
            return  # in doubt, or overtaken: an answer now would tell votes above its own ballot
        if ballot_node(ballot) != self.me:
            self.acceptor.send_promise(ballot, self.prefix, self.host.readable(self.group))
            return
        candidate = self.candidate
        if candidate is None or candidate.ballot != ballot or candidate.own_durable:
            return
        candidate.own_promise(self.me, self.prefix, self.acceptor.votes, self.acceptor.lossy)
        self.host.note("prepare-sent", self.group, f"ballot {ballot_round(ballot)}.{self.me}")
        self._send_prepare(candidate)
        self._try_to_lead()

    # -- phase 1: acceptor's side ---------------------------------------------------------------------------------

    def on_prepare(self, sender: NodeId, message: Prepare) -> None:
        self._saw(message.ballot)
        acceptor = self.acceptor
        if not acceptor.takes(message.ballot):
            self.host.count("not_voting")
            return
        if message.ballot < acceptor.promised:
            self.host.count("conflicts")
            self.host.send(sender, Refuse(self.group, message.ballot, acceptor.promised, self.prefix))
        elif message.ballot == acceptor.promised:
            if acceptor.promised_durable >= message.ballot:
                acceptor.send_promise(message.ballot, self.prefix, self.host.readable(self.group))  # asked again
        elif not message.forced and sender != self.leader and self.host.leader_lives(self.group, self.ballot):
            self._declined = (sender, message)
            self.host.count("polite_refusals")
            self.host.send(sender, LeaderLives(self.group, message.ballot, self.ballot, self.prefix))
        else:
            self._declined = None
            self.takeover.overtaken(self.candidate)
            self._step_down("a higher ballot was prepared")
            acceptor.promise(message.ballot, self.prefix)

    # -- phase 1: proposer's side ---------------------------------------------------------------------------------

    def on_promise(self, sender: NodeId, message: Promise, payload: memoryview) -> None:
        if self.candidate is not None and self.candidate.ballot == message.ballot:
            self.candidate.on_promise(sender, message, payload)
            self._try_to_lead()

    def on_refuse(self, sender: NodeId, message: Refuse) -> None:
        """Somebody promised higher. A leader falls back to Prepare (rule 5); a candidate backs off and tries again."""
        self._saw(message.promised)
        self.host.count("refusals")
        if self.tenure is not None and self.tenure.ballot == message.ballot:
            self._step_down("refused")
            # A refuser that holds its own ballot was cut off and came back: nobody else is about to lead.
            forced = ballot_node(message.promised) == sender
            self._takeover_in(0.0 if forced else 2 * RANK_DELAY_S, forced=forced)
        elif self.candidate is not None and self.candidate.ballot == message.ballot:
            self.candidate = None
            self.takeover.back_off()

    def on_leader_lives(self, sender: NodeId, message: LeaderLives) -> None:
        """A polite refusal. The candidate stays for a moment: the sender may be about to lose the leader as well."""
        candidate = self.candidate
        if candidate is None or candidate.ballot != message.ballot:
            return
        candidate.polite |= self.members.bit[sender]
        self.leader, self.ballot = ballot_node(message.leader_ballot), message.leader_ballot
        self.relay = sender
        self.leader_heard_at = self.host.now() if sender == self.leader else UNHEARD
        if message.prefix > self.prefix:
            self.learner.ask(sender, message.prefix)

    def _start_candidate(self, *, forced: bool) -> None:
        ballot = make_ballot(ballot_round(max(self.highest_seen, self.acceptor.promised)) + 1, self.me)
        self._saw(ballot)
        self._step_down("prepares anew")
        now = self.host.now()
        self.candidate = Candidate(ballot, Slot(self.prefix + 1), self.members, forced=forced, now=now)
        self.host.count("prepares")
        self.acceptor.promise(ballot, self.prefix)  # its Prepare leaves when this is durable
        self.host.wake_at(now + PREPARE_RETRY_S)

    def _send_prepare(self, candidate: Candidate) -> None:
        candidate.sent_at = self.host.now()
        message = Prepare(self.group, candidate.ballot, candidate.first, candidate.forced)
        for peer in self.others:
            if not candidate.mask & self.members.bit[peer]:
                self.host.send(peer, message)

    def _try_to_lead(self) -> None:
        candidate = self.candidate
        if candidate is None or not candidate.own_durable or not candidate.has_quorum():
            return
        if self.prefix < candidate.prefix:
            # No slot at or below the highest prefix among the promises is ever proposed in: learn up to it first.
            self.learner.ask(candidate.prefix_holder, candidate.prefix)
            if not candidate.has_quorum_within(self.prefix):
                return
        plan = candidate.plan(self.prefix, self.host.noop_value)
        if not isinstance(plan, Undecided):
            self._lead(candidate, plan)
        elif not candidate.waits:
            candidate.waits = True
            self.host.note("vote-unreadable", self.group, str(plan))

    def _lead(self, candidate: Candidate, plan: list[tuple[Slot, bytes, bool]]) -> None:
        self.candidate = None
        self.takeover.won()
        self.tenure = tenure = candidate.won(Slot(self.prefix + 1))
        self._set_leader(self.me, candidate.ballot)
        self.host.count("takeovers")
        if tenure.lossy:
            self.host.loss_accepted(self.group, tenure.next_slot)
        self.host.note("promise-quorum", self.group, f"ballot {ballot_round(candidate.ballot)}.{self.me}")
        for slot, value, gap in plan:
            self.host.count("noop_fills" if gap else "reproposals")
            if self._propose(tenure, value) != slot:
                raise InvariantError(f"group {self.group}: slots re-proposed out of order")
        tenure.epoch_slot = self._propose(tenure, self.host.epoch_value(self.group, candidate.ballot))

    # -- phase 2: proposer's side ---------------------------------------------------------------------------------

    def propose(self, value: Buffer, on_own_disk: Callable[[], None] | None = None) -> Slot:
        """Give ``value`` the next slot; the caller has checked ``proposing``."""
        assert self.tenure is not None
        return self._propose(self.tenure, value, on_own_disk)

    def _propose(self, tenure: Tenure, value: Buffer, on_own_disk: Callable[[], None] | None = None) -> Slot:
        slot = tenure.open(value, self.host.now(), on_own_disk)
        self.acceptor.accept(tenure.ballot, slot, value, self.prefix)
        tenure.commit_sent = self.prefix
        message = Accept(self.group, tenure.ballot, slot, self.prefix)
        for peer in self.others:
            self.host.send(peer, message, value)
        return slot

    def on_accepted(self, sender: NodeId, message: Accepted) -> None:
        if self.tenure is not None and message.ballot == self.tenure.ballot:
            self._count_vote(sender, message.slot)

    def _count_vote(self, node: NodeId, slot: Slot) -> None:
        if self.tenure is not None and self.tenure.vote(node, slot):
            self._choose_in_order(self.tenure)

    def _choose_in_order(self, tenure: Tenure) -> None:
        while (flight := tenure.flights.get(Slot(self.prefix + 1))) is not None and flight.chosen:
            slot = Slot(self.prefix + 1)
            del tenure.flights[slot]
            self.learner.choose(slot, flight.value)
            if slot == tenure.epoch_slot:
                self.host.note("leading", self.group, f"ballot {ballot_round(tenure.ballot)}.{self.me}")
        if tenure.handing_to and not tenure.flights:
            self._hand_over(tenure)

    def send_commit(self) -> None:
        """End of a turn: tell what became chosen if no Accept told it."""
        tenure = self.tenure
        if tenure is not None and tenure.commit_sent < self.prefix:
            tenure.commit_sent = self.prefix
            message = Commit(self.group, tenure.ballot, self.prefix)
            for peer in self.others:
                self.host.send(peer, message)

    # -- phase 2: acceptor's side ---------------------------------------------------------------------------------

    def on_accept(self, sender: NodeId, message: Accept, value: Buffer) -> None:
        if message.ballot < self.acceptor.promised:
            self._saw(message.ballot)
            self.host.send(sender, Refuse(self.group, message.ballot, self.acceptor.promised, self.prefix))
            return
        check_value(value)
        self._follow(message.ballot)
        self.learner.commit(message.ballot, message.commit, sender)
        if not self.acceptor.takes(message.ballot):
            self.learner.known = max(self.learner.known, message.commit)
            return
        if message.slot <= self.prefix and self.host.in_memory(self.group, message.slot) != value:
            # A leader that was cut off proposes in a slot that a higher ballot has chosen since, by a majority without
            # this node. No vote is needed or stored: the next heartbeat tells the leader how far the others are.
            self.host.count("stale_accepts")
            return
        self.acceptor.accept(message.ballot, message.slot, value, self.prefix)

    def on_commit(self, sender: NodeId, message: Commit) -> None:
        if message.ballot < self.acceptor.promised:
            if message.commit > self.prefix:
                self.learner.ask(sender, message.commit)  # chosen is chosen, whoever leads now
            return
        self._follow(message.ballot)
        self.learner.commit(message.ballot, message.commit, sender)

    def on_learned(self, sender: NodeId, message: Learned, payload: memoryview) -> None:
        self.learned(self.learner.on_learned(sender, message, payload))

    def learned(self, lost: Ballot) -> None:
        """Slots were chosen elsewhere; in ``lost`` this node had voted for something else. A leader that was cut off
        then leads no more: its commit index would make followers choose what they voted for in its ballot."""
        tenure = self.tenure
        if tenure is not None and (lost == tenure.ballot or not tenure.learned_to(self.prefix)):
            self._step_down("slots were chosen past this leader")
        elif tenure is not None:
            self._choose_in_order(tenure)  # later slots may have waited for what was learned
        self._try_to_lead()

    # -- who leads ------------------------------------------------------------------------------------------------

    def heard_of(self, sender: NodeId, ballot: Ballot, prefix: Slot, *, lives: bool) -> None:
        """A heartbeat's line on this group; ``lives``: the sender leads in ``ballot`` or hears its leader."""
        self._saw(ballot)
        leader = ballot_node(ballot)
        if self.tenure is not None and ballot > self.tenure.ballot:  # a majority refuses this node's Accepts by now
            self._step_down("a higher ballot was won")
            if not lives:
                self._takeover_in(2 * RANK_DELAY_S)
        if lives and leader == sender and ballot >= self.acceptor.promised:
            self._follow(ballot)
            self.learner.commit(ballot, prefix, sender)
            return
        stands = self.leader == 0 and self.acceptor.voting and not self.host.may_lead(self.group)
        if lives and leader == sender and stands:
            self.host.send(sender, Refuse(self.group, ballot, self.acceptor.promised))  # it can neither follow nor lead
        if lives and leader not in (self.me, sender) and ballot >= self.ballot and not self.host.linked(leader):
            if self.tenure is None and (self.leader == 0 or ballot > self.ballot):
                self._set_leader(leader, ballot)
            if ballot == self.ballot and self.relay == 0:
                self.relay = sender
        if prefix > self.prefix:
            self.learner.ask(sender, prefix)

    def peer_connected(self, peer: NodeId) -> None:
        """Send again what the peer may have missed."""
        if self.candidate is not None and self.candidate.own_durable:
            self._send_prepare(self.candidate)
        tenure = self.tenure
        if tenure is not None:
            for slot, flight in tenure.flights.items():
                self._resend(tenure, slot, flight, (peer,))
            self.host.send(peer, Commit(self.group, tenure.ballot, self.prefix))

    def peer_lost(self, peer: NodeId) -> None:
        self.learner.peer_lost(peer)
        if peer == self.relay:
            self.relay = NodeId(0)
        if peer == self.leader and self.tenure is None:
            self.leader_heard_at = UNHEARD
            self._leader_lost()

    def want_leader(self) -> None:
        """There is a command and nobody to give it to: take over when this node's turn has come."""
        if self.tenure is None and self.candidate is None and self.route() == 0:
            self._takeover_in(self.takeover.rank(self.leader) * RANK_DELAY_S)

    def leader_denies(self, sender: NodeId, ballot: Ballot) -> None:
        """The node believed to lead in ``ballot`` says that it does not."""
        if sender == self.leader and ballot == self.ballot and self.tenure is None:
            self.leader = NodeId(0)
            self._leader_lost()

    def handover(self, to: NodeId) -> None:
        """Stop proposing and, when nothing is in flight any more, ask ``to`` to take over."""
        tenure = self.tenure
        if tenure is None or tenure.handing_to:
            return
        tenure.handing_to = to
        tenure.handing_until = self.host.now() + HANDOVER_PATIENCE_S
        if not tenure.flights:
            self._hand_over(tenure)

    def prepare_anew(self) -> None:
        """The leader takes a fresh ballot, for an acceptor that recovers and must not be part of it."""
        if self.tenure is not None:
            self._start_candidate(forced=True)

    def on_handover(self, sender: NodeId, message: Handover) -> None:
        if message.ballot >= self.acceptor.promised and self.acceptor.voting and self.host.may_lead(self.group):
            self._start_candidate(forced=True)

    def _hand_over(self, tenure: Tenure) -> None:
        self.send_commit()
        self.host.send(tenure.handing_to, Handover(self.group, tenure.ballot))

    def tick(self, now: float) -> None:
        """Run what is due. Called at every heartbeat and when ``Host.wake_at`` asked for it."""
        if self.takeover.at is not None and now >= self.takeover.at:
            self._takeover()
        if self.candidate is not None:
            self._tick_candidate(self.candidate, now)
        if self.tenure is not None:
            self._tick_tenure(self.tenure, now)
        elif self.candidate is None and self.takeover.at is None and self.route() == 0:
            self._leader_lost()
        if self.learner.known > self.prefix and self.leader not in (0, self.me):
            self.learner.ask(self.relay or self.leader, self.learner.known)

    def _tick_candidate(self, candidate: Candidate, now: float) -> None:
        if now - candidate.sent_at < PREPARE_RETRY_S:
            return
        if candidate.polite and self.route() != 0:
            self.candidate = None  # the leader lives elsewhere and is relayed to
            return
        if now - candidate.started > 10 * PREPARE_RETRY_S:
            self.candidate = None
            self.takeover.back_off()
            return
        if candidate.own_durable:
            self._send_prepare(candidate)
            self._try_to_lead()

    def _tick_tenure(self, tenure: Tenure, now: float) -> None:
        if tenure.handing_to and now > tenure.handing_until:
            tenure.handing_to = NodeId(0)  # it did not take over: go on
        for slot, flight in tenure.overdue(now):
            self.host.count("retransmits")
            self._resend(tenure, slot, flight, [peer for peer in self.others if self.host.linked(peer)])

    def _resend(self, tenure: Tenure, slot: Slot, flight: Flight, peers: Sequence[NodeId]) -> None:
        for peer in peers:
            if not flight.mask & self.members.bit[peer]:
                self.host.send(peer, Accept(self.group, tenure.ballot, slot, self.prefix), flight.value)

    def _follow(self, ballot: Ballot) -> None:
        """``ballot`` is at least the promise: its node leads."""
        self._saw(ballot)
        if ballot == self.ballot and self.leader and self.leader_heard_at > UNHEARD and self.candidate is None:
            return
        if self.tenure is not None and ballot > self.tenure.ballot:
            self._step_down("another leads")
        if self.candidate is not None and ballot > self.candidate.ballot:
            self.candidate = None
        if ballot >= self.ballot:
            self._set_leader(ballot_node(ballot), ballot)
            self.leader_heard_at = self.host.now()

    def _set_leader(self, leader: NodeId, ballot: Ballot) -> None:
        if leader != self.leader or ballot != self.ballot:
            self.leadership_changes += 1
            self.leader_heard_at = UNHEARD
        self.leader = leader
        self.ballot = ballot
        self.relay = NodeId(0)
        self.takeover.drop()
        self._declined = None

    def _step_down(self, why: str) -> None:
        if self.tenure is not None:
            self.host.note("stepped-down", self.group, why)
            self.host.count("step_downs")
            self.tenure = None
            self.leader = NodeId(0)
        self.candidate = None

    def _leader_lost(self) -> None:
        """Nobody leads as far as this node sees: the first in line prepares at once, the others wait for a write."""
        declined, self._declined = self._declined, None
        if declined is not None:
            self.on_prepare(*declined)
            if self._declined is None:
                return
        if self.candidate is None and self.takeover.at is None:
            self._takeover_in(self.takeover.rank(self.leader) * IDLE_TAKEOVER_S)

    def _takeover_in(self, delay: float, *, forced: bool = False) -> None:
        if self.takeover.plan(delay, forced=forced):
            self._takeover()

    def _takeover(self) -> None:
        forced = self.takeover.take()
        if self.tenure is not None or self.candidate is not None or not self.acceptor.answers:
            return
        if (not forced and self.route() != 0) or not self.host.may_lead(self.group):
            return
        # Without a quorum it is tried again at a later tick. Somebody just met may know a leader: its beat will tell.
        if self.takeover.quorum_in_reach(everybody=self.acceptor.lossy != 0) and (self.leader or self.host.heard_all()):
            self._start_candidate(forced=forced)

    def _saw(self, ballot: Ballot) -> None:
        self.highest_seen = max(self.highest_seen, ballot)
