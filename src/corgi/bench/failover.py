"""How long writing pauses when a node that leads is killed (-9), and where the time goes.

Every partition gets publishes at a fixed rate. A partition's write gap is the longest time that a publish to it waited
for its acknowledgement, counted from its scheduled time; the figure is the maximum over the partitions. A pause between
acknowledgements over all partitions would hide a group that stands still. Afterwards everything is read back.

The terms come from the logs of the nodes that live on, whose clock is this process's: kill → first peer sees the
connection closed → Prepare sent → promises of a majority → new leader's first accept is durable → client acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corgi.base.errors import CorgiError
from corgi.bench.audit import Item, Verdict, audit
from corgi.bench.pace import schedule
from corgi.bench.target import Target, check_count, fresh_topic
from corgi.bench.values import SIZE_MIN, Stamps
from corgi.client.corgi import Corgi, connect
from corgi.client.messages import TopicDescription
from corgi.client.receipts import PendingReceipt

LEAST_RATE = 50.0  # publishes per second and partition, below which a gap is measured too coarsely
DRAIN_S = 60.0
EVENTS = ("peer-lost", "prepare-sent", "promise-quorum", "leading")


@dataclass(frozen=True, slots=True)
class FailoverOptions:
    """``rate`` per partition; the node is killed after ``before_s`` of steady load, which goes on for ``after_s``."""

    rate: float = LEAST_RATE
    partitions: int = 8
    size: int = 100
    before_s: float = 2.0
    after_s: float = 2.0
    restart: bool = True

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        check_count("rate", self.rate, 1, 10_000)
        check_count("partitions", self.partitions, 1, 1_000)
        check_count("size", self.size, SIZE_MIN, 1 << 20)
        check_count("before", self.before_s, 0.5, 3_600)
        check_count("after", self.after_s, 0.5, 3_600)


@dataclass(slots=True)
class Publishes:
    """What was published; times are monotonic seconds."""

    sent: list[Item] = field(default_factory=list)  # (partition, value) of the acknowledged
    unknown: list[Item] = field(default_factory=list)
    waits: list[tuple[int, float, float]] = field(default_factory=list)  # partition, due, acknowledged
    errors: Counter[str] = field(default_factory=Counter)

    def gaps_s(self, since: float, until: float) -> dict[int, float]:
        """Per partition the longest wait of the publishes that were waiting at some time in this span."""
        gaps: dict[int, float] = {}
        for partition, due, acknowledged in self.waits:
            if acknowledged >= since and due < until:
                gaps[partition] = max(gaps.get(partition, 0.0), acknowledged - due)
        return gaps


async def failover(target: Target, options: FailoverOptions) -> dict[str, Any]:
    """One kill: {"gap_ms", "gap_before_ms", "terms_ms": {…}, "lost", "duplicated", "reordered", …}.

    The killed node is started again at the end. Raises "invalid-argument" for a cluster that is not our own.
    """
    options.check()
    local = target.local
    if local is None:
        raise CorgiError(
            "invalid-argument", "failover kills a node, and does so only to a cluster of its own", hint="omit --cluster"
        )
    async with connect(target.native) as mq:
        topic = fresh_topic()
        await mq.topics.create(topic, partitions=options.partitions)
        published = Publishes()
        load = asyncio.create_task(publish_load(mq, topic, options, published))
        await asyncio.sleep(options.before_s)
        victim, groups = busiest_leader(await mq.topics.describe(topic))
        killed = await asyncio.to_thread(local.kill, victim)
        await load
        if options.restart:
            await asyncio.to_thread(local.start_nodes, [local.node(victim)])
        verdict = await read_back(mq, topic, published)
        await mq.topics.delete(topic)
    began = min(due for _, due, _ in published.waits)
    gaps = published.gaps_s(killed, float("inf"))
    slowest = max(gaps, key=lambda partition: gaps[partition])
    logs = [node.log for node in local.nodes if node.node != victim]
    return {
        "gap_ms": _ms(gaps[slowest]),
        "gap_before_ms": _ms(max(published.gaps_s(began + 0.25, killed - 0.001).values(), default=0.0)),
        "terms_ms": terms_ms(read_events(logs), killed, groups, _first_acknowledged(published, killed)),
        "victim": victim,
        "groups_led": len(groups),
        "slowest_partition": slowest,
        "publishes": len(published.waits),
        "errors": dict(published.errors),
        **verdict._asdict(),
    }


def busiest_leader(topic: TopicDescription) -> tuple[int, set[int]]:
    """The node that leads most of the topic's partitions, and the groups it leads."""
    led = Counter(partition.leader for partition in topic.partitions if partition.leader)
    if not led:
        raise CorgiError("no-quorum", "no partition has a leader")
    victim = max(led, key=lambda node: (led[node], -node))
    return victim, {partition.group for partition in topic.partitions if partition.leader == victim}


