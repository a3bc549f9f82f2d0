"""A cluster for tests of the client core: links whose every request the test processes, answers, delays or loses.

The log follows the rules that brokers promise an idempotent producer (KIP-98): the next sequence is appended, one of
the last five batches is recognised, a higher epoch begins at 0 and shuts out the lower ones, everything else is refused
and leaves no trace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from corgi.base.batch import BatchHeader, check_batch, patched_prefix
from corgi.base.errors import BY_CODE, CorgiError
from corgi.base.ids import NodeId, Offset, TopicId
from corgi.base.records import Record, decode_batch
from corgi.client.core.client import Client
from corgi.client.core.links import Address
from corgi.client.core.options import ClientOptions
from corgi.wire import messages as m

NOTHING = memoryview(b"")
TOPIC = TopicId(16)
FENCED = BY_CODE["producer-fenced"].number
OUT_OF_ORDER = BY_CODE["out-of-order-sequence"].number


class ManualClock:
    def __init__(self) -> None:
        self.time = 1_000.0

    def now(self) -> float:
        return self.time


class Request:
    """A request that a node has received."""

    def __init__(self, link: ModelLink, message: Any, payload: bytes, done: Callable[..., None]) -> None:
        self.link = link
        self.message = message
        self.payload = payload
        self.done = done
        self.answer: Any = None

    def reply(self, answer: Any, payload: bytes = b"") -> None:
        """Answer it, unless the link has gone."""
        if self in self.link.open:
            self.link.open.remove(self)
            self.link.heard = self.link.cluster.clock.time
            self.done(answer, memoryview(payload))


class ModelLink:
    def __init__(self, cluster: ModelCluster, node: int) -> None:
        self.cluster = cluster
        self.node = NodeId(node)
        self.open: list[Request] = []
        self.told: list[tuple[Any, bytes]] = []
        self.heard = cluster.clock.time
        self.backlog = 0
        self.up = True

    def request(self, message: Any, payload: Sequence[Any], done: Callable[..., None]) -> None:
        assert self.up, "a request on a link that is down"
        request = Request(self, message, b"".join(payload), done)
        self.open.append(request)
        self.cluster.received(request)

    def tell(self, message: Any, payload: Sequence[Any] = ()) -> None:
        assert self.up
        self.told.append((message, b"".join(payload)))

    def buffered(self) -> int:
        return self.backlog

    def heard_at(self) -> float:
        return self.heard

    def close(self) -> None:
        self.cluster.cut_later.append(self)


class ModelLog:
    """One partition."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.batches: list[bytes] = []
        self.next: dict[int, int] = {}
        self.epochs: dict[int, int] = {}
        self.window: dict[int, deque[tuple[int, int, int]]] = {}

    def append(self, batch: bytes) -> tuple[int, int, int]:
        """(error, base offset, time), as a node answers."""
        header: BatchHeader = check_batch(batch)
        producer = header.producer_id
        if producer >= 0:
            epoch = self.epochs.get(producer, header.producer_epoch)
            if header.producer_epoch < epoch:
                return FENCED, -1, -1
            if header.producer_epoch > epoch:
                if header.base_sequence != 0:
                    return OUT_OF_ORDER, -1, -1
                self.next.pop(producer, None)
                self.window.pop(producer, None)
            for sequence, count, offset in self.window.get(producer, ()):
                if sequence == header.base_sequence and count == header.record_count:
                    return 0, offset, 5
            if header.base_sequence != self.next.get(producer, 0):
                return OUT_OF_ORDER, -1, -1
            self.epochs[producer] = header.producer_epoch
            self.next[producer] = header.base_sequence + header.record_count
            window = self.window.setdefault(producer, deque(maxlen=5))
            window.append((header.base_sequence, header.record_count, len(self.records)))
        base = len(self.records)
        stored = patched_prefix(base, len(batch), 1) + batch[16:]
        self.batches.append(stored)
        self.records += decode_batch(stored)
        return 0, base, 5


