"""How long a message takes to a consumer in another process, from the time at which it was due.

Each value carries its due time on the monotonic clock, which the processes of one machine share. A publisher that is
late itself makes the latency longer, not the sample smaller. With rate 0 one message is under way at a time: the
consumer says when it has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from corgi.base.errors import CorgiError
from corgi.bench.pace import schedule
from corgi.bench.target import Target, check_count, fresh_topic
from corgi.bench.values import SIZE_MIN, Stamps
from corgi.client.corgi import Corgi, connect
from corgi.client.receipts import PendingReceipt

CONSUMER = "corgi.bench.consumer"
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class EchoOptions:
    """``rate`` per second, 0: one under way at a time. ``size`` in bytes per value."""

    rate: float = 2_000.0
    records: int = 20_000
    size: int = 100
    partitions: int = 8
    durability: str = "fsync"
    warm_up_share: float = 0.1  # of the records, at the front, not counted

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        check_count("rate", self.rate, 0, 1_000_000)
        check_count("size", self.size, SIZE_MIN, 8 << 20)
        check_count("records", self.records, 10, 10_000_000)
        check_count("partitions", self.partitions, 1, 10_000)


async def echo(target: Target, options: EchoOptions) -> dict[str, Any]:
    """One run on a topic of its own: {"rate", "latency", "lost", "duplicated"}."""
    options.check()
    async with connect(target.native) as mq:
        topic = fresh_topic()
        await mq.topics.create(topic, partitions=options.partitions, durability=options.durability)
        try:
            return await echo_on(mq, target, topic, options)
        finally:
            await mq.topics.delete(topic)


async def echo_on(mq: Corgi, target: Target, topic: str, options: EchoOptions) -> dict[str, Any]:
    """One run on a topic that exists and is empty."""
    skipped = int(options.records * options.warm_up_share)
    async with consumer_of(target, topic, options.records, skipped, answers=not options.rate) as consumer:
        began = time.monotonic()
        if options.rate:
            await _at_rate(mq, topic, options)
        else:
            await _one_by_one(mq, topic, options, consumer)
        seconds = time.monotonic() - began
        result = await result_of(consumer)
    return {"published_per_s": round(options.records / seconds, 1), **result}


async def _at_rate(mq: Corgi, topic: str, options: EchoOptions) -> None:
    stamps = Stamps(options.size)
    pending: list[PendingReceipt] = []
    async for number, due_s in schedule(options.rate, options.records):
        pending.append(mq.publish_nowait(topic, stamps.value(number, due_s)))
    for receipt in pending:
        await receipt


async def _one_by_one(mq: Corgi, topic: str, options: EchoOptions, consumer: asyncio.subprocess.Process) -> None:
    """The consumer writes one byte for each message."""
    assert consumer.stdout is not None
    stamps = Stamps(options.size)
    for number in range(options.records):
        pending = mq.publish_nowait(topic, stamps.value(number, time.monotonic()))
        async with asyncio.timeout(PATIENCE_S):
            await consumer.stdout.readexactly(1)
        await pending


@contextlib.asynccontextmanager
async def consumer_of(
    target: Target, topic: str, records: int, skipped: int, *, answers: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A consumer in a process of its own, attached to every partition. Of ``records`` the first ``skipped`` are not
    timed; ``answers``: it writes a byte for each."""
    arguments = [target.native, topic, str(records), str(skipped), "1" if answers else "0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", CONSUMER, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        await line_of(process)  # it says that it is attached
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def result_of(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """What the consumer found: {"latency", "lost", "duplicated"}."""
    document: dict[str, Any] = json.loads(await line_of(process))
    return document


async def line_of(process: asyncio.subprocess.Process) -> bytes:
    """The next line that a process of a measurement writes. Raises CorgiError "timeout", "closed"."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            line = await process.stdout.readline()
    except TimeoutError:
        raise CorgiError("timeout", "the consumer did not see everything in time") from None
    if not line:
        raise CorgiError("closed", "the consumer ended")
    return line
