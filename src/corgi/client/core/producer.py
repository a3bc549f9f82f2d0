"""Publishing: from records to batches. Chooses partitions, bounds what is buffered, waits for topics to be known.

This is the path of every single record, so it does little: one look-up, one call of the compiled codec, two
sums. Everything else happens once per batch. A record's handle is (outcome, index): its batch's outcome and
its place in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from corgi.base.batch import HEADER_BYTES
from corgi.base.errors import CorgiError
from corgi.base.limits import KIB
from corgi.base.records import RECORD_OVERHEAD_MAX, BatchBuilder, Header, encode_batch
from corgi.client.core.batch import Identity, Outcome, OutgoingBatch, PartitionQueue
from corgi.client.core.links import Chance, Clock
from corgi.client.core.options import QUORUM, ClientOptions
from corgi.client.core.routing import Routing, TopicRoute
from corgi.client.core.sender import Sender

Handle = tuple[Outcome, int]
Run = tuple[Outcome, int, int]  # outcome, index of the first record in it, how many records
RECORD_OVERHEAD = RECORD_OVERHEAD_MAX  # counted per record, so that empty ones fill the buffer too
TURN_BYTES = 256 * KIB  # what one call of publish_pairs takes at most, so that the caller can let others work
CLOSED = -1  # bytes that a closed client takes
_NO_HEADERS: list[Header] = []


STICKY_BYTES = 16 * KIB  # records without a key stay with a partition for so much: fewer, larger batches (KIP-794)


class Lane:
    """A topic under one acknowledgement mode: its queues and the partition that records without a key stick to."""

    __slots__ = ("batch_bytes", "keyed", "limit", "queues", "route", "sticky", "stuck")

    def __init__(self, route: TopicRoute, queues: list[PartitionQueue], batch_bytes: int, sticky: int) -> None:
        self.route = route
        self.queues = queues
        self.keyed = route.keyed
        self.batch_bytes = batch_bytes
        self.limit = route.batch_bytes_max - HEADER_BYTES  # a smaller record fits for certain
        self.sticky = sticky
        self.stuck = 0  # bytes published to it since it was chosen


class Deferred(Outcome):
    """A record of a topic that is not known yet; its outcome follows the batch that it gets into."""

    __slots__ = ("acks", "bytes", "deadline", "headers", "key", "timeout_s", "timestamp", "told", "value", "wanted")

    def __init__(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: list[Header] | None,
        timestamp: int,
        partition: int | None,
        acks: int,
        timeout_s: float,
        size: int,
    ) -> None:
        super().__init__(topic, -1 if partition is None else partition)
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp = timestamp
        self.wanted = partition
        self.acks = acks
        self.timeout_s = timeout_s
        self.deadline = 0.0
        self.bytes = size
        self.told: CorgiError | None = None  # why nobody could tell of the topic

    def follow(self, outcome: Outcome, index: int) -> None:
        def done() -> None:
            if self.done:
                return
            self.partition = outcome.partition
            if outcome.error is not None:
                self.fail(outcome.error)
            elif outcome.base_offset < 0:
                self.succeed(outcome.base_offset, outcome.timestamp_ms)
            else:
                self.succeed(outcome.base_offset + index, outcome.timestamp_ms)

        outcome.when_done(done)


class Producer:
    """``need_topic`` is told a name whose metadata is missing, ``wake`` that a flush is due at the turn's end."""

    def __init__(
        self,
        options: ClientOptions,
        routing: Routing,
        clock: Clock,
        chance: Chance,
        need_topic: Callable[[str], None],
        need_identity: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self.sender = Sender(options, routing, clock, chance, self._landed, need_identity, need_topic)
        self.published = 0  # bytes ever taken by publish_values
        self.buffered = 0  # bytes published and not yet landed
        self._options = options
        self._routing = routing
        self._clock = clock
        self._chance = chance
        self._need_topic = need_topic
        self._wake = wake
        self._lanes: tuple[dict[str, Lane], dict[str, Lane], dict[str, Lane]] = ({}, {}, {})
        self._deferred: dict[str, list[Deferred]] = {}
        self._room_wanted: list[Callable[[], None]] = []
        self._refusal = CorgiError("closed")
        self._batch_bytes = options.batch_bytes
        self._buffer_bytes = options.buffer_bytes
        self._compressed = options.compression != "none"

    # Publishing

    @property
    def full(self) -> bool:
        """Is nothing more accepted until something lands?"""
        return self.buffered >= self._buffer_bytes != CLOSED

    def publish(  # noqa: C901 - one call per record: what is taken out costs 4 % a call
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: list[Header] | None,
        timestamp: int,
        partition: int | None = None,
        acks: int = QUORUM,
        timeout_s: float = 0.0,
    ) -> Handle:
        """Put one record into its batch; ``timestamp`` in ms. Raises "overloaded", "record-too-large" and others.

        ``timeout_s`` 0 is the client's default.
        """
        if self.buffered >= self._buffer_bytes:
            raise self._overloaded()
        size = RECORD_OVERHEAD
        if value is not None:
            size += len(value)
        if key is not None:
            size += len(key)
        lane = self._lanes[acks].get(topic)
        if lane is None:
            lane = self._open_lane(topic, acks)
            if lane is None:
                record = Deferred(topic, key, value, headers, timestamp, partition, acks, timeout_s, size)
                return self._defer(record)
        if headers is None:
            headers = _NO_HEADERS
        elif headers:
            size += _headers_bytes(headers)
        if size > lane.limit:
            self._check_size(lane, key, value, headers, timestamp)
        if key is None and lane.route.compacted:
            raise lane.route.keyless()
        if partition is not None:
            queue = self._queue_at(lane, partition)
        elif key is not None:
            queue = lane.queues[lane.keyed[key]]
        else:
            queue = lane.queues[lane.sticky]
            if queue.filling is None and (lane.stuck >= STICKY_BYTES or queue.stale or queue.sealed):
                queue = self._next_sticky(lane)
            lane.stuck += size
        batch = queue.filling
        if batch is None or not batch.builder.append(key, value, headers, timestamp):
            if batch is not None:
                self._seal(queue)
                if partition is None and key is None:
                    queue = self._next_sticky(lane)
            builder = BatchBuilder(lane.batch_bytes, self._options.compression)
            builder.append(key, value, headers, timestamp)
            batch = self._open_batch(queue, builder)
        if timeout_s:
            batch.deadline = max(batch.deadline, self._clock.now() + timeout_s)
        batch.bytes += size
        self.buffered += size
        return batch, batch.builder.count - 1

    def publish_values(
        self, topic: str, values: Sequence[bytes | None], start: int, timestamp: int, acks: int = QUORUM
    ) -> tuple[list[Run], int]:
        """Put ``values[start:]`` without keys and headers into one batch, as many as fit; returns (runs, next index).

        The topic must be known (``knows``). Raises "overloaded"; a value that is too large has a run that
        failed.
        """
        if self.buffered >= self._buffer_bytes:
            raise self._overloaded()
        lane = self._open_lane(topic, acks)
        if lane is None:
            raise CorgiError("unknown-topic", f"the topic {topic!r} is not known yet")
        if lane.route.compacted:
            outcome = Outcome(topic, lane.sticky)
            outcome.fail(lane.route.keyless())
            return [(outcome, 0, len(values) - start)], len(values)
        queue = lane.queues[lane.sticky]
        if queue.filling is None and (lane.stuck >= STICKY_BYTES or queue.stale or queue.sealed):
            queue = self._next_sticky(lane)
        batch = queue.filling
        if batch is not None:
            before = batch.builder.size
            index = batch.builder.count
            count = batch.builder.extend_values(values, start, timestamp)
            if count:
                self._grow(batch, batch.builder.size - before + count)
                lane.stuck += batch.builder.size - before
                return [(batch, index, count)], start + count
            self._seal(queue)
            queue = self._next_sticky(lane)
        builder = BatchBuilder(lane.batch_bytes, self._options.compression)
        count = builder.extend_values(values, start, timestamp)
        if count == 1 and builder.size > lane.route.batch_bytes_max and not self._compressed:
            outcome = Outcome(topic, queue.partition)
            outcome.fail(_too_large(lane, builder.size))
            return [(outcome, 0, 1)], start + 1
        batch = self._open_batch(queue, builder)
        self._grow(batch, builder.size + count)
        lane.stuck += builder.size
        return [(batch, 0, count)], start + count

    def publish_pairs(
        self,
        topic: str,
        pairs: Sequence[tuple[bytes | None, bytes | None]],
        start: int,
        stop: int,
        timestamp: int,
        acks: int = QUORUM,
    ) -> tuple[list[Outcome], list[int]]:
        """Put ``pairs[start:stop]``, each (key, value), into batches as far as nothing special happens.

        Returns the handles of those done, as two lists. What is special (no key, a full batch or buffer, a large
        record, an unknown topic) is left to ``publish``.
        """
        outcomes: list[Outcome] = []
        places: list[int] = []
        lane = self._open_lane(topic, acks)
        if lane is None:
            return outcomes, places
        keyed, queues = lane.keyed, lane.queues
        room = min(self._buffer_bytes - self.buffered, TURN_BYTES)
        for at in range(start, stop):
            key, value = pairs[at]
            if type(key) is not bytes or type(value) is not bytes or room <= 0:
                break
            size = len(key) + len(value) + RECORD_OVERHEAD
            batch = queues[keyed[key]].filling
            if batch is None or size > lane.limit or not batch.builder.append(key, value, _NO_HEADERS, timestamp):
                break
            batch.bytes += size
            room -= size
            self.buffered += size
            outcomes.append(batch)
            places.append(batch.builder.count - 1)
        return outcomes, places

    # Facts

    def knows(self, topic: str) -> bool:
        return topic in self._routing.topics

    def topic_known(self, name: str) -> None:
        """The topic appeared or changed: later records go by its new shape, deferred ones get into batches."""
        route = self._routing.topics[name]
        for acks, lanes in enumerate(self._lanes):
            if name in lanes:
                lanes[name] = self._make_lane(route, acks)
        for record in self._deferred.pop(name, ()):
            self._let_go(record)
            if record.done:
                continue
            try:
                outcome, index = self.publish(
                    name,
                    record.key,
                    record.value,
                    record.headers,
                    record.timestamp,
                    record.wanted,
                    record.acks,
                    record.timeout_s,
                )
            except CorgiError as error:
                record.fail(error)
            else:
                record.follow(outcome, index)

    def waits_for(self, name: str, error: CorgiError) -> bool:
        """Do records wait for this topic? ``error`` is why nobody could tell of it yet."""
        records = self._deferred.get(name, ())
        for record in records:
            record.told = error
        return bool(records)

    def topic_failed(self, name: str, error: CorgiError) -> None:
        """The topic does not exist, or is not there any more."""
        for lanes in self._lanes:
            lanes.pop(name, None)
        for record in self._deferred.pop(name, ()):
            self._let_go(record)
            if not record.done:
                record.fail(error)

    def identity_known(self, identity: Identity) -> None:
        self.sender.identity_known(identity)

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, when half of the buffer is free."""
        self._room_wanted.append(callback)
        self._tell_room()

    def unfinished(self) -> list[Outcome]:
        """Every outcome that is still open."""
        deferred: list[Outcome] = [record for records in self._deferred.values() for record in records]
        return [*deferred, *self.sender.unfinished()]

    def advance(self, now: float) -> None:
        self.sender.advance(now)
        for name, records in list(self._deferred.items()):
            late = [record for record in records if record.deadline <= now]
            if late:
                self._give_up(name, late)

    def _give_up(self, name: str, late: list[Deferred]) -> None:
        """The time of these records is up, and their topic is still not known."""
        kept = [record for record in self._deferred.pop(name) if record not in late]
        if kept:
            self._deferred[name] = kept
        for record in late:
            self._let_go(record)
            told = record.told
            if told is None:
                record.fail(CorgiError("timeout", f"nothing was heard of the topic {name!r} in time; not sent"))
            else:
                text = f"{told.message} (the time for publishing is up: it was never sent)"
                record.fail(CorgiError(told.code, text, hint=told.hint))
        if self._room_wanted:
            self._tell_room()

    def next_deadline(self) -> float | None:
        deadlines = [record.deadline for records in self._deferred.values() for record in records]
        due = self.sender.next_deadline()
        if due is not None:
            deadlines.append(due)
        return min(deadlines, default=None)

    def close(self, error: CorgiError) -> None:
        """Everything open has an end, later records are refused with ``error``."""
        self._buffer_bytes = CLOSED
        self._refusal = error
        self.sender.close()
        for name in list(self._deferred):
            self.topic_failed(name, CorgiError("closed", "the client was closed before this was sent"))
        self._tell_room()

    def fail(self, error: CorgiError) -> None:
        """As ``close``, with ``error`` as every open outcome, and by as little as possible: something is broken."""
        self._buffer_bytes = CLOSED
        self._refusal = error
        for outcome in self.unfinished():
            outcome.fail(error.copy())
        self.sender.forget()
        self._tell_room()

    # Lanes

    def _open_lane(self, topic: str, acks: int) -> Lane | None:
        lanes = self._lanes[acks]
        lane = lanes.get(topic)
        if lane is None:
            route = self._routing.topics.get(topic)
            if route is None:
                return None
            lane = lanes[topic] = self._make_lane(route, acks)
        return lane

    def _make_lane(self, route: TopicRoute, acks: int) -> Lane:
        queues = [self.sender.queue(route, partition, acks) for partition in range(route.partitions)]
        batch_bytes = min(self._batch_bytes, route.batch_bytes_max)
        return Lane(route, queues, batch_bytes, int(self._chance() * route.partitions))

    def _next_sticky(self, lane: Lane) -> PartitionQueue:
        """The next partition for records without a key: one that flows, if there is one."""
        count = len(lane.queues)
        for step in range(1, count + 1):
            queue = lane.queues[(lane.sticky + step) % count]
            if not queue.stale and not queue.sealed:
                break
        else:
            queue = lane.queues[(lane.sticky + 1) % count]
        lane.sticky = queue.partition
        lane.stuck = 0
        if queue.filling is not None and queue.sealed:
            self._seal(queue)
        return queue

    def _queue_at(self, lane: Lane, partition: int) -> PartitionQueue:
        _check_partition(partition)
        if not 0 <= partition < len(lane.queues):
            raise CorgiError(
                "unknown-partition",
                f"the topic {lane.route.name!r} has partitions 0 to {len(lane.queues) - 1}, not {partition}",
            )
        return lane.queues[partition]

    # Batches

    def _open_batch(self, queue: PartitionQueue, builder: BatchBuilder) -> OutgoingBatch:
        batch = OutgoingBatch(queue, builder, self._clock.now() + self._options.publish_timeout_s)
        queue.filling = batch
        self.sender.offer(queue)
        self._wake()
        return batch

    def _seal(self, queue: PartitionQueue) -> None:
        """The batch is full: it may leave before the turn ends, while the publisher fills the next one."""
        if queue.filling is not None:
            queue.sealed.append(queue.filling)
            queue.filling = None
            self.sender.offer(queue)
            self.sender.flush(self._clock.now())

    def _grow(self, batch: OutgoingBatch, size: int) -> None:
        self.published += size
        batch.bytes += size
        self.buffered += size

    def _landed(self, batch: OutgoingBatch) -> None:
        self.buffered -= batch.bytes
        if self._room_wanted:
            self._tell_room()

    def _tell_room(self) -> None:
        if self.buffered * 2 > self._buffer_bytes != CLOSED:
            return
        wanted, self._room_wanted = self._room_wanted, []
        for callback in wanted:
            callback()

    def _defer(self, record: Deferred) -> Handle:
        """Keep a record until its topic is known."""
        if record.wanted is not None:
            _check_partition(record.wanted)
        record.deadline = self._clock.now() + (record.timeout_s or self._options.publish_timeout_s)
        records = self._deferred.setdefault(record.topic, [])
        records.append(record)
        self.buffered += record.bytes
        if len(records) == 1:
            self._need_topic(record.topic)
            self._wake()
        return record, 0

    def _let_go(self, record: Deferred) -> None:
        self.buffered -= record.bytes

    # Refusals

    def _overloaded(self) -> CorgiError:
        if self._buffer_bytes == CLOSED:
            return self._refusal.copy()
        return CorgiError(
            "overloaded",
            f"{self.buffered} bytes are published and not yet acknowledged, {self._buffer_bytes} are the most",
            hint="await mq.ready() before publishing more, or await mq.publish(...), which waits by itself",
        )

    def _check_size(
        self, lane: Lane, key: bytes | None, value: bytes | None, headers: list[Header], timestamp: int
    ) -> None:
        """The record is large: is it too large?"""
        size = len(encode_batch([(key, value, headers, timestamp)], codec=self._options.compression))
        if size > lane.route.batch_bytes_max:
            raise _too_large(lane, size)


def _check_partition(partition: object) -> None:
    if type(partition) is not int:
        raise CorgiError("invalid-argument", f"a partition is a number from 0, not {partition!r}")


def _too_large(lane: Lane, size: int) -> CorgiError:
    return CorgiError(
        "record-too-large",
        f"a record makes a batch of {size} bytes; the topic {lane.route.name!r} takes {lane.route.batch_bytes_max}",
    )


def _headers_bytes(headers: list[Header]) -> int:
    return sum([len(name) + (0 if value is None else len(value)) + 4 for name, value in headers])
