"""What one Produce and one pushed batch cost in the broker's request layer; no consensus, disk or socket.

Run: python benchmarks/requests.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from corgi.base.batch import check_batch
from corgi.base.command import CommandKind, encode_data
from corgi.base.ids import Offset
from corgi.state.outcomes import AppendResult, Outcome
from corgi.wire import messages as m
from one_node import OneNode, a_batch, produce_of

ROUNDS = 9


class Sink:
    """A session that counts."""

    closed = False

    def __init__(self) -> None:
        self.replies = 0
        self.pushed = 0

    def reply(self, correlation: int, response: Any, payload: Any = ()) -> None:
        self.replies += 1

    def push(self, message: Any, payload: Any) -> None:
        self.pushed += len(message.lengths)

    def buffered(self) -> int:
        return 0


def per_call_us(work: Callable[[], int]) -> float:
    """Best of the rounds, µs per piece of work (other processes share the machine); ``work`` returns its pieces."""
    work()
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        pieces = work()
        taken.append((time.perf_counter() - start) / pieces * 1e6)
    return min(taken)


def produce_cost(record_bytes: int, batches: int, count: int = 2000) -> tuple[float, float]:
    """(µs per batch from request to reply, µs of check_batch alone)."""
    node = OneNode(groups=8)
    topic = node.create("t", 8)
    batch = a_batch(b"x" * record_bytes, producer_id=7, producer_epoch=0, base_sequence=0)
    message, payload = produce_of(2, *[(topic, i % 8, batch) for i in range(batches)])
    view = memoryview(payload)
    client = Sink()
    done: list[Any] = []

    def submit(group: int, kind: CommandKind, body: Any, callback: Any, **_: Any) -> None:
        done.append((callback, Outcome(node.origin, 1, 0, (AppendResult(0, Offset(5)),) * batches, 7)))

    node.submit = submit  # type: ignore[assignment,method-assign]
    received = node.requests.received

    def work() -> int:
        for i in range(count):
            received(client, i, message, view)  # type: ignore[arg-type]
            for callback, outcome in done:
                callback(outcome)
            done.clear()
        return count * batches

    one = memoryview(batch)

    def check_alone() -> int:
        for _ in range(count):
            check_batch(one)
        return count

    return per_call_us(work), per_call_us(check_alone)


def tail_cost(subscribers: int, per_turn: int) -> float:
    """µs per pushed batch when ``per_turn`` batches of one partition are applied and pushed in each turn."""
    node = OneNode(groups=1)
    topic = node.create("t", 1)
    clients = [Sink() for _ in range(subscribers)]
    for client in clients:
        node.requests.received(client, 1, m.Subscribe(1, topic, 0, Offset(0), 2**30), memoryview(b""))  # type: ignore[arg-type]
    node.turns()
    group = node.groups[0]
    body = encode_data([(topic, 0, a_batch(b"x" * 100))])

    def work() -> int:
        spent = 0.0
        before = sum(client.pushed for client in clients)
        for _ in range(300):
            node.apply(group, [node.command(CommandKind.DATA, body) for _ in range(per_turn)])
            start = time.perf_counter()
            node.requests.applied(group)
            node.requests.flush()
            spent += time.perf_counter() - start
        work.spent = spent  # type: ignore[attr-defined]
        return sum(client.pushed for client in clients) - before

    work()
    taken = []
    for _ in range(ROUNDS):
        pieces = work()
        taken.append(work.spent / pieces * 1e6)  # type: ignore[attr-defined]
    return min(taken)


def backlog_cost(record_bytes: int, count: int) -> tuple[float, float]:
    """(µs per batch of a backlog in memory, longest turn in ms)."""
    node = OneNode(groups=1)
    topic = node.create("t", 1)
    group = node.groups[0]
    body = encode_data([(topic, 0, a_batch(b"x" * record_bytes))])
    for _ in range(count // 50):
        node.apply(group, [node.command(CommandKind.DATA, body) for _ in range(50)])
    node.requests.applied(group)
    longest = 0.0

    def work() -> int:
        nonlocal longest
        client = Sink()
        node.requests.received(client, 1, m.Subscribe(1, topic, 0, Offset(0), 2**30), memoryview(b""))  # type: ignore[arg-type]
        while client.pushed < count:
            start = time.perf_counter()
            node.requests.flush()
            longest = max(longest, time.perf_counter() - start)
        node.requests.session_closed(client)  # type: ignore[arg-type]
        return count

    return per_call_us(work), longest * 1000


def main() -> None:
    for record_bytes, batches in ((100, 1), (1024, 1), (16 * 1024, 1), (1024, 16)):
        whole, check = produce_cost(record_bytes, batches)
        print(
            f"produce  {record_bytes:6} B x {batches:2} batches   {whole:6.2f} µs a batch,"
            f" {check:5.2f} of it check_batch, {whole - check:5.2f} beyond it"
        )
    for subscribers, per_turn in ((1, 1), (1, 16), (10, 1), (100, 1)):
        cost = tail_cost(subscribers, per_turn)
        print(f"push     {subscribers:4} subscribers, {per_turn:2} batches a turn   {cost:6.2f} µs a batch")
    for record_bytes in (100, 16 * 1024):
        cost, longest = backlog_cost(record_bytes, 10_000)
        print(f"backlog  {record_bytes:6} B batches   {cost:6.2f} µs a batch, longest turn {longest:.2f} ms")


if __name__ == "__main__":
    main()
