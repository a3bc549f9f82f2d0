"""How long writing pauses when the node that leads is stopped, cut off or half cut off, and who loses leadership when a
node restarts, stalls, or sees only some of its peers.

The load and the gap are those of ``failover``: publishes to every partition by a timetable, the longest wait, the
maximum over the partitions. The links between the nodes are those of ``corgi chaos``. How often leadership changed
comes from the nodes' own logs, whose clock is this process's; groups that the victim led are counted apart, because
losing those may be right.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from corgi.base.errors import CorgiError
from corgi.base.limits import GROUPS_DEFAULT, SUSPICION_S
from corgi.bench.failover import FailoverOptions, Publishes, busiest_leader, publish_load, read_back
from corgi.bench.target import NODES, check_count, file_system, fresh_topic
from corgi.chaos.cluster import ChaosCluster
from corgi.chaos.health import wait_healthy
from corgi.chaos.logs import leaderships
from corgi.client.corgi import Corgi, connect
from corgi.server.local import LocalOptions

STALL_S = 0.3
HEALTHY_S = 30.0
HOME_S = 15.0
POLL_S = 0.1

Fault: TypeAlias = Callable[[ChaosCluster, int, float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class GapOptions:
    """``hold_s``: for how long the fault lasts; ``rate`` per partition."""

    fault: str
    hold_s: float = 2.0
    rate: float = 50.0
    partitions: int = 8
    before_s: float = 1.0
    after_s: float = 2.0

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        if self.fault not in FAULTS:
            raise CorgiError("invalid-argument", f"{self.fault!r} is no fault", hint="there are " + ", ".join(FAULTS))
        check_count("hold", self.hold_s, 0.1, 600)
        self.load.check()

    @property
    def load(self) -> FailoverOptions:
        return FailoverOptions(
            rate=self.rate, partitions=self.partitions, before_s=self.before_s, after_s=self.hold_s + self.after_s
        )


@contextmanager
def gap_cluster(folder: Path | None, suspicion_ms: int = round(SUSPICION_S * 1000)) -> Iterator[ChaosCluster]:
    """Three nodes with links between them, in ``folder`` or a temporary one."""
    place = folder or Path(tempfile.mkdtemp(prefix="corgi-bench-"))
    options = LocalOptions(folder=place, nodes=NODES, groups=GROUPS_DEFAULT, suspicion_ms=suspicion_ms)
    try:
        with ChaosCluster(options) as cluster:
            yield cluster
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def describe_cluster(cluster: ChaosCluster) -> dict[str, Any]:
    """What belongs beside a figure."""
    where = cluster.options.folder
    return {"cluster": f"{len(cluster.nodes)} local processes, linked", "file_system": file_system(where)}


async def measure_gap(cluster: ChaosCluster, options: GapOptions) -> dict[str, Any]:
    """One fault: {"fault", "gap_ms", "gap_before_ms", "changes", "changes_elsewhere", "changes_most", "lost", …}.

    ``changes``: how often a node began to lead a group, from the fault to the end of the load; ``changes_elsewhere``:
    of groups that the victim had not led; ``changes_most``: of the group that changed most.
    """
    options.check()
    async with connect(cluster.native) as mq:
        await wait_healthy(mq, len(cluster.nodes), HEALTHY_S)
        topic = fresh_topic()
        await mq.topics.create(topic, partitions=options.partitions)
        await _wait_home(mq, topic)
        published = Publishes()
        load = asyncio.create_task(publish_load(mq, topic, options.load, published))
        await asyncio.sleep(options.before_s)
        victim, led = busiest_leader(await mq.topics.describe(topic))
        began = time.monotonic()
        await FAULTS[options.fault](cluster, victim, options.hold_s)
        await load
        await wait_healthy(mq, len(cluster.nodes), HEALTHY_S)
        verdict = await read_back(mq, topic, published)
        await mq.topics.delete(topic)
    first = min(due for _, due, _ in published.waits)
    calm = Publishes(waits=[wait for wait in published.waits if wait[2] < began])
    changed = Counter(group for group, _, at in leaderships([n.log for n in cluster.nodes]) if at >= began)
    gaps = published.gaps_s(began, float("inf"))
    before = calm.gaps_s(first + 0.25, began)
    return {
        "fault": options.fault,
        "gap_ms": round(max(gaps.values(), default=0.0) * 1000, 2),
        "gap_before_ms": round(max(before.values(), default=0.0) * 1000, 2),
        "changes": changed.total(),
        "changes_elsewhere": sum(count for group, count in changed.items() if group not in led),
        "changes_most": max(changed.values(), default=0),
        "groups_led": len(led),
        "publishes": len(published.waits),
        "errors": dict(published.errors),
        **verdict._asdict(),
    }


async def _wait_home(mq: Corgi, topic: str) -> None:
    """Until every group is led by the node that is preferred, or HOME_S have passed: a group that still goes home from
    the last fault would count as a change that this one made."""
    deadline = time.monotonic() + HOME_S
    while time.monotonic() < deadline:
        if all(partition.leader == partition.replicas[0] for partition in (await mq.topics.describe(topic)).partitions):
            return
        await asyncio.sleep(POLL_S)


async def _kill(cluster: ChaosCluster, victim: int, hold_s: float) -> None:
    await asyncio.to_thread(cluster.kill, victim)
    await asyncio.sleep(hold_s)
    await asyncio.to_thread(cluster.start_nodes, [cluster.node(victim)])


async def _stop(cluster: ChaosCluster, victim: int, hold_s: float) -> None:
    cluster.halt(victim)
    await asyncio.sleep(hold_s)
    cluster.go_on(victim)


async def _stall(cluster: ChaosCluster, victim: int, hold_s: float) -> None:
    await _stop(cluster, victim, STALL_S)
    await asyncio.sleep(max(0.0, hold_s - STALL_S))


async def _isolate(cluster: ChaosCluster, victim: int, hold_s: float) -> None:
    cluster.network.isolate(victim)
    await _held(cluster, hold_s)


async def _mute(cluster: ChaosCluster, victim: int, hold_s: float) -> None:
    for node in cluster.nodes:
        if node.node != victim:
            cluster.network.hold(victim, node.node)
    await _held(cluster, hold_s)


async def _deaf(cluster: ChaosCluster, victim: int, hold_s: float) -> None:
    for node in cluster.nodes:
        if node.node != victim:
            cluster.network.hold(node.node, victim)
    await _held(cluster, hold_s)


async def _chain(cluster: ChaosCluster, victim: int, hold_s: float) -> None:
    other = next(node.node for node in cluster.nodes if node.node != victim)
    cluster.network.cut(victim, other)
    await _held(cluster, hold_s)


async def _restart(cluster: ChaosCluster, victim: int, hold_s: float) -> None:
    """In good order: the node hands over what it leads, and nothing else may change."""
    await asyncio.to_thread(cluster.terminate, victim)
    await asyncio.to_thread(cluster.start_nodes, [cluster.node(victim)])


async def _held(cluster: ChaosCluster, hold_s: float) -> None:
    await asyncio.sleep(hold_s)
    cluster.network.heal()


FAULTS: dict[str, Fault] = {
    "kill": _kill,
    "stop": _stop,
    "isolate": _isolate,
    "mute": _mute,
    "deaf": _deaf,
    "restart": _restart,
    "stall": _stall,
    "chain": _chain,
}
