"""What consumers that come and go cost the others: members of one group, in one or two processes, on many partitions.

Messages come to every partition by a timetable. Half of the members are there; the other half joins, some at a time,
and leaves again. After each step the group has come to rest, and is compared with before: the units that have another
owner moved, all others did not. Of a moved unit the pause is the longest time that one of its messages waited in that
step, from when it was due until its member had it. An unmoved unit must not notice: no delivery session of it is
begun anew, and its owner epoch stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from corgi.base.errors import CorgiError
from corgi.bench.pace import schedule
from corgi.bench.target import Target, check_count, fresh_topic
from corgi.bench.values import SIZE_MIN, Stamps
from corgi.client.corgi import Corgi, connect

MEMBERS = "corgi.bench.group_members"
LINE_BYTES = 1 << 26  # of what a process tells at once
PATIENCE_S = 60.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class RebalanceOptions:
    """``rate``: messages per second to each partition. ``step``: members that come or go at once."""

    members: int = 50
    processes: int = 2
    partitions: int = 100
    rate: float = 10.0
    step: int = 5
    size: int = 100

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        check_count("members", self.members, 2, 1_000)
        check_count("processes", self.processes, 1, 16)
        check_count("partitions", self.partitions, 1, 5_000)
        check_count("rate", self.rate, 1, 1_000)
        check_count("step", self.step, 1, self.members)
        check_count("size", self.size, SIZE_MIN, 1 << 20)


class _Ownership(NamedTuple):
    """By partition the member and the owner epoch; how many delivery sessions were ever begun."""

    units: dict[int, tuple[str, int]]
    sessions: int


@dataclass(slots=True)
class _Findings:
    moved: int = 0
    epochs_of_unmoved: int = 0
    sessions_of_unmoved: int = 0
    pauses_ms: list[float] = field(default_factory=list)
    unmoved_ms: list[float] = field(default_factory=list)


async def rebalance(target: Target, options: RebalanceOptions) -> dict[str, Any]:
    """{"steps", "moved_units", "pause_ms": {"p50", "max"} of moved units, "unmoved_wait_ms": the same of all others,
    "sessions_of_unmoved" begun anew, "epochs_of_unmoved" that changed, "turn_max_ms" of a coordinator, ever,
    "leadership_changes", "lost", "duplicated", "reordered"}. Sessions begin anew when leadership changes, too."""
    options.check()
    async with connect(target.native) as mq:
        topic = fresh_topic()
        await mq.topics.create(topic, partitions=options.partitions)
        try:
            async with contextlib.AsyncExitStack() as stack:
                processes = [
                    await stack.enter_async_context(_process(target.native, topic)) for _ in range(options.processes)
                ]
                return await _Run(mq, topic, processes, options).measure()
        finally:
            await mq.topics.delete(topic)


class _Run:
    def __init__(
        self, mq: Corgi, topic: str, processes: list[asyncio.subprocess.Process], options: RebalanceOptions
    ) -> None:
        self._mq = mq
        self._topic = topic
        self._processes = processes
        self._options = options
        self._published = 0
        self._stop = False
        self._found = _Findings()
        self._took: list[list[Any]] = []
        self._gained = 0  # units, by all members, ever
        self._changes = 0

    async def measure(self) -> dict[str, Any]:
        options = self._options
        names = [f"member-{number}" for number in range(options.members)]
        self._changes = await self._leaderships()
        staying, passing = names[: (options.members + 1) // 2], names[(options.members + 1) // 2 :]
        groups = [passing[at : at + options.step] for at in range(0, len(passing), options.step)]
        await self._all("join", staying)
        before = await self._rest(len(staying))
        publishing = asyncio.create_task(self._publish())
        await asyncio.sleep(1 / options.rate)
        await self._tell()  # what came until here belongs to no step
        count = len(staying)
        for what, some in [("join", some) for some in groups] + [("leave", some) for some in reversed(groups)]:
            count += len(some) if what == "join" else -len(some)
            await self._all(what, some)
            after = await self._rest(count)
            await asyncio.sleep(2 / options.rate)  # each partition has had a message behind the step
            gained = self._gained
            self._judge(before, after, await self._tell(), self._gained - gained)
            before = await self._rest(count)
        self._stop = True
        await publishing
        await self._drain()
        return await self._result(2 * len(groups))

    async def _publish(self) -> None:
        """To each partition in turn, until it is to stop."""
        options, stamps, pending = self._options, Stamps(self._options.size), []
        async for number, due_s in schedule(options.rate * options.partitions, sys.maxsize):
            if self._stop and number % options.partitions == 0:
                break
            value = stamps.value(number, due_s)
            pending.append(self._mq.publish_nowait(self._topic, value, partition=number % options.partitions))
            self._published += 1
        for receipt in pending:
            await receipt

    async def _rest(self, members: int) -> _Ownership:
        """Wait until the group has so many members, every unit an owner, and nothing is on its way."""
        async with _patience("the group did not come to rest"):
            while True:
                with contextlib.suppress(CorgiError):  # there may be no such group yet
                    told = await self._mq.groups.describe(self._topic)
                    owned = {unit.partition: (unit.member, unit.owner_epoch) for unit in told.units if unit.member}
                    settled = told.state == "stable" and len(told.members) == members
                    attached = len(told.deliveries) == len(owned) == self._options.partitions
                    if settled and attached:
                        return _Ownership(owned, await self._sessions())
                await asyncio.sleep(POLL_S)

    async def _sessions(self) -> int:
        return round(sum([reply.counters.get("delivery_sessions_begun", 0.0) for reply in await self._mq.status()]))

    async def _leaderships(self) -> int:
        """The most that a node has seen of each group, in all."""
        seen: dict[int, int] = {}
        for reply in await self._mq.status():
            for group in reply.groups:
                seen[group.group] = max(seen.get(group.group, 0), group.leadership_changes)
        return sum(seen.values())

    def _judge(self, before: _Ownership, after: _Ownership, took: list[list[Any]], gained: int) -> None:
        """A unit may move twice in a step, as members come one after the other: ``gained`` counts moves."""
        found = self._found
        moved = {unit for unit, (member, _) in after.units.items() if before.units[unit][0] != member}
        same = set(after.units) - moved
        found.moved += gained
        found.epochs_of_unmoved += sum(before.units[unit][1] != after.units[unit][1] for unit in same)
        found.sessions_of_unmoved += max(0, after.sessions - before.sessions - gained)
        longest: dict[int, float] = {}
        for partition, _, _, wait_ms, _, _ in took:
            longest[partition] = max(longest.get(partition, 0.0), wait_ms)
        found.pauses_ms += [longest.get(unit, 0.0) for unit in moved]
        found.unmoved_ms += [longest.get(unit, 0.0) for unit in same]

    async def _drain(self) -> None:
        """Until as many were taken as were published."""
        async with _patience("not every message was taken"):
            while sum(last - first + 1 for _, first, last, *_ in self._took) < self._published:
                await self._tell()
                await asyncio.sleep(POLL_S)

    async def _result(self, steps: int) -> dict[str, Any]:
        found = self._found
        seen: dict[int, set[int]] = {}
        ends: dict[int, int] = {}
        taken = reordered = 0
        for partition, first, last, *_ in sorted(self._took, key=lambda one: one[-1]):
            taken += last - first + 1
            seen.setdefault(partition, set()).update(range(first, last + 1))
            reordered += first < ends.get(partition, 0)
            ends[partition] = max(last + 1, ends.get(partition, 0))
        distinct = sum(map(len, seen.values()))
        turns_s = [reply.counters.get("group_turn_max_s", 0.0) for reply in await self._mq.status()]
        return {
            "steps": steps,
            "moved_units": found.moved,
            "pause_ms": _spread(found.pauses_ms),
            "unmoved_wait_ms": _spread(found.unmoved_ms),
            "sessions_of_unmoved": found.sessions_of_unmoved,
            "epochs_of_unmoved": found.epochs_of_unmoved,
            "turn_max_ms": round(max(turns_s) * 1000, 3),
            "leadership_changes": await self._leaderships() - self._changes,
            "lost": self._published - distinct,
            "duplicated": taken - distinct,
            "reordered": reordered,
        }

    async def _tell(self) -> list[list[Any]]:
        told = [await _ask(process, {"tell": None}) for process in self._processes]
        took = [one for process in told for one in process["took"]]
        self._took += took
        self._gained = sum([process["gained"] for process in told])
        return took

    async def _all(self, what: str, names: Iterable[str]) -> None:
        """Each in its process; those of one process one after the other."""
        by_process: dict[int, list[str]] = {}
        for name in names:
            by_process.setdefault(int(name.rpartition("-")[2]) % len(self._processes), []).append(name)

        async def one(number: int, some: list[str]) -> None:
            for name in some:
                await _ask(self._processes[number], {what: name})

        await asyncio.gather(*[one(number, some) for number, some in by_process.items()])


def _spread(figures: list[float]) -> dict[str, float]:
    return {"p50": round(statistics.median(figures), 1), "max": round(max(figures), 1)} if figures else {}


@contextlib.asynccontextmanager
async def _patience(told: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except TimeoutError:
        raise CorgiError("timeout", f"{told} within {PATIENCE_S:.0f} s") from None


@contextlib.asynccontextmanager
async def _process(servers: str, topic: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MEMBERS, servers, topic, topic, stdin=pipe, stdout=pipe, limit=LINE_BYTES
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _ask(process: asyncio.subprocess.Process, command: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(command).encode() + b"\n")
    async with _patience("the members did not answer"):
        line = await process.stdout.readline()
    if not line:
        raise CorgiError("closed", "the process of the members ended")
    answer: dict[str, Any] = json.loads(line)
    return answer
