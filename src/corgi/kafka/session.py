"""One Kafka client: requests in, answers out in their order, and in between one more client session of the node.

The requests of a connection are begun in the order in which they came and worked on side by side, so produces fill the
pipeline and a long poll delays nobody's work; only answers wait for those before them. What has not left is bounded, in
number and bytes: beyond that the connection is not read.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ports import Message
from corgi.kafka.access import ANONYMOUS
from corgi.kafka.api import AnyApi, AnyCall, Call, Then
from corgi.kafka.codec import Reader
from corgi.kafka.login import ALLOWED, API_VERSIONS, Login
from corgi.kafka.sasl import Outside

if TYPE_CHECKING:
    from corgi.kafka.front import Front

PENDING_REQUESTS_MAX = 256  # unanswered; clients keep five or so in flight
PENDING_BYTES_MAX = 64 * 1024 * 1024  # of requests, and of what their answers may have
CLIENT_ID_MAX = 249  # characters that are kept of a client's name for itself
_SHORT_HEADER = struct.Struct(">hhi")


class Transport(Outside, Protocol):
    """The connection below a session. ``write`` only queues."""

    @property
    def remote(self) -> str: ...

    def write(self, buffers: Sequence[Buffer]) -> None: ...

    def buffered(self) -> int: ...

    def hold(self) -> None:
        """Take no more requests until ``release``."""
        ...

    def release(self) -> None: ...

    def admit(self) -> None:
        """It is known who is there: take requests of any size from now on."""
        ...

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call this later, as a fact of the outside world, unless the connection has ended."""
        ...

    def close(self, error: CorgiError) -> None:
        """Send what is queued, then end the connection; people are told why."""
        ...


class KafkaSession:
    """See the module. ``listener`` names the listener that the connection came to; ``user`` is who came, and ``login``
    there until that is known."""

    __slots__ = (
        "_asked",
        "_held",
        "_next",
        "_order",
        "_pending",
        "_pending_bytes",
        "_transport",
        "closed",
        "front",
        "listener",
        "login",
        "sure_at",
        "user",
    )

    def __init__(self, front: Front, transport: Transport, listener: str) -> None:
        self.front = front
        self.listener = listener
        self.closed = False
        self.sure_at = float("-inf")  # when this client was last told of leaders that were known to live
        self.user = ANONYMOUS
        mechanisms = front.options.security.mechanisms.get(listener)
        self.login = None if mechanisms is None else Login(self, mechanisms, transport)
        self._transport = transport
        self._order: deque[AnyCall] = deque()  # those whose answers have not left
        self._asked: dict[int, Then] = {}
        self._next = 1
        self._pending = 0
        self._pending_bytes = 0
        self._held = False

    @property
    def remote(self) -> str:
        return self._transport.remote

    @property
    def busy(self) -> bool:
        """Something that was asked for is not answered yet."""
        return self._pending > 0

    # -- what the connection tells ------------------------------------------------------------------------------------

    def received(self, request: memoryview) -> None:
        """Begin one request. Raises CorgiError when the connection cannot go on."""
        if self.closed:
            return
        if self.login is not None:
            self.login.count()
            if self.login.raw:
                self.login.take_raw(bytes(request))
                return
        call = self._read(request)
        self._pending += 1
        self._pending_bytes += call.size
        if not call.quiet:
            self._order.append(call)
        if not self._held and (self._pending >= PENDING_REQUESTS_MAX or self._pending_bytes > PENDING_BYTES_MAX):
            self._held = True
            self._transport.hold()
        call.api.handle(call)

    def lost(self) -> None:
        """The connection is gone."""
        self.closed = True
        self._asked.clear()
        self._order.clear()

    # -- what a login uses --------------------------------------------------------------------------------------------

    def admit(self, user: str) -> None:
        """It is known who is there."""
        self.user = user
        self.login = None
        self._transport.admit()

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Read nothing until then."""
        self._transport.hold()
        self._transport.after(delay_s, call)

    def write_raw(self, data: bytes) -> None:
        """An answer that has no header of Kafka's."""
        self._transport.write((data,))

    # -- what calls use -----------------------------------------------------------------------------------------------

    def ask(self, message: Message, payload: memoryview, then: Then) -> None:
        number = self._next
        self._next += 1
        self._asked[number] = then
        self.front.node.client_request(self, number, message, payload)

    def answered(self, call: AnyCall) -> None:
        """A call has its answer: whatever is complete at the head of the line leaves."""
        if call.quiet:
            self._let_go(call)
        order = self._order
        while order and order[0].done:
            first = order.popleft()
            self._let_go(first)
            if not self.closed:
                self._transport.write(first.buffers)
        if self._held and self._pending < PENDING_REQUESTS_MAX // 2 and self._pending_bytes <= PENDING_BYTES_MAX // 2:
            self._held = False
            self._transport.release()

    def _let_go(self, call: AnyCall) -> None:
        self._pending -= 1
        self._pending_bytes -= call.size

    # -- what the node calls: the ClientSession port -----------------------------------------------------------------

    def reply(self, correlation: int, response: Message, payload: Sequence[Buffer] = ()) -> None:
        then = self._asked.pop(correlation, None)
        if then is not None and not self.closed:
            then(response, payload)

    def push(self, message: Message, payload: Sequence[Buffer]) -> None:
        """Nothing here subscribes or watches."""

    def buffered(self) -> int:
        return self._transport.buffered()

    def fail(self, error: CorgiError) -> None:
        if not self.closed:
            self.closed = True
            self._transport.close(error)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self, request: memoryview) -> AnyCall:
        if len(request) < _SHORT_HEADER.size:
            raise CorgiError("malformed-frame", f"a request of {len(request)} bytes is none of Kafka's protocol")
        key, version, correlation = _SHORT_HEADER.unpack_from(request)
        api = self.front.apis.get(key)
        if self.login is not None and key not in ALLOWED:
            name = f"API {key}" if api is None else api.name
            raise CorgiError("authentication-failed", f"{name} was asked for before it was known by whom")
        if api is None:
            raise CorgiError("unsupported-version", f"Kafka API {key} is not served here")
        lowest, highest = api.versions
        if not lowest <= version <= highest:
            if key != API_VERSIONS:
                text = f"{api.name} is served in versions {lowest} to {highest} here, not {version}"
                raise CorgiError("unsupported-version", text)
            return Call(self, api, 0, correlation, "", None, len(request))
        reader = Reader(request, _SHORT_HEADER.size)
        client_id = self._client_id(reader)
        if version >= api.flexible:
            reader.skip_tags()
        body = api.read(reader, version)
        return Call(self, api, version, correlation, client_id, body, len(request))

    @staticmethod
    def _client_id(reader: Reader) -> str:
        length = int.from_bytes(reader.take(2), signed=True)
        if length <= 0:
            return ""
        return str(reader.take(length), "utf-8", "replace")[:CLIENT_ID_MAX]


def told_versions(apis: Mapping[int, AnyApi]) -> list[tuple[int, int, int]]:
    """(key, lowest, highest version) of every API, as clients are told."""
    return [(key, *api.told) for key, api in sorted(apis.items())]
