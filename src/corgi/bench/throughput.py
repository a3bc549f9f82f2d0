"""How many records per second one process publishes, each acknowledged by a majority's disks.

Values are distinct and incompressible and exist before the clock starts; encoding, sending, replicating and every
acknowledgement lie inside the timed span. The public SDK is used as a user would, by the call that is named.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from corgi.base.errors import CorgiError
from corgi.bench.histogram import Histogram
from corgi.bench.target import Target, check_count, fresh_topic
from corgi.bench.values import SIZE_MIN, make_values
from corgi.client.corgi import Corgi, connect
from corgi.client.receipts import PendingReceipt

Via = Literal["publish_nowait", "publish_many", "publish"]
RECORDS_MAX = 100_000_000
MEMORY_MAX = 4 << 30  # bytes of values that exist at once
LATENCY_EVERY = 100  # records per one whose acknowledgement is timed, with publish_nowait


@dataclass(frozen=True, slots=True)
class ThroughputOptions:
    """``size`` in bytes per value; ``tasks`` counts with ``publish`` only."""

    size: int = 1024
    records: int = 100_000
    via: Via = "publish_many"
    tasks: int = 1
    partitions: int = 8
    warm_up: int = 2_000  # records before the clock starts

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        check_count("size", self.size, SIZE_MIN, 8 << 20)
        check_count("records", self.records, 1, RECORDS_MAX)
        check_count("tasks", self.tasks, 1, 100_000)
        check_count("partitions", self.partitions, 1, 10_000)
        if self.size * self.records > MEMORY_MAX:
            raise CorgiError("invalid-argument", f"{self.records} values of {self.size} bytes do not fit the memory")


async def throughput(target: Target, options: ThroughputOptions) -> dict[str, Any]:
    """One run on a topic of its own: {"records_per_s", "mb_per_s", "seconds", "acknowledgement": latency (not with
    publish_many)}.
    """
    options.check()
    async with connect(target.native) as mq:
        topic = fresh_topic()
        await mq.topics.create(topic, partitions=options.partitions)
        try:
            await _publish(mq, topic, make_values(options.warm_up, options.size, seed=0), options, Histogram())
            values = make_values(options.records, options.size)
            latency = Histogram()
            began = time.perf_counter()
            await _publish(mq, topic, values, options, latency)
            seconds = time.perf_counter() - began
            await _check_all_there(mq, topic, options)
        finally:
            await mq.topics.delete(topic)
    figures = {
        "records_per_s": round(options.records / seconds),
        "mb_per_s": round(options.records * options.size / seconds / 1e6, 2),
        "seconds": round(seconds, 3),
    }
    return figures | ({"acknowledgement": latency.summary()._asdict()} if latency.count else {})


async def _publish(
    mq: Corgi, topic: str, values: Sequence[bytes], options: ThroughputOptions, latency: Histogram
) -> None:
    if options.via == "publish_many":
        outcomes = await mq.publish_many(topic, values)
        outcomes.raise_first()
        assert len(outcomes) == len(values)
    elif options.via == "publish_nowait":
        await _nowait(mq, topic, values, latency)
    else:
        await _awaited(mq, topic, values, options.tasks, latency)


async def _nowait(mq: Corgi, topic: str, values: Sequence[bytes], latency: Histogram) -> None:
    """As fast as the client takes them; every receipt is looked at, some are timed."""
    pending: list[PendingReceipt] = []
    timed: list[asyncio.Task[None]] = []
    for number, value in enumerate(values):
        try:
            receipt = mq.publish_nowait(topic, value)
        except CorgiError as error:
            if error.code != "overloaded":
                raise
            await mq.ready()
            receipt = mq.publish_nowait(topic, value)
        pending.append(receipt)
        if number % LATENCY_EVERY == 0:
            timed.append(asyncio.create_task(_time(receipt, latency)))
            await asyncio.sleep(0)
    for receipt in pending:
        await receipt
    await asyncio.gather(*timed)


async def _time(receipt: PendingReceipt, latency: Histogram) -> None:
    began = time.perf_counter()
    await receipt
    latency.record(time.perf_counter() - began)


async def _awaited(mq: Corgi, topic: str, values: Sequence[bytes], tasks: int, latency: Histogram) -> None:
    """Each task has one record under way."""
    rest = iter(values)

    async def work() -> None:
        for value in rest:
            began = time.perf_counter()
            await mq.publish(topic, value)
            latency.record(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(work())


async def _check_all_there(mq: Corgi, topic: str, options: ThroughputOptions) -> None:
    ends = await mq.topics.offsets(topic, "latest")
    held = sum(ends.values())
    if held != options.records + options.warm_up:
        raise CorgiError("invariant-failed", f"{options.records + options.warm_up} records were sent, {held} are held")