class ModelCluster:
    """Nodes 1 to 3, groups 0 to 3, a topic "t" whose partition p lies in group p % 4."""

    def __init__(self, partitions: int = 2, options: ClientOptions | None = None, *, connect: bool = True) -> None:
        self.clock = ManualClock()
        self.partitions = partitions
        self.logs = [ModelLog() for _ in range(partitions)]
        self.links: dict[int, ModelLink] = {}
        self.dials: list[Address] = []
        self.produces: list[Request] = []  # received and not yet looked at, in order
        self.others: list[Request] = []
        self.leaders = [1, 2, 3, 1]
        self.terms = [1, 1, 1, 1]
        self.producer_ids = 0
        self.wakes = 0
        self.cut_later: list[ModelLink] = []
        self.topics = {"t": TOPIC}
        self.unknown = "unknown-topic"  # what nodes say of topics that they do not know
        self.config: dict[str, str] = {}
        self.client = Client(
            options or ClientOptions(requests_in_flight=3),
            [self.address(1), self.address(2)],
            clock=self.clock,
            chance=lambda: 0.5,
            dialer=self,
            wake=self._wake,
        )
        self.client.start()
        if connect:
            self.connect_all()
            self.client.need_topic("t")
            self.settle()

    def address(self, node: int) -> Address:
        return Address("node", node)

    # Ports of the client

    def dial(self, address: Address) -> None:
        self.dials.append(address)

    def _wake(self) -> None:
        self.wakes += 1

    def received(self, request: Request) -> None:
        """What is not a Produce is answered when ``settle`` is called."""
        if isinstance(request.message, m.Produce):
            self.produces.append(request)
        else:
            self.others.append(request)

    # What the test does

    def connect_all(self) -> None:
        while self.dials:
            self.connect(self.dials.pop().port)

    def connect(self, node: int) -> ModelLink:
        if node in self.links:
            return self.links[node]
        link = ModelLink(self, node)
        self.links[node] = link
        self.client.link_up(link, m.HelloReply(1, "c" * 32, NodeId(node), 2**26), self.address(node))
        self.settle()
        return link

    def cut(self, node: int) -> None:
        """The connection breaks; what the node has received it may still carry out (``produces`` keeps it)."""
        link = self.links.pop(node)
        link.up = False
        self.client.link_lost(link, CorgiError("unreachable"))
        unanswered, link.open = link.open, []
        for request in unanswered:
            request.done(CorgiError("outcome-unknown"), NOTHING)
        self.client.flush()

    def settle(self) -> None:
        """Answer everything but Produce; flush until nothing more happens."""
        while True:
            self.client.flush()
            if not self.others:
                return
            request = self.others.pop(0)
            answer = self.answer_to(request.message)
            if answer is not None:
                request.reply(answer)

    def answer_to(self, message: Any) -> Any:
        if isinstance(message, m.Metadata):
            return self.metadata(message.topics)
        if isinstance(message, m.InitProducer):
            self.producer_ids += 1
            return m.InitProducerReply(self.producer_ids, 0)
        if isinstance(message, m.Ping):
            return m.Pong()
        return None

    def metadata(self, names: tuple[str, ...] | None) -> m.MetadataReply:
        nodes = tuple([m.NodeInfo(NodeId(node), "node", node, True) for node in (1, 2, 3)])
        groups = tuple(
            [
                m.GroupInfo(NodeId(leader), term, (NodeId(1), NodeId(2), NodeId(3)))
                for leader, term in zip(self.leaders, self.terms, strict=True)
            ]
        )
        return m.MetadataReply("c" * 32, NodeId(1), nodes, groups, tuple([self.topic(n) for n in names or ()]))

    def topic(self, name: str) -> m.TopicInfo:
        if name not in self.topics:
            return m.TopicInfo(name, TopicId(0), (), {}, BY_CODE[self.unknown].number)
        groups = tuple([number % 4 for number in range(self.partitions)])
        return m.TopicInfo(name, self.topics[name], groups, self.config)

    def lead(self, group: int, node: int) -> None:
        """Another node leads; every connected node tells."""
        self.leaders[group] = node
        self.terms[group] += 1
        for link in list(self.links.values()):
            change = m.LeaderChanged(((group, NodeId(node), self.terms[group]),))
            self.client.pushed(link, change, NOTHING)
        self.client.flush()

    def apply(self, request: Request, *, skip: int = 0) -> Any:
        """Carry out a Produce but its first ``skip`` batches: the answer, which ``reply`` or nobody sends."""
        results = []
        at = sum([length for _, _, length in request.message.batches[:skip]])
        for topic, partition, length in request.message.batches[skip:]:
            assert topic == TOPIC
            results.append(self.logs[partition].append(request.payload[at : at + length]))
            at += length
        assert at == len(request.payload)
        return m.ProduceReply(tuple(results))

    def serve(self) -> int:
        """Carry out and answer all produces, until the client has nothing more to send; returns how many."""
        count = 0
        while self.produces:
            request = self.produces.pop(0)
            request.reply(self.apply(request))
            count += 1
            self.settle()
        return count

    def refuse(self, request: Request, code: str) -> None:
        """Answer every batch of a Produce with an error."""
        number = BY_CODE[code].number
        request.reply(m.ProduceReply(((number, Offset(-1), -1),) * len(request.message.batches), code))

    def pass_time(self, seconds: float) -> None:
        """Let time pass deadline by deadline; the nodes are heard all the while."""
        end = self.clock.time + seconds
        while True:
            due = self.client.next_deadline()
            if due is None or due > end:
                break
            self.clock.time = max(due, self.clock.time + 1e-6)
            self.client.advance()
            self.settle()
        self.clock.time = end
        self.client.advance()
        self.settle()

    def publish(self, value: bytes, partition: int = 0, **more: Any) -> tuple[Any, int]:
        return self.client.producer.publish("t", None, value, None, 7, partition, **more)

    def values(self, partition: int = 0) -> list[bytes | None]:
        return [record.value for record in self.logs[partition].records]
