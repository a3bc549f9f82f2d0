"""Does a slow consumer cost a fast one anything? Echo latency of the fast one on one partition, with and without a
consumer of the same partition beside it that takes a hundredth of what is published.

Measured in pairs, one run right after the other and in turn first, so that what else happens on the machine meets both
alike; the figure is the median of the pairs' ratios.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from corgi.bench.echo import EchoOptions, echo_on, line_of
from corgi.bench.target import Target, check_count, fresh_topic
from corgi.client.corgi import connect

SLOW = "corgi.bench.slow_consumer"


@dataclass(frozen=True, slots=True)
class SlowOptions:
    """``rate`` per second; the slow consumer takes ``rate`` / ``factor``. ``size`` in bytes per value."""

    rate: float = 1_000.0
    records: int = 4_000
    size: int = 100
    factor: float = 100.0
    pairs: int = 7

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        check_count("factor", self.factor, 1, 1_000_000)
        check_count("pairs", self.pairs, 1, 100)
        check_count("rate", self.rate, 1, 1_000_000)
        self.echo.check()

    @property
    def echo(self) -> EchoOptions:
        return EchoOptions(rate=self.rate, records=self.records, size=self.size, partitions=1)


async def slow_beside_fast(target: Target, options: SlowOptions) -> dict[str, Any]:
    """{"pairs": [{"alone", "beside"}], "p50_ratio", "p99_ratio" (medians), "p50_ratios", "p99_ratios"}."""
    options.check()
    pairs: list[dict[str, Any]] = []
    for number in range(options.pairs):
        pair: dict[str, Any] = {}
        for kind in ("alone", "beside") if number % 2 == 0 else ("beside", "alone"):
            pair[kind] = (await _run(target, options, slow=kind == "beside"))["latency"]
        pairs.append(pair)
    p50s, p99s = ([_ratio(pair, figure) for pair in pairs] for figure in ("p50_ms", "p99_ms"))
    return {
        "pairs": pairs,
        "p50_ratio": round(statistics.median(p50s), 3),
        "p99_ratio": round(statistics.median(p99s), 3),
        "p50_ratios": _spread(p50s),
        "p99_ratios": _spread(p99s),
    }


def _ratio(pair: dict[str, Any], figure: str) -> float:
    return float(pair["beside"][figure]) / max(float(pair["alone"][figure]), 0.001)


def _spread(ratios: Sequence[float]) -> list[float]:
    return [round(ratio, 3) for ratio in sorted(ratios)]


async def _run(target: Target, options: SlowOptions, *, slow: bool) -> dict[str, Any]:
    async with connect(target.native) as mq:
        topic = fresh_topic()
        await mq.topics.create(topic, partitions=1)
        try:
            async with _slow_consumer(target, topic, options) if slow else contextlib.nullcontext():
                return await echo_on(mq, target, topic, options.echo)
        finally:
            await mq.topics.delete(topic)


@contextlib.asynccontextmanager
async def _slow_consumer(target: Target, topic: str, options: SlowOptions) -> AsyncIterator[None]:
    arguments = [target.native, topic, str(options.factor / options.rate)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", SLOW, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        await line_of(process)  # it says that it is attached
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
