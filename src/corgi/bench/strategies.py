"""What each way of replicating costs: how long until a message is acknowledged, and until a consumer has it.

A strategy is what an acknowledgement waits for (``acks``) and where votes have to be by then (``durability``). Messages
go by a timetable to a topic of the strategy's own; a consumer in another process reads them as they are chosen, without
checkpoints. What ``acks`` says moves the acknowledgement only: nobody is given a message that is not chosen.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from corgi.bench.echo import consumer_of, result_of
from corgi.bench.histogram import Histogram
from corgi.bench.pace import schedule
from corgi.bench.target import Target, check_count, fresh_topic
from corgi.bench.values import SIZE_MIN, Stamps
from corgi.client.corgi import connect
from corgi.client.receipts import PendingReceipt
from corgi.client.words import Acks

WARM_UP_SHARE = 0.1  # of the records, at the front, not counted


class Strategy(NamedTuple):
    """``acks`` of each publish, ``durability`` of the topic."""

    acks: Acks
    durability: str


STRATEGIES: dict[str, Strategy] = {
    "none, fsync": Strategy("none", "fsync"),
    "leader, fsync": Strategy("leader", "fsync"),
    "quorum, fsync": Strategy("quorum", "fsync"),
    "none, memory": Strategy("none", "memory"),
    "leader, memory": Strategy("leader", "memory"),
    "quorum, memory": Strategy("quorum", "memory"),
}


@dataclass(frozen=True, slots=True)
class StrategyOptions:
    """``rate`` per second, ``size`` in bytes per value."""

    rate: float = 1_000.0
    records: int = 3_000
    size: int = 100
    partitions: int = 8

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        check_count("rate", self.rate, 1, 1_000_000)
        check_count("records", self.records, 10, 10_000_000)
        check_count("size", self.size, SIZE_MIN, 8 << 20)
        check_count("partitions", self.partitions, 1, 10_000)


async def strategy(target: Target, how: Strategy, options: StrategyOptions) -> dict[str, Any]:
    """One run: {"acknowledged", "latency", "lost", "duplicated"}; both times from when a message was due."""
    options.check()
    acknowledged, stamps = Histogram(), Stamps(options.size)
    skipped = int(options.records * WARM_UP_SHARE)

    async def timed(receipt: PendingReceipt, number: int, due_s: float) -> None:
        await receipt
        if number >= skipped:
            acknowledged.record(time.monotonic() - due_s)

    async with connect(target.native) as mq:
        topic = fresh_topic()
        await mq.topics.create(topic, partitions=options.partitions, durability=how.durability)
        try:
            async with consumer_of(target, topic, options.records, skipped) as consumer:
                async with asyncio.TaskGroup() as waiting:
                    async for number, due_s in schedule(options.rate, options.records):
                        receipt = mq.publish_nowait(topic, stamps.value(number, due_s), acks=how.acks)
                        waiting.create_task(timed(receipt, number, due_s))
                result = await result_of(consumer)
        finally:
            await mq.topics.delete(topic)
    return {"acknowledged": acknowledged.summary()._asdict(), **result}
