"""What each semantic of consuming costs: one result for each message, by a consumer group, in one process.

Throughput: a backlog is there before the group begins; timed until a reader has every result. Latency: messages by a
timetable, each timed from when it was due until a reader has its result. At least once and at most once publish the
result and wait for its acknowledgement; exactly once gives it back, and it is stored together with the checkpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from corgi.base.errors import CorgiError
from corgi.bench.histogram import Histogram
from corgi.bench.pace import schedule
from corgi.bench.target import Target, check_count, fresh_topic
from corgi.bench.values import SIZE_MIN, Stamps, read_stamp
from corgi.client.consuming import Semantics
from corgi.client.corgi import Corgi, connect
from corgi.client.messages import Message

PATIENCE_S = 60.0
KEYS = 1_000
SEMANTICS: tuple[Semantics, ...] = ("at_most_once", "at_least_once", "exactly_once")


@dataclass(frozen=True, slots=True)
class SemanticsOptions:
    """``backlog`` and ``records`` are counts, for throughput and latency; ``rate`` per second; ``size`` in bytes."""

    backlog: int = 20_000
    records: int = 4_000
    rate: float = 1_000.0
    size: int = 100
    partitions: int = 8
    concurrency: int = 512

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        check_count("backlog", self.backlog, 10, 10_000_000)
        check_count("records", self.records, 10, 10_000_000)
        check_count("rate", self.rate, 1, 1_000_000)
        check_count("size", self.size, SIZE_MIN, 8 << 20)
        check_count("partitions", self.partitions, 1, 10_000)
        check_count("concurrency", self.concurrency, 1, 100_000)


async def semantics(target: Target, kind: Semantics, options: SemanticsOptions) -> dict[str, Any]:
    """One semantic: {"records_per_s", "latency", "lost", "duplicated"}."""
    options.check()
    async with connect(target.native) as mq:
        source, out = fresh_topic(), fresh_topic()
        await mq.topics.create(source, partitions=options.partitions)
        await mq.topics.create(out, partitions=options.partitions, colocate_with=source)
        try:
            run = _Run(mq, source, out, kind, options)
            return await run.measure()
        finally:
            await mq.topics.delete(out)
            await mq.topics.delete(source)


class _Run:
    def __init__(self, mq: Corgi, source: str, out: str, kind: Semantics, options: SemanticsOptions) -> None:
        self._mq = mq
        self._source = source
        self._out = out
        self._kind = kind
        self._options = options
        self._stamps = Stamps(options.size)
        self._seen: set[int] = set()
        self._duplicated = 0
        self._latency: Histogram | None = None
        self._wanted = 0
        self._all = asyncio.Event()

    async def measure(self) -> dict[str, Any]:
        options, mq = self._options, self._mq
        now = time.monotonic()
        backlog = [Message(key=self._key(n), value=self._stamps.value(n, now)) for n in range(options.backlog)]
        await mq.publish_many(self._source, backlog)
        stop = asyncio.Event()
        async with mq.subscribe(self._out, start="earliest") as results:
            await results.ready()
            reading = asyncio.create_task(self._read(results))
            began = time.monotonic()
            working = asyncio.create_task(
                mq.run(
                    self._handler(),
                    self._source,
                    group=self._source,
                    concurrency=options.concurrency,
                    semantics=self._kind,
                    start="earliest",
                    stop=stop,
                )
            )
            try:
                await self._until(options.backlog, working)
                seconds = time.monotonic() - began
                self._latency = Histogram()
                pending = []
                async for number, due_s in schedule(options.rate, options.records):
                    n = options.backlog + number
                    pending.append(mq.publish_nowait(self._source, self._stamps.value(n, due_s), key=self._key(n)))
                for receipt in pending:
                    await receipt
                await self._until(options.backlog + options.records, working)
            finally:
                stop.set()
                await asyncio.wait((working,))
                reading.cancel()
                await asyncio.wait((reading,))
        return {
            "records_per_s": round(options.backlog / seconds, 1),
            "latency": self._latency.summary()._asdict(),
            "lost": self._wanted - len(self._seen),
            "duplicated": self._duplicated,
        }

    def _handler(self) -> Callable[[Any], Awaitable[Any]]:
        if self._kind == "exactly_once":
            return self._give_back
        return self._publish

    async def _give_back(self, message: Any) -> list[Message[bytes]]:
        return [Message(topic=self._out, partition=message.partition, key=message.key, value=message.value)]

    async def _publish(self, message: Any) -> None:
        await self._mq.publish(self._out, message.value, key=message.key, partition=message.partition)

    async def _read(self, results: Any) -> None:
        async for batch in results.batches():
            now = time.monotonic()
            for message in batch:
                number, due_s = read_stamp(message.value)
                if number in self._seen:
                    self._duplicated += 1
                    continue
                self._seen.add(number)
                if self._latency is not None:
                    self._latency.record(now - due_s)
            if len(self._seen) >= self._wanted:
                self._all.set()

    async def _until(self, count: int, working: asyncio.Task[Any]) -> None:
        """Until a reader has so many results."""
        self._wanted = count
        self._all.clear()
        if len(self._seen) >= count:
            return
        waiting = asyncio.create_task(self._all.wait())
        done, _ = await asyncio.wait((waiting, working), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        if waiting not in done:
            waiting.cancel()
            if working in done:
                working.result()
            raise CorgiError("timeout", f"{count - len(self._seen)} results did not come in time")

    def _key(self, number: int) -> bytes:
        return b"key-%d" % (number % KEYS)
