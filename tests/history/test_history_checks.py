"""Every check over a history rejects, by name, a bad history made by hand, and lets the good one be."""

from collections.abc import Callable

import pytest

from corgi.history.checks import CHECKS, check_history
from corgi.history.model import (
    AT_MOST_ONCE,
    EXACTLY_ONCE,
    FAILED,
    HANDLING_FAILED,
    OK,
    OPEN,
    UNKNOWN,
    Bound,
    Call,
    Checkpoint,
    Fault,
    Handling,
    History,
    Limits,
    Partition,
    Read,
    Result,
    Send,
    Transaction,
)

P = Partition("t", 0)
OUT = Partition("out", 0)


def send(sequence: int, value: bytes, offset: int = -1, status: str = OK, ended: float = 1.0) -> Send:
    return Send("p", P, sequence, (value,), 0.5, ordered=True, ended=ended, status=status, offset=offset)


def good() -> History:
    """Three writes, one of them in doubt and stored, read by two readers, equal on three nodes."""
    stored = [(0, b"a"), (1, b"b"), (2, b"c")]
    return History(
        sends=[send(0, b"a", 0), send(1, b"b", status=UNKNOWN), send(2, b"c", 2)],
        reads=[
            Read("r", P, 0, ((0, b"a"), (1, b"b")), 2.0),
            Read("r", P, 2, ((2, b"c"),), 3.0),
            Read("s", P, 1, (), 3.0),
        ],
        bounds=[Bound("e", P, 0.1, 0.2, 0), Bound("e", P, 2.0, 2.1, 3)],
        handlings=[Handling("g", "h1", P, "k", 0, 1.0, 1.5), Handling("g", "h2", P, "k", 2, 1.5, 1.6)],
        results=[Result("e", "h1", P, 0, (b"A",), 1.0), Result("e", "h2", P, 0, (b"A",), 1.1)],
        checkpoints=[
            Checkpoint("g", P, 1, ((2, 3),)),
            Checkpoint("e", P, 1, (), EXACTLY_ONCE),
            Checkpoint("m", P, 3, (), AT_MOST_ONCE),
        ],
        calls=[
            Call("x", "topic", "swap", None, "there", OK, 0.0, 0.5),
            Call("y", "topic", "read", "there", None, OK, 0.4, 0.6),
        ],
        final={P: {1: list(stored), 2: list(stored), 3: list(stored)}, OUT: {1: [(0, b"A")], 2: [(0, b"A")]}},
        healed=1.0,
        limits=Limits(write_gap_s=0.5, settle_s=1.0),
    )


DEBITS, CREDITS = Partition("debits", 0), Partition("credits", 0)


def transact(history: History, status: str = OK, decided: float = 1.0) -> None:
    """A transaction in two partitions, stored and read."""
    history.transactions.append(Transaction("t", ((DEBITS, b"debit"), (CREDITS, b"credit")), decided, status, 0.5, 2.0))
    history.reads.append(Read("r", DEBITS, 0, ((0, b"debit"),), 1.5))
    history.final[DEBITS] = {1: [(0, b"debit")], 2: [(0, b"debit")]}
    history.final[CREDITS] = {1: [(0, b"credit")], 2: [(0, b"credit")]}


def lose_half_of_a_transaction(history: History) -> None:
    transact(history, UNKNOWN)
    history.final[CREDITS] = {1: [], 2: []}


def lose_an_acknowledged_transaction(history: History) -> None:
    transact(history)
    history.reads.pop()
    history.final[CREDITS] = history.final[DEBITS] = {1: [], 2: []}


def see_a_transaction_before_its_commit(history: History) -> None:
    transact(history, decided=1.6)


def see_an_aborted_transaction(history: History) -> None:
    transact(history, FAILED)


def everywhere(history: History, records: list[tuple[int, bytes]]) -> None:
    history.final[P] = {node: list(records) for node in (1, 2, 3)}


def forget_an_acknowledged_write(history: History) -> None:
    history.reads.clear()
    everywhere(history, [(0, b"a"), (1, b"b")])


def forget_what_a_reader_saw(history: History) -> None:
    history.sends = history.sends[:2]
    everywhere(history, [(0, b"a"), (1, b"b")])


