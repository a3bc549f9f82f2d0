"""How fast one process consumes what is there already; and what a single blocked key costs all others.

Throughput is timed from the first message to the last, in one process, through the public SDK: by batches of a plain
subscription, by batches of a group whose acknowledgements are stored, and by a handler that is called for each
message.

Blocked: a handler of one key of many does not return. The same messages are handled with and without it, right after
one another: first a backlog, for throughput, then messages by a timetable for as long as the key is blocked, each
timed from when it was due until its handler begins. What waits behind the blocked key is not counted, and has to come
at the end.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from corgi.base.errors import CorgiError
from corgi.bench.audit import audit
from corgi.bench.histogram import Histogram
from corgi.bench.pace import schedule
from corgi.bench.target import Target, check_count, fresh_topic, median_of
from corgi.bench.values import SIZE_MIN, Stamps, read_stamp
from corgi.client.corgi import Corgi, connect
from corgi.client.messages import Message

PATIENCE_S = 120.0
PUBLISHED_AT_ONCE = 20_000
WAYS = ("stream", "group", "handlers")


@dataclass(frozen=True, slots=True)
class BacklogOptions:
    """``size`` in bytes of each value; ``blocked_s`` and ``rate`` only for ``blocked_key``."""

    records: int = 300_000
    size: int = 100
    partitions: int = 8
    keys: int = 10_000
    concurrency: int = 512
    blocked_s: float = 0.0
    rate: float = 1_000.0
    pairs: int = 1

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        check_count("records", self.records, 10, 100_000_000)
        check_count("size", self.size, SIZE_MIN, 8 << 20)
        check_count("partitions", self.partitions, 1, 10_000)
        check_count("keys", self.keys, 2, 10_000_000)
        check_count("concurrency", self.concurrency, 2, 100_000)
        check_count("blocked", self.blocked_s, 0, 86_400)
        check_count("rate", self.rate, 1, 1_000_000)
        check_count("pairs", self.pairs, 1, 100)


async def backlog(target: Target, options: BacklogOptions) -> dict[str, Any]:
    """{"stream_per_s", "group_per_s", "handlers_per_s", "lost", "duplicated"}."""
    options.check()
    async with connect(target.native) as mq:
        topic = fresh_topic()
        await mq.topics.create(topic, partitions=options.partitions)
        try:
            await _fill(mq, topic, options)
            gc.freeze()
            told: dict[str, Any] = {}
            lost = duplicated = 0
            for way, take in zip(WAYS, (_stream, _group, _handlers), strict=True):
                count = _Count(options)
                async with asyncio.timeout(PATIENCE_S):
                    await take(mq, topic, count, options)
                told[f"{way}_per_s"] = round(options.records / count.seconds)
                lost += options.records - count.distinct
                duplicated += count.taken - count.distinct
            return {**told, "lost": lost, "duplicated": duplicated}
        except TimeoutError:
            raise CorgiError("timeout", f"the backlog was not consumed in {PATIENCE_S:.0f} s") from None
        finally:
            gc.unfreeze()
            await mq.topics.delete(topic)


async def blocked_key(target: Target, options: BacklogOptions) -> dict[str, Any]:
    """{"free", "blocked" (medians of {"records_per_s", "latency"}), "throughput_ratio", "p50_ratio" (medians of the
    pairs' ratios, blocked / free), "throughput_ratios", "p50_ratios", "lost", "duplicated", "reordered"}."""
    options.check()
    pairs: list[dict[str, dict[str, Any]]] = []
    for number in range(options.pairs):
        kinds = ("free", "blocked") if number % 2 == 0 else ("blocked", "free")
        pairs.append({kind: await _run(target, options, blocked=kind == "blocked") for kind in kinds})
    throughputs = [_ratio(pair, lambda run: run["records_per_s"]) for pair in pairs]
    p50s = [_ratio(pair, lambda run: run["latency"]["p50_ms"]) for pair in pairs]
    runs = [run for pair in pairs for run in pair.values()]
    return {
        **{kind: median_of([_shown(pair[kind]) for pair in pairs]) for kind in ("free", "blocked")},
        "throughput_ratio": round(statistics.median(throughputs), 3),
        "p50_ratio": round(statistics.median(p50s), 3),
        "throughput_ratios": sorted(throughputs),
        "p50_ratios": sorted(p50s),
        **{key: sum(run[key] for run in runs) for key in ("lost", "duplicated", "reordered")},
    }


def _ratio(pair: dict[str, dict[str, Any]], figure: Callable[[dict[str, Any]], float]) -> float:
    return round(figure(pair["blocked"]) / max(figure(pair["free"]), 0.001), 3)


def _shown(run: dict[str, Any]) -> dict[str, Any]:
    return {key: run[key] for key in ("records_per_s", "latency")}


class _Count:
    """What was taken: each offset once, from the first message on."""

    def __init__(self, options: BacklogOptions) -> None:
        self.taken = 0
        self.distinct = 0
        self.all = asyncio.Event()
        self._wanted = options.records
        self._seen: dict[int, set[int]] = {partition: set() for partition in range(options.partitions)}
        self._began = self._ended = 0.0

    @property
    def seconds(self) -> float:
        return max(self._ended - self._began, 1e-9)

    def batch(self, messages: Sequence[Any]) -> None:
        """Of one partition."""
        if not self.taken:
            self._began = time.perf_counter()
        seen = self._seen[messages[0].partition]
        before = len(seen)
        seen.update([message.offset for message in messages])
        self._add(len(messages), len(seen) - before)

    def one(self, message: Any) -> None:
        if not self.taken:
            self._began = time.perf_counter()
        seen = self._seen[message.partition]
        before = len(seen)
        seen.add(message.offset)
        self._add(1, len(seen) - before)

    def _add(self, taken: int, distinct: int) -> None:
        self.taken += taken
        self.distinct += distinct
        if self.distinct >= self._wanted:
            self._ended = time.perf_counter()
            self.all.set()


async def _fill(mq: Corgi, topic: str, options: BacklogOptions) -> None:
    stamps = Stamps(options.size)
    for first in range(0, options.records, PUBLISHED_AT_ONCE):
        numbers = range(first, min(first + PUBLISHED_AT_ONCE, options.records))
        await mq.publish_many(topic, [Message(key=_key(n, options), value=stamps.value(n, 0.0)) for n in numbers])


async def _stream(mq: Corgi, topic: str, count: _Count, options: BacklogOptions) -> None:
    async with mq.subscribe(topic, start="earliest") as subscription:
        await _take(subscription.batches(), count)


async def _group(mq: Corgi, topic: str, count: _Count, options: BacklogOptions) -> None:
    async with mq.subscribe(topic, group=f"{topic}-batches", start="earliest") as subscription:
        await _take(subscription.batches(), count, lambda batch: batch.ack())


async def _take(batches: AsyncIterator[Any], count: _Count, settle: Callable[[Any], None] = lambda _: None) -> None:
    async for batch in batches:
        count.batch(batch)
        settle(batch)
        if count.all.is_set():
            return


async def _handlers(mq: Corgi, topic: str, count: _Count, options: BacklogOptions) -> None:
    async def handler(message: Any) -> None:
        count.one(message)

    group, concurrency = f"{topic}-handlers", options.concurrency
    await mq.run(handler, topic, group=group, concurrency=concurrency, start="earliest", stop=count.all)


def _key(number: int, options: BacklogOptions) -> bytes:
    return b"key-%d" % (number % options.keys)


async def _run(target: Target, options: BacklogOptions, *, blocked: bool) -> dict[str, Any]:
    async with connect(target.native) as mq:
        topic = fresh_topic()
        await mq.topics.create(topic, partitions=options.partitions)
        try:
            await _fill(mq, topic, options)
            return await Handled(mq, topic, options, blocked=blocked).measure()
        finally:
            await mq.topics.delete(topic)


class Handled:
    """One run of handlers, one key of which may be blocked until ``measure`` lets it go."""

    def __init__(self, mq: Corgi, topic: str, options: BacklogOptions, *, blocked: bool) -> None:
        self._mq = mq
        self._topic = topic
        self._options = options
        self._slow = _key(0, options)  # its messages are counted in neither kind of run
        self._go = asyncio.Event()
        self._stop = asyncio.Event()
        self._reached = asyncio.Event()
        self._came: list[tuple[bytes, int]] = []  # key and number, as they came
        self._known: set[int] = set()
        self._others = self._mine = 0
        self._enough: Callable[[], bool] = lambda: False
        self._latency: Histogram | None = None
        self._began = 0.0
        if not blocked:
            self._go.set()

    async def measure(self) -> dict[str, Any]:
        options = self._options
        paced = int(options.rate * options.blocked_s)
        total = options.records + paced
        running = asyncio.create_task(self._work())
        try:
            await self._until(lambda: self._others >= self._counted(options.records), running)
            seconds = time.perf_counter() - self._began
            self._latency = latency = Histogram()
            stamps, pending = Stamps(options.size), []
            async for number, due_s in schedule(options.rate, paced):
                n = options.records + number
                value = stamps.value(n, due_s)
                pending.append(self._mq.publish_nowait(self._topic, value, key=_key(n, options)))
            for receipt in pending:
                await receipt
            await self._until(lambda: self._others >= self._counted(total), running)
            self._latency = None
            self._go.set()
            await self._until(lambda: self._others + self._mine >= total, running)
        finally:
            self._stop.set()
            await asyncio.wait((running,), timeout=PATIENCE_S)
        verdict = audit(((_key(number, options), number) for number in range(total)), self._came)
        return {
            "records_per_s": round(self._counted(options.records) / seconds),
            "latency": latency.summary()._asdict(),
            "lost": verdict.lost,
            "duplicated": verdict.duplicated,
            "reordered": verdict.reordered,
        }

    def _counted(self, total: int) -> int:
        """Of the first ``total`` messages those of other keys."""
        return total - (total + self._options.keys - 1) // self._options.keys

    async def _work(self) -> None:
        handler: Callable[[Any], Awaitable[None]] = self._handle
        options = self._options
        await self._mq.run(
            handler, self._topic, group=self._topic, concurrency=options.concurrency, start="earliest", stop=self._stop
        )

    async def _handle(self, message: Any) -> None:
        now = time.monotonic()
        if not self._began:
            self._began = time.perf_counter()
        key: bytes = message.key
        number, due_s = read_stamp(message.value)
        if key == self._slow:
            await self._go.wait()
            self._mine += self._first_time(key, number)
        else:
            self._others += self._first_time(key, number)
            if self._latency is not None and due_s:
                self._latency.record(now - due_s)
        if self._enough():
            self._reached.set()

    def _first_time(self, key: bytes, number: int) -> int:
        """1, or 0 for a message that came before."""
        self._came.append((key, number))
        known = len(self._known)
        self._known.add(number)
        return len(self._known) - known

    async def _until(self, enough: Callable[[], bool], running: asyncio.Task[None]) -> None:
        """Raises CorgiError "timeout"."""
        self._enough = enough
        self._reached.clear()
        if enough():
            return
        waiting = asyncio.create_task(self._reached.wait())
        done, _ = await asyncio.wait((waiting, running), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        if waiting not in done:
            waiting.cancel()
            if running in done:
                running.result()
            raise CorgiError("timeout", f"{PATIENCE_S:.0f} s were not enough to handle all messages")
