"""How long one publish takes: one message under way at a time, awaited."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from corgi.bench.histogram import Histogram
from corgi.bench.target import Target, check_count, fresh_topic
from corgi.bench.values import SIZE_MIN, make_values
from corgi.client.corgi import connect


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """``size`` in bytes per value."""

    size: int = 1024
    records: int = 3_000
    partitions: int = 8
    durability: str = "fsync"
    warm_up: int = 300  # records at most, before the clock starts

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        check_count("size", self.size, SIZE_MIN, 8 << 20)
        check_count("records", self.records, 1, 10_000_000)
        check_count("partitions", self.partitions, 1, 10_000)


async def publish_latency(target: Target, options: PublishOptions) -> dict[str, Any]:
    """One run on a topic of its own: {"records_per_s", "latency"}."""
    options.check()
    latency = Histogram()
    async with connect(target.native) as mq:
        topic = fresh_topic()
        await mq.topics.create(topic, partitions=options.partitions, durability=options.durability)
        try:
            warm_up = min(options.warm_up, options.records)
            values = make_values(warm_up + options.records, options.size)
            for value in values[:warm_up]:
                await mq.publish(topic, value)
            start = time.perf_counter()
            for value in values[warm_up:]:
                began = time.perf_counter()
                await mq.publish(topic, value)
                latency.record(time.perf_counter() - began)
            seconds = time.perf_counter() - start
        finally:
            await mq.topics.delete(topic)
    return {"records_per_s": round(options.records / seconds), "latency": latency.summary()._asdict()}
