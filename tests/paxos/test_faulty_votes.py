"""A vote whose record is damaged is not an absent one (docs/adr/0005-storage-that-heals.md)."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from corgi.base.command import Buffer, encode_value
from corgi.base.ids import Ballot, GroupId, NodeId, Slot, make_ballot
from corgi.base.ports import FaultyRecord, LogRecord, RecordKind
from corgi.paxos.leader import Candidate, Undecided
from corgi.paxos.messages import Promise
from corgi.paxos.quorum import Members
from corgi.paxos.replica import Replica

G, S = GroupId(0), Slot(1)
A, B, C = NodeId(1), NodeId(2), NodeId(3)
LOW, HIGH, NOW = make_ballot(1, B), make_ballot(2, C), make_ballot(9, A)
X, Y = encode_value(1, []), encode_value(2, [])

Told = list[tuple[Ballot, bytes | None]]


class Host:
    """The node around one replica: keeps what it is asked to do."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.sent: list[tuple[Any, bytes]] = []
        self.values: dict[Slot, Buffer | None] = {}

    def persist(self, record: LogRecord) -> None:
        self.records.append(record)

    def send(self, peer: NodeId, message: Any, payload: Buffer = b"") -> None:
        self.sent.append((message, bytes(payload)))

    def chosen(self, group: GroupId, slot: Slot, value: Buffer) -> None:
        self.values[slot] = value

    def chosen_unread(self, group: GroupId, slot: Slot) -> None:
        self.values[slot] = None

    def now(self) -> float:
        return 1.0

    def readable(self, group: GroupId) -> Slot:
        return Slot(-1)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def replica(host: Host) -> Replica:
    return Replica(G, A, Members((A, B, C)), host)


def accept(slot: int, ballot: Ballot, value: bytes, commit: int = 0) -> LogRecord:
    return LogRecord(RecordKind.ACCEPT, G, ballot, Slot(slot), Slot(commit), value)


def faulty(slot: int, ballot: Ballot, commit: int = 0, kind: RecordKind = RecordKind.ACCEPT) -> FaultyRecord:
    return FaultyRecord(kind, G, ballot, Slot(slot), Slot(commit), len(X))


def candidate_of(told: dict[NodeId, Told], nodes: tuple[NodeId, ...] = (A, B, C)) -> Candidate:
    """Who told which votes in slot 1; those who are not named did not answer."""
    candidate = Candidate(NOW, S, Members(nodes), forced=False, now=0.0)
    for node, votes in told.items():
        entries = tuple((S, ballot, -1 if value is None else len(value)) for ballot, value in votes)
        payload = b"".join(value for _, value in votes if value is not None)
        candidate.on_promise(node, Promise(G, NOW, Slot(0), entries), memoryview(payload))
    return candidate


def value_of(told: dict[NodeId, Told], nodes: tuple[NodeId, ...] = (A, B, C)) -> bytes | str:
    plan = candidate_of(told, nodes).plan(Slot(0), lambda: b"noop")
    if isinstance(plan, Undecided):
        return "wait"
    return plan[0][1] if plan else b"nothing"


def test_a_promise_tells_a_faulty_vote_as_one_and_the_readable_one_below(replica: Replica, host: Host) -> None:
    for record in (accept(1, LOW, X), faulty(1, HIGH), faulty(2, HIGH), accept(3, HIGH, Y)):
        replica.recover(record)
    replica.acceptor.send_promise(NOW, Slot(0), Slot(-1))
    [(promise, payload)] = host.sent
    assert promise.entries == ((1, HIGH, -1), (1, LOW, len(X)), (2, HIGH, -1), (3, HIGH, len(Y)))
    assert payload == X + Y


def test_a_second_record_of_the_same_vote_makes_up_for_a_damaged_one(replica: Replica, host: Host) -> None:
    for record in (faulty(1, LOW), accept(1, LOW, X), accept(2, LOW, Y), faulty(2, LOW)):
        replica.recover(record)
    replica.acceptor.send_promise(NOW, Slot(0), Slot(-1))
    assert host.sent[0][0].entries == ((1, LOW, len(X)), (2, LOW, len(Y)))


def test_a_faulty_vote_is_given_again_when_its_leader_repeats_itself(replica: Replica, host: Host) -> None:
    replica.recover(faulty(1, LOW))
    replica.acceptor.accept(LOW, S, X, Slot(0))
    assert [(record.kind, record.slot, record.payload) for record in host.records] == [(RecordKind.ACCEPT, 1, X)]


