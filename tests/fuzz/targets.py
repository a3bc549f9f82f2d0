"""What takes bytes from outside, each as a target: sound samples to start from, and what errors its user is told of.

A target's ``run`` takes any bytes and returns, or raises an error that is documented for it; anything else is a fault
of ours. Checksums keep most mutations from ever reaching what lies behind them, so some targets sign their input anew.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crc32c

from corgi.base.batch import CRC_FROM, check_batch
from corgi.base.command import (
    VALUE_HEADER_BYTES,
    CommandKind,
    check_value,
    decode_data,
    encode_append,
    encode_command,
    encode_data,
    encode_value,
    iter_commands,
    split_commands,
)
from corgi.base.errors import BY_CODE, CorgiError
from corgi.base.ids import META, Ballot, GroupId, NodeId, Offset, Slot, TopicId, make_origin
from corgi.base.limits import KIB, MIB
from corgi.base.ports import LogRecord, RecordKind
from corgi.base.records import decode_batch, encode_batch
from corgi.broker.node import Node
from corgi.broker.options import NodeOptions
from corgi.log.recovery import Scan
from corgi.log.slots import Run, SlotTable
from corgi.log.snapshot import (
    END,
    HEADER_BYTES,
    SECTION_HEADER_BYTES,
    SLOTS,
    decode_header,
    decode_run,
    encode_end,
    encode_header,
    encode_run,
    encode_section,
    read_sections,
)
from corgi.paxos import messages as p
from corgi.runtime.folder import Folder
from corgi.server.config import load, parse_members
from corgi.sim.world import SimClock, World
from corgi.state.commands import encode_partition_open
from corgi.state.machine import Machine
from corgi.state.snapshot import Capture, Restorer
from corgi.state.topics import TopicRecord, encode_topic_record
from corgi.wire import messages as m
from corgi.wire.client_session import CallerSession
from corgi.wire.codec import Codec
from corgi.wire.frame import encode_frame
from corgi.wire.receiver import Receiver, Scratch
from corgi.wire.session import ServerSession
from fuzz import kafka_target
from log.log_world import IDENTITY, Log, accept, state

CLUSTER = b"c" * 16
BATCH_BYTES_MAX = 256 * KIB  # what a batch may decompress to here
SEGMENT_BYTES = 8 * KIB
STREAM_ERRORS = (
    "malformed-frame",
    "frame-too-large",
    "unsupported-version",
    "wrong-cluster",
    "invalid-argument",
    "closed",
)


@dataclass(frozen=True)
class Target:
    """``codes``: the errors that ``run`` may raise; ``memory``: bytes it may use beyond 64 times its input."""

    name: str
    samples: Callable[[], list[bytes]]
    run: Callable[[bytes], object]
    codes: tuple[str, ...]
    memory: int = 2 * MIB


# ---- frames


def frames(*messages: tuple[Any, bytes]) -> bytes:
    return b"".join(
        encode_frame(message.TYPE, message, number, len(payload)) + payload
        for number, (message, payload) in enumerate(messages, start=1)
    )


HELLO = (m.Hello(1, m.NATIVE_VERSION, "fuzz", ""), b"")


def batch(codec: str = "none", values: int = 3, size: int = 20) -> bytes:
    records = [(b"key", bytes([65 + n]) * size, [("header", b"x")], 1_700_000_000_000 + n) for n in range(values)]
    return encode_batch(records, codec=codec, producer_id=7, producer_epoch=0, base_sequence=0)


def client_streams() -> list[bytes]:
    plain = batch()
    return [
        frames(HELLO, (m.Produce(2, 1000, ((TopicId(16), 0, len(plain)),)), plain), (m.Metadata(("topic",)), b"")),
        frames(HELLO, (m.Fetch(10, 1, 1000, ((TopicId(16), 0, Offset(5), 100),)), b""), (m.Ping(), b"")),
        frames(HELLO, (m.CreateTopic("t", 3, {"a": "b"}, "", -1, 1000), b""), (m.DeleteTopic("t", 1000), b"")),
        frames(HELLO, (m.Subscribe(1, TopicId(16), 0, Offset(0), 1000), b""), (m.Credit(((1, 500),)), b"")),
        frames(HELLO, (m.ListOffsets(((TopicId(16), 0, -1),)), b""), (m.AlterTopic("t", 4, {}, 1000), b"")),
    ]


def serve(data: bytes) -> None:
    """A client's bytes, as a node takes them: frames, requests in range, sound batches."""
    receiver = Receiver(Scratch())
    session = ServerSession(CLUSTER, NodeId(1))
    for frame in receiver.feed(data):
        request = session.request(frame)
        if request is not None and isinstance(request.message, m.Produce):
            at = 0
            for _, _, length in request.message.batches:
                check_batch(request.payload[at : at + length])
                at += length
    if receiver.failure is not None:
        raise receiver.failure


