"""How long a record waits until it is durable, by the way in which the log's writer runs (docs/adr/0002-wal-writer.md).

Run: python benchmarks/wal.py [--ways io_uring,thread-5] [--sizes 4096] [--loads idle,half,full] [--rooms zeroed]
     python benchmarks/wal.py --kill      how long after kill -9 a peer sees the connection close, while the disk syncs

Several processes run at once, as nodes on one host do. Each writes one batch, waits until it is told durable, and
writes the next, beside a loop that is idle, computes in small steps about half of the time, or always. Ways alternate
within a round; a figure is the median over the rounds, with the range of p50 in brackets. CPU is the whole system's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

from corgi.base.command import Buffer
from corgi.base.ids import Ballot, GroupId, NodeId, Slot
from corgi.base.limits import MIB
from corgi.base.ports import LogRecord, RecordKind
from corgi.runtime.disk import DiskLog, DiskOptions
from corgi.runtime.preparer import FillOptions
from corgi.runtime.segments import write_fully, write_zeros
from corgi.runtime.syncer import Done, Syncer, ThreadSyncer, UringSyncer, Written

FILE_BYTES = 64 * MIB
WAYS = "thread-5,thread-1,thread-0.2,thread-0.05,io_uring,process"
HELPER = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
file, asked, done = map(int, sys.argv[1:])
while os.read(asked, 1):
    os.fdatasync(file)
    try: os.write(done, b"x")
    except BrokenPipeError: break
"""


class ProcessSyncer:
    """The loop writes, a helper process calls fdatasync on the same open file; pipes between them."""

    name = "process"

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        self._loop = loop
        asked, self._ask = os.pipe()
        self._told, done = os.pipe()
        command = [sys.executable, "-I", "-S", "-c", HELPER, str(fd), str(asked), str(done)]
        self._helper = subprocess.Popen(command, pass_fds=(fd, asked, done))
        os.close(asked)
        os.close(done)
        self._done: Done | None = None
        loop.add_reader(self._told, self._completed)

    def write(
        self, fd: int, buffers: Sequence[Buffer], offset: int, done: Done, *, sync: bool = True, written: Written = None
    ) -> None:
        assert sync, "every write here is synced"
        write_fully(fd, buffers, offset)
        self._done = done
        os.write(self._ask, b"x")

    def close(self) -> None:
        self._loop.remove_reader(self._told)
        os.close(self._ask)
        self._helper.wait()

    def _completed(self) -> None:
        os.read(self._told, 1)
        assert self._done is not None
        self._done(None, None)


def make(way: str, loop: asyncio.AbstractEventLoop, fd: int) -> Syncer:
    if way.startswith("thread-"):
        sys.setswitchinterval(float(way.removeprefix("thread-")) / 1000)
        return ThreadSyncer(loop)
    return UringSyncer(loop) if way == "io_uring" else ProcessSyncer(loop, fd)


class Computing:
    """What else the loop does: steps of about 0.1 ms."""

    def __init__(self, loop: asyncio.AbstractEventLoop, load: str) -> None:
        self._loop = loop
        self._load = load
        if load != "idle":
            self._step()

    def stop(self) -> None:
        self._load = "idle"

    def _step(self) -> None:
        sum(range(4000))
        if self._load == "half":
            self._loop.call_later(0.0001, self._step)
        elif self._load == "full":
            self._loop.call_soon(self._step)


async def write_one_by_one(way: str, size: int, load: str, room: str, seconds: float, folder: str) -> list[float]:
    """Latencies in s of writes of ``size`` bytes."""
    loop = asyncio.get_running_loop()
    fd = os.open(Path(folder) / f"{os.getpid()}", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, FILE_BYTES)
    if room == "zeroed":
        write_zeros(fd, 0, FILE_BYTES)
    os.fsync(fd)
    data = os.urandom(size)
    latencies: list[float] = []
    if way.startswith("log"):
        write, close = await whole_log(Path(folder) / f"log-{os.getpid()}", data, way == "log")
    else:
        write, close = one_file(make(way, loop, fd), fd, data)
    start_together()
    computing = Computing(loop, load)
    end = time.monotonic() + seconds
    while (since := time.monotonic()) < end:
        written = loop.create_future()
        write(written)
        await written
        latencies.append(time.monotonic() - since)
    computing.stop()
    await close()
    os.close(fd)
    return latencies


def one_file(syncer: Syncer, fd: int, data: bytes) -> tuple[Callable[[asyncio.Future[None]], None], Callable]:
    """Write into one file, again from its start when it is full."""
    offset = 0

    def write(written: asyncio.Future[None]) -> None:
        nonlocal offset
        if offset + len(data) > FILE_BYTES:
            offset = 0

        def done(error: OSError | None, at: float | None) -> None:
            assert error is None, error
            written.set_result(None)

        syncer.write(fd, [data], offset, done)
        offset += len(data) + 88

    async def close() -> None:
        syncer.close()

    return write, close


