"""What becomes of batches when their sendings end: stored, again, or refused; and what their queue does next."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from corgi.base.errors import (
    BY_CODE,
    BY_NUMBER,
    NO_QUORUM,
    NOT_LEADER,
    OUT_OF_ORDER_SEQUENCE,
    PRODUCER_FENCED,
    RECOVERING,
    TIMEOUT,
    CorgiError,
    error_from_number,
)
from corgi.base.ids import NodeId
from corgi.client.core.batch import OutgoingBatch, PartitionQueue
from corgi.client.core.routing import Routing

OUTCOME_UNKNOWN = BY_CODE["outcome-unknown"].number
UNSURE = frozenset((TIMEOUT, NO_QUORUM, OUTCOME_UNKNOWN))  # the batch may be stored, or be stored later
NODE_TROUBLE = frozenset((NOT_LEADER, NO_QUORUM, TIMEOUT, RECOVERING))  # another node may be able to
SEQUENCE_TROUBLE = frozenset((OUT_OF_ORDER_SEQUENCE, PRODUCER_FENCED))
REFUSALS_MAX = 3  # of the first flying batch's sequence, before its identity is taken for forgotten


class SenderCounters:
    """Sums since the client was made."""

    __slots__ = ("batches", "bytes", "hedges", "lost", "refused", "requests", "resent")

    def __init__(self) -> None:
        self.requests = 0
        self.batches = 0
        self.bytes = 0
        self.resent = 0
        self.lost = 0
        self.refused = 0
        self.hedges = 0


class Landing:
    """``landed`` is told of each batch that left its queue, ``offer`` of each queue that has something to send,
    ``doubt_topic`` of each topic that a node says it does not know.
    """

    def __init__(
        self,
        routing: Routing,
        counters: SenderCounters,
        landed: Callable[[OutgoingBatch], None],
        offer: Callable[[PartitionQueue], None],
        doubt_topic: Callable[[str], None],
    ) -> None:
        self.active: dict[PartitionQueue, None] = {}  # those that hold batches
        self._routing = routing
        self._counters = counters
        self._landed = landed
        self._offer = offer
        self._doubt_topic = doubt_topic
        self._retries: list[tuple[float, int, PartitionQueue]] = []  # heap
        self._retry_count = 0

    # Verdicts

    def succeed(self, batch: OutgoingBatch, base_offset: int, timestamp_ms: int) -> None:
        """It is stored."""
        batch.queue.backoff.reset()
        batch.queue.group.refused_by.clear()
        self._remove(batch)
        if not batch.done:
            batch.succeed(base_offset, timestamp_ms)

    def failed(self, batch: OutgoingBatch, node: NodeId, number: int, message: str) -> None:
        """The latest sending of a batch, to ``node``, was lost or refused."""
        queue = batch.queue
        if number in NODE_TROUBLE:
            queue.group.refused_by.add(node)
        batch.live = False
        error = error_from_number(number, message)
        queue.last_error = error
        if number in UNSURE:
            self._counters.lost += 1
            batch.unknown = True
            queue.refused |= number != OUTCOME_UNKNOWN
            if not queue.safe:
                self.end(batch, CorgiError("outcome-unknown", message))
                return
            queue.stale = True
            return
        self._counters.refused += 1
        queue.refused = True
        if number in SEQUENCE_TROUBLE and queue.safe:
            self._sequence_trouble(batch, error)
        elif BY_NUMBER.get(number, error.kind).retryable:
            queue.stale = True
        elif self._routing.lags(number, queue.topic_name, queue.topic, queue.partition):
            self._doubt_topic(queue.topic_name)  # if it is gone after all, the next refusal is for good
            queue.stale = True
        else:
            self._refuse_for_good(batch, error)

    def _sequence_trouble(self, batch: OutgoingBatch, error: CorgiError) -> None:
        """A gap before this batch: usually its predecessor was lost and comes again, or the cluster forgot us."""
        queue = batch.queue
        queue.stale = True
        if queue.flying[0] is not batch:
            return
        batch.refusals += 1
        if batch.refusals < REFUSALS_MAX:
            return
        if batch.unknown:
            self._refuse_for_good(batch, error)
        else:
            self._hold_from(queue, 0)

    def _refuse_for_good(self, batch: OutgoingBatch, error: CorgiError) -> None:
        queue = batch.queue
        if queue.safe:
            self._hold_from(queue, queue.flying.index(batch) + 1)
            queue.doubtful |= batch.unknown
        if batch.unknown:
            error = CorgiError("outcome-unknown", f"refused, but an earlier sending may be stored: {error.message}")
        self.end(batch, error)

    def _hold_from(self, queue: PartitionQueue, place: int) -> None:
        """The batches from ``place`` on cannot have been stored under their sequence numbers, and never will be."""
        queue.renew = True
        for batch in queue.flying[place:]:
            batch.held = True

    def settle(self, queue: PartitionQueue, now: float) -> None:
        """After answers: plan the queue's next step once every sending of it is answered."""
        if (queue.stale or queue.renew) and not queue.settled:
            return
        if queue.doubtful:
            queue.doubtful = False
            for batch in [batch for batch in queue.flying if batch.held and batch.unknown]:
                self.end(batch, CorgiError("outcome-unknown", "a batch before it was refused"))
        queue.stale = queue.stale and bool(queue.flying)
        if queue.refused:
            queue.refused = False
            queue.retry_at = now + queue.backoff.next()
            self._retry_count += 1
            heapq.heappush(self._retries, (queue.retry_at, self._retry_count, queue))
        elif queue.stale:
            queue.retry_at = 0.0  # lost with its link: another one gets it at once
        if not queue:
            self.active.pop(queue, None)
        elif queue.waiting:
            self._offer(queue)

    def _remove(self, batch: OutgoingBatch) -> None:
        queue = batch.queue
        batch.gone = True
        batch.live = False
        if batch in queue.flying:
            queue.flying.remove(batch)
        elif batch is queue.filling:
            queue.filling = None
        else:
            queue.sealed.remove(batch)
        self._landed(batch)

    def end(self, batch: OutgoingBatch, error: CorgiError) -> None:
        """It is not stored, or nobody will ever know."""
        self._remove(batch)
        if not batch.done:
            batch.fail(error)

    # Time

    def advance(self, now: float) -> None:
        """Queues whose pause is over may send again."""
        while self._retries and self._retries[0][0] <= now:
            queue = heapq.heappop(self._retries)[2]
            if queue.waiting:
                self._offer(queue)

    def next_deadline(self) -> float | None:
        return self._retries[0][0] if self._retries else None

    def expire(self, queue: PartitionQueue, now: float) -> None:
        """Tell publishers whose time is up; what has flown goes on flying (see 4 above)."""
        for batch in queue.unfinished():
            if batch.done or batch.deadline > now:
                continue
            error = self._time_is_up(queue, batch)
            if batch.attempt and queue.safe:
                batch.fail(error)
            else:
                self.end(batch, error)
        if not queue:
            self.active.pop(queue, None)

    def _time_is_up(self, queue: PartitionQueue, batch: OutgoingBatch) -> CorgiError:
        told = queue.last_error
        if told is not None and told.kind.number == OUTCOME_UNKNOWN:
            told = None
        fate = "it may be stored or not" if batch.attempt else "it was never sent"
        if told is None and not self._routing.links:
            return CorgiError("unreachable", f"no node can be reached; the time for publishing is up: {fate}")
        if told is None or not told.retryable:  # what is final ends a batch at once, unless the node that says it lags
            said = "" if told is None else f"; a node that lags said: {told.message}"
            return CorgiError("timeout", f"no definite answer in time; {fate}{said}")
        return CorgiError(told.code, f"{told.message} (the time for publishing is up: {fate})", hint=told.hint)