def node_streams() -> list[bytes]:
    greeting = (m.HelloReply(1, CLUSTER.hex(), NodeId(1), 1 << 20, "fuzz"), b"")
    return [
        frames(greeting, (m.ProduceReply(((0, Offset(5), 6),)), b""), (m.ErrorReply(14, "no"), b"")),
        frames(greeting, (m.FetchReply(((0, Offset(9), Offset(0), (81,)),)), b"x" * 81)),
        frames(greeting, (m.Deliver(1, Offset(3), (10,)), b"0123456789")),
    ]


def call(data: bytes) -> None:
    """A node's bytes, as the SDK takes them."""
    session = CallerSession(Scratch())
    view = memoryview(data)
    while view and session.failure is None:
        into = session.get_buffer()
        count = min(len(into), len(view))
        into[:count] = view[:count]
        session.received(count)
        view = view[count:]
    if session.failure is not None:
        raise session.failure


# ---- peers


def value() -> bytes:
    command = encode_command(CommandKind.DATA, make_origin(NodeId(2), 5), 1, 1, encode_append(TopicId(16), 0, batch()))
    return encode_value(1_700_000_000_000, [command])


def peer_streams() -> list[bytes]:
    group, ballot, one = GroupId(0), Ballot(9 << 16 | 2), value()
    command = bytes(one[VALUE_HEADER_BYTES:])
    entries = ((Slot(1), Ballot(1 << 16 | 2), len(one)), (Slot(3), Ballot(2 << 16 | 2), len(one)))
    return [
        frames((p.Prepare(group, ballot, Slot(1)), b""), (p.Accept(group, ballot, Slot(1), Slot(0)), one)),
        frames(
            (p.Promise(group, ballot, Slot(0), entries), one + one), (p.Refuse(group, ballot, ballot, Slot(0)), b"")
        ),
        frames((p.Accepted(group, ballot, Slot(1)), b""), (p.Commit(group, ballot, Slot(1)), b"")),
        frames(
            (p.Forward(group, ballot, 1), command + command), (p.ForwardRefused(group, ballot, ballot, NodeId(2)), b"")
        ),
        frames((p.Learn(group, Slot(1), Slot(3)), b""), (p.Learned(group, Slot(1), (len(one),), Slot(1)), one)),
        frames((p.Recall(b"i" * 16, ((0, ballot, 5),), 100), b""), (p.Remembered(True, ""), b"")),
        frames((p.Rejoin(group, 77), b""), (p.Rejoined(group, 77, ballot, Slot(4)), b"")),
        frames((p.LeaderLives(group, ballot, ballot), b""), (p.Handover(group, ballot), b"")),
    ]


class Void:
    """Ports that lead nowhere: what is written never becomes durable, and nobody hears what is said."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: 0.0


def node() -> Node:
    members = (NodeId(1), NodeId(2), NodeId(3))
    options = NodeOptions(node=NodeId(1), cluster=CLUSTER, incarnation=b"i" * 16, boot=1, members=members, groups=2)
    world = World(1)
    return Node(options, SimClock(world), world.stream("node"), Void(), Void())  # type: ignore[arg-type]


def hear(data: bytes) -> None:
    """A peer's bytes, as a node takes them, and what they make it do."""
    receiver, codec, one = Receiver(Scratch()), Codec(p.PEER_TYPES), node()
    one.start()
    one.peer_connected(NodeId(2), b"j" * 16)
    for frame in receiver.feed(data):
        message = codec.decode(frame)
        one.peer_message(NodeId(2), message, frame.payload)
        one.flush()
    if receiver.failure is not None:
        raise receiver.failure


# ---- batches and values


def batches() -> list[bytes]:
    return [batch(codec) for codec in ("none", "gzip", "snappy", "lz4", "zstd")] + [batch("lz4", 50, 500)]


def read_batch(data: bytes) -> None:
    found = decode_batch(data, bytes_max=BATCH_BYTES_MAX)
    assert sum(len(record.value or b"") for record in found) <= BATCH_BYTES_MAX


def read_signed_batch(data: bytes) -> None:
    """With a checksum and a length that hold."""
    signed = bytearray(data)
    if len(signed) > CRC_FROM:
        signed[8:12] = (len(signed) - 12).to_bytes(4)
        signed[CRC_FROM - 4 : CRC_FROM] = crc32c.crc32c(bytes(signed[CRC_FROM:])).to_bytes(4)
    read_batch(bytes(signed))


