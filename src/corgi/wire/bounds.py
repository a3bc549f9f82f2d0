"""What a request may say: every number of a client in its range, every length against the bytes that are there.

The broker behind it may take field values as they are. Whether a topic exists, an offset is there or a batch holds, is
its business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from corgi.base.batch import HEADER_BYTES
from corgi.base.errors import CorgiError
from corgi.base.limits import FRAME_BYTES_MAX, PARTITIONS_MAX
from corgi.wire import messages as m
from corgi.wire.group_bounds import GROUP_CHECKS, check_results
from corgi.wire.group_messages import Commit
from corgi.wire.ranges import I64, TIMEOUT_MS_MAX, U32, check_place, check_range, check_text
from corgi.wire.transaction_bounds import TRANSACTION_CHECKS, check_batches
from corgi.wire.transaction_messages import Atomic, Prepare

CREDIT_MAX = 2**40  # bytes; nobody is that far ahead
CONFIG_KEYS_MAX = 64
ACKS_MAX = 2


def check_request(message: m.WireMessage, payload: memoryview) -> None:
    """Raises CorgiError "invalid-argument" or "malformed-frame" that names the field."""
    if type(message) is m.Produce:
        _produce(message, payload)
        return
    if type(message) is Commit:
        check_results(message, payload)
    elif type(message) is Atomic:
        check_batches([length for _, _, length in message.batches], payload)
    elif type(message) is Prepare:
        check_batches([message.length], payload)
    elif payload:
        raise CorgiError("malformed-frame", f"a {type(message).__name__} carries no payload, {len(payload)} bytes came")
    check = _CHECKS.get(type(message))
    if check is not None:
        check(message)


def _produce(message: m.Produce, payload: memoryview) -> None:
    if not 0 <= message.acks <= ACKS_MAX:
        check_range("acks", message.acks, 0, ACKS_MAX)
    if not 0 <= message.timeout_ms <= TIMEOUT_MS_MAX:
        check_range("timeout_ms", message.timeout_ms, 0, TIMEOUT_MS_MAX)
    total = 0
    for topic, partition, length in message.batches:
        if not (0 <= topic <= U32 and 0 <= partition < PARTITIONS_MAX and length >= HEADER_BYTES):
            check_place(topic, partition)
            raise CorgiError("malformed-frame", f"a batch of {length} bytes, {HEADER_BYTES} are the least")
        total += length
    if total != len(payload):
        raise CorgiError("malformed-frame", f"the batches are {total} bytes by their lengths, {len(payload)} are there")
    if not total:
        raise CorgiError("invalid-argument", "a Produce without batches")


def _fetch(message: m.Fetch) -> None:
    check_range("wait_ms", message.wait_ms, 0, TIMEOUT_MS_MAX)
    check_range("bytes_min", message.bytes_min, 0, FRAME_BYTES_MAX)
    check_range("bytes_max", message.bytes_max, 0, TIMEOUT_MS_MAX)
    for topic, partition, offset, wanted in message.partitions:
        check_place(topic, partition)
        check_range("offset", offset, 0, I64)
        check_range("bytes wanted", wanted, 0, TIMEOUT_MS_MAX)


def _subscribe(message: m.Subscribe) -> None:
    check_range("subscription", message.subscription, 0, U32)
    check_place(message.topic, message.partition)
    check_range("offset", message.offset, 0, I64)
    check_range("credit", message.credit, 0, CREDIT_MAX)


def _credit(message: m.Credit) -> None:
    for subscription, grant in message.grants:
        check_range("subscription", subscription, 0, U32)
        check_range("credit", grant, 0, CREDIT_MAX)


def _unsubscribe(message: m.Unsubscribe) -> None:
    check_range("subscription", message.subscription, 0, U32)


def _metadata(message: m.Metadata) -> None:
    for name in message.topics or ():
        check_text("topic name", name)


def _create_topic(message: m.CreateTopic) -> None:
    check_text("topic name", message.name)
    check_text("colocate_with", message.colocate_with)
    check_range("partitions", message.partitions, 1, PARTITIONS_MAX)
    check_range("anchor", message.anchor, -1, U32)
    check_range("timeout_ms", message.timeout_ms, 0, TIMEOUT_MS_MAX)
    _config(message.config)


def _alter_topic(message: m.AlterTopic) -> None:
    check_text("topic name", message.name)
    check_range("partitions", message.partitions, 0, PARTITIONS_MAX)
    check_range("timeout_ms", message.timeout_ms, 0, TIMEOUT_MS_MAX)
    _config(message.config)


def _delete_topic(message: m.DeleteTopic) -> None:
    check_text("topic name", message.name)
    check_range("timeout_ms", message.timeout_ms, 0, TIMEOUT_MS_MAX)


def _list_offsets(message: m.ListOffsets) -> None:
    check_range("timeout_ms", message.timeout_ms, 0, TIMEOUT_MS_MAX)
    for topic, partition, timestamp in message.partitions:
        check_place(topic, partition)
        check_range("time", timestamp, -3, I64)


def _delete_records(message: m.DeleteRecords) -> None:
    check_range("timeout_ms", message.timeout_ms, 0, TIMEOUT_MS_MAX)
    for topic, partition, offset in message.partitions:
        check_place(topic, partition)
        check_range("offset", offset, -1, I64)


def _config(config: dict[str, str] | dict[str, str | None]) -> None:
    check_range("number of configuration keys", len(config), 0, CONFIG_KEYS_MAX)
    for key, value in config.items():
        check_text("configuration key", key)
        check_text("configuration value", value or "")


_CHECKS: dict[type[m.WireMessage], Callable[[Any], None]] = {
    m.Fetch: _fetch,
    m.Subscribe: _subscribe,
    m.Credit: _credit,
    m.Unsubscribe: _unsubscribe,
    m.Metadata: _metadata,
    m.CreateTopic: _create_topic,
    m.AlterTopic: _alter_topic,
    m.DeleteTopic: _delete_topic,
    m.ListOffsets: _list_offsets,
    m.DeleteRecords: _delete_records,
    **GROUP_CHECKS,
    **TRANSACTION_CHECKS,
}
