"""Commands of one node in one group: queueing, resubmission in order, deadlines, gaps."""

from __future__ import annotations

from typing import Any

import pytest

from corgi.base import errors
from corgi.base.command import CommandKind, encode_data, encode_value, iter_commands
from corgi.base.ids import Ballot, GroupId, NodeId, Offset, TopicId, make_ballot, make_origin
from corgi.base.limits import FORWARD_RETRY_S
from corgi.base.records import encode_batch
from corgi.broker.proposals import Pending, Proposals
from corgi.broker.room import is_message
from corgi.state.outcomes import AppendResult, Outcome

ORIGIN = make_origin(NodeId(1), 1)
OLD, NEW = make_ballot(1, NodeId(2)), make_ballot(2, NodeId(3))
TOPIC = TopicId(20)


class Harness:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.proposals = Proposals(GroupId(0), ORIGIN, self.count)
        self.done: dict[str, Outcome] = {}

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by

    def submit(
        self, name: str, body: bytes = b"", *, kind: CommandKind = CommandKind.BARRIER, deadline: float = 10.0
    ) -> None:
        self.proposals.submit(kind, body, lambda outcome: self.done.update({name: outcome}), deadline)

    def data(self, name: str, *batches: tuple[int, int, int]) -> None:
        """(partition, producer, sequence) of one-record batches."""
        body = encode_data([(TOPIC, partition, batch(producer, sequence)) for partition, producer, sequence in batches])
        self.submit(name, body, kind=CommandKind.DATA)

    def take(self, ballot: Ballot = OLD, now: float = 0.0) -> list[Pending]:
        return self.proposals.take(1 << 20, 100, ballot, now)


def batch(producer: int, sequence: int) -> bytes:
    return encode_batch([(None, b"v", (), 1)], producer_id=producer, producer_epoch=0, base_sequence=sequence)


def outcome(counter: int, *appends: tuple[int, int]) -> Outcome:
    results = tuple(AppendResult(error, Offset(offset)) for error, offset in appends)
    stored = any(result.error == 0 for result in results) or not results
    return Outcome(ORIGIN, counter, 0 if stored else results[0].error, results, 5)


@pytest.fixture
def harness() -> Harness:
    return Harness()


def counters(taken: list[Pending]) -> list[int]:
    return [pending.counter for pending in taken]


def test_each_command_is_answered_once(harness: Harness) -> None:
    harness.submit("a")
    harness.take()
    harness.proposals.settle(outcome(1))
    first = harness.done.pop("a")
    harness.proposals.settle(outcome(1))
    assert first.error == 0
    assert not harness.done
    assert len(harness.proposals) == 0
    assert harness.proposals.bytes_held == 0


def test_a_command_tells_what_is_settled(harness: Harness) -> None:
    for name in "abc":
        harness.submit(name)
    harness.take()
    harness.proposals.settle(outcome(1))
    harness.submit("d")
    encoded = harness.take()[0].encoded
    command = next(iter_commands(encode_value(0, [encoded])))
    assert (command.counter, command.settled) == (4, 2)


def test_a_new_leader_gets_the_doubtful_ones_in_order_before_the_queue(harness: Harness) -> None:
    for name in "abc":
        harness.submit(name)
    harness.take()
    harness.submit("d")
    harness.proposals.settle(outcome(2))
    harness.proposals.new_leader(NEW)
    assert counters(harness.take(NEW)) == [1, 3, 4]


def test_what_the_new_leader_already_has_is_not_sent_again(harness: Harness) -> None:
    harness.submit("a")
    harness.take(NEW)
    harness.proposals.new_leader(NEW)
    assert harness.take(NEW) == []


def test_a_forward_without_outcome_is_sent_again_after_a_while(harness: Harness) -> None:
    harness.submit("a")
    harness.take(OLD, now=1.0)
    assert not harness.proposals.retry_forwards(OLD, 1.0 + FORWARD_RETRY_S / 2)
    assert harness.proposals.retry_forwards(OLD, 1.0 + FORWARD_RETRY_S * 1.1)
    assert counters(harness.take()) == [1]


def test_past_its_deadline_a_command_is_never_sent_again(harness: Harness) -> None:
    harness.submit("queued", deadline=1.0)
    harness.proposals.expire(2.0, errors.NO_QUORUM)
    harness.submit("given", deadline=3.0)
    harness.take()
    harness.proposals.expire(4.0, errors.NO_QUORUM)
    assert harness.done["queued"].error == errors.NO_QUORUM
    assert harness.done["given"].error == errors.TIMEOUT
    harness.proposals.new_leader(NEW)
    assert harness.take(NEW) == []


def test_deadlines_are_found_in_any_order(harness: Harness) -> None:
    harness.submit("late", deadline=9.0)
    harness.submit("soon", deadline=1.0)
    harness.proposals.expire(1.5, errors.TIMEOUT)
    assert list(harness.done) == ["soon"]
    harness.proposals.expire(9.5, errors.TIMEOUT)
    assert list(harness.done) == ["soon", "late"]


