"""What applying costs: microseconds of processor time per command, and bytes of index per batch.

Every node pays this for every batch. Run it alone: `.venv/bin/python benchmarks/apply.py`.
"""

from __future__ import annotations

import gc
import time
import tracemalloc

from corgi.base.batch import HEADER
from corgi.base.command import CommandKind, encode_command, encode_data, encode_value
from corgi.base.ids import Ballot, GroupId, LeaderEpoch, NodeId, Slot, TopicId, make_origin
from corgi.state.commands import encode_epoch, encode_partition_open
from corgi.state.index import PartitionLog
from corgi.state.machine import Machine

TOPIC = TopicId(16)
PARTITIONS = (3, 11, 19, 27)
COMMANDS = 2_048
ROUNDS = 7
IN_FLIGHT = 64


class Source:
    """Commands of one origin for one machine, as a producer that keeps 64 in flight makes them."""

    def __init__(self) -> None:
        self.machine = Machine(GroupId(3), 8)
        self.counter = 0
        self.sequences: dict[tuple[int, int], int] = {}
        self.run([self.command(CommandKind.EPOCH, encode_epoch(NodeId(1), Ballot(65537)))])
        self.run([self.command(CommandKind.PARTITION_OPEN, encode_partition_open(TOPIC, PARTITIONS, 1, {}))])

    def run(self, commands: list[bytes]) -> None:
        for outcome in self.machine.apply(Slot(self.machine.applied + 1), encode_value(0, commands)):
            assert outcome.error == 0, outcome

    def command(self, kind: CommandKind, body: bytes) -> bytes:
        self.counter += 1
        origin = make_origin(NodeId(1), 1)
        return encode_command(kind, origin, self.counter, max(0, self.counter - IN_FLIGHT), body)

    def batch(self, partition: int, producer: int) -> bytes:
        sequence = self.sequences.get((partition, producer), 0)
        self.sequences[partition, producer] = sequence + 10
        identity = (producer, 0, sequence) if producer >= 0 else (-1, -1, -1)
        return HEADER.pack(0, 49 + 1000, -1, 2, 0, 0, 9, 0, self.counter, *identity, 10) + bytes(1000)

    def append(self, batches: int, producer: int) -> bytes:
        """One command with a batch for each of the first ``batches`` partitions."""
        appends = [(TOPIC, partition, self.batch(partition, producer)) for partition in PARTITIONS[:batches]]
        return self.command(CommandKind.DATA, encode_data(appends))


def cost_us(commands_per_value: int, batches: int, producer: int) -> float:
    """Processor microseconds per command, the best of several rounds."""
    source = Source()
    best = float("inf")
    for _ in range(ROUNDS):
        values = [
            encode_value(0, [source.append(batches, producer) for _ in range(commands_per_value)])
            for _ in range(COMMANDS // commands_per_value)
        ]
        slot = source.machine.applied
        apply = source.machine.apply
        begun = time.process_time()
        for value in values:
            slot = Slot(slot + 1)
            apply(slot, value)
        best = min(best, time.process_time() - begun)
    return best / COMMANDS * 1e6


def index_bytes(batches: int) -> float:
    """Bytes that a partition's index takes per batch."""
    gc.collect()
    tracemalloc.start()
    log = PartitionLog(TOPIC, 0)
    for i in range(batches):
        log.append(Slot(1 + i), 100, 1000, 10, i, LeaderEpoch(1))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / batches


def main() -> None:
    print("commands per value   batches per command   plain us   idempotent us")
    for commands_per_value in (1, 8, 32):
        for batches in (1, 4):
            plain, idempotent = (cost_us(commands_per_value, batches, producer) for producer in (-1, 7))
            print(f"{commands_per_value:18} {batches:21} {plain:10.2f} {idempotent:15.2f}")
    print(f"\nindex: {index_bytes(200_000):.1f} bytes per batch")


if __name__ == "__main__":
    main()