def values() -> list[bytes]:
    origin = make_origin(NodeId(2), 5)
    many = encode_data(
        [(TopicId(16), n, batch()) for n in range(3)], guards=[(1, b"\x91\xa1t")], records=[(2, b"\x90")]
    )
    return [value(), encode_value(5, []), encode_value(7, [encode_command(CommandKind.DATA, origin, 2, 1, many)])]


VALUE_CRC_AT = 16


def read_value(data: bytes) -> None:
    """With a checksum that holds."""
    signed = bytearray(data)
    if len(signed) >= VALUE_HEADER_BYTES:
        start_crc = crc32c.crc32c(bytes(signed[:VALUE_CRC_AT]))
        crc = crc32c.crc32c(bytes(signed[VALUE_CRC_AT + 4 :]), start_crc)
        signed[VALUE_CRC_AT : VALUE_CRC_AT + 4] = crc.to_bytes(4)
    check_value(signed)
    for command in iter_commands(signed):
        if command.kind == CommandKind.DATA:
            decode_data(command.body, command.body_at)


def cut_forward(data: bytes) -> None:
    split_commands(data)


# ---- snapshots


def snapshots() -> list[bytes]:
    """Of a group with a topic, a partition, a producer, commands in doubt and places of slots; and of an empty one."""
    found = []
    for filled in (True, False):
        machine = Machine(GroupId(0), 2)
        if filled:
            origin = make_origin(NodeId(2), 5)
            topic = encode_topic_record("t", TopicRecord(0, 1, 0, 2, {"retention_ms": "5"}), 1)
            opening = encode_partition_open(TopicId(16), [0], 1, {})
            commands = [
                encode_command(CommandKind.DATA, origin, 1, 0, encode_data([(META, 0, topic)])),
                encode_command(CommandKind.PARTITION_OPEN, origin, 2, 0, opening),
                encode_command(CommandKind.DATA, origin, 3, 0, encode_data([(TopicId(16), 0, batch())])),
            ]
            machine.apply(Slot(1), encode_value(7, commands))
            machine.take_appended()
        sections = [encode_section(kind, chunks) for kind, chunks in Capture(machine).sections()]
        sections.append(encode_run(Run(Slot(1), array("q", (4096,)), array("I", (300,)))))
        whole = [[encode_header(GroupId(0), machine.applied, Ballot(0))], *sections, encode_end(len(sections))]
        found.append(b"".join(chunk for chunks in whole for chunk in chunks))
    return found


def restore(data: bytes) -> None:
    content = memoryview(data)
    decode_header(content)
    _take(list(read_sections(content)))


def restore_signed(data: bytes) -> None:
    """With checksums that hold."""
    sections, at = [], HEADER_BYTES
    while at + SECTION_HEADER_BYTES <= len(data):
        kind, length = int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 4 : at + 12])
        body = data[at + SECTION_HEADER_BYTES : at + SECTION_HEADER_BYTES + min(length, len(data))]
        at += SECTION_HEADER_BYTES + len(body)
        if kind != END:
            sections.append((kind, memoryview(body)))
    _take(sections)


def _take(sections: list[tuple[int, memoryview]]) -> None:
    restorer = Restorer(GroupId(0), 2)
    table = SlotTable()
    for kind, body in sections:
        if kind == SLOTS:
            table.load(decode_run(body))
        else:
            restorer.take(kind, body)
    restorer.finish()
    restorer.adopt_into(Machine(GroupId(0), 2))


# ---- the log


def logs() -> list[bytes]:
    """Segments one behind the other."""
    log = Log(SEGMENT_BYTES, lambda: [state()])
    for slot in range(1, 40):
        log.journal.append(accept(slot, bytes([slot]) * (slot * 3)))
        if slot % 5 == 0:
            log.write_all()
    segments = [bytes(segment) for _, segment in sorted(log.segments.items())]
    return [b"".join(segments), segments[0]]


def scan(data: bytes) -> None:
    cut = [data[at : at + SEGMENT_BYTES] for at in range(0, len(data), SEGMENT_BYTES)]
    reading = Scan(IDENTITY, segment_bytes=SEGMENT_BYTES)
    for _ in reading.records(enumerate(cut, start=1)):
        pass
    assert reading.end.offset <= SEGMENT_BYTES


KINDS = frozenset(int(kind) for kind in RecordKind)
RECORD = 27  # bytes in front of a payload, in the input of ``recover``


def log_records() -> list[bytes]:
    """A record a line of fields: kind, group, ballot, slot, commit, length of the payload."""

    def of(kind: int, group: int, ballot: int, slot: int, commit: int, payload: bytes) -> bytes:
        head = bytes([kind]) + b"".join(
            part.to_bytes(size) for part, size in ((group, 2), (ballot, 8), (slot, 6), (commit, 6))
        )
        return head + len(payload).to_bytes(4) + payload

    one, ballot = value(), 5 << 16 | 2
    return [
        of(RecordKind.PROMISE, 0, ballot, 0, 0, b"") + of(RecordKind.ACCEPT, 0, ballot, 1, 0, one),
        of(RecordKind.STATE, 1, ballot, 0, 0, b"") + of(RecordKind.LEARNED, 1, 0, 1, 0, one),
        of(RecordKind.NODE, 0xFFFF, 0, 0, 0, b"\x93\x02\xc4\x10" + b"i" * 16 + b"\xc2"),
    ]