def test_an_own_gap_goes_out_again_behind_its_predecessor(harness: Harness) -> None:
    harness.data("first", (0, 7, 0))
    harness.data("second", (0, 7, 1))
    harness.take()
    harness.proposals.settle(outcome(2, (errors.OUT_OF_ORDER_SEQUENCE, -1)))
    assert not harness.done
    assert harness.take() == [], "not before its predecessor"
    harness.proposals.new_leader(NEW)
    assert counters(harness.take(NEW)) == [1, 3], "in the old order, under a new id"
    harness.proposals.settle(outcome(1, (0, 40)))
    harness.proposals.settle(outcome(3, (0, 41)))
    assert harness.done["first"].appends[0].base_offset == 40
    assert harness.done["second"].appends[0].base_offset == 41


def test_an_own_gap_in_the_new_ballot_follows_its_predecessor_at_once(harness: Harness) -> None:
    """No newer leader comes that would ask for it again: its predecessor was asked for when this one began."""
    harness.data("first", (0, 7, 0))
    harness.take()
    harness.data("second", (0, 7, 1))
    harness.take(NEW)
    harness.proposals.new_leader(NEW)
    harness.proposals.settle(outcome(2, (errors.OUT_OF_ORDER_SEQUENCE, -1)))
    assert counters(harness.take(NEW)) == [1, 3]
    harness.proposals.settle(outcome(1, (0, 40)))
    harness.proposals.settle(outcome(3, (0, 41)))
    assert harness.done["second"].appends[0].base_offset == 41


def test_an_own_gap_follows_a_predecessor_that_was_given_again_already(harness: Harness) -> None:
    harness.data("first", (0, 7, 0))
    harness.take()
    harness.data("second", (0, 7, 1))
    harness.take(NEW)
    harness.proposals.new_leader(NEW)
    assert counters(harness.take(NEW)) == [1]
    harness.data("third", (0, 7, 2))
    harness.proposals.settle(outcome(2, (errors.OUT_OF_ORDER_SEQUENCE, -1)))
    assert counters(harness.take(NEW)) == [4, 3], "in the old order"


def test_only_the_refused_appends_of_a_command_go_out_again(harness: Harness) -> None:
    harness.data("first", (0, 7, 0))
    harness.data("second", (1, 8, 5), (0, 7, 1), (2, 9, 0))
    harness.take()
    harness.proposals.settle(outcome(2, (0, 10), (errors.OUT_OF_ORDER_SEQUENCE, -1), (errors.RECORD_TOO_LARGE, -1)))
    harness.proposals.new_leader(NEW)
    again = harness.take(NEW)[1]
    assert again.encoded.count(batch(7, 1)[61:]) == 1
    harness.proposals.settle(outcome(1, (0, 3)))
    harness.proposals.settle(outcome(3, (0, 4)))
    assert [tuple(result) for result in harness.done["second"].appends] == [
        (0, 10),
        (0, 4),
        (errors.RECORD_TOO_LARGE, -1),
    ]
    assert harness.done["second"].error == 0


def test_a_gap_of_the_producer_itself_is_told(harness: Harness) -> None:
    harness.data("other", (0, 8, 0))
    harness.data("gap", (0, 7, 5))
    harness.take()
    harness.proposals.settle(outcome(2, (errors.OUT_OF_ORDER_SEQUENCE, -1)))
    assert harness.done["gap"].error == errors.OUT_OF_ORDER_SEQUENCE


def test_take_keeps_to_its_bounds_but_moves_at_least_one(harness: Harness) -> None:
    for name in "abc":
        harness.submit(name, body=bytes(1000))
    assert counters(harness.proposals.take(10, 100, OLD, 0.0)) == [1]
    assert counters(harness.proposals.take(1 << 20, 1, OLD, 0.0)) == [2]


def test_bytes_held_follow_what_is_unsettled(harness: Harness) -> None:
    def fill(size: int) -> Any:
        harness.submit(str(size), body=bytes(size))

    fill(100)
    fill(200)
    held = harness.proposals.bytes_held
    harness.take()
    assert harness.proposals.bytes_held == held
    harness.proposals.settle(outcome(1))
    harness.proposals.settle(outcome(2))
    assert harness.proposals.bytes_held == 0


def test_what_was_given_to_nobody_is_not_queued_twice(harness: Harness) -> None:
    """While no leader is known, the queue is what is to be sent, however much time passes."""
    harness.submit("a")
    assert not harness.proposals.retry_forwards(Ballot(0), 1e6)
    assert counters(harness.take()) == [1]


def test_messages_are_refused_where_they_wait_and_the_rest_goes_on(harness: Harness) -> None:
    harness.data("sent", (0, 7, 0))
    harness.take(OLD, now=1.0)
    harness.data("waiting", (0, 7, 1))
    harness.submit("settings")
    harness.proposals.new_leader(NEW)  # "sent" goes out again: it may be stored
    refused = harness.proposals.refuse(is_message, errors.DISK_FULL)
    assert {pending.counter: outcome.error for pending, outcome in refused} == {1: errors.TIMEOUT, 2: errors.DISK_FULL}
    assert counters(harness.take(NEW)) == [3]
    assert len(harness.proposals) == 1
