"""Keeps every subscription's streams attached to a node that lives, preferably each partition's leader."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from corgi.base.errors import CorgiError, error_from_number
from corgi.base.ids import NodeId
from corgi.client.core.asks import Ask, Asks
from corgi.client.core.backoff import Backoff
from corgi.client.core.links import Answer, Chance, Clock, Link
from corgi.client.core.names import name_error
from corgi.client.core.options import ClientOptions
from corgi.client.core.routing import NO_NODE, Routing, TopicRoute
from corgi.client.core.subscriber import Start, Stream, StreamState, Subscription
from corgi.wire.messages import (
    Credit,
    Deliver,
    ListOffsets,
    ListOffsetsReply,
    Subscribe,
    SubscribeReply,
    SubscriptionEnded,
    Unsubscribe,
    WireMessage,
)

START, END = -2, -1  # questions of ListOffsets
GRANTS_MAX = 500  # in one Credit
_FROM_THE_START = Start("earliest")


class Consumer:
    """``need_topic`` is told a name whose metadata is missing, ``wake`` that a flush is due at the turn's end."""

    def __init__(
        self,
        options: ClientOptions,
        routing: Routing,
        clock: Clock,
        chance: Chance,
        asks: Asks,
        need_topic: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._options = options
        self._routing = routing
        self._clock = clock
        self._chance = chance
        self._asks = asks
        self._need_topic = need_topic
        self._wake = wake
        self._subscriptions: list[Subscription] = []
        self._attachments: dict[int, Stream] = {}
        self._detached: dict[Stream, None] = {}
        self._owing: dict[Stream, None] = {}
        self._last_id = 0
        self._refusal: CorgiError | None = None  # of a client that is closed or broken

    # The user's side

    def subscribe(
        self,
        topic: str,
        notify: Callable[[], None],
        *,
        start: Start | dict[int, Start],
        partitions: tuple[int, ...] | None = None,
        prefetch_bytes: int = 0,
        labels: tuple[str, str] = ("", ""),
        committed: bool = True,
    ) -> Subscription:
        """Begin to consume; batches can be taken from the subscription after ``notify``."""
        subscription = Subscription(
            topic,
            partitions,
            start,
            prefetch_bytes or self._options.prefetch_bytes,
            notify,
            self._on_detached,
            self._on_owing,
            labels,
            committed,
        )
        if self._refusal is not None:
            subscription.fail(self._refusal.copy())
            return subscription
        if (error := name_error(topic)) is not None:
            subscription.fail(error)
            return subscription
        self._subscriptions.append(subscription)
        if topic in self._routing.topics:
            self._populate(subscription, self._routing.topics[topic])
        else:
            self._need_topic(topic)
        self._wake()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End it; nothing is pushed for it any more."""
        if subscription.closed:
            return
        subscription.closed = True
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        for stream in subscription.streams.values():
            self._leave(stream)
            self._end(stream)
        self._wake()

    # Facts

    def topic_known(self, name: str) -> None:
        for subscription in self._subscriptions:
            if subscription.topic == name:
                self._populate(subscription, self._routing.topics[name])

    def waits_for(self, name: str) -> bool:
        """Does a subscription need to know this topic?"""
        return any(subscription.topic == name for subscription in self._subscriptions)

    def topic_failed(self, name: str, error: CorgiError) -> None:
        for subscription in self._subscriptions:
            if subscription.topic == name:
                subscription.fail(error)

    def link_lost(self, node: NodeId) -> None:
        for stream in [stream for stream in self._attachments.values() if stream.node == node]:
            stream.detach()

    def leaders_changed(self, groups: set[int]) -> None:
        """Streams follow the leader, who is the first to have applied what is new."""
        for stream in list(self._attachments.values()):
            if stream.group in groups and stream.node != self._routing.preferred(stream.group):
                self._leave(stream)

    def pushed(self, message: WireMessage, payload: memoryview) -> None:
        """Deliver or SubscriptionEnded. Raises "malformed-frame" for a push that contradicts itself."""
        if isinstance(message, Deliver):
            stream = self._attachments.get(message.subscription)
            if stream is not None:
                stream.subscription.deliver(stream, payload, message.lengths, message.end, message.start)
        elif isinstance(message, SubscriptionEnded):
            stream = self._attachments.get(message.subscription)
            if stream is not None:
                self._refused(stream, error_from_number(message.error, message.message))

    def flush(self, now: float) -> None:
        """Attach what is detached, grant what was consumed."""
        if self._detached:
            for stream in [stream for stream in self._detached if stream.retry_at <= now]:
                self._attach(stream)
        if self._owing:
            self._grant()

    def next_deadline(self, now: float) -> float | None:
        """What is due already waits for a link, not for the time."""
        return min([stream.retry_at for stream in self._detached if stream.retry_at > now], default=None)

    def close(self, error: CorgiError) -> None:
        """Every subscription ends with ``error``, later ones at once."""
        self._refusal = error
        for subscription in list(self._subscriptions):
            subscription.fail(error.copy())

    # Streams

    def _populate(self, subscription: Subscription, route: TopicRoute) -> None:
        """Make the streams that are missing: all at first, later those of added partitions, from their start."""
        first = not subscription.streams
        wanted = subscription.wanted
        if wanted is None and isinstance(subscription.start, dict):
            wanted = tuple(subscription.start)
        for partition in range(route.partitions) if wanted is None else wanted:
            if partition in subscription.streams:
                continue
            if not 0 <= partition < route.partitions:
                subscription.fail(
                    CorgiError("unknown-partition", f"{route.name} has {route.partitions} partitions, no {partition}")
                )
                return
            start = subscription.start_of(partition) if first else _FROM_THE_START
            backoff = Backoff(self._options.retry_min_s, self._options.retry_max_s, self._chance)
            stream = Stream(subscription, route.topic, partition, route.groups[partition], start, backoff)
            subscription.streams[partition] = stream
            if stream.state is StreamState.DETACHED:
                self._on_detached(stream)
        for stream in subscription.streams.values():
            if stream.state is StreamState.UNPLACED and first:
                self._look_up(stream)

    def _look_up(self, stream: Stream) -> None:
        """Ask where the start, the end or a time is."""
        question = {"earliest": START, "latest": END}.get(stream.start.kind, stream.start.number)
        self._asks.ask(
            ListOffsets(((stream.topic, stream.partition, question),)),
            partial(self._looked_up, stream),
            group=stream.group,
            judge=_offsets_error,
        )

    def _looked_up(self, stream: Stream, ask: Ask, answer: Answer, _: memoryview) -> None:
        if stream.state is not StreamState.UNPLACED:
            return
        if isinstance(answer, ListOffsetsReply):
            offset, found_ms = answer.partitions[0][1:]
            if stream.start.kind == "time" and found_ms >= 0:
                stream.not_before_ms = stream.start.number
            stream.place(offset)
            self._on_detached(stream)
        elif isinstance(answer, CorgiError) and answer.retryable and not stream.subscription.closed:
            self._look_up(stream)
        elif isinstance(answer, CorgiError):
            stream.subscription.fail(answer)

    def _attach(self, stream: Stream) -> None:
        node = self._routing.preferred(stream.group)
        if stream.avoid != NO_NODE:
            node = self._routing.other_than(stream.group, (stream.avoid,))
        link = self._routing.links.get(node)
        if link is None:
            return  # flushed again when one is up
        del self._detached[stream]
        self._last_id += 1
        stream.id = self._last_id
        stream.node = node
        stream.state = StreamState.ATTACHING
        stream.owed = 0
        stream.subscription.attachments += 1
        self._attachments[stream.id] = stream
        owner = stream.subscription
        credit = max(1, owner.window - stream.held)
        link.request(
            Subscribe(
                stream.id, stream.topic, stream.partition, stream.position, credit, *owner.labels, owner.committed
            ),
            (),
            partial(self._attached, stream, stream.id),
        )

    def _attached(self, stream: Stream, attachment: int, answer: Answer, _: memoryview) -> None:
        if stream.id != attachment or self._attachments.get(attachment) is not stream:
            return
        if isinstance(answer, SubscribeReply) and not answer.error:
            stream.state = StreamState.ATTACHED
            stream.avoid = NO_NODE
            stream.end = answer.end
            stream.backoff.reset()
            self._tell_attached(stream.subscription)
        elif isinstance(answer, SubscribeReply):
            error = error_from_number(answer.error, answer.message)
            if error.code == "offset-out-of-range" and stream.start.kind == "earliest" and stream.position == 0:
                self._look_up_start(stream)
                return
            lags = self._routing.lags(answer.error, stream.subscription.topic, stream.topic, stream.partition)
            if lags:
                self._need_topic(stream.subscription.topic)  # tells the consumer if the topic is gone after all
            self._refused(stream, error, lags=lags)
        else:
            error = answer if isinstance(answer, CorgiError) else CorgiError("timeout")
            self._refused(stream, error)

    def _look_up_start(self, stream: Stream) -> None:
        """Earliest was taken for 0, which mostly saves a question; this log starts later."""
        self._attachments.pop(stream.id, None)
        stream.state = StreamState.UNPLACED
        self._look_up(stream)

    def _refused(self, stream: Stream, error: CorgiError, *, lags: bool = False) -> None:
        """A node does not serve the stream, or no longer: try again, or tell the consumer."""
        node = stream.node
        if lags or error.retryable or error.code in ("outcome-unknown", "closed"):
            stream.detach(node)
            stream.retry_at = self._clock.now() + stream.backoff.next()
            return
        self._end(stream)
        stream.subscription.fail(error)

    def _leave(self, stream: Stream) -> None:
        """Tell the node that the stream goes elsewhere."""
        link = self._routing.links.get(stream.node)
        if link is not None and stream.id in self._attachments:
            link.request(Unsubscribe(stream.id), (), _ignore)
        stream.detach()

    def _on_detached(self, stream: Stream) -> None:
        self._attachments.pop(stream.id, None)
        self._owing.pop(stream, None)
        self._detached[stream] = None
        self._wake()

    def _on_owing(self, stream: Stream) -> None:
        if stream.state is StreamState.ATTACHED or stream.state is StreamState.ATTACHING:
            self._owing[stream] = None
            self._wake()

    def _end(self, stream: Stream) -> None:
        self._attachments.pop(stream.id, None)
        self._owing.pop(stream, None)
        self._detached.pop(stream, None)
        stream.state = StreamState.ENDED

    def _grant(self) -> None:
        """One Credit for each link, for all of its streams that consumed enough."""
        grants: dict[Link, list[tuple[int, int]]] = {}
        for stream in self._owing:
            link = self._routing.links.get(stream.node)
            if link is not None:
                grants.setdefault(link, []).append((stream.id, stream.owed))
            stream.owed = 0
        self._owing.clear()
        for link, entries in grants.items():
            for at in range(0, len(entries), GRANTS_MAX):
                link.tell(Credit(tuple(entries[at : at + GRANTS_MAX])))

    def _tell_attached(self, subscription: Subscription) -> None:
        if not subscription.attached and all(
            stream.state is StreamState.ATTACHED for stream in subscription.streams.values()
        ):
            subscription.all_attached()


def _offsets_error(answer: WireMessage) -> CorgiError | None:
    if isinstance(answer, ListOffsetsReply) and len(answer.partitions) == 1:
        number = answer.partitions[0][0]
        return error_from_number(number) if number else None
    return CorgiError("timeout", "the answer was no answer")


def _ignore(_: Answer, __: memoryview) -> None:
    """Nothing depends on the answer."""
