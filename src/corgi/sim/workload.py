"""What the clients of a run do: topics made at the start and during the run, producers and readers of every kind."""

from __future__ import annotations

from corgi.base import errors
from corgi.history.model import Partition
from corgi.sim.clients import TRANSIENT, Client, failure
from corgi.sim.crowd import Crowd
from corgi.sim.producers import IdempotentProducer, PlainProducer
from corgi.sim.readers import EndAsker, Poller, Subscriber
from corgi.sim.registrars import Registrar
from corgi.sim.scene import Scene, Topic
from corgi.sim.sdk import SdkClient
from corgi.wire.messages import (
    AlterTopic,
    CreateTopic,
    DeleteTopic,
    Metadata,
    MetadataReply,
    Status,
    StatusReply,
    TopicInfo,
    TopicReply,
    WireMessage,
)

RETRY_S = 0.1
TIMEOUT_MS = 1_500
PADDINGS = (0, 0, 300, 1_000)  # bytes of a record: logs of long and of short records


class Administrator(Client):
    """Makes, grows and deletes topics, each until somebody confirms it, and looks at nodes now and then."""

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene, name)
        self.todo: list[tuple[str, Topic]] = []
        self._doubtful = False  # an earlier attempt of the first thing to do may have succeeded

    def start(self) -> None:
        super().start()
        self.world.after(0.5, self._look)

    def order(self, what: str, topic: Topic) -> None:
        """``what`` is create, grow (to ``topic.partitions``) or delete."""
        self.todo.append((what, topic))
        if len(self.todo) == 1:
            self._next()

    def connected(self) -> None:
        self._next()

    def idle(self) -> bool:
        return not self.todo

    def _next(self) -> None:
        if not self.todo or self.session is None or self._pending:
            return
        what, topic = self.todo[0]
        message: WireMessage
        if what == "create":
            message = CreateTopic(topic.name, topic.partitions, topic.config, topic.colocate_with, -1, TIMEOUT_MS)
        elif what == "grow":
            message = AlterTopic(topic.name, topic.partitions, {}, TIMEOUT_MS)
        else:
            message = DeleteTopic(topic.name, TIMEOUT_MS)
        self.ask(message, b"", lambda reply, _: self._told(what, topic, reply))

    def _told(self, what: str, topic: Topic, reply: WireMessage | None) -> None:
        error = failure(reply)
        if isinstance(reply, TopicReply):
            error = reply.error
            if error == errors.OK or self._was_done(what, error):
                if what == "create" and reply.topic is None:
                    self.ask(Metadata((topic.name,)), b"", lambda answer, _: self._found(what, topic, answer))
                else:
                    self._done(what, topic, reply.topic)
                return
        if error is not None and error != -1 and error not in TRANSIENT:
            text = f"to {what} {topic.name} was refused with {errors.BY_NUMBER[error].code}"
            self.scene.violate("unjustified-refusal", text)
        self._doubtful = True
        if error != -1:
            self.world.after(RETRY_S, self._next)

    def _was_done(self, what: str, error: int) -> bool:
        """Somebody was faster, or an earlier attempt whose answer was lost."""
        if what == "create":
            return error == errors.TOPIC_EXISTS
        return what == "delete" and error == errors.UNKNOWN_TOPIC and self._doubtful

    def _found(self, what: str, topic: Topic, reply: WireMessage | None) -> None:
        if isinstance(reply, MetadataReply):
            for info in reply.topics:
                if info.name == topic.name and not info.error:
                    self._done(what, topic, info)
                    return
        if reply is not None:
            self.world.after(RETRY_S, self._next)

    def _done(self, what: str, topic: Topic, info: TopicInfo | None) -> None:
        self.scene.history.other_operations += 1
        self.todo.pop(0)
        self._doubtful = False
        if what == "delete":
            topic.gone = True
        elif info is not None:
            self._compare(what, topic, info)
        self._next()

    def _compare(self, what: str, topic: Topic, info: TopicInfo) -> None:
        """All who make or grow a topic are told the same."""
        if topic.id and topic.id != info.topic:
            self.scene.violate("wrong-topic", f"{topic.name} has the id {topic.id} for some, {info.topic} for others")
        if len(info.groups) < (topic.partitions if what == "grow" else topic.open):
            self.scene.violate("wrong-topic", f"{topic.name} was to {what}: {len(info.groups)} partitions")
        topic.id = info.topic
        topic.open = max(topic.open, len(info.groups))

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

    def __init__(
        self,
        scene: Scene,
        *,
        busy: bool | None = None,
        groups: bool | None = None,
        transactions: bool | None = None,
    ) -> None:
        """``busy`` asks for bursts of requests, so that several slots are in flight; None leaves it to the seed.
        ``groups`` and ``transactions``: whether there are any, None as above."""
        self.scene = scene
        self.world = scene.world
        self.chance = chance = scene.world.stream("workload")
        scene.padding = scene.world.stream("padding").choice(PADDINGS)
        self._grows = chance.random() < 0.5  # t1 does, and then no topic is put beside it
        self.administrators = [Administrator(scene, "admin"), Administrator(scene, "rival")]
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
        self.registrars = [Registrar(scene, f"r{number}", 0.25) for number in range(chance.choice((0, 2, 3)))]

        self.crowd = Crowd(scene, groups=groups, transactions=transactions)

    @property
    def clients(self) -> list[Client | SdkClient]:
        return [*self.administrators, *self.idempotent, *self.plain, *self.sdk, *self.registrars, *self.readers]

    def start(self, until: float) -> None:
        """Topics now and at some later times before ``until`` (s)."""
        for client in self.clients:
            client.start()
        names = iter(range(1, 100))
        for _ in range(self.chance.choice((1, 2))):
            self._make(next(names), "")
        for _ in range(self.chance.choice((0, 1, 2))):
            when = self.world.now + self.chance.random() * until
            self.world.at(when, self._make, next(names), "" if self._grows else self.chance.choice(("", "t1")))
        if self._grows:
            self.world.at(self.chance.random() * until, self._grow)
        self.world.at(self.chance.random() * until, self._make_and_delete)
        if self.chance.random() < 0.7:
            config = {"retention_bytes": self.chance.choice(("300", "2000", "8000"))}
            partitions = self.world.stream("retention").choice((1, 2, 4))
            topic = self.scene.topics["brief"] = Topic("brief", partitions, config=config)
            self.administrators[0].order("create", topic)
        self._make_compacted()
        for topic in self.crowd.topics:
            self.administrators[0].order("create", topic)
        self.crowd.start(until)

    def heal(self) -> None:
        """All that was wrong is over."""
        self.crowd.heal()

    def _make_compacted(self) -> None:
        """A topic that is compacted by key, in most runs; by chance of its own, so that the rest is drawn as ever."""
        chance = self.world.stream("compaction")
        if chance.random() < 0.7:
            config = {
                "cleanup": chance.choice(("compact", "compact", "compact,delete")),
                "min_cleanable_dirty_ratio": chance.choice(("0", "0.3")),
                "delete_retention_ms": chance.choice(("0", "500", "2500")),
                "min_compaction_lag_ms": chance.choice(("0", "0", "700")),
            }
            topic = self.scene.topics["keyed"] = Topic("keyed", chance.choice((1, 2)), config=config)
            self.scene.history.compacted |= {Partition(topic.name, number) for number in range(topic.partitions)}
            self.administrators[0].order("create", topic)

    def _make(self, number: int, colocate_with: str) -> None:
        partitions = self.chance.choice((1, 2, 4))
        if colocate_with:
            partitions = self.scene.topics[colocate_with].partitions
        topic = Topic(f"t{number}", partitions, colocate_with=colocate_with)
        self.scene.topics[topic.name] = topic
        self.administrators[0].order("create", topic)
        if self.chance.random() < 0.5:
            self.administrators[1].order("create", topic)  # who is second meets a guard

    def _grow(self) -> None:
        topic = self.scene.topics["t1"]
        if topic.open:
            topic.partitions = topic.open + 1
            self.administrators[0].order("grow", topic)

    def _make_and_delete(self) -> None:
        topic = Topic("short-lived", 2)
        self.administrators[1].order("create", topic)
        self.administrators[1].order("delete", topic)

    def idle(self) -> bool:
        """Every write has its outcome."""
        writers: list[Client | SdkClient] = [
            *self.administrators,
            *self.idempotent,
            *self.plain,
            *self.sdk,
            *self.registrars,
        ]
        return all(client.idle() for client in writers) and self.crowd.idle()

    def unfinished(self) -> list[str]:
        return [*(client.describe() for client in self.clients if not client.idle()), *self.crowd.unfinished()]
