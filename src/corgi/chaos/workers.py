"""Consumer groups at work in a run: members that handle messages through the public SDK, and may be killed any time.

What a worker did is on its way to the file before it says so to the cluster: it may be killed the next moment.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from corgi.base.errors import CorgiError
from corgi.chaos.recorder import Recorder
from corgi.chaos.work import REQUEST_TIMEOUT_S, Job, name_of
from corgi.client.consuming import Semantics
from corgi.client.corgi import connect
from corgi.client.messages import Message
from corgi.history.lines import HandleLine, ResultLine, UnfinishedLine
from corgi.history.model import AT_LEAST_ONCE, AT_MOST_ONCE, EXACTLY_ONCE

CONCURRENCY = 16
FAILS = 0.01  # how often a handler fails, where it is called again then
WORK_S = 0.004  # at most that long a handler takes
OUT = "chaos-out"  # co-located with the topic that is worked on
FAR = "chaos-far"  # likewise, but results go to another partition of it than their input's
SEMANTICS: dict[str, Semantics] = {  # by group
    "work": AT_LEAST_ONCE,
    "once": EXACTLY_ONCE,
    "far": EXACTLY_ONCE,
    "most": AT_MOST_ONCE,
}


class _Worker:
    """A member of one group, until ``stop`` is set."""

    group = ""

    def __init__(self, job: Job, recorder: Recorder, stop: asyncio.Event) -> None:
        self._job = job
        self._recorder = recorder
        self._stop = stop
        self._chance = random.Random(job.seed)
        self._lives: dict[int, tuple[Any, int]] = {}  # by partition: as what it is held, for the how manyth time

    async def run(self) -> None:
        job = self._job
        try:
            async with connect(job.servers, request_timeout=REQUEST_TIMEOUT_S) as mq:
                await mq.run(
                    self._handler(),
                    job.topic,
                    group=self.group,
                    concurrency=CONCURRENCY,
                    order="key",
                    semantics=SEMANTICS[self.group],
                    start="earliest",
                    session_timeout="5s",
                    stop=self._stop,
                )
        except CorgiError as error:
            self._recorder.write(UnfinishedLine(f"{job.name} of group {self.group} ended: {error}"))

    def _handler(self) -> Callable[[Any], Awaitable[Any]]:
        return self._work

    async def _work(self, message: Any) -> Any:
        """Take a moment over the message, and write down when; sometimes fail."""
        job, began = self._job, time.monotonic()
        await asyncio.sleep(self._chance.random() * WORK_S)
        fails = SEMANTICS[self.group] == AT_LEAST_ONCE and self._chance.random() < FAILS
        process = self._life(message)
        key = f"#{message.offset}" if message.key is None else message.key.decode("utf-8", "backslashreplace")
        outcome = "failed" if fails else "done"
        self._recorder.write(
            HandleLine(
                self.group, process, job.topic, message.partition, key, message.offset, began, time.monotonic(),
                outcome,  # type: ignore[arg-type]
            )
        )  # fmt: skip
        if fails:
            raise RuntimeError("now and then")
        return None

    def _life(self, message: Any) -> str:
        """Whoever begins a partition again at its checkpoint does again what lies behind it: another process."""
        held, life = self._lives.get(message.partition, (None, 0))
        if held is not message.held:
            life += 1
            self._lives[message.partition] = (message.held, life)
        return f"{self._job.name}/{life}"


class AtLeastOnce(_Worker):
    group = "work"


class AtMostOnce(_Worker):
    group = "most"


class ExactlyOnce(_Worker):
    """Makes one message of each; results and checkpoint are one act, and lie in one Paxos group."""

    group = "once"
    topic = OUT

    async def _work(self, message: Any) -> Any:
        await super()._work(message)
        value = f"{self.topic}.{name_of(message.value)}"
        place = (self._job.topic, message.partition, message.offset)
        self._recorder.write(ResultLine(self.group, self._job.name, *place, (value,), time.monotonic()))
        partition = self._partition(message.partition)
        return [Message(topic=self.topic, partition=partition, key=message.key, value=value.encode())]

    def _partition(self, of_input: int) -> int:
        return of_input


class ExactlyOnceAcross(ExactlyOnce):
    """The same where results lie in another Paxos group than their input: it takes a transaction."""

    group = "far"
    topic = FAR

    def _partition(self, of_input: int) -> int:
        return (of_input + 1) % self._job.partitions
