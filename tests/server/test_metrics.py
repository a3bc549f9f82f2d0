"""A scrape over a real socket, and strangers on the port."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from corgi.base.errors import CorgiError
from corgi.server.address import Address
from corgi.server.metrics import REQUEST_BYTES_MAX, MetricsServer, Sample
from corgi.server.ports import reserve_free

SAMPLES = [
    Sample("records", 7, counter=True),
    Sample("applied", 3, (("group", "0"),)),
    Sample("applied", 4, (("group", '1"\n'),)),
]


@pytest.fixture
async def address() -> AsyncIterator[Address]:
    with reserve_free(1) as free:
        address = Address("127.0.0.1", free.ports[0])
        server = MetricsServer(lambda: SAMPLES)
        await server.listen(address)
        yield address
        await server.close()


async def exchange(address: Address, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_scrape(address: Address) -> None:
    head, _, body = (await exchange(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain")
    lines = body.decode().splitlines()
    assert "corgi_records_total 7.0" in lines
    assert 'corgi_applied{group="0"} 3.0' in lines
    assert 'corgi_applied{group="1\\"\\n"} 4.0' in lines


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"\x00\x01\x02\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
    ],
)
async def test_a_strange_request_is_answered(address: Address, request_: bytes, status: bytes) -> None:
    assert (await exchange(address, request_)).startswith(b"HTTP/1.1 " + status)


async def test_a_flood_is_dropped_and_others_are_served(address: Address) -> None:
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await exchange(address, b"x" * (4 * REQUEST_BYTES_MAX))
    assert not answer
    assert (await exchange(address, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_a_taken_port_is_told(address: Address) -> None:
    server = MetricsServer(list)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(CorgiError) as caught:
        await server.listen(Address("127.0.0.1", taken.getsockname()[1]))
    assert caught.value.code == "port-in-use"
    await server.close()
