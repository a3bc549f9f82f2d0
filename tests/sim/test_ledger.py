"""The onlooker reckons for itself what is chosen; where it could err, it would accuse the innocent or miss a fault."""

from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from corgi.base.ids import Ballot, GroupId, NodeId, Position, Slot
from corgi.base.ports import FaultyRecord, LogRecord, RecordKind
from corgi.broker.node_records import NO_GROUP, NodeRecord
from corgi.paxos.messages import Accepted
from corgi.sim.disk_memory import DiskMemory
from corgi.sim.ledger import Focus, Ledger
from corgi.sim.process import Process
from corgi.sim.world import World

A, B = NodeId(1), NodeId(2)
G, SLOT, BALLOT = GroupId(0), Slot(1), Ballot(65537)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(World(1), 3)


def vote(ballot: Ballot = BALLOT, value: bytes = b"value", release: tuple[NodeId, Accepted] | None = None) -> LogRecord:
    record = LogRecord(RecordKind.ACCEPT, G, ballot, SLOT, Slot(0), value, release)
    record.position = Position(1)
    return record


def learned() -> LogRecord:
    return LogRecord(RecordKind.LEARNED, G, BALLOT, SLOT, Slot(0), b"value")


def recovery(*, begins: bool, memory: str = "") -> LogRecord:
    """The node tells that it begins to recover, or that it has recovered."""
    return told(NodeRecord(0, recovering=begins, memory=memory))


def told(what: NodeRecord) -> LogRecord:
    body = msgspec.msgpack.encode(what)
    return LogRecord(RecordKind.NODE, NO_GROUP, Ballot(0), Slot(0), Slot(0), body)


def test_a_vote_that_an_old_disk_has_lost_counts_once_a_peer_hears_of_it(ledger: Ledger) -> None:
    """It was on its way when the disk was replaced."""
    ledger.synced(A, DiskMemory(), [vote()])
    ledger.forget_unheard(A, DiskMemory())
    ledger.synced(B, DiskMemory(), [vote()])
    ledger.heard(A, Accepted(G, BALLOT, SLOT))
    ledger.synced(B, DiskMemory(), [learned()])
    assert not ledger.violations


def test_a_vote_that_an_old_disk_has_lost_and_nobody_heard_of_never_was(ledger: Ledger) -> None:
    ledger.synced(A, DiskMemory(), [vote()])
    ledger.forget_unheard(A, DiskMemory())
    ledger.synced(B, DiskMemory(), [vote()])
    ledger.synced(B, DiskMemory(), [learned()])
    assert [violation.name for violation in ledger.violations] == ["learned-unchosen"]
    assert ledger.focus == Focus(B, G, SLOT)


def test_a_vote_against_what_is_chosen_is_seen_whichever_comes_first(ledger: Ledger) -> None:
    higher = Ballot(BALLOT + 65536)
    ledger.synced(A, DiskMemory(), [vote()])
    ledger.synced(NodeId(3), DiskMemory(), [vote(higher, b"other")])
    assert not ledger.violations
    ledger.synced(B, DiskMemory(), [vote()])
    assert [violation.name for violation in ledger.violations] == ["agreement"]


def test_a_vote_synced_together_with_the_recovery_that_makes_up_for_it_may_be_answered(ledger: Ledger) -> None:
    """A restart need not find it any more, but it is durable."""
    memory = DiskMemory()
    ledger.synced(A, memory, [vote(), recovery(begins=True), recovery(begins=False)])
    process = cast("Process", SimpleNamespace(id=A, memory=memory, doubted=0))
    ledger.sent(process, B, Accepted(G, BALLOT, SLOT), b"")
    assert not ledger.violations
    ledger.recovered(A, memory, [], holes=1)
    assert not ledger.violations, "it is made up for"
    ledger.sent(process, B, Accepted(G, BALLOT, SLOT), b"")
    assert [violation.name for violation in ledger.violations] == ["answer-not-durable"], "and was not found"


def test_a_vote_from_before_a_recovery_may_lie_behind_a_higher_promise_where_it_was_copied_forward_to(
    ledger: Ledger,
) -> None:
    """The segment where it lay first was freed."""
    memory = DiskMemory()
    promise = LogRecord(RecordKind.PROMISE, G, Ballot(BALLOT + 65536), Slot(0), Slot(0), b"")
    ledger.synced(A, memory, [vote(), promise, vote(), recovery(begins=True), recovery(begins=False)])
    for _ in range(2):
        ledger.recovered(A, memory, [promise, vote(), recovery(begins=True), recovery(begins=False)], holes=0)
    assert not ledger.violations
    ledger.recovered(A, memory, [promise, vote(Ballot(BALLOT + 1))], holes=0)
    assert [violation.name for violation in ledger.violations] == ["promise-went-back"]


def test_a_recovery_of_the_durable_groups_makes_up_for_no_vote_of_a_memory_group() -> None:
    """It may be copied forward behind a promise, and a restart has to find it."""
    higher = LogRecord(RecordKind.PROMISE, G, Ballot(BALLOT + 65536), Slot(0), Slot(0), b"")
    for memory in ("", "-"):
        ledger = Ledger(World(1), 3, groups=0)
        disk = DiskMemory()
        ends = [recovery(begins=begins, memory=memory) for begins in (True, False)]
        ledger.synced(A, disk, [vote(), higher, *ends, vote()])
        assert not ledger.violations
        ledger.synced(A, disk, ends)
        ledger.recovered(A, disk, [higher, *ends], holes=0)
        assert [violation.name for violation in ledger.violations] == ([] if memory else ["synced-record-lost"])


