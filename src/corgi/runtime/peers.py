"""Links to the other nodes: the ``Network`` port on TCP.

Between two nodes there are two connections, one for data and one for heartbeats, which never wait behind data. The node
with the lower id dials, the other one listens; whoever lost a connection needs no agreement to get it back. Both sides
introduce themselves with a PeerHello and refuse, in words, what does not belong together. A new connection of a node
replaces its old one.

Nothing is kept for a node that is not connected, and a node that does not read loses its link: it catches up by asking.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError, error_from_number
from corgi.base.ids import NodeId
from corgi.base.limits import FRAME_BYTES_MAX, MIB, PEER_OUTPUT_MAX
from corgi.base.ports import Message
from corgi.broker.options import NodeOptions
from corgi.paxos.messages import PEER_TYPES, Heartbeat, PeerHello, PeerMessage
from corgi.runtime.connection import FrameConnection
from corgi.runtime.handshake import DATA, PURPOSES, check_introduction, introduction
from corgi.runtime.turn import Turn
from corgi.wire.codec import Codec
from corgi.wire.frame import Frame, encode_frame
from corgi.wire.messages import ErrorReply
from corgi.wire.receiver import Receiver, Scratch
from corgi.wire.session import encode_error

FIRST_RETRY_S = 0.002
RETRY_MAX_S = 0.200  # between attempts to reach a node that does not answer
REFUSED_RETRY_S = 2.0  # … that answered, and refused or was refused
CONNECT_S = 2.0  # for a connection and its handshake
WATCH_S = 1.0
SILENT_WATCHES = 5  # so many looks at a heartbeat connection without a beat between them, and the links are cut
EAGER_BYTES = 4 * MIB  # a node's frame is given its memory at once, up to this
TELL_AGAIN_S = 60.0  # a refusal that repeats itself is logged so often
TOLD_MAX = 1000

logger = logging.getLogger("corgi.peers")
_CODEC: Codec[msgspec.Struct] = Codec({**PEER_TYPES, ErrorReply.TYPE: ErrorReply})


class PeerFacts(Protocol):
    """Whom the links tell: the driver, which hands it to the node."""

    def peer_connected(self, peer: NodeId, incarnation: bytes, version: int) -> None: ...

    def peer_lost(self, peer: NodeId) -> None: ...

    def peer_message(self, peer: NodeId, message: PeerMessage, payload: memoryview) -> None:
        """Raises CorgiError when the message makes no sense: the link is cut."""
        ...

    def heartbeat(self, peer: NodeId, message: Heartbeat) -> None: ...


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """One peer's links. ``output_bytes`` wait to be sent; ``dropped`` messages found no connection."""

    peer: NodeId
    data: bool
    beat: bool
    output_bytes: int
    connects: int
    dropped: int


