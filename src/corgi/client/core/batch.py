"""A batch on its way from the publisher to its acknowledgement, and the queue of one partition.

    filling -> sealed -> flying -> gone
                          | ^
                          v |   lost, or refused for now: every flying batch of the queue again, in order
                         stale

A record's outcome is its batch's outcome: nothing is kept per record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId, TopicId
from corgi.base.records import BatchBuilder, restamped
from corgi.client.core.backoff import Backoff
from corgi.client.core.options import QUORUM
from corgi.client.core.routing import NO_NODE

SEQUENCE_MAX = 2**31 - 1
EPOCH_MAX = 2**15 - 1
UNKNOWN_OFFSET = -1
_SPENT = BatchBuilder(0)


class Identity:
    """What makes retries safe: a producer id with its epoch, told by the cluster."""

    __slots__ = ("epoch", "producer_id")

    def __init__(self, producer_id: int, epoch: int) -> None:
        self.producer_id = producer_id
        self.epoch = epoch


NOBODY = Identity(-1, -1)  # of a queue that doesn't need safe retries


class Outcome:
    """What became of some records: ``done``, and then either ``error`` or the offset of the first of them.

    ``base_offset`` -1: stored, but the offset was not told (acks none and leader). ``timestamp_ms``: log
    time.
    """

    __slots__ = ("_callbacks", "base_offset", "done", "error", "partition", "timestamp_ms", "topic")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.base_offset = UNKNOWN_OFFSET
        self.timestamp_ms = -1
        self.error: CorgiError | None = None
        self.done = False
        self._callbacks: list[Callable[[], None]] | None = None

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call back once, now if it is done already."""
        if self.done:
            callback()
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def succeed(self, base_offset: int, timestamp_ms: int) -> None:
        self.base_offset = base_offset
        self.timestamp_ms = timestamp_ms
        self._finish()

    def fail(self, error: CorgiError) -> None:
        self.error = error
        self._finish()

    def _finish(self) -> None:
        self.done = True
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback()


class OutgoingBatch(Outcome):
    """Records of one partition. It may stay in flight after its publisher was told of a time-out."""

    __slots__ = (
        "attempt",
        "builder",
        "bytes",
        "deadline",
        "encoded",
        "gone",
        "held",
        "live",
        "queue",
        "record_count",
        "refusals",
        "sequence",
        "unknown",
    )

    def __init__(self, queue: PartitionQueue, builder: BatchBuilder, deadline: float) -> None:
        super().__init__(queue.topic_name, queue.partition)
        self.queue = queue
        self.builder = builder
        self.bytes = 0  # of keys, values and their overhead
        self.deadline = deadline
        self.encoded: Buffer = b""
        self.sequence = -1
        self.attempt = 0  # counts sendings; an answer to an older one decides nothing but success
        self.live = False  # the latest sending has not been answered
        self.unknown = False  # some sending ended without telling whether the batch was stored
        self.refusals = 0
        self.held = False  # its sequence number is spent: it waits for a new identity
        self.gone = False  # out of its queue, for good
        self.record_count = 0  # told when encoded

    def encode(self, identity: Identity, sequence: int) -> None:
        """Give the batch its bytes, or, when it has some, another identity."""
        self.sequence = sequence
        if self.builder is _SPENT:
            self.encoded = restamped(self.encoded, identity.producer_id, identity.epoch, sequence)
            return
        self.record_count = self.builder.count
        self.encoded = self.builder.build(identity.producer_id, identity.epoch, sequence)
        self.builder = _SPENT  # lets go of its buffer


class PartitionQueue:
    """The batches of one partition under one acknowledgement mode, in the order of publishing.

    Invariants: at most five batches fly (KIP-98); all of them through the node ``via``; sequence numbers are
    given when a batch first flies, without gaps, and never to another batch.
    """

    __slots__ = (
        "acks",
        "backoff",
        "doubtful",
        "filling",
        "flying",
        "group",
        "identity",
        "last_error",
        "next_sequence",
        "partition",
        "refused",
        "renew",
        "retry_at",
        "safe",
        "sealed",
        "stale",
        "topic",
        "topic_name",
        "via",
    )

    def __init__(
        self, topic: TopicId, topic_name: str, partition: int, acks: int, group: GroupQueue, backoff: Backoff
    ) -> None:
        self.topic = topic
        self.topic_name = topic_name
        self.partition = partition
        self.acks = acks
        self.group = group
        self.backoff = backoff
        self.safe = acks == QUORUM  # may be sent again without doubling
        self.identity = NOBODY
        self.next_sequence = 0
        self.filling: OutgoingBatch | None = None
        self.sealed: deque[OutgoingBatch] = deque()
        self.flying: list[OutgoingBatch] = []
        self.via = NO_NODE
        self.stale = False  # some flying batch must be sent again
        self.retry_at = 0.0
        self.refused = False  # ... after a pause, because a node said so
        self.renew = acks == QUORUM  # an identity is needed; the held batches get it when those before have landed
        self.last_error: CorgiError | None = None
        self.doubtful = False  # a batch was refused for good that an earlier sending may have stored

    def __bool__(self) -> bool:
        return self.filling is not None or bool(self.sealed) or bool(self.flying)

    @property
    def waiting(self) -> bool:
        """Is there anything that has not flown yet, or has to fly again?"""
        return self.stale or self.renew or self.filling is not None or bool(self.sealed)

    @property
    def settled(self) -> bool:
        """Has every sending been answered?"""
        return not any(batch.live for batch in self.flying)

    def unfinished(self) -> list[OutgoingBatch]:
        """Every batch in publishing order."""
        filling = [] if self.filling is None else [self.filling]
        return [*self.flying, *self.sealed, *filling]


class GroupQueue:
    """The queues whose partitions one Paxos group decides, and the produce requests that are out for it."""

    __slots__ = ("acks", "group", "ready", "refused_by", "requests")

    def __init__(self, group: int, acks: int) -> None:
        self.group = group
        self.acks = acks
        self.requests = 0
        self.refused_by: set[NodeId] = set()  # cut off or not able to, each since the last success
        self.ready: dict[PartitionQueue, None] = {}  # those that may have something to send, longest waiting first


class Sending:
    """One produce request that is out."""

    __slots__ = ("abandoned", "attempts", "batches", "group", "node", "sent_at")

    def __init__(self, group: GroupQueue, node: NodeId, batches: list[OutgoingBatch], sent_at: float) -> None:
        self.group = group
        self.node = node
        self.batches = batches
        self.attempts = [batch.attempt for batch in batches]
        self.sent_at = sent_at
        self.abandoned = False  # hedged: another node was asked meanwhile
