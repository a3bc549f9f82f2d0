"""The event loop in virtual time is one for asyncio, and a function of the world alone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from corgi.sim.loop import SimLoop
from corgi.sim.world import World


class Bench:
    """A loop in a world; ``faults`` is what nobody caught."""

    def __init__(self) -> None:
        self.world = World(1)
        self.faults: list[str] = []
        self.loop = SimLoop(self.world, self.faults.append)

    def begin(self, program: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
        async def run() -> Any:
            return await program()

        with self.loop.running():
            return self.loop.create_task(run())


def test_sleeping_takes_virtual_time_only() -> None:
    bench = Bench()

    async def program() -> float:
        await asyncio.sleep(1_000)
        return bench.loop.time()

    task = bench.begin(program)
    bench.world.run(2_000)
    assert 1_000 <= task.result() < 1_001


def test_timeouts_groups_events_and_cancellation_work_as_everywhere() -> None:
    bench = Bench()
    seen: list[str] = []

    async def program() -> None:
        event = asyncio.Event()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await event.wait()
        seen.append("timed out")

        async def set_later() -> None:
            await asyncio.sleep(0.1)
            event.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(set_later())
            await event.wait()
            seen.append("woken")
        sleeper = asyncio.ensure_future(asyncio.sleep(50))
        await asyncio.sleep(0)
        sleeper.cancel()
        await asyncio.gather(sleeper, return_exceptions=True)
        assert sleeper.cancelled()
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(number)) for number in (3, 1, 2)])
        seen.append(f"{bench.loop.time():.1f}")

    bench.begin(program)
    bench.world.run(10)
    assert seen == ["timed out", "woken", "3.6"]
    assert not bench.faults


def test_a_loop_that_stands_still_runs_nothing_and_then_everything() -> None:
    bench = Bench()
    seen: list[float] = []
    bench.loop.call_at(1.0, lambda: seen.append(bench.loop.time()))
    bench.loop.stand_still(5.0)
    bench.loop.call_soon(lambda: seen.append(bench.loop.time()))
    bench.world.run(4.9)
    assert seen == []
    bench.world.run(6.0)
    assert len(seen) == 2
    assert min(seen) >= 5.0


def test_tasks_that_are_kept_in_sets_come_in_one_order() -> None:
    """asyncio cancels the tasks of a group as its set gives them."""

    def order() -> list[int]:
        bench = Bench()
        cancelled: list[int] = []

        async def wait(number: int) -> None:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                cancelled.append(number)
                raise

        async def program() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(40):
                        group.create_task(wait(number))
                    await asyncio.sleep(1)
                    raise ValueError
            except* ValueError:
                pass  # that one

        bench.begin(program)
        bench.world.run(10)
        return cancelled

    first = order()
    padding = [object() for _ in range(1_000)]  # other objects, other addresses
    assert len(first) == 40
    assert all(order() == first for _ in range(3))
    del padding


def test_what_a_callback_raises_is_told() -> None:
    bench = Bench()
    bench.loop.call_soon(lambda: 1 // 0)
    bench.world.run(1)
    assert "ZeroDivisionError" in bench.faults[0]


def test_winding_up_brings_coroutines_to_their_end_behind_the_end_of_the_world() -> None:
    bench = Bench()
    ended: list[str] = []

    async def program() -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(5)
            ended.append("tidied up")

    task = bench.begin(program)
    bench.world.run(1)
    bench.loop.call_soon(task.cancel)
    assert bench.loop.wind_up(task)
    assert ended == ["tidied up"]
    assert bench.world.now == 1
