"""Long polls: a question about several partitions that waits for its answer without a task or a timer of its own.

A poll waits in a table by partition and in one heap of deadlines. It is answered when enough bytes are there, when
its time is up, or at once when a partition has an error. The answer is made in the schedule's turn; what must come from
the disk is waited for only while nothing else can be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from corgi.base.command import Buffer
from corgi.base.errors import OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC, CorgiError
from corgi.base.ids import GroupId, Offset, TopicId
from corgi.base.ports import ClientSession
from corgi.delivery.committed import gather_for_reader, readable_end
from corgi.delivery.limits import FRAME_BATCHES, POLL_BATCHES_MAX, POLLS_MAX
from corgi.delivery.ports import AppliedLog
from corgi.delivery.reads import Gathered
from corgi.delivery.turns import Schedule, Turn
from corgi.delivery.values import Values

_HEAP_SLACK = 64


class PartAnswer(NamedTuple):
    """One partition's part of an answer; offsets are -1 when the partition is not here. ``onward``: where to ask next;
    ``stable``: the last stable offset."""

    error: int
    end: Offset
    start: Offset
    lengths: tuple[int, ...]
    onward: Offset
    stable: Offset


class Part:
    """One partition of a poll: at most ``wanted`` bytes from ``offset``. ``log`` is None only with an error.

    ``committed``: only up to the last stable offset. ``raw``: with the control batches and what was aborted, for a
    reader who leaves them out himself.
    """

    __slots__ = ("available", "committed", "counted", "error", "group", "log", "offset", "onward", "raw", "wanted")

    def __init__(
        self,
        offset: Offset,
        wanted: int,
        log: AppliedLog | None,
        group: GroupId,
        error: int = 0,
        *,
        committed: bool = True,
        raw: bool = False,
    ) -> None:
        self.offset = self.onward = offset
        self.committed = committed
        self.raw = raw
        self.wanted = wanted
        self.log = log
        self.group = group
        self.error = error
        self.counted = offset
        self.available = 0

    def count(self, enough: int) -> int:
        """Bytes there from ``offset`` on, not counted further than ``enough``."""
        log = self.log
        if log is None or self.available >= enough:
            return self.available
        end = readable_end(log, committed=self.committed)
        if self.counted >= end:
            return self.available
        i, last = log.find(self.counted), log.count
        while i < last and self.available < enough:
            entry = log.entry(i)
            if entry.base_offset >= end:
                break
            self.available += entry.length
            self.counted = Offset(entry.base_offset + entry.records)
            i += 1
        return self.available

    def check(self) -> int:
        """The error to answer with, 0 if there is none."""
        if self.error == 0 and self.log is not None:
            if not self.log.open:
                self.error = UNKNOWN_TOPIC
            elif self.offset < self.log.start:
                self.error = OFFSET_OUT_OF_RANGE
        return self.error

    def answer(self, lengths: Sequence[int]) -> PartAnswer:
        if self.log is None:
            return PartAnswer(self.error, Offset(-1), Offset(-1), (), self.onward, Offset(-1))
        stable = readable_end(self.log, committed=True)
        return PartAnswer(self.error, self.log.end, self.log.start, tuple(lengths), self.onward, stable)

    def gather(self, bytes_max: int, batches_max: int, values: Values, waiter: Poll) -> Gathered:
        """Batches from ``offset`` on."""
        log = self.log
        assert log is not None
        bytes_max = min(self.wanted, bytes_max)
        return gather_for_reader(
            log,
            self.group,
            self.offset,
            bytes_max=bytes_max,
            batches_max=batches_max,
            values=values,
            waiter=waiter,
            urgent=waiter.waited,
            committed=self.committed,
            raw=self.raw,
        )


Answer = Callable[[list[PartAnswer], list[Buffer]], None]


class Poll:
    """One question. Sizes in bytes; ``waited`` for news, so that its answer is likely in memory."""

    __slots__ = (
        "_polls",
        "answer",
        "bytes_max",
        "bytes_min",
        "client",
        "done",
        "parts",
        "queued",
        "waited",
    )

    def __init__(
        self,
        client: ClientSession,
        parts: list[Part],
        bytes_min: int,
        bytes_max: int,
        answer: Answer,
        polls: Polls,
    ) -> None:
        self.client = client
        self.parts = parts
        self.bytes_min = bytes_min
        self.bytes_max = bytes_max
        self.answer = answer
        self.queued = False
        self.done = False
        self.waited = False
        self._polls = polls

    @property
    def urgent(self) -> bool:
        return self.waited

    def due(self) -> bool:
        """Is there enough to answer?"""
        there = 0
        for part in self.parts:
            if part.check():
                return True
            there += part.count(self.bytes_min - there)
            if there >= self.bytes_min:
                return True
        return False

    def value_ready(self) -> None:
        if not self.done:
            self._polls.wake(self)

    def parked(self) -> None:
        self._polls.values.forget(self)

    def run(self, turn: Turn) -> bool:
        """Answer, or go on waiting for a value from the disk."""
        if self.done:
            return False
        answers: list[PartAnswer] = []
        buffers: list[Buffer] = []
        bytes_left, batches_left = self.bytes_max, POLL_BATCHES_MAX
        pending = False
        for part in self.parts:
            lengths: list[int] = []
            if not part.check() and part.log is not None and bytes_left > 0 and batches_left > 0 and not pending:
                got = part.gather(bytes_left, batches_left, self._polls.values, self)
                lengths = got.lengths
                part.onward = got.next_offset
                buffers += got.buffers
                bytes_left -= got.size
                batches_left -= len(lengths)
                pending = got.pending
                if got.error is not None and not lengths:
                    part.error = got.error.kind.number
            answers.append(part.answer(lengths))
        turn.spend(POLL_BATCHES_MAX - batches_left + FRAME_BATCHES, self.bytes_max - bytes_left)
        if pending and not buffers and not any(part.error for part in self.parts):
            return False
        self._polls.finish(self)
        self.answer(answers, buffers)
        return False


class Polls:
    """All waiting polls of a node."""

    __slots__ = ("_by_client", "_by_partition", "_count", "_heap", "_number", "_schedule", "values")

    def __init__(self, schedule: Schedule, values: Values) -> None:
        self._schedule = schedule
        self.values = values
        self._by_client: dict[ClientSession, dict[Poll, None]] = {}
        self._by_partition: dict[tuple[TopicId, int], dict[Poll, None]] = {}
        self._heap: list[tuple[float, int, Poll]] = []
        self._number = 0
        self._count = 0

    def admit(self, client: ClientSession) -> None:
        """Raises "overloaded" when the client has as many polls waiting as it may."""
        if len(self._by_client.get(client, ())) >= POLLS_MAX:
            raise CorgiError("overloaded", f"a connection has at most {POLLS_MAX} fetches waiting")

    def start(
        self,
        client: ClientSession,
        parts: list[Part],
        bytes_min: int,
        bytes_max: int,
        deadline: float,
        now: float,
        answer: Answer,
    ) -> None:
        """Answer at the end of this turn if there is enough, otherwise when there is or at ``deadline``."""
        poll = Poll(client, parts, bytes_min, bytes_max, answer, self)
        self._by_client.setdefault(client, {})[poll] = None
        self._count += 1
        if deadline <= now or poll.due():
            self._schedule.wake(poll)
            return
        poll.waited = True
        for part in parts:
            if part.log is not None:
                key = (part.log.topic, part.log.partition)
                self._by_partition.setdefault(key, {})[poll] = None
        self._number += 1
        heappush(self._heap, (deadline, self._number, poll))
        if len(self._heap) > _HEAP_SLACK + 2 * self._count:
            self._heap = [item for item in self._heap if not item[2].done]
            heapify(self._heap)

    def __len__(self) -> int:
        return self._count

    def wake(self, poll: Poll) -> None:
        self._schedule.wake(poll)

    def appended(self, log: AppliedLog) -> None:
        """The log moved, or was closed: answer the polls that have enough now."""
        polls = self._by_partition.get((log.topic, log.partition))
        if polls:
            for poll in polls:
                if not poll.queued and poll.due():
                    self._schedule.wake(poll)

    def answer_all(self) -> None:
        """Answer every poll with what is there: the node stops."""
        for polls in self._by_client.values():
            for poll in polls:
                self._schedule.wake(poll)

    def advance(self, now: float) -> None:
        """Answer the polls whose time is up."""
        heap = self._heap
        while heap and (heap[0][0] <= now or heap[0][2].done):
            poll = heappop(heap)[2]
            if not poll.done:
                self._schedule.wake(poll)

    def next_deadline(self) -> float | None:
        heap = self._heap
        while heap and heap[0][2].done:
            heappop(heap)
        return heap[0][0] if heap else None

    def client_closed(self, client: ClientSession) -> None:
        for poll in list(self._by_client.get(client, ())):
            self.finish(poll)

    def finish(self, poll: Poll) -> None:
        """The poll is answered or its client gone: it waits nowhere any more."""
        poll.done = True
        self._count -= 1
        self.values.forget(poll)
        by_client = self._by_client[poll.client]
        del by_client[poll]
        if not by_client:
            del self._by_client[poll.client]
        for part in poll.parts:
            if part.log is None:
                continue
            key = (part.log.topic, part.log.partition)
            waiting = self._by_partition.get(key)
            if waiting is not None and poll in waiting:
                del waiting[poll]
                if not waiting:
                    del self._by_partition[key]
