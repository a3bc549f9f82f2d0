"""From queues of batches to produce requests and back: routing, retries, order, doubles.

How order is kept and nothing is stored twice:

1. A batch gets its sequence number when it first flies, and keeps it through every retry.
2. All flying batches of a queue go through one node, whose connection keeps their order. When the preferred node
   changes, the queue lets what flies land before it sends through the other one.
3. When a flying batch is lost or refused for the moment, nothing new is sent; once every sending of the queue is
   answered or lost, all of its batches fly again in order. The state machine recognises those it has.
4. A batch whose outcome stays unknown past its deadline is reported as such to its publisher, and goes on flying:
   to drop it would leave a gap that its successors could not cross, to renumber them could store them twice.
5. A batch refused for good leaves such a gap. Its predecessors land first. Its successors cannot have been stored, so
   they then take the producer's next epoch and fly again; but if the refused one had a sending of unknown outcome,
   those of theirs that had one too are reported as unknown. What comes of the older epoch after that is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.client.core.backoff import Backoff
from corgi.client.core.batch import (
    EPOCH_MAX,
    SEQUENCE_MAX,
    UNKNOWN_OFFSET,
    GroupQueue,
    Identity,
    OutgoingBatch,
    PartitionQueue,
    Sending,
)
from corgi.client.core.hedge import ResponseTimes
from corgi.client.core.landing import OUTCOME_UNKNOWN, Landing, SenderCounters
from corgi.client.core.links import Answer, Chance, Clock, Link
from corgi.client.core.options import ACKS, QUORUM, ClientOptions
from corgi.client.core.routing import NO_NODE, Routing, TopicRoute
from corgi.wire.messages import Produce, ProduceReply

LOOK_S = 0.025  # between looks at requests that are late
SCAN_S = 0.25  # how exactly deadlines of batches are kept
REQUEST_BATCHES = 256  # in one request; a node takes 512
NODE_TIMEOUT_MS = 5_000  # how long a node tries before it answers; we ask again as long as the batch may live


class Sender:
    """Owns the queues. ``need_identity`` is called when one is missing; the others as in ``Landing``."""

    def __init__(
        self,
        options: ClientOptions,
        routing: Routing,
        clock: Clock,
        chance: Chance,
        landed: Callable[[OutgoingBatch], None],
        need_identity: Callable[[], None],
        doubt_topic: Callable[[str], None],
    ) -> None:
        self.counters = SenderCounters()
        self.identity: Identity | None = None
        self._options = options
        self._routing = routing
        self._clock = clock
        self._chance = chance
        self._landing = Landing(routing, self.counters, landed, self.offer, doubt_topic)
        self._need_identity = need_identity
        self._queues: dict[tuple[int, int, int], PartitionQueue] = {}
        self._groups: dict[tuple[int, int], GroupQueue] = {}
        self._dirty: dict[GroupQueue, None] = {}
        self._out: dict[Sending, None] = {}  # oldest first
        self._times = ResponseTimes(options.hedge_s)
        self._scan_at = 0.0
        self._looked_at = 0.0

    # What the publishing side does

    def queue(self, route: TopicRoute, partition: int, acks: int) -> PartitionQueue:
        """The queue of a partition of a known topic."""
        key = (route.topic, partition, acks)
        queue = self._queues.get(key)
        if queue is None:
            number = route.groups[partition]
            group = self._groups.setdefault((number, acks), GroupQueue(number, acks))
            backoff = Backoff(self._options.retry_min_s, self._options.retry_max_s, self._chance)
            queue = PartitionQueue(route.topic, route.name, partition, acks, group, backoff)
            self._queues[key] = queue
        return queue

    def offer(self, queue: PartitionQueue) -> None:
        """The queue has something to send; it leaves at the next flush if its group's window allows."""
        if not self._landing.active:
            self._scan_at = self._clock.now() + SCAN_S
        self._landing.active[queue] = None
        queue.group.ready[queue] = None
        self._dirty[queue.group] = None

    def unfinished(self) -> list[OutgoingBatch]:
        """Every batch whose publisher does not know the outcome."""
        return [batch for queue in self._landing.active for batch in queue.unfinished() if not batch.done]

    # Facts

    def identity_known(self, identity: Identity) -> None:
        self.identity = identity
        self.stir()

    def stir(self) -> None:
        """Something changed that may let batches leave: a link, a leader, room in a socket."""
        for group in self._groups.values():
            if group.ready:
                self._dirty[group] = None

    def advance(self, now: float) -> None:
        """Do what is due: retries, hedges, deadlines of batches."""
        self._landing.advance(now)
        if self._out and next(iter(self._out)).sent_at + self._times.patience_s <= now:
            self._look_at_the_late(now)
        if self._landing.active and now >= self._scan_at:
            self._scan_at = now + SCAN_S
            for queue in list(self._landing.active):
                self._landing.expire(queue, now)

    def next_deadline(self) -> float | None:
        deadlines: list[float] = []
        retry = self._landing.next_deadline()
        if retry is not None:
            deadlines.append(retry)
        if self._landing.active:
            deadlines.append(self._scan_at)
        if self._out:
            deadlines.append(max(next(iter(self._out)).sent_at + self._times.patience_s, self._looked_at + LOOK_S))
        return min(deadlines, default=None)

    def close(self) -> None:
        """Give every batch an outcome and forget it."""
        for queue in list(self._landing.active):
            for batch in queue.unfinished():
                if batch.attempt:
                    error = CorgiError("outcome-unknown", "the client was closed before the answer came")
                else:
                    error = CorgiError("closed", "the client was closed before this was sent")
                self._landing.end(batch, error)
        self.forget()

    def forget(self) -> None:
        """Have nothing more to send or to be answered."""
        self._landing.active.clear()
        self._out.clear()
        self._dirty.clear()

    # Out

    def flush(self, now: float) -> None:
        """Send what the windows allow."""
        while self._dirty:
            group, _ = self._dirty.popitem()
            self._flush_group(group, now)

    def _flush_group(self, group: GroupQueue, now: float) -> None:
        routing = self._routing
        limit = self._options.requests_in_flight
        while group.ready and group.requests < limit:
            node = self._node_for(group)
            if node == NO_NODE:
                return
            link = routing.links[node]
            if link.buffered() > self._options.link_bytes:
                return
            batches = self._take(group, node, now)
            if not batches:
                return
            self._send(group, node, link, batches, now)

    def _node_for(self, group: GroupQueue) -> NodeId:
        """The preferred node, unless it just said that it cannot: then each of the others in turn."""
        node = self._routing.preferred(group.group)
        if node in group.refused_by:
            node = self._routing.other_than(group.group, group.refused_by)
            if node in group.refused_by:
                group.refused_by.clear()
        return node

    def _take(self, group: GroupQueue, node: NodeId, now: float) -> list[OutgoingBatch]:
        """The next request's batches; queues that cannot go on by themselves leave ``ready``."""
        batches: list[OutgoingBatch] = []
        room = self._options.request_bytes
        for queue in list(group.ready):
            if queue.retry_at > now:
                continue
            del group.ready[queue]
            taken = self._take_from(queue, node, room)
            batches += taken
            room -= sum([len(batch.encoded) for batch in taken])
            if taken and queue.waiting:
                group.ready[queue] = None
            if room <= 0 or len(batches) >= REQUEST_BATCHES:
                break
        return batches

    def _take_from(self, queue: PartitionQueue, node: NodeId, room: int) -> list[OutgoingBatch]:
        """What this queue sends now; nothing while it has to wait for an answer."""
        taken: list[OutgoingBatch] = []
        if queue.stale or queue.renew:
            if not queue.settled:
                return taken
            taken += [batch for batch in queue.flying if not batch.held]
            if queue.renew and not taken:
                if not self._renew(queue):
                    return taken
                taken += queue.flying
            queue.stale = False
            self.counters.resent += len(taken)
        elif queue.flying and queue.via != node:
            return taken
        queue.via = node
        room -= sum([len(batch.encoded) for batch in taken])
        while not queue.renew and room > 0 and len(queue.flying) < self._options.batches_in_flight:
            batch = self._next_batch(queue)
            if batch is None:
                break
            queue.flying.append(batch)
            taken.append(batch)
            room -= len(batch.encoded)
        for batch in taken:
            batch.attempt += 1
            batch.live = True
        return taken

    def _next_batch(self, queue: PartitionQueue) -> OutgoingBatch | None:
        """Take the next batch that has not flown yet, with its sequence and its bytes."""
        batch = queue.sealed[0] if queue.sealed else queue.filling
        if batch is None:
            return None
        count = batch.builder.count
        if queue.safe and queue.next_sequence + count > SEQUENCE_MAX:
            queue.renew = True
            if queue.flying or not self._renew(queue):
                return None
        batch.encode(queue.identity, queue.next_sequence if queue.safe else -1)
        if queue.sealed:
            queue.sealed.popleft()
        else:
            queue.filling = None
        queue.next_sequence += count
        return batch

    def _renew(self, queue: PartitionQueue) -> bool:
        """Give the queue, whose sendings are all answered, an identity that it has not had.

        That is its own in the next epoch (KIP-360), so that the partition refuses what of the old one is yet to come.
        """
        before = queue.identity
        identity = Identity(before.producer_id, before.epoch + 1)
        if not 0 < identity.epoch <= EPOCH_MAX:
            if self.identity is None or self.identity.producer_id == before.producer_id:
                queue.group.ready[queue] = None
                self._need_identity()
                return False
            identity = self.identity
        queue.identity = identity
        queue.renew = False
        queue.next_sequence = 0
        for batch in queue.flying:
            batch.held = False
            batch.encode(identity, queue.next_sequence)
            queue.next_sequence += batch.record_count
        return True

    def _send(self, group: GroupQueue, node: NodeId, link: Link, batches: list[OutgoingBatch], now: float) -> None:
        payload = [batch.encoded for batch in batches]
        entries = tuple([(batch.queue.topic, batch.partition, len(batch.encoded)) for batch in batches])
        produce = Produce(group.acks, NODE_TIMEOUT_MS, entries)
        self.counters.requests += 1
        self.counters.batches += len(batches)
        self.counters.bytes += sum(map(len, payload))
        if group.acks == ACKS["none"]:
            link.tell(produce, payload)
            for batch in batches:
                self._landing.succeed(batch, UNKNOWN_OFFSET, -1)
                self._landing.settle(batch.queue, now)
            return
        sending = Sending(group, node, batches, now)
        self._out[sending] = None
        group.requests += 1
        link.request(produce, payload, partial(self._answered, sending))

    # Back

    def _answered(self, sending: Sending, answer: Answer, _: memoryview) -> None:
        now = self._clock.now()
        if not sending.abandoned:
            if self._out.pop(sending, self) is self:
                return  # closed meanwhile
            sending.group.requests -= 1
            self._dirty[sending.group] = None
        results: tuple[tuple[int, int, int], ...]
        message = ""
        if isinstance(answer, ProduceReply) and len(answer.results) == len(sending.batches):
            results, message = answer.results, answer.message
            self._times.note(now - sending.sent_at)
        else:
            error = answer if isinstance(answer, CorgiError) else CorgiError("timeout", "the answer was no answer")
            results = ((error.kind.number, UNKNOWN_OFFSET, -1),) * len(sending.batches)
            message = error.message
        if results[0][0] != OUTCOME_UNKNOWN:
            self._routing.suspected.pop(sending.node, None)
        for batch, attempt, (number, base_offset, timestamp_ms) in zip(
            sending.batches, sending.attempts, results, strict=True
        ):
            if batch.gone:
                continue
            if number == 0:
                self._landing.succeed(batch, base_offset, timestamp_ms)
            elif attempt == batch.attempt:
                self._landing.failed(batch, sending.node, number, message)
        for queue in {batch.queue: None for batch in sending.batches}:
            self._landing.settle(queue, now)

    # Time

    def _look_at_the_late(self, now: float) -> None:
        """Ask another node too where one says nothing at all for unusually long, or is no longer the one to ask.

        One that was asked in the place of who refused is no better then, and the next is asked: it may be one that
        nobody hears, which answers our pings and nothing else. Whatever else that node should answer no more goes with
        the first: patience doubles with each look, and what was left behind would wait that long.
        """
        self._looked_at = now
        patience_s = self._times.patience_s
        silent: set[NodeId] = set()
        left: set[NodeId] = set()
        for sending in self._out:
            if now - sending.sent_at < patience_s:
                break
            if sending.group.acks != QUORUM:
                continue  # not safe to ask twice
            link = self._routing.links.get(sending.node)
            if link is not None and now - max(sending.sent_at, link.heard_at()) >= patience_s:
                silent.add(sending.node)
            elif self._misplaced(sending):
                left.add(sending.node)
        late = [
            sending
            for sending in self._out
            if sending.group.acks == QUORUM
            and (sending.node in silent or (sending.node in left and self._misplaced(sending)))
        ]
        if late:
            for sending in late:
                if sending.node in left and sending.group.refused_by:
                    sending.group.refused_by.add(sending.node)
            self._times.lost_patience()
            self._routing.suspected |= dict.fromkeys(silent, now)
            self._hedge(late, now)

    def _misplaced(self, sending: Sending) -> bool:
        return self._routing.preferred(sending.group.group) != sending.node

    def _hedge(self, late: list[Sending], now: float) -> None:
        """What these requests carry goes to another node too; whichever answers first is right."""
        self.counters.hedges += len(late)
        touched: dict[PartitionQueue, None] = {}
        for sending in late:
            del self._out[sending]
            sending.abandoned = True
            sending.group.requests -= 1
            self._dirty[sending.group] = None
            for batch, attempt in zip(sending.batches, sending.attempts, strict=True):
                if not batch.gone and attempt == batch.attempt:
                    batch.live = False
                    batch.unknown = True
                    batch.queue.stale = True
                    touched[batch.queue] = None
        for queue in touched:
            self._landing.settle(queue, now)
