"""An event loop of asyncio in virtual time, so that the whole SDK runs in the simulator and not only its core.

One loop is one process of a user. Its turns are events of the world: what is ready runs in one of them, and what that
makes ready runs in the next, a moment later. It can stand still for a while, as a process that was stopped does, and
is wound up beyond the world's end, so that no coroutine is left hanging in the middle.

It knows no socket and no thread: links are the shell's. Tasks have hashes that count, because asyncio keeps them in
sets. Invariant: what runs, and in which order, is a function of the world alone.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from corgi.sim.world import World

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
TURN_S = 0.000_02
NOT_ARMED = float("inf")
WIND_UP_TURNS = 20_000


class SimTask(asyncio.Task[T]):
    """A task whose hash is its number."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class SimLoop(asyncio.BaseEventLoop):
    """``fault`` is told what nobody caught. Times in seconds of the world."""

    def __init__(self, world: World, fault: Callable[[str], None]) -> None:
        super().__init__()
        self._world = world
        self._fault = fault
        self._runnable: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._turn_due = False
        self._armed_at = NOT_ARMED
        self._still_until = 0.0
        self._number = 0
        self._over = False
        self._beyond_s = 0.0  # how far this loop has gone beyond the world's end

    # ---- the simulator's side

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, this is the running loop."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)

    def stand_still(self, seconds: float) -> None:
        """Run nothing for a while; what comes meanwhile waits."""
        self._still_until = max(self._still_until, self._world.now + seconds)

    def wind_up(self, task: asyncio.Task[Any]) -> bool:
        """The world is over: run on, from one timer to the next, until the task has ended. False if it does not."""
        self._over = True
        self._still_until = 0.0
        for _ in range(WIND_UP_TURNS):
            if task.done() and not self._runnable:
                return True
            self._drop_cancelled()
            if not self._runnable:
                if not self._timers:
                    return False
                self._beyond_s = max(self._beyond_s, self._timers[0][0] - self._world.now)
            self._run_ready()
        return False

    # ---- AbstractEventLoop, as far as the SDK uses it; what the base class has beyond that belongs to sockets

    def time(self) -> float:
        return self._world.now + self._beyond_s

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._runnable.append(handle)
        self._want_turn()
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, handle))
        self._arm()
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = SimTask(coro, loop=self, name=str(name), context=context)
        self._number += 1
        task.number = self._number
        return task

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Debugging measures real time: there is none here."""

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        """It holds nothing that would have to be closed."""
        return True

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._over:
            error = context.get("exception")
            self._fault(f"{context.get('message')}: {error!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    # ---- turns

    def _want_turn(self) -> None:
        if not self._turn_due and not self._over:
            self._turn_due = True
            self._world.after(TURN_S, self._turn)

    def _turn(self) -> None:
        if self._over:
            return
        if self._world.now < self._still_until:
            self._world.at(self._still_until, self._turn)
            return
        self._turn_due = False
        self._run_ready()
        if self._runnable:
            self._want_turn()

    def _run_ready(self) -> None:
        """What is ready now, and timers that are due; what they make ready is for the next turn."""
        now = self.time()
        while self._timers and self._timers[0][0] <= now:
            self._runnable.append(heapq.heappop(self._timers)[2])
        ready, self._runnable = self._runnable, deque()
        with self.running():
            for handle in ready:
                if not handle.cancelled():
                    handle._run()
        self._arm()

    def _arm(self) -> None:
        self._drop_cancelled()
        if self._timers and self._timers[0][0] < self._armed_at and not self._over:
            self._armed_at = self._timers[0][0]
            self._world.at(self._armed_at, self._due, self._armed_at)

    def _due(self, when: float) -> None:
        if when == self._armed_at:
            self._armed_at = NOT_ARMED
            self._want_turn()

    def _drop_cancelled(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
