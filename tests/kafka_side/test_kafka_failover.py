"""A leader dies under Kafka's own clients: nothing is lost, nothing doubled, and the pause is short.

Each client runs in a process of its own, with its defaults but for what docs/kafka.md recommends; the longest pauses
are told in the test's properties.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foreign
import pytest
from confluent_kafka import Producer

from corgi.server.local import LocalCluster, LocalOptions

STEADY = Path(__file__).parent / "clients" / "steady.py"
IN_PYTHON = ["confluent", "aiokafka", "kafka-python"]
CLIENTS = [*IN_PYTHON, *[client for client in foreign.CLIENTS if client not in IN_PYTHON]]
BEFORE_S, AFTER_S = 1.0, 2.5
PAUSE_S_MAX = 3.0  # of a machine that does much else; pytest -s shows the pauses
SLOW_READERS = {"kafkajs": 30.0}  # it reads in groups only; of a dead coordinator it asks nobody else (docs/kafka.md)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(LocalOptions(folder=tmp_path / "cluster", nodes=3, groups=4, kafka_port=0)) as running:
        yield running


class Steady:
    """One running client. ``seen``: number, offset and monotonic time of what it told so far."""

    def __init__(self, client: str, what: str, cluster: LocalCluster, topic: str) -> None:
        python = [sys.executable, "-W", "ignore", str(STEADY), client]
        program = python if client in IN_PYTHON else foreign.command(client)
        self.process = subprocess.Popen(
            [*program, what, cluster.kafka, topic], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=foreign.environment(),
        )  # fmt: skip
        self.seen: list[tuple[int, int, float]] = []

    def run_until(self, at: float) -> None:
        """Until it has seen something later than this time."""
        assert self.process.stdout is not None
        while not self.seen or self.seen[-1][2] < at:
            self._take(self.process.stdout.readline())

    def end(self) -> dict[str, Any]:
        """Let it end; what it told at the end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        *lines, last = self.process.stdout
        assert self.process.wait(60) == 0
        for line in lines:
            self._take(line)
        found: dict[str, Any] = json.loads(last)
        return found

    def _take(self, line: str) -> None:
        number, offset, at = line.split()
        self.seen.append((int(number), int(offset), float(at)))

    def longest_pause_s(self) -> float:
        times = [at for _, _, at in self.seen]
        return max(after - before for before, after in itertools.pairwise(times))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def leader_of(servers: str, topic: str) -> int:
    producer = Producer({"bootstrap.servers": servers, "log_level": 0})
    return int(producer.list_topics(topic, timeout=10).topics[topic].partitions[0].leader)


@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_is_lost_or_doubled_when_the_leader_is_killed(
    cluster: LocalCluster, client: str, record_property: Callable[[str, object], None]
) -> None:
    topic = "steady"
    leader = leader_of(cluster.kafka, topic)
    writer, reader = (Steady(client, what, cluster, topic) for what in ("publish", "read"))
    try:
        reader.run_until(0.0)
        writer.run_until(time.monotonic() + BEFORE_S)
        killed_at = cluster.kill(leader)
        servers = ",".join(node.kafka for node in cluster.nodes if node.pid)
        assert leader_of(servers, topic) != leader, "told at once"
        writer.run_until(killed_at + AFTER_S)
        told = writer.end()
        own = Producer({"bootstrap.servers": servers})
        own.produce(topic, b"end", partition=0)
        assert own.flush(20) == 0
        reader.end()
    finally:
        writer.stop()
        reader.stop()
    assert told["failed"] == []
    numbers = list(range(told["sent"]))
    assert [number for number, _, _ in reader.seen] == numbers
    places = {number: offset for number, offset, _ in writer.seen}
    assert len(writer.seen) == len(places) == len(numbers)
    assert places == {number: offset for number, offset, _ in reader.seen}
    pauses = {"publishing": writer.longest_pause_s(), "reading": reader.longest_pause_s()}
    for what, pause in pauses.items():
        record_property(f"{client}, longest pause {what}, ms", round(pause * 1000))
    sys.stdout.write(f"{client}: {pauses}\n")
    assert pauses["publishing"] < PAUSE_S_MAX
    assert pauses["reading"] < SLOW_READERS.get(client, PAUSE_S_MAX)
