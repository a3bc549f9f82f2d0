"""The node's port: takes connections of clients and of other nodes, and gives clients their sessions.

The first frame tells who calls. A client that does not read what it is sent stops being read, then is cut off; one that
asks faster than it can be answered is not read meanwhile. So each costs bounded memory, and none delays another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.base.limits import (
    CLIENT_OUTPUT_HIGH,
    CLIENT_OUTPUT_MAX,
    CLIENT_PENDING_BYTES,
    CLIENT_PENDING_REQUESTS,
)
from corgi.base.ports import ClientSession, Message
from corgi.paxos.messages import PeerHello
from corgi.runtime.connection import FrameConnection, Hold
from corgi.runtime.listening import STALL_S, Listening, Unread
from corgi.runtime.turn import Turn
from corgi.wire.frame import Frame
from corgi.wire.messages import WireMessage
from corgi.wire.receiver import Scratch
from corgi.wire.session import ServerSession, encode_error

HELLO_S = 10.0  # a connection that has not introduced itself by then is closed
CLOSING_S = 0.2  # at a stop, the time that clients have to read the last words

logger = logging.getLogger("corgi.net")


class Facts(Protocol):
    """Whom the listener tells about clients: the driver, which hands it to the node. Nothing raises."""

    def client_request(
        self, session: ClientSession, correlation: int, message: WireMessage, payload: memoryview
    ) -> None: ...

    def client_closed(self, session: ClientSession) -> None: ...

    def client_drained(self, session: ClientSession) -> None: ...


class PeerAcceptor(Protocol):
    """Who takes over connections that turn out to come from a node."""

    def accept(self, connection: FrameConnection, frame: Frame) -> None: ...


@dataclass(frozen=True, slots=True)
class ListenerStatistics:
    """Counts since the start, and what is open now. ``output_bytes`` waits for clients to read it."""

    connections: int
    clients: int
    strangers: int
    output_bytes: int
    accepted: int
    refused: int
    cut_off: int


class ClientPort:
    """One client: the ``ClientSession`` port of the broker, and the owner of its connection."""

    __slots__ = (
        "_connection",
        "_facts",
        "_known",
        "_listener",
        "_pending",
        "_pending_bytes",
        "_unread",
        "closed",
        "session",
    )

    def __init__(self, connection: FrameConnection, listener: Listener) -> None:
        self._connection = connection
        self._listener = listener
        self._facts = listener.facts
        self._pending: dict[int, int] = {}  # payload bytes of requests by correlation
        self._pending_bytes = 0
        self.session = ServerSession(listener.cluster, listener.node, listener.software, connection.outbox)
        self._known = False  # the broker has had a request of it
        self.closed = False
        self._unread = Unread()

    # what the broker calls

    def reply(self, correlation: int, response: Message, payload: Sequence[Buffer] = ()) -> None:
        if not correlation:
            return  # asked without wanting an answer
        size = self._pending.pop(correlation, -1)
        if size >= 0:
            self._pending_bytes -= size
            if self._pending_bytes <= CLIENT_PENDING_BYTES // 2:
                self._connection.release(Hold.PENDING)
        if not self.closed:
            self.session.reply(correlation, response, payload)
            self._connection.written()

    def push(self, message: Message, payload: Sequence[Buffer]) -> None:
        if not self.closed:
            self.session.reply(0, message, payload)
            self._connection.written()

    def buffered(self) -> int:
        return self._connection.buffered()

    def pause(self) -> None:
        """Take no more requests until ``resume``; for requests that nobody answers, and so nobody counts."""
        self._connection.hold(Hold.ASKED)

    def resume(self) -> None:
        self._connection.release(Hold.ASKED)

    def fail(self, error: CorgiError) -> None:
        if self.closed:
            return
        logger.warning("client %s: %s", self._connection.remote, error.message)
        self._end(error)

    # what its connection calls

    def frame_received(self, frame: Frame) -> None:
        session = self.session
        try:
            request = session.request(frame)
        except CorgiError as error:
            self.protocol_failed(error)
            return
        if request is None:
            self._connection.written()
            return
        correlation, message, payload = request
        if self._connection.buffered() >= CLIENT_OUTPUT_HIGH:
            self._connection.hold(Hold.OUTPUT)
        if correlation in self._pending:
            self.protocol_failed(CorgiError("malformed-frame", f"correlation {correlation} is still unanswered"))
            return
        if correlation:
            self._pending[correlation] = size = len(payload)
            self._pending_bytes += size
            if self._pending_bytes > CLIENT_PENDING_BYTES or len(self._pending) >= CLIENT_PENDING_REQUESTS:
                self._connection.hold(Hold.PENDING)
        self._known = True
        self._facts.client_request(self, correlation, message, payload)

    def protocol_failed(self, error: CorgiError) -> None:
        self._listener.count_refusal(self._connection, error)
        self._end(error)

    def output_drained(self) -> None:
        self._connection.release(Hold.OUTPUT)
        if self._known and not self.closed:
            self._facts.client_drained(self)

    def output_overflowed(self) -> None:
        self._cut_off(f"leaves more than {CLIENT_OUTPUT_MAX} bytes unread")

    def connection_lost(self) -> None:
        self._listener.forget(self._connection)
        self._gone()

    # what the listener calls

    def watch(self, now: float) -> None:
        """Once a second: cut off a client that has read nothing for STALL_S."""
        if self._unread.seconds(self._connection, now) > STALL_S:
            self._cut_off(f"has read nothing for {STALL_S:.0f} s")

    def _cut_off(self, why: str) -> None:
        """End the connection without a word: it is not read anyway."""
        self._listener.cut_off += 1
        logger.warning("client %s %s: closed", self._connection.remote, why)
        self._connection.abort()

    def _end(self, error: CorgiError) -> None:
        self.session.fail(error)
        self._connection.close()
        self._gone()

    def _gone(self) -> None:
        if not self.closed:
            self.closed = True
            if self._known:
                self._facts.client_closed(self)


class Stranger:
    """Owner of a connection whose first frame has not come yet."""

    __slots__ = ("_connection", "_listener", "since")

    def __init__(self, connection: FrameConnection, listener: Listener, since: float) -> None:
        self._connection = connection
        self._listener = listener
        self.since = since

    def frame_received(self, frame: Frame) -> None:
        connection = self._connection
        if frame.type == PeerHello.TYPE:
            self._listener.forget(connection)
            self._listener.peers.accept(connection, frame)
            return
        port = ClientPort(connection, self._listener)
        connection.owner = port
        port.frame_received(frame)

    def protocol_failed(self, error: CorgiError) -> None:
        self._listener.count_refusal(self._connection, error)
        self._connection.outbox.put(encode_error(0, error))
        self._connection.close()

    def output_drained(self) -> None: ...

    def output_overflowed(self) -> None: ...

    def connection_lost(self) -> None:
        self._listener.forget(self._connection)


class Listener(Listening):
    """The node's own port; connections that turn out to be another node's are given away."""

    def __init__(
        self,
        facts: Facts,
        peers: PeerAcceptor,
        turn: Turn,
        scratch: Scratch,
        *,
        cluster: bytes,
        node: NodeId,
        software: str = "corgi",
    ) -> None:
        super().__init__(turn)
        self.facts = facts
        self.peers = peers
        self.cluster = cluster
        self.node = node
        self.software = software
        self.cut_off = 0
        self._scratch = scratch
        self._refused = 0
        self._closing: asyncio.Future[None] | None = None

    async def close(self) -> None:
        """Tell every client that the node closes, and end all connections within CLOSING_S."""
        self.stop_listening()
        if self._sweep is not None:
            self._sweep.cancel()
        error = CorgiError("closed", "the node stops")
        for connection in list(self.connections):
            connection.owner.protocol_failed(error)
        if self.connections:
            self._turn.loop.call_later(CLOSING_S, self.abort)
            self._closing = self._turn.loop.create_future()
            await self._closing

    def statistics(self) -> ListenerStatistics:
        clients = sum(isinstance(connection.owner, ClientPort) for connection in self.connections)
        return ListenerStatistics(
            connections=len(self.connections),
            clients=clients,
            strangers=len(self.connections) - clients,
            output_bytes=self.output_bytes(),
            accepted=self.accepted,
            refused=self._refused,
            cut_off=self.cut_off,
        )

    # what connections and their owners call

    def forget(self, connection: FrameConnection) -> None:
        super().forget(connection)
        if not self.connections and self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

    def count_refusal(self, connection: FrameConnection, error: CorgiError) -> None:
        """Bytes that are not ours came, or a Hello that cannot be: one line in the log each."""
        if error.code != "closed":
            self._refused += 1
            logger.warning("connection from %s refused: %s [%s]", connection.remote, error.message, error.code)

    def make_connection(self) -> FrameConnection:
        connection = FrameConnection(self._turn, self._scratch, CLIENT_OUTPUT_MAX)
        connection.owner = Stranger(connection, self, self._turn.loop.time())
        return connection

    def look_at(self, connection: FrameConnection, now: float) -> None:
        owner = connection.owner
        if isinstance(owner, ClientPort):
            owner.watch(now)
        elif isinstance(owner, Stranger) and now - owner.since > HELLO_S:
            connection.abort()
