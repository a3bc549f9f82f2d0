"""Simulated readers: one polls, one is pushed to, one asks for ends, one drains a node when all is over."""

from __future__ import annotations

from corgi.base import errors
from corgi.base.ids import NodeId, Offset, TopicId
from corgi.history.model import Bound, Partition, Read
from corgi.sim.clients import Client, values_of
from corgi.sim.scene import Scene
from corgi.sim.world import WALL_AT_ZERO_MS
from corgi.wire.messages import (
    Credit,
    Deliver,
    Fetch,
    FetchReply,
    ListOffsets,
    ListOffsetsReply,
    Subscribe,
    SubscribeReply,
    SubscriptionEnded,
    WireMessage,
)

RETRY_S = 0.05
FETCH_BYTES = 64 * 1024
CREDIT_BYTES = 1024
END, START = -1, -2  # instead of a time, to ListOffsets


class Reader(Client):
    """Keeps a position in some partitions and records whatever it is given from there on."""

    def __init__(self, scene: Scene, name: str, partitions_max: int) -> None:
        super().__init__(scene, name)
        self.partitions_max = partitions_max
        self.positions: dict[Partition, int] = {}
        self.topics: dict[Partition, TopicId] = {}

    def choose(self) -> None:
        """Take up another partition, if there is one."""
        if len(self.positions) < self.partitions_max:
            free = [entry for entry in self.scene.partitions() if entry[0] not in self.positions]
            if free:
                partition, topic = self.chance.choice(free)
                self.positions[partition] = 0
                self.topics[partition] = topic

    def sent_on(self, partition: Partition, start: int) -> None:
        """What was asked for is no longer stored: go on where the partition begins."""
        if start < self.positions[partition]:
            self.scene.violate(
                "poll-skip", f"{self.name} at {partition}@{self.positions[partition]} was sent to {start}"
            )
        self.positions[partition] = max(start, self.positions[partition])

    def take(self, partition: Partition, records: list[tuple[int, bytes]], position: int) -> None:
        """``position`` comes after what was given: compaction may have left out the last of it."""
        before = self.positions[partition]
        if records:
            self.scene.history.reads.append(Read(self.name, partition, before, tuple(records), self.world.now))
        self.positions[partition] = max(before, position)


class Poller(Reader):
    """Long polls, one after another, over several partitions at once."""

    def start(self) -> None:
        super().start()
        self._asked = False
        self.world.after(0.2, self._poll)

    def connected(self) -> None:
        self._poll()

    def _poll(self) -> None:
        if self._asked or not self.scene.reading or self.session is None:
            return
        self.choose()
        if not self.positions:
            self.world.after(RETRY_S, self._poll)
            return
        places = list(self.positions)
        asked = tuple((self.topics[p], p.number, Offset(self.positions[p]), FETCH_BYTES) for p in places)
        wait_ms = self.chance.choice((0, 50, 300))
        self._asked = True
        self.ask(Fetch(wait_ms, 1, FETCH_BYTES, asked), b"", lambda reply, body: self._got(places, reply, body))

    def _got(self, places: list[Partition], reply: WireMessage | None, payload: bytes) -> None:
        self._asked = False
        if reply is None:
            return
        pause = self.chance.choice((0.001, 0.03, 0.1))
        if isinstance(reply, FetchReply):
            self.scene.history.other_operations += 1
            at = 0
            for partition, (error, _, start, lengths), onward in zip(
                places, reply.partitions, reply.onward, strict=True
            ):
                found, position = values_of(payload, lengths, at, self.positions[partition])
                self.take(partition, found, max(position, onward))
                at += sum(lengths)
                if error == errors.OFFSET_OUT_OF_RANGE and start > self.positions[partition]:
                    self.sent_on(partition, start)
                elif error:
                    pause = RETRY_S
                    if self.chance.random() < 0.3:
                        self.change_node()
                        return
        else:
            pause = RETRY_S
        self.world.after(pause, self._poll)


