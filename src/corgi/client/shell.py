"""Runs the client's core in an event loop: dials, arms one timer, ends each turn with a flush and a write per link."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Sequence

from corgi.base.errors import CorgiError
from corgi.client.connection import Connection
from corgi.client.core.client import Client
from corgi.client.core.links import Address
from corgi.client.core.options import ClientOptions
from corgi.client.faults import error_of, guarded
from corgi.wire.receiver import Scratch

logger = logging.getLogger("corgi.client")
SEEDS_S = 0.250  # seeds slower than the first are waited for so long, to see that all are of one cluster
LATE_S = 0.020  # a timer that fires so late tells of a loop that was held up


class LoopClock:
    """The event loop's own clock."""

    __slots__ = ("now",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = loop.time


class Shell:
    """One client in one event loop. Not for use from other threads."""

    def __init__(
        self,
        options: ClientOptions,
        seeds: Sequence[Address],
        *,
        chance: Callable[[], float] = random.random,
        token: Callable[[], str] = lambda: secrets.token_hex(8),
        wall: Callable[[], float] = time.time,
        process_name: str = "",
    ) -> None:
        """``token``: a name that nobody else has; ``wall``: seconds since 1970, for records; ``process_name``: under
        which people find this process, by default computer and process id."""
        self.loop = asyncio.get_running_loop()
        self.options = options
        self.chance = chance
        self.token = token
        self.wall = wall
        self.process_name = process_name or f"{socket.gethostname()}-{os.getpid()}"
        self.dirty: dict[Connection, None] = {}  # links with something to write
        self._connections: dict[Connection, None] = {}
        self._dials: set[asyncio.Task[None]] = set()
        self._scratch = Scratch()
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0.0  # the timer's; uvloop's handle of a time that has passed cannot tell it
        self._turn_due = False
        self._ending: list[Callable[[], None]] = []
        self._closed = asyncio.Event()
        self._started = False
        self.core = Client(
            options,
            seeds,
            clock=LoopClock(self.loop),
            chance=chance,
            dialer=self,
            wake=self.wake,
        )

    async def start(self) -> None:
        """Connect: returns when the cluster is known.

        Raises CorgiError "unreachable" and what nodes said; "wrong-cluster" if the seeds are of different clusters.
        """
        self.core.start()
        self.wake()
        try:
            async with asyncio.timeout(self.options.connect_timeout_s):
                await self.until(self.core.when_ready)
        except TimeoutError:
            raise self.core.unreachable() from None
        if not self.core.ready:
            raise self.core.unreachable()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SEEDS_S):
                await self.until(self.core.when_seeds_told)
        if self.core.disagreement is not None:
            raise self.core.disagreement
        self._started = True

    def greeted(self) -> None:
        """A node has greeted: if it shows only now that the seeds are of different clusters, say so."""
        if self._started and self.core.disagreement is not None:
            self._started = False  # said once
            logger.warning("%s; %s stays in use", self.core.disagreement, self.core.routing.cluster)

    async def close(self) -> None:
        """Give every open matter an end, close all links; what is on its way to a socket is not waited for."""
        self.core.close()
        self._finish_turn()
        for connection in list(self._connections):
            connection.close()
        for task in list(self._dials):
            task.cancel()
        if self._dials:
            await asyncio.wait(list(self._dials))
        while self._connections:
            self._closed.clear()
            await self._closed.wait()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def until(self, register: Callable[[Callable[[], None]], object]) -> None:
        """Wait until the callback that is handed to ``register`` is called."""
        future: asyncio.Future[None] = self.loop.create_future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        register(done)
        await future

    def wake(self) -> None:
        """A flush is wanted at the end of this turn."""
        if not self._turn_due:
            self._turn_due = True
            self.loop.call_soon(self._finish_turn)

    def before_end(self, call: Callable[[], None]) -> None:
        """Call this when the turn ends, before what it has asked for is sent."""
        self._ending.append(call)
        self.wake()

    # The core's dialer

    def dial(self, address: Address) -> None:
        task = self.loop.create_task(self._dial(address))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self, address: Address) -> None:
        connection = Connection(self, address, self._scratch)
        try:
            async with asyncio.timeout(self.options.connect_timeout_s):
                await self.loop.create_connection(lambda: connection, address.host, address.port)
        except TimeoutError:
            self._dial_failed(address, CorgiError("unreachable", "no connection within the time for connecting"))
        except OSError as error:
            self._dial_failed(address, CorgiError("unreachable", error.strerror or str(error)))
        except UnicodeError as error:
            self._dial_failed(address, CorgiError("unreachable", f"this is no name of a host: {error}"))

    @guarded
    def _dial_failed(self, address: Address, error: CorgiError) -> None:
        self.core.dial_failed(address, error)
        self.wake()

    def opened(self, connection: Connection) -> None:
        """A connection is there, though not greeted yet."""
        self._connections[connection] = None
        if self.core.closed:
            connection.close()

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.pop(connection, None)
        self.dirty.pop(connection, None)
        self._closed.set()

    def fail(self, fault: Exception) -> None:
        """The client met a fault of its own: nobody waits any longer for what will not come."""
        logger.critical("the client is broken by a fault of its own; please report this", exc_info=fault)
        self.core.fail(error_of(fault))
        for task in self._dials:
            task.cancel()

    # Turns

    @guarded
    def _finish_turn(self) -> None:
        ending, self._ending = self._ending, []
        try:
            for call in ending:
                call()
        finally:
            self._turn_due = False
        if self._ending:
            self.wake()
        self.core.flush()
        dirty, self.dirty = self.dirty, {}
        for connection in dirty:
            connection.write()
        self._arm()

    def _arm(self) -> None:
        """One timer for the earliest deadline; one that fires too early does no harm."""
        deadline = None if self.core.closed else self.core.next_deadline()
        if deadline is None:
            return
        if self._timer is not None:
            if self._due_at <= deadline:
                return
            self._timer.cancel()
        self._due_at = deadline
        self._timer = self.loop.call_at(deadline, self._due)

    @guarded
    def _due(self) -> None:
        lateness = 0.0 if self._timer is None else self.loop.time() - self._due_at
        self._timer = None
        if lateness > LATE_S:
            # The loop was busy elsewhere: what arrived meanwhile is read first, before silence is held against anybody.
            self.loop.call_soon(self.loop.call_soon, self._advance)
        else:
            self._advance()

    @guarded
    def _advance(self) -> None:
        self.core.advance()
        self.wake()