def compacted(history: History) -> None:
    """The same in a compacted partition: "a" of one key, then "b" and "c" of another; "c" deletes it."""
    history.compacted = {P}
    history.sends[0].keys, history.sends[1].keys, history.sends[2].keys = ("k",), ("l",), ("l",)
    history.sends[2].tombstones = frozenset([b"c"])
    everywhere(history, [(0, b"a"), (2, b"c")])


def compact_the_newest_away(history: History) -> None:
    compacted(history)
    everywhere(history, [(1, b"b"), (2, b"c")])


def bring_a_deleted_key_back(history: History) -> None:
    compacted(history)
    everywhere(history, [(0, b"a"), (1, b"b")])


def one_replica_lost_the_newest(history: History) -> None:
    compacted(history)
    history.final[P][2] = [(2, b"c")]


def skip_what_compaction_left(history: History) -> None:
    compacted(history)
    history.reads.append(Read("t", P, 0, ((2, b"c"),), 3.0))


def store_twice(history: History) -> None:
    everywhere(history, [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"b")])


def tell_a_reader_otherwise(history: History) -> None:
    history.reads.append(Read("s", P, 0, ((0, b"b"),), 3.0))


def tell_a_writer_otherwise(history: History) -> None:
    history.sends[0].offset = 1


def one_replica_differs_at_an_offset(history: History) -> None:
    history.final[P][2] = [(0, b"b"), (1, b"a"), (2, b"c")]


def store_what_nobody_sent(history: History) -> None:
    everywhere(history, [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"x")])


def store_what_was_refused(history: History) -> None:
    history.sends[1].status = FAILED


def swap_a_producers_batches(history: History) -> None:
    history.sends = [send(0, b"b", 1), send(1, b"a", 0), send(2, b"c", 2)]


def leave_a_gap_in_a_producers_batches(history: History) -> None:
    history.sends.insert(2, send(2, b"missing", status=UNKNOWN))
    history.sends[3].sequence = 3


def skip_an_offset(history: History) -> None:
    history.reads.append(Read("s", P, 0, ((0, b"a"), (2, b"c")), 3.0))


def skip_between_two_answers(history: History) -> None:
    history.reads[1] = Read("r", P, 1, ((2, b"c"),), 3.0)


def give_an_offset_again(history: History) -> None:
    history.reads.append(Read("r", P, 3, ((2, b"c"),), 3.0))


def tell_an_old_end(history: History) -> None:
    history.bounds.append(Bound("e", P, 2.0, 2.1, 2))


def tell_an_end_and_then_a_lower_one(history: History) -> None:
    history.bounds.append(Bound("e", P, 2.5, 2.6, 2))
    history.sends[2].status = UNKNOWN


def read_what_was_refused(history: History) -> None:
    history.final.clear()
    history.sends[1].status = FAILED


def handle_a_key_backwards(history: History) -> None:
    history.handlings.append(Handling("g", "h1", P, "k", 1, 1.7, 1.8))


def handle_a_key_twice_at_a_time(history: History) -> None:
    history.handlings.append(Handling("g", "h2", P, "k", 1, 1.4, 1.45))


def handle_for_the_first_time_too_late(history: History) -> None:
    history.handlings.append(Handling("g", "h3", P, "k", 1, 1.7, 1.8))


def pass_what_is_not_handled(history: History) -> None:
    history.checkpoints[0] = Checkpoint("g", P, 3)


def pass_what_failed(history: History) -> None:
    history.handlings[1] = history.handlings[1]._replace(outcome=HANDLING_FAILED)


def handle_twice_where_once_is_the_most(history: History) -> None:
    history.handlings += [Handling("m", "h1", P, "k", 0, 1.0, 1.5), Handling("m", "h2", P, "k", 0, 1.6, 1.7)]


def pass_an_input_without_a_result(history: History) -> None:
    history.checkpoints[1] = Checkpoint("e", P, 2, (), EXACTLY_ONCE)


def store_a_result_without_the_checkpoint(history: History) -> None:
    history.checkpoints[1] = Checkpoint("e", P, 0, (), EXACTLY_ONCE)


