"""Keeps the partitions that each group holds as `__meta` says: opens new ones, tells new settings, closes old ones.

Apply in a group may read nothing but that group, so what `__meta` says has to be written into it. Whoever leads the
group does so, with commands that may be repeated at will: each carries the end of `__meta/0` that its sender knew, and
the group refuses what is older than what it knows.

Invariant: at most one command per topic and group is in flight from here, and a turn does a bounded amount of work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from corgi.base.command import Buffer, CommandKind
from corgi.base.errors import check
from corgi.base.ids import GroupId, TopicId
from corgi.base.ports import Clock
from corgi.state.commands import PARTITIONS_PER_COMMAND, encode_partition_close, encode_partition_open
from corgi.state.machine import Machine
from corgi.state.outcomes import Outcome
from corgi.state.topics import Topics

COMMANDS_IN_FLIGHT = 8  # per group
PARTITIONS_PER_TURN = 2_000  # looked at per group before the loop does something else
SUBMIT_TIMEOUT_S = 5.0
RETRY_S = 0.100
SWEEP_DELAY_S = 0.050  # a new leader first serves the writes that waited for it


class Leadership(Protocol):
    @property
    def leading(self) -> bool: ...


class GroupView(Protocol):
    """What administration sees of a group."""

    @property
    def id(self) -> GroupId: ...

    @property
    def machine(self) -> Machine: ...

    @property
    def replica(self) -> Leadership: ...


class Host(Protocol):
    """What administration needs of the node."""

    @property
    def clock(self) -> Clock: ...

    @property
    def groups(self) -> Sequence[GroupView]: ...

    def submit(
        self,
        group: GroupId,
        kind: CommandKind,
        body: Buffer,
        done: Callable[[Outcome], None],
        *,
        timeout_s: float,
        makes_room: bool = False,
    ) -> None: ...


class _Work:
    """What may have to be done in one group. ``sweep_at``: when everything is to be looked at (None: no need)."""

    __slots__ = ("busy", "doubtful", "not_before", "sweep_at")

    def __init__(self) -> None:
        self.doubtful: dict[TopicId, None] = {}
        self.busy: set[TopicId] = set()
        self.not_before = 0.0
        self.sweep_at: float | None = None


class Openings:
    """Drives every group that this node leads towards what this node knows of `__meta`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._work: dict[GroupId, _Work] = {}  # groups with something to do

    def topics_changed(self, topics: Iterable[TopicId]) -> None:
        """`__meta` says something new of these topics."""
        ids = dict.fromkeys(topics)
        for group in self._host.groups:
            if group.replica.leading:
                self._of(group).doubtful.update(ids)

    def partitions_changed(self, group: GroupView, topics: Iterable[TopicId]) -> None:
        """Partitions of these topics were opened or closed in ``group``, perhaps by somebody who knew less."""
        if group.replica.leading:
            self._of(group).doubtful.update(dict.fromkeys(topics))

    def leader_changed(self, group: GroupView) -> None:
        self._of(group).sweep_at = self._host.clock.now() + SWEEP_DELAY_S

    def next_deadline(self) -> float | None:
        """When ``drive`` has something to do."""
        deadlines = []
        for group, work in self._work.items():
            if self._host.groups[group].replica.leading:
                if work.sweep_at is not None:
                    deadlines.append(work.sweep_at)
                if work.doubtful and len(work.busy) < COMMANDS_IN_FLIGHT:
                    deadlines.append(work.not_before)
        return min(deadlines, default=None)

    def drive_all(self, now: float) -> None:
        for group in list(self._work):
            self.drive(self._host.groups[group], now)

    def drive(self, group: GroupView, now: float) -> None:
        """Submit what is due in one group."""
        work = self._work.get(group.id)
        if work is None:
            return
        if not group.replica.leading:
            work.doubtful.clear()  # the next leader looks at everything
            work.sweep_at = None
        elif work.sweep_at is not None and now >= work.sweep_at:
            work.sweep_at = None
            work.doubtful.update(dict.fromkeys(self._topics().by_id))
            work.doubtful.update(dict.fromkeys(group.machine.held))
        looked_at = 0
        while (
            work.doubtful
            and now >= work.not_before
            and len(work.busy) < COMMANDS_IN_FLIGHT
            and looked_at < PARTITIONS_PER_TURN
        ):
            topic, _ = work.doubtful.popitem()
            if topic not in work.busy:  # else it is looked at again when the answer comes
                looked_at += self._look(group, work, topic)
        if not (work.doubtful or work.busy or work.sweep_at):
            del self._work[group.id]

    def _look(self, group: GroupView, work: _Work, topic: TopicId) -> int:
        """Compare one topic with the group and submit the next command; returns the number of partitions seen."""
        topics = self._topics()
        partitions = group.machine.partitions
        wanted = topics.by_id.get(topic)
        if wanted is not None:
            here = wanted.partitions_in(group.id)
            stale = [
                partition
                for partition in here
                if (log := partitions.get((topic, partition))) is None or log.version <= wanted.version
            ]
            if stale:
                some = stale[:PARTITIONS_PER_COMMAND]
                body = encode_partition_open(topic, some, topics.end, wanted.config)
                self._submit(group, work, topic, CommandKind.PARTITION_OPEN, body)
            return len(here) + 1
        held = group.machine.held.get(topic)
        if held and topics.deleted(topic):
            body = encode_partition_close(topic, held[:PARTITIONS_PER_COMMAND], topics.end)
            self._submit(group, work, topic, CommandKind.PARTITION_CLOSE, body)
        return 1

    def _submit(self, group: GroupView, work: _Work, topic: TopicId, kind: CommandKind, body: bytes) -> None:
        def done(outcome: Outcome) -> None:
            work.busy.discard(topic)
            work.doubtful[topic] = None
            if outcome.error:
                work.not_before = self._host.clock.now() + RETRY_S

        work.busy.add(topic)
        self._host.submit(group.id, kind, body, done, timeout_s=SUBMIT_TIMEOUT_S, makes_room=True)

    def _of(self, group: GroupView) -> _Work:
        work = self._work.get(group.id)
        if work is None:
            work = self._work[group.id] = _Work()
        return work

    def _topics(self) -> Topics:
        topics = self._host.groups[0].machine.topics
        check(topics is not None, "group 0 holds the topics")
        assert topics is not None
        return topics
