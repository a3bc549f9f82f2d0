"""Compaction by key: what is left of batches, the command that says so, and a model of what readers see."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from state_values import GROUPS, TOPIC, Driver

from corgi.base import errors
from corgi.base.batch import ATTRIBUTE_CONTROL, ATTRIBUTE_TRANSACTIONAL, CRC_FROM, parse_header
from corgi.base.command import Buffer, CommandKind, encode_value, iter_commands
from corgi.base.ids import GroupId, Offset, Slot
from corgi.base.records import OpenBatch, decode_batch, encode_batch
from corgi.state.commands import encode_log_start, encode_partition_close, encode_partition_open
from corgi.state.compaction import (
    CHANGES_MAX,
    Compacted,
    NewestOffsets,
    encode_compacted,
    horizon_due,
    survivors,
)
from corgi.state.fingerprint import fingerprint
from corgi.state.machine import Machine, Outcome
from corgi.state.snapshot import Capture, Restorer

CONFIG = {"cleanup": "compact", "delete_retention_ms": "1000"}
Pair = tuple[str | None, str | None]


def made(*pairs: Pair, codec: str = "none", **identity: int) -> bytes:
    """A batch of (key, value) records."""
    records = [
        (None if key is None else key.encode(), None if value is None else value.encode(), (), 7)
        for key, value in pairs
    ]
    return encode_batch(records, codec=codec, **identity)


class Compacting(Driver):
    """A machine with one compacted partition, whose values are kept; and a leader who compacts it."""

    def __init__(self, config: dict[str, str] | None = None) -> None:
        super().__init__()
        self.values: dict[int, Buffer] = {}
        self.time_ms = 0
        self.run(CommandKind.PARTITION_OPEN, encode_partition_open(TOPIC, [3], 1, config or CONFIG))
        self.log = self.machine.partitions[TOPIC, 3]

    def apply(self, *commands: bytes, timestamp_ms: int = 0) -> list[Outcome]:
        value = encode_value(max(timestamp_ms, self.time_ms), commands)
        slot = Slot(self.machine.applied + 1)
        self.values[slot] = value
        return self.machine.apply(slot, value)

    def put(self, *pairs: Pair, codec: str = "none", **identity: int) -> int:
        error, offset = self.append(3, made(*pairs, codec=codec, **identity))
        assert error == errors.OK
        return offset

    def stored(self, i: int) -> bytes:
        entry = self.log.entry(i)
        return bytes(self.values[entry.slot][entry.at : entry.at + entry.length])

    def read(self) -> list[tuple[int, str | None, str | None]]:
        """(offset, key, value) of everything stored."""
        found = []
        for i in range(self.log.count):
            entry, batch = self.log.entry(i), self.stored(i)
            header = parse_header(batch)
            assert header.last_offset_delta + 1 == entry.records
            for record in decode_batch(batch):
                offset = entry.base_offset + record.offset - header.base_offset
                assert entry.base_offset <= offset < entry.base_offset + entry.records
                key, value = record.key, record.value
                found.append((offset, key and key.decode(), value if value is None else value.decode()))
        return found

    def plan(self, to: int | None = None, horizon: int | None = None) -> Compacted:
        """What a pass up to the batch before ``to`` (the newest) does, as one command."""
        log = self.log
        last = log.count - 1 if to is None else log.find(Offset(to))
        done_to = log.entry(last).base_offset
        below = Offset(horizon_due(log, max(self.machine.log_time_ms, self.time_ms)) if horizon is None else horizon)
        newest = NewestOffsets()
        for i in range(log.find(log.cleaned.to), last):
            newest.add(self.stored(i), log.entry(i).base_offset)
        changes: list[tuple[Offset, Buffer | None]] = []
        left = False
        for i in range(last):
            batch, base = self.stored(i), log.entry(i).base_offset
            found = survivors(batch, base, newest, below)
            left |= found.tombstones
            if found.batch is not batch:
                changes.append((base, found.batch))
        return Compacted(TOPIC, 3, log.cleaned.commands, done_to, below, left, changes)

    def compact(self, wanted: Compacted) -> Outcome:
        return self.run(CommandKind.COMPACTED, encode_compacted(wanted))


def test_of_each_key_the_newest_stays_where_it_was() -> None:
    world = Compacting()
    world.put(("a", "1"), ("b", "1"), ("a", "2"))
    world.put(("c", "1"))
    world.put(("b", "2"), ("c", "2"))
    world.put(("head", "x"))
    before = [world.log.entry(i) for i in range(4)]
    slots = [entry.slot for entry in before]
    assert world.compact(world.plan()).error == errors.OK
    assert world.read() == [(2, "a", "2"), (4, "b", "2"), (5, "c", "2"), (6, "head", "x")]
    assert world.log.end == 7
    assert [world.log.entry(i) for i in (1, 2)] == before[2:], "a batch that stays whole is not copied"
    assert world.log.entry(0).slot == world.machine.applied
    assert world.machine.stored == 1
    (dropped,) = world.machine.take_dropped()
    assert [dropped.block.slot + at for at in dropped.block.slots] == slots[:2]
    assert world.log.cleaned[:2] == (1, 6)
    assert [world.log.find(Offset(offset)) for offset in range(8)] == [0, 0, 0, 1, 1, 1, 2, 3]


def test_the_newest_batch_is_never_touched() -> None:
    world = Compacting()
    world.put(("a", "1"))
    world.put(("a", "2"), ("a", "3"))
    plan = world.plan()
    assert plan.changes == [], "what supersedes it is not old enough"
    outcome = world.compact(plan._replace(changes=[(Offset(1), None)]))
    assert outcome.error == errors.INVALID_ARGUMENT
    assert len(world.read()) == 3


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_what_is_left_of_a_batch_keeps_its_header(codec: str) -> None:
    world = Compacting()
    big = "v" * 300
    identity = {"producer_id": 4, "producer_epoch": 1, "base_sequence": 0}
    world.put(("a", big), ("b", big), ("a", big), ("a", None), codec=codec, **identity)
    newest = NewestOffsets()
    batch = world.stored(0)
    newest.add(batch, Offset(100))
    left = survivors(batch, Offset(100), newest, Offset(0))
    assert (left.tombstones, left.records) == (True, 2)
    assert left.batch is not None
    before, after = parse_header(batch), parse_header(left.batch)
    same = before._replace(length=after.length, crc=after.crc, record_count=2)
    assert after == same
    assert after.attributes == before.attributes
    records = decode_batch(left.batch)
    assert [(r.offset, r.key, r.value, r.timestamp) for r in records] == [
        (1, b"b", big.encode(), 7),
        (3, b"a", None, 7),
    ]
    assert [record.offset for record in OpenBatch(left.batch)] == [1, 3]
    again = NewestOffsets()
    again.add(left.batch, Offset(100))
    assert (again.get(b"a"), again.get(b"b"), again.get(b"c")) == (103, 101, -1)


def test_a_record_with_many_bytes_and_headers_is_copied_as_it_is() -> None:
    headers = [("h" * 200, b"x" * 70_000), ("n", None)]
    batch = encode_batch([(b"k", b"1", (), 1), (b"k", b"2" * 9000, headers, 2**40), (b"j", b"", headers, 0)])
    newest = NewestOffsets()
    newest.add(batch, Offset(0))
    left = survivors(batch, Offset(0), newest, Offset(0)).batch
    assert left is not None
    assert decode_batch(left) == decode_batch(batch)[1:]


def test_records_without_a_key_and_foreign_batches_stay_whole() -> None:
    plain = made((None, "1"), ("a", "1"), (None, "2"))
    newest = NewestOffsets()
    for attribute in (ATTRIBUTE_CONTROL, ATTRIBUTE_TRANSACTIONAL, ATTRIBUTE_CONTROL | ATTRIBUTE_TRANSACTIONAL):
        marked = bytearray(plain)
        marked[CRC_FROM + 1] |= attribute
        assert newest.add(marked, Offset(50)) == 0
        newest.add(made(("a", "2")), Offset(90))
        assert survivors(marked, Offset(50), newest, Offset(99)).batch is marked
    damaged = plain[:70] + b"\xff" * (len(plain) - 70)
    assert survivors(damaged, Offset(50), newest, Offset(99)).batch is damaged
    left = survivors(plain, Offset(0), newest, Offset(99)).batch
    assert left is not None
    assert [record.value for record in decode_batch(left)] == [b"1", b"2"]


def test_a_tombstone_goes_when_its_time_has_come() -> None:
    world = Compacting()
    world.put(("a", "1"), ("b", "1"))
    world.put(("a", None))
    world.put(("head", "x"))
    world.time_ms = 5_000
    assert world.plan().horizon == 0
    assert world.compact(world.plan()).error == errors.OK
    assert world.read() == [(1, "b", "1"), (2, "a", None), (3, "head", "x")]
    assert world.log.cleaned == (1, 3, 3, 5_000)
    world.time_ms = 5_999
    early = world.plan(horizon=3)
    assert world.compact(early).error == errors.INVALID_ARGUMENT
    assert world.plan().horizon == 0
    assert world.compact(world.plan()).error == errors.OK
    assert world.log.cleaned == (2, 3, 3, 5_000), "a pass in between does not put it off"
    world.time_ms = 6_000
    assert world.plan().horizon == 3
    assert world.compact(world.plan()).error == errors.OK
    assert world.read() == [(1, "b", "1"), (3, "head", "x")]
    assert world.log.cleaned == (3, 3, 0, 0)


def test_a_later_tombstone_has_a_time_of_its_own() -> None:
    world = Compacting()
    world.put(("a", None))
    world.put(("b", None))
    world.put(("head", "x"))
    world.time_ms = 100
    assert world.compact(world.plan(to=1)).error == errors.OK
    assert world.log.cleaned == (1, 1, 1, 100)
    world.time_ms = 1_200
    assert world.compact(world.plan()).error == errors.OK
    assert [key for _, key, _ in world.read()] == ["b", "head"]
    assert world.log.cleaned == (2, 2, 2, 1_200)


def test_a_command_that_comes_too_late_changes_nothing() -> None:
    world = Compacting()
    for _ in range(4):
        world.put(("a", "1"))
    plan = world.plan()
    assert world.compact(plan._replace(done_to=Offset(0), changes=plan.changes[:1])).error == errors.OK
    state = fingerprint(world.machine)
    outcome = world.compact(plan)
    assert (outcome.error, outcome.detail) == (errors.UNSETTLED, "the partition has changed meanwhile")
    plan = world.plan()
    world.run(CommandKind.LOG_START, encode_log_start([(TOPIC, 3, Offset(2))]))
    outcome = world.compact(plan)
    assert (outcome.error, outcome.detail) == (errors.UNSETTLED, "a batch is no longer stored")
    plan = world.plan()
    world.run(CommandKind.PARTITION_OPEN, encode_partition_open(TOPIC, [3], 2, {"cleanup": "delete"}))
    assert world.compact(plan).error == errors.UNSETTLED
    world.run(CommandKind.PARTITION_CLOSE, encode_partition_close(TOPIC, [3], 3))
    assert world.compact(plan).error == errors.UNSETTLED
    assert state != fingerprint(world.machine)


def _wrong(body: bytes) -> Sequence[bytes]:
    """What cannot be the body of the command."""
    return [
        b"",
        body[:20],
        body[:-1],
        body + b"x",
        body[:32] + b"\x02" + body[33:],
        body[:36] + b"\xff" * 4 + body[40:],
    ]


def test_nonsense_is_refused() -> None:
    world = Compacting()
    for value in ("1", "2", "3"):
        world.put(("a", value), ("b", value))
    plan = world.plan()
    state = fingerprint(world.machine)
    batch = made(("a", "1"), ("b", "1"))
    for body in _wrong(encode_compacted(plan)):
        outcome = world.run(CommandKind.COMPACTED, body)
        assert (outcome.error, outcome.detail) == (errors.INVALID_ARGUMENT, "a compaction does not decode")
    wrong: list[tuple[int, list[tuple[Offset, Buffer | None]]]] = [
        (errors.INVALID_ARGUMENT, [(Offset(2), None), (Offset(0), None)]),
        (errors.INVALID_ARGUMENT, [(Offset(0), None), (Offset(0), None)]),
        (errors.INVALID_ARGUMENT, [(Offset(4), None)]),
        (errors.INVALID_ARGUMENT, [(Offset(2**63), None)]),
        (errors.UNSETTLED, [(Offset(1), None)]),
        (errors.CORRUPT_BATCH, [(Offset(0), batch[:60])]),
        (errors.CORRUPT_BATCH, [(Offset(0), made(("a", "1")))]),
        (errors.CORRUPT_BATCH, [(Offset(0), batch + b"x")]),
    ]
    for error, changes in wrong:
        assert world.compact(plan._replace(changes=changes)).error == error
    too_many = [(Offset(i), None) for i in range(CHANGES_MAX + 1)]
    assert world.compact(plan._replace(changes=too_many)).error == errors.INVALID_ARGUMENT
    assert world.compact(plan._replace(done_to=Offset(99))).error == errors.INVALID_ARGUMENT
    assert world.compact(plan._replace(horizon=Offset(1))).error == errors.INVALID_ARGUMENT
    assert world.compact(plan._replace(partition=4)).error == errors.UNSETTLED
    assert len(world.read()) == 6
    assert world.log.cleaned.commands == 0
    assert world.compact(plan).error == errors.OK
    assert state != fingerprint(world.machine)


def test_idempotent_producers_are_remembered_though_their_batches_are_gone() -> None:
    world = Compacting()
    identity = {"producer_id": 7, "producer_epoch": 0}
    first = made(("a", "1"), **identity, base_sequence=0)
    assert world.append(3, first) == (errors.OK, 0)
    world.put(("a", "2"))
    world.put(("head", "x"))
    world.compact(world.plan())
    assert len(world.read()) == 2
    assert world.append(3, first) == (errors.OK, 0), "a duplicate"
    assert world.append(3, made(("a", "3"), **identity, base_sequence=1)) == (errors.OK, 3)


def test_the_memory_for_keys_is_bounded() -> None:
    newest = NewestOffsets(bytes_max=1000)
    assert not newest.full
    newest.add(made(("a" * 400, "1"), ("a" * 400, "2")), Offset(0))
    assert 400 < newest.size < 1000
    assert not newest.full
    newest.add(made(("b" * 400, "1")), Offset(2))
    assert newest.full
    while newest.free():
        pass


def restored(machine: Machine) -> Machine:
    """What a snapshot of the machine gives back."""
    machine.take_appended()
    capture = Capture(machine)
    restorer = Restorer(machine.group, GROUPS)
    for kind, parts in capture.sections():
        restorer.take(kind, memoryview(b"".join(parts)))
    capture.end()
    restorer.finish()
    twin = Machine(GroupId(machine.group), GROUPS)
    restorer.adopt_into(twin)
    return twin


@given(st.integers(0, 2**32))
def test_against_a_model(seed: int) -> None:
    """Whatever is stored and compacted in whatever order: of each key the newest is left, at its offset, and nothing
    appears that was not there; a tombstone goes no earlier than promised, and its key stays deleted. Replicas, and one
    that began from a snapshot in between, are equal."""
    random = Random(seed)
    world = Compacting({"cleanup": "compact,delete", "delete_retention_ms": "50"})
    model: dict[int, tuple[str, str | None]] = {}
    superseded_at: dict[int, int] = {}  # when a pass had left nothing older of a tombstone's key
    twin: Machine | None = None
    for number in range(random.randrange(1, 25)):
        world.time_ms += random.randrange(30)
        step = random.random()
        if step < 0.6 or world.log.count < 2:
            keys = [random.choice("abcdef") for _ in range(random.choice([1, 1, 2, 5]))]
            pairs: list[Pair] = [(key, None if random.random() < 0.2 else f"{key}{number}") for key in keys]
            base = world.put(*pairs, codec=random.choice(["none", "lz4"]))
            model.update({base + i: (str(key), value) for i, (key, value) in enumerate(pairs)})
        elif step < 0.65:
            start = random.randrange(world.log.end)
            world.run(CommandKind.LOG_START, encode_log_start([(TOPIC, 3, Offset(start))]))
            model = {offset: pair for offset, pair in model.items() if offset >= world.log.start}
        elif step < 0.72:
            twin = restored(world.machine)
            assert fingerprint(twin) == fingerprint(world.machine)
        else:
            last = random.randrange(world.log.find(world.log.cleaned.to), world.log.count)
            plan = world.plan(to=world.log.entry(last).base_offset)
            whole = random.random() < 0.7
            if not whole:
                plan = plan._replace(done_to=Offset(0), changes=plan.changes[: random.randrange(9)])
            assert world.compact(plan).error == errors.OK
            if whole:
                for offset in model:
                    if offset < plan.done_to:
                        superseded_at.setdefault(offset, world.machine.log_time_ms)
        if twin is not None:
            for slot in range(twin.applied + 1, world.machine.applied + 1):
                twin.apply(Slot(slot), world.values[slot])
            assert (twin.digest, fingerprint(twin)) == (world.machine.digest, fingerprint(world.machine))
        start = world.log.start  # readers leave out what its batch holds before it
        stored = {offset: (key, value) for offset, key, value in world.read() if offset >= start}
        assert list(stored) == sorted(stored)
        assert stored.items() <= model.items()
        newest: dict[str, int] = {key: offset for offset, (key, _) in sorted(model.items())}
        for key, offset in newest.items():
            if model[offset][1] is not None:
                assert offset in stored, f"the newest of {key} is gone"
            elif offset not in stored:
                assert superseded_at[offset] + 50 <= world.machine.log_time_ms
                assert all(other != key for other, _ in stored.values()), f"{key} was deleted and is back"


def test_the_commands_of_a_pass_are_read_like_all_others() -> None:
    world = Compacting()
    world.put(("a", "1"))
    world.put(("a", "2"))
    world.put(("a", "3"))
    world.compact(world.plan())
    (command,) = iter_commands(world.values[world.machine.applied])
    assert command.kind == CommandKind.COMPACTED == 14
