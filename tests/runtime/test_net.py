"""The port on real sockets: good clients are served whatever the bad ones do, and the bad ones cost little."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import pytest
from net_world import CLUSTER, HOST, Probe, Witness, until

from corgi.base.errors import BY_CODE, CorgiError
from corgi.base.ids import NodeId, Offset, TopicId
from corgi.base.limits import (
    CLIENT_OUTPUT_HIGH,
    CLIENT_OUTPUT_LOW,
    CLIENT_OUTPUT_MAX,
    CLIENT_PENDING_BYTES,
    CLIENT_PENDING_REQUESTS,
    KIB,
    MIB,
)
from corgi.base.ports import ClientSession
from corgi.broker.produce import Pausable
from corgi.paxos.messages import PeerHello
from corgi.runtime import listening, net
from corgi.runtime.connection import FRAMES_PER_TURN, FrameConnection
from corgi.runtime.net import Listener
from corgi.runtime.turn import Turn
from corgi.wire import messages as m
from corgi.wire.frame import FRAME, Frame, encode_frame
from corgi.wire.receiver import Scratch

ONE_BATCH = ((TopicId(16), 0, 61),)
BATCH = b"b" * 61


class PeerWitness:
    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def accept(self, connection: FrameConnection, frame: Frame) -> None:
        self.frames.append(frame)
        connection.abort()


class Port:
    """A listener with witnesses behind it."""

    def __init__(self) -> None:
        self.facts = Witness()
        self.peers = PeerWitness()
        self.turns = 0
        self.turn = Turn(asyncio.get_running_loop(), self._work)
        self.listener = Listener(
            self.facts, self.peers, self.turn, Scratch(), cluster=CLUSTER, node=NodeId(1), software="test"
        )
        self.port = 0

    def _work(self) -> None:
        self.turns += 1

    async def open(self) -> None:
        self.port = await self.listener.bind(HOST, 0)
        await self.listener.listen()


def pong(session: ClientSession, correlation: int, message: m.WireMessage, payload: memoryview) -> None:
    session.reply(correlation, m.Pong())


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    port = Port()
    await port.open()
    yield port
    await port.listener.close()


async def test_a_client_greets_asks_and_is_answered(port: Port) -> None:
    port.facts.answer = pong
    probe = await Probe.connect(port.port)
    assert probe.session.greeting is not None
    assert (probe.session.greeting.cluster, probe.session.greeting.node) == (CLUSTER.hex(), 1)
    assert (await probe.ask(m.Ping())).message == m.Pong()
    probe.request(m.Produce(2, 100, ONE_BATCH), (BATCH,))
    await probe.take()
    session, correlation, message, payload = port.facts.requests[-1]
    assert (correlation, message, payload) == (3, m.Produce(2, 100, ONE_BATCH), BATCH)
    await probe.close()
    await until(lambda: port.facts.closed == [session])
    assert session.closed
    session.reply(9, m.Pong())
    session.push(m.TopicsChanged(("t",)), ())
    assert session.buffered() == 0


async def test_all_that_one_turn_says_leaves_in_one_write(port: Port) -> None:
    probe = await Probe.connect(port.port)
    probe.request(m.Ping())
    await until(lambda: port.facts.requests)
    session = port.facts.requests[0][0]
    writes = []
    transport = session._connection._transport  # type: ignore[attr-defined]

    class Recorder:
        def __getattr__(self, name: str) -> object:
            if name in ("write", "writelines"):
                writes.append(name)
            return getattr(transport, name)

    session._connection._transport = Recorder()  # type: ignore[attr-defined]
    for _ in range(50):
        session.push(m.Deliver(1, Offset(1), (10_000,)), (b"x" * 10_000,))
    assert writes == []
    for _ in range(50):
        assert len((await probe.take()).payload) == 10_000
    assert len(writes) == 1
    await probe.close()


async def test_small_packets_do_not_wait_for_others(port: Port) -> None:
    probe = await Probe.connect(port.port)
    await until(lambda: port.listener.statistics().clients == 1)
    (connection,) = port.listener.connections
    plug = connection._transport.get_extra_info("socket")
    assert plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await probe.close()


@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "frame-too-large"),
        (b"\x00" * 100, "malformed-frame"),
        (encode_frame(14, m.Ping(), 1, 0), "malformed-frame"),
        (encode_frame(1, m.Hello(7, 9), 1, 0), "unsupported-version"),
        (encode_frame(1, m.Hello(1, 1, "", "00" * 16), 1, 0), "wrong-cluster"),
        (FRAME.pack(14, 0, 2, 1, 0, 0) + b"\xc1\xc1", "malformed-frame"),
    ],
    ids=["http", "zeros", "no-hello", "version", "cluster", "header"],
)
async def test_garbage_gets_one_error_one_line_in_the_log_and_harms_nobody(
    port: Port, caplog: pytest.LogCaptureFixture, garbage: bytes, code: str
) -> None:
    port.facts.answer = pong
    good = await Probe.connect(port.port)
    with caplog.at_level(logging.WARNING, "corgi.net"):
        bad = await Probe.connect(port.port, hello=False)
        bad.writer.write(garbage)
        with pytest.raises(CorgiError) as caught:
            await bad.take()
        assert caught.value.code == code
        assert await bad.rest() == b""
        bad.writer.close()
        await until(lambda: port.listener.statistics().connections == 1)
    assert len(caplog.records) == 1
    assert code in caplog.text
    assert "127.0.0.1" in caplog.text
    assert (await good.ask(m.Ping())).message == m.Pong()
    assert port.listener.statistics().refused == 1
    assert port.facts.closed == []
    await good.close()


async def test_garbage_after_good_requests_is_answered_after_them(port: Port) -> None:
    port.facts.answer = pong
    probe = await Probe.connect(port.port)
    probe.session.request(m.Ping())
    probe.writer.writelines([*probe.session.outbox.take(), b"\xff" * 100_000])
    assert (await probe.take()).message == m.Pong()
    with pytest.raises(CorgiError, match="frame-too-large"):
        await probe.take()
    assert await probe.rest() == b""
    await until(lambda: len(port.facts.closed) == 1)
    probe.writer.close()


async def test_the_error_arrives_although_the_client_is_in_the_middle_of_sending(port: Port) -> None:
    """Closing with unread bytes would reset the connection, and the reset would destroy the error on its way."""
    probe = await Probe.connect(port.port)
    probe.writer.write(FRAME.pack(2**31, 1, 1, 2, 0, 0) + b"x" * (4 * MIB))
    with pytest.raises(CorgiError, match="frame-too-large"):
        await probe.take()
    probe.writer.close()


async def test_a_node_is_handed_to_the_links(port: Port) -> None:
    probe = await Probe.connect(port.port, hello=False)
    hello = PeerHello(1, 1, CLUSTER, NodeId(2), bytes(16), 1, "data", 4)
    probe.writer.write(encode_frame(PeerHello.TYPE, hello, 0, 0))
    assert await probe.rest() == b""
    assert [frame.type for frame in port.peers.frames] == [PeerHello.TYPE]
    assert port.listener.statistics().connections == 0
    assert port.facts.closed == []
    await probe.close()


async def test_a_client_that_asks_too_much_at_once_is_not_read_until_it_is_answered(port: Port) -> None:
    greedy, modest = await Probe.connect(port.port), await Probe.connect(port.port)
    big = ((TopicId(16), 0, MIB),)
    for _ in range(20):
        greedy.request(m.Produce(2, 0, big), (b"x" * MIB,))
    await until(lambda: sum(len(payload) for *_, payload in port.facts.requests) > CLIENT_PENDING_BYTES)
    modest.request(m.Ping())
    await until(lambda: any(isinstance(message, m.Ping) for _, _, message, _ in port.facts.requests))
    held = len(port.facts.requests)
    assert held <= CLIENT_PENDING_BYTES // MIB + 2
    answered = 0
    while answered < 20:
        await until(lambda: any(isinstance(r[2], m.Produce) for r in port.facts.requests[:]))
        for request in list(port.facts.requests):
            if isinstance(request[2], m.Produce):
                port.facts.requests.remove(request)
                request[0].reply(request[1], m.ProduceReply(((0, Offset(0), 0),)))
                answered += 1
    for _ in range(20):
        assert isinstance((await greedy.take()).message, m.ProduceReply)
    await greedy.close()
    await modest.close()


async def test_requests_are_counted_too(port: Port) -> None:
    probe = await Probe.connect(port.port)
    for _ in range(CLIENT_PENDING_REQUESTS + 3 * FRAMES_PER_TURN):
        probe.session.request(m.Ping())
    probe.send()
    await until(lambda: len(port.facts.requests) == CLIENT_PENDING_REQUESTS)
    other = await Probe.connect(port.port)
    assert len(port.facts.requests) == CLIENT_PENDING_REQUESTS
    port.facts.answer = pong
    for session, correlation, *_ in list(port.facts.requests):
        session.reply(correlation, m.Pong())
    for _ in range(CLIENT_PENDING_REQUESTS + 3 * FRAMES_PER_TURN):
        assert (await probe.take()).message == m.Pong()
    await probe.close()
    await other.close()


async def test_the_broker_may_ask_for_a_pause(port: Port) -> None:
    probe, other = await Probe.connect(port.port), await Probe.connect(port.port)
    port.facts.answer = pong
    await probe.ask(m.Ping())
    session = port.facts.requests[0][0]
    assert isinstance(session, Pausable)
    session.pause()
    probe.request(m.Ping())
    for _ in range(5):
        await other.ask(m.Ping())
    assert sum(request[0] is session for request in port.facts.requests) == 1
    session.resume()
    assert (await probe.take()).message == m.Pong()
    await probe.close()
    await other.close()


async def test_many_requests_of_one_client_let_others_in_between(port: Port) -> None:
    probe = await Probe.connect(port.port)
    turns: dict[int, int] = {}

    def count(*_: object) -> None:
        turns[port.turns] = turns.get(port.turns, 0) + 1
        port.turn.wake()

    port.facts.answer = count
    for _ in range(2000):
        probe.session.request(m.Ping())
    probe.send()
    await until(lambda: sum(turns.values()) == 2000)
    assert max(turns.values()) <= FRAMES_PER_TURN
    await probe.close()


async def test_the_same_correlation_twice_is_an_error(port: Port) -> None:
    probe = await Probe.connect(port.port)
    probe.writer.write(encode_frame(14, m.Ping(), 5, 0) * 2)
    with pytest.raises(CorgiError, match="still unanswered"):
        await probe.take()
    await probe.close()


async def test_a_slow_reader_is_waited_for_and_told_when_it_drained(port: Port) -> None:
    slow, quick = await Probe.connect(port.port, limit=KIB), await Probe.connect(port.port)
    port.facts.answer = pong
    slow.request(m.Ping())
    await slow.take()
    session = port.facts.requests[0][0]
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    pushed = 0
    while session.buffered() < CLIENT_OUTPUT_HIGH:
        session.push(m.Deliver(1, Offset(0), (256 * KIB,)), (b"x" * 256 * KIB,))
        pushed += 1
        await asyncio.sleep(0)
    assert (await quick.ask(m.Ping())).message == m.Pong()
    assert port.facts.drained == []
    slow.request(m.Ping())
    slow.request(m.Ping())
    await quick.ask(m.Ping())
    for _ in range(20):
        await quick.ask(m.Ping())
    # One request more is taken, then the client is not read before it reads.
    assert sum(request[0] is session for request in port.facts.requests) <= 2
    slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for _ in range(pushed):
        assert isinstance((await slow.take()).message, m.Deliver)
    assert [(await slow.take()).message for _ in range(2)] == [m.Pong(), m.Pong()]
    await until(lambda: session in port.facts.drained)
    assert session.buffered() < CLIENT_OUTPUT_LOW
    await slow.close()
    await quick.close()


async def test_drained_is_told_also_when_the_kernel_takes_everything_at_once(port: Port) -> None:
    probe = await Probe.connect(port.port)
    probe.request(m.Ping())
    await until(lambda: port.facts.requests)
    session = port.facts.requests[0][0]
    session.push(m.Deliver(1, Offset(0), (CLIENT_OUTPUT_LOW,)), (b"x" * CLIENT_OUTPUT_LOW,))
    assert session.buffered() > CLIENT_OUTPUT_LOW
    await until(lambda: port.facts.drained == [session])
    await probe.take()
    await probe.close()


async def test_a_client_that_never_reads_is_cut_off_by_bytes(port: Port, caplog: pytest.LogCaptureFixture) -> None:
    probe = await Probe.connect(port.port, limit=KIB)
    probe.request(m.Ping())
    await until(lambda: port.facts.requests)
    session = port.facts.requests[0][0]
    probe.writer.transport.pause_reading()  # type: ignore[attr-defined]
    payload = b"x" * (4 * MIB)
    most = 0
    while not session.closed:
        session.push(m.Deliver(1, Offset(0), (len(payload),)), (payload,))
        most = max(most, session.buffered())
        await asyncio.sleep(0)
    assert most <= CLIENT_OUTPUT_MAX + 2 * len(payload)
    assert port.facts.closed == [session]
    assert port.listener.statistics().cut_off == 1
    assert "unread" in caplog.text
    await probe.close()


async def test_a_client_that_never_reads_is_cut_off_by_time(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "STALL_S", 0.02)
    monkeypatch.setattr(listening, "SWEEP_S", 0.01)
    port.listener._look()
    port.facts.answer = pong
    probe, reader = await Probe.connect(port.port, limit=KIB), await Probe.connect(port.port)
    probe.request(m.Ping())
    await until(lambda: port.facts.requests)
    session = port.facts.requests[0][0]
    probe.writer.transport.pause_reading()  # type: ignore[attr-defined]
    while session.buffered() < CLIENT_OUTPUT_HIGH:
        session.push(m.Deliver(1, Offset(0), (256 * KIB,)), (b"x" * 256 * KIB,))
        await asyncio.sleep(0)
    await until(lambda: session.closed)
    assert (await reader.ask(m.Ping())).message == m.Pong()
    await probe.close()
    await reader.close()


async def test_who_says_nothing_is_not_kept(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "HELLO_S", 0.02)
    monkeypatch.setattr(listening, "SWEEP_S", 0.01)
    port.listener._look()
    greeted = await Probe.connect(port.port)
    silent = await Probe.connect(port.port, hello=False)
    silent.writer.write(b"\x00\x00")
    assert await silent.rest() == b""
    assert port.listener.statistics().connections == 1
    await silent.close()
    await greeted.close()


async def test_hundreds_of_dribbling_connections_hold_nobody_up(port: Port) -> None:
    port.facts.answer = pong
    good = await Probe.connect(port.port)
    idle = [await asyncio.open_connection(HOST, port.port) for _ in range(300)]
    await until(lambda: port.listener.statistics().connections == 301)
    for _ in range(3):
        for _, writer in idle:
            writer.write(b"\x00")
        assert (await good.ask(m.Ping())).message == m.Pong()
    held = sum(connection.receiver.held() for connection in port.listener.connections)
    assert held <= 300 * 3
    for _, writer in idle:
        writer.transport.abort()
    await until(lambda: port.listener.statistics().connections == 1)
    await good.close()


async def test_a_taken_port_is_named(port: Port) -> None:
    second = Port()

    async def take() -> None:
        await second.listener.bind(HOST, port.port)
        await second.listener.listen()

    with pytest.raises(CorgiError, match="port-in-use") as caught:
        await take()
    assert str(port.port) in caught.value.message
    second.listener.stop_listening()


async def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CorgiError, match="invalid-configuration"):
        await Port().listener.bind("203.0.113.1", 0)


async def test_closing_tells_every_client_and_waits_for_none() -> None:
    port = Port()
    await port.open()
    polite, deaf = await Probe.connect(port.port), await Probe.connect(port.port, limit=KIB)
    deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
    closing = asyncio.create_task(port.listener.close())
    with pytest.raises(CorgiError, match="the node stops"):
        await polite.take()
    polite.writer.close()
    async with asyncio.timeout(5):
        await closing
    assert port.listener.statistics().connections == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, port.port)
    await deaf.close()


def test_refusals_have_numbers_that_exist() -> None:
    assert all(code in BY_CODE for code in ("port-in-use", "closed", "malformed-frame", "frame-too-large"))
