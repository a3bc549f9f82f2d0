"""What compaction by key leaves of a topic, how long it takes, and what writers feel of it meanwhile.

    python benchmarks/compaction.py --records 1000000 --keys 10000

Three processes of their own, one Paxos group, so that compaction and the writers whose latency is measured have the
same leader. Records have random values of ``--size`` bytes; a paced writer publishes to another topic, first for a
while without compaction and then during it.
"""

import argparse
import asyncio
import json
import os
import time
from typing import Any

import corgi
from corgi.bench.histogram import Histogram
from corgi.bench.target import Target, TargetOptions, target

RATE = 200.0  # publishes per second whose latency is measured
CALM_S = 8.0
CHUNK = 20_000


async def fill(mq: corgi.Corgi, topic: str, records: int, keys: int, size: int) -> float:
    """Publish all records, each key in turn; how long it took (s)."""
    began = time.perf_counter()
    names = [b"key-%09d" % key for key in range(keys)]
    for first in range(0, records, CHUNK):
        noise = os.urandom(size + CHUNK)
        count = min(CHUNK, records - first)
        items = [(names[(first + n) % keys], noise[n : n + size]) for n in range(count)]
        (await mq.publish_many(topic, items)).raise_first()
    return time.perf_counter() - began


async def paced(mq: corgi.Corgi, topic: str, latency: Histogram, done: asyncio.Event) -> None:
    """Publish at RATE until ``done``; latency counts from when a publish was due."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    flying: set[asyncio.Task[None]] = set()

    async def one(when: float) -> None:
        await mq.publish(topic, bytes(100))
        latency.record(loop.time() - when)

    while not done.is_set():
        task = asyncio.create_task(one(due))
        flying.add(task)
        task.add_done_callback(flying.discard)
        due += 1 / RATE
        await asyncio.sleep(max(0.0, due - loop.time()))
    await asyncio.gather(*flying)


async def held(mq: corgi.Corgi, topic: str, end: int) -> tuple[int, int]:
    """Records, and bytes of their keys and values, from the beginning to the end of the one partition."""
    records = size = 0
    async for batch in mq.subscribe(topic, start="earliest").batches():
        records += len(batch)
        size += sum(len(message.key or b"") + len(message.value or b"") for message in batch)
        if batch[-1].offset + 1 >= end:
            break
    return records, size


async def compacted(mq: corgi.Corgi, topic: str, end: int) -> float:
    """Wait until a pass has come to the newest batches; how long that took (s)."""
    began = time.perf_counter()
    while True:
        [partition] = (await mq.topics.describe(topic)).partitions
        if partition.compacted_to >= end - CHUNK:
            return time.perf_counter() - began
        await asyncio.sleep(0.1)


async def measure(where: Target, records: int, keys: int, size: int) -> dict[str, Any]:
    async with corgi.connect(where.native) as mq:
        await mq.topics.create("prices", cleanup="compact", min_compaction_lag_ms=86_400_000)
        await mq.topics.create("other")
        fill_s = await fill(mq, "prices", records, keys, size)
        [partition] = (await mq.topics.describe("prices")).partitions
        before = await held(mq, "prices", partition.end)
        calm, during = Histogram(), Histogram()
        done = asyncio.Event()
        writer = asyncio.create_task(paced(mq, "other", calm, done))
        await asyncio.sleep(CALM_S)
        done.set()
        await writer
        done.clear()
        await mq.topics.alter("prices", min_compaction_lag_ms=None)
        writer = asyncio.create_task(paced(mq, "other", during, done))
        seconds = await compacted(mq, "prices", partition.end)
        done.set()
        await writer
        after = await held(mq, "prices", partition.end)
        return {
            "fill_s": round(fill_s, 2),
            "before": {"records": before[0], "bytes": before[1]},
            "after": {"records": after[0], "bytes": after[1]},
            "compaction_s": round(seconds, 2),
            "latency_without": calm.summary()._asdict(),
            "latency_during": during.summary()._asdict(),
            **where.describe(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=100, help="bytes of a value")
    options = parser.parse_args()
    with target(TargetOptions(groups=1)) as where:
        print(json.dumps(asyncio.run(measure(where, options.records, options.keys, options.size)), indent=1))


if __name__ == "__main__":
    main()
