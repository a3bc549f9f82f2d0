"""Transactions in one group: openings, transactional appends, markers, what a committed reader may see."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from state_values import TOPIC, Driver, batch, data
from test_state_snapshot import restore

from corgi.base.batch import parse_header
from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import BY_NUMBER
from corgi.base.ids import CHECKPOINTS, TRANSACTIONS, Offset, TopicId
from corgi.base.records import decode_batch
from corgi.state.commands import (
    Owner,
    encode_log_start,
    encode_owner,
    encode_partition_close,
    encode_producers_expired,
    guard_producer_at,
    guard_record_at,
)
from corgi.state.cursors import CheckpointRecord, CursorKey, encode_checkpoint
from corgi.state.fingerprint import fingerprint
from corgi.state.machine import Machine
from corgi.state.partition_transactions import Aborted
from corgi.state.snapshot import Capture
from corgi.state.transaction_records import encode_record
from corgi.state.transaction_rules import (
    StagedCheckpoint,
    control_batch,
    encode_marker,
    encode_transaction_open,
)

PID = 700
KEY = CursorKey("billing", TOPIC, 3, 0)


def code(number: int) -> str:
    return BY_NUMBER[number].code if number else "ok"


def begin(
    driver: Driver,
    number: int,
    *partitions: int,
    pid: int = PID,
    epoch: int = 0,
    staged: tuple[StagedCheckpoint, ...] = (),
) -> str:
    body = encode_transaction_open(pid, epoch, number, [(TOPIC, p) for p in partitions], staged)
    return code(driver.run(CommandKind.TRANSACTION_OPEN, body).error)


def end(driver: Driver, number: int, *, commit: bool, pid: int = PID, epoch: int = 0) -> str:
    body = encode_marker(pid, epoch, number, 5, commit=commit)
    return code(driver.run(CommandKind.MARKER, body).error)


def put(driver: Driver, partition: int, sequence: int, *, pid: int = PID, epoch: int = 0, plain: bool = False) -> str:
    body = batch(1, pid, epoch, sequence, attributes=0 if plain else 0x10)
    return code(driver.append(partition, body)[0])


def stable(driver: Driver, partition: int = 3) -> int:
    log = driver.machine.partitions[TOPIC, partition]
    return log.end if log.transactions is None else log.transactions.stable_end(log.end)


def checkpoint(offset: int, version: int = -1, epoch: int = 1, member: str = "m") -> StagedCheckpoint:
    return StagedCheckpoint("billing", int(TOPIC), 3, 0, epoch, member, version, offset)


def owned(records: int = 10) -> Driver:
    driver = Driver(3, 11)
    driver.append(3, batch(records))
    driver.run(CommandKind.OWNER, encode_owner(Owner("billing", int(TOPIC), 3, 0, 1, "m")))
    return driver


# -- openings, appends, markers -----------------------------------------------------------------------------------


def test_a_transactional_batch_needs_an_open_transaction_with_its_partition() -> None:
    driver = Driver(3, 11)
    assert put(driver, 3, 0) == "transaction-ended"
    assert begin(driver, 1, 3) == "ok"
    assert put(driver, 11, 0) == "transaction-ended"
    assert put(driver, 3, 0) == "ok"
    assert put(driver, 3, 0) == "ok"  # a duplicate has the first offset
    assert driver.machine.partitions[TOPIC, 3].end == 1
    assert put(driver, 3, 1, epoch=1) == "transaction-ended"


def test_the_last_stable_offset_waits_for_the_marker() -> None:
    driver = Driver(3)
    driver.append(3, batch(4))
    begin(driver, 1, 3)
    put(driver, 3, 0)
    driver.append(3, batch(2))
    assert stable(driver) == 4
    assert end(driver, 1, commit=True) == "ok"
    assert stable(driver) == 8  # the control batch takes an offset
    assert driver.machine.partitions[TOPIC, 3].end == 8


def test_the_control_batch_is_kafkas() -> None:
    for commit in (True, False):
        body = control_batch(PID, 3, 77, commit=commit)
        header = parse_header(body)
        assert (header.attributes, header.producer_id, header.producer_epoch, header.base_sequence) == (
            0x30,
            PID,
            3,
            -1,
        )
        (record,) = decode_batch(body)
        assert (record.key, record.value) == (bytes((0, 0, 0, commit)), bytes(6))


def test_a_marker_repeated_changes_nothing() -> None:
    driver = Driver(3)
    begin(driver, 1, 3)
    put(driver, 3, 0)
    assert end(driver, 1, commit=False) == "ok"
    ends = driver.machine.partitions[TOPIC, 3].end
    assert end(driver, 1, commit=False) == "ok"
    assert driver.machine.partitions[TOPIC, 3].end == ends
    found = driver.machine.partitions[TOPIC, 3].transactions
    assert found is not None
    assert found.aborted() == [Aborted(PID, Offset(0), Offset(1))]


def test_an_opening_behind_its_marker_is_refused() -> None:
    driver = Driver(3)
    assert end(driver, 4, commit=False) == "ok"  # the opening is still on its way
    assert begin(driver, 4, 3) == "transaction-ended"
    assert begin(driver, 3, 3) == "transaction-ended"
    assert put(driver, 3, 0) == "transaction-ended"
    assert begin(driver, 5, 3) == "ok"


def test_a_lower_epoch_is_fenced() -> None:
    driver = Driver(3)
    begin(driver, 1, 3)
    put(driver, 3, 0)
    assert end(driver, 1, commit=False, epoch=1) == "ok"  # the same name began anew elsewhere
    assert begin(driver, 2, 3) == "transaction-fenced"
    assert put(driver, 3, 1) == "transaction-fenced"
    assert begin(driver, 2, 3, epoch=1) == "ok"
    assert put(driver, 3, 0, epoch=1) == "ok"


def test_two_transactions_of_one_producer_do_not_overlap() -> None:
    driver = Driver(3)
    begin(driver, 1, 3)
    assert begin(driver, 2, 3) == "transaction-in-progress"
    assert end(driver, 2, commit=True) == "transaction-in-progress"
    assert put(driver, 3, 0) == "ok"


def test_a_plain_batch_of_a_producer_with_an_open_transaction_is_refused() -> None:
    driver = Driver(3)
    begin(driver, 1, 3)
    put(driver, 3, 0)
    assert put(driver, 3, 1, plain=True) == "invalid-argument"
    end(driver, 1, commit=True)
    assert put(driver, 3, 1, plain=True) == "ok"


def test_a_transactional_batch_does_not_stand_in_an_atomic_command() -> None:
    driver = Driver(3, 11)
    begin(driver, 1, 3)
    body = data((11, batch(1)), (3, batch(1, PID, 0, 0, attributes=0x10)), guards=[guard_producer_at(PID, 0)])
    assert code(driver.run(CommandKind.DATA, body).error) == "invalid-argument"
    assert driver.machine.partitions[TOPIC, 11].end == 0


def test_an_opening_is_whole_or_nothing() -> None:
    driver = Driver(3)
    assert begin(driver, 1, 3, 11) == "partition-not-open"
    assert put(driver, 3, 0) == "transaction-ended"


def test_a_closed_partition_takes_no_marker() -> None:
    driver = Driver(3, 11)
    begin(driver, 1, 3, 11)
    put(driver, 3, 0)
    put(driver, 11, 0)
    driver.run(CommandKind.PARTITION_CLOSE, encode_partition_close(TOPIC, [3], 9))
    assert end(driver, 1, commit=True) == "ok"
    assert driver.machine.partitions[TOPIC, 11].end == 2


def test_a_guard_fences_what_one_command_does() -> None:
    driver = Driver(3)
    end(driver, 0, commit=False, epoch=1)
    assert code(driver.run(CommandKind.DATA, data((3, batch(1)), guards=[guard_producer_at(PID, 0)])).error) == (
        "transaction-fenced"
    )
    assert driver.run(CommandKind.DATA, data((3, batch(1)), guards=[guard_producer_at(PID, 1)])).error == 0


@pytest.mark.parametrize("body", [b"", b"\x00\x00\x00\x01", b"\x00\x00\x00\x01\x90" + bytes(61), b"\xff" * 90])
def test_a_marker_that_is_none_is_refused(body: bytes) -> None:
    driver = Driver(3)
    assert code(driver.run(CommandKind.MARKER, body).error) == "invalid-argument"
    assert code(driver.run(CommandKind.TRANSACTION_OPEN, body).error) == "invalid-argument"


def test_what_was_aborted_is_forgotten_with_the_log() -> None:
    driver = Driver(3)
    begin(driver, 1, 3)
    put(driver, 3, 0)
    end(driver, 1, commit=False)
    driver.append(3, batch(1))
    driver.run(CommandKind.LOG_START, encode_log_start([(TOPIC, 3, Offset(2))]))
    found = driver.machine.partitions[TOPIC, 3].transactions
    assert found is not None
    assert found.aborted() == []


def test_idle_fences_expire_and_open_ones_stay() -> None:
    driver = Driver(3)
    end(driver, 1, commit=True)
    begin(driver, 1, 3, pid=PID + 1)
    driver.run(CommandKind.PRODUCERS_EXPIRED, encode_producers_expired(PID + 10, 2**40))
    assert list(driver.machine.transactions.fences) == [PID + 1]


# -- checkpoints --------------------------------------------------------------------------------------------------


def test_a_staged_checkpoint_moves_with_the_commit() -> None:
    driver = owned()
    assert begin(driver, 1, 11, staged=(checkpoint(5, 0),)) == "ok"
    assert driver.machine.cursors.get(KEY).offset == -1
    end(driver, 1, commit=True)
    assert driver.machine.cursors.get(KEY)[:4] == (1, "m", 1, 5)


def test_a_staged_checkpoint_of_an_aborted_transaction_is_dropped() -> None:
    driver = owned()
    begin(driver, 1, 11, staged=(checkpoint(5, 0),))
    end(driver, 1, commit=False)
    assert driver.machine.cursors.get(KEY)[:4] == (1, "m", 0, -1)
    assert begin(driver, 2, 11, staged=(checkpoint(6, 0),)) == "ok"


def test_an_open_transaction_holds_the_cursors_that_it_moves() -> None:
    driver = owned()
    begin(driver, 1, 11, staged=(checkpoint(5, 0),))
    owner = encode_owner(Owner("billing", int(TOPIC), 3, 0, 2, "other"))
    assert code(driver.run(CommandKind.OWNER, owner).error) == "transaction-in-progress"
    own = encode_checkpoint(KEY, CheckpointRecord(1, "m", 7), 1)
    assert code(driver.run(CommandKind.DATA, encode_data([(CHECKPOINTS, 3, own)])).error) == "transaction-in-progress"
    assert begin(driver, 1, 11, pid=PID + 1, staged=(checkpoint(6, 0),)) == "transaction-in-progress"
    end(driver, 1, commit=True)
    assert driver.run(CommandKind.OWNER, owner).error == 0
    assert driver.machine.cursors.get(KEY).offset == 5


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (checkpoint(5, 1), "checkpoint-moved"),
        (checkpoint(11), "offset-out-of-range"),
        (checkpoint(5, epoch=2), "consumer-fenced"),
        (checkpoint(5, member="n"), "consumer-fenced"),
    ],
)
def test_a_checkpoint_that_may_not_move_refuses_the_opening(wanted: StagedCheckpoint, error: str) -> None:
    driver = owned()
    assert begin(driver, 1, 11, staged=(wanted,)) == error
    assert put(driver, 11, 0) == "transaction-ended"


# -- records ------------------------------------------------------------------------------------------------------


def test_records_are_written_by_who_knows_their_version() -> None:
    driver = Driver()

    def write(body: bytes | None, version: int) -> str:
        record = encode_record(b"tname", body, 1)
        guards = [guard_record_at(b"tname", version)]
        return code(driver.run(CommandKind.DATA, encode_data([(TRANSACTIONS, 3, record)], guards)).error)

    assert write(b"one", -1) == "ok"
    assert write(b"two", -1) == "unsettled"
    assert write(b"two", 0) == "ok"
    assert driver.machine.transaction_records.by_key[b"tname"].body == b"two"
    assert write(None, 1) == "ok"
    assert (driver.machine.transaction_records.bytes, driver.machine.transaction_records.by_key) == (0, {})


# -- against a model ----------------------------------------------------------------------------------------------


class Model:
    """One list of (what, transaction) per partition; what became of each transaction. The naive twin."""

    def __init__(self) -> None:
        self.logs: dict[int, list[tuple[int, int] | None]] = {3: [], 11: []}  # None: a control batch
        self.ended: dict[tuple[int, int], bool] = {}

    def visible(self, partition: int) -> list[int]:
        seen = []
        for offset, transaction in enumerate(self.logs[partition]):
            if transaction is None:
                continue
            if transaction != PLAIN and transaction not in self.ended:
                break
            if transaction == PLAIN or self.ended[transaction]:
                seen.append(offset)
        return seen


PLAIN = (-1, -1)


def really_visible(machine: Machine, partition: int, producers: list[int]) -> list[int]:
    """What the index tells a committed reader; ``producers``: of each offset, -1 plain, -2 control."""
    log = machine.partitions[TOPIC, partition]
    found = log.transactions
    end = log.end if found is None else found.stable_end(log.end)
    return [
        offset
        for offset, producer in enumerate(producers)
        if offset < end and producer != -2 and (found is None or producer < 0 or not found.hides(producer, offset))
    ]


@given(st.integers(0, 2**32))
def test_a_committed_reader_sees_what_the_model_says(seed: int) -> None:
    random = Random(seed)
    driver = Driver(3, 11)
    model = Model()
    producers: dict[int, list[int]] = {3: [], 11: []}
    numbers = dict.fromkeys((1, 2, 3), 0)
    running: dict[int, set[int]] = {}
    sequences: dict[tuple[int, int], int] = {}
    for _ in range(random.randrange(80)):
        pid = random.choice((1, 2, 3))
        partition = random.choice((3, 11))
        act = random.randrange(10)
        if act == 0:
            driver.append(partition, batch(1))
            model.logs[partition].append(PLAIN)
            producers[partition].append(-1)
        elif act < 3:
            number = numbers[pid] + (pid not in running)
            assert begin(driver, number, partition, pid=pid) == "ok"
            running.setdefault(pid, set()).add(partition)
            numbers[pid] = number
        elif act < 7:
            sequence = sequences.get((pid, partition), 0)
            got = put(driver, partition, sequence, pid=pid)
            assert got == ("ok" if partition in running.get(pid, ()) else "transaction-ended")
            if got == "ok":
                sequences[pid, partition] = sequence + 1
                model.logs[partition].append((pid, numbers[pid]))
                producers[partition].append(pid)
        elif act < 9 and pid in running:
            commit = random.random() < 0.5
            for _ in range(random.randrange(1, 3)):
                assert end(driver, numbers[pid], commit=commit, pid=pid) == "ok"
            for part in sorted(running.pop(pid)):
                if (pid, numbers[pid]) in model.logs[part]:
                    model.logs[part].append(None)
                    producers[part].append(-2)
            model.ended[pid, numbers[pid]] = commit
        elif act == 9 and pid not in running and numbers[pid]:
            assert begin(driver, numbers[pid], partition, pid=pid) == "transaction-ended"  # it comes late
        machine = driver.machine
        for part in (3, 11):
            assert machine.partitions[TopicId(TOPIC), part].end == len(producers[part])
            assert really_visible(machine, part, producers[part]) == model.visible(part)
    driver.machine.take_appended()
    restored = restore([(kind, b"".join(chunks)) for kind, chunks in Capture(driver.machine).sections()], group=3)
    assert fingerprint(restored) == fingerprint(driver.machine)
    for part in (3, 11):
        assert really_visible(restored, part, producers[part]) == model.visible(part)
