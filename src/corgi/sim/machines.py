"""Processes of users of the whole SDK: one loop, one shell, one coroutine that is their program; and how they end.

A machine is killed (its computer hangs up), vanishes (the nodes hear nothing), or stands still for a while. Of what is
dead nothing reaches a node or the history any more; its coroutines are unwound at once, for themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from corgi.base.errors import CorgiError
from corgi.client.core.client import Client
from corgi.client.core.links import Address, Answer, Done
from corgi.client.core.options import ClientOptions
from corgi.client.shell import Shell
from corgi.sim.cluster import address_of, node_at
from corgi.sim.loop import SimLoop
from corgi.sim.scene import Scene
from corgi.sim.sdk import (
    BATCH_BYTES,
    DIAL_S,
    PREFETCH_BYTES,
    PUBLISH_TIMEOUT_S,
    REQUEST_BYTES,
    REQUEST_TIMEOUT_S,
    SimLink,
)
from corgi.sim.sessions import SimSession
from corgi.sim.world import WALL_AT_ZERO_MS, World
from corgi.wire.messages import WireMessage

CLIENT_FAILED = "client-failed"
RESTART_S = 0.3

Program = Callable[["Machine"], Awaitable[None]]


class LoopLink(SimLink):
    """A link whose answers come into the loop, and wait there while it stands still."""

    __slots__ = ("machine", "session")

    def __init__(self, shell: SimShell, connect: Callable[[SimLink], SimSession | None]) -> None:
        super().__init__(shell, connect)
        self.machine = shell.machine
        self.session = self._session

    def request(self, message: WireMessage, payload: Any, done: Done) -> None:
        machine = self.machine
        machine.asked(message)

        def told(answer: Answer, body: memoryview) -> None:
            machine.saw(message, answer)
            done(answer, body)

        super().request(message, payload, told)

    def answered(self, session: SimSession, correlation: int, reply: WireMessage, payload: bytes) -> None:
        self.machine.take(partial(SimLink.answered, self, session, correlation, reply, payload))

    def pushed(self, session: SimSession, message: WireMessage, payload: bytes) -> None:
        self.machine.take(partial(SimLink.pushed, self, session, message, payload))

    def disconnected(self, session: SimSession) -> None:
        self.machine.take(partial(SimLink.disconnected, self, session))


class SimShell(Shell):
    """The SDK's shell with simulated links instead of sockets."""

    def __init__(self, machine: Machine, options: ClientOptions, seeds: list[Address]) -> None:
        chance = machine.chance
        super().__init__(
            options,
            seeds,
            chance=chance.random,
            token=lambda: f"{chance.getrandbits(64):016x}",
            wall=lambda: WALL_AT_ZERO_MS / 1000 + machine.world.now,
            process_name=machine.name,
        )
        self.machine = machine
        self.name = machine.name
        self.links: list[LoopLink] = []

    @property
    def world(self) -> World:
        return self.machine.world

    @property
    def client(self) -> Client:
        return self.core

    def now(self) -> float:
        return self.loop.time()

    def soon(self, call: Callable[..., None], *arguments: object) -> None:
        self.loop.call_soon(self._then_wake, call, arguments)

    def _then_wake(self, call: Callable[..., None], arguments: tuple[object, ...]) -> None:
        call(*arguments)
        self.wake()

    def dial(self, address: Address) -> None:
        self.loop.call_later(DIAL_S * (0.5 + self.chance()), self._dialed, address)

    def _dialed(self, address: Address) -> None:
        if not self.machine.alive or self.core.closed:
            self.core.dial_failed(address, CorgiError("unreachable", "the client is closed"))
            return
        link = LoopLink(self, partial(self.machine.scene.front.connect, node_at(address.port)))
        if link.up:
            self.links = [*(other for other in self.links if other.up), link]
        link.tell_dialed(address)

    def fail(self, fault: Exception) -> None:
        self.machine.failed(f"the SDK met a fault of its own: {fault!r}")
        self.core.fail(CorgiError("internal-error", repr(fault)))


class Machine:
    """One life of a process. ``program`` runs with a connected ``shell``; ``ended`` tells that it came to its end."""

    def __init__(self, scene: Scene, name: str, program: Program, ended: Callable[[Machine], None]) -> None:
        self.scene = scene
        self.world = scene.world
        self.name = name
        self.chance = scene.world.stream(f"machine/{name}")
        self.alive = True
        self.asked: Callable[[WireMessage], None] = lambda _: None  # a request leaves
        self.saw: Callable[[WireMessage, Answer], None] = lambda *_: None  # it was answered
        self._program = program
        self._ended = ended
        self.loop = SimLoop(self.world, self.failed)
        options = ClientOptions(
            publish_timeout_s=PUBLISH_TIMEOUT_S,
            request_timeout_s=REQUEST_TIMEOUT_S,
            connect_timeout_s=2.0,
            prefetch_bytes=PREFETCH_BYTES,
            batch_bytes=BATCH_BYTES,
            request_bytes=REQUEST_BYTES,
        )
        seeds = [Address(*address_of(node)) for node in scene.nodes]
        with self.loop.running():
            self.stop = asyncio.Event()
            self.shell = SimShell(self, options, seeds)
            self._task = self.loop.create_task(self._live())
        self._task.add_done_callback(self._over)

    # ---- what befalls it

    def ask_to_stop(self) -> None:
        """As by SIGTERM."""
        self.loop.call_soon(self.stop.set)

    def kill(self, *, silently: bool) -> None:
        """It is gone in this moment. ``silently``: the whole computer is, and its connections look alive."""
        if not self.alive:
            return
        self.alive = False
        for link in self.shell.links:
            if link.session is not None:
                if silently:
                    link.session.vanish()
                else:
                    link.session.close()
        self.loop.call_soon(self.shell.core.close)
        self.loop.call_soon(self._task.cancel)

    def wind_up(self) -> None:
        """The run is over: bring every coroutine to its end."""
        self.kill(silently=True)
        if not self.loop.wind_up(self._task):
            raise AssertionError(f"{self.name} does not come to an end")

    # ---- within

    def take(self, call: Callable[[], None]) -> None:
        """Something came from outside."""
        if self.alive:
            self.loop.call_soon(call)

    def failed(self, text: str) -> None:
        if self.alive:
            self.scene.violate(CLIENT_FAILED, f"{self.name}: {text}")

    async def _live(self) -> None:
        while True:
            try:
                await self.shell.start()
                break
            except CorgiError as error:
                if not self.alive:
                    return
                self.world.note(self.name, f"is not connected: {error}")
                await asyncio.sleep(RESTART_S)
        try:
            await self._program(self)
        finally:
            self.shell.core.close()

    def _over(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.failed(f"its program raised {error!r}")
        if self.alive:
            self.alive = False
            self._ended(self)
