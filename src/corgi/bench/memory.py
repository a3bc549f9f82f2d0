"""What a node's memory is: idle, after a load that fills its caches, and what each further million records adds.

Reads the processes of a cluster of its own (/proc), so it is of whole nodes, interpreter included. Resident memory is
what counts for how fast the kernel closes a killed node's connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corgi.base.errors import CorgiError
from corgi.base.limits import MIB
from corgi.bench.target import Target, check_count, fresh_topic
from corgi.bench.values import SIZE_MIN, make_values
from corgi.client.corgi import Corgi, connect
from corgi.server.local import LocalCluster

CHUNK = 50_000  # records that exist at once
SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """``records`` of ``size`` bytes, after ``fill_bytes`` that fill tail caches and buffers."""

    records: int = 500_000
    size: int = 100
    partitions: int = 8
    fill_bytes: int = 64 * MIB

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        check_count("records", self.records, 1, 1_000_000_000)
        check_count("size", self.size, SIZE_MIN, 8 << 20)
        check_count("partitions", self.partitions, 1, 10_000)


async def memory(target: Target, options: MemoryOptions) -> dict[str, Any]:
    """One run: {"idle_mb", "filled_mb", "loaded_mb", "bytes_per_million_records"}, each of the largest node."""
    options.check()
    local = target.local
    if local is None:
        raise CorgiError("invalid-argument", "memory is read from local processes", hint="omit --cluster")
    await asyncio.sleep(SETTLE_S)
    idle = resident_bytes(local)
    async with connect(target.native) as mq:
        topic = fresh_topic()
        await mq.topics.create(topic, partitions=options.partitions)
        await _publish(mq, topic, max(1, options.fill_bytes // options.size), options.size, seed=1)
        await asyncio.sleep(SETTLE_S)
        filled = resident_bytes(local)
        await _publish(mq, topic, options.records, options.size, seed=2)
        await asyncio.sleep(SETTLE_S)
        loaded = resident_bytes(local)
        await mq.topics.delete(topic)
    grown = max(after - before for before, after in zip(filled, loaded, strict=True))
    return {
        "idle_mb": _mb(max(idle)),
        "filled_mb": _mb(max(filled)),
        "loaded_mb": _mb(max(loaded)),
        "bytes_per_million_records": round(grown / options.records * 1_000_000),
    }


def resident_bytes(local: LocalCluster) -> Sequence[int]:
    """Resident memory of each node that runs."""
    return [_resident(node.pid) for node in local.nodes if node.pid]


async def _publish(mq: Corgi, topic: str, count: int, size: int, *, seed: int) -> None:
    for start in range(0, count, CHUNK):
        values = make_values(min(CHUNK, count - start), size, seed=seed + start)
        (await mq.publish_many(topic, values)).raise_first()


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _mb(size: int) -> float:
    return round(size / 1e6, 1)
