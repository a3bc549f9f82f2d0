"""What every simulated client has: a connection to some node, requests with a time limit, another node on trouble."""

from __future__ import annotations

from collections.abc import Callable

from corgi.base import errors
from corgi.base.batch import parse_header
from corgi.base.compiled_codec import DecodedRecord
from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.base.records import iter_batch
from corgi.sim.scene import Scene
from corgi.sim.sessions import SimSession
from corgi.wire.messages import ErrorReply, WireMessage

REQUEST_TIMEOUT_S = 2.0
RECONNECT_S = 0.02
ID = "id"  # the header of a record without a value

# The same request may succeed later, perhaps at another node: retried, like the retryable ones of the table.
TRANSIENT = frozenset(
    {errors.UNKNOWN_TOPIC, errors.UNKNOWN_PARTITION}
    | {kind.number for kind in errors.BY_NUMBER.values() if kind.retryable}
)
# The node tells that the request was not carried out and will not be.
REFUSED = frozenset(
    {errors.UNKNOWN_TOPIC, errors.UNKNOWN_PARTITION, errors.PARTITION_NOT_OPEN, errors.OVERLOADED, errors.RECOVERING}
)

Handler = Callable[[WireMessage | None, bytes], None]


class Client:
    """Base of all clients: see the module. Subclasses override ``connected``, ``lost`` and ``idle``."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.scene = scene
        self.world = scene.world
        self.name = name
        self.chance = scene.world.stream(f"client/{name}")
        self.session: SimSession | None = None
        self.reconnects = 0
        self._pending: dict[int, tuple[WireMessage, Handler]] = {}
        self._avoid = NodeId(0)
        self._connecting = False

    def start(self) -> None:
        self._connect()

    # ---- for subclasses

    def connected(self) -> None:
        """A connection is there."""

    def lost(self) -> None:
        """The connection is gone and with it every answer."""

    def push(self, message: WireMessage, payload: bytes) -> None:
        """Something came without a question."""

    def idle(self) -> bool:
        """Nothing is left to do."""
        return True

    def describe(self) -> str:
        node = self.session.node if self.session else None
        return f"{self.name} at node {node}, {[type(m).__name__ for m, _ in self._pending.values()]} pending"

    def ask(self, message: WireMessage, payload: bytes, handler: Handler, timeout: float = REQUEST_TIMEOUT_S) -> bool:
        """Send a request; ``handler`` gets the answer, or None when there is none. False without a connection."""
        session = self.session
        if session is None or not session.open:
            return False
        number = session.request(message, payload)
        self._pending[number] = (message, handler)
        self.world.after(timeout, self._expire, session, number)
        return True

    def change_node(self) -> None:
        """Hang up and go elsewhere."""
        session = self.session
        if session is not None:
            self._avoid = session.node
            session.close()
            self.disconnected(session)

    # ---- Listener

    def answered(self, session: SimSession, correlation: int, reply: WireMessage, payload: bytes) -> None:
        if session is not self.session:
            return
        pending = self._pending.pop(correlation, None)
        self.world.note(self.name, (session.node, correlation, reply, len(payload)))
        if pending is not None:
            try:
                pending[1](reply, payload)
            except CorgiError as error:
                self.scene.violate("corrupt-read", f"{self.name} got from node {session.node}: {error}")

    def pushed(self, session: SimSession, message: WireMessage, payload: bytes) -> None:
        if session is self.session:
            self.world.note(self.name, (session.node, message.TYPE, message, len(payload)))
            try:
                self.push(message, payload)
            except CorgiError as error:
                self.scene.violate("corrupt-read", f"{self.name} got from node {session.node}: {error}")

    def disconnected(self, session: SimSession) -> None:
        if session is not self.session:
            return
        self._avoid = session.node
        self.session = None
        self.reconnects += 1
        pending, self._pending = self._pending, {}
        for _, handler in pending.values():
            handler(None, b"")
        self.lost()
        self._reconnect()

    # ---- how it is done

    def _expire(self, session: SimSession, number: int) -> None:
        if session is self.session and number in self._pending:
            self.change_node()

    def _reconnect(self) -> None:
        if not self._connecting:
            self._connecting = True
            self.world.after(RECONNECT_S * (0.5 + self.chance.random()), self._connect)

    def _connect(self) -> None:
        self._connecting = False
        if self.session is not None:
            return
        nodes = [node for node in self.scene.nodes if node != self._avoid] or list(self.scene.nodes)
        node = self.chance.choice(nodes)
        session = self.scene.front.connect(node, self)
        if session is None:
            self._avoid = node
            self._reconnect()
            return
        self.session = session
        self.connected()


def failure(reply: WireMessage | None) -> int | None:
    """The error number when a request failed as a whole: -1 without an answer, None when it has its own answer."""
    if reply is None:
        return -1
    return reply.error if isinstance(reply, ErrorReply) else None


def identity_of(record: DecodedRecord) -> bytes:
    """What tells a record from all others: its value, or the header of one that has none."""
    return record.value if record.value is not None else next((v for k, v in record.headers if k == ID and v), b"")


def values_of(payload: bytes, lengths: tuple[int, ...], at: int, position: int) -> tuple[list[tuple[int, bytes]], int]:
    """(offset, identity) of the batches cut from ``payload``, and the position after them; of the batch that
    ``position`` lies in, only from there on.

    Raises CorgiError "corrupt-batch".
    """
    out: list[tuple[int, bytes]] = []
    asked = position
    for index, length in enumerate(lengths):
        batch = payload[at : at + length]
        at += length
        records = [(record.offset, identity_of(record)) for record in iter_batch(batch)]
        header = parse_header(batch)
        if index == 0 and header.base_offset < asked <= header.base_offset + header.last_offset_delta:
            records = [entry for entry in records if entry[0] >= asked]
        position = max(position, header.base_offset + header.last_offset_delta + 1)
        out.extend(records)
    return out, position