class Subscriber(Reader):
    """Is pushed to, with little credit, and takes its subscriptions up again after a break."""

    def start(self) -> None:
        super().start()
        self._subscriptions: dict[int, Partition] = {}
        self._next = 0
        self._used: dict[int, int] = {}  # bytes pushed since credit was last given
        self.world.after(0.2, self._look)

    def connected(self) -> None:
        self._subscriptions = {}
        for partition in self.positions:
            self._subscribe(partition)

    def _look(self) -> None:
        if not self.scene.reading:
            return
        before = set(self.positions)
        self.choose()
        for partition in self.positions:
            if partition not in before:
                self._subscribe(partition)
        self.world.after(0.3, self._look)
        if self.chance.random() < 0.01:
            self.change_node()

    def _give_credit(self, number: int, used: int) -> None:
        """Give back what was used, half the credit at a time."""
        self._used[number] = self._used.get(number, 0) + used
        if self._used[number] > CREDIT_BYTES // 2 and self.session is not None:
            self.session.request(Credit(((number, self._used.pop(number)),)))

    def _subscribe(self, partition: Partition) -> None:
        if self.session is None or partition in self._subscriptions.values():
            return
        self._next += 1
        number = self._next
        self._subscriptions[number] = partition
        message = Subscribe(
            number, self.topics[partition], partition.number, Offset(self.positions[partition]), CREDIT_BYTES
        )
        self.ask(message, b"", lambda reply, _: self._subscribed(number, reply))

    def _subscribed(self, number: int, reply: WireMessage | None) -> None:
        if reply is None:
            return
        self.scene.history.other_operations += 1
        if not isinstance(reply, SubscribeReply) or reply.error:
            if isinstance(reply, SubscribeReply) and reply.error == errors.OFFSET_OUT_OF_RANGE:
                partition = self._subscriptions[number]
                if reply.start > self.positions[partition]:
                    self.sent_on(partition, reply.start)
            self._again(number)

    def _again(self, number: int) -> None:
        partition = self._subscriptions.pop(number, None)
        if partition is not None:
            self.world.after(RETRY_S, self._retry, partition)

    def _retry(self, partition: Partition) -> None:
        if self.chance.random() < 0.3:
            self.change_node()
        else:
            self._subscribe(partition)

    def push(self, message: WireMessage, payload: bytes) -> None:
        if isinstance(message, Deliver):
            partition = self._subscriptions.get(message.subscription)
            if partition is not None:
                self.take(partition, *values_of(payload, message.lengths, 0, self.positions[partition]))
                self._give_credit(message.subscription, len(payload))
        elif isinstance(message, SubscriptionEnded):
            self._again(message.subscription)


class EndAsker(Client):
    """Asks for confirmed ends: what was acknowledged before the question must lie below the answer. Now and then for
    the start, or for a time, whose offsets lie within the partition."""

    def __init__(self, scene: Scene, name: str, interval: float) -> None:
        super().__init__(scene, name)
        self.interval = interval

    def start(self) -> None:
        super().start()
        self.world.after(self.interval, self._tick)

    def _tick(self) -> None:
        if not self.scene.producing:
            return
        self.world.after(self.interval * (0.5 + self.chance.random()), self._tick)
        places = self.scene.partitions()
        if places and self.session is not None:
            partition, topic = self.chance.choice(places)
            invoked = self.world.now
            past = WALL_AT_ZERO_MS + int(self.world.now * 1000 * self.chance.random())
            asked = self.chance.choice((END, END, END, START, past))
            message = ListOffsets(((topic, partition.number, asked), (topic, partition.number, END)), 1_500)
            self.ask(message, b"", lambda reply, _: self._told(partition, invoked, asked, reply))

    def _told(self, partition: Partition, invoked: float, asked: int, reply: WireMessage | None) -> None:
        if not isinstance(reply, ListOffsetsReply):
            return
        (error, offset, _), (end_error, end, _) = reply.partitions
        if end_error != errors.OK:
            return
        self.scene.history.bounds.append(Bound(self.name, partition, invoked, self.world.now, end))
        if error == errors.OK and asked != END and not -1 <= offset <= end:
            self.scene.violate("stale-end", f"{self.name} asked {partition} for {asked}: {offset}, the end is {end}")


class AtOneNode(Client):
    """A client that asks one node and no other."""

    def __init__(self, scene: Scene, name: str, node: NodeId) -> None:
        super().__init__(scene, f"{name} {node}")
        self.node = node

    def _connect(self) -> None:
        self._connecting = False
        self.session = self.scene.front.connect(self.node, self)
        if self.session is None:
            self._reconnect()
        else:
            self.connected()


class Drainer(AtOneNode):
    """Reads every partition of one node from the start to the end, when everything else is over."""

    def __init__(self, scene: Scene, node: NodeId) -> None:
        super().__init__(scene, "drain", node)
        self._todo = [(partition, topic) for partition, topic in scene.partitions()]
        self._found: list[tuple[int, bytes]] = []
        self._start = 0  # where the partition begins
        self._position = 0
        self.trouble = 0

    def connected(self) -> None:
        self._next()

    def idle(self) -> bool:
        return not self._todo

    def _next(self) -> None:
        if self._todo:
            partition, topic = self._todo[0]
            position = max(self._position, self._start)
            message = Fetch(0, 0, FETCH_BYTES, ((topic, partition.number, Offset(position), FETCH_BYTES),))
            self.ask(message, b"", lambda reply, body: self._got(partition, position, reply, body))

    def _got(self, partition: Partition, position: int, reply: WireMessage | None, payload: bytes) -> None:
        if reply is None:
            return
        if isinstance(reply, FetchReply) and reply.partitions[0][2] > position:
            self._start = reply.partitions[0][2]
            starts = self.scene.history.starts
            starts[partition] = max(starts.get(partition, 0), self._start)
            self._next()
            return
        if not isinstance(reply, FetchReply) or reply.partitions[0][0]:
            self.trouble += 1
            self.world.after(RETRY_S, self._next)
            return
        _, end, _, lengths = reply.partitions[0]
        found, self._position = values_of(payload, lengths, 0, position)
        self._position = max(self._position, reply.onward[0])
        self._found.extend(found)
        if self._position >= end:
            self.scene.history.final.setdefault(partition, {})[self.node] = self._found
            self._found, self._start, self._position = [], 0, 0
            self._todo.pop(0)
        self._next()
