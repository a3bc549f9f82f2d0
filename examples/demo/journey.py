"""What the demonstration does, and what it finds: publish, consume, kill, restart, read again, compare."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import corgi
from corgi.bench.audit import Verdict, audit
from corgi.bench.failover import busiest_leader
from corgi.bench.histogram import Histogram
from corgi.bench.pace import schedule
from corgi.server.local import LocalCluster

DATA = Path(__file__).resolve().parent.parent / "data" / "flights-2013-01.csv.gz"
TOPIC = "flights"
PARTITIONS = 8
KILL_AT, RESTART_AT = 0.5, 0.75  # shares of the publishing time
WARM_S = 0.5  # before that a gap says more about starting than about running
DRAIN_S = 60.0  # for what is still under way when publishing should be over
UNJUDGED = Verdict(0, 0, 0, 0)

Flight = tuple[bytes, bytes]  # aircraft, and the line of the file, of which no two are the same


@dataclass(frozen=True, slots=True)
class Plan:
    """``flights`` 0: all of them. Publishing is paced to last ``seconds``."""

    seconds: float = 10.0
    flights: int = 0
    kill: bool = True


@dataclass(slots=True, repr=False)
class Journey:
    """Everything that happened; times are monotonic seconds."""

    flights: list[Flight]
    began: float = 0.0
    ended: float = 0.0
    killed: float = float("inf")
    restarted: float = float("inf")
    victim: int = 0
    groups: set[int] = field(default_factory=set)
    due: dict[bytes, float] = field(default_factory=dict)
    acknowledged: list[Flight] = field(default_factory=list)
    receipts: dict[bytes, corgi.Receipt] = field(default_factory=dict)
    waits: list[tuple[float, float]] = field(default_factory=list)  # due, acknowledged
    seen: list[Flight] = field(default_factory=list)
    places: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # partition and offset, as consumed
    reread: list[Flight] = field(default_factory=list)
    acknowledgement: Histogram = field(default_factory=Histogram)
    delivery: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    verdict: Verdict = UNJUDGED
    complaints: list[str] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        return not self.complaints

    def judge(self) -> None:
        """Compare everything with everything; what is not as it should be goes to ``complaints``, in words."""
        found = [f"publishing failed {count} times with {code}" for code, count in self.errors.items()]
        self.verdict = audit(self.flights, self.seen)  # the consumer that was there all the time
        if not self.verdict.clean:
            found.append(f"the consumer saw something else than was published: {self.verdict}")
        again = audit(self.flights, self.reread)
        if not again.clean:
            found.append(f"reading it all again found something else: {again}")
        moved = sum((told.partition, told.offset) != self.places.get(line) for line, told in self.receipts.items())
        if moved:
            found.append(f"{moved} records were not where their receipts said")
        self.complaints = found

    def gap_ms(self, *, during: bool) -> float:
        """The longest that a publish waited for its acknowledgement, from its schedule, over all partitions.

        ``during``: of those that waited at the kill, or were due between it and the restart. Else: of those before.
        """
        waits = [
            acknowledged - due
            for due, acknowledged in self.waits
            if (
                acknowledged >= self.killed and due < self.restarted
                if during
                else acknowledged < self.killed and due > self.began + WARM_S
            )
        ]
        return round(max(waits, default=0.0) * 1000, 1)

    def document(self) -> dict[str, Any]:
        """The figures, for programs."""
        return {
            "records": len(self.seen),
            "aircraft": len({aircraft for aircraft, _ in self.seen}),
            "seconds": round(self.ended - self.began, 2),
            "records_per_s": round(len(self.acknowledged) / (self.ended - self.began), 1),
            "acknowledgement": self.acknowledgement.summary()._asdict(),
            "delivery": self.delivery.summary()._asdict(),
            "gap_before_ms": self.gap_ms(during=False),
            "gap_during_ms": self.gap_ms(during=True),
            "victim": self.victim,
            "groups_led": len(self.groups),
            **self.verdict._asdict(),
            "fine": self.fine,
            "complaints": self.complaints,
        }


def read_flights(path: Path = DATA) -> Iterator[Flight]:
    """(aircraft, line) of every flight, in the order of the file."""
    header, *lines = gzip.decompress(path.read_bytes()).splitlines()
    column = header.split(b",").index(b"tailnum")
    for line in lines:
        yield line.split(b",")[column], line


async def travel(cluster: LocalCluster, plan: Plan, words: Console) -> Journey:
    """The whole demonstration on a running cluster."""
    flights = list(read_flights())[: plan.flights or None]
    journey = Journey(flights)
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=words) as progress:
        async with corgi.connect(cluster.native) as mq, corgi.connect(cluster.native) as reader:
            await mq.topics.create(TOPIC, partitions=PARTITIONS)
            watch = asyncio.create_task(_watch(journey, progress))
            try:
                async with asyncio.timeout(plan.seconds + DRAIN_S), asyncio.TaskGroup() as tasks:
                    tasks.create_task(_consume(reader, journey, len(flights)))
                    tasks.create_task(_publish(mq, journey, plan))
                    if plan.kill:
                        tasks.create_task(_kill(mq, journey, cluster, plan, progress))
                await _read_again(cluster.native, journey)
            except TimeoutError:
                progress.console.print("  it takes too long; what has come until now is judged")
            finally:
                watch.cancel()
    journey.judge()
    return journey


async def _publish(mq: corgi.Corgi, journey: Journey, plan: Plan) -> None:
    """Each flight at its time, keyed by its aircraft; late ones do not move the others."""
    count = len(journey.flights)
    journey.began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        async for number, due in schedule(count / plan.seconds, count, start_s=journey.began):
            aircraft, line = journey.flights[number]
            journey.due[line] = due
            pending = mq.publish_nowait(TOPIC, line, key=aircraft)
            tasks.create_task(_acknowledge(pending, journey, aircraft, line, due))
    journey.ended = time.monotonic()


async def _acknowledge(
    pending: corgi.PendingReceipt, journey: Journey, aircraft: bytes, line: bytes, due: float
) -> None:
    try:
        receipt = await pending
    except corgi.CorgiError as error:
        journey.errors[error.code] += 1
        return
    now = time.monotonic()
    journey.acknowledged.append((aircraft, line))
    journey.receipts[line] = receipt
    journey.waits.append((due, now))
    journey.acknowledgement.record(now - due)


async def _consume(reader: corgi.Corgi, journey: Journey, count: int) -> None:
    """While they arrive, until all have come."""
    async with reader.subscribe(TOPIC, start="earliest") as subscription:
        async for batch in subscription.batches():
            now = time.monotonic()
            for message in batch:
                line = message.value or b""
                journey.seen.append((message.key or b"", line))
                journey.places.setdefault(line, (message.partition, message.offset))
                journey.delivery.record(now - journey.due.get(line, now))
            if len(journey.places) >= count:
                return


async def _kill(mq: corgi.Corgi, journey: Journey, cluster: LocalCluster, plan: Plan, progress: Progress) -> None:
    """kill -9 the node that leads most partitions half way, start it again later."""
    await asyncio.sleep(plan.seconds * KILL_AT)
    journey.victim, journey.groups = busiest_leader(await mq.topics.describe(TOPIC))
    journey.killed = await asyncio.to_thread(cluster.kill, journey.victim)
    progress.console.print(f"  kill -9 node {journey.victim}, which led {len(journey.groups)} of the topic's groups")
    await asyncio.sleep(plan.seconds * (RESTART_AT - KILL_AT))
    journey.restarted = time.monotonic()
    await asyncio.to_thread(cluster.start_nodes, [cluster.node(journey.victim)])
    progress.console.print(f"  node {journey.victim} is back")


async def _read_again(native: str, journey: Journey) -> None:
    """A stranger reads everything from the start, from a connection of its own."""
    async with corgi.connect(native) as mq:
        ends = {partition: end for partition, end in (await mq.topics.offsets(TOPIC, "latest")).items() if end}
        async with asyncio.timeout(DRAIN_S), mq.subscribe(TOPIC, start="earliest") as subscription:
            async for batch in subscription.batches():
                journey.reread.extend((message.key or b"", message.value or b"") for message in batch)
                if batch[-1].offset + 1 >= ends.get(batch[-1].partition, 0):
                    ends.pop(batch[-1].partition, None)
                if not ends:
                    return


async def _watch(journey: Journey, progress: Progress) -> None:
    """Two bars, ten times a second."""
    total = len(journey.flights)
    published = progress.add_task("published", total=total, note="")
    consumed = progress.add_task("consumed", total=total, note="")
    try:
        while True:
            progress.update(published, completed=len(journey.acknowledged))
            progress.update(consumed, completed=len(journey.places))
            await asyncio.sleep(0.1)
    finally:
        progress.update(published, completed=len(journey.acknowledged))
        progress.update(consumed, completed=len(journey.places), note="and read again" if journey.reread else "")
