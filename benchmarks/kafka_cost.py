"""What a Fetch and a Produce of 64 KiB cost the processor of a node, beyond replication.

    python benchmarks/kafka.py cost [--profile]

One node of its own process, with its log in memory where the machine has /dev/shm, and one connection to it from here.
The figure is the node's own processor time, in the kernel and outside of it, for each request: sockets, the listener,
the request, consensus of one, the log. ``--profile`` shows the shares of the broker's parts in the processor time of
its loop, and the functions that take the most. Profiling makes calls dearer than they are, and the kernel's part
cheaper.
"""

from __future__ import annotations

import asyncio
import cProfile
import io
import os
import pstats
import re
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop
from kafka_connections import a_produce, acknowledged, answer, dial, framed, make_topic

from corgi.base.records import encode_batch
from corgi.testing.embedded import Broker

TOPIC = "cost"
RECORD_BYTES = 1024
RECORDS = 64
WARM, ROUNDS, REPEAT = 200, 1_000, 5
SHOWN, PARTS_SHOWN = 30, 20
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def a_fetch(offset: int, size: int) -> bytes:
    """Version 4: one batch of partition 0."""
    name = struct.pack(">h", len(TOPIC)) + TOPIC.encode()
    body = struct.pack(">iiiib", -1, 500, 1, size, 0)
    return framed(1, 4, body + struct.pack(">i", 1) + name + struct.pack(">iiqi", 1, 0, offset, size))


async def serve(profile: bool) -> None:
    """The node: tells where it listens, then its processor time in microseconds at each line that it is sent."""
    profiler = cProfile.Profile(time.thread_time_ns, 1e-9)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        async with Broker(Path(folder) / "node", groups=1, kafka=True) as broker:
            say(broker.kafka_servers)
            lines = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(0, "rb", closefd=False)
            )
            while line := await lines.readline():
                if profile and line == b"begin\n":
                    profiler.enable()
                elif profile and line == b"end\n":
                    profiler.disable()
                used = resource.getrusage(resource.RUSAGE_SELF)
                say(str(round(1e6 * (used.ru_utime + used.ru_stime))))
    if profile:
        text = io.StringIO()
        stats = pstats.Stats(profiler, stream=text)
        parts = shares(stats.stats)  # type: ignore[attr-defined]
        whole = sum(parts.values())
        for part, took in parts.most_common(PARTS_SHOWN):
            text.write(f"{took / whole:6.1%}  {part}\n")
        stats.sort_stats("tottime").print_stats(SHOWN)
        sys.stderr.write(text.getvalue())


def shares(stats: dict[Any, Any]) -> Counter[str]:
    """Seconds by part of the broker; what is not Python is its caller's."""
    found: Counter[str] = Counter()
    for function, (_, _, took, _, callers) in stats.items():
        if function[0] != "~":
            found[part_of(function[0])] += took
            continue
        for caller, (_, _, for_caller, _) in callers.items():
            found[part_of(caller[0])] += for_caller
    return found


def part_of(path: str) -> str:
    """A package of Corgi's, a module of its runtime, or "the loop"."""
    found = re.search(r"/corgi/(runtime/\w+|\w+)", path)
    return found[1] if found else "the loop"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Node:
    """The node's process."""

    def __init__(self, *, profile: bool) -> None:
        words = [sys.executable, __file__, *(["--profile"] if profile else [])]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = self._line()

    def used_us(self, word: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def fetched(plug: socket.socket, request: bytes, size: int) -> None:
    """Send what ``a_fetch`` made, and demand so many bytes of records."""
    plug.sendall(request)
    if len(answer(plug)) < size:
        raise ValueError("a fetch was answered by less than the batch")


def measure(*, profile: bool, only: str = "") -> None:
    """Print the figures, of one API only."""
    values = [os.urandom(RECORD_BYTES) for _ in range(RECORDS)]
    batch = encode_batch([(None, value, (), 1_700_000_000_000) for value in values])
    produce = a_produce(TOPIC, batch)
    fetches = [a_fetch(RECORDS * number, len(batch)) for number in range(WARM)]
    node = Node(profile=profile)
    make_topic(node.address, TOPIC)
    with dial(node.address) as plug:
        for _ in range(WARM):
            acknowledged(plug, produce)
        for fetch in fetches:
            fetched(plug, fetch, len(batch))
        asks = {
            "Fetch": lambda number: fetched(plug, fetches[number % WARM], len(batch)),
            "Produce": lambda _: acknowledged(plug, produce),
        }
        for what, ask in asks.items():  # Fetch first, while what is fetched is in memory
            if only not in ("", what):
                continue
            took = []
            for _ in range(REPEAT):
                before = node.used_us("begin")
                for number in range(ROUNDS):
                    ask(number)
                took.append((node.used_us("end") - before) / ROUNDS)
            took.sort()
            print(f"{what} of {len(batch)} bytes: {took[REPEAT // 2]:.0f} µs ({took[0]:.0f} to {took[-1]:.0f})")
    node.end()


if __name__ == "__main__":
    uvloop.run(serve("--profile" in sys.argv))