@pytest.mark.parametrize(
    ("told", "value"),
    [
        ({A: [(HIGH, None)], B: [(HIGH, X)]}, X),  # one value per slot and ballot: any readable vote tells it
        ({A: [(HIGH, None)], B: []}, "wait"),  # C may have voted, with A that is a majority
        ({A: [(HIGH, None)], B: [], C: []}, b"nothing"),  # A alone is none
        ({A: [(HIGH, None)], B: [(LOW, X)], C: []}, X),
        ({A: [(HIGH, None), (LOW, Y)], B: [], C: []}, Y),  # what may be chosen below must not hide behind it
        ({A: [(HIGH, None)], B: [(HIGH, None)], C: []}, "wait"),  # as far as anybody knows it is chosen
        ({A: [(HIGH, None)], B: [(HIGH, None)], C: [(HIGH, Y)]}, Y),
        ({A: [(HIGH, None), (LOW, None)], B: [(LOW, None)], C: []}, "wait"),  # not HIGH, but maybe LOW
        ({A: [(LOW, None)], B: [(HIGH, Y)]}, Y),
    ],
)
def test_the_value_of_a_slot_with_faulty_votes(told: dict[NodeId, Told], value: bytes | str) -> None:
    assert value_of(told) == (b"noop" if value == b"nothing" and any(told.values()) else value)


def test_what_was_chosen_is_proposed_again_whatever_minority_is_damaged() -> None:
    """All ways in which three acceptors can have voted in two ballots and damaged records: never another value."""
    nodes = (A, B, C)
    for low in product((0, 1), repeat=3):
        for high in product((0, 1), repeat=3):
            second = X if sum(low) >= 2 else Y  # the second proposer keeps to what may be chosen
            for bad_low, bad_high, silent in product((None, *nodes), (None, *nodes), (None, *nodes)):
                told: dict[NodeId, Told] = {}
                for i, node in enumerate(nodes):
                    votes: Told = []
                    if high[i]:
                        votes.append((HIGH, None if bad_high is node else second))
                    if low[i] and (not votes or votes[-1][1] is None):
                        votes.append((LOW, None if bad_low is node else X))
                    if node is not silent:
                        told[node] = votes
                found = value_of(told)
                chosen = X if sum(low) >= 2 else second if sum(high) >= 2 else None
                if chosen is not None:
                    assert found in (chosen, "wait"), (low, high, told)
                    assert found == chosen or silent is not None or bad_low is not bad_high, (low, high, told)


def test_who_knows_a_slot_chosen_and_cannot_read_it_is_left_out_if_others_are_a_majority() -> None:
    candidate = candidate_of({B: [(LOW, X)], C: []})
    candidate.on_promise(A, Promise(G, NOW, Slot(1), (), 0, True, Slot(0)), memoryview(b""))
    assert candidate.has_quorum_within(Slot(0))
    assert candidate.plan(Slot(0), lambda: b"noop") == [(1, X, False)]
    needed = candidate_of({B: [(LOW, X)]})
    needed.on_promise(A, Promise(G, NOW, Slot(1), (), 0, True, Slot(0)), memoryview(b""))
    assert not needed.has_quorum_within(Slot(0))


def test_a_chosen_slot_whose_record_is_damaged_is_chosen_without_a_value(replica: Replica, host: Host) -> None:
    for record in (accept(1, LOW, X), faulty(2, LOW, 1), accept(3, LOW, Y, 2)):
        replica.recover(record)
    assert (replica.prefix, host.values) == (2, {1: X, 2: None})
    replica.recover(faulty(4, Ballot(0), 3, RecordKind.LEARNED))
    assert (replica.prefix, host.values) == (4, {1: X, 2: None, 3: Y, 4: None})


def test_the_last_value_before_a_hole_is_not_taken_for_the_chosen_one(replica: Replica, host: Host) -> None:
    """The vote that counted may lie in the hole; one behind it is the last one for certain."""
    replica.recover(accept(1, LOW, X))
    replica.recover(accept(2, LOW, X))
    replica.learner.recover_hole()
    replica.recover(accept(2, HIGH, Y))
    replica.recover(accept(4, HIGH, Y, 3))
    assert (replica.prefix, host.values) == (3, {1: None, 2: Y, 3: None})
