"""What a frame costs: encoding, receiving and decoding, without sockets, and requests per second with one.

    python benchmarks/frames.py

Each figure is the best of several rounds, in µs a frame: the machine's noise only ever adds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import uvloop

from corgi.base.command import Buffer
from corgi.base.ids import Ballot, GroupId, NodeId, Offset, Slot, TopicId
from corgi.base.ports import ClientSession
from corgi.paxos.messages import PEER_TYPES, Accept, PeerHello
from corgi.runtime.net import Listener
from corgi.runtime.turn import Turn
from corgi.wire import messages as m
from corgi.wire.client_session import CallerSession
from corgi.wire.codec import Codec
from corgi.wire.frame import Frame, encode_frame
from corgi.wire.outbox import Outbox
from corgi.wire.receiver import Receiver, Scratch
from corgi.wire.session import ServerSession

ROUNDS = 7
FRAMES = 2000


def best(work: Callable[[], object], frames: int = FRAMES) -> float:
    """µs a frame."""
    times = []
    for _ in range(ROUNDS):
        since = time.perf_counter()
        work()
        times.append(time.perf_counter() - since)
    return min(times) / frames * 1e6


def receive(receiver: Receiver, data: bytes, take: Callable[[Frame], object]) -> None:
    """Hand on whatever the receiver makes of ``data``, read in pieces as large as it takes."""
    view = memoryview(data)
    while view:
        buffer = receiver.get_buffer()
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        for frame in receiver.received(count):
            take(frame)
        view = view[count:]


def produce(payload_bytes: int) -> tuple[float, float]:
    """(encoding in the client, receiving and decoding in the node) of a Produce with one batch."""
    batch = b"x" * payload_bytes
    message = m.Produce(2, 1000, ((TopicId(16), 0, payload_bytes),))
    frames = max(50, min(FRAMES, 20_000_000 // payload_bytes))
    outbox = Outbox()

    def encode() -> None:
        for correlation in range(frames):
            outbox.put(encode_frame(2, message, correlation, payload_bytes), (batch,))
        outbox.take()

    hello = encode_frame(1, m.Hello(1, 1), 1, 0)
    data = hello + b"".join(encode_frame(2, message, n + 1, payload_bytes) + batch for n in range(frames))

    def decode() -> None:
        receiver = Receiver(Scratch())
        session = ServerSession(bytes(16), NodeId(1))
        receive(receiver, data, session.request)

    return best(encode, frames), best(decode, frames)


def reply() -> tuple[float, float]:
    """(encoding in the node, receiving and decoding in the client) of a ProduceReply."""
    message = m.ProduceReply(((0, Offset(123_456), 1_700_000_000_000),))
    session = ServerSession(bytes(16), NodeId(1))

    def encode() -> None:
        for correlation in range(FRAMES):
            session.reply(correlation, message)
        session.outbox.take()

    data = b"".join(encode_frame(130, message, n + 1, 0) for n in range(FRAMES))

    def decode() -> None:
        client = CallerSession(Scratch())
        view = memoryview(data)
        while view:
            buffer = client.get_buffer()
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            client.received(count)
            view = view[count:]

    return best(encode), best(decode)


def accept(payload_bytes: int) -> float:
    """Receiving and decoding an Accept with a value."""
    frames = max(50, min(FRAMES, 20_000_000 // payload_bytes))
    message = Accept(GroupId(1), Ballot(65537), Slot(1), Slot(0))
    one = encode_frame(68, message, 0, payload_bytes) + b"x" * payload_bytes
    hello = PeerHello(1, 1, bytes(16), NodeId(1), bytes(16), 1, "data", 8)
    data = encode_frame(PeerHello.TYPE, hello, 0, 0) + one * frames
    codec = Codec(PEER_TYPES)

    def decode() -> None:
        receiver = Receiver(Scratch(), eager_bytes=2**22)
        receive(receiver, data, codec.decode)

    return best(decode, frames)


class Answering:
    """Stands for a node that answers at once."""

    def client_request(
        self, session: ClientSession, correlation: int, message: m.WireMessage, payload: memoryview
    ) -> None:
        session.reply(correlation, PONG)

    def client_closed(self, session: ClientSession) -> None: ...

    def client_drained(self, session: ClientSession) -> None: ...

    def accept(self, connection: object, frame: object) -> None: ...


PONG = m.ProduceReply(((0, Offset(1), 1),))


class Asking(asyncio.BufferedProtocol):
    """A client that keeps ``window`` requests in flight until ``count`` are answered."""

    def __init__(self, count: int, window: int, payload: bytes) -> None:
        self.session = CallerSession(Scratch())
        self.left = count
        self.to_send = count
        self.window = window
        self.payload = payload
        self.message = m.Produce(2, 1000, ((TopicId(16), 0, len(payload)),))
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.session.hello()
        self.transport.writelines(self.session.outbox.take())  # type: ignore[attr-defined]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.session.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        for answer in self.session.received(nbytes):
            if type(answer.message) is m.HelloReply:
                self.ask(self.window)
            else:
                self.left -= 1
                self.ask(1)
        buffers: Sequence[Buffer] = self.session.outbox.take()
        if buffers:
            self.transport.writelines(buffers)  # type: ignore[attr-defined]
        if not self.left and not self.done.done():
            self.done.set_result(None)

    def ask(self, count: int) -> None:
        for _ in range(min(count, self.to_send)):
            self.to_send -= 1
            self.session.request(self.message, (self.payload,))


async def over_sockets(count: int, window: int, payload_bytes: int) -> float:
    """Requests per second over loopback, client and node sharing this process and its one core."""
    loop = asyncio.get_running_loop()
    turn = Turn(loop, lambda: None)
    node = Answering()
    listener = Listener(node, node, turn, Scratch(), cluster=bytes(16), node=NodeId(1))
    port = await listener.bind("127.0.0.1", 0)
    await listener.listen()
    client = Asking(count, window, b"x" * payload_bytes)
    since = time.perf_counter()
    await loop.create_connection(lambda: client, "127.0.0.1", port)
    await client.done
    took = time.perf_counter() - since
    client.transport.close()
    await listener.close()
    return count / took


def main() -> None:
    print("µs a frame                 encode   receive and decode")
    for size in (100, 1024, 16_384, 262_144, 1_048_576):
        encode, decode = produce(size)
        print(f"Produce {size:>9,} B      {encode:8.2f} {decode:20.2f}")
    encode, decode = reply()
    print(f"ProduceReply             {encode:8.2f} {decode:20.2f}")
    for size in (100, 16_384, 1_048_576):
        print(f"Accept {size:>10,} B               {accept(size):20.2f}")
    for window, size in ((1, 200), (100, 200), (100, 16_384), (16, 262_144)):
        rate = uvloop.run(over_sockets(2000, window, size))
        print(f"{rate:>9,.0f} requests/s of {size:>7,} B over loopback, {window} in flight, both ends in one process")


if __name__ == "__main__":
    main()
