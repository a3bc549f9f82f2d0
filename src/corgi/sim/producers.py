"""Simulated producers, speaking the protocol themselves: one with the idempotent rules, one without any retry."""

from __future__ import annotations

from corgi.base import errors
from corgi.base.ids import Offset, TopicId
from corgi.base.limits import PRODUCER_WINDOW
from corgi.base.records import encode_batch
from corgi.history.model import FAILED, OK, UNKNOWN, Partition, Send
from corgi.sim.clients import REFUSED, TRANSIENT, Client, failure
from corgi.sim.records import make, note_keys
from corgi.sim.scene import Scene
from corgi.sim.world import WALL_AT_ZERO_MS
from corgi.wire.messages import InitProducer, InitProducerReply, Produce, ProduceReply, WireMessage

ACKS_NONE, ACKS_LEADER, ACKS_QUORUM = 0, 1, 2
RETRY_S = 0.03
RETRY_MAX_S = 0.5  # between tries that keep failing
BURST_GAP_S = 0.000_3


class Lane:
    """One partition of an idempotent producer: batches without an acknowledgement, in order."""

    __slots__ = ("asked", "behind", "made", "partition", "sequence", "topic", "unsettled")

    def __init__(self, partition: Partition, topic: TopicId) -> None:
        self.partition = partition
        self.topic = topic
        self.sequence = 0
        self.made = 0  # batches
        self.unsettled: list[tuple[Send, bytes, int]] = []  # with its number among those made
        self.asked = 0  # requests with a batch of this lane that have no answer yet
        self.behind = False  # something failed: send everything again, when no request is under way

    @property
    def full(self) -> bool:
        """Another batch would push the first unsettled one out of what the state machine remembers."""
        return bool(self.unsettled) and self.made - self.unsettled[0][2] >= PRODUCER_WINDOW


class IdempotentProducer(Client):
    """Keeps up to five batches per partition in flight; sends them again, in order, wherever it gets a connection."""

    def __init__(self, scene: Scene, name: str, interval: float, lanes_max: int, burst: int) -> None:
        """``interval`` (s) between bursts of ``burst`` requests, over ``lanes_max`` partitions at most."""
        super().__init__(scene, name)
        self.interval = interval
        self.burst = burst
        self.lanes_max = lanes_max
        self.lanes: dict[Partition, Lane] = {}
        self.identity: tuple[int, int] | None = None
        self._made = 0
        self._retry_s = RETRY_S

    def start(self) -> None:
        super().start()
        self.world.after(self.interval * self.chance.random(), self._tick)

    def idle(self) -> bool:
        return not any(lane.unsettled for lane in self.lanes.values())

    def describe(self) -> str:
        open_sends = [str(send) for lane in self.lanes.values() for send, _, _ in lane.unsettled]
        return f"{super().describe()}: {open_sends}"

    # ---- making batches

    def _tick(self) -> None:
        if not self.scene.producing:
            return
        self.world.after(self.interval * (0.5 + self.chance.random()), self._tick)
        self._choose_lanes()
        if self.identity is not None and self.lanes:
            for number in range(self.burst):
                self.world.after(number * BURST_GAP_S, self._produce)

    def _produce(self) -> None:
        lanes = list(self.lanes.values())
        chosen = self.chance.sample(lanes, min(len(lanes), self.chance.choice((1, 1, 2, 3))))
        fresh: list[tuple[Lane, Send, bytes]] = []
        for lane in chosen:
            if not lane.full:
                send, batch = self._make(lane)
                fresh.append((lane, send, batch))
        self._send([entry for entry in fresh if not entry[0].behind])

    def _choose_lanes(self) -> None:
        if len(self.lanes) < self.lanes_max:
            free = [entry for entry in self.scene.partitions() if entry[0] not in self.lanes]
            if free:
                partition, topic = self.chance.choice(free)
                self.lanes[partition] = Lane(partition, topic)

    def _make(self, lane: Lane) -> tuple[Send, bytes]:
        assert self.identity is not None
        values = tuple(self._value() for _ in range(self.chance.choice((1, 1, 1, 2, 3))))
        pid, epoch = self.identity
        time = WALL_AT_ZERO_MS + int(self.world.now * 1000)
        made = [make(self.scene, lane.partition, value, self.chance) for value in values]
        batch = encode_batch(
            [(*one.fields(), time) for one in made],
            producer_id=pid,
            producer_epoch=epoch,
            base_sequence=lane.sequence,
        )
        send = Send(self.name, lane.partition, lane.sequence, values, self.world.now, ordered=True)
        if self.scene.compacted(lane.partition):
            note_keys(send, made)
        lane.sequence += len(values)
        lane.unsettled.append((send, batch, lane.made))
        lane.made += 1
        self.scene.history.sends.append(send)
        return send, batch

    def _value(self) -> bytes:
        self._made += 1
        return f"{self.name}.{self._made}".encode()

    # ---- sending

    def _send(self, entries: list[tuple[Lane, Send, bytes]]) -> None:
        if not entries:
            return
        message = Produce(
            ACKS_QUORUM, 1_500, tuple((lane.topic, lane.partition.number, len(batch)) for lane, _, batch in entries)
        )
        payload = b"".join(batch for _, _, batch in entries)
        sent = [(lane, send) for lane, send, _ in entries]
        if self.ask(message, payload, lambda reply, _: self._outcome(sent, reply)):
            for lane, _ in sent:
                lane.asked += 1
        else:
            for lane, _ in sent:
                lane.behind = True

    def _outcome(self, sent: list[tuple[Lane, Send]], reply: WireMessage | None) -> None:
        whole = failure(reply)
        for index, (lane, send) in enumerate(sent):
            lane.asked -= 1
            if isinstance(reply, ProduceReply):
                error, offset, _ = reply.results[index]
            else:
                error, offset = whole if whole is not None else -1, Offset(-1)
            if send.status == OK:
                continue
            if error == 0:
                self._settled(lane, send, offset)
            else:
                self._trouble(lane, send, error)
        self._catch_up()

    def _settled(self, lane: Lane, send: Send, offset: int) -> None:
        self._retry_s = RETRY_S
        send.status, send.offset, send.ended = OK, offset, self.world.now
        lane.unsettled = [entry for entry in lane.unsettled if entry[0] is not send]

    def _trouble(self, lane: Lane, send: Send, error: int) -> None:
        lane.behind = True
        first = lane.unsettled[0][0] is send
        if error == errors.OUT_OF_ORDER_SEQUENCE and not first:
            return
        if error != -1 and error not in TRANSIENT:
            text = f"{send} was refused with {errors.BY_NUMBER[error].code}"
            self.scene.violate("unjustified-refusal", text)

    def _catch_up(self) -> None:
        if any(lane.behind and not lane.asked for lane in self.lanes.values()):
            self.world.after(self._retry_s * (0.5 + self.chance.random()), self._resend)

    def _resend(self) -> None:
        if self.session is None:
            return
        self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
        for lane in self.lanes.values():
            if lane.behind and not lane.asked:
                lane.behind = False
                for send, batch, _ in list(lane.unsettled):
                    self._send([(lane, send, batch)])

    # ---- connection

    def connected(self) -> None:
        if self.identity is None:
            self.ask(InitProducer(), b"", self._introduced)
        self._catch_up()

    def _introduced(self, reply: WireMessage | None, _: bytes) -> None:
        if isinstance(reply, InitProducerReply):
            self.scene.history.other_operations += 1
            if self.identity is None:
                self.identity = (reply.producer_id, reply.producer_epoch)
        elif reply is not None:
            self.world.after(RETRY_S, self._introduce)

    def _introduce(self) -> None:
        if self.identity is None and self.session is not None:
            self.ask(InitProducer(), b"", self._introduced)


