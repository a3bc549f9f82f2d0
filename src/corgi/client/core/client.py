"""The whole client without I/O: facts in, requests out through links, one deadline, one flush at a turn's end.

    shell or simulator                               Client
    link_up, link_lost, dial_failed, link_drained ->  peers     links to all nodes
    pushed, answers of requests                   ->  routing   nodes, leaders, topics
    publish, subscribe, ask                       ->  producer -> sender      consumer -> subscriber      asks
    advance(), flush(), next_deadline()           ->  all of them

The shell calls ``flush`` after any facts of a turn and when ``wake`` was called, and ``advance`` (then
``flush``) when ``next_deadline`` has come.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from corgi.base.command import Buffer
from corgi.base.errors import BY_NUMBER, CorgiError, error_from_number
from corgi.client.core.asks import Ask, Asks, Judge
from corgi.client.core.batch import Identity
from corgi.client.core.consumer import Consumer
from corgi.client.core.links import Address, Answer, Chance, Clock, Dialer, Link
from corgi.client.core.membership import Memberships
from corgi.client.core.names import name_error
from corgi.client.core.options import ClientOptions
from corgi.client.core.peers import Peers
from corgi.client.core.producer import Producer
from corgi.client.core.routing import NO_NODE, Routing
from corgi.wire.group_messages import GroupChanged
from corgi.wire.messages import (
    Deliver,
    HelloReply,
    InitProducer,
    InitProducerReply,
    LeaderChanged,
    Metadata,
    MetadataReply,
    SubscriptionEnded,
    TopicInfo,
    TopicsChanged,
    WireMessage,
)
from corgi.wire.transaction_messages import CheckBack


class Client:
    """One client of one cluster. ``wake``: a flush is wanted at the end of the turn."""

    def __init__(
        self,
        options: ClientOptions,
        seeds: Sequence[Address],
        *,
        clock: Clock,
        chance: Chance,
        dialer: Dialer,
        wake: Callable[[], None],
    ) -> None:
        self.options = options
        self.routing = Routing()
        self._refusal: CorgiError | None = None  # of a client that is closed or broken
        self._broken = False
        self.clock = clock
        self._wake = wake
        self._peers = Peers(options, self.routing, clock, chance, dialer)
        self._peers.know(seeds)
        self.asks = Asks(options, self.routing, clock, chance)
        self.producer = Producer(options, self.routing, clock, chance, self.need_topic, self._need_identity, wake)
        self.consumer = Consumer(options, self.routing, clock, chance, self.asks, self.need_topic, wake)
        self.memberships = Memberships()
        self.on_check: Callable[[CheckBack], None] = lambda _: None
        self._topics_wanted: dict[str, None] = {}  # names to ask for
        self._topics_asked: dict[str, None] = {}  # names whose answer is on its way
        self._topics_used: dict[str, None] = {}  # names to ask for again after being cut off
        self._topic_waiters: dict[str, list[Callable[[CorgiError | None], None]]] = {}
        self._identity_wanted = False
        self._ready_waiters: list[Callable[[], None]] = []
        self._seeds_waiters: list[Callable[[], None]] = []

    # The user's side; publishing and consuming are the producer's and the consumer's

    @property
    def ready(self) -> bool:
        """Is a node connected and the cluster known?"""
        return bool(self.routing.links) and bool(self.routing.leaders)

    @property
    def refusal(self) -> CorgiError | None:
        """Why a closed or broken client takes no more calls."""
        return None if self._refusal is None else self._refusal.copy()

    @property
    def closed(self) -> bool:
        return self._refusal is not None

    @property
    def hopeless(self) -> bool:
        """Has every node that is known refused us for a reason that no patience mends, or do the seeds disagree?"""
        return self._broken or self._peers.disagreement is not None or self._peers.worst_error() is not None

    @property
    def disagreement(self) -> CorgiError | None:
        """The "wrong-cluster" of seeds that belong to different clusters; only one of the clusters is ever used."""
        return self._peers.disagreement

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Call back once, when it is ``ready`` or ``hopeless``."""
        self._ready_waiters.append(callback)
        self._tell_ready()

    def when_seeds_told(self, callback: Callable[[], None]) -> None:
        """Call back once, when every seed has greeted or said why not."""
        self._seeds_waiters.append(callback)
        self._tell_ready()

    def ask(
        self,
        message: WireMessage,
        done: Callable[[Ask, Answer, memoryview], None],
        *,
        group: int = 0,
        judge: Judge = lambda _: None,
        timeout_s: float = 0.0,
        payload: Sequence[Buffer] = (),
    ) -> None:
        """Ask a fitting node, with retries; see ``asks``."""
        self.asks.ask(message, done, group=group, judge=judge, timeout_s=timeout_s, payload=payload)
        self._wake()

    def need_topic(self, name: str) -> None:
        """Have the metadata of a topic fetched; the producer and the consumer are told."""
        self._topics_wanted[name] = None
        self._wake()

    def when_topic(self, name: str, callback: Callable[[CorgiError | None], None]) -> None:
        """Call back once the topic is known (None), or with why it is not."""
        if name in self.routing.topics:
            callback(None)
            return
        if self._refusal is not None:
            callback(self._refusal.copy())
            return
        self._topic_waiters.setdefault(name, []).append(callback)
        self.need_topic(name)

    def topic_told(self, info: TopicInfo) -> None:
        """An answer to an administrative request told a topic."""
        if self.routing.learn_topic(info):
            self._topic_changed(info.name, info.error)

    def unreachable(self) -> CorgiError:
        """Why ``ready`` is not reached."""
        told = self._refusal if self._broken else self._peers.disagreement or self._peers.worst_error()
        if told is not None:
            return told
        reasons = "; ".join(self._peers.errors()) or "no node has answered yet"
        return CorgiError("unreachable", f"no node can be reached: {reasons}")

    # Facts

    def start(self) -> None:
        self.advance()

    def link_up(self, link: Link, hello: HelloReply, address: Address) -> None:
        """A connection's handshake is done."""
        first = not self.routing.links
        if not self._peers.link_up(link, hello, address):
            self._tell_ready()
            return
        self._tell_ready()
        names = tuple(self._topics_used) if first else ()
        link.request(Metadata(names, True), (), self._metadata_told)
        self.producer.sender.stir()

    def link_lost(self, link: Link, error: CorgiError) -> None:
        """A connection broke; its open requests end with "outcome-unknown" right after this."""
        node = self._peers.link_lost(link, error)
        if node != NO_NODE:
            self.consumer.link_lost(node)
            self.memberships.link_lost()
            self.producer.sender.stir()

    def dial_failed(self, address: Address, error: CorgiError) -> None:
        self._peers.dial_failed(address, error)
        self._tell_ready()

    def link_drained(self, link: Link) -> None:
        """A socket has room again."""
        self.producer.sender.stir()

    def pushed(self, link: Link, message: WireMessage, payload: memoryview) -> None:
        """A node says something without being asked."""
        try:
            if isinstance(message, (Deliver, SubscriptionEnded)):
                self.consumer.pushed(message, payload)
            elif isinstance(message, GroupChanged):
                self.memberships.pushed(message)
            elif isinstance(message, CheckBack):
                self.on_check(message)
            elif isinstance(message, LeaderChanged):
                self._leaders_told(message)
            elif isinstance(message, TopicsChanged):
                for name in message.names:
                    if name in self._topics_used:
                        self.need_topic(name)
        except CorgiError:
            link.close()  # it contradicts itself: what follows on this connection is not to be trusted

    def advance(self) -> None:
        """Do what is due; ``flush`` follows."""
        if self.closed:
            return
        now = self.clock.now()
        self._peers.advance(now)
        self.asks.advance(now)
        self.memberships.advance(now)
        self.producer.advance(now)

    def flush(self) -> None:
        """The turn is over: send what there is to send."""
        if self.closed:
            return
        now = self.clock.now()
        if self._topics_wanted:
            self._ask_topics()
        self.producer.sender.flush(now)
        self.consumer.flush(now)
        self.asks.flush(now)

    def next_deadline(self) -> float | None:
        """When ``advance`` is wanted, in the clock's seconds."""
        now = self.clock.now()
        times = [
            time
            for time in (
                self._peers.next_deadline(),
                self.asks.next_deadline(now),
                self.producer.next_deadline(),
                self.consumer.next_deadline(now),
                self.memberships.next_deadline(),
            )
            if time is not None
        ]
        return min(times, default=None)

    def close(self) -> None:
        """Give every open matter an end and close the links."""
        if self._refusal is not None:
            self._peers.close()
            return
        error = self._refusal = CorgiError("closed", "the client is closed")
        self.producer.close(error)
        self.consumer.close(error)
        self.memberships.close(error)
        self.asks.close(error)
        self._end_topics(error)
        self._peers.close()

    def fail(self, error: CorgiError) -> None:
        """A fault of the client itself was met: every open matter ends with ``error``, and so does every later call.

        Each part ends for itself, whatever state the fault has left another in.
        """
        if self._refusal is not None:
            return
        self._refusal = error
        self._broken = True
        for end in (self.producer.fail, self.consumer.close, self.memberships.close, self.asks.close, self._end_topics):
            with contextlib.suppress(Exception):
                end(error)
        self._tell_ready()
        with contextlib.suppress(Exception):
            self._peers.close()

    def _end_topics(self, error: CorgiError) -> None:
        for name in list(self._topic_waiters):
            self._tell_topic(name, error.copy())

    # Metadata

    def _metadata_told(self, answer: Answer, _: memoryview) -> None:
        if not isinstance(answer, MetadataReply):
            return
        before = list(self.routing.leaders)
        changed = self.routing.learn(answer)
        for node, address in self.routing.addresses.items():
            self._peers.know((address,), node)
        self._leaders_moved(before)
        for name in changed:
            self._topic_changed(name, 0)
        self._peers.advance(self.clock.now())
        self._tell_ready()

    def _ask_topics(self) -> None:
        wanted = [name for name in self._topics_wanted if name not in self._topics_asked]
        self._topics_wanted.clear()
        errors = {name: name_error(name) for name in wanted}
        for name, error in errors.items():
            if error is not None:
                self._topic_missing(name, error)
        names = tuple([name for name in wanted if errors[name] is None])
        if not names:
            return
        for name in names:
            self._topics_asked[name] = None
            self._topics_used[name] = None
        self.asks.ask(Metadata(names, False), lambda ask, answer, _: self._topics_told(names, answer))

    def _topics_told(self, names: tuple[str, ...], answer: Answer) -> None:
        for name in names:
            self._topics_asked.pop(name, None)
        if isinstance(answer, CorgiError):
            for name in names:
                if name not in self.routing.topics:
                    self._topic_unheard(name, answer)
            return
        known = {name: self.routing.topics.get(name) for name in names}
        self._metadata_told(answer, memoryview(b""))
        if not isinstance(answer, MetadataReply):
            return
        told = {info.name: info for info in answer.topics}
        for name in names:
            route = self.routing.topics.get(name)
            if route is None:
                number = told[name].error if name in told else 0
                error = error_from_number(number) if number in BY_NUMBER else CorgiError("unknown-topic")
                self._topic_missing(name, CorgiError(error.code, f"the topic {name!r}: {error.message}"))
            elif route is known[name]:
                self._topic_changed(name, 0)  # nothing new, but somebody waits for it

    def _topic_changed(self, name: str, error: int) -> None:
        self._topics_used[name] = None
        if name in self.routing.topics:
            self.producer.topic_known(name)
            self.consumer.topic_known(name)
            self._tell_topic(name, None)
        else:
            self._topic_missing(name, CorgiError("unknown-topic", f"the topic {name!r} does not exist"))

    def _topic_unheard(self, name: str, error: CorgiError) -> None:
        """Nobody told of it. While that may change, records wait for their own deadlines, subscriptions for ever."""
        if self.closed or not error.retryable:
            self._topic_missing(name, error)
            return
        self._tell_topic(name, error)
        if self.producer.waits_for(name, error) or self.consumer.waits_for(name):
            self.need_topic(name)

    def _topic_missing(self, name: str, error: CorgiError) -> None:
        self._topics_used.pop(name, None)
        self.producer.topic_failed(name, error)
        self.consumer.topic_failed(name, error)
        self._tell_topic(name, error)

    def _tell_topic(self, name: str, error: CorgiError | None) -> None:
        for callback in self._topic_waiters.pop(name, ()):
            callback(error)

    def _tell_ready(self) -> None:
        if self._ready_waiters and (self.ready or self.hopeless):
            waiters, self._ready_waiters = self._ready_waiters, []
            for callback in waiters:
                callback()
        if self._seeds_waiters and self._peers.seeds_told():
            waiters, self._seeds_waiters = self._seeds_waiters, []
            for callback in waiters:
                callback()

    # Leaders and identities

    def _leaders_told(self, message: LeaderChanged) -> None:
        before = list(self.routing.leaders)
        for group, leader, term in message.leaders:
            self.routing.leader_changed(group, leader, term)
        self._leaders_moved(before)

    def _leaders_moved(self, before: Sequence[int]) -> None:
        moved = {group for group, leader in enumerate(before) if leader != self.routing.leaders[group]}
        if moved:
            self.consumer.leaders_changed(moved)
            self.producer.sender.stir()

    def _need_identity(self) -> None:
        if not self._identity_wanted:
            self._identity_wanted = True
            self.asks.ask(InitProducer(), self._identity_told)
            self._wake()

    def _identity_told(self, _: Ask, answer: Answer, __: memoryview) -> None:
        self._identity_wanted = False
        if isinstance(answer, InitProducerReply):
            self.producer.identity_known(Identity(answer.producer_id, answer.producer_epoch))
        else:
            self.producer.sender.stir()  # batches still wait for it: they ask again
