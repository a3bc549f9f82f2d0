"""The clients of a run, as users write them: producers on a timetable, consumers, and administrators of topics.

Each works until ``stop`` is set and then brings what it began to its end. They see the broker through the public SDK
only, and write down what they see; what it means is for the checks.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from typing import Literal, Protocol, TypeAlias

from msgspec import structs

from corgi.base.errors import CorgiError
from corgi.chaos.recorder import Recorder
from corgi.chaos.work import REQUEST_TIMEOUT_S, Job, name_of
from corgi.chaos.workers import AtLeastOnce, AtMostOnce, ExactlyOnce, ExactlyOnceAcross
from corgi.client.corgi import Corgi, connect
from corgi.client.receipts import PendingReceipt
from corgi.history.lines import CallLine, EndLine, ReadLine, SendLine, UnfinishedLine
from corgi.history.model import FAILED, OK, OPEN, REFUSED, UNKNOWN

PUBLISH_TIMEOUT_S = 20.0
TICK_S = 0.001
KEYS = 16
NEAR = 0.8  # how often a wanderer begins among the last NEAR_RECORDS records of a partition
NEAR_RECORDS = 500
VISIT_RECORDS = 1_000  # after so many it leaves: else a long run's history is mostly theirs
THERE = "exists"  # the state of a topic's register
CallStatus: TypeAlias = Literal["ok", "refused", "failed", "unknown"]
MAYBE_STORED = "may be stored"  # how an error tells that some attempt has left the client


class Producer:
    """Publishes to every partition in turn by a timetable that does not wait: a late one does not move the others."""

    def __init__(self, job: Job, recorder: Recorder, stop: asyncio.Event) -> None:
        self._job = job
        self._recorder = recorder
        self._stop = stop
        self._sequences = [0] * job.partitions
        self._fill = random.Random(job.seed).randbytes(job.size).hex()[: job.size]
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        job = self._job
        async with connect(job.servers, publish_timeout=min(PUBLISH_TIMEOUT_S, job.patience_s)) as mq:
            start = time.monotonic()
            number = 0
            while not self._stop.is_set():
                due = start + number / (job.rate * job.partitions)
                if due > time.monotonic():
                    await asyncio.sleep(max(due - time.monotonic(), TICK_S))
                self._publish(mq, number % job.partitions, due)
                number += 1
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=job.patience_s)

    def _publish(self, mq: Corgi, partition: int, due: float) -> None:
        sequence = self._sequences[partition]
        self._sequences[partition] += 1
        job = self._job
        name = f"{job.name}.{partition}.{sequence}"
        key = f"k{sequence % KEYS}"
        invoked = time.monotonic()
        send = SendLine(
            job.name, job.topic, partition, (name,), invoked, OPEN, -1.0, sequence, True, -1, due, key
        )  # fmt: skip
        self._recorder.began(send)
        value = f"{name} {self._fill}"[: max(job.size, len(name))].encode()
        try:
            pending = mq.publish_nowait(job.topic, value, key=key, partition=partition)
        except CorgiError:  # refused before it was taken: it is nowhere
            self._recorder.ended(_ended(send, FAILED))
            return
        task = asyncio.create_task(self._outcome(pending, send))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _outcome(self, pending: PendingReceipt, send: SendLine) -> None:
        try:
            receipt = await pending
        except CorgiError as error:
            maybe = error.code == "outcome-unknown" or MAYBE_STORED in error.message
            self._recorder.ended(_ended(send, UNKNOWN if maybe else FAILED))
        else:
            self._recorder.ended(_ended(send, OK, receipt.offset))


class Consumer:
    """Reads the topic from the earliest message on for as long as the run lasts, and at the end up to its end."""

    def __init__(self, job: Job, recorder: Recorder, stop: asyncio.Event) -> None:
        self._job = job
        self._recorder = recorder
        self._stop = stop
        self._positions = dict.fromkeys(range(job.partitions), 0)

    async def run(self) -> None:
        job = self._job
        async with connect(job.servers, request_timeout=REQUEST_TIMEOUT_S) as mq:
            reading = asyncio.create_task(self._read(mq))
            await asyncio.wait((asyncio.create_task(self._stop.wait()), reading), return_when=asyncio.FIRST_COMPLETED)
            try:
                async with asyncio.timeout(job.patience_s):
                    ends = await _ends(mq, job.topic)
                    while any(self._positions[partition] < end for partition, end in ends.items()):
                        if reading.done():
                            break
                        await asyncio.sleep(0.05)
            except TimeoutError:
                self._recorder.write(UnfinishedLine(f"{job.name} did not reach the end: it is at {self._positions}"))
            reading.cancel()
            await asyncio.wait((reading,))
            if not reading.cancelled() and (error := reading.exception()) is not None:
                self._recorder.write(UnfinishedLine(f"{job.name}: its subscription ended: {error}"))

    async def _read(self, mq: Corgi) -> None:
        job = self._job
        async with mq.subscribe(job.topic, start="earliest") as subscription:
            async for batch in subscription.batches():
                partition = batch[0].partition
                records = tuple([(message.offset, name_of(message.value)) for message in batch])
                self._recorder.write(
                    ReadLine(job.name, job.topic, partition, self._positions[partition], records, time.monotonic())
                )
                self._positions[partition] = records[-1][0] + 1


class Wanderer:
    """Comes and goes: subscribes to a partition at an offset by chance, reads a little, and starts anew elsewhere."""

    def __init__(self, job: Job, recorder: Recorder, stop: asyncio.Event) -> None:
        self._job = job
        self._recorder = recorder
        self._stop = stop
        self._chance = random.Random(job.seed)

    async def run(self) -> None:
        job = self._job
        visit = 0
        async with connect(job.servers, request_timeout=REQUEST_TIMEOUT_S) as mq:
            while not self._stop.is_set():
                partition = self._chance.randrange(job.partitions)
                ends = await self._ask_ends(mq)
                if ends is None:
                    await asyncio.sleep(0.05)
                    continue
                end = ends[partition]
                near = self._chance.random() < NEAR
                position = self._chance.randint(max(0, end - NEAR_RECORDS) if near else 0, end)
                visit += 1
                await self._visit(mq, f"{job.name}.{visit}", partition, position)

    async def _ask_ends(self, mq: Corgi) -> dict[int, int] | None:
        """Ask for the ends, which claim to be current, and write the answer down."""
        invoked = time.monotonic()
        try:
            ends = await mq.topics.offsets(self._job.topic)
        except CorgiError:
            return None
        for partition, end in ends.items():
            self._recorder.write(
                EndLine(self._job.name, self._job.topic, partition, invoked, time.monotonic(), end)
            )  # fmt: skip
        return ends

    async def _visit(self, mq: Corgi, name: str, partition: int, position: int) -> None:
        topic = self._job.topic
        taken = 0
        try:
            async with asyncio.timeout(0.2 + self._chance.random()):
                async with mq.subscribe(topic, start={partition: position}, partitions=[partition]) as subscription:
                    async for batch in subscription.batches():
                        records = tuple([(message.offset, name_of(message.value)) for message in batch])
                        self._recorder.write(ReadLine(name, topic, partition, position, records, time.monotonic()))
                        position = records[-1][0] + 1
                        taken += len(records)
                        if taken >= VISIT_RECORDS:
                            break
        except TimeoutError:
            return
        except CorgiError as error:
            self._recorder.write(UnfinishedLine(f"{name}: its subscription ended: {error}"))


class Administrator:
    """Makes and deletes one topic over and over, while another looks whether it is there."""

    def __init__(self, job: Job, recorder: Recorder, stop: asyncio.Event) -> None:
        self._job = job
        self._recorder = recorder
        self._stop = stop
        self._chance = random.Random(job.seed)

    async def run(self) -> None:
        servers = self._job.servers
        async with (
            connect(servers, request_timeout=REQUEST_TIMEOUT_S) as mq,
            connect(servers, request_timeout=REQUEST_TIMEOUT_S) as other,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._change(mq))
            tasks.create_task(self._look(other))

    async def _change(self, mq: Corgi) -> None:
        name = self._job.topic
        while not self._stop.is_set():
            making = mq.topics.create(name, timeout=REQUEST_TIMEOUT_S)
            await self._swap(None, THERE, making, refused="topic-exists")
            await asyncio.sleep(self._chance.random() * 0.3)
            deleting = mq.topics.delete(name, timeout=REQUEST_TIMEOUT_S)
            await self._swap(THERE, None, deleting, refused="unknown-topic")
            await asyncio.sleep(self._chance.random() * 0.3)

    async def _look(self, mq: Corgi) -> None:
        name = f"{self._job.name}.reader"
        while not self._stop.is_set():
            invoked = time.monotonic()
            seen: str | None = None
            status: CallStatus = OK
            try:
                await mq.topics.describe(self._job.topic)
                seen = THERE
            except CorgiError as error:
                status = OK if error.code == "unknown-topic" else FAILED
            self._recorder.write(CallLine(name, self._register, "read", status, invoked, time.monotonic(), seen))
            await asyncio.sleep(0.02 + self._chance.random() * 0.1)

    @property
    def _register(self) -> str:
        return f"topic {self._job.topic}"

    async def _swap(self, old: str | None, new: str | None, work: Awaitable[object], refused: str) -> None:
        invoked = time.monotonic()
        status: CallStatus = OK
        try:
            await work
        except CorgiError as error:
            status = REFUSED if error.code == refused else UNKNOWN
        ended = time.monotonic()
        self._recorder.write(CallLine(self._job.name, self._register, "swap", status, invoked, ended, old, new))


async def _ends(mq: Corgi, topic: str) -> dict[int, int]:
    """The ends of all partitions, asked until there is an answer."""
    while True:
        try:
            return await mq.topics.offsets(topic)
        except CorgiError:
            await asyncio.sleep(0.1)


def _ended(send: SendLine, status: Literal["ok", "failed", "unknown"], offset: int = -1) -> SendLine:
    return structs.replace(send, status=status, ended=time.monotonic(), offset=offset)


class Client(Protocol):
    """What a process runs."""

    def __init__(self, job: Job, recorder: Recorder, stop: asyncio.Event) -> None: ...

    async def run(self) -> None:
        """Until ``stop`` is set, and what was begun has ended."""
        ...


ROLES: dict[str, type[Client]] = {
    "producer": Producer,
    "consumer": Consumer,
    "wanderer": Wanderer,
    "administrator": Administrator,
    "work": AtLeastOnce,
    "once": ExactlyOnce,
    "far": ExactlyOnceAcross,
    "most": AtMostOnce,
}
