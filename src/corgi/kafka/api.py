"""What an API is, and one call of it: the request that came, and the answer that leaves in its turn.

A handler reads ``call.request``, asks the node with ``call.ask`` or a part of the broker directly, and ends with
``call.answer`` or ``call.answer_bytes``, now or later. It never waits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError, error_from_number
from corgi.base.ports import Message
from corgi.kafka.access import CLUSTER_NAME, EVERYTHING, OPERATIONS, REFUSALS, Kind, Operation
from corgi.kafka.codec import Body, Reader, read_body, write_body
from corgi.kafka.errors import Code
from corgi.wire.messages import ErrorReply

if TYPE_CHECKING:
    from corgi.kafka.front import Front
    from corgi.kafka.session import KafkaSession

R = TypeVar("R")
B = TypeVar("B", bound=Body)
HEAD = struct.Struct(">ii")  # size, correlation id
SIZE_BYTES = 4
NEVER = 1 << 15  # flexible in no version
_NOTHING = memoryview(b"")

Then = Callable[[Message, Sequence[Buffer]], None]
"""Called with the node's reply to what was asked; an ErrorReply if it failed as a whole."""


@dataclass(frozen=True, slots=True)
class Api(Generic[R]):
    """One row of the table of APIs. ``versions`` are those served, ``floor`` the lowest that is told to clients.

    ``flexible``: the first version with compact strings and tagged fields; ``plain_header``: its answers have the old
    header all the same. ``quiet``: whether a request gets no answer. ``cost``: bytes that its answer may have, if that
    can be much.
    """

    key: int
    name: str
    versions: tuple[int, int]
    flexible: int
    read: Callable[[Reader, int], R]
    handle: Callable[[Call[R]], None]
    floor: int | None = None
    plain_header: bool = False
    quiet: Callable[[R], bool] | None = None
    cost: Callable[[R], int] | None = None

    @property
    def told(self) -> tuple[int, int]:
        """The versions that clients are told."""
        return (self.versions[0] if self.floor is None else self.floor), self.versions[1]


class Call(Generic[R]):
    """One request of a client. ``version`` is the API's; ``done``: it was answered, by ``buffers``."""

    __slots__ = (
        "_correlation",
        "api",
        "buffers",
        "client_id",
        "done",
        "quiet",
        "request",
        "session",
        "size",
        "version",
    )

    def __init__(
        self,
        session: KafkaSession,
        api: Api[R],
        version: int,
        correlation: int,
        client_id: str,
        request: R,
        size: int,
    ) -> None:
        self.session = session
        self.api = api
        self.version = version
        self.client_id = client_id
        self.request = request
        self.size = size if api.cost is None else size + api.cost(request)
        self.quiet = api.quiet is not None and api.quiet(request)
        self.done = False
        self.buffers: list[Buffer] = []
        self._correlation = correlation

    @property
    def front(self) -> Front:
        return self.session.front

    @property
    def flexible(self) -> bool:
        return self.version >= self.api.flexible

    def refusal(self, operation: Operation, kind: Kind, name: str) -> Code:
        """NONE if the client may do this to the resource of this name; else what it is told."""
        access = self.front.access
        if access is None or access.may(self.session.user, operation, kind, name):
            return Code.NONE
        return REFUSALS[kind]

    def may(self, operation: Operation, kind: Kind, name: str) -> bool:
        """As ``refusal``."""
        return not self.refusal(operation, kind, name)

    def operations(self, kind: Kind, name: str) -> int:
        """What the client may do to a resource: a bit for each operation that the kind has (KIP-430)."""
        access = self.front.access
        allowed = EVERYTHING if access is None else access.operations(self.session.user, kind, name)
        return sum(1 << operation for operation in OPERATIONS[kind]) & allowed

    def cluster_operations(self) -> int:
        """As ``operations``; 0 for who may not see the cluster."""
        if not self.may(Operation.DESCRIBE, Kind.CLUSTER, CLUSTER_NAME):
            return 0
        return self.operations(Kind.CLUSTER, CLUSTER_NAME)

    def ask(self, message: Message, then: Then, payload: memoryview = _NOTHING) -> None:
        """Put a request to the node as any client may; ``then`` hears its reply, unless the client is gone."""
        self.session.ask(message, payload, then)

    def answer(self, body: Body) -> None:
        """Answer; it goes out behind the answers to earlier requests. The first answer counts."""
        out = bytearray()
        write_body(body, self.version, out, flexible=self.flexible)
        self.answer_bytes((out,), len(out))

    def answer_bytes(self, buffers: Sequence[Buffer], size: int) -> None:
        """As ``answer``, with an encoded body of ``size`` bytes in all."""
        if self.done:
            return
        self.done = True
        if not self.quiet:
            if self.flexible and not self.api.plain_header:
                head = HEAD.pack(SIZE_BYTES + 1 + size, self._correlation) + b"\0"
            else:
                head = HEAD.pack(SIZE_BYTES + size, self._correlation)
            self.buffers = [head, *buffers]
        self.session.answered(self)

    def close(self, error: CorgiError) -> None:
        """End the connection: the protocol knows no other answer here."""
        self.done = True
        self.session.fail(error)


AnyCall = Call[Any]
AnyApi = Api[Any]


def bodies(kind: type[B], flexible: int) -> Callable[[Reader, int], B]:
    """Reads requests of this struct."""

    def read(reader: Reader, version: int) -> B:
        return read_body(kind, version, reader, flexible=version >= flexible)

    return read


def error_of(reply: Message) -> CorgiError | None:
    """Why the node refused a request as a whole, if it did."""
    return error_from_number(reply.error, reply.message) if isinstance(reply, ErrorReply) else None