class PeerEnd:
    """This node's end of one connection to a peer: owner of the connection from the first frame to the last."""

    __slots__ = ("_peers", "connection", "greeted", "hello", "lost", "peer", "purpose", "silent", "up")

    def __init__(self, peers: Peers, connection: FrameConnection, peer: NodeId | None, purpose: str | None) -> None:
        """``peer`` and ``purpose`` are None when the other side dialled: its introduction tells them."""
        self._peers = peers
        self.connection = connection
        self.peer = peer
        self.purpose = purpose
        self.hello: PeerHello | None = None
        self.up = False
        self.silent = 0
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[CorgiError | None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()

    def put(self, message: Message, payload: Buffer = b"") -> None:
        """Queue a message; it leaves at the end of this turn."""
        size = len(payload)
        frame = encode_frame(message.TYPE, message, 0, size)  # type: ignore[arg-type]
        self.connection.outbox.put(frame, (payload,) if size else ())
        self.connection.written()

    def frame_received(self, frame: Frame) -> None:
        try:
            message = _CODEC.decode(frame)
            if type(message) is ErrorReply:
                self._told(message)
            elif self.up:
                self._message(message, frame.payload)
            else:
                self._greet(message)
        except CorgiError as error:
            self.protocol_failed(error)

    def protocol_failed(self, error: CorgiError) -> None:
        """Say what is wrong, and be done with this connection."""
        self._peers.refused(self, error)
        self.connection.outbox.put(encode_error(0, error))
        self.connection.close()
        self._down(error)

    def output_drained(self) -> None: ...

    def output_overflowed(self) -> None:
        logger.warning("node %s does not read: link cut at %d bytes unsent", self.peer, PEER_OUTPUT_MAX)
        self.connection.abort()

    def connection_lost(self) -> None:
        self._down(None)
        if not self.lost.done():
            self.lost.set_result(None)
        self._peers.forget(self)

    def _greet(self, message: msgspec.Struct) -> None:
        if not isinstance(message, PeerHello):
            raise CorgiError("malformed-frame", "a node begins with a PeerHello")
        options = self._peers.options
        dialled = self.peer is not None
        self.hello = message
        version = check_introduction(options, message, expected=self.peer, purpose=self.purpose)
        self.peer, self.purpose = message.node, message.purpose
        if not dialled:
            self.put(introduction(options, message.purpose))
        self.up = True
        if not self.greeted.done():
            self.greeted.set_result(None)
        self._peers.established(self, message, version)

    def _message(self, message: msgspec.Struct, payload: memoryview) -> None:
        assert self.peer is not None
        if type(message) is Heartbeat:
            self.silent = 0
            self._peers.facts.heartbeat(self.peer, message)
        elif isinstance(message, PeerMessage) and not isinstance(message, PeerHello):
            self._peers.facts.peer_message(self.peer, message, payload)
        else:
            raise CorgiError("malformed-frame", "a second introduction")

    def _told(self, reply: ErrorReply) -> None:
        """The other side refuses, and closes."""
        error = error_from_number(reply.error, reply.message)
        self._peers.refused(self, error, by_other=True)
        self.connection.abort()
        self._down(error)

    def _down(self, error: CorgiError | None) -> None:
        if not self.greeted.done():
            self.greeted.set_result(error or CorgiError("unreachable", "the connection broke before the introduction"))
        if self.up:
            self.up = False
            self._peers.broken(self)


class Peers:
    """All links of one node. ``start`` dials, ``accept`` takes what dialled here, ``close`` ends everything."""

    def __init__(
        self,
        facts: PeerFacts,
        turn: Turn,
        scratch: Scratch,
        options: NodeOptions,
    ) -> None:
        self.facts = facts
        self.options = options
        self._turn = turn
        self._scratch = scratch
        self._addresses: Mapping[NodeId, tuple[str, int]] = {}
        self._data: dict[NodeId, PeerEnd] = {}
        self._beat: dict[NodeId, PeerEnd] = {}
        self._ends: set[PeerEnd] = set()
        self._dialling: list[asyncio.Task[None]] = []
        self._watching: asyncio.TimerHandle | None = None
        self._told: dict[tuple[NodeId | None, str, bool], float] = {}
        self._connects: dict[NodeId, int] = {}
        self._dropped: dict[NodeId, int] = {}
        self._random = random.Random()

    def start(self, addresses: Mapping[NodeId, tuple[str, int]]) -> None:
        """Begin to dial. ``addresses``: host and port of the other members, at least of those with a higher id.

        Raises CorgiError "invalid-configuration" when one is missing.
        """
        self._addresses = dict(addresses)
        for peer in self.options.members:
            if peer <= self.options.node:
                continue
            if peer not in self._addresses:
                raise CorgiError("invalid-configuration", f"the address of node {peer} is not known")
            for purpose in PURPOSES:
                self._dialling.append(
                    asyncio.create_task(self._dial(peer, purpose), name=f"corgi dial {peer} {purpose}")
                )
        self._watching = self._turn.loop.call_later(WATCH_S, self._watch)

    async def close(self) -> None:
        """Dial no more and end all links."""
        if self._watching is not None:
            self._watching.cancel()
        for task in self._dialling:
            task.cancel()
        await asyncio.gather(*self._dialling, return_exceptions=True)
        ends = list(self._ends)
        for end in ends:
            end.connection.flush()
            end.connection.abort()
        await asyncio.gather(*[end.lost for end in ends])

    def abort(self) -> None:
        """End all links at once: the node has failed."""
        for task in self._dialling:
            task.cancel()
        for end in list(self._ends):
            end.connection.abort()

    # the Network port

    def send(self, peer: NodeId, message: Message, payload: Buffer = b"") -> None:
        """Queue on the data link; dropped when there is none."""
        end = self._data.get(peer)
        if end is None:
            self._dropped[peer] = self._dropped.get(peer, 0) + 1
        else:
            end.put(message, payload)

    def beat(self, peer: NodeId, message: Message) -> None:
        """Queue on the heartbeat link; dropped when there is none."""
        end = self._beat.get(peer)
        if end is not None:
            end.put(message)

    def statistics(self) -> tuple[LinkStatistics, ...]:
        return tuple(
            LinkStatistics(
                peer=peer,
                data=peer in self._data,
                beat=peer in self._beat,
                output_bytes=self._data[peer].connection.waiting() if peer in self._data else 0,
                connects=self._connects.get(peer, 0),
                dropped=self._dropped.get(peer, 0),
            )
            for peer in self.options.members
            if peer != self.options.node
        )

    # what the listener and the connections call

    def accept(self, connection: FrameConnection, frame: Frame) -> None:
        """Take over a connection whose first frame, ``frame``, says that a node dialled."""
        end = PeerEnd(self, connection, None, None)
        self._own(connection, end)
        self._ends.add(end)
        end.frame_received(frame)

    def established(self, end: PeerEnd, hello: PeerHello, version: int) -> None:
        """Both introductions are done: the link carries messages from here on."""
        peer = hello.node
        table = self._table(end)
        old = table.get(peer)
        if old is not None:
            old.connection.abort()
            old.connection_lost()
        table[peer] = end
        self._connects[peer] = self._connects.get(peer, 0) + 1
        if end.purpose == DATA:
            logger.info("connected to node %d", peer)
            self.facts.peer_connected(peer, hello.incarnation, version)

    def broken(self, end: PeerEnd) -> None:
        """A link that carried messages is down."""
        table = self._table(end)
        if end.peer is not None and table.get(end.peer) is end:
            del table[end.peer]
            if end.purpose == DATA:
                logger.info("lost node %d", end.peer)
                self.facts.peer_lost(end.peer)

    def refused(self, end: PeerEnd, error: CorgiError, *, by_other: bool = False) -> None:
        """Log a refusal, each reason once in TELL_AGAIN_S: those who are refused come back soon."""
        claimed = end.hello.node if end.hello is not None else end.peer
        key = (claimed, error.code, by_other)
        now = self._turn.loop.time()
        if now < self._told.get(key, 0.0) or len(self._told) > TOLD_MAX:
            return
        self._told[key] = now + TELL_AGAIN_S
        who = f"node {claimed}" if claimed is not None else "a node"
        text = "%s at %s refuses this node: %s [%s]" if by_other else "%s at %s is refused: %s [%s]"
        logger.warning(text, who, end.connection.remote, error.message, error.code)

    def forget(self, end: PeerEnd) -> None:
        self._ends.discard(end)

    # dialling

    async def _dial(self, peer: NodeId, purpose: str) -> None:
        """Keep one connection to ``peer`` up, for ever."""
        delay = FIRST_RETRY_S
        while True:
            end = PeerEnd(self, FrameConnection(self._turn, self._scratch, PEER_OUTPUT_MAX), peer, purpose)
            refusal = await self._connect(end)
            if refusal is None:
                await asyncio.shield(end.lost)  # close cancels this task, not the fact it waits for
                delay = FIRST_RETRY_S
            elif refusal.code != "unreachable":
                delay = REFUSED_RETRY_S
            await asyncio.sleep(delay * (0.5 + self._random.random()))
            delay = min(delay * 2, RETRY_MAX_S)

    async def _connect(self, end: PeerEnd) -> CorgiError | None:
        """Connect and introduce; None when the link is up."""
        assert end.peer is not None
        assert end.purpose is not None
        connection = end.connection
        host, port = self._addresses[end.peer]
        self._own(connection, end)
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._turn.loop.create_connection(lambda: connection, host, port)
                self._ends.add(end)
                end.put(introduction(self.options, end.purpose))
                return await end.greeted
        except (OSError, TimeoutError) as error:
            connection.abort()
            return CorgiError("unreachable", str(error))

    def _own(self, connection: FrameConnection, end: PeerEnd) -> None:
        connection.owner = end
        connection.output_max = PEER_OUTPUT_MAX
        receiver = connection.receiver
        assert isinstance(receiver, Receiver)
        receiver.eager_bytes = EAGER_BYTES
        receiver.header_bytes_max = FRAME_BYTES_MAX

    def _table(self, end: PeerEnd) -> dict[NodeId, PeerEnd]:
        return self._data if end.purpose == DATA else self._beat

    def _watch(self) -> None:
        """Cut the links of nodes that fell silent, also when no close ever comes (a machine that lost its power).

        Looks are counted, not seconds: after a stall of this process one look comes late, and the beats behind it.
        """
        for peer, end in list(self._beat.items()):
            end.silent += 1
            if end.silent > SILENT_WATCHES:
                logger.warning("node %d has been silent: its links are cut", peer)
                end.connection.abort()
                if peer in self._data:
                    self._data[peer].connection.abort()
        self._watching = self._turn.loop.call_later(WATCH_S, self._watch)
