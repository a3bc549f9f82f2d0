"""Ways to break a cluster, each against one rule of the protocol, that the simulator must notice within so many seeds.

Those of consumer groups and transactions stand in ``group_mutants``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from corgi.base.command import VALUE_HEADER_BYTES, Buffer
from corgi.base.ids import Ballot, GroupId, NodeId, Slot, ballot_node
from corgi.base.ports import FaultyRecord, Hole, LogRecord, SnapshotName
from corgi.broker import compaction as broker_compaction
from corgi.broker.amnesia import MemoryDoubt
from corgi.broker.barriers import Barriers
from corgi.broker.identity import Identity
from corgi.broker.node import Node
from corgi.broker.peers import PeerDispatch
from corgi.log.recovery import Scan
from corgi.log.writer import LogEnd
from corgi.paxos.acceptor import Acceptor, Vote
from corgi.paxos.leader import Candidate
from corgi.paxos.learner import Learner
from corgi.paxos.messages import Accepted, Forward, Promise
from corgi.paxos.quorum import Members
from corgi.paxos.replica import Replica
from corgi.sim.group_mutants import GROUP_MUTANTS
from corgi.sim.mutant import PLAIN, Mutant
from corgi.sim.snapshots import SimSnapshots
from corgi.state import compaction, group_state
from corgi.state.compaction import NewestOffsets
from corgi.state.index import FrozenLog, PartitionLog
from corgi.state.machine import Machine
from corgi.state.producers import Producer

SAFETY = ("agreement", "chosen-without-quorum", "diverged", "learned-unchosen")


def vote_before_durable() -> tuple[object, str, Callable[..., Any]]:
    accept = Acceptor.accept

    def at_once(self: Acceptor, ballot: Ballot, slot: Slot, value: Buffer, prefix: Slot) -> None:
        accept(self, ballot, slot, value, prefix)
        if ballot_node(ballot) != self.me:
            self.host.send(ballot_node(ballot), Accepted(self.group, ballot, slot))

    return Acceptor, "accept", at_once


def forget_the_promise() -> tuple[object, str, Callable[..., Any]]:
    start = Node.start

    def forgetful(self: Node) -> None:
        for group in self.groups:
            group.replica.acceptor.promised = Ballot(0)
        start(self)

    return Node, "start", forgetful


def quorum_minus_one() -> tuple[object, str, Callable[..., Any]]:
    def fewer(self: Members, mask: int) -> bool:
        return mask.bit_count() >= self.majority - 1

    return Members, "has_majority", fewer


def skip_noops() -> tuple[object, str, Callable[..., Any]]:
    propose = Replica._propose

    def unfilled(self: Replica, tenure: Any, value: Buffer, on_own_disk: Callable[[], None] | None = None) -> Slot:
        if len(value) > VALUE_HEADER_BYTES:
            return propose(self, tenure, value, on_own_disk)
        slot: Slot = tenure.open(value, self.host.now())
        del tenure.flights[slot]
        return slot

    return Replica, "_propose", unfilled


def forget_outcomes() -> tuple[object, str, Callable[..., Any]]:
    apply = Machine.apply

    def forgetful(self: Machine, slot: Slot, value: Buffer) -> list[Any]:
        for window in self.windows.values():
            window.outcomes.clear()
        return apply(self, slot, value)

    return Machine, "apply", forgetful


def forget_sequences() -> tuple[object, str, Callable[..., Any]]:
    def credulous(known: Producer | None, epoch: int, *_: object, **__: object) -> tuple[None, Producer]:
        return None, known or Producer(epoch)

    return group_state, "judge", credulous


def noop_below_a_prefix() -> tuple[object, str, Callable[..., Any]]:
    on_promise = Candidate.on_promise

    def ignorant(self: Candidate, sender: NodeId, message: Promise, payload: memoryview) -> None:
        on_promise(self, sender, message, payload)
        self.prefix = Slot(0)

    return Candidate, "on_promise", ignorant


def adopt_the_lowest() -> tuple[object, str, Callable[..., Any]]:
    def wrong(self: Candidate, slot: Slot) -> bytes | None:
        told = self.votes.get(slot, {})
        return next((told[ballot].value for ballot in sorted(told) if told[ballot].value is not None), None)

    return Candidate, "_value", wrong


def apply_past_a_gap() -> tuple[object, str, Callable[..., Any]]:
    def hasty(self: Learner, ballot: Ballot, index: Slot, source: NodeId) -> None:
        while self.prefix < index:
            slot = Slot(self.prefix + 1)
            vote = self.acceptor.votes.get(slot)
            if vote is None or vote.ballot != ballot or vote.value is None:
                self.prefix = slot
            else:
                self.choose(slot, vote.value)

    return Learner, "commit", hasty


def commit_in_any_ballot() -> tuple[object, str, Callable[..., Any]]:
    def credulous(self: Learner, ballot: Ballot, index: Slot, source: NodeId) -> None:
        while (
            self.prefix < index
            and (vote := self.acceptor.votes.get(Slot(self.prefix + 1))) is not None
            and vote.value is not None
        ):
            self.choose(Slot(self.prefix + 1), vote.value)
        if self.prefix < index:
            self.ask(source, index)

    return Learner, "commit", credulous


def commit_what_was_learned() -> tuple[object, str, Callable[..., Any]]:
    take = Learner._take

    def unworried(self: Learner, slot: Slot, value: bytes) -> Ballot:
        take(self, slot, value)
        return Ballot(0)

    return Learner, "_take", unworried


def deaf_to_higher_ballots() -> tuple[object, str, Callable[..., Any]]:
    heard_of = Replica.heard_of

    def deaf(self: Replica, sender: NodeId, ballot: Ballot, prefix: Slot, *, lives: bool) -> None:
        if self.tenure is not None:
            ballot = min(ballot, self.tenure.ballot)
        heard_of(self, sender, ballot, prefix, lives=lives)

    return Replica, "heard_of", deaf


def vote_after_a_wiped_disk() -> tuple[object, str, Callable[..., Any]]:
    def untroubled(self: Identity, reason: str) -> None:
        self._trust()

    return Identity, "_doubt", untroubled


def vote_after_a_power_loss() -> tuple[object, str, Callable[..., Any]]:
    def untroubled(self: MemoryDoubt, reason: str) -> None:
        self.reason = ""

    return MemoryDoubt, "doubt", untroubled


def forget_marks() -> tuple[object, str, Callable[..., Any]]:
    recover = Identity.recover

    def forgetful(self: Identity, record: LogRecord) -> None:
        recover(self, record)
        for memory in self.memories.of.values():
            memory.durable_to = 0

    return Identity, "recover", forgetful


def propose_any_forward() -> tuple[object, str, Callable[..., Any]]:
    forward = PeerDispatch._forward

    def greedy(self: PeerDispatch, sender: NodeId, message: Forward, payload: memoryview) -> None:
        tenure = self._group(message.group).replica.tenure
        if tenure is not None:
            message = Forward(message.group, tenure.ballot, message.hops)
        forward(self, sender, message, payload)

    return PeerDispatch, "_forward", greedy


def look_at_another_group() -> tuple[object, str, Callable[..., Any]]:
    chosen = Node.chosen

    def curious(self: Node, group: GroupId, slot: Slot, value: Buffer) -> None:
        machine = self.groups[group].machine
        machine.producers_expired_below = max(machine.producers_expired_below, self.groups[0].machine.applied)
        chosen(self, group, slot, value)

    return Node, "chosen", curious


def cut_a_synced_tail() -> tuple[object, str, Callable[..., Any]]:
    records = Scan.records

    def shorter(self: Scan, segments: Any) -> Iterator[LogRecord | Hole]:
        found = list(records(self, segments))
        yield from found[: -1 if len(found) % 3 == 0 else None]

    return Scan, "records", shorter


def take_damage_for_the_end() -> tuple[object, str, Callable[..., Any]]:
    def nothing_later(self: Scan, *_: object) -> int:
        return -1

    return Scan, "_later_batch", nothing_later


def tell_no_faulty_votes() -> tuple[object, str, Callable[..., Any]]:
    told = Vote.told

    def readable(self: Vote) -> Iterator[tuple[Ballot, Buffer | None]]:
        return ((ballot, value) for ballot, value in told(self) if value is not None)

    return Vote, "told", readable


def skip_damaged_records() -> tuple[object, str, Callable[..., Any]]:
    recover = Node.recover

    def careless(self: Node, record: LogRecord | Hole) -> None:
        if not isinstance(record, FaultyRecord | Hole):
            recover(self, record)

    return Node, "recover", careless


def snapshot_without_producers() -> tuple[object, str, Callable[..., Any]]:
    freeze = PartitionLog.freeze

    def forgetful(self: PartitionLog) -> FrozenLog:
        return freeze(self)._replace(producers=[])

    return PartitionLog, "freeze", forgetful


def free_before_the_snapshot_is_durable() -> tuple[object, str, Callable[..., Any]]:
    def none(self: SimSnapshots) -> list[SnapshotName]:
        return []

    return SimSnapshots, "names", none


def trust_what_can_be_read() -> tuple[object, str, Any]:
    whole = vars(Scan)["end"]

    def trusting(self: Scan) -> LogEnd:
        found: LogEnd = whole.__get__(self)
        return replace(found, unsynced=found.offset)

    return Scan, "end", property(trusting)


def answer_without_a_barrier() -> tuple[object, str, Callable[..., Any]]:
    def at_once(
        self: Barriers, client: Any, groups: Any, timeout_s: float, done: Callable[[dict[Any, Any]], None]
    ) -> None:
        done({})

    return Barriers, "confirm", at_once


def compact_the_newest_away() -> tuple[object, str, Callable[..., Any]]:
    get = NewestOffsets.get

    def one_too_many(self: NewestOffsets, key: bytes) -> int:
        return get(self, key) + 1

    return NewestOffsets, "get", one_too_many


def compact_whole_batches() -> tuple[object, str, Callable[..., Any]]:
    encode = compaction.encode_compacted

    def nothing_left(wanted: compaction.Compacted) -> bytes:
        return encode(wanted._replace(changes=[(offset, None) for offset, _ in wanted.changes]))

    return broker_compaction, "encode_compacted", nothing_left


ROUGH = replace(PLAIN, rough=True, faults=("mumble", "kill-in-flight", "isolate", "split"))
GAPS = replace(PLAIN, rough=True, faults=("mumble",))
LAGGARDS = replace(PLAIN, faults=("power-all", "isolate", "kill"))
# Leaders that take a fresh ballot beside their followers.
COMEBACKS = replace(PLAIN, rough=False, faults=("isolate", "split"))
SPLITS = replace(PLAIN, nodes=5, faults=("split", "isolate", "one-way"))
RESTARTS = replace(PLAIN, faults=("kill", "power", "isolate"))
KILLS = replace(PLAIN, faults=("kill", "power"))
DISKS = replace(PLAIN, faults=("wipe", "kill", "power"))
POWER = replace(PLAIN, faults=("power", "isolate"))
OLD_DISKS = replace(PLAIN, faults=("old-disk", "kill", "power-all"))
FAILED_SYNCS = replace(PLAIN, faults=("failed-sync",))
FLIPS = replace(PLAIN, faults=("bit-flip",))
FLIPPED_VOTES = replace(PLAIN, rough=True, faults=("bit-flip", "mumble"))

MUTANTS: dict[str, Mutant] = {
    "vote-before-durable": Mutant(
        "an accept is answered after it is durable", (vote_before_durable,), ("answer-not-durable",)
    ),
    "snapshot-without-producers": Mutant(
        "a snapshot holds all of the state",
        (snapshot_without_producers,),
        ("diverged", "duplicate", "unjustified-refusal"),
        options=KILLS,
    ),
    "free-before-durable": Mutant(
        "the log is cut only behind a durable snapshot",
        (free_before_the_snapshot_is_durable,),
        ("synced-record-lost",),
        rate=0.43,
        options=KILLS,
    ),
    "forget-promise": Mutant(
        "a promise survives a restart",
        (forget_the_promise,),
        ("promise-went-back", "synced-record-lost"),  # the next segment begins with the lower promise
        rate=0.33,
        options=RESTARTS,
    ),
    "quorum-minus-one": Mutant("a quorum is a majority", (quorum_minus_one,), SAFETY),
    "skip-noops": Mutant("gaps are filled", (skip_noops,), ("stuck",), rate=0.1, options=GAPS),
    "no-command-deduplication": Mutant(
        "a command is applied once", (forget_outcomes,), ("duplicate", *SAFETY), rate=0.43, options=ROUGH
    ),
    "no-sequence-deduplication": Mutant(
        "a batch of a producer is stored once, in order",
        (forget_sequences,),
        ("duplicate", "nonmonotonic-send", "send-gap"),
    ),
    "noop-below-prefix": Mutant(
        "nothing is proposed at or below a peer's chosen prefix",
        (noop_below_a_prefix,),
        SAFETY,
        rate=0.38,
        options=LAGGARDS,
    ),
    "adopt-wrong-value": Mutant(
        "the value of the highest ballot is proposed again", (adopt_the_lowest,), SAFETY, rate=0.18, options=ROUGH
    ),
    "apply-past-gap": Mutant("slots are applied in order", (apply_past_a_gap,), ("node-failed", *SAFETY)),
    "commit-in-any-ballot": Mutant(
        "a commit index counts for votes of its own ballot", (commit_in_any_ballot,), SAFETY, rate=0.73, options=ROUGH
    ),
    "commit-what-was-learned": Mutant(
        "a leader that learns another value than it proposed leads no more",
        (commit_what_was_learned, deaf_to_higher_ballots),  # heartbeats mostly tell sooner
        ("false-commit", "linearizability", "stuck", *SAFETY),
        rate=0.21,
        options=SPLITS,
    ),
    "vote-after-wipe": Mutant(
        "a lost disk is no vote", (vote_after_a_wiped_disk,), ("amnesiac-vote", *SAFETY), options=DISKS
    ),
    "vote-after-power-loss": Mutant(
        "what was only written is lost with the power",
        (vote_after_a_power_loss,),
        ("amnesiac-vote", *SAFETY),
        rate=0.5,
        options=POWER,
    ),
    "forget-marks": Mutant(
        "what is known of others' disks outlasts a restart",
        (forget_marks,),
        ("amnesiac-vote", *SAFETY),
        rate=0.3,
        options=OLD_DISKS,
    ),
    "forward-in-two-ballots": Mutant(
        "a forward is proposed in the ballot that it names",
        (propose_any_forward,),
        ("forward-out-of-ballot",),
        rate=0.4,
        options=COMEBACKS,
    ),
    "other-groups-state": Mutant(
        "apply reads its own group only", (look_at_another_group,), ("linearizability", *SAFETY), rate=0.5
    ),
    "cut-synced-tail": Mutant(
        "what was synced is found again", (cut_a_synced_tail,), ("synced-record-lost", *SAFETY), options=RESTARTS
    ),
    "damage-is-the-end": Mutant(
        "bad bytes are the end only if nothing lies behind them",
        (take_damage_for_the_end,),
        ("synced-record-lost",),
        options=FLIPS,
    ),
    "damaged-vote-is-absent": Mutant(
        "a damaged vote is not an absent one",
        (tell_no_faulty_votes,),
        SAFETY,
        rate=0.3,
        options=FLIPPED_VOTES,
    ),
    "damaged-record-is-absent": Mutant(
        "a damaged record is not an absent one", (skip_damaged_records,), ("node-failed", *SAFETY), options=FLIPS
    ),
    "trust-a-failed-sync": Mutant(
        "what can be read need not be durable",
        (trust_what_can_be_read,),
        ("synced-record-lost", "hole-without-damage", "lost-write", "lost-key", "stuck", *SAFETY),
        rate=0.5,
        options=FAILED_SYNCS,
    ),
    "compact-the-newest": Mutant(
        "compaction leaves the newest of each key", (compact_the_newest_away,), ("lost-key",), rate=0.5
    ),
    "compact-whole-batches": Mutant(
        "compaction drops records, not their batches", (compact_whole_batches,), ("lost-key",), rate=0.5
    ),
    "stale-end": Mutant(
        "a confirmed end is current", (answer_without_a_barrier,), ("stale-end", "unjustified-refusal")
    ),
    **GROUP_MUTANTS,
}
