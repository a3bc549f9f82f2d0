"""Cursors of consumer groups: who may move them, what a checkpoint may say, results and checkpoint as one act."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from state_values import TOPIC, Driver, batch
from test_state_snapshot import restore

from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import BY_NUMBER
from corgi.base.ids import CHECKPOINTS, GROUPS, Offset
from corgi.state.commands import (
    CursorGuard,
    Owner,
    encode_owner,
    encode_partition_close,
    guard_cursor_at,
    guard_group_at,
)
from corgi.state.consumer_groups import encode_group
from corgi.state.cursors import CheckpointRecord, Cursor, CursorKey, Range, encode_checkpoint
from corgi.state.fingerprint import fingerprint
from corgi.state.snapshot import Capture

KEY = CursorKey("billing", TOPIC, 3, 0)


def driver(records: int = 100) -> Driver:
    made = Driver(3, 11)
    made.append(3, batch(records))
    return made


def own(driver: Driver, epoch: int, member: str, key: CursorKey = KEY) -> str:
    owner = Owner(key.group, key.topic, key.partition, key.slice, epoch, member)
    return code(driver.run(CommandKind.OWNER, encode_owner(owner)).error)


def code(number: int) -> str:
    return BY_NUMBER[number].code if number else "ok"


def checkpoint(
    epoch: int, member: str, offset: int, ranges: tuple[Range, ...] = (), key: CursorKey = KEY, *, reset: bool = False
) -> bytes:
    return encode_checkpoint(key, CheckpointRecord(epoch, member, offset, ranges, "", reset), 7)


def commit(driver: Driver, epoch: int, member: str, offset: int, *ranges: Range, reset: bool = False) -> str:
    body = checkpoint(epoch, member, offset, ranges, reset=reset)
    return code(driver.run(CommandKind.DATA, encode_data([(CHECKPOINTS, 3, body)])).error)


def cursor(driver: Driver, key: CursorKey = KEY) -> Cursor:
    return driver.machine.cursors.get(key)


def exactly_once(
    driver: Driver, version: int, offset: int, *results: bytes, epoch: int = 1, member: str = "m"
) -> tuple[str, list[int]]:
    guard = guard_cursor_at(CursorGuard("billing", TOPIC, 3, 0, epoch, member, version, offset))
    appends = [(TOPIC, 11, result) for result in results]
    body = encode_data([*appends, (CHECKPOINTS, 3, checkpoint(epoch, member, offset))], [guard])
    outcome = driver.run(CommandKind.DATA, body)
    return code(outcome.error), [result.base_offset for result in outcome.appends]


# -- owners ---------------------------------------------------------------------------------------------------------


def test_only_a_higher_epoch_takes_a_cursor() -> None:
    machine = driver()
    assert own(machine, 1, "a") == "ok"
    assert own(machine, 1, "a") == "ok"  # sent twice
    assert own(machine, 1, "b") == "consumer-fenced"
    assert own(machine, 3, "b") == "ok"
    assert own(machine, 2, "c") == "consumer-fenced"
    assert cursor(machine)[:4] == (3, "b", 0, -1)


def test_a_cursor_needs_an_open_partition() -> None:
    machine = driver()
    elsewhere = CursorKey("billing", TOPIC, 4, 0)
    assert own(machine, 1, "a", elsewhere) == "partition-not-open"
    body = checkpoint(0, "", 1, key=elsewhere)
    assert code(machine.run(CommandKind.DATA, encode_data([(CHECKPOINTS, 3, body)])).error) == "partition-not-open"


def test_a_checkpoint_is_moved_by_who_holds_the_cursor() -> None:
    machine = driver()
    own(machine, 1, "a")
    assert commit(machine, 1, "a", 5) == "ok"
    own(machine, 2, "b")
    assert commit(machine, 1, "a", 9) == "consumer-fenced"
    assert commit(machine, 2, "a", 9) == "consumer-fenced"
    assert cursor(machine)[:4] == (2, "b", 1, 5)  # the new owner goes on where the old one was
    assert commit(machine, 2, "b", 9) == "ok"
    assert machine.machine.partitions[CHECKPOINTS, 3].end == 2  # each checkpoint is a message


def test_without_membership_the_epoch_is_0() -> None:
    machine = driver()
    assert commit(machine, 0, "", 5) == "ok"
    own(machine, 1, "a")
    assert commit(machine, 0, "", 6) == "consumer-fenced"


def test_a_checkpoint_goes_back_by_a_reset_only() -> None:
    machine = driver()
    commit(machine, 0, "", 50, (60, 70))
    assert commit(machine, 0, "", 49) == "checkpoint-moved"
    assert commit(machine, 0, "", 10, reset=True) == "ok"
    assert cursor(machine)[2:5] == (2, 10, ())


def test_a_checkpoint_passes_nothing_that_is_not_stored() -> None:
    machine = driver(100)
    assert commit(machine, 0, "", 101) == "offset-out-of-range"
    assert commit(machine, 0, "", 50, (60, 101)) == "offset-out-of-range"
    assert commit(machine, 0, "", 50, (60, 100)) == "ok"
    assert commit(machine, 0, "", 100) == "ok"


@pytest.mark.parametrize("ranges", [((50, 60),), ((60, 60),), ((70, 80), (60, 65)), ((60, 70), (70, 80)), ((55, 50),)])
def test_ranges_are_sorted_apart_and_above(ranges: tuple[Range, ...]) -> None:
    machine = driver()
    assert commit(machine, 0, "", 50, *ranges) == "invalid-argument"
    assert cursor(machine).version == 0


@pytest.mark.parametrize("body", [batch(1), batch(2), b"x" * 61])
def test_what_is_no_checkpoint_is_refused(body: bytes) -> None:
    machine = driver()
    outcome = machine.run(CommandKind.DATA, encode_data([(CHECKPOINTS, 3, body)]))
    assert code(outcome.error) in ("corrupt-batch", "invalid-argument")
    assert machine.machine.partitions[CHECKPOINTS, 3].end == 0


def test_a_held_cursor_is_not_deleted() -> None:
    machine = driver()
    own(machine, 1, "a")
    gone = encode_data([(CHECKPOINTS, 3, encode_checkpoint(KEY, None, 7))])
    assert code(machine.run(CommandKind.DATA, gone).error) == "consumer-fenced"
    own(machine, 2, "")
    assert machine.run(CommandKind.DATA, gone).error == 0
    assert machine.machine.cursors.find(KEY) is None


def test_a_closed_partition_takes_its_cursors_along() -> None:
    machine = driver()
    commit(machine, 0, "", 5)
    machine.run(CommandKind.PARTITION_CLOSE, encode_partition_close(TOPIC, [3], 9))
    assert not list(machine.machine.cursors.items())


# -- exactly once -----------------------------------------------------------------------------------------------------


def test_results_and_checkpoint_are_one_act() -> None:
    machine = driver()
    own(machine, 1, "m")
    assert exactly_once(machine, 0, 10, batch(2), batch(1)) == ("ok", [0, 2, 0])
    assert cursor(machine)[2:4] == (1, 10)


def test_what_was_done_before_is_not_done_again() -> None:
    machine = driver()
    own(machine, 1, "m")
    exactly_once(machine, 0, 10, batch(2))
    assert exactly_once(machine, 0, 10, batch(2)) == ("ok", [-1, -1])
    assert machine.machine.partitions[TOPIC, 11].end == 2
    assert machine.machine.partitions[CHECKPOINTS, 3].end == 1


def test_a_cursor_that_somebody_else_moved_as_far_does_not_stand_for_other_results() -> None:
    """Without membership nothing but the producers of the results tells two commands apart."""
    machine = driver()

    def act(producer: int, sequence: int, version: int, offset: int) -> tuple[str, list[int]]:
        results = batch(2, producer, 0, sequence)
        return exactly_once(machine, version, offset, results, epoch=0, member="")

    assert act(1, 0, 0, 10) == ("ok", [0, 0])
    assert act(1, 0, 0, 10) == ("ok", [0, -1])  # sent again
    assert act(2, 0, 0, 10) == ("checkpoint-moved", [])
    assert act(2, 0, 1, 20) == ("ok", [2, 1])
    assert act(1, 2, 1, 20) == ("checkpoint-moved", [])
    assert act(1, 2, 2, 30) == ("ok", [4, 2])
    assert machine.machine.partitions[TOPIC, 11].end == 6


def test_a_fenced_consumer_leaves_no_result() -> None:
    machine = driver()
    own(machine, 1, "m")
    exactly_once(machine, 0, 10, batch(2))
    own(machine, 2, "n")
    assert exactly_once(machine, 1, 20, batch(2)) == ("consumer-fenced", [])
    assert exactly_once(machine, 0, 10, batch(2)) == ("consumer-fenced", [])
    assert exactly_once(machine, 0, 20, batch(2), epoch=2, member="n") == ("checkpoint-moved", [])
    assert machine.machine.partitions[TOPIC, 11].end == 2


def test_a_refused_result_takes_the_checkpoint_back() -> None:
    machine = driver()
    own(machine, 1, "m")
    before = fingerprint(machine.machine)
    assert exactly_once(machine, 0, 10, batch(2), b"x" * 70)[0] == "corrupt-batch"
    assert exactly_once(machine, 0, 1000, batch(2))[0] == "offset-out-of-range"
    assert cursor(machine).version == 0
    assert machine.machine.partitions[TOPIC, 11].end == 0
    assert before != fingerprint(machine.machine)  # only because outcomes are remembered


# -- groups and snapshots ----------------------------------------------------------------------------------------------


def test_a_groups_record_is_replaced_by_who_knows_its_version() -> None:
    machine = driver()
    groups = machine.machine.consumer_groups

    def write(version: int, body: bytes | None) -> str:
        guard = guard_group_at("billing", version)
        data = encode_data([(GROUPS, 3, encode_group("billing", body, 7))], [guard])
        return code(machine.run(CommandKind.DATA, data).error)

    assert write(0, b"early") == "unsettled"
    assert write(-1, b"one") == "ok"
    assert write(-1, b"two") == "unsettled"
    assert write(0, b"two") == "ok"
    assert groups.by_name["billing"] == (1, b"two")
    assert write(1, None) == "ok"
    assert groups.version("billing") == -1


@given(st.integers(0, 2**32))
def test_a_snapshot_holds_cursors_and_groups(seed: int) -> None:
    random = Random(seed)
    machine = driver()
    for _ in range(random.randrange(1, 40)):
        key = CursorKey(random.choice("ab"), TOPIC, random.choice((3, 11)), random.randrange(2))
        held = cursor(machine, key)
        if random.random() < 0.3:
            own(machine, random.randrange(1, 5), random.choice("xy"), key)
        elif random.random() < 0.2:
            body = encode_group(random.choice("ab"), random.choice((b"1", b"2", None)), 7)
            machine.run(CommandKind.DATA, encode_data([(GROUPS, 3, body)]))
        else:
            body = checkpoint(held.owner_epoch, held.member, random.randrange(50), ((60, 61),), key)
            machine.run(CommandKind.DATA, encode_data([(CHECKPOINTS, 3, body)]))
    machine.machine.take_appended()
    sections = [(kind, b"".join(chunks)) for kind, chunks in Capture(machine.machine).sections()]
    assert fingerprint(restore(sections, 3)) == fingerprint(machine.machine)
    assert cursor(machine, KEY).offset <= Offset(100)
