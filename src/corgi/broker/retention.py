"""Retention: whoever leads a group has the log start of its partitions moved, by age and by size.

The leader proposes; apply trims alike on every replica; what nothing names any more is freed later, by each node for
itself. Age is that of a batch's newest record against the group's log time, or this node's clock if that is ahead: the
command itself moves log time there. A partition's newest batch outlives its size limit, not its age.

Invariant: at most one LOG_START per group is in flight from here, and a look examines a bounded number of partitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from corgi.base.command import CommandKind
from corgi.base.ids import FIRST_USER_TOPIC, META, GroupId, Offset, TopicId
from corgi.base.limits import MIB
from corgi.state.commands import PARTITIONS_PER_COMMAND, encode_log_start
from corgi.state.index import PartitionLog
from corgi.state.outcomes import Outcome
from corgi.state.settings import UNLIMITED, retention

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node

PARTITIONS_PER_LOOK = 500
SUBMIT_TIMEOUT_S = 5.0
SYSTEM_BYTES = 4 * MIB  # of checkpoints, of groups … in one Paxos group


class Retention:
    """Drives the groups that this node leads."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rounds: dict[GroupId, Iterator[PartitionLog]] = {}  # partitions that are still to be looked at
        self._busy: set[GroupId] = set()
        self._next_at = 0.0

    def advance(self, now: float) -> None:
        """Look at some partitions."""
        if now >= self._next_at:
            self._next_at = now + self._node.options.retention_interval_s
            for group in self._node.groups:
                if group.id not in self._rounds and group.id not in self._busy:
                    self._rounds[group.id] = iter(list(group.machine.partitions.values()))
        room = PARTITIONS_PER_LOOK
        for number in list(self._rounds):
            group = self._node.groups[number]
            if number in self._busy:
                continue
            if not group.replica.leading:
                del self._rounds[number]
                continue
            room = self._look(group, self._rounds[number], room)
            if room <= 0:
                return
            del self._rounds[number]

    def _look(self, group: Group, logs: Iterator[PartitionLog], room: int) -> int:
        """Propose what is due among the next ``room`` partitions; how much of it is left."""
        starts: list[tuple[TopicId, int, Offset]] = []
        now_ms = max(group.machine.log_time_ms, self._node.clock.wall_ms())
        for log in logs:
            room -= 1
            start = due(log, now_ms)
            if start > log.start:
                starts.append((log.topic, log.partition, start))
            if room <= 0 or len(starts) == PARTITIONS_PER_COMMAND:
                room = 0
                break
        if starts:
            self._busy.add(group.id)
            self._node.count("log_starts", len(starts))
            self._node.submit(
                group.id,
                CommandKind.LOG_START,
                encode_log_start(starts),
                lambda outcome: self._done(group.id, outcome),
                timeout_s=SUBMIT_TIMEOUT_S,
                makes_room=True,
            )
        return room

    def _done(self, group: GroupId, _outcome: Outcome) -> None:
        """Whatever became of it: the next look sees."""
        self._busy.discard(group)


def due(log: PartitionLog, now_ms: int) -> Offset:
    """Where a partition should begin at ``now_ms`` by its settings; where it begins if they ask for nothing."""
    if not log.open or not log.count or log.topic == META:
        return log.start
    if log.topic < FIRST_USER_TOPIC:  # what they say is in the state; the batches are there for whoever looks on
        retention_ms, retention_bytes = UNLIMITED, SYSTEM_BYTES
    else:
        retention_ms, retention_bytes = retention(log.config)
    start = log.start
    if retention_ms != UNLIMITED:
        i = log.find_time(now_ms - retention_ms)
        start = log.end if i == log.count else log.entry(i).base_offset
    if retention_bytes != UNLIMITED and log.bytes > retention_bytes:
        start = max(start, log.excess(retention_bytes))
    return start
