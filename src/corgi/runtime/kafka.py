"""The port for Kafka's clients: connections, and below each a session without I/O.

A client that does not read its answers is read no more, then cut off; one that announces a request and dribbles costs
what it has sent; one that says nothing for IDLE_S is closed with a FIN. No connection has a task or a timer, except
one whose login failed, until it has been told so.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.limits import CLIENT_OUTPUT_HIGH, CLIENT_OUTPUT_MAX
from corgi.kafka import login
from corgi.kafka.credentials import Derivation
from corgi.kafka.front import REQUEST_BYTES_MAX, Front
from corgi.kafka.receiver import HEADER_BYTES_MIN, TOKEN_BYTES_MIN, KafkaReceiver
from corgi.kafka.session import KafkaSession
from corgi.runtime.connection import FrameConnection, Hold
from corgi.runtime.deriving import Deriving
from corgi.runtime.listening import STALL_S, SWEEP_S, Listening, Unread
from corgi.runtime.turn import Turn
from corgi.wire.frame import Frame
from corgi.wire.receiver import Scratch

IDLE_S = 600.0  # Kafka's own default for connections that nobody uses
LOGIN_S = 15.0  # … and of those of whom it is not known who they are
NONCE_BYTES = 24
WARNINGS_PER_SWEEP = 10  # strangers that fail are told in the log, not all of a flood of them

logger = logging.getLogger("corgi.kafka")


class Facts(Protocol):
    """Whom a listener tells about its clients: the driver. Nothing raises."""

    def kafka_request(self, session: KafkaSession, request: memoryview) -> None: ...

    def kafka_closed(self, session: KafkaSession) -> None: ...

    def kafka_drained(self, session: KafkaSession) -> None: ...

    def kafka_later(self, session: KafkaSession, call: Callable[[], None]) -> None: ...


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

    __slots__ = (
        "_begun_at",
        "_connection",
        "_facts",
        "_gone",
        "_heard_at",
        "_listener",
        "_received",
        "_receiver",
        "_unread",
        "session",
    )

    def __init__(
        self,
        connection: FrameConnection,
        receiver: KafkaReceiver,
        listener: KafkaListener,
        front: Front,
        now: float,
    ) -> None:
        self._connection = connection
        self._receiver = receiver
        self._begun_at = now
        self._listener = listener
        self._facts = listener.facts
        self._gone = False
        self._received = 0
        self._heard_at = now  # when it last said something, or had something to wait for
        self._unread = Unread()
        self.session = KafkaSession(front, self, listener.name)
        if self.session.login is not None:
            receiver.bytes_min, receiver.bytes_max = TOKEN_BYTES_MIN, login.REQUEST_BYTES_MAX

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

    def admit(self) -> None:
        self._receiver.bytes_min, self._receiver.bytes_max = HEADER_BYTES_MIN, REQUEST_BYTES_MAX

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        self._listener.after(delay_s, lambda: self._later(call))

    def nonce(self) -> str:
        return secrets.token_urlsafe(NONCE_BYTES)

    def derive(self, work: Derivation, then: Callable[[bytes], None]) -> None:
        try:
            self._listener.deriving.derive(work, lambda result: self._later(lambda: then(result)))
        except CorgiError as error:
            self.session.fail(error)

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
        if connection.bytes_received != self._received or self.session.busy:
            self._received, self._heard_at = connection.bytes_received, now
        if self._unread.seconds(connection, now) > STALL_S:
            self._cut_off(f"has read nothing for {STALL_S:.0f} s")
        elif self.session.login is not None and now - self._begun_at > LOGIN_S:
            late = f"{LOGIN_S:.0f} s after it was opened it is not known who is at the other end"
            self.session.fail(CorgiError("authentication-failed", late))
        elif now - self._heard_at > IDLE_S:
            connection.close()
            self._end()

    def _later(self, call: Callable[[], None]) -> None:
        if not self._gone:
            self._facts.kafka_later(self.session, call)

    def _cut_off(self, why: str) -> None:
        self._listener.cut_off += 1
        logger.warning("client %s %s: closed", self._connection.remote, why)
        self._connection.abort()

    def _end(self) -> None:
        if not self._gone:
            self._gone = True
            self.session.lost()
            self._facts.kafka_closed(self.session)


class KafkaListener(Listening):
    """A port for Kafka's clients. ``name`` tells which addresses they are given."""

    def __init__(
        self,
        name: str,
        facts: Facts,
        turn: Turn,
        scratch: Scratch,
        deriving: Deriving,
        front: Callable[[], Front],
    ) -> None:
        super().__init__(turn)
        self.deriving = deriving
        self.name = name
        self.facts = facts
        self.cut_off = 0
        self._scratch = scratch
        self._front = front
        self._refused = 0
        self._warned = 0
        self._warned_at = 0.0

    def statistics(self) -> KafkaStatistics:
        return KafkaStatistics(
            clients=len(self.connections),
            accepted=self.accepted,
            refused=self._refused,
            cut_off=self.cut_off,
            output_bytes=self.output_bytes(),
        )

    def count_refusal(self, connection: FrameConnection, error: CorgiError) -> None:
        """A client did what ends its connection: told in the log, but not all of a flood."""
        self._refused += 1
        now = self._turn.loop.time()
        if now - self._warned_at > SWEEP_S:
            self._warned, self._warned_at = 0, now
        self._warned += 1
        if self._warned <= WARNINGS_PER_SWEEP:
            logger.warning("Kafka client %s: %s [%s]", connection.remote, error.message, error.code)

    def make_connection(self) -> FrameConnection:
        receiver = KafkaReceiver(self._scratch, REQUEST_BYTES_MAX)
        connection = FrameConnection(self._turn, self._scratch, CLIENT_OUTPUT_MAX, receiver)
        connection.owner = KafkaPort(connection, receiver, self, self._front(), self._turn.loop.time())
        return connection

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Of a connection whose login failed: there is one such call at most."""
        self._turn.loop.call_later(delay_s, call)

    def look_at(self, connection: FrameConnection, now: float) -> None:
        owner = connection.owner
        assert isinstance(owner, KafkaPort)
        owner.watch(now)
