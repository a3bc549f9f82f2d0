"""What the clients of a run do: topics made at the start and during the run, producers and readers of every kind."""

from __future__ import annotations

from corgi.base import errors
from corgi.sim.clients import TRANSIENT, Client, failure
from corgi.sim.producers import IdempotentProducer, PlainProducer
from corgi.sim.readers import EndAsker, Poller, Subscriber
from corgi.sim.scene import Scene, Topic
from corgi.sim.sdk import SdkClient
from corgi.wire.messages import (
    CreateTopic,
    Metadata,
    MetadataReply,
    Status,
    StatusReply,
    TopicReply,
    WireMessage,
)

RETRY_S = 0.1


class Administrator(Client):
    """Makes topics, each until somebody confirms it, and looks at nodes now and then."""

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene, name)
        self.todo: list[Topic] = []

    def start(self) -> None:
        super().start()
        self.world.after(0.5, self._look)

    def make(self, topic: Topic) -> None:
        self.todo.append(topic)
        if len(self.todo) == 1:
            self._next()

    def connected(self) -> None:
        self._next()

    def idle(self) -> bool:
        return not self.todo

    def _next(self) -> None:
        if not self.todo or self.session is None or self._pending:
            return
        topic = self.todo[0]
        message = CreateTopic(topic.name, topic.partitions, {}, topic.colocate_with, -1, 1_500)
        self.ask(message, b"", lambda reply, _: self._made(topic, reply))

    def _made(self, topic: Topic, reply: WireMessage | None) -> None:
        if isinstance(reply, TopicReply):
            if reply.topic is not None and reply.error in (errors.OK, errors.TOPIC_EXISTS):
                self._known(topic, reply.topic.topic, len(reply.topic.groups))
                return
            if reply.error == errors.TOPIC_EXISTS:
                self.ask(Metadata((topic.name,)), b"", lambda answer, _: self._found(topic, answer))
                return
            if reply.error not in TRANSIENT:
                text = f"making {topic.name} was refused with {errors.BY_NUMBER[reply.error].code}: {reply.message}"
                self.scene.violate("unjustified-refusal", text)
        if failure(reply) != -1:
            self.world.after(RETRY_S, self._next)

    def _found(self, topic: Topic, reply: WireMessage | None) -> None:
        if isinstance(reply, MetadataReply):
            for info in reply.topics:
                if info.name == topic.name and not info.error:
                    self._known(topic, info.topic, len(info.groups))
                    return
        if reply is not None:
            self.world.after(RETRY_S, self._next)

    def _known(self, topic: Topic, number: int, partitions: int) -> None:
        self.scene.history.other_operations += 1
        if partitions != topic.partitions:
            text = f"{topic.name} has {partitions} partitions, {topic.partitions} were asked for"
            self.scene.violate("wrong-topic", text)
        topic.id = number  # type: ignore[assignment]
        self.todo.pop(0)
        self._next()

    def _look(self) -> None:
        if self.scene.reading:
            self.world.after(1.0 + self.chance.random(), self._look)
            self.ask(Status() if self.chance.random() < 0.5 else Metadata(), b"", self._seen)

    def _seen(self, reply: WireMessage | None, _: bytes) -> None:
        if isinstance(reply, StatusReply | MetadataReply):
            self.scene.history.other_operations += 1
        self._next()


class Workload:
    """All clients of a run."""

    def __init__(self, scene: Scene, *, busy: bool | None = None) -> None:
        """``busy`` asks for bursts of requests, so that several slots are in flight; None leaves it to the seed."""
        self.scene = scene
        self.world = scene.world
        self.chance = chance = scene.world.stream("workload")
        self.administrator = Administrator(scene, "admin")
        interval, burst = chance.choice(((0.15, 1), (0.3, 1), (0.4, 4)))
        if busy:
            interval, burst = 0.25, 4
        self.idempotent = [
            IdempotentProducer(scene, f"p{number}", interval, chance.choice((1, 3, 5)), burst)
            for number in range(chance.choice((1, 2)))
        ]
        self.sdk = [SdkClient(scene, f"x{number}", interval) for number in range(chance.choice((1, 2)))]
        self.plain = [PlainProducer(scene, f"q{number}", 0.3) for number in range(chance.choice((0, 1, 2)))]
        self.readers: list[Client] = [
            *(Poller(scene, f"f{number}", 3) for number in range(chance.choice((1, 2)))),
            *(Subscriber(scene, f"s{number}", 4) for number in range(chance.choice((1, 2)))),
            EndAsker(scene, "e0", 0.5),
        ]

    @property
    def clients(self) -> list[Client | SdkClient]:
        return [self.administrator, *self.idempotent, *self.plain, *self.sdk, *self.readers]

    def start(self, until: float) -> None:
        """Topics now and at some later times before ``until`` (s)."""
        for client in self.clients:
            client.start()
        names = iter(range(1, 100))
        for _ in range(self.chance.choice((1, 2))):
            self._make(next(names), "")
        for _ in range(self.chance.choice((0, 1, 2))):
            when = self.world.now + self.chance.random() * until
            self.world.at(when, self._make, next(names), self.chance.choice(("", "t1")))

    def _make(self, number: int, colocate_with: str) -> None:
        partitions = self.chance.choice((1, 2, 4))
        if colocate_with:
            partitions = self.scene.topics[colocate_with].partitions
        topic = Topic(f"t{number}", partitions, colocate_with=colocate_with)
        self.scene.topics[topic.name] = topic
        self.administrator.make(topic)

    def idle(self) -> bool:
        """Every write has its outcome."""
        writers: list[Client | SdkClient] = [self.administrator, *self.idempotent, *self.plain, *self.sdk]
        return all(client.idle() for client in writers)

    def unfinished(self) -> list[str]:
        return [client.describe() for client in self.clients if not client.idle()]
