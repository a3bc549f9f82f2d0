"""How long a node with much stored takes from its start until it serves, and what it costs in memory and on disk.

    python benchmarks/restart.py --megabytes 1024 --record 1024 --single --crash
    python benchmarks/restart.py --megabytes 2048 --record 4096 --retention 256

A node of its own, filled through ``Node.submit`` (no client, no network), stopped by a crash or in good order, and
started again. ``--single``: every record is a value of its own, the worst case for index and slot table.
``--retention`` keeps only so many MB, written over and over: what the disk holds then is told at the end.
"""

import argparse
import asyncio
import os
import resource
import tempfile
import time
from pathlib import Path

import uvloop

from corgi.base.command import CommandKind, encode_data
from corgi.base.ids import NodeId, TopicId
from corgi.base.limits import MIB
from corgi.base.records import encode_batch
from corgi.broker.options import NodeOptions
from corgi.runtime.drive import Driver
from corgi.runtime.folder import Folder
from corgi.wire.messages import CreateTopic

GROUPS = 8
IN_FLIGHT = 512


def opened(path: Path, *, new: bool, single: bool) -> tuple[Folder, Driver]:
    folder = Folder.bootstrap(path, bytes(16), NodeId(1), GROUPS) if new else Folder.open(path, NodeId(1), None)
    options = NodeOptions(
        NodeId(1), folder.cluster, folder.incarnation, folder.boot, (NodeId(1),), GROUPS,
        value_bytes_max=1 if single else MIB, window_slots=256 if single else 8,
    )  # fmt: skip
    return folder, Driver(options, folder.path, recovered=folder.mark_recovered)


async def fill(driver: Driver, topic: TopicId, total: int, record: int) -> None:
    """Publish ``total`` bytes in records of ``record`` bytes, one batch each, over all groups."""
    node, loop = driver.node, asyncio.get_running_loop()
    left, flying = total // record, 0
    done = loop.create_future()
    batch = [encode_batch([(None, os.urandom(record), (), int(time.time() * 1000))]) for _ in range(64)]
    lag_since, lag_max = loop.time(), 0.0

    def submit() -> None:
        nonlocal left, flying
        while left and flying < IN_FLIGHT:
            left -= 1
            flying += 1
            body = encode_data([(topic, left % GROUPS, batch[left % 64])])
            group = node.group_of(topic, left % GROUPS)
            node.submit(group, CommandKind.DATA, body, applied, timeout_s=60.0)

    def applied(outcome: object) -> None:
        nonlocal flying
        flying -= 1
        if not left and not flying:
            done.set_result(None)
        else:
            driver._fact(submit)

    def beat() -> None:
        nonlocal lag_since, lag_max
        now = loop.time()
        lag_max = max(lag_max, now - lag_since)
        lag_since = now
        if not done.done():
            loop.call_soon(beat)

    driver._fact(submit)
    beat()
    await done
    print(f"longest turn of the loop while writing: {lag_max * 1000:.1f} ms")


def used(path: Path) -> str:
    files = [file for file in path.rglob("*") if file.is_file()]
    kinds = {suffix: sum(f.stat().st_size for f in files if f.suffix == suffix) / MIB for suffix in (".wal", ".snap")}
    return f"log {kinds['.wal']:.0f} MiB, snapshots {kinds['.snap']:.1f} MiB"


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


async def measure(path: Path, arguments: argparse.Namespace) -> None:
    total, record = arguments.megabytes * MIB, arguments.record
    folder, driver = opened(path, new=True, single=arguments.single)
    await driver.start()
    config = {"retention_bytes": str(arguments.retention * MIB // GROUPS)} if arguments.retention else {}
    created = asyncio.get_running_loop().create_future()
    create = driver.node.requests.administration.create
    driver._fact(create, CreateTopic("t", GROUPS, config), lambda error, text, info: created.set_result(info.topic))
    topic = await created
    before, since = resident_mb(), time.perf_counter()
    await fill(driver, topic, total, record)
    took = time.perf_counter() - since
    print(f"wrote {total / MIB:.0f} MiB in records of {record} bytes in {took:.1f} s, {total / MIB / took:.0f} MiB/s")
    print(f"memory grew by {resident_mb() - before:.0f} MiB for {total // record} records")
    counters = driver.node.counters
    print({name: counters.get(name, 0) for name in ("snapshots", "snapshot_bytes", "segments_freed", "values_moved")})
    if arguments.retention:
        await asyncio.sleep(3)
    print(used(path))
    if arguments.crash:
        driver.disk.abort()
    await driver.stop()
    folder.close()
    await restart(path, arguments)


async def restart(path: Path, arguments: argparse.Namespace) -> None:
    """Start a node that was filled before."""
    since = time.perf_counter()
    folder, driver = opened(path, new=False, single=arguments.single)
    await driver.start()
    node = driver.node
    while not all(group.replica.leading for group in node.groups):  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.001)
    print(f"serves after {time.perf_counter() - since:.2f} s")
    print(f"memory: {resident_mb():.0f} MiB")
    print(f"the node holds {sum(log.count for g in node.groups for log in g.machine.partitions.values())} batches")
    await driver.stop()
    folder.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--record", type=int, default=1024)
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--crash", action="store_true")
    parser.add_argument("--retention", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="leave the node in this folder")
    parser.add_argument("--restart", type=Path, help="only start the node that was left in this folder")
    arguments = parser.parse_args()
    if arguments.restart or arguments.keep:
        work = restart if arguments.restart else measure
        uvloop.run(work(arguments.restart or arguments.keep, arguments))
        return
    with tempfile.TemporaryDirectory() as path:
        uvloop.run(measure(Path(path) / "node", arguments))


if __name__ == "__main__":
    main()
