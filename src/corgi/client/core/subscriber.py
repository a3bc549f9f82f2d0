"""Consuming: a position in each partition that only moves forward, wherever the batches come from.

A stream is one partition of a subscription. It is attached to one node, which pushes batches as credit
allows; when that node is lost, the stream attaches elsewhere at the next offset that it has not received.
So what is handed out is each batch once and in order: batches below the position are dropped, of the first
one the records below it; a batch above it, or a damaged one, makes the stream attach anew.

    unplaced --(offset looked up)--> detached --> attaching --> attached --> ended
                                        ^------------'--------------'   link lost, node stopping, leader moved
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import crc32c

from corgi.base.batch import ATTRIBUTE_CONTROL, CRC_FROM, HEADER_BYTES, LENGTH_OVERHEAD, BatchHeader, parse_header
from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId, Offset, TopicId
from corgi.base.limits import KIB
from corgi.client.core.backoff import Backoff
from corgi.client.core.routing import NO_NODE

WINDOW_MIN = 64 * KIB  # credit of one partition, however many share the subscription's prefetch
DAMAGE_MAX = 6  # attachments that all met a damaged batch at the same offset, before the consumer is told


class StreamState(Enum):
    UNPLACED = "unplaced"
    DETACHED = "detached"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    ENDED = "ended"


class Start(NamedTuple):
    """Where to begin: "earliest", "latest", "offset" with a number, or "time" with ms since 1970."""

    kind: str
    number: int = 0


class Delivery(NamedTuple):
    """One batch for the consumer; records below ``wanted``, and before ``not_before_ms``, are not for it.

    ``end`` is the partition's applied end when the batch was pushed, so that the consumer can tell how far
    behind it is.
    """

    partition: int
    batch: memoryview
    wanted: Offset
    next_offset: Offset
    not_before_ms: int
    end: Offset


class Stream:
    """One partition of a subscription. ``position``: the next offset that has not been received."""

    __slots__ = (
        "avoid",
        "backoff",
        "damaged",
        "end",
        "gap_at",
        "group",
        "held",
        "id",
        "node",
        "not_before_ms",
        "owed",
        "partition",
        "position",
        "retry_at",
        "start",
        "state",
        "subscription",
        "topic",
    )

    def __init__(
        self, subscription: Subscription, topic: TopicId, partition: int, group: int, start: Start, backoff: Backoff
    ) -> None:
        self.subscription = subscription
        self.topic = topic
        self.partition = partition
        self.group = group
        self.start = start
        self.backoff = backoff
        self.state = StreamState.UNPLACED
        self.position = Offset(-1)
        self.not_before_ms = -1
        self.id = 0  # of the attachment; each one has its own, so that late pushes of older ones are known
        self.node = NO_NODE
        self.avoid = NO_NODE
        self.retry_at = 0.0
        self.held = 0  # bytes received and not yet consumed
        self.owed = 0  # bytes consumed and not yet granted again
        self.gap_at = Offset(-1)
        self.damaged = 0
        self.end = Offset(-1)
        if start.kind == "offset":
            self.place(Offset(start.number))
        elif start.kind == "earliest":
            self.place(Offset(0))

    def place(self, offset: Offset) -> None:
        """The offset to begin at is known."""
        self.position = offset
        self.state = StreamState.DETACHED

    def detach(self, avoid: NodeId = NO_NODE) -> None:
        """Attach anew at the next flush, preferably to another node than ``avoid``."""
        if self.state is not StreamState.ENDED and self.state is not StreamState.UNPLACED:
            self.state = StreamState.DETACHED
            self.subscription.on_detached(self)
            self.node = NO_NODE
            self.avoid = avoid
            self.retry_at = 0.0


class Subscription:
    """A consumer of some partitions of a topic. ``notify`` is called when something can be taken, or it ended."""

    def __init__(
        self,
        topic: str,
        partitions: tuple[int, ...] | None,
        start: Start | dict[int, Start],
        prefetch_bytes: int,
        notify: Callable[[], None],
        on_detached: Callable[[Stream], None],
        on_owing: Callable[[Stream], None],
        labels: tuple[str, str] = ("", ""),
        committed: bool = True,
    ) -> None:
        self.topic = topic
        self.committed = committed  # only what is decided and was not aborted
        self.labels = labels  # consumer group and member
        self.wanted = partitions
        self.start = start
        self.streams: dict[int, Stream] = {}
        self.error: CorgiError | None = None
        self.closed = False
        self.attached = False  # every partition has been attached once
        self.deliveries = 0
        self.attachments = 0
        self.dropped = 0  # records received twice and dropped
        self.gaps = 0
        self.damages = 0
        self.on_detached = on_detached
        self._on_owing = on_owing
        self._prefetch_bytes = prefetch_bytes
        self._notify = notify
        self._ready: deque[Delivery] = deque()

    # The consumer's side

    def __len__(self) -> int:
        """Batches that can be taken."""
        return len(self._ready)

    def take(self) -> Delivery | None:
        """The next batch in order of arrival; its bytes count as consumed."""
        if not self._ready:
            return None
        delivery = self._ready.popleft()
        stream = self.streams[delivery.partition]
        size = len(delivery.batch)
        stream.held -= size
        self._consumed(stream, size)
        return delivery

    def start_of(self, partition: int) -> Start:
        """Where a partition begins that the subscription has had from the start."""
        if isinstance(self.start, dict):
            return self.start[partition]
        return self.start

    @property
    def window(self) -> int:
        """Credit of each stream in bytes."""
        return max(WINDOW_MIN, self._prefetch_bytes // max(1, len(self.streams)))

    # The cluster's side

    def deliver(
        self,
        stream: Stream,
        payload: memoryview,
        lengths: tuple[int, ...],
        end: Offset,
        start: Offset = Offset(-1),  # noqa: B008 (a number)
    ) -> None:
        """Batches were pushed, all that are stored from ``start`` on (-1: not told). Raises "malformed-frame" if the
        lengths do not cut the payload."""
        if sum(lengths) != len(payload) or min(lengths, default=0) < 0:
            raise CorgiError("malformed-frame", "the lengths of pushed batches contradict the payload")
        stream.end = end
        stream.backoff.reset()
        at = 0
        for length in lengths:
            if not self._accept(stream, payload[at : at + length], end, start):
                break
            at += length
        if self._ready or self.error is not None:
            self._notify()

    def fail(self, error: CorgiError) -> None:
        """The subscription cannot go on; what was received can still be taken."""
        if self.error is None and not self.closed:
            self.error = error
            self._notify()

    def all_attached(self) -> None:
        self.attached = True
        self._notify()

    def _accept(self, stream: Stream, batch: memoryview, end: Offset, start: Offset) -> bool:
        """Queue one batch; False if the stream has to attach anew."""
        header = _checked(batch)
        if header is None:
            return self._damaged(stream)
        first, last = Offset(header.base_offset), header.base_offset + header.last_offset_delta
        if last < stream.position:
            self.dropped += header.record_count
            self._consumed(stream, len(batch))
            return True
        vouched = 0 <= start <= stream.position  # compaction has left nothing between, and no push was lost
        if first > stream.position and not vouched and stream.gap_at != stream.position:
            # Retention may have removed what lies between; a fault would show at the same place only here.
            self.gaps += 1
            stream.gap_at = stream.position
            stream.detach(stream.node)
            return False
        wanted = Offset(max(stream.position, first))
        self.dropped += wanted - first
        stream.position = Offset(last + 1)
        stream.damaged = 0
        if header.attributes & ATTRIBUTE_CONTROL:
            self._consumed(stream, len(batch))
            return True
        stream.held += len(batch)
        self.deliveries += 1
        self._ready.append(Delivery(stream.partition, batch, wanted, stream.position, stream.not_before_ms, end))
        stream.not_before_ms = -1
        return True

    def _consumed(self, stream: Stream, size: int) -> None:
        """Its credit is granted again, but rarely: half a window at a time."""
        stream.owed += size
        if stream.owed * 2 >= self.window:
            self._on_owing(stream)

    def _damaged(self, stream: Stream) -> bool:
        self.damages += 1
        stream.damaged += 1
        if stream.damaged < DAMAGE_MAX:
            stream.detach(stream.node)
            return False
        stream.state = StreamState.ENDED
        self.fail(
            CorgiError(
                "record-damaged",
                f"every node sends a damaged batch at offset {stream.position} of {self.topic}/{stream.partition}",
            )
        )
        return False


def _checked(batch: memoryview) -> BatchHeader | None:
    """The header of a whole and undamaged batch."""
    if len(batch) < HEADER_BYTES:
        return None
    header = parse_header(batch)
    if header.length + LENGTH_OVERHEAD != len(batch) or header.last_offset_delta < 0:
        return None
    if crc32c.crc32c(batch[CRC_FROM:]) != header.crc:
        return None
    return header