def recover(data: bytes) -> None:
    """Records whose checksums hold, whatever they say."""
    one = node()
    at = 0
    while at + RECORD <= len(data):
        kind, at_payload = data[at], at + RECORD
        group, ballot = int.from_bytes(data[at + 1 : at + 3]), int.from_bytes(data[at + 3 : at + 11])
        slot, commit = int.from_bytes(data[at + 11 : at + 17]), int.from_bytes(data[at + 17 : at + 23])
        length = int.from_bytes(data[at + 23 : at_payload])
        payload = data[at_payload : at_payload + length]
        if kind in KINDS:
            record = LogRecord(RecordKind(kind), GroupId(group), Ballot(ballot), Slot(slot), Slot(commit), payload)
            one.recover(record)
        at = at_payload + len(payload)
    one.start()


# ---- what an operator writes


CONFIGURATION = b"""
node = 1
data = "somewhere"
listen = "127.0.0.1:7001"
groups = 4
members = [{ node = 1, address = "127.0.0.1:7001" }, { node = 2, address = "127.0.0.2:7001", label = "b" }]
log_level = "debug"
"""
IDENTITY_FILE = (
    b'{"format": 1, "cluster": "' + CLUSTER.hex().encode() + b'", "node": 1, "incarnation": "' + b"ab" * 16
    + b'", "boot": 3, "groups": 4, "recovering": false}'
)  # fmt: skip


def configure(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corgi.toml"
        path.write_bytes(data)
        load(path, {})


def list_members(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    parse_members(text)
    load(None, {"CORGI_MEMBERS": text, "CORGI_NODE": text[:1], "CORGI_DATA": text[-9:], "CORGI_GROUPS": text[-1:]})


def identify(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "wal").mkdir()
        (path / "wal" / f"{1:016x}.wal").write_bytes(b"x")
        (path / "node.json").write_bytes(data)
        os.truncate(path / "node.json", min(len(data), 100 * KIB))
        Folder.open(path, NodeId(1)).close()


TARGETS = {
    target.name: target
    for target in (
        Target("client-frames", client_streams, serve, (*STREAM_ERRORS, "corrupt-batch", "record-too-large")),
        Target("kafka-frames", kafka_target.samples, kafka_target.run, (*STREAM_ERRORS, "overloaded"), memory=8 * MIB),
        Target(
            "kafka-logins",
            kafka_target.logins,
            kafka_target.run_as_user,
            (*STREAM_ERRORS, "overloaded", "authentication-failed"),
            memory=8 * MIB,
        ),
        Target("node-frames", node_streams, call, tuple(BY_CODE)),  # a node may tell of any error
        Target("peer-frames", peer_streams, hear, (*STREAM_ERRORS, "record-damaged")),
        Target("batch", batches, read_batch, ("corrupt-batch",)),
        Target("signed-batch", batches, read_signed_batch, ("corrupt-batch",)),
        Target("value", values, read_value, ("record-damaged", "unsupported-version")),
        Target("forward", lambda: [value()[VALUE_HEADER_BYTES:]], cut_forward, ("malformed-frame",)),
        Target("snapshot", snapshots, restore, ("snapshot-damaged", "unsupported-version")),
        Target("signed-snapshot", snapshots, restore_signed, ("snapshot-damaged",)),
        Target("log", logs, scan, ("log-damaged", "wrong-cluster", "unsupported-version")),
        Target("log-records", log_records, recover, ("log-damaged", "record-damaged", "unsupported-version")),
        Target("configuration", lambda: [CONFIGURATION], configure, ("invalid-configuration", "unsafe-listener")),
        Target(
            "members",
            lambda: [b"1=127.0.0.1:7001,2=[::1]:7002/host4"],
            list_members,
            ("invalid-configuration", "unsafe-listener"),
        ),
        Target(
            "identity",
            lambda: [IDENTITY_FILE],
            identify,
            ("log-damaged", "wrong-cluster", "unsupported-version", "data-folder-empty"),
        ),
    )
}


def probe(target: Target, data: bytes) -> CorgiError | None:
    """Run a target on any bytes: the documented error that it raised, if any. Raises whatever else it does."""
    try:
        target.run(data)
    except CorgiError as error:
        if error.code not in target.codes:
            raise
        return error
    return None
