"""A snapshot taken piece by piece holds the state of its slot, whatever is applied meanwhile."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from state_values import GROUPS, Driver, batch, data
from test_replicas_are_equal import random_values

from corgi.base.command import CommandKind
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, Offset, Slot, TopicId
from corgi.state.blocks import BLOCK_BATCHES
from corgi.state.commands import encode_log_start
from corgi.state.fingerprint import fingerprint
from corgi.state.machine import Machine
from corgi.state.snapshot import Capture, Restorer


def joined(sections: list[tuple[int, list[bytes]]]) -> list[tuple[int, bytes]]:
    return [(kind, b"".join(chunks)) for kind, chunks in sections]


def restore(sections: list[tuple[int, bytes]], group: int = 0, into: Machine | None = None) -> Machine:
    restorer = Restorer(GroupId(group), GROUPS)
    for kind, body in sections:
        restorer.take(kind, body)
    restorer.finish()
    machine = into or Machine(GroupId(group), GROUPS)
    restorer.adopt_into(machine)
    return machine


def capture_at(values: list[bytes], at: int, random: Random) -> tuple[Machine, str, list[tuple[int, bytes]]]:
    """Apply all values and capture at slot ``at`` in pieces between the later ones."""
    machine = Machine(GroupId(0), GROUPS)
    expected, sections = "", []
    pieces = iter(())
    for slot, value in enumerate(values, 1):
        machine.apply(Slot(slot), value)
        if random.random() < 0.5 or slot == at:
            machine.take_appended()
        for _ in range(random.randrange(3)):
            sections += [(kind, b"".join(chunks)) for kind, chunks in [next(pieces, (0, ()))] if kind]
        if slot == at:
            expected = fingerprint(machine)
            pieces = Capture(machine).sections()
    sections += [(kind, b"".join(chunks)) for kind, chunks in pieces]
    return machine, expected, sections


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_what_is_restored_is_what_was(seed: int, at: int) -> None:
    values = random_values(seed)
    machine, expected, sections = capture_at(values, at, Random(seed))
    restored = restore(sections)
    assert fingerprint(restored) == expected
    for slot in range(at + 1, len(values) + 1):
        restored.apply(Slot(slot), values[slot - 1])
    assert (restored.digest, fingerprint(restored)) == (machine.digest, fingerprint(machine))


@given(st.integers(0, 2**32), st.integers(1, 59))
def test_a_lagging_state_becomes_a_later_one(seed: int, at: int) -> None:
    """Whoever held a partition goes on with it, and is told."""
    values = random_values(seed)
    machine, _, sections = capture_at(values, len(values), Random(seed))
    late = Machine(GroupId(0), GROUPS)
    for slot in range(1, at + 1):
        late.apply(Slot(slot), values[slot - 1])
    late.take_appended()
    held = dict(late.partitions)
    restore(sections, into=late)
    assert fingerprint(late) == fingerprint(machine)
    told = late.take_appended()
    for key, log in held.items():
        assert late.partitions.get(key, log) is log
        assert log in told
        assert log.open == (key in machine.partitions)
    assert sorted(late.held) == sorted(machine.held)


def test_blocks_in_the_making_and_after_a_log_start() -> None:
    driver = Driver(0)
    body = batch(2)
    for _ in range(BLOCK_BATCHES // 100):
        driver.apply(driver.command(CommandKind.DATA, data(*[(0, body)] * 250)))
    driver.run(CommandKind.LOG_START, encode_log_start([(TopicId(16), 0, Offset(2 * BLOCK_BATCHES + 7))]))
    driver.machine.take_appended()
    sections = Capture(driver.machine).sections()
    expected = fingerprint(driver.machine)
    first = [next(sections) for _ in range(4)]
    driver.append(0, body)
    restored = restore(joined([*first, *sections]), 3)
    assert fingerprint(restored) == expected
    log = restored.partitions[TopicId(16), 0]
    assert log.start == 2 * BLOCK_BATCHES + 7
    assert log.bytes == log.count * len(body)
    assert log.entry(0).base_offset == log.start - 1, "the batch that holds the start stays"


def test_what_is_no_snapshot_is_refused() -> None:
    driver = Driver(0)
    driver.append(0, batch())
    driver.machine.take_appended()
    sections = joined(list(Capture(driver.machine).sections()))
    for broken in (sections[:-1], sections[1:], [(kind, body[:-1]) for kind, body in sections], [(9, b"")], []):
        with pytest.raises(CorgiError) as caught:
            restore(broken, 3)
        assert caught.value.code == "snapshot-damaged"
    with pytest.raises(CorgiError):
        restore(sections, 4)
