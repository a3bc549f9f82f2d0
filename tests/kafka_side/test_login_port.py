"""Logins over real sockets: what a stranger may cost and for how long; passwords are checked beside the loop."""

from __future__ import annotations

import asyncio
import functools
import struct
import threading
from collections.abc import AsyncIterator

import pytest
from sasl_world import PASSWORD, user

from corgi.kafka.credentials import MECHANISMS, PLAIN, Derivation
from corgi.kafka.front import KafkaOptions
from corgi.kafka.login import REQUEST_BYTES_MAX
from corgi.kafka.security import Security
from corgi.runtime import deriving, kafka, listening
from corgi.runtime.deriving import Deriving
from corgi.runtime.drive import Driver
from corgi.testing import embedded
from corgi.testing.embedded import Broker

HANDSHAKE, AUTHENTICATE, METADATA = 17, 36, 3
TOKEN = b"\0alice\0" + PASSWORD.encode()
WRONG = b"\0alice\0wrong"
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    monkeypatch.setattr(listening, "SWEEP_S", 0.01)
    options = KafkaOptions(security=Security([user("alice")], {embedded.KAFKA: MECHANISMS}))
    monkeypatch.setattr(embedded, "Driver", functools.partial(Driver, kafka=options))
    async with asyncio.timeout(60), Broker(kafka=True) as running:
        yield running


async def dial(broker: Broker) -> Wire:
    host, _, port = broker.kafka_servers.partition(":")
    return await asyncio.open_connection(host, int(port))


async def ask(wire: Wire, key: int, version: int, body: bytes) -> bytes:
    """What follows the correlation id."""
    reader, writer = wire
    frame = struct.pack(">hhih", key, version, 7, -1) + body
    writer.write(len(frame).to_bytes(4) + frame)
    size = int.from_bytes(await reader.readexactly(4))
    answer = await reader.readexactly(size)
    assert int.from_bytes(answer[:4]) == 7
    return answer[4:]


async def bare(wire: Wire, token: bytes) -> bytes:
    reader, writer = wire
    writer.write(len(token).to_bytes(4) + token)
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)))


async def shake(wire: Wire, version: int = 1) -> None:
    answer = await ask(wire, HANDSHAKE, version, len(PLAIN).to_bytes(2) + PLAIN.encode())
    assert answer[:2] == b"\0\0"


async def login(wire: Wire, token: bytes) -> int:
    """The error code."""
    return int.from_bytes((await ask(wire, AUTHENTICATE, 0, len(token).to_bytes(4) + token))[:2])


async def test_a_password_opens_the_connection_to_requests_of_any_size(broker: Broker) -> None:
    wire = await dial(broker)
    await shake(wire)
    assert await login(wire, TOKEN) == 0
    many = 10_000
    body = many.to_bytes(4) + b"".join(b"\0\x06" + f"t{i:05}".encode() for i in range(many)) + b"\0"
    assert len(body) > 2 * REQUEST_BYTES_MAX
    assert len(await ask(wire, METADATA, 4, body)) > many
    wire[1].close()


async def test_bare_tokens_after_the_old_handshake(broker: Broker) -> None:
    wire = await dial(broker)
    await shake(wire, 0)
    assert await bare(wire, TOKEN) == b""
    assert len(await ask(wire, METADATA, 4, b"\xff\xff\xff\xff\0")) > 10
    wire[1].close()
    wire = await dial(broker)
    await shake(wire, 0)
    wire[1].write(len(WRONG).to_bytes(4) + WRONG)
    assert await wire[0].read() == b"", "the end, and nothing that could be taken for a token"
    wire[1].close()


async def test_a_wrong_password_is_told_and_then_the_connection_ends(broker: Broker) -> None:
    wire = await dial(broker)
    await shake(wire)
    began = asyncio.get_running_loop().time()
    assert await login(wire, WRONG) == 58
    assert asyncio.get_running_loop().time() - began >= 0.1
    assert await wire[0].read() == b""
    wire[1].close()


@pytest.mark.parametrize("size", [-1, REQUEST_BYTES_MAX + 1, 2**31 - 1])
async def test_a_stranger_may_not_announce_much(broker: Broker, size: int) -> None:
    reader, writer = await dial(broker)
    writer.write(struct.pack(">i", size) + b"x" * 100)
    assert await reader.read() == b""
    writer.close()


async def test_a_stranger_may_not_stay(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    known, stranger = await dial(broker), await dial(broker)
    await shake(known)
    assert await login(known, TOKEN) == 0
    monkeypatch.setattr(kafka, "LOGIN_S", 0.02)
    assert await stranger[0].read() == b""
    assert len(await ask(known, METADATA, 4, b"\xff\xff\xff\xff\0")) > 10
    for _, writer in (known, stranger):
        writer.close()


async def test_many_at_once_come_in(broker: Broker) -> None:
    wires = await asyncio.gather(*[dial(broker) for _ in range(50)])
    await asyncio.gather(*map(shake, wires))
    passwords = [TOKEN if i % 2 else WRONG for i in range(len(wires))]
    codes = await asyncio.gather(*[login(wire, token) for wire, token in zip(wires, passwords, strict=True)])
    assert codes == [0 if i % 2 else 58 for i in range(len(wires))]
    for _, writer in wires:
        writer.close()


async def test_where_too_many_wait_the_next_is_closed(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deriving, "WAITING_MAX", 0)
    wire = await dial(broker)
    await shake(wire)
    wire[1].write(struct.pack(">ihhihi", 14 + len(TOKEN), AUTHENTICATE, 0, 7, -1, len(TOKEN)) + TOKEN)
    assert await wire[0].read() == b"", "no answer that says the password is wrong"
    wire[1].close()


async def test_who_leaves_while_its_password_is_checked_harms_nobody(broker: Broker) -> None:
    for _ in range(5):
        wire = await dial(broker)
        await shake(wire)
        wire[1].write(struct.pack(">ihhihi", 14 + len(TOKEN), AUTHENTICATE, 0, 7, -1, len(TOKEN)) + TOKEN)
        await wire[1].drain()
        wire[1].close()
    wire = await dial(broker)
    await shake(wire)
    assert await login(wire, TOKEN) == 0
    wire[1].close()


async def test_passwords_are_checked_one_by_one_beside_the_loop() -> None:
    loop = asyncio.get_running_loop()
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Derivation):
        def run(self) -> bytes:
            assert not begun.is_set(), "one by one"
            begun.set()
            held_up = not go_on.wait(10)
            begun.clear()
            return b"the loop stood still" if held_up else self.salt

    beside = Deriving(loop)
    results: list[bytes] = []
    done: asyncio.Future[None] = loop.create_future()
    for i in range(3):
        beside.derive(Slow("SCRAM-SHA-512", b"secret", bytes([i]), 4096), results.append)
    beside.derive(Slow("SCRAM-SHA-512", b"secret", b"last", 4096), lambda _: done.set_result(None))
    assert begun.wait(10)
    go_on.set()
    await done
    assert results == [b"\0", b"\1", b"\2"]
    beside.close()


async def test_what_waits_at_the_end_is_dropped() -> None:
    beside = Deriving(asyncio.get_running_loop())
    told: list[bytes] = []
    for _ in range(10):
        beside.derive(Derivation("SCRAM-SHA-512", b"secret", b"salt", 4096), told.append)
    beside.close()
    beside._thread.shutdown(wait=True)
    await asyncio.sleep(0)
    assert told == []
