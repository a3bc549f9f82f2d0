"""What requests of transactions may say: counts and numbers in their ranges, batches against the bytes there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from corgi.base.batch import HEADER_BYTES
from corgi.base.errors import CorgiError
from corgi.wire import transaction_messages as t
from corgi.wire.group_bounds import METADATA_CHARS_MAX, NAME_CHARS_MAX, RANGES_MAX, SLICES_MAX
from corgi.wire.messages import WireMessage
from corgi.wire.ranges import I64, TIMEOUT_MS_MAX, check_place, check_range

PARTITIONS_MAX = 1_000  # of one transaction
CHECKPOINTS_MAX = 1_000
BATCHES_MAX = 512  # of one Atomic
WATCHED_MAX = 100  # names of one connection
EPOCH_MAX = 2**15 - 1
LIFE_MS_MAX = 900_000  # Kafka's transaction.max.timeout.ms
CHECK_MS_MIN, CHECK_MS_MAX = 100, 86_400_000
CHECK_LIMIT_MAX = 10_000


def check_batches(lengths: Iterable[int], payload: memoryview) -> None:
    """Raises "malformed-frame" unless the payload is these batches."""
    total = 0
    for length in lengths:
        if length < HEADER_BYTES:
            raise CorgiError("malformed-frame", f"a batch of {length} bytes, {HEADER_BYTES} are the least")
        total += length
    if total != len(payload):
        raise CorgiError("malformed-frame", f"the batches are {total} bytes by their lengths, {len(payload)} are there")


def _init(message: t.InitTransactions) -> None:
    _name("transactional name", message.name)
    _timeout(message.timeout_ms)


def _producer(message: t.OpenTransaction | t.EndTransaction) -> None:
    _name("transactional name", message.name)
    check_range("producer id", message.producer_id, 0, I64)
    check_range("producer epoch", message.producer_epoch, 0, EPOCH_MAX)
    check_range("number", message.number, 0, I64)
    _timeout(message.timeout_ms)


def _open(message: t.OpenTransaction) -> None:
    _producer(message)
    check_range("life_ms", message.life_ms, 1, LIFE_MS_MAX)
    _count("partitions", len(message.partitions), PARTITIONS_MAX)
    for topic, partition in message.partitions:
        check_place(topic, partition)
    _checkpoints(message.checkpoints)


def _atomic(message: t.Atomic) -> None:
    _timeout(message.timeout_ms)
    if not message.batches and not message.checkpoints:
        raise CorgiError("invalid-argument", "an Atomic of nothing")
    _count("batches", len(message.batches), BATCHES_MAX)
    for topic, partition, _ in message.batches:
        check_place(topic, partition)
    check_range("producer id", message.producer_id, -1, I64)
    check_range("producer epoch", message.producer_epoch, -1, EPOCH_MAX)
    _checkpoints(message.checkpoints)


def _checkpoints(checkpoints: tuple[t.Checkpoint, ...]) -> None:
    _count("checkpoints", len(checkpoints), CHECKPOINTS_MAX)
    for one in checkpoints:
        _name("group", one.group)
        check_place(one.topic, one.partition)
        check_range("slice", one.slice, 0, SLICES_MAX - 1)
        check_range("owner epoch", one.owner_epoch, 0, I64)
        check_range("version", one.version, -1, I64)
        check_range("offset", one.offset, 0, I64)
        check_range("leader epoch", one.leader_epoch, -1, 2**31 - 1)
        if len(one.member) > NAME_CHARS_MAX or len(one.metadata) > METADATA_CHARS_MAX:
            raise CorgiError("invalid-argument", "a member or the metadata of a checkpoint is too long")
        _count("ranges", len(one.ranges), RANGES_MAX)
        below: int = one.offset
        for first, end in one.ranges:
            if not below < first < end <= I64:
                raise CorgiError("invalid-argument", "ranges are sorted, apart from each other and above the offset")
            below = end


def _prepare(message: t.Prepare) -> None:
    _name("prepared message", message.id)
    _name("producer", message.producer)
    check_place(message.topic, message.partition)
    check_range("check_ms", message.check_ms, CHECK_MS_MIN, CHECK_MS_MAX)
    check_range("check_limit", message.check_limit, 0, CHECK_LIMIT_MAX)
    _timeout(message.timeout_ms)


def _settle(message: t.Settle) -> None:
    _name("prepared message", message.id)
    check_place(message.topic, message.partition)
    _timeout(message.timeout_ms)


def _watch(message: t.Watch) -> None:
    _count("producers", len(message.producers), WATCHED_MAX)
    for name in message.producers:
        _name("producer", name)


def _list(message: t.ListTransactions) -> None:
    _timeout(message.timeout_ms)


def _name(what: str, name: str) -> None:
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        raise CorgiError("invalid-argument", f"a {what} is named by 1 to {NAME_CHARS_MAX} characters, not {len(name)}")


def _timeout(timeout_ms: int) -> None:
    check_range("timeout_ms", timeout_ms, 1, TIMEOUT_MS_MAX)


def _count(what: str, count: int, most: int) -> None:
    if count > most:
        raise CorgiError("invalid-argument", f"a request has at most {most} {what}, not {count}")


TRANSACTION_CHECKS: dict[type[WireMessage], Callable[[Any], None]] = {
    t.InitTransactions: _init,
    t.OpenTransaction: _open,
    t.EndTransaction: _producer,
    t.Prepare: _prepare,
    t.Settle: _settle,
    t.Watch: _watch,
    t.ListTransactions: _list,
    t.Atomic: _atomic,
}
