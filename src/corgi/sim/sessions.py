"""Connections between simulated clients and nodes: requests and answers as objects, in order, until they break."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Protocol

import msgspec

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.sim.process import Process
from corgi.sim.world import World
from corgi.wire.messages import WireMessage

if TYPE_CHECKING:
    from corgi.sim.cluster import Cluster

CLIENT_DELAY_MIN = 0.000_1
CLIENT_DELAY_MEAN = 0.000_2
DRAINED_BELOW = 256 * 1024  # when a full buffer has fallen to this, the node is told


class Listener(Protocol):
    """What a client does with what comes to it."""

    name: str

    def answered(self, session: SimSession, correlation: int, reply: WireMessage, payload: bytes) -> None: ...

    def pushed(self, session: SimSession, message: WireMessage, payload: bytes) -> None: ...

    def disconnected(self, session: SimSession) -> None: ...


class SimSession:
    """One connection; ``ClientSession`` to the node, ``request`` and ``close`` to the client."""

    __slots__ = (
        "_arrival", "_buffered", "_cluster", "_correlation", "_full", "_open", "_process", "_requests", "_sent",
        "_world", "chance", "closed", "listener", "node",
    )  # fmt: skip

    def __init__(self, cluster: Cluster, chance: Random, process: Process, listener: Listener) -> None:
        self.closed = False
        self.node: NodeId = process.id
        self.listener = listener
        self.chance = chance
        self._cluster = cluster
        self._world: World = cluster.world
        self._process = process
        self._open = True
        self._correlation = 0
        self._requests: dict[int, WireMessage] = {}
        self._sent = 0.0  # arrival of the last request
        self._arrival = 0.0  # arrival of the last answer
        self._buffered = 0
        self._full = False

    # ---- the client's side

    @property
    def open(self) -> bool:
        """The client believes that it is connected."""
        return self._open

    def request(self, message: WireMessage, payload: Buffer = b"") -> int:
        """Send a request; its correlation number."""
        self._correlation += 1
        number = self._correlation
        self._requests[number] = message
        self._sent = max(self._world.now + self._delay(), self._sent)
        self._world.at(self._sent, self._deliver, number, message, payload)
        return number

    def close(self) -> None:
        """The client hangs up; the node hears of it a little later."""
        if self._open:
            self._open = False
            self._world.after(self._delay(), self._hung_up)

    def vanish(self) -> None:
        """The client's computer is gone: nobody tells the node."""
        self._open = False

    def broken(self, delay: float) -> None:
        """The node's side is gone: the client hears of it after ``delay``, behind what is on its way."""
        self.closed = True
        self._world.at(max(self._world.now + delay, self._arrival), self._lost)

    def cut(self) -> None:
        """The connection breaks for both."""
        if not self.closed:
            self._process.fact("client_closed", self)
            self.broken(self._delay())

    # ---- the node's side

    def reply(self, correlation: int, response: msgspec.Struct, payload: Sequence[Buffer] = ()) -> None:
        request = self._requests.pop(correlation)
        assert isinstance(response, WireMessage)
        self._cluster.ledger.answered(self._process, request, response)
        self._carry(correlation, response, b"".join(payload))

    def push(self, message: msgspec.Struct, payload: Sequence[Buffer]) -> None:
        assert isinstance(message, WireMessage)
        self._carry(0, message, b"".join(payload))

    def buffered(self) -> int:
        return self._buffered

    def fail(self, error: CorgiError) -> None:
        self._world.note("client", f"node {self.node} ends a connection: {error.code} {error.message}")
        self.closed = True
        self.broken(self._delay())

    # ---- how it is done

    def _delay(self) -> float:
        return CLIENT_DELAY_MIN + self.chance.expovariate(1.0) * CLIENT_DELAY_MEAN

    def _deliver(self, number: int, message: WireMessage, payload: Buffer) -> None:
        if not self.closed and self._process.alive:
            self._process.fact("client_request", self, number, message, memoryview(payload))

    def _carry(self, correlation: int, message: WireMessage, payload: bytes) -> None:
        if self.closed:
            return
        self._buffered += len(payload)
        self._full = self._full or self._buffered > DRAINED_BELOW
        self._arrival = max(self._world.now + self._delay(), self._arrival)
        self._world.at(self._arrival, self._arrive, correlation, message, payload)

    def _arrive(self, correlation: int, message: WireMessage, payload: bytes) -> None:
        self._buffered -= len(payload)
        if self._full and self._buffered < DRAINED_BELOW:
            self._full = False
            self._process.fact("client_drained", self)
        if not self._open:
            return
        if correlation:
            self.listener.answered(self, correlation, message, payload)
        else:
            self.listener.pushed(self, message, payload)

    def _hung_up(self) -> None:
        if not self.closed:
            self.closed = True
            self._process.fact("client_closed", self)

    def _lost(self) -> None:
        if self._open:
            self._open = False
            self.listener.disconnected(self)


class Front:
    """Where clients connect. Knows every open connection, so that a death breaks them all."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.chance = cluster.world.stream("clients/links")
        self.unreachable: set[NodeId] = set()
        self.sessions: list[SimSession] = []
        cluster.on_exit.append(self._exited)

    def connect(self, node: NodeId, listener: Listener) -> SimSession | None:
        """A connection to a node that listens; None when nobody does."""
        process = self.cluster.process_of(node)
        if process is None or node in self.unreachable:
            return None
        session = SimSession(self.cluster, self.chance, process, listener)
        self.sessions = [other for other in self.sessions if other.open]
        self.sessions.append(session)
        return session

    def cut(self, node: NodeId) -> None:
        """Break all connections to a node."""
        for session in self.sessions:
            if session.node == node:
                session.cut()

    def _exited(self, process: Process) -> None:
        delay = self.chance.random() * self.cluster.network.options.close_delay_max
        for session in self.sessions:
            if session._process is process and session.open:
                session.broken(delay)
