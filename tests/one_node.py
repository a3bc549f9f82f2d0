"""One node for tests of requests: real state machines, no consensus; time and what is in memory are the test's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from corgi.base.command import Buffer, CommandKind, encode_command, encode_value
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Slot, TopicId, make_origin
from corgi.base.ports import Message
from corgi.base.records import Record, decode_batch, encode_batch
from corgi.broker.options import NodeOptions
from corgi.broker.requests import Requests
from corgi.state.commands import encode_epoch
from corgi.state.machine import Machine
from corgi.state.outcomes import Outcome
from corgi.wire import messages as m

START_MS = 1_700_000_000_000
ALL = 2**20


class Client:
    """A connection that remembers what it was told. ``backlog`` is what it pretends not to have read."""

    def __init__(self, node: OneNode) -> None:
        self.node = node
        self.closed = False
        self.backlog = 0
        self.replies: dict[int, list[tuple[Any, bytes]]] = {}
        self.pushes: list[tuple[Any, bytes]] = []
        self.holds: list[str] = []
        self.correlation = 0
        self.keep_backlog = False

    def reply(self, correlation: int, response: Message, payload: Sequence[Buffer] = ()) -> None:
        assert not self.closed
        self._buffer(payload)
        self.replies.setdefault(correlation, []).append((response, b"".join(payload)))

    def push(self, message: Message, payload: Sequence[Buffer]) -> None:
        assert not self.closed
        self._buffer(payload)
        self.pushes.append((message, b"".join(payload)))

    def _buffer(self, payload: Sequence[Buffer]) -> None:
        if self.keep_backlog:
            self.backlog += sum(len(buffer) for buffer in payload)

    def buffered(self) -> int:
        return self.backlog

    def fail(self, error: CorgiError) -> None:
        raise AssertionError(f"the connection was failed: {error}")

    def pause(self) -> None:
        self.holds.append("pause")

    def resume(self) -> None:
        self.holds.append("resume")

    def ask(self, message: Message, payload: bytes = b"") -> int:
        """Send a request; its correlation."""
        self.correlation += 1
        self.node.requests.received(self, self.correlation, message, memoryview(payload))
        return self.correlation

    def answer(self, correlation: int) -> Any:
        """The one answer to a request."""
        answers = self.replies.get(correlation, [])
        assert len(answers) == 1, f"{len(answers)} answers to {correlation}"
        return answers[0][0]

    def body(self, correlation: int) -> bytes:
        return self.replies[correlation][0][1]

    def call(self, message: Message, payload: bytes = b"") -> Any:
        """Send a request and run turns until it is answered."""
        correlation = self.ask(message, payload)
        self.node.turns()
        return self.answer(correlation)

    def close(self) -> None:
        self.closed = True
        self.node.requests.session_closed(self)

    def take(self, kind: type) -> list[Any]:
        """Pushed messages of a kind; they are forgotten."""
        found = [message for message, _ in self.pushes if isinstance(message, kind)]
        self.pushes = [push for push in self.pushes if not isinstance(push[0], kind)]
        return found

    def delivered(self, subscription: int) -> list[Record]:
        """All records pushed to a subscription."""
        records: list[Record] = []
        for message, payload in self.pushes:
            if isinstance(message, m.Deliver) and message.subscription == subscription:
                assert sum(message.lengths) == len(payload)
                records += records_of(payload, message.lengths)
        return records


class Replica:
    """What requests see of consensus."""

    def __init__(self, node: NodeId) -> None:
        self.leader = node
        self.ballot = Ballot(1 << 16 | node)
        self.leading = True
        self.role = "leader"
        self.prefix = Slot(0)
        self.applied = Slot(0)
        self.open_slots = 0
        self.leadership_changes = 1

    def route(self) -> NodeId:
        return self.leader


class OneNode:
    """A node whose commands are applied when ``turn`` says so."""

    def __init__(self, groups: int = 4, node: int = 1, members: tuple[int, ...] = (1, 2, 3)) -> None:
        self.options = NodeOptions(
            NodeId(node),
            b"c" * 16,
            b"i" * 16,
            1,
            tuple(NodeId(member) for member in members),
            groups,
            addresses={NodeId(member): ("127.0.0.1", 9000 + member) for member in members},
            labels={NodeId(member): f"host-{member}" for member in members},
            software="corgi test",
        )
        self.time = 100.0
        self.counters: dict[str, float] = {}
        self.stopping = False
        self.clock = self
        self.origin = make_origin(self.options.node, 1)
        self.slots: dict[tuple[int, int], bytes] = {}
        self.values = SimpleNamespace(read=self.read_value)
        self.snapshots = SimpleNamespace(gauges=dict)
        self.cold: set[tuple[int, int]] = set()
        self.reads: list[tuple[tuple[int, int], Callable[[bytes | CorgiError], None]]] = []
        self.submitted: list[tuple[GroupId, int, bytes, Callable[[Outcome], None], Callable[[], None] | None]] = []
        self.answer_instead: Callable[[GroupId, int], int] = lambda group, kind: 0
        self.counter = 0
        self.calls: list[Callable[[], None]] = []
        self.groups: list[Any] = [
            SimpleNamespace(
                id=GroupId(number),
                machine=Machine(GroupId(number), groups),
                replica=Replica(self.options.node),
                proposals=(),
                slots=SimpleNamespace(length=lambda slot, number=number: len(self.slots[number, slot])),
            )
            for number in range(groups)
        ]
        self.repairs = SimpleNamespace(wanted=0, lost=[], lost_ranges=list)
        self.room = SimpleNamespace(full=False)
        self.requests = Requests(self)  # type: ignore[arg-type]
        for group in self.groups:
            self.apply(group, [self.command(CommandKind.EPOCH, encode_epoch(self.options.node, Ballot(1)))])
            group.machine.take_appended()
            self.requests.leader_changed(group)
        self.wait(1.0)

    # ---- the node's surface

    def now(self) -> float:
        return self.time

    def wall_ms(self) -> int:
        return START_MS + int(self.time * 1000)

    def count(self, name: str, by: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by

    def peer_status(self) -> list[tuple[NodeId, bool, float, float]]:
        return [(NodeId(2), True, 0.01, 1.5), (NodeId(3), False, 9.0, 0.0)]

    def submit(
        self,
        group: GroupId,
        kind: CommandKind,
        body: Buffer,
        done: Callable[[Outcome], None],
        *,
        timeout_s: float,
        leader_ack: Callable[[], None] | None = None,
        makes_room: bool = False,
    ) -> None:
        assert 0 < timeout_s <= 600
        self.submitted.append((group, int(kind), bytes(body), done, leader_ack))

    def later(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def group_of(self, topic: TopicId, partition: int) -> GroupId:
        topics = self.groups[0].machine.topics
        return topics.group_of(topic, partition)

    def read_value(self, group: GroupId, slot: Slot, done: Callable[[bytes | CorgiError], None]) -> Buffer | None:
        if (group, slot) in self.cold:
            self.reads.append(((group, slot), done))
            return None
        return self.slots[group, slot]

    # ---- what a test does

    def client(self) -> Client:
        return Client(self)

    def command(self, kind: int, body: bytes) -> bytes:
        self.counter += 1
        return encode_command(kind, self.origin, self.counter, 0, body)

    def apply(self, group: Any, commands: Sequence[bytes]) -> list[Outcome]:
        """One value with these commands is chosen and applied."""
        value = encode_value(self.wall_ms(), commands)
        slot = Slot(group.machine.applied + 1)
        self.slots[group.id, slot] = value
        group.replica.prefix = slot
        return group.machine.apply(slot, value)

    def turn(self) -> None:
        """What was submitted is applied, one value per group; then the turn ends."""
        submitted, self.submitted = self.submitted, []
        by_group: dict[int, list[tuple[bytes, Callable[[Outcome], None]]]] = {}
        for group, kind, body, done, _ in submitted:
            error = self.answer_instead(group, kind)
            if error:
                done(Outcome(self.origin, 0, error, (), -1))
            else:
                by_group.setdefault(group, []).append((self.command(kind, body), done))
        for number, waiting in by_group.items():
            group = self.groups[number]
            outcomes = self.apply(group, [command for command, _ in waiting])
            for outcome, (_, done) in zip(outcomes, waiting, strict=True):
                done(outcome)
            self.requests.applied(group)
        calls, self.calls = self.calls, []
        for call in calls:
            call()
        self.requests.advance(self.time)
        self.requests.flush()

    def turns(self, most: int = 200) -> None:
        """Run turns until nothing is left to do now."""
        for _ in range(most):
            self.turn()
            deadline = self.requests.next_deadline()
            if not self.submitted and not self.calls and (deadline is None or deadline > self.time):
                return
        raise AssertionError("the node does not come to rest")

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.time += seconds
        self.turns()

    def create(self, name: str = "t", partitions: int = 1, **fields: Any) -> TopicId:
        """Create a topic and wait until it is open."""
        client = self.client()
        correlation = client.ask(m.CreateTopic(name, partitions, **fields))
        for _ in range(10):
            self.turns()
            if correlation in client.replies:
                break
            self.time += 0.1
        reply = client.answer(correlation)
        assert reply.error == 0, reply
        return reply.topic.topic

    def log(self, topic: TopicId, partition: int) -> Any:
        return self.groups[self.group_of(topic, partition)].machine.partitions[topic, partition]

    def produce(self, topic: TopicId, partition: int, *values: bytes) -> None:
        """Append one batch."""
        batch = a_batch(*values)
        reply = self.client().call(m.Produce(2, 1000, ((topic, partition, len(batch)),)), batch)
        assert reply.results[0][0] == 0, reply

    def chill(self) -> None:
        """Everything stored so far has left memory."""
        self.cold |= set(self.slots)

    def thaw(self, count: int = 1, *, last: bool = False) -> None:
        """The disk answers ``count`` reads, the oldest first unless ``last``."""
        for _ in range(count):
            key, done = self.reads.pop(-1 if last else 0)
            done(self.slots[key])
        self.turns()


def a_batch(*values: bytes, **fields: Any) -> bytes:
    return encode_batch([(None, value, (), START_MS) for value in values], **fields)


def produce_of(acks: int, *entries: tuple[TopicId, int, bytes], timeout_ms: int = 1000) -> tuple[m.Produce, bytes]:
    """The message and payload of a produce request."""
    message = m.Produce(
        acks, timeout_ms, tuple([(topic, partition, len(batch)) for topic, partition, batch in entries])
    )
    return message, b"".join([batch for _, _, batch in entries])


def records_of(payload: bytes, lengths: Sequence[int]) -> list[Record]:
    """Decode served batches."""
    records: list[Record] = []
    at = 0
    for length in lengths:
        records += decode_batch(payload[at : at + length])
        at += length
    return records


def values_of(payload: bytes, lengths: Sequence[int]) -> list[bytes | None]:
    return [record.value for record in records_of(payload, lengths)]
