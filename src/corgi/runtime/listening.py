"""What every listening port does, whatever is spoken there: its socket, its connections, and a look at each of them."""

from __future__ import annotations

import asyncio
import errno
from abc import ABC, abstractmethod

from corgi.base.errors import CorgiError
from corgi.base.limits import CLIENT_OUTPUT_LOW
from corgi.runtime.connection import FrameConnection
from corgi.runtime.turn import Turn

SWEEP_S = 1.0
STALL_S = 30.0  # a client that has taken nothing for so long although output waits is closed
BACKLOG = 1024  # connections that the kernel takes before they are accepted


class Unread:
    """For how long a client has taken nothing of the output that waits for it."""

    __slots__ = ("_sent", "_since")

    def __init__(self) -> None:
        self._sent = -1
        self._since = 0.0

    def seconds(self, connection: FrameConnection, now: float) -> float:
        """0 while little waits."""
        sent = connection.sent() if connection.waiting() >= CLIENT_OUTPUT_LOW else -1
        if sent < 0 or sent != self._sent:
            self._sent, self._since = sent, now
        return now - self._since


class Listening(ABC):
    """The listening socket and the connections that came through it. ``accepted`` counts them."""

    def __init__(self, turn: Turn) -> None:
        self.where = ("", 0)
        self.accepted = 0
        self.connections: set[FrameConnection] = set()
        self._turn = turn
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    @abstractmethod
    def make_connection(self) -> FrameConnection:
        """A connection that has just been accepted, with its owner."""

    @abstractmethod
    def look_at(self, connection: FrameConnection, now: float) -> None:
        """Once a second: end what does not move any more."""

    async def bind(self, host: str, port: int) -> int:
        """Take the port, connections only after ``listen``; returns it, which the system chose if ``port`` is 0.

        Raises CorgiError "port-in-use", or "invalid-configuration" for an address that is not this machine's.
        """
        try:
            self._server = await self._turn.loop.create_server(
                self._accept, host, port, backlog=BACKLOG, reuse_address=True, start_serving=False
            )
        except (OSError, OverflowError) as error:
            raise _no_port(host, port, error) from error
        self.where = (host, port)
        address: tuple[str, int] = self._server.sockets[0].getsockname()
        return address[1]

    async def listen(self) -> None:
        """Take connections from now on. Raises CorgiError "port-in-use"."""
        assert self._server is not None
        try:
            await self._server.start_serving()
        except OSError as error:
            raise _no_port(*self.where, error) from error
        self._sweep = self._turn.loop.call_later(SWEEP_S, self._look)

    def stop_listening(self) -> None:
        """Take no further connections; those that are open live on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def abort(self) -> None:
        """End all connections without a word."""
        self.stop_listening()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self.connections):
            connection.abort()

    def output_bytes(self) -> int:
        """What waits for clients to read it."""
        return sum(connection.waiting() for connection in self.connections)

    def forget(self, connection: FrameConnection) -> None:
        """It has ended, or is somebody else's from now on."""
        self.connections.discard(connection)

    def _accept(self) -> FrameConnection:
        connection = self.make_connection()
        self.connections.add(connection)
        self.accepted += 1
        return connection

    def _look(self) -> None:
        now = self._turn.loop.time()
        for connection in list(self.connections):
            self.look_at(connection, now)
        self._sweep = self._turn.loop.call_later(SWEEP_S, self._look)


def _no_port(host: str, port: int, error: Exception) -> CorgiError:
    taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    if taken or "address already in use" in str(error):
        return CorgiError("port-in-use", f"port {port} on {host} is taken by another process")
    return CorgiError("invalid-configuration", f"cannot listen on {host}:{port}: {error}")
