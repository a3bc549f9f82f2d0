"""The port for Kafka's clients: connections, and below each a session without I/O.

A client that does not read its answers is read no more, then cut off; one that announces a request and dribbles costs
what it has sent; one that says nothing for IDLE_S is closed with a FIN. No connection has a task or a timer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.limits import CLIENT_OUTPUT_HIGH, CLIENT_OUTPUT_LOW, CLIENT_OUTPUT_MAX
from corgi.kafka.front import REQUEST_BYTES_MAX, Front
from corgi.kafka.receiver import KafkaReceiver
from corgi.kafka.session import KafkaSession
from corgi.runtime.connection import FrameConnection, Hold
from corgi.runtime.net import BACKLOG, no_port
from corgi.runtime.turn import Turn
from corgi.wire.frame import Frame
from corgi.wire.receiver import Scratch

IDLE_S = 600.0  # Kafka's own default for connections that nobody uses
STALL_S = 30.0  # a client that has taken nothing for so long although output waits is closed
SWEEP_S = 1.0
WARNINGS_PER_SWEEP = 10  # strangers that fail are told in the log, not all of a flood of them

logger = logging.getLogger("corgi.kafka")


class Facts(Protocol):
    """Whom a listener tells about its clients: the driver. Nothing raises."""

    def kafka_request(self, session: KafkaSession, request: memoryview) -> None: ...

    def kafka_closed(self, session: KafkaSession) -> None: ...

    def kafka_drained(self, session: KafkaSession) -> None: ...


@dataclass(frozen=True, slots=True)
class KafkaStatistics:
    """Counts since the start, and what is open now."""

    clients: int
    accepted: int
    refused: int
    cut_off: int
    output_bytes: int


class KafkaPort:
    """One connection: the transport of its session, and the owner of its frames."""

    __slots__ = ("_connection", "_facts", "_gone", "_listener", "_moved", "_received", "_since", "session")

    def __init__(self, connection: FrameConnection, listener: KafkaListener, front: Front, now: float) -> None:
        self._connection = connection
        self._listener = listener
        self._facts = listener.facts
        self._gone = False
        self._since = now  # when it last received or took something
        self._received = 0
        self._moved = 0
        self.session = KafkaSession(front, self, listener.name)

    # what the session calls

    @property
    def remote(self) -> str:
        return self._connection.remote

    def write(self, buffers: Sequence[Buffer]) -> None:
        connection = self._connection
        connection.outbox.put(bytes(buffers[0]), buffers[1:])
        connection.written()
        if connection.buffered() >= CLIENT_OUTPUT_HIGH:
            connection.hold(Hold.OUTPUT)

    def buffered(self) -> int:
        return self._connection.buffered()

    def hold(self) -> None:
        self._connection.hold(Hold.PENDING)

    def release(self) -> None:
        self._connection.release(Hold.PENDING)

    def close(self, error: CorgiError) -> None:
        self._listener.count_refusal(self._connection, error)
        self._connection.close()
        self._end()

    # what the connection calls

    def frame_received(self, frame: Frame) -> None:
        self._facts.kafka_request(self.session, frame.payload)

    def protocol_failed(self, error: CorgiError) -> None:
        self.session.fail(error)

    def output_drained(self) -> None:
        self._connection.release(Hold.OUTPUT)
        if not self._gone:
            self._facts.kafka_drained(self.session)

    def output_overflowed(self) -> None:
        self._cut_off(f"leaves more than {CLIENT_OUTPUT_MAX} bytes unread")

    def connection_lost(self) -> None:
        self._listener.forget(self._connection)
        self._end()

    # what the listener calls

    def watch(self, now: float) -> None:
        """Once a second: end what does not move any more."""
        connection = self._connection
        waits = connection.waiting() >= CLIENT_OUTPUT_LOW
        moved = connection.sent() if waits else connection.bytes_received
        if moved != self._moved or waits != bool(self._received):
            self._moved, self._received, self._since = moved, int(waits), now
        elif waits and now - self._since > STALL_S:
            self._cut_off(f"has read nothing for {STALL_S:.0f} s")
        elif not waits and now - self._since > IDLE_S:
            connection.close()
            self._end()

    def _cut_off(self, why: str) -> None:
        self._listener.cut_off += 1
        logger.warning("client %s %s: closed", self._connection.remote, why)
        self._connection.abort()

    def _end(self) -> None:
        if not self._gone:
            self._gone = True
            self.session.lost()
            self._facts.kafka_closed(self.session)


class KafkaListener:
    """One listening socket and its connections. ``name`` tells which addresses its clients are given."""

    def __init__(self, name: str, facts: Facts, turn: Turn, scratch: Scratch, front: Callable[[], Front]) -> None:
        self.name = name
        self.facts = facts
        self.cut_off = 0
        self._turn = turn
        self._scratch = scratch
        self._front = front
        self._accepted = 0
        self._refused = 0
        self._warned = 0
        self._connections: set[FrameConnection] = set()
        self._server: asyncio.Server | None = None
        self.where = ("", 0)
        self._sweep: asyncio.TimerHandle | None = None

    async def bind(self, host: str, port: int) -> int:
        """Take the port, connections only after ``listen``; returns it. Raises CorgiError "port-in-use"."""
        try:
            self._server = await self._turn.loop.create_server(
                self._accept, host, port, backlog=BACKLOG, reuse_address=True, start_serving=False
            )
        except (OSError, OverflowError) as error:
            raise no_port(host, port, error) from error
        self.where = (host, port)
        address: tuple[str, int] = self._server.sockets[0].getsockname()
        return address[1]

    async def listen(self) -> None:
        """Take connections from now on. Raises CorgiError "port-in-use"."""
        assert self._server is not None
        try:
            await self._server.start_serving()
        except OSError as error:
            raise no_port(*self.where, error) from error
        self._sweep = self._turn.loop.call_later(SWEEP_S, self._watch)

    def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def abort(self) -> None:
        """End everything; what clients have not been answered they ask another node."""
        self.stop_listening()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._connections):
            connection.abort()

    def statistics(self) -> KafkaStatistics:
        return KafkaStatistics(
            clients=len(self._connections),
            accepted=self._accepted,
            refused=self._refused,
            cut_off=self.cut_off,
            output_bytes=sum(connection.waiting() for connection in self._connections),
        )

    def forget(self, connection: FrameConnection) -> None:
        self._connections.discard(connection)

    def count_refusal(self, connection: FrameConnection, error: CorgiError) -> None:
        self._refused += 1
        self._warned += 1
        if self._warned <= WARNINGS_PER_SWEEP:
            logger.warning("Kafka client %s: %s [%s]", connection.remote, error.message, error.code)

    def _accept(self) -> FrameConnection:
        receiver = KafkaReceiver(self._scratch, REQUEST_BYTES_MAX)
        connection = FrameConnection(self._turn, self._scratch, CLIENT_OUTPUT_MAX, receiver)
        connection.owner = KafkaPort(connection, self, self._front(), self._turn.loop.time())
        self._connections.add(connection)
        self._accepted += 1
        return connection

    def _watch(self) -> None:
        self._warned = 0
        now = self._turn.loop.time()
        for connection in list(self._connections):
            owner = connection.owner
            if isinstance(owner, KafkaPort):
                owner.watch(now)
        self._sweep = self._turn.loop.call_later(SWEEP_S, self._watch)
