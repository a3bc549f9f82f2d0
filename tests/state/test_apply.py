"""What each kind of command does, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import pytest
from state_values import GROUPS, TOPIC, Driver, batch, data

from corgi.base import errors
from corgi.base.command import (
    COMMAND_HEADER,
    VALUE_HEADER_BYTES,
    CommandKind,
    encode_command,
    encode_data,
    encode_value,
)
from corgi.base.errors import InvariantError
from corgi.base.ids import CHECKPOINTS, EVENTS, META, SYSTEM_TOPIC_NAMES, Ballot, GroupId, NodeId, Slot, TopicId
from corgi.base.limits import BATCH_BYTES_DEFAULT
from corgi.state.commands import (
    FLAG_ATOMIC,
    encode_epoch,
    encode_partition_close,
    encode_partition_open,
    encode_producers_expired,
)
from corgi.state.fingerprint import fingerprint
from corgi.state.machine import Machine
from corgi.state.rules import MALFORMED, UNSUPPORTED

DATA = CommandKind.DATA
OPEN = CommandKind.PARTITION_OPEN
CLOSE = CommandKind.PARTITION_CLOSE


def atomic(driver: Driver, body: bytes) -> bytes:
    """A DATA command that wants all or nothing."""
    command = bytearray(driver.command(DATA, body))
    fields = list(COMMAND_HEADER.unpack_from(command))
    fields[2] = FLAG_ATOMIC
    COMMAND_HEADER.pack_into(command, 0, *fields)
    return bytes(command)


# -- appends --------------------------------------------------------------------------------------------------------


def test_offsets_follow_each_other_per_partition() -> None:
    driver = Driver(3, 11)
    assert driver.append(3, batch(5)) == (0, 0)
    assert driver.append(11, batch(2)) == (0, 0)
    assert driver.append(3, batch(1)) == (0, 5)
    outcome = driver.run(DATA, data((11, batch(1)), (3, batch(2)), (11, batch(1))))
    assert [tuple(result) for result in outcome.appends] == [(0, 2), (0, 6), (0, 3)]


def test_an_entry_names_the_bytes_in_the_value() -> None:
    driver = Driver(3, 11)
    bodies = [batch(1, payload=b"a" * 10), batch(2, payload=b"bb" * 10), batch(3, payload=b"c")]
    command = driver.command(DATA, data((3, bodies[0]), (11, bodies[1]), (3, bodies[2])))
    value = encode_value(0, [driver.command(CommandKind.TICK, b""), command])
    driver.machine.apply(Slot(2), value)
    log = driver.machine.partitions[16, 3]
    places = [(log.entry(i).at, log.entry(i).length, log.entry(i).slot) for i in range(log.count)]
    assert [value[at : at + length] for at, length, _ in places] == [bodies[0], bodies[2]]
    assert {slot for _, _, slot in places} == {2}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (batch(1), errors.OK),
        (batch(1, attributes=4), errors.OK),
        (b"", errors.CORRUPT_BATCH),
        (batch(1)[:60], errors.CORRUPT_BATCH),
        (batch(1) + b"x", errors.CORRUPT_BATCH),
        (batch(1)[:16] + b"\x01" + batch(1)[17:], errors.CORRUPT_BATCH),
        (batch(0), errors.CORRUPT_BATCH),
        (batch(-5), errors.CORRUPT_BATCH),
        (batch(1)[:57] + b"\0\0\0\x02", errors.CORRUPT_BATCH),
        (batch(1, attributes=5), errors.CORRUPT_BATCH),
        (batch(1, attributes=0x08), errors.CORRUPT_BATCH),
        (batch(1, attributes=0x20), errors.CORRUPT_BATCH),
        (batch(1, attributes=0x30), errors.CORRUPT_BATCH),
        (batch(1, attributes=-1), errors.CORRUPT_BATCH),
        (batch(1, attributes=0x10), errors.INVALID_ARGUMENT),
        (batch(1, attributes=0x14), errors.INVALID_ARGUMENT),
        (batch(1, payload=bytes(BATCH_BYTES_DEFAULT - 61)), errors.OK),
        (batch(1, payload=bytes(BATCH_BYTES_DEFAULT - 60)), errors.RECORD_TOO_LARGE),
    ],
)
def test_batches_that_are_taken_and_that_are_not(body: bytes, error: int) -> None:
    driver = Driver(3)
    assert driver.append(3, body) == (error, -1 if error else 0)
    assert driver.machine.partitions[16, 3].count == (0 if error else 1)


def test_a_partition_that_is_not_open_here_takes_nothing() -> None:
    driver = Driver(3)
    assert driver.append(4, batch(1)) == (errors.PARTITION_NOT_OPEN, -1)
    driver.run(CLOSE, encode_partition_close(TOPIC, [3], 2))
    assert driver.append(3, batch(1)) == (errors.PARTITION_NOT_OPEN, -1)


def test_batches_of_one_command_are_independent() -> None:
    driver = Driver(3, 11)
    outcome = driver.run(DATA, data((3, batch(1)), (11, batch(1, 7, 0, 5)), (4, batch(1)), (11, batch(1, 7, 0, 0))))
    assert outcome.error == errors.OK
    assert [result.error for result in outcome.appends] == [
        errors.OK,
        errors.OUT_OF_ORDER_SEQUENCE,
        errors.PARTITION_NOT_OPEN,
        errors.OK,
    ]
    assert driver.machine.partitions[16, 11].end == 1


def test_a_command_of_which_nothing_was_stored_tells_the_first_reason() -> None:
    driver = Driver(3)
    outcome = driver.run(DATA, data((3, batch(1, 7, 0, 5)), (4, batch(1))))
    assert outcome.error == errors.OUT_OF_ORDER_SEQUENCE
    assert [result.error for result in outcome.appends] == [errors.OUT_OF_ORDER_SEQUENCE, errors.PARTITION_NOT_OPEN]


def test_a_command_without_batches_is_fine() -> None:
    assert Driver().run(DATA, data())[2:4] == (errors.OK, ())


def test_atomic_commands_are_applied_whole() -> None:
    driver = Driver(3, 11)
    (outcome,) = driver.apply(atomic(driver, data((3, batch(2, 7, 0, 0)), (11, batch(1)), (3, batch(1, 7, 0, 2)))))
    assert outcome.error == errors.OK
    assert [result.base_offset for result in outcome.appends] == [0, 0, 2]


def test_atomic_commands_are_refused_whole() -> None:
    driver = Driver(3, 11)
    driver.append(3, batch(2, 7, 0, 0))
    driver.append(3, batch(2, 8, 0, 0))
    before = fingerprint(driver.machine)
    appends = [(3, batch(1, 7, 0, 2)), (3, batch(1, 7, 1, 0)), (11, batch(1, 9, 0, 0)), (3, batch(1, 8, 0, 3))]
    (outcome,) = driver.apply(atomic(driver, data(*appends)))
    assert outcome.error == errors.OUT_OF_ORDER_SEQUENCE
    assert [tuple(result) for result in outcome.appends] == [(errors.OUT_OF_ORDER_SEQUENCE, -1)] * 4
    del driver.machine.windows[1].outcomes[driver.counter]
    driver.machine.applied = Slot(driver.machine.applied - 1)
    assert fingerprint(driver.machine) == before, "nothing but its outcome is left"
    assert driver.append(3, batch(1, 7, 0, 2)) == (0, 4)


# -- the other kinds ------------------------------------------------------------------------------------------------


def test_system_partitions_are_there_from_the_start() -> None:
    for group in range(GROUPS):
        machine = Machine(GroupId(group), GROUPS)
        topics = {topic for topic in SYSTEM_TOPIC_NAMES if topic != META or group == 0}
        assert set(machine.partitions) == {(topic, group) for topic in topics}
    driver = Driver()
    outcome = driver.run(DATA, encode_data([(EVENTS, 3, batch(1)), (CHECKPOINTS, 2, batch(1)), (META, 0, batch(1))]))
    assert [result.error for result in outcome.appends] == [0, errors.PARTITION_NOT_OPEN, errors.PARTITION_NOT_OPEN]


def test_each_epoch_record_begins_an_epoch() -> None:
    driver = Driver(3)
    driver.append(3, batch(1))
    epoch = driver.command(CommandKind.EPOCH, encode_epoch(NodeId(2), Ballot(3 << 16 | 2)))
    driver.apply(epoch)
    driver.append(3, batch(1))
    driver.apply(epoch)
    driver.append(3, batch(1))
    driver.run(CommandKind.EPOCH, encode_epoch(NodeId(1), Ballot(4 << 16 | 1)))
    driver.append(3, batch(1))
    log = driver.machine.partitions[16, 3]
    assert [log.entry(i).epoch for i in range(4)] == [0, 1, 1, 2]
    assert (driver.machine.epoch, driver.machine.leader_node, driver.machine.leader_ballot) == (2, 1, 4 << 16 | 1)


def test_log_time_never_goes_back() -> None:
    driver = Driver(3)
    times = []
    for timestamp_ms in (1000, 500, -7, 1001):
        (outcome,) = driver.apply(driver.command(CommandKind.TICK, b""), timestamp_ms=timestamp_ms)
        times.append(outcome.timestamp_ms)
    assert times == [1000, 1000, 1000, 1001]
    assert driver.machine.log_time_ms == 1001


def test_a_barrier_and_a_no_op_change_nothing() -> None:
    driver = Driver(3)
    before = driver.machine.partitions[16, 3].mark()
    assert driver.run(CommandKind.BARRIER, b"")[2:4] == (errors.OK, ())
    assert driver.apply() == []
    assert driver.machine.partitions[16, 3].mark() == before


def test_opening_again_is_harmless_and_settings_follow_the_version() -> None:
    driver = Driver(3)
    driver.append(3, batch(1))
    small, large = {"max_batch_bytes": "100"}, {"max_batch_bytes": "200"}
    for version, config, expected in ((5, small, 100), (5, large, 100), (4, large, 100), (6, large, 200)):
        assert driver.run(OPEN, encode_partition_open(TOPIC, [3], version, config)).error == errors.OK
        log = driver.machine.partitions[16, 3]
        assert (log.batch_bytes_max, log.end) == (expected, 1)
    assert driver.append(3, batch(1, payload=bytes(140)))[0] == errors.RECORD_TOO_LARGE
    assert driver.append(3, batch(1, payload=bytes(139)))[0] == errors.OK


def test_a_late_opening_does_not_bring_a_deleted_topic_back() -> None:
    driver = Driver()
    assert driver.run(CLOSE, encode_partition_close(TopicId(17), [3], 9)).error == errors.OK
    late = encode_partition_open(TopicId(17), [3], 8, {})
    assert driver.run(OPEN, late).error == errors.UNSETTLED
    assert (17, 3) not in driver.machine.partitions
    assert driver.run(OPEN, encode_partition_open(TopicId(18), [3], 9, {})).error == errors.OK


def test_a_late_closing_does_not_close_what_was_found_to_exist_later() -> None:
    driver = Driver()
    driver.run(OPEN, encode_partition_open(TOPIC, [3], 9, {}))
    assert driver.run(CLOSE, encode_partition_close(TOPIC, [3], 8)).error == errors.UNSETTLED
    assert driver.append(3, batch(1)) == (0, 0)
    assert driver.machine.closed_version == 0


def test_closing_frees_the_index_and_tells_readers() -> None:
    driver = Driver(3, 11)
    driver.append(3, batch(1, 7, 0, 0))
    log = driver.machine.partitions[16, 3]
    driver.machine.take_appended()
    driver.run(CLOSE, encode_partition_close(TOPIC, [3, 4], 2))
    assert (log.open, log.count, log.producers) == (False, 0, {})
    assert driver.machine.take_appended() == [log]
    assert driver.machine.held == {TOPIC: [11]}
    driver.run(CLOSE, encode_partition_close(TOPIC, [11], 2))
    assert driver.machine.held == {}


def test_what_was_appended_is_told_once() -> None:
    driver = Driver(3, 11)
    driver.append(3, batch(1))
    driver.append(3, batch(1))
    driver.append(11, batch(1, 7, 0, 4))
    assert driver.machine.take_appended() == [driver.machine.partitions[16, 3]]
    assert driver.machine.take_appended() == []
    driver.append(11, batch(1))
    assert driver.machine.take_appended() == [driver.machine.partitions[16, 11]]
    assert driver.machine.take_opened() == [TOPIC]
    assert driver.machine.take_opened() == []


# -- what is refused ------------------------------------------------------------------------------------------------

KINDS_WITHOUT_RULE = [kind for kind in range(256) if kind not in {*range(1, 9), 11, 12, 13, 14}]


@pytest.mark.parametrize("kind", KINDS_WITHOUT_RULE[:20] + KINDS_WITHOUT_RULE[-1:])
def test_kinds_without_a_rule_are_refused(kind: int) -> None:
    driver = Driver(3)
    assert driver.run(kind, data((3, batch(1))))[2:4] == (UNSUPPORTED, ())
    assert driver.machine.partitions[16, 3].end == 0


@pytest.mark.parametrize(("at", "change"), [(0, 2), (3, 2), (2, 1)])
def test_command_formats_and_flags_that_are_not_known_are_refused(at: int, change: int) -> None:
    driver = Driver(3)
    command = bytearray(driver.command(DATA, data((3, batch(1)))))
    command[at] = change
    (outcome, neighbour) = driver.apply(bytes(command), driver.command(DATA, data((3, batch(1)))))
    assert outcome.error == UNSUPPORTED
    assert neighbour.appends == ((0, 0),)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CommandKind.EPOCH, b""),
        (CommandKind.EPOCH, b"\xc1"),
        (CommandKind.EPOCH, encode_epoch(NodeId(1), Ballot(1)) + b"\0"),
        (CommandKind.EPOCH, b"\x92\xa1a\x01"),
        (CommandKind.EPOCH, b"\x92\x01\xff"),
        (OPEN, encode_partition_open(TOPIC, [3, 3], 1, {})),
        (OPEN, encode_partition_open(TOPIC, [10_000], 1, {})),
        (OPEN, encode_partition_open(TOPIC, [-1], 1, {})),
        (OPEN, encode_partition_open(META, [0], 1, {})),
        (OPEN, encode_partition_open(TopicId(2**32), [0], 1, {})),
        (OPEN, encode_partition_open(TOPIC, [3], -1, {})),
        (OPEN, encode_partition_open(TOPIC, [3], 1, {"cleanup": 7})),  # type: ignore[dict-item]
        (OPEN, encode_partition_close(TOPIC, [3], 1)),
        (CLOSE, encode_partition_close(META, [0], 1)),
        (CLOSE, b"\x90"),
        (CommandKind.PRODUCERS_EXPIRED, encode_producers_expired(-1, 0)),
        (DATA, b""),
        (DATA, data((3, batch(1)))[:7]),
        (DATA, data((3, batch(1)))[:-1]),
        (DATA, data((3, batch(1))) + b"\0"),
        (DATA, data((3, batch(1)), (11, batch(1)))[:30]),
        (DATA, data((3, batch(1)), (11, batch(1)))[:-1]),
        (DATA, b"\0\0\0\0\xff\xff\xff\xff"),
        (DATA, b"\0\1\0\0\0\0\0\0"),
        (DATA, b"\0\1\0\0\0\0\0\0" + b"\1\1\0\0\xff\xff\xff\xff"),
    ],
)
def test_malformed_bodies_are_refused_and_leave_nothing(kind: int, body: bytes) -> None:
    driver = Driver()
    before = fingerprint(driver.machine)
    outcome = driver.run(kind, body)
    assert outcome.error == MALFORMED
    assert outcome.appends == ()
    assert outcome.detail
    driver.machine.windows.clear()
    driver.machine.applied = Slot(0)
    assert fingerprint(driver.machine) == before


def test_a_reader_skips_fields_that_a_later_release_added() -> None:
    driver = Driver()
    assert driver.run(CommandKind.EPOCH, b"\x93\x01\x02\xa3new").error == errors.OK
    assert driver.machine.epoch == 1


def test_guards_and_records_without_a_rule_are_refused() -> None:
    driver = Driver(3)
    batches = [(TOPIC, 3, batch(1))]
    for body in (encode_data(batches, guards=[(77, b"")]), encode_data(batches, records=[(1, b"")])):
        assert driver.run(DATA, body).error == UNSUPPORTED
    assert driver.machine.partitions[16, 3].end == 0


@pytest.mark.parametrize("cut", [0, 1, VALUE_HEADER_BYTES - 1, VALUE_HEADER_BYTES + 31, -1])
def test_a_value_that_is_cut_is_passed_over_from_there_on(cut: int) -> None:
    driver = Driver(3)
    first = driver.command(DATA, data((3, batch(1))))
    value = encode_value(0, [first, driver.command(DATA, data((3, batch(1))))])
    whole_first = cut == -1
    assert len(driver.machine.apply(Slot(2), value[:cut])) == int(whole_first)
    assert driver.append(3, batch(1)) == (0, int(whole_first))


def test_a_value_of_another_format_is_passed_over() -> None:
    driver = Driver(3)
    value = bytearray(encode_value(99, [driver.command(DATA, data((3, batch(1))))]))
    value[0] = 2
    assert driver.machine.apply(Slot(2), bytes(value)) == []
    assert driver.machine.log_time_ms == 0


def test_a_command_that_claims_no_length_ends_the_value() -> None:
    driver = Driver(3)
    command = bytearray(driver.command(DATA, data((3, batch(1)))))
    command[4:8] = bytes(4)
    assert driver.apply(bytes(command)) == []


def test_slots_are_applied_in_order() -> None:
    driver = Driver(3)
    for slot in (0, 1, 3):
        with pytest.raises(InvariantError):
            driver.machine.apply(Slot(slot), encode_value(0, []))


def test_counters_at_the_end_of_their_range() -> None:
    driver = Driver(3)
    top = 2**64 - 1
    command = encode_command(DATA, driver.origin, top, top, data((3, batch(1))))
    assert driver.apply(command)[0].appends == ((0, 0),)
    assert driver.apply(command)[0].appends == ((0, 0),)
    assert driver.machine.partitions[16, 3].end == 1
