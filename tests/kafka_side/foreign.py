"""Programs of Kafka's clients in other languages: how each is started, and how a test talks with it.

What the programs do is told in clients/README.md. `make clients` builds those that are not Python.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

CLIENTS = ["kafkajs", "java", "franz-go", "kafka-python"]
SOURCES = Path(__file__).parent / "clients"
BUILT = SOURCES.parents[2] / ".clients"
WAIT_S = 60.0
_FOLDERS = {"kafkajs": "node", "java": "java", "franz-go": "go"}
_JVM = ["java", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]  # small, and soon there


def command(client: str) -> list[str]:
    """The program and its first arguments. Skips the test where it is not built."""
    if client == "kafka-python":
        return [sys.executable, "-W", "ignore", str(SOURCES / "kafka_python_client.py")]
    folder = BUILT / _FOLDERS[client]
    if not (folder / ".ready").exists():
        pytest.skip(f"the client {client} is not built here: make clients")
    if client == "kafkajs":
        return ["node", str(SOURCES / "node" / "client.js")]
    if client == "java":
        return [*_JVM, "-classpath", f"{folder}/classes:{folder}/lib/*", "Client"]
    return [str(folder / "client")]


def environment(sasl: str = "") -> dict[str, str]:
    """Where Node.js finds kafkajs, and nothing that a client would say beside its answer. ``sasl``: "MECHANISM USER
    PASSWORD", by which it comes in."""
    found = {**os.environ, "NODE_PATH": str(BUILT / "node" / "node_modules")}
    return {**found, "CLIENT_SASL": sasl} if sasl else found


def run(client: str, *words: str, sasl: str = "") -> dict[str, Any]:
    """What a program that ends by itself tells at last."""
    ran = ending(client, *words, sasl=sasl)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def ending(client: str, *words: str, sasl: str = "") -> subprocess.CompletedProcess[str]:
    """A program that has ended by itself, in whatever way."""
    return subprocess.run(
        [*command(client), *words], check=False, capture_output=True, text=True, timeout=WAIT_S, env=environment(sasl)
    )


class Member:
    """A running member of a group. ``held``: the partitions that it holds; ``read``: (partition, offset) of what it has
    read, in order."""

    def __init__(self, client: str, servers: str, topic: str, group: str) -> None:
        self.held: tuple[int, ...] = ()
        self.read: list[tuple[int, int]] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._process = subprocess.Popen(
            [*command(client), "member", servers, topic, group],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def leave(self) -> None:
        """End, and say so to the group."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(WAIT_S) == 0, self._process.stderr.read() if self._process.stderr else ""

    def take(self, wait_s: float) -> None:
        """What it has said, waiting for something so long."""
        try:
            line = self._lines.get(timeout=wait_s)
        except queue.Empty:
            return
        word, *rest = line.split()
        if word == "holds":
            self.held = tuple(map(int, rest))
        elif word == "read":
            self.read.append((int(rest[0]), int(rest[1])))

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._listening.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def until(members: list[Member], holds: Callable[[], bool]) -> None:
    """Listen to the members until it is so."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"it did not come to that: {[one.held for one in members]}"
        for one in members:
            one.take(0.02)
