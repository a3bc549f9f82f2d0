"""A Kafka client's bytes, as a node takes them: frames, requests of every API, and what they make the node do.

The node is real but for consensus, and has one topic. Each request is worked on until nothing is left to do, and at the
end time passes, so that what waits for news, members or a time-out ends as well.
"""

from __future__ import annotations

import importlib
import struct
import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from corgi.base.limits import KIB
from corgi.base.records import encode_batch
from corgi.kafka.access import Access, Kind, Operation, Rule
from corgi.kafka.api import AnyApi
from corgi.kafka.codec import Body, Fixed, put_count, put_text, write_body
from corgi.kafka.credentials import MECHANISMS, PLAIN, SCRAM_SHA_256
from corgi.kafka.front import UUID_BYTES
from corgi.kafka.login import AUTHENTICATE, HANDSHAKE
from corgi.kafka.receiver import TOKEN_BYTES_MIN, KafkaReceiver
from corgi.kafka.security import Security
from corgi.kafka.table import APIS
from corgi.wire.receiver import Scratch
from kafka_side.kafka_world import KafkaClient, KafkaNode
from kafka_side.sasl_world import PASSWORD, user

TOPIC = "a"
USER, ASKING = "alice", "asking"
RULES = [
    Rule(USER, True, Operation.READ, Kind.TOPIC, TOPIC),
    Rule(USER, True, Operation.DESCRIBE, Kind.GROUP, "a", True),
    Rule(USER, True, Operation.DESCRIBE, Kind.CLUSTER, "kafka-cluster"),
    Rule(USER, False, Operation.DELETE, Kind.TOPIC, "*"),
]
CLIENT_ID = b"fuzz"
REQUEST_BYTES_MAX = 256 * KIB
PASSES_S = (0.3, 3.0, 60.0, 301.0, 3_601.0)  # first members of a group wait; polls; sessions; the longest of each
ANSWER_BYTES_MAX = 4096 * KIB
PRODUCE, FETCH = 0, 1


def run(data: bytes) -> None:
    """Raises the CorgiError that ends the connection."""
    world = KafkaNode()
    _take(world, world.client(), data)


def run_as_user(data: bytes) -> None:
    """As ``run`` for one that has to say who it is, and may do little."""
    world = KafkaNode(security=Security([user(USER)], {ASKING: MECHANISMS}, Access(RULES)))
    _take(world, world.client(ASKING), data)


def _take(world: KafkaNode, client: KafkaClient, data: bytes) -> None:
    world.node.create(TOPIC, 2)
    receiver = KafkaReceiver(Scratch(64 * KIB), REQUEST_BYTES_MAX, TOKEN_BYTES_MIN)
    for frame in receiver.feed(data):
        if client.failure is not None:
            break
        client.take(bytes(frame.payload))
        world.node.turns()
        while client.later:
            client.later.pop()[1]()
    for seconds in PASSES_S:
        world.node.wait(seconds)
    assert len(client.output) <= ANSWER_BYTES_MAX
    unanswered = client.session.busy
    client.session.lost()
    world.node.requests.session_closed(client.session)
    world.node.wait(60.0)
    failure = client.failure or receiver.failure
    if failure is not None:
        raise failure
    assert not unanswered, "a request is never answered"
    client.answers()  # each is framed


# ---- sound requests


def logins() -> list[bytes]:
    """A stream for each way to come in, and one for each API by who came in."""
    first = f"n,,n={USER},r=nonce".encode()
    told = [framed(APIS[HANDSHAKE], 1, _text(SCRAM_SHA_256)), framed(APIS[AUTHENTICATE], 1, _token(first))]
    token = b"\0" + USER.encode() + b"\0" + PASSWORD.encode()
    bare = framed(APIS[HANDSHAKE], 0, _text(PLAIN)) + _token(token)
    come_in = framed(APIS[HANDSHAKE], 1, _text(PLAIN)) + framed(APIS[AUTHENTICATE], 0, _token(token))
    return [b"".join(told), bare, *[come_in + stream for stream in samples()]]


def _text(word: str) -> bytes:
    return len(word).to_bytes(2) + word.encode()


def _token(token: bytes) -> bytes:
    return len(token).to_bytes(4) + token


def samples() -> list[bytes]:
    """A stream for each API, with the lowest and the highest version of its requests."""
    return [
        b"".join(framed(api, version, body(api, version)) for version in sorted(set(api.versions)))
        for _, api in sorted(APIS.items())
    ]


def framed(api: AnyApi, version: int, request: bytes) -> bytes:
    head = struct.pack(">hhih", api.key, version, version, len(CLIENT_ID)) + CLIENT_ID
    if version >= api.flexible:
        head += b"\0"
    return struct.pack(">i", len(head) + len(request)) + head + request


def body(api: AnyApi, version: int) -> bytes:
    flexible = version >= api.flexible
    if api.key == PRODUCE:
        return a_produce(version, flexible)
    if api.key == FETCH:
        return a_fetch(version, flexible)
    out = bytearray()
    kind = getattr(importlib.import_module(api.handle.__module__), "Request", None)
    if kind is not None:
        write_body(example(kind), version, out, flexible=flexible)
    return bytes(out)


def example(kind: type[Body]) -> Body:
    """One with something in every field."""
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{info.name: value(hints[info.name], info.name) for info in msgspec.structs.fields(kind)})


def value(hint: Any, name: str) -> Any:
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        for mark in marks:
            if isinstance(mark, Fixed):
                return number(mark.form.format, name)
        return value(base, name)
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = [one for one in get_args(hint) if one is not type(None)]
    if get_origin(hint) is tuple:
        return (value(get_args(hint)[0], name),)
    return {bool: False, str: TOPIC, bytes: b"\0\0"}.get(hint) if hint in (bool, str, bytes) else example(hint)


def number(form: str, name: str) -> Any:
    if form == ">16s":
        return bytes(UUID_BYTES)
    return 10_000 if name.endswith("_ms") else 1


def a_produce(version: int, compact: bool) -> bytes:
    batch = encode_batch([(b"key", b"value", (), 1_700_000_000_000)])
    out = bytearray()
    put_text(out, None, compact=compact)
    out += struct.pack(">hi", -1, 1000)
    put_count(out, 1, compact=compact)
    put_text(out, TOPIC, compact=compact)
    put_count(out, 1, compact=compact)
    out += struct.pack(">i", 1)
    put_count(out, len(batch), compact=compact)
    out += batch
    return bytes(out) + (b"\0\0\0" if compact else b"")


def a_fetch(version: int, compact: bool) -> bytes:
    """With compact fields of two partitions: one by a leader epoch that is over, which is answered by who leads."""
    out = bytearray(struct.pack(">i", -1) if version < 15 else b"")
    out += struct.pack(">iiib", 500, 1, 1 << 20, 1)
    out += struct.pack(">ii", 0, -1) if version >= 7 else b""
    put_count(out, 1, compact=compact)
    if version >= 13:
        world = KafkaNode()
        out += world.front.uuid_of(world.node.create(TOPIC, 2))
    else:
        put_text(out, TOPIC, compact=compact)
    if not compact:
        put_count(out, 1, compact=compact)
        return bytes(out) + struct.pack(">iqi", 1, 0, 1 << 20)
    put_count(out, 2, compact=compact)
    for partition, epoch in ((0, 0), (1, -1)):
        out += struct.pack(">iiqiqi", partition, epoch, 0, -1, -1, 1 << 20) + b"\0"
    return bytes(out) + b"\0\1\1\0"
