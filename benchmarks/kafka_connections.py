"""What many Kafka connections cost one of three nodes: idle ones, and such that announce much and send little.

    python benchmarks/kafka.py connections

Memory is the growth of the node's resident set while the connections are open. What others feel is the time from
sending one record of 100 bytes to its acknowledgement, one after the other: seven pairs of windows, in turn without and
with the idle connections. "Claimed" are connections of which each announces a request of 32 MiB, the largest that is
taken, and sends 50 KB of it; who announces 2 GiB is closed at once.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from corgi.base.records import encode_batch
from corgi.server.local import LocalCluster, LocalOptions

CONNECTIONS = 1_000
PAIRS = 7
ROUNDS = 300
TOPIC = "many"
ASK_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 7, -1)
CLAIM = struct.pack(">i", 32 * 1024 * 1024)
TOO_LARGE = struct.pack(">i", 2**31 - 1)
DRIBBLE = 50_000


def dial(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    plug = socket.create_connection((host, int(port)), timeout=30)
    plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plug


def answer(plug: socket.socket) -> bytes:
    head = plug.recv(4, socket.MSG_WAITALL)
    return plug.recv(int.from_bytes(head), socket.MSG_WAITALL)


def acknowledged(plug: socket.socket, request: bytes) -> None:
    """Send what ``a_produce`` made, and demand that it is taken."""
    plug.sendall(request)
    found = answer(plug)
    topic_bytes = int.from_bytes(found[8:10])
    error = int.from_bytes(found[18 + topic_bytes : 20 + topic_bytes], signed=True)
    if error:
        raise ValueError(f"a produce was refused: {error}")


def framed(key: int, version: int, body: bytes) -> bytes:
    head = struct.pack(">hhih", key, version, 1, -1)
    return struct.pack(">i", len(head) + len(body)) + head + body


def a_produce(topic: str, batch: bytes) -> bytes:
    """Version 3, acks all, to partition 0."""
    name = struct.pack(">h", len(topic)) + topic.encode()
    body = struct.pack(">hhii", -1, -1, 10_000, 1) + name + struct.pack(">iii", 1, 0, len(batch)) + batch
    return framed(0, 3, body)


def a_metadata(topic: str) -> bytes:
    """Version 4, which makes the topic."""
    name = struct.pack(">h", len(topic)) + topic.encode()
    return framed(3, 4, struct.pack(">i", 1) + name + b"\1")


def resident_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def make_topic(address: str, topic: str) -> None:
    with dial(address) as plug:
        until(lambda: error_of_metadata(plug, topic) == 0)


def error_of_metadata(plug: socket.socket, topic: str) -> int:
    plug.sendall(a_metadata(topic))
    found = answer(plug)
    at = found.index(struct.pack(">h", len(topic)) + topic.encode())
    return int.from_bytes(found[at - 2 : at], signed=True)


def until(holds: Callable[[], bool], wait_s: float = 30.0) -> None:
    deadline = time.monotonic() + wait_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to that")
        time.sleep(0.05)


def p50_ms(plug: socket.socket, request: bytes) -> float:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        acknowledged(plug, request)
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


def open_idle(address: str) -> list[socket.socket]:
    plugs = [dial(address) for _ in range(CONNECTIONS)]
    for plug in plugs:
        plug.sendall(ASK_VERSIONS)
        answer(plug)
    return plugs


def close(plugs: list[socket.socket]) -> None:
    for plug in plugs:
        plug.close()


def open_claiming(address: str) -> list[socket.socket]:
    plugs = [dial(address) for _ in range(CONNECTIONS)]
    for plug in plugs:
        plug.sendall(CLAIM + bytes(DRIBBLE))
    return plugs


def refused(address: str) -> int:
    """How many of those that announce 2 GiB are closed."""
    plugs = [dial(address) for _ in range(CONNECTIONS)]
    for plug in plugs:
        plug.sendall(TOO_LARGE + bytes(1000))
    count = sum(plug.recv(1) == b"" for plug in plugs)
    close(plugs)
    return count


def measure() -> None:
    """Print the figures."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    request = a_produce(TOPIC, encode_batch([(None, os.urandom(100), (), 1_700_000_000_000)]))
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(LocalOptions(folder=Path(folder) / "cluster", kafka_port=0)) as cluster,
    ):
        node = cluster.nodes[0]
        make_topic(node.kafka, TOPIC)
        with dial(node.kafka) as plug:
            p50_ms(plug, request)
            alone, beside, grown = [], [], []
            for _ in range(PAIRS):
                alone.append(p50_ms(plug, request))
                before = resident_mb(node.pid)
                plugs = open_idle(node.kafka)
                grown.append(resident_mb(node.pid) - before)
                beside.append(p50_ms(plug, request))
                close(plugs)
            ratios = [with_them / without for with_them, without in zip(beside, alone, strict=True)]
            print(f"{CONNECTIONS} idle connections: {max(grown):.1f} MB at most")
            usual, crowded = statistics.median(alone), statistics.median(beside)
            print(
                f"acknowledgement p50: {usual:.3f} ms alone, {crowded:.3f} ms beside them,"
                f" ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {PAIRS} pairs)"
            )
            before = resident_mb(node.pid)
            plugs = open_claiming(node.kafka)
            with dial(node.kafka) as last:
                last.sendall(ASK_VERSIONS)
                answer(last)  # what was sent before has been read
            claimed = resident_mb(node.pid) - before
            print(f"{CONNECTIONS} that announce 32 MiB and send {DRIBBLE} bytes: {claimed:.1f} MB")
            close(plugs)
            print(f"{CONNECTIONS} that announce 2 GiB: {refused(node.kafka)} are closed")
            print(f"acknowledgement p50 afterwards: {p50_ms(plug, request):.3f} ms")


if __name__ == "__main__":
    measure()