async def whole_log(folder: Path, data: bytes, fills: bool) -> tuple[Callable[[asyncio.Future[None]], None], Callable]:
    """The log as it ships, its first 16 MiB filled with zeros, or without that."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = []
    options = DiskOptions() if fills else DiskOptions(fill=FillOptions(ahead_bytes=0))
    log = DiskLog(
        folder, bytes(16), NodeId(1), loop, lambda records: waiting.pop().set_result(None), print, list, options
    )  # fmt: skip
    list(log.recover())
    log.start()
    for _ in range(500):
        if not fills or log.statistics().filled_bytes >= 16 * MIB:
            break
        await asyncio.sleep(0.01)

    def write(written: asyncio.Future[None]) -> None:
        waiting.append(written)
        log.append(LogRecord(RecordKind.ACCEPT, GroupId(1), Ballot(1), Slot(1), Slot(0), data))

    return write, log.close


def start_together() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def cpu_seconds() -> float:
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def run(way: str, size: int, load: str, room: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One run of all processes: p50 and p99 in ms, writes/s, CPU of the system in µs per write."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        task = json.dumps([way, size, load, room, arguments.seconds, folder])
        command = [sys.executable, __file__, "--task", task]
        children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(arguments.nodes)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        before, since = cpu_seconds(), time.monotonic()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        latencies = sorted(latency for child in children for latency in json.loads(child.communicate()[0]))
        spent, took = cpu_seconds() - before, time.monotonic() - since
    count = len(latencies)
    return {
        "p50_ms": latencies[count // 2] * 1e3,
        "p99_ms": latencies[int(count * 0.99)] * 1e3,
        "writes_per_s": count / took,
        "cpu_us": spent / count * 1e6,
    }


def compare(arguments: argparse.Namespace) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    ways = arguments.ways.split(",")
    for room in arguments.rooms.split(","):
        for size in map(int, arguments.sizes.split(",")):
            for load in arguments.loads.split(","):
                runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
                for _ in range(arguments.rounds):
                    for way in ways:
                        runs[way].append(run(way, size, load, room, arguments))
                for way, results in runs.items():
                    middle = {name: statistics.median(result[name] for result in results) for name in results[0]}
                    p50s = [result["p50_ms"] for result in results]
                    rows.append({"room": room, "size": size, "load": load, "way": way, **middle})
                    if arguments.output == "table":
                        print(
                            f"{room:9} {size:8} {load:5} {way:12} p50 {middle['p50_ms']:7.3f} ms"
                            f" ({min(p50s):.3f}-{max(p50s):.3f})  p99 {middle['p99_ms']:7.3f} ms"
                            f"  {middle['writes_per_s']:6.0f} writes/s  {middle['cpu_us']:6.0f} µs CPU a write",
                            flush=True,
                        )
    return rows


def kill_and_watch(way: str, size: int, folder: str) -> float:
    """Milliseconds from kill -9 of a writing process until its peer sees the connection close."""
    ours, theirs = socket.socketpair()
    task = json.dumps([way, size, "idle", "zeroed", 60.0, folder])
    command = [sys.executable, __file__, "--task", task]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ours, subprocess.Popen(command, pass_fds=(theirs.fileno(),), text=True, **pipes) as child:
        theirs.close()
        assert child.stdout.readline() == "ready\n"
        child.stdin.write("\n")
        child.stdin.flush()
        time.sleep(0.2)
        since = time.monotonic()
        child.kill()
        ours.recv(1)
        return (time.monotonic() - since) * 1e3


def kills(arguments: argparse.Namespace) -> None:
    for size in map(int, arguments.sizes.split(",")):
        found: dict[str, list[float]] = {way: [] for way in arguments.ways.split(",")}
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for _ in range(11):
                for way, times in found.items():
                    times.append(kill_and_watch(way, size, folder))
        for way, times in found.items():
            print(f"{size:8} {way:12} closed after {statistics.median(times):6.2f} ms, at most {max(times):6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ways", default=WAYS, help="of these; log: the whole log as it ships; log-allocated: without zeros"
    )
    parser.add_argument("--sizes", default="4096,65536,1048576")
    parser.add_argument("--loads", default="idle,half")
    parser.add_argument("--rooms", default="zeroed", help="zeroed,allocated")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--folder", default=None, help="on the disk to measure; default: the temporary folder")
    parser.add_argument("--output", choices=["table", "json"], default="table")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(uvloop.run(write_one_by_one(*json.loads(arguments.task)))), flush=True)
    elif arguments.kill:
        kills(arguments)
    else:
        rows = compare(arguments)
        if arguments.output == "json":
            print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
