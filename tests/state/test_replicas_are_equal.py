"""The same values leave the same state and digest: in two machines, in another process, and for values gone wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from state_values import GROUPS, TOPIC, batch, data

from corgi.base.command import CommandKind, encode_command, encode_data, encode_value
from corgi.base.ids import META, Ballot, GroupId, NodeId, Slot, TopicId, make_origin
from corgi.state.commands import (
    encode_epoch,
    encode_log_start,
    encode_partition_close,
    encode_partition_open,
    encode_producers_expired,
    guard_topic_absent,
    guard_topic_at,
)
from corgi.state.fingerprint import fingerprint
from corgi.state.machine import Machine, Outcome
from corgi.state.topics import TopicRecord, encode_topic_record

HERE = Path(__file__).parent


def random_batch(random: Random, time_ms: int) -> bytes:
    payload = bytes(random.choice([0, 0, 0, 50]))
    records, producer, epoch = random.randrange(1, 4), random.randrange(-1, 3), random.randrange(2)
    return batch(records, producer, epoch, random.randrange(12), time_ms=time_ms, payload=payload)


def random_body(random: Random) -> tuple[CommandKind, bytes]:
    """A command as nodes send them, and sometimes one that will be refused."""
    choice = random.random()
    name = random.choice(["orders", "bills", "flights"])
    version = random.randrange(20)
    if choice < 0.6:
        batches = [(random.choice([0, 8, 16]), random_batch(random, version)) for _ in range(random.randrange(1, 4))]
        return CommandKind.DATA, data(*batches)
    if choice < 0.8:
        create = random.random() < 0.7
        guard = guard_topic_absent(name) if create else guard_topic_at(name, TopicId(16 + version), version)
        topic = TopicRecord(0 if create else 16 + version, random.randrange(1, 5), 3, GROUPS, {"retention_ms": "5"})
        gone = random.random() < 0.3
        return CommandKind.DATA, encode_data(
            [(META, 0, encode_topic_record(name, None if gone else topic, 1))], [guard]
        )
    if choice < 0.9:
        partitions = random.sample([0, 8, 16, 24], 2)
        body = encode_partition_open(TOPIC, partitions, version, {"max_batch_bytes": "100", "cleanup": name})
        return CommandKind.PARTITION_OPEN, body
    if choice < 0.92:
        starts = [(random.choice([TOPIC, META]), random.choice([0, 8, 16]), random.randrange(30)) for _ in range(2)]
        return CommandKind.LOG_START, encode_log_start(starts)
    if choice < 0.93:
        return CommandKind.PARTITION_CLOSE, encode_partition_close(TOPIC, [16], version)
    if choice < 0.96:
        return CommandKind.EPOCH, encode_epoch(NodeId(random.randrange(1, 4)), Ballot(random.randrange(1, 2**20)))
    return CommandKind.PRODUCERS_EXPIRED, encode_producers_expired(random.randrange(3), random.randrange(100))


def random_values(seed: int, count: int = 60) -> list[bytes]:
    """A run of values, with duplicates from several starts of several nodes."""
    random = Random(seed)
    values, sent, counter = [], [], 0
    for slot in range(count):
        commands = []
        for _ in range(random.randrange(4)):
            if sent and random.random() < 0.2:
                commands.append(random.choice(sent))
                continue
            counter += 1
            origin = make_origin(NodeId(random.randrange(1, 4)), 1 + slot * 2 // count)
            kind, body = random_body(random)
            commands.append(encode_command(kind, origin, counter, max(0, counter - random.randrange(30)), body))
            sent.append(commands[-1])
        values.append(encode_value(random.randrange(1000), commands))
    return values


def run(values: list[bytes]) -> tuple[Machine, list[list[Outcome]]]:
    machine = Machine(GroupId(0), GROUPS)
    return machine, [machine.apply(Slot(slot), value) for slot, value in enumerate(values, 1)]


@given(st.integers(0, 2**32))
def test_two_machines(seed: int) -> None:
    values = random_values(seed)
    (first, outcomes), (second, again) = run(values), run(values)
    assert outcomes == again
    assert (first.digest, fingerprint(first)) == (second.digest, fingerprint(second))


def test_the_runs_reach_the_rules() -> None:
    """What the comparison is worth: every kind of outcome occurs in these runs."""
    seen = {outcome.error for seed in range(40) for outcomes in run(random_values(seed))[1] for outcome in outcomes}
    assert {0, 1, 3, 5, 6, 9, 10, 29, 32} <= seen


def test_the_digest_tells_runs_apart() -> None:
    values = random_values(7)
    digests = {run(values[:i])[0].digest for i in range(len(values) + 1)}
    assert len(digests) == len(values) + 1
    machine, _ = run(values)
    other = Machine(GroupId(0), GROUPS)
    other.producers_expired_below = 3  # a replica that differs: its outcomes will, although the values are the same
    for slot, value in enumerate(values, 1):
        other.apply(Slot(slot), value)
    assert other.digest != machine.digest
    assert fingerprint(other) != fingerprint(machine)


def test_another_hash_seed_and_another_process() -> None:
    code = (
        "from test_replicas_are_equal import run, random_values, fingerprint\n"
        "for seed in range(5):\n"
        "    machine, _ = run(random_values(seed))\n"
        "    print(machine.digest, fingerprint(machine), *machine.take_topic_changes())\n"
    )
    printed = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([*sys.path, str(HERE)])}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        printed.add(done.stdout)
    (text,) = printed
    machine, _ = run(random_values(0))
    assert text.startswith(f"{machine.digest} {fingerprint(machine)} ")


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8))
def test_bytes_gone_wrong(seed: int, changes: list[tuple[int, int]]) -> None:
    """No bytes make apply raise, and replicas agree on all of them."""
    values = [bytearray(value) for value in random_values(seed, 12)]
    for at, byte in changes:
        value = values[at % len(values)]
        value[at // 12 % len(value)] = byte
    frozen = [bytes(value) for value in values]
    (first, outcomes), (second, again) = run(frozen), run(frozen)
    assert outcomes == again
    assert (first.digest, fingerprint(first)) == (second.digest, fingerprint(second))


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 1), st.binary(max_size=80)), max_size=6))
def test_random_bodies(commands: list[tuple[int, int, bytes]]) -> None:
    origin = make_origin(NodeId(1), 1)
    encoded = [encode_command(kind, origin, i, 0, body) for i, (kind, _, body) in enumerate(commands)]
    for command, (_, flags, _) in zip(encoded, commands, strict=True):
        assert command[2:4] == b"\0\0"
        encoded[encoded.index(command)] = command[:2] + bytes([0, flags]) + command[4:]
    value = encode_value(0, encoded)
    machine, (outcomes,) = run([value])
    assert len(outcomes) == len(commands)
    assert machine.digest == run([value])[0].digest


@given(st.binary(max_size=200))
def test_random_values(value: bytes) -> None:
    machine, _ = run([value, b"\x01" + value])
    assert machine.applied == 2
