"""One node with a Kafka client that writes bytes, and Kafka's own schemas (kio) to read and write them by."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.base.limits import SUSPICION_S
from corgi.broker.detector import Detector
from corgi.kafka.credentials import Derivation
from corgi.kafka.front import Front, KafkaOptions
from corgi.kafka.session import KafkaSession
from corgi.kafka.table import APIS
from kafka_side.kafka_python_codec import REQUEST, RESPONSE, there_and_back
from one_node import OneNode

LISTENER = "default"
NONCE = "the-nodes-own-nonce"


class KafkaClient:
    """A connection: what was written to it, cut into answers."""

    remote = "test:1"

    def __init__(self, world: KafkaNode, listener: str = LISTENER) -> None:
        self.world = world
        self.admitted = False
        self.later: list[tuple[float, Callable[[], None]]] = []  # what was put off, and for how long
        self.session = KafkaSession(world.front, self, listener)
        self.output = b""
        self.failure: CorgiError | None = None
        self.held = False
        self.correlation = 0

    # the transport

    def write(self, buffers: Sequence[Buffer]) -> None:
        self.output += b"".join(buffers)

    def buffered(self) -> int:
        return 0

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False

    def admit(self) -> None:
        self.admitted = True

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        self.later.append((delay_s, call))

    def nonce(self) -> str:
        return NONCE

    def derive(self, work: Derivation, then: Callable[[bytes], None]) -> None:
        then(work.run())

    def close(self, error: CorgiError) -> None:
        self.failure = error
        self.session.lost()

    # what a test does

    def send(self, key: int, version: int, body: bytes, client_id: str = "test") -> int:
        """A request with an encoded body; its correlation id."""
        self.correlation += 1
        name = client_id.encode()
        head = struct.pack(">hhih", key, version, self.correlation, len(name)) + name
        if version >= APIS[key].flexible:
            head += b"\0"
        self.take(head + body)
        return self.correlation

    def take(self, request: bytes) -> None:
        """A request as bytes."""
        try:
            self.session.received(memoryview(request))
        except CorgiError as error:
            self.session.fail(error)

    def answers(self) -> list[tuple[int, bytes]]:
        """(correlation id, what follows) of every answer so far; they are forgotten."""
        found = []
        while self.output:
            (size,) = struct.unpack_from(">i", self.output)
            answer, self.output = self.output[4 : 4 + size], self.output[4 + size :]
            assert len(answer) == size
            found.append((int.from_bytes(answer[:4]), answer[4:]))
        return found

    def call(self, request: Any, wait_s: float = 0.0) -> Any:
        """Send one of kio's requests, run the node until it is answered, and read the answer by kio, to its end."""
        cls = type(request)
        key, version = int(cls.__api_key__), int(cls.__version__)
        body = encoded(request)
        assert there_and_back(key, REQUEST, version, body) == body
        correlation = self.send(key, version, body)
        self.world.node.turns()
        if wait_s:
            self.world.node.wait(wait_s)
        ((found, body),) = self.answers()
        assert found == correlation
        return decoded(key, version, body)


class KafkaNode:
    """One node, no consensus, with a Kafka side."""

    def __init__(self, **options: Any) -> None:
        self.node = OneNode()
        listeners = {LISTENER, *(options["security"].mechanisms if "security" in options else ())}
        members = self.node.options.members
        self.node.detector = Detector(NodeId(1), members, SUSPICION_S, self.node)  # type: ignore[attr-defined, arg-type]
        self.node.beat_soon = lambda apart_s: None  # type: ignore[attr-defined]
        self.node.random = random.Random(1)  # type: ignore[attr-defined]
        self.node.client_request = self.node.requests.received  # type: ignore[attr-defined]
        addresses = {NodeId(member): ("127.0.0.1", 9090 + member) for member in members}
        advertised = dict.fromkeys(listeners, addresses)
        self.front = Front(self.node, KafkaOptions(advertised, **options), APIS)  # type: ignore[arg-type]

    def client(self, listener: str = LISTENER) -> KafkaClient:
        return KafkaClient(self, listener)


def encoded(body: Any) -> bytes:
    """By kio."""
    out = io.BytesIO()
    entity_writer(type(body))(out, body)
    return out.getvalue()


def decoded(key: int, version: int, answer: bytes) -> Any:
    """By kio, and judged by kafka-python as well: the body of an answer, of which nothing may be left over; the header
    is checked on the way."""
    cls = load_response_schema(key, version)
    at = 0
    if cls.__header_schema__.__flexible__:
        assert answer[0] == 0, "no tagged fields in a header"
        at = 1
    body, size = entity_reader(cls)(answer, at)
    assert at + size == len(answer), "bytes are left over"
    assert there_and_back(key, RESPONSE, version, bytes(answer[at:])) == answer[at:]
    return body


def request(key: int, version: int) -> Any:
    """The class of kio's request."""
    return load_request_schema(key, version)


def versions(key: int) -> range:
    """Those of an API that are served."""
    lowest, highest = APIS[key].versions
    return range(lowest, highest + 1)


def fields_of(cls: Any, **fields: Any) -> Any:
    """An instance of one of kio's structs with those of ``fields`` that its version has."""
    return cls(**{name: value for name, value in fields.items() if name in cls.__dataclass_fields__})


def nested(cls: Any, field: str) -> Any:
    """The class of the elements of an array field."""
    kind = cls.__annotations__[field]
    if get_origin(kind) is not tuple:  # or null
        kind = get_args(kind)[0]
    return get_args(kind)[0]
