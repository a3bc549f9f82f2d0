"""What the tests of sockets share: a client on plain streams, a node that only listens, a way to wait for a fact."""

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from corgi.base.command import Buffer
from corgi.base.ids import NodeId
from corgi.base.ports import ClientSession, LogRecord
from corgi.broker.options import NodeOptions
from corgi.paxos.messages import Heartbeat, PeerMessage
from corgi.wire.client_session import Answer, CallerSession
from corgi.wire.messages import WireMessage
from corgi.wire.receiver import Scratch

CLUSTER = bytes(range(16))
HOST = "127.0.0.1"
PATIENCE_S = 20.0


def options(node: int = 1, members: Sequence[int] = (1, 2, 3), **changes: Any) -> NodeOptions:
    settings: dict[str, Any] = {"cluster": CLUSTER, "incarnation": bytes([node]) * 16, "boot": 1, "groups": 4}
    return NodeOptions(node=NodeId(node), members=tuple(NodeId(n) for n in members), **{**settings, **changes})


async def until(condition: Callable[[], object], turns_s: float = 0.001) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - whatever the condition is about, nobody signals it
            await asyncio.sleep(turns_s)


class Witness:
    """Takes the facts of a listener or of links; answers requests as ``answer`` says."""

    def __init__(self) -> None:
        self.requests: list[tuple[ClientSession, int, WireMessage, memoryview]] = []
        self.closed: list[ClientSession] = []
        self.drained: list[ClientSession] = []
        self.facts: list[tuple[str, int]] = []
        self.messages: list[tuple[int, PeerMessage, bytes]] = []
        self.beats: list[tuple[int, Heartbeat]] = []
        self.incarnations: dict[int, bytes] = {}
        self.versions: dict[int, int] = {}
        self.answer: Callable[[ClientSession, int, WireMessage, memoryview], None] = lambda *_: None

    def client_request(
        self, session: ClientSession, correlation: int, message: WireMessage, payload: memoryview
    ) -> None:
        self.requests.append((session, correlation, message, payload))
        self.answer(session, correlation, message, payload)

    def client_closed(self, session: ClientSession) -> None:
        self.closed.append(session)

    def client_drained(self, session: ClientSession) -> None:
        self.drained.append(session)

    def peer_connected(self, peer: NodeId, incarnation: bytes, version: int) -> None:
        self.facts.append(("connected", peer))
        self.incarnations[peer] = incarnation
        self.versions[peer] = version

    def peer_lost(self, peer: NodeId) -> None:
        self.facts.append(("lost", peer))

    def peer_message(self, peer: NodeId, message: PeerMessage, payload: memoryview) -> None:
        self.messages.append((peer, message, bytes(payload)))

    def heartbeat(self, peer: NodeId, message: Heartbeat) -> None:
        self.beats.append((peer, message))


class FakeIdentity:
    recovered: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.amnesia = SimpleNamespace(recovered=None)


class FakeNode(Witness):
    """Stands where ``broker.node.Node`` stands; keeps what it is told, and in which order it is called."""

    def __init__(self, node_options: NodeOptions, clock: Any, chance: Any, wal: Any, network: Any, snaps: Any) -> None:
        super().__init__()
        self.snapshots = SimpleNamespace(restore=lambda *_: 1, port=snaps)
        self.options = node_options
        self.clock = clock
        self.wal = wal
        self.network = network
        self.identity = FakeIdentity()
        self.counters: dict[str, float] = {}
        self.stopped = False
        self.unflushed = False
        self.calls: list[str] = []
        self.recovered_records: list[LogRecord] = []
        self.synced: list[LogRecord] = []
        self.lags: list[float] = []
        self.deadline: float | None = None
        self.on_advance: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = lambda: setattr(self, "stopped", True)
        self.on_flush: Callable[[], None] = lambda: None

    def recover(self, record: LogRecord) -> None:
        self.recovered_records.append(record)

    def start(self) -> None:
        self.calls.append("start")

    def group_states(self) -> list[LogRecord]:
        return []

    def log_synced(self, records: Sequence[LogRecord]) -> None:
        self.calls.append("synced")
        self.synced.extend(records)

    def log_full(self, full: bool) -> None:
        self.calls.append("full")

    def loop_lag(self, seconds: float) -> None:
        self.calls.append("lag")
        self.lags.append(seconds)

    def client_request(
        self, session: ClientSession, correlation: int, message: WireMessage, payload: memoryview
    ) -> None:
        self.calls.append("request")
        super().client_request(session, correlation, message, payload)

    def advance(self) -> None:
        self.calls.append("advance")
        self.deadline = None
        self.on_advance()

    def next_deadline(self) -> float | None:
        return self.deadline

    def flush(self) -> None:
        self.calls.append("flush")
        self.on_flush()

    def stop(self) -> None:
        self.calls.append("stop")
        self.on_stop()


class Probe:
    """A client on plain streams, so that nothing of the server's own code is at this end but the session."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.session = CallerSession(Scratch())
        self.answers: list[Answer] = []

    @classmethod
    async def connect(cls, port: int, *, hello: bool = True, limit: int = 2**16) -> "Probe":
        probe = cls(*await asyncio.open_connection(HOST, port, limit=limit))
        if hello:
            probe.session.hello("probe")
            probe.send()
            await probe.take()
            assert probe.session.greeting is not None
        return probe

    def send(self) -> None:
        self.writer.writelines(self.session.outbox.take())

    def request(self, message: WireMessage, payload: Sequence[Buffer] = ()) -> int:
        correlation = self.session.request(message, payload)
        self.send()
        return correlation

    async def ask(self, message: WireMessage, payload: Sequence[Buffer] = ()) -> Answer:
        correlation = self.request(message, payload)
        answer = await self.take()
        assert answer.correlation == correlation
        return answer

    async def take(self) -> Answer:
        """The next answer or push."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.answers:
                if self.session.failure is not None:
                    raise self.session.failure
                data = memoryview(await self.reader.read(2**20))
                assert data, "the node has closed the connection"
                while data and self.session.failure is None:
                    buffer = self.session.get_buffer()
                    count = min(len(buffer), len(data))
                    buffer[:count] = data[:count]
                    self.answers += self.session.received(count)
                    data = data[count:]
        return self.answers.pop(0)

    async def rest(self) -> bytes:
        """Everything until the node closes."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read(-1)

    async def close(self) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)