def pass_an_input_whose_result_is_gone(history: History) -> None:
    history.results = [Result("e", "h1", P, 0, (b"gone",), 1.0)]


def make_something_else_the_second_time(history: History) -> None:
    history.results[1] = Result("e", "h2", P, 0, (b"c",), 1.1)


def never_finish_and_go_on(history: History) -> None:
    history.handlings[0] = history.handlings[0]._replace(ended=-1.0)


def see_nothing_where_something_is(history: History) -> None:
    history.calls.append(Call("y", "topic", "read", None, None, OK, 0.6, 0.7))


def make_it_twice(history: History) -> None:
    history.calls.append(Call("y", "topic", "swap", None, "there", OK, 0.6, 0.7))


def wait_too_long(history: History) -> None:
    history.sends[1].scheduled = 0.4


def wait_too_long_for_a_fault(history: History) -> None:
    send = history.sends[1]
    history.limits = Limits()
    history.faults.append(Fault("kill", "node 2", send.due, send.due + 0.01, gap_max_s=(send.ended - send.due) / 2))


def end_long_after_healing(history: History) -> None:
    history.sends[1].ended = 2.5
    history.limits = Limits(settle_s=1.0)


def leave_a_write_open(history: History) -> None:
    history.sends[1].status = OPEN


def leave_an_operation_open(history: History) -> None:
    history.unfinished.append("a client waits")


def leave_a_replica_behind(history: History) -> None:
    history.final[P][3].pop()


BAD: list[tuple[str, Callable[[History], None]]] = [
    ("lost-write", forget_an_acknowledged_write),
    ("lost-write", forget_what_a_reader_saw),
    ("lost-key", compact_the_newest_away),
    ("lost-key", bring_a_deleted_key_back),
    ("lost-key", one_replica_lost_the_newest),
    ("poll-skip", skip_what_compaction_left),
    ("duplicate", store_twice),
    ("inconsistent-offsets", tell_a_reader_otherwise),
    ("inconsistent-offsets", tell_a_writer_otherwise),
    ("inconsistent-offsets", one_replica_differs_at_an_offset),
    ("aborted-read", store_what_nobody_sent),
    ("aborted-read", store_what_was_refused),
    ("aborted-read", see_an_aborted_transaction),
    ("torn-transaction", lose_half_of_a_transaction),
    ("torn-transaction", lose_an_acknowledged_transaction),
    ("precommitted-read", see_a_transaction_before_its_commit),
    ("nonmonotonic-send", swap_a_producers_batches),
    ("send-gap", leave_a_gap_in_a_producers_batches),
    ("poll-skip", skip_an_offset),
    ("poll-skip", skip_between_two_answers),
    ("nonmonotonic-poll", give_an_offset_again),
    ("stale-end", tell_an_old_end),
    ("stale-end", tell_an_end_and_then_a_lower_one),
    ("aborted-read", read_what_was_refused),
    ("key-order", handle_a_key_backwards),
    ("key-order", handle_a_key_twice_at_a_time),
    ("key-order", never_finish_and_go_on),
    ("key-order", handle_for_the_first_time_too_late),
    ("unhandled", pass_what_is_not_handled),
    ("unhandled", pass_what_failed),
    ("handled-twice", handle_twice_where_once_is_the_most),
    ("exactly-once", pass_an_input_without_a_result),
    ("exactly-once", store_a_result_without_the_checkpoint),
    ("exactly-once", pass_an_input_whose_result_is_gone),
    ("exactly-once", make_something_else_the_second_time),
    ("linearizability", see_nothing_where_something_is),
    ("linearizability", make_it_twice),
    ("write-gap", wait_too_long),
    ("write-gap", wait_too_long_for_a_fault),
    ("stuck", leave_a_write_open),
    ("stuck", end_long_after_healing),
    ("stuck", leave_an_operation_open),
    ("stuck", leave_a_replica_behind),
]


def test_a_good_history_passes() -> None:
    assert check_history(good()) == []


@pytest.mark.parametrize(("name", "spoil"), BAD, ids=lambda value: getattr(value, "__name__", value))
def test_a_bad_history_is_rejected_by_name(name: str, spoil: Callable[[History], None]) -> None:
    history = good()
    spoil(history)
    assert name in {violation.name for violation in check_history(history)}


