"""The client library's own core in the simulator: its shell here is this module, where the product has sockets.

One ``SdkClient`` publishes and consumes through ``corgi.client.core.Client``; what it promises its users is recorded as
the history of every other simulated client is. It keeps links to all nodes, hedges, retries and attaches by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError, error_from_number
from corgi.base.limits import FRAME_BYTES_MAX
from corgi.base.records import iter_batch
from corgi.client.core.batch import Outcome
from corgi.client.core.client import Client
from corgi.client.core.links import Address, Done
from corgi.client.core.options import ClientOptions
from corgi.client.core.subscriber import Start, Subscription
from corgi.history.model import FAILED, OK, UNKNOWN, Partition, Read, Send
from corgi.sim.clients import identity_of
from corgi.sim.cluster import CLUSTER, address_of, node_at
from corgi.sim.records import make, note_keys
from corgi.sim.scene import Scene
from corgi.sim.sessions import SimSession
from corgi.sim.world import WALL_AT_ZERO_MS, World
from corgi.wire.messages import ErrorReply, HelloReply, WireMessage

TURN_S = 0.000_02
DIAL_S = 0.001
PUBLISH_TIMEOUT_S = 6.0
REQUEST_TIMEOUT_S = 3.0
PREFETCH_BYTES = 2048
BATCH_BYTES = 2048
REQUEST_BYTES = 8192  # a value that is full but for a byte and takes all of it fits the smallest segment
MAYBE_STORED = "may be stored"  # how an error tells that some attempt has left the client; without it none is stored


class LinkShell(Protocol):
    """Who has links: what it does with what comes over them."""

    @property
    def name(self) -> str: ...

    @property
    def world(self) -> World: ...

    @property
    def client(self) -> Client: ...

    def now(self) -> float: ...

    def soon(self, call: Callable[..., None], *arguments: object) -> None:
        """In the next turn."""
        ...

    def wake(self) -> None: ...


class SimLink:
    """The ``Link`` port on a simulated connection."""

    __slots__ = ("_heard_at", "_pending", "_session", "_shell", "name")

    def __init__(self, shell: LinkShell, session_of: Callable[[SimLink], SimSession | None]) -> None:
        self.name = shell.name
        self._shell = shell
        self._heard_at = shell.now()
        self._pending: dict[int, Done] = {}
        self._session = session_of(self)

    @property
    def up(self) -> bool:
        return self._session is not None

    def tell_dialed(self, address: Address) -> None:
        """Tell the client what came of dialling."""
        if self.up:
            hello = HelloReply(1, CLUSTER.hex(), node_at(address.port), FRAME_BYTES_MAX)
            self._shell.client.link_up(self, hello, address)
        else:
            self._shell.client.dial_failed(address, CorgiError("unreachable", f"nobody listens at {address}"))
        self._shell.wake()

    # ---- Link

    def request(self, message: WireMessage, payload: Sequence[Buffer], done: Done) -> None:
        if self._session is None or not self._session.open:
            self._shell.soon(done, CorgiError("outcome-unknown", "the link is closed"), memoryview(b""))
        else:
            self._pending[self._session.request(message, b"".join(payload))] = done

    def tell(self, message: WireMessage, payload: Sequence[Buffer] = ()) -> None:
        if self._session is not None and self._session.open:
            self._session.request(message, b"".join(payload))

    def buffered(self) -> int:
        return 0

    def heard_at(self) -> float:
        return self._heard_at

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._shell.soon(self.disconnected, self._session)

    # ---- Listener of the session

    def answered(self, session: SimSession, correlation: int, reply: WireMessage, payload: bytes) -> None:
        self._heard_at = self._shell.now()
        self._shell.world.note(self.name, (session.node, correlation, reply, len(payload)))
        done = self._pending.pop(correlation, None)
        if done is None:
            return
        if isinstance(reply, ErrorReply):
            done(error_from_number(reply.error, reply.message), memoryview(b""))
        else:
            done(reply, memoryview(payload))
        self._shell.wake()

    def pushed(self, session: SimSession, message: WireMessage, payload: bytes) -> None:
        self._heard_at = self._shell.now()
        self._shell.world.note(self.name, (session.node, message.TYPE, message, len(payload)))
        self._shell.client.pushed(self, message, memoryview(payload))
        self._shell.wake()

    def disconnected(self, session: SimSession) -> None:
        if self._session is None:
            return
        self._session = None
        error = CorgiError("outcome-unknown", "the connection broke")
        self._shell.client.link_lost(self, error)
        pending, self._pending = self._pending, {}
        for done in pending.values():
            done(error, memoryview(b""))
        self._shell.wake()


class SdkClient:
    """A user of the library: publishes to chosen partitions, and subscribes to whole topics from the earliest on."""

    def __init__(self, scene: Scene, name: str, interval: float) -> None:
        self.scene = scene
        self.world = scene.world
        self.name = name
        self.chance = scene.world.stream(f"client/{name}")
        self.interval = interval
        options = ClientOptions(
            publish_timeout_s=PUBLISH_TIMEOUT_S,
            request_timeout_s=REQUEST_TIMEOUT_S,
            prefetch_bytes=PREFETCH_BYTES,
            batch_bytes=BATCH_BYTES,
            request_bytes=REQUEST_BYTES,
            hedge_s=self.chance.choice((0.05, 0.25)),
        )
        seeds = [Address(*address_of(node)) for node in self.chance.sample(scene.nodes, 1)]
        self.client = Client(options, seeds, clock=self, chance=self.chance.random, dialer=self, wake=self.wake)
        self._flush_due = False
        self._deadline = float("inf")
        self._made = 0
        self._sequences: dict[Partition, int] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._positions: dict[Partition, int] = {}

    def start(self) -> None:
        self.client.start()
        self.wake()
        self.world.after(self.interval, self._tick)

    def idle(self) -> bool:
        """Everything published has landed, what was given up included."""
        return self.client.producer.buffered == 0

    def describe(self) -> str:
        open_ones = [f"{o.topic}/{o.partition}" for o in self.client.producer.unfinished()]
        return f"{self.name} holds {self.client.producer.buffered} bytes, unfinished {open_ones}"

    # ---- the shell

    def now(self) -> float:
        return self.world.now

    def dial(self, address: Address) -> None:
        self.world.after(DIAL_S * (0.5 + self.chance.random()), self._dialed, address)

    def _dialed(self, address: Address) -> None:
        link = SimLink(self, partial(self.scene.front.connect, node_at(address.port)))
        link.tell_dialed(address)

    def soon(self, call: Callable[..., None], *arguments: object) -> None:
        """In the next turn."""
        self.world.after(0.0, self._then_wake, call, arguments)

    def _then_wake(self, call: Callable[..., None], arguments: tuple[object, ...]) -> None:
        call(*arguments)
        self.wake()

    def wake(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self.world.after(TURN_S, self._turn)

    def _turn(self) -> None:
        self._flush_due = False
        deadline = self.client.next_deadline()
        if deadline is not None and deadline <= self.world.now:
            self.client.advance()
        self.client.flush()
        self._arm()

    def _arm(self) -> None:
        deadline = self.client.next_deadline()
        if deadline is not None and (deadline < self._deadline or self._deadline <= self.world.now):
            self._deadline = max(deadline, self.world.now + TURN_S)
            self.world.at(self._deadline, self._due, self._deadline)

    def _due(self, deadline: float) -> None:
        if deadline == self._deadline:
            self._deadline = float("inf")
            self.wake()

    # ---- the user

    def _tick(self) -> None:
        if self.scene.producing:
            self.world.after(self.interval * (0.5 + self.chance.random()), self._tick)
            for _ in range(self.chance.choice((1, 1, 2, 5))):
                self._publish()
        if self.scene.reading:
            self._subscribe()
        self.wake()

    def _publish(self) -> None:
        places = self.scene.partitions(lasting=True)
        if not places:
            return
        partition, _ = self.chance.choice(places)
        self._made += 1
        value = f"{self.name}.{self._made}".encode()
        sequence = self._sequences.get(partition, 0)
        self._sequences[partition] = sequence + 1
        record = make(self.scene, partition, value, self.chance)
        send = Send(self.name, partition, sequence, (value,), self.world.now, ordered=True)
        if self.scene.compacted(partition):
            note_keys(send, [record])
        time_ms = WALL_AT_ZERO_MS + int(self.world.now * 1000)
        try:
            outcome, index = self.client.producer.publish(
                partition.topic, *record.fields(), time_ms, partition=partition.number
            )
        except CorgiError as error:
            if error.code not in ("unknown-partition", "overloaded"):
                self.scene.violate("unjustified-refusal", f"{send}: {error}")
            self.client.need_topic(partition.topic)  # it has grown, and this client has yet to hear of it
            self._sequences[partition] = sequence
            return
        self.scene.history.sends.append(send)
        outcome.when_done(lambda: self._done(send, outcome, index))

    def _done(self, send: Send, outcome: Outcome, index: int) -> None:
        send.ended = self.world.now
        error = outcome.error
        if error is None:
            send.status, send.offset = OK, outcome.base_offset + index
        elif error.code == "outcome-unknown" or MAYBE_STORED in error.message:
            send.status = UNKNOWN
        else:
            send.status = FAILED
            if not error.retryable:
                self.scene.violate("unjustified-refusal", f"{send}: {error}")

    def _subscribe(self) -> None:
        for topic in [topic for topic in self.scene.ready() if topic.lasting]:
            if topic.name not in self._subscriptions and len(self._subscriptions) < 2:
                notify = partial(self.soon, self._take, topic.name)
                subscription = self.client.consumer.subscribe(topic.name, notify, start=Start("earliest"))
                self._subscriptions[topic.name] = subscription

    def _take(self, name: str) -> None:
        subscription = self._subscriptions[name]
        if subscription.error is not None:
            self.scene.violate("unjustified-refusal", f"{self.name} consuming {name}: {subscription.error}")
        while (delivery := subscription.take()) is not None:
            partition = Partition(name, delivery.partition)
            position = self._positions.get(partition, 0)
            records = tuple(
                (record.offset, identity_of(record))
                for record in iter_batch(delivery.batch)
                if record.offset >= delivery.wanted
            )
            self.scene.history.reads.append(Read(self.name, partition, position, records, self.world.now))
            self._positions[partition] = delivery.next_offset
