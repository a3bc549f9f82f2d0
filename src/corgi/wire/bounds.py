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

U32 = 2**32 - 1
I64 = 2**63 - 1
TIMEOUT_MS_MAX = 2**31 - 1
CREDIT_MAX = 2**40  # bytes; nobody is that far ahead
NAME_BYTES_MAX = 1024  # of any text that names something; a topic's own rule is stricter
CONFIG_KEYS_MAX = 64
ACKS_MAX = 2


def check_request(message: m.WireMessage, payload: memoryview) -> None:
    """Raises CorgiError "invalid-argument" or "malformed-frame" that names the field."""
    if type(message) is m.Produce:
        _produce(message, payload)
        return
    if payload:
        raise CorgiError("malformed-frame", f"a {type(message).__name__} carries no payload, {len(payload)} bytes came")
    check = _CHECKS.get(type(message))
    if check is not None:
        check(message)


def _produce(message: m.Produce, payload: memoryview) -> None:
    if not 0 <= message.acks <= ACKS_MAX:
        _range("acks", message.acks, 0, ACKS_MAX)
    if not 0 <= message.timeout_ms <= TIMEOUT_MS_MAX:
        _range("timeout_ms", message.timeout_ms, 0, TIMEOUT_MS_MAX)
    total = 0
    for topic, partition, length in message.batches:
        if not (0 <= topic <= U32 and 0 <= partition < PARTITIONS_MAX and length >= HEADER_BYTES):
            _place(topic, partition)
            raise CorgiError("malformed-frame", f"a batch of {length} bytes, {HEADER_BYTES} are the least")
        total += length
    if total != len(payload):
        raise CorgiError("malformed-frame", f"the batches are {total} bytes by their lengths, {len(payload)} are there")
    if not total:
        raise CorgiError("invalid-argument", "a Produce without batches")


def _fetch(message: m.Fetch) -> None:
    _range("wait_ms", message.wait_ms, 0, TIMEOUT_MS_MAX)
    _range("bytes_min", message.bytes_min, 0, FRAME_BYTES_MAX)
    _range("bytes_max", message.bytes_max, 0, TIMEOUT_MS_MAX)
    for topic, partition, offset, wanted in message.partitions:
        _place(topic, partition)
        _range("offset", offset, 0, I64)
        _range("bytes wanted", wanted, 0, TIMEOUT_MS_MAX)


def _subscribe(message: m.Subscribe) -> None:
    _range("subscription", message.subscription, 0, U32)
    _place(message.topic, message.partition)
    _range("offset", message.offset, 0, I64)
    _range("credit", message.credit, 0, CREDIT_MAX)


def _credit(message: m.Credit) -> None:
    for subscription, grant in message.grants:
        _range("subscription", subscription, 0, U32)
        _range("credit", grant, 0, CREDIT_MAX)


def _unsubscribe(message: m.Unsubscribe) -> None:
    _range("subscription", message.subscription, 0, U32)


def _metadata(message: m.Metadata) -> None:
    for name in message.topics or ():
        _text("topic name", name)


def _create_topic(message: m.CreateTopic) -> None:
    _text("topic name", message.name)
    _text("colocate_with", message.colocate_with)
    _range("partitions", message.partitions, 1, PARTITIONS_MAX)
    _range("anchor", message.anchor, -1, U32)
    _range("timeout_ms", message.timeout_ms, 0, TIMEOUT_MS_MAX)
    _config(message.config)


def _alter_topic(message: m.AlterTopic) -> None:
    _text("topic name", message.name)
    _range("partitions", message.partitions, 0, PARTITIONS_MAX)
    _range("timeout_ms", message.timeout_ms, 0, TIMEOUT_MS_MAX)
    _config(message.config)


def _delete_topic(message: m.DeleteTopic) -> None:
    _text("topic name", message.name)
    _range("timeout_ms", message.timeout_ms, 0, TIMEOUT_MS_MAX)


def _list_offsets(message: m.ListOffsets) -> None:
    _range("timeout_ms", message.timeout_ms, 0, TIMEOUT_MS_MAX)
    for topic, partition, timestamp in message.partitions:
        _place(topic, partition)
        _range("time", timestamp, -3, I64)


def _config(config: dict[str, str] | dict[str, str | None]) -> None:
    _range("number of configuration keys", len(config), 0, CONFIG_KEYS_MAX)
    for key, value in config.items():
        _text("configuration key", key)
        _text("configuration value", value or "")


def _place(topic: int, partition: int) -> None:
    _range("topic id", topic, 0, U32)
    _range("partition", partition, 0, PARTITIONS_MAX - 1)


def _range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise CorgiError("invalid-argument", f"{name} is {value}, it goes from {least} to {most}")


def _text(name: str, value: str) -> None:
    if len(value) > NAME_BYTES_MAX:
        raise CorgiError("invalid-argument", f"{name} has {len(value)} characters, {NAME_BYTES_MAX} are the most")


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
}