def read_events(logs: Iterable[Path]) -> list[dict[str, Any]]:
    """The takeover events of the nodes' logs, in the order in which they happened."""
    events: list[dict[str, Any]] = []
    for log in logs:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("{"):
                event = json.loads(line)
                if event["event"] in EVENTS:
                    events.append(event)
    return sorted(events, key=lambda event: float(event["monotonic_s"]))


def terms_ms(
    events: Sequence[Mapping[str, Any]], killed: float, groups: set[int], acknowledged: float
) -> dict[str, float]:
    """Milliseconds from the kill to each step: the first close, and the last of the victim's groups for the others."""
    after = [event for event in events if float(event["monotonic_s"]) >= killed]
    terms: dict[str, float] = {}
    closes = [float(event["monotonic_s"]) for event in after if event["event"] == "peer-lost"]
    if closes:
        terms["connection_closed"] = _ms(min(closes) - killed)
    for name, key in (("prepare-sent", "prepare"), ("promise-quorum", "promises"), ("leading", "first_accept")):
        first_of: dict[int, float] = {}
        for event in after:
            if event["event"] == name and event["group"] in groups:
                first_of.setdefault(event["group"], float(event["monotonic_s"]))
        if first_of:
            terms[key] = _ms(max(first_of.values()) - killed)
    terms["client_acknowledged"] = _ms(acknowledged - killed)
    return terms


async def publish_load(mq: Corgi, topic: str, options: FailoverOptions, published: Publishes) -> None:
    """All partitions in turn, each at its rate, until the time is over and every outcome known."""
    stamps = Stamps(options.size)
    rate = options.rate * options.partitions
    count = round(rate * (options.before_s + options.after_s))
    async with asyncio.TaskGroup() as tasks:
        async for number, due in schedule(rate, count):
            partition = number % options.partitions
            value = stamps.value(number, due)
            pending = mq.publish_nowait(topic, value, partition=partition)
            tasks.create_task(_acknowledged(pending, partition, value, due, published))


async def _acknowledged(
    pending: PendingReceipt, partition: int, value: bytes, due: float, published: Publishes
) -> None:
    try:
        await pending
    except CorgiError as error:
        published.errors[error.code] += 1
        published.unknown.append((partition, value))
    else:
        published.sent.append((partition, value))
    published.waits.append((partition, due, time.monotonic()))


async def read_back(mq: Corgi, topic: str, published: Publishes) -> Verdict:
    """A new reader reads every partition to its end and compares."""
    ends = {partition: end for partition, end in (await mq.topics.offsets(topic, "latest")).items() if end}
    seen: list[Item] = []
    async with asyncio.timeout(DRAIN_S), mq.subscribe(topic, start="earliest") as subscription:
        async for batch in subscription.batches():
            seen.extend((message.partition, message.value) for message in batch)
            if batch[-1].offset + 1 >= ends.get(batch[-1].partition, 0):
                ends.pop(batch[-1].partition, None)
            if not ends:
                break
    in_order = sorted(published.sent, key=lambda item: item[1] if isinstance(item[1], bytes) else b"")
    return audit(in_order, seen, unacknowledged=published.unknown)


def _first_acknowledged(published: Publishes, killed: float) -> float:
    """When the last partition that stood still had its first acknowledgement after the kill."""
    first: dict[int, float] = {}
    for partition, _, acknowledged in published.waits:
        if acknowledged >= killed:
            first[partition] = min(first.get(partition, acknowledged), acknowledged)
    return max(first.values(), default=killed)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
