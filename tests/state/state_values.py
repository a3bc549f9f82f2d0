"""Batches, commands and values for the tests of the state machine."""

from __future__ import annotations

from collections.abc import Sequence

from corgi.base.batch import HEADER
from corgi.base.command import CommandKind, encode_command, encode_data, encode_value
from corgi.base.ids import GroupId, NodeId, Origin, Slot, TopicId, make_origin
from corgi.state.commands import encode_partition_open
from corgi.state.machine import Machine, Outcome

TOPIC = TopicId(16)
GROUPS = 8


def batch(
    records: int = 1,
    producer: int = -1,
    epoch: int = -1,
    sequence: int = -1,
    *,
    time_ms: int = 0,
    attributes: int = 0,
    payload: bytes = b"",
) -> bytes:
    """A batch whose header is true; the state machine does not look at the records."""
    fields = (0, 49 + len(payload), -1, 2, 0, attributes, records - 1, 0, time_ms, producer, epoch, sequence, records)
    return HEADER.pack(*fields) + payload


def data(*batches: tuple[int, bytes], guards: Sequence[tuple[int, bytes]] = (), topic: TopicId = TOPIC) -> bytes:
    """The body of a DATA command: (partition, batch)…"""
    return encode_data([(topic, partition, body) for partition, body in batches], guards)


class Driver:
    """A machine of group 3 with open partitions, and an origin that counts its commands."""

    def __init__(self, *partitions: int, group: int = 3, node: int = 1, boot: int = 1) -> None:
        self.machine = Machine(GroupId(group), GROUPS)
        self.origin = make_origin(NodeId(node), boot)
        self.counter = 0
        self.settled = 0
        if partitions:
            self.run(CommandKind.PARTITION_OPEN, encode_partition_open(TOPIC, partitions, 1, {}))

    def command(self, kind: int, body: bytes, counter: int | None = None, origin: Origin | None = None) -> bytes:
        if counter is None:
            self.counter += 1
            counter = self.counter
        return encode_command(kind, origin or self.origin, counter, min(self.settled, counter), body)

    def apply(self, *commands: bytes, timestamp_ms: int = 0) -> list[Outcome]:
        return self.machine.apply(Slot(self.machine.applied + 1), encode_value(timestamp_ms, commands))

    def run(self, kind: int, body: bytes) -> Outcome:
        (outcome,) = self.apply(self.command(kind, body))
        return outcome

    def append(self, partition: int, body: bytes) -> tuple[int, int]:
        """(error, base offset) of one batch in a command of its own."""
        outcome = self.run(CommandKind.DATA, data((partition, body)))
        (result,) = outcome.appends
        assert outcome.error == result.error
        return result.error, result.base_offset
