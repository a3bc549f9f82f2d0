"""docs/protocol.md cannot drift from the code: its tables and its example are read and compared."""

import re
import types
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from corgi.base import limits
from corgi.base.batch import HEADER, HEADER_BYTES, patched_prefix
from corgi.base.errors import BY_CODE, BY_NUMBER
from corgi.base.ids import NodeId, Offset, TopicId
from corgi.base.records import decode_batch, encode_batch
from corgi.broker import bounds, fetch
from corgi.delivery import limits as delivery_limits
from corgi.paxos.messages import PEER_TYPES
from corgi.runtime import net
from corgi.state.settings import check_settings
from corgi.wire import group_messages as g
from corgi.wire import messages as m
from corgi.wire import transaction_messages as t
from corgi.wire.catalog import REPLIES, REQUESTS
from corgi.wire.codec import Codec
from corgi.wire.frame import FRAME, encode_frame
from corgi.wire.receiver import Receiver, Scratch
from corgi.wire.session import MESSAGE_CHARACTERS_MAX

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
_PARTS = (
    m.NodeInfo, m.GroupInfo, m.TopicInfo, m.GroupStatus,
    g.Assigned, g.CommitEntry, g.CursorInfo, g.GroupSummary, g.MemberInfo, g.SessionInfo,
    t.Checkpoint, t.TransactionInfo,
)  # fmt: skip
NESTED: dict[str, type[m.WireMessage]] = {part.__name__: part for part in _PARTS}
MESSAGES: dict[str, type[m.WireMessage]] = {
    **{message.__name__: message for message in (*REQUESTS.values(), *REPLIES.values())},
    **NESTED,
}


def section(title: str) -> str:
    """The text from a heading to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title!r}"
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    """The cells of a section's first table without its two head lines."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def told(kind: Any) -> str:
    """A type as the document names it."""
    if kind is type(None):
        return "nil"
    if kind in (int, str, bytes, bool, float):
        return {int: "int", str: "text", bytes: "bytes", bool: "bool", float: "float"}[kind]
    if hasattr(kind, "__supertype__"):
        return told(kind.__supertype__)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and arguments[-1] is ...:
        return f"[{told(arguments[0])}]"
    if origin is tuple:
        return f"({', '.join(told(argument) for argument in arguments)})"
    if origin is types.UnionType:
        return " \\| ".join(told(argument) for argument in arguments)
    if origin is dict:
        return f"map {told(arguments[0])} → {told(arguments[1])}"
    return str(kind.__name__)


