"""Simulated users who make, use and delete the same topics against each other: small registers that must linearize.

A topic's existence is a register: to create is to swap None for "there", to delete the other way round, to alter is to
find it there. Each request is an operation of its own, never repeated, and one whose answer does not come is in doubt.
What lies in a topic belongs to its id: made again under its old name it holds nothing of what lay in it before.
"""

from __future__ import annotations

from corgi.base import errors
from corgi.base.ids import Offset, TopicId
from corgi.base.records import encode_batch
from corgi.history.model import FAILED, NEVER, OK, OPEN, REFUSED, UNKNOWN, Call, Partition, Read, Send
from corgi.sim.clients import Client, failure, values_of
from corgi.sim.scene import Scene
from corgi.sim.world import WALL_AT_ZERO_MS
from corgi.wire.messages import (
    AlterTopic,
    CreateTopic,
    DeleteTopic,
    Fetch,
    FetchReply,
    Produce,
    ProduceReply,
    TopicReply,
    WireMessage,
)

THERE = "there"
NAMES = ("contested-0", "contested-1")
ACKS_QUORUM = 2
TIMEOUT_MS = 1_000
FETCH_BYTES = 64 * 1024


class Registrar(Client):
    """One of those who quarrel over topics; asks one thing at a time, of whatever node it is connected to."""

    def __init__(self, scene: Scene, name: str, interval: float) -> None:
        super().__init__(scene, name)
        self.interval = interval
        self._busy = False
        self._made = 0
        self._ids: dict[str, TopicId] = {}
        self._positions: dict[Partition, int] = {}

    def start(self) -> None:
        super().start()
        self.world.after(self.interval * self.chance.random(), self._tick)

    def idle(self) -> bool:
        return not self._busy

    def _tick(self) -> None:
        if not self.scene.producing:
            return
        self.world.after(self.interval * (0.5 + self.chance.random()), self._tick)
        if self._busy or self.session is None:
            return
        name = self.chance.choice(NAMES)
        act = self.chance.choice((self._create, self._delete, self._alter, self._write, self._write, self._read))
        act(name)
        if self.chance.random() < 0.1:
            self.change_node()

    # ---- the register

    def _create(self, name: str) -> None:
        self._swap(name, CreateTopic(name, 1, {}, "", -1, TIMEOUT_MS), None, THERE, errors.TOPIC_EXISTS)

    def _delete(self, name: str) -> None:
        self._swap(name, DeleteTopic(name, TIMEOUT_MS), THERE, None, errors.UNKNOWN_TOPIC)

    def _alter(self, name: str) -> None:
        """Succeeds if it is there, and then changes nothing that the register knows of."""
        self._swap(name, AlterTopic(name, 0, {}, TIMEOUT_MS), THERE, THERE, errors.UNKNOWN_TOPIC)

    def _swap(self, name: str, message: WireMessage, old: str | None, new: str | None, refused: int) -> None:
        invoked = self.world.now
        self._busy = True
        calls = self.scene.history.calls
        place = len(calls)
        calls.append(Call(self.name, f"topic {name}", "swap", old, new, OPEN, invoked, NEVER))

        def told(reply: WireMessage | None, _: bytes) -> None:
            self._busy = False
            error = reply.error if isinstance(reply, TopicReply) else failure(reply)
            status = UNKNOWN
            if error == errors.OK:
                status = OK
            elif error == refused:
                status = REFUSED
            calls[place] = calls[place]._replace(status=status, ended=self.world.now)
            if isinstance(reply, TopicReply) and reply.topic is not None and not error:
                self._ids[name] = reply.topic.topic

        self.ask(message, b"", told)

    # ---- what lies in the topic

    def _partition(self, name: str) -> Partition:
        return Partition(f"{name}#{self._ids[name]}", 0)

    def _write(self, name: str) -> None:
        if name not in self._ids:
            return
        self._made += 1
        value = f"{self.name}.{self._made}".encode()
        batch = encode_batch([(None, value, (), WALL_AT_ZERO_MS + int(self.world.now * 1000))])
        send = Send(self.name, self._partition(name), self._made, (value,), self.world.now, ordered=False)
        self.scene.history.sends.append(send)
        self._busy = True

        def told(reply: WireMessage | None, _: bytes) -> None:
            self._busy = False
            send.status, send.ended = UNKNOWN, self.world.now
            if isinstance(reply, ProduceReply):
                error, offset, __ = reply.results[0]
                if error == errors.OK:
                    send.status, send.offset = OK, offset
                elif error in (errors.UNKNOWN_TOPIC, errors.UNKNOWN_PARTITION):
                    send.status = FAILED

        self.ask(Produce(ACKS_QUORUM, TIMEOUT_MS, ((self._ids[name], 0, len(batch)),)), batch, told)

    def _read(self, name: str) -> None:
        if name not in self._ids:
            return
        partition = self._partition(name)
        position = self._positions.get(partition, 0)
        self._busy = True

        def told(reply: WireMessage | None, payload: bytes) -> None:
            self._busy = False
            if not isinstance(reply, FetchReply) or reply.partitions[0][0]:
                return
            self.scene.history.other_operations += 1
            records, _ = values_of(payload, reply.partitions[0][3], 0, position)
            if records:
                read = Read(self.name, partition, position, tuple(records), self.world.now)
                self.scene.history.reads.append(read)
                self._positions[partition] = records[-1][0] + 1

        self.ask(Fetch(0, 0, FETCH_BYTES, ((self._ids[name], 0, Offset(position), FETCH_BYTES),)), b"", told)
