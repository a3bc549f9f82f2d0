"""The client processes of a run: started, now and then killed, brought to their end; and how far groups are by then."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from corgi.base.errors import CorgiError
from corgi.chaos.work import Job
from corgi.chaos.workers import SEMANTICS
from corgi.client.corgi import Corgi
from corgi.client.groups import GroupUnit
from corgi.history.lines import CheckpointLine

TOPIC = "chaos"
WORKERS = 2  # of each group
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients of a run do together."""

    producers: int
    partitions: int
    rate: float
    size: int
    seed: int
    patience_s: float


class ClientProcesses:
    """``servers`` tells where the cluster is reached, from within ``namespace`` if it is not empty."""

    def __init__(self, folder: Path, load: Load, servers: Callable[[], str], namespace: str) -> None:
        self._folder = folder
        self._load = load
        self._servers = servers
        self._namespace = namespace
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._lives = 0
        self.parts: list[Path] = []  # what each process wrote, also those killed
        self.checkpoints: list[CheckpointLine] = []  # of the groups, once ``finish`` is over

    async def start(self) -> None:
        """Raises CorgiError "closed" for a process that ends at once."""
        for number in range(1, self._load.producers + 1):
            name = f"producer-{number}"
            await self._spawn(name, ["producer", self._job(name)])
        roles = (("consumer", "consumer-1"), ("wanderer", "wanderer-1"), ("wanderer", "wanderer-2"))
        readers = [text for role, name in roles for text in (role, self._job(name))]
        admins = ["administrator", self._job("admin-1", "chaos-a"), "administrator", self._job("admin-2", "chaos-b")]
        await self._spawn("readers", [*readers, *admins])
        for group in SEMANTICS:
            for number in range(1, WORKERS + 1):
                await self._start_worker(group, f"{group}-{number}")

    async def kill_worker(self, chance: random.Random) -> str:
        """kill -9 of a group's member; another one joins."""
        name = chance.choice(sorted(name for name in self._running if name.split("-")[0] in SEMANTICS))
        process = self._running.pop(name)
        process.kill()
        await process.wait()
        self._lives += 1
        group = name.split("-")[0]
        successor = f"{group}-{WORKERS + self._lives}"
        await self._start_worker(group, successor)
        return f"{name}, then {successor}"

    async def finish(self, mq: Corgi) -> list[str]:
        """Producers first: then readers and groups know what the end is. What did not come to its end, in words."""
        unfinished = await self._end([name for name in self._running if name.startswith("producer")])
        unfinished += [text for group in SEMANTICS if (text := await self._reach_the_end(mq, group))]
        return unfinished + await self._end(list(self._running))

    async def close(self) -> None:
        for process in self._running.values():
            if process.returncode is None:
                process.kill()
            await process.wait()

    def _job(self, name: str, topic: str = TOPIC) -> str:
        load = self._load
        seed = random.Random(f"{name} of {load.seed}").randrange(2**32)
        rate = load.rate / load.producers
        return json.dumps(
            asdict(Job(name, self._servers(), topic, load.partitions, rate, load.size, seed, load.patience_s))
        )

    async def _start_worker(self, group: str, name: str) -> None:
        await self._spawn(name, [group, self._job(name)])

    async def _spawn(self, name: str, jobs: Sequence[str]) -> None:
        part = self._folder / f"{name}.part"
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "corgi.chaos.client_process", str(part), self._namespace, *jobs]
        with (self._folder / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=log, start_new_session=True
            )
        self._running[name] = process
        self.parts.append(part)
        assert process.stdout is not None
        if not await process.stdout.readline():
            raise CorgiError("closed", f"the client process {name} ended at once", hint=f"see {name}.log")

    async def _end(self, names: Sequence[str]) -> list[str]:
        for name in names:
            stdin = self._running[name].stdin
            assert stdin is not None
            stdin.close()
        unfinished: list[str] = []
        for name in names:
            process = self._running.pop(name)
            try:
                async with asyncio.timeout(self._load.patience_s * 2):
                    code = await process.wait()
            except TimeoutError:
                process.kill()
                code = await process.wait()
            if code:
                unfinished.append(f"the client process {name} ended with {code}; see {name}.log")
        return unfinished

    async def _reach_the_end(self, mq: Corgi, group: str) -> str:
        """Wait until the group has done everything, and keep where it is; what is wrong, in words."""
        told = "nothing is known of it"
        units: tuple[GroupUnit, ...] = ()
        try:
            async with asyncio.timeout(self._load.patience_s * 2):
                while True:
                    try:
                        described = await mq.groups.describe(group)
                    except CorgiError as error:
                        told = str(error)
                    else:
                        told = f"{described.state}, {described.lag} messages behind"
                        units = described.units
                        if units and not described.lag:
                            break
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return f"group {group} did not reach the end: {told}"
        self.checkpoints += [
            CheckpointLine(group, unit.topic, unit.partition, max(unit.checkpoint, 0), (), SEMANTICS[group])
            for unit in units
        ]
        return ""