class PlainProducer(Client):
    """Sends each batch once, at any acknowledgement level, and takes what comes for an answer."""

    def __init__(self, scene: Scene, name: str, interval: float) -> None:
        super().__init__(scene, name)
        self.interval = interval
        self._made = 0
        self._open = 0

    def start(self) -> None:
        super().start()
        self.world.after(self.interval * self.chance.random(), self._tick)

    def idle(self) -> bool:
        return self._open == 0

    def _tick(self) -> None:
        if not self.scene.producing:
            return
        self.world.after(self.interval * (0.5 + self.chance.random()), self._tick)
        places = self.scene.partitions()
        if not places or self.session is None:
            return
        partition, topic = self.chance.choice(places)
        self._made += 1
        value = f"{self.name}.{self._made}".encode()
        made = make(self.scene, partition, value, self.chance)
        batch = encode_batch([(*made.fields(), WALL_AT_ZERO_MS + int(self.world.now * 1000))])
        acks = self.chance.choice((ACKS_QUORUM, ACKS_QUORUM, ACKS_LEADER, ACKS_NONE))
        send = Send(self.name, partition, self._made, (value,), self.world.now, ordered=False)
        if self.scene.compacted(partition):
            note_keys(send, [made])
        self.scene.history.sends.append(send)
        message = Produce(acks, 1_500, ((topic, partition.number, len(batch)),))
        if acks == ACKS_NONE:
            send.status, send.ended = UNKNOWN, self.world.now
            self.session.request(message, batch)
            return
        self._open += 1
        self.ask(message, batch, lambda reply, _: self._outcome(send, acks, reply))

    def _outcome(self, send: Send, acks: int, reply: WireMessage | None) -> None:
        self._open -= 1
        send.ended = self.world.now
        send.status = UNKNOWN
        if isinstance(reply, ProduceReply):
            error, offset, _ = reply.results[0]
            if error == 0 and acks == ACKS_QUORUM:
                send.status, send.offset = OK, offset
            elif error in REFUSED:
                send.status = FAILED