@pytest.mark.parametrize("synced", [True, False])
def test_a_damaged_vote_is_given_up_with_the_loss_that_the_operator_accepts(*, synced: bool) -> None:
    """Also if that was written, and nobody knew it to be durable before the next restart."""
    ledger = Ledger(World(1), 3, groups=0)
    disk = DiskMemory()
    damaged = FaultyRecord(RecordKind.ACCEPT, G, BALLOT, SLOT, Slot(0), 5)
    accepted = told(NodeRecord(0, memory="-", cut=((G, Slot(0)),)))
    ledger.synced(A, disk, [vote()])
    ledger.recovered(A, disk, [damaged], holes=0)
    if synced:
        ledger.synced(A, disk, [accepted])
    ledger.recovered(A, disk, [damaged, accepted], holes=0)
    promise = LogRecord(RecordKind.PROMISE, G, BALLOT, Slot(0), Slot(0), b"")
    ledger.recovered(A, disk, [promise, accepted], holes=0)
    assert not ledger.violations


@pytest.mark.parametrize("known", [0, 1])
def test_a_vote_in_a_slot_known_chosen_is_given_up_with_the_loss_of_one_before_it(known: int) -> None:
    """The node keeps no votes where it knows what is chosen, and what it knows there it has given up."""
    ledger = Ledger(World(1), 3, groups=0)
    disk = DiskMemory()
    state = LogRecord(RecordKind.STATE, G, BALLOT, Slot(known), Slot(known), b"")
    accepted = told(NodeRecord(0, memory="-", cut=((G, Slot(0)),)))
    ledger.synced(A, disk, [vote(), state, accepted])
    ledger.recovered(A, disk, [state, accepted], holes=0)
    assert [violation.name for violation in ledger.violations] == ([] if known else ["synced-record-lost"])


@pytest.mark.parametrize("memory", ["", "-"])
def test_a_vote_given_anew_below_a_promise_is_seen_though_a_recovery_made_up_for_the_first(memory: str) -> None:
    """A copy is told to nobody; this one is."""
    ledger = Ledger(World(1), 3, groups=0 if memory else 1)
    disk = DiskMemory()
    promise = LogRecord(RecordKind.PROMISE, G, Ballot(BALLOT + 65536), Slot(0), Slot(0), b"")
    ledger.synced(A, disk, [vote(), *[recovery(begins=begins, memory=memory) for begins in (True, False)], promise])
    assert not ledger.violations
    ledger.synced(A, disk, [vote(release=(B, Accepted(G, BALLOT, SLOT)))])
    assert [violation.name for violation in ledger.violations] == ["promise-went-back"]


def test_a_vote_that_can_be_read_is_not_given_up_with_a_damaged_copy_of_it() -> None:
    ledger = Ledger(World(1), 3, groups=0)
    disk = DiskMemory()
    damaged = FaultyRecord(RecordKind.ACCEPT, G, BALLOT, SLOT, Slot(0), 5)
    accepted = told(NodeRecord(0, memory="-", cut=((G, Slot(0)),)))
    promise = LogRecord(RecordKind.PROMISE, G, BALLOT, Slot(0), Slot(0), b"")
    ledger.synced(A, disk, [vote()])
    ledger.recovered(A, disk, [vote(), damaged], holes=0)
    ledger.synced(A, disk, [accepted])
    assert not ledger.violations
    ledger.recovered(A, disk, [promise, accepted], holes=0)
    assert [violation.name for violation in ledger.violations] == ["synced-record-lost"]


def test_a_recovery_may_have_ended_on_the_disk_without_anybody_hearing_of_it(ledger: Ledger) -> None:
    disk = DiskMemory()
    ledger.synced(A, disk, [vote(), recovery(begins=True)])
    ledger.recovered(A, disk, [vote(), recovery(begins=True), recovery(begins=False)], holes=0)
    assert not ledger.violations


def test_a_lost_tail_is_seen_though_what_it_held_lies_before_it_as_well(ledger: Ledger) -> None:
    disk = DiskMemory()
    recovered = [recovery(begins=True), recovery(begins=False)]
    ledger.synced(A, disk, [vote(), *recovered, vote()])
    ledger.recovered(A, disk, [vote(), *recovered], holes=0)
    assert [violation.name for violation in ledger.violations] == ["synced-record-lost"]


def test_a_vote_that_a_lossy_restart_went_past_counts_no_more_when_it_is_read_again() -> None:
    """It lies in the log still. One that is given now in so old a ballot breaks a promise, and counts."""
    for again in (True, False):
        ledger = Ledger(World(1), 1)
        ledger.restarted[G] = [(SLOT, Ballot(2 * BALLOT))]
        ledger.synced(A, DiskMemory(), [vote(Ballot(2 * BALLOT), b"other")])
        if again:
            ledger.recovered(A, DiskMemory(), [vote()], holes=0)
        else:
            ledger.synced(A, DiskMemory(), [vote()])
        assert [violation.name for violation in ledger.violations] == ([] if again else ["agreement"] * 2)