def default(field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return "{}"
    if field.default is msgspec.NODEFAULT:
        return ""
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return {"": '""', None: "nil", (): "[]"}.get(field.default, str(field.default))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_described_as_it_is(name: str) -> None:
    message = MESSAGES[name]
    title = name if name in NESTED else f"{name} ({message.TYPE})"
    described = rows(section(title))
    hints = get_type_hints(message)
    fields = msgspec.structs.fields(message)
    assert [row[:3] for row in described] == [[f.name, told(hints[f.name]), default(f)] for f in fields]
    assert all(row[3] for row in described)


def test_no_message_is_described_that_does_not_exist() -> None:
    titles = set(re.findall(r"^### (\w+) \((\d+)\)$", TEXT, re.MULTILINE))
    assert titles == {(name, str(message.TYPE)) for name, message in MESSAGES.items() if name not in NESTED}


def test_the_errors_are_those_of_the_code() -> None:
    expected = [
        [str(kind.number), f"`{kind.code}`", "yes" if kind.retryable else "no", kind.meaning]
        for kind in BY_NUMBER.values()
    ]
    assert rows(section("Errors")) == expected


def test_codes_in_the_text_exist() -> None:
    words = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", TEXT))
    assert words <= set(BY_CODE)
    assert {"unsettled", "timeout", "overloaded", "recovering", "closed"} <= set(BY_CODE)


def test_the_frame_table_has_the_fields_of_the_frame() -> None:
    table = rows(section("Frames"))
    assert sum(int(row[0]) for row in table[:6]) == FRAME.size
    assert [row[1] for row in table] == [
        "length", "correlation", "header length", "type", "flags", "reserved", "header", "payload",
    ]  # fmt: skip


def test_the_batch_table_has_the_header_of_a_batch() -> None:
    table = rows(section("Record batches"))
    at = 0
    for row in table[:-1]:
        assert int(row[0]) == at
        at += int(row[1])
    assert at == HEADER_BYTES == int(table[-1][0])
    assert [int(row[1]) for row in table[:-1]] == [8, 4, 4, 1, 4, 2, 4, 8, 8, 8, 2, 4, 4]
    assert HEADER.format == ">qiibIhiqqqhii"


def test_the_bounds_are_those_of_the_code() -> None:
    assert [int(row[1]) for row in rows(section("Bounds"))] == [
        limits.HELLO_BYTES_MAX,
        limits.FRAME_BYTES_MAX,
        limits.HEADER_BYTES_MAX,
        limits.BATCH_BYTES_MAX,
        bounds.REQUEST_BATCHES_MAX,
        bounds.REQUEST_PARTITIONS_MAX,
        delivery_limits.POLLS_MAX,
        delivery_limits.SUBSCRIPTIONS_MAX,
        delivery_limits.CREDIT_MAX,
        limits.CLIENT_PENDING_REQUESTS,
        limits.CLIENT_PENDING_BYTES,
        limits.CLIENT_OUTPUT_HIGH,
        limits.CLIENT_OUTPUT_MAX,
    ]
    assert f"after {net.HELLO_S:.0f} s is closed" in TEXT
    assert f"takes nothing for {net.STALL_S:.0f} s" in TEXT
    assert f"at most {MESSAGE_CHARACTERS_MAX} characters" in TEXT
    assert f"2³¹ - 1, at most {bounds.TIMEOUT_S_MAX / 60:.0f} minutes" in TEXT
    assert f"how long to wait, at most {fetch.WAIT_S_MAX / 60:.0f} minutes" in TEXT
    assert f"last {limits.PRODUCER_WINDOW} batches" in TEXT
    assert f"1 to {limits.TOPIC_NAME_MAX} letters" in TEXT
    assert f"| 1 to {limits.PARTITIONS_MAX} |" in TEXT
    assert f"about {delivery_limits.POLL_BYTES_MAX >> 20} MiB and {delivery_limits.POLL_BATCHES_MAX} batches" in TEXT


def test_the_settings_of_a_topic_are_those_of_the_code() -> None:
    table = {row[0]: row for row in rows(section("Topics"))}
    examples = {
        "max_batch_bytes": "61",
        "retention_ms": "-1",
        "retention_bytes": "1",
        "cleanup": "compact",
        "durability": "memory",
        "delete_retention_ms": "0",
        "min_compaction_lag_ms": "0",
        "min_cleanable_dirty_ratio": "0.25",
    }
    assert set(table) == set(examples)
    check_settings(examples)
    assert table["max_batch_bytes"][2] == str(limits.BATCH_BYTES_DEFAULT)
    assert table["max_batch_bytes"][1].startswith(f"{HEADER_BYTES} to {limits.BATCH_BYTES_MAX}")


def test_the_messages_between_nodes_are_those_of_the_code() -> None:
    expected = [
        [str(number), message.__name__, ", ".join(message.__struct_fields__)]
        for number, message in sorted(PEER_TYPES.items())
    ]
    assert rows(section("Between nodes")) == expected


BATCH = encode_batch([(b"N14228", b"hello", (("from", b"doc"),), 1_735_689_600_000)])
EXAMPLE: dict[str, tuple[m.WireMessage, int, bytes]] = {
    "Hello": (m.Hello(1, 1, "example 1"), 1, b""),
    "HelloReply": (m.HelloReply(1, "6f1de1a5" * 4, NodeId(2), limits.FRAME_BYTES_MAX, "corgi 0.1.0"), 1, b""),
    "Produce": (m.Produce(2, 5000, ((TopicId(16), 3, len(BATCH)),)), 2, BATCH),
    "ProduceReply": (m.ProduceReply(((0, Offset(41), 1_735_689_600_123),)), 2, b""),
    "Subscribe": (m.Subscribe(7, TopicId(16), 3, Offset(41), 1_048_576), 3, b""),
    "SubscribeReply": (m.SubscribeReply(0, Offset(42), Offset(0)), 3, b""),
    "Deliver": (m.Deliver(7, Offset(42), (len(BATCH),), Offset(41)), 0, patched_prefix(41, len(BATCH), 5) + BATCH[16:]),
}


def example(name: str) -> bytes:
    """The bytes of one block: the pairs of hex digits at the start of each line."""
    found = re.search(rf"^```hex {name}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"there is no example of {name}"
    digits = [re.match(r"(?:[0-9a-f]{2} ?)+", line) for line in found.group(1).splitlines()]
    assert all(digits)
    return b"".join(bytes.fromhex(line.group()) for line in digits if line)


@pytest.mark.parametrize("name", EXAMPLE)
def test_the_example_is_what_is_sent(name: str) -> None:
    message, correlation, payload = EXAMPLE[name]
    raw = example(name)
    assert raw == encode_frame(message.TYPE, message, correlation, len(payload)) + payload
    receiver = Receiver(Scratch())
    (frame,) = receiver.feed(raw)
    assert (frame.correlation, bytes(frame.payload)) == (correlation, payload)
    codec = Codec(REQUESTS if message.TYPE < 64 else REPLIES)
    assert codec.decode(frame) == message
    if payload:
        (record,) = decode_batch(payload)
        assert (record.key, record.value, record.headers) == (b"N14228", b"hello", (("from", b"doc"),))


def test_no_example_is_left_out() -> None:
    assert re.findall(r"^```hex (\w+)$", TEXT, re.MULTILINE) == list(EXAMPLE)