@pytest.mark.parametrize("status", [OK, UNKNOWN, OPEN])
def test_a_transaction_that_is_whole_passes(status: str) -> None:
    history = good()
    transact(history, status)
    assert check_history(history) == []


@pytest.mark.parametrize("status", [FAILED, UNKNOWN, OPEN])
def test_a_transaction_of_which_nothing_is_there_passes(status: str) -> None:
    history = good()
    transact(history, status)
    history.reads.pop()
    history.final[DEBITS] = history.final[CREDITS] = {1: [], 2: []}
    assert check_history(history) == []


def test_what_lies_before_the_start_may_be_gone() -> None:
    history = good()
    history.starts = {P: 1}
    everywhere(history, [(1, b"b"), (2, b"c")])
    assert check_history(history) == []


def forget_something_behind_the_start(history: History) -> None:
    history.sends[1].status, history.sends[1].offset = OK, 1
    everywhere(history, [(2, b"c")])


def leave_a_gap_behind_the_start(history: History) -> None:
    history.reads.clear()
    history.sends[1].status = OK
    everywhere(history, [(0, b"a"), (2, b"c")])


@pytest.mark.parametrize(
    ("name", "spoil"), [("lost-write", forget_something_behind_the_start), ("send-gap", leave_a_gap_behind_the_start)]
)
def test_what_lies_behind_the_start_may_not_be_gone(name: str, spoil: Callable[[History], None]) -> None:
    history = good()
    history.starts = {P: 1}
    spoil(history)
    assert name in {violation.name for violation in check_history(history)}


def test_another_process_may_do_again_what_is_not_known_to_be_done() -> None:
    history = good()
    history.handlings.append(Handling("g", "h2/2", P, "k", 0, 1.7, 1.8))
    history.handlings.append(Handling("g", "h2/2", P, "k", 2, 1.8, 1.9))
    assert check_history(history) == []


def test_every_check_has_a_bad_history() -> None:
    assert {name for name, _ in BAD} == set(CHECKS)


def test_nothing_else_is_blamed_for_a_duplicate() -> None:
    history = good()
    store_twice(history)
    assert {violation.name for violation in check_history(history)} == {"duplicate"}


@pytest.mark.parametrize("sparse", [False, True], ids=["everywhere", "in this partition"])
def test_offsets_with_holes_are_skipped_only_where_something_is_stored(sparse: bool) -> None:
    history = good()
    history.dense = sparse
    history.sparse = {P} if sparse else set()
    holes = [(0, b"a"), (3, b"b"), (7, b"c")]
    everywhere(history, holes)
    history.sends = [send(0, b"a", 0), send(1, b"b", 3), send(2, b"c", 7)]
    history.reads = [Read("r", P, 0, ((0, b"a"), (3, b"b")), 2.0), Read("r", P, 4, ((7, b"c"),), 3.0)]
    history.bounds.clear()
    assert check_history(history) == []
    history.reads.append(Read("s", P, 1, ((7, b"c"),), 3.0))
    assert {violation.name for violation in check_history(history)} == {"poll-skip"}


def test_compaction_may_leave_out_what_is_superseded() -> None:
    history = good()
    compacted(history)
    history.reads.append(Read("t", P, 1, ((2, b"c"),), 3.0))
    assert check_history(history) == []
    everywhere(history, [(0, b"a")])  # the tombstone is gone as well
    history.reads.append(Read("t", P, 0, ((0, b"a"),), 3.0))
    assert check_history(history) == []


def test_a_tombstone_that_nobody_heard_of_may_have_deleted_a_key() -> None:
    history = good()
    compacted(history)
    everywhere(history, [(2, b"c")])
    assert {violation.name for violation in check_history(history)} == {"lost-key"}
    doubtful = send(3, b"d", status=UNKNOWN)
    doubtful.keys, doubtful.tombstones = ("k",), frozenset([b"d"])
    history.sends.append(doubtful)
    assert check_history(history) == []


def test_what_retention_took_of_a_compacted_partition_may_be_gone() -> None:
    history = good()
    compacted(history)
    everywhere(history, [(2, b"c")])
    history.starts = {P: 1}
    assert check_history(history) == []
