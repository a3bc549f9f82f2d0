"""Links between processes: what they pass on, hold, delay and break."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from corgi.chaos.links import HELD_BYTES_MAX, IN, LOOPBACK, OUT, Link

PATIENCE_S = 20.0
CALM = {"held": [False, False], "delay_s": [0.0, 0.0], "refused": False}


class Sides:
    """Both sides of a link: ``dial`` from one, ``connected`` on the other."""

    def __init__(self) -> None:
        self.port = 0
        self.connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.connected.put_nowait((reader, writer))

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        self._writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, Sides]]:
    sides = Sides()
    server = await asyncio.start_server(sides.serve, LOOPBACK, 0)
    link = Link(LOOPBACK, server.sockets[0].getsockname()[1])
    sides.port = await link.listen()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield link, sides
    finally:
        await link.close()
        await sides.close()
        server.close()


async def turns(count: int = 20) -> None:
    """Long enough on the loopback for everything that can arrive; it is no proof of absence, only fair to it."""
    for _ in range(count):
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)


async def test_bytes_and_ends_pass_in_both_directions() -> None:
    async with linked() as (_, sides):
        reader, writer = await sides.dial()
        writer.write(b"hello")
        there, back = await sides.connected.get()
        assert await there.readexactly(5) == b"hello"
        back.write(b"world")
        assert await reader.readexactly(5) == b"world"
        writer.close()
        assert await there.read() == b""


@pytest.mark.parametrize("held", [OUT, IN])
async def test_a_held_direction_passes_nothing_and_everything_when_it_is_released(held: int) -> None:
    async with linked() as (link, sides):
        reader, writer = await sides.dial()
        writer.write(b"a")
        there, back = await sides.connected.get()
        assert await there.readexactly(1) == b"a"
        near_and_far = {OUT: (writer, there), IN: (back, reader)}
        (source, sink), (other_source, other_sink) = near_and_far[held], near_and_far[1 - held]
        link.set(held=[held == OUT, held == IN], delay_s=[0.0, 0.0], refused=False)
        source.write(b"late")
        other_source.write(b"at once")
        assert await other_sink.readexactly(7) == b"at once"
        arriving = asyncio.ensure_future(sink.readexactly(4))
        await turns()
        assert not arriving.done()
        link.set(**CALM)
        assert await arriving == b"late"


async def test_not_even_the_end_of_a_process_passes_a_held_link() -> None:
    async with linked() as (link, sides):
        _, writer = await sides.dial()
        writer.write(b"a")
        there, _ = await sides.connected.get()
        assert await there.readexactly(1) == b"a"
        link.set(held=[True, False], delay_s=[0.0, 0.0], refused=False)
        writer.close()
        await writer.wait_closed()
        ended = asyncio.ensure_future(there.read())
        await turns()
        assert not ended.done()
        link.set(**CALM)
        assert await ended == b""


async def test_who_dials_into_a_held_link_waits_for_its_release() -> None:
    async with linked() as (link, sides):
        link.set(held=[False, True], delay_s=[0.0, 0.0], refused=False)
        _, writer = await sides.dial()
        writer.write(b"hello")
        await turns()
        assert sides.connected.empty()
        link.set(**CALM)
        there, _ = await sides.connected.get()
        assert await there.readexactly(5) == b"hello"


async def test_what_is_held_is_bounded() -> None:
    async with linked() as (link, sides):
        _, writer = await sides.dial()
        writer.write(b"a")
        there, _ = await sides.connected.get()
        assert await there.readexactly(1) == b"a"
        link.set(held=[True, False], delay_s=[0.0, 0.0], refused=False)
        size = 16 * HELD_BYTES_MAX
        writer.write(bytes(size))
        draining = asyncio.ensure_future(writer.drain())
        await turns()
        assert not draining.done()
        link.set(**CALM)
        assert await there.readexactly(size) == bytes(size)
        await draining


async def test_a_slow_direction_delays_and_keeps_the_order() -> None:
    async with linked() as (link, sides):
        link.set(held=[False, False], delay_s=[0.05, 0.0], refused=False)
        _, writer = await sides.dial()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for part in (b"a", b"b", b"c"):
            writer.write(part)
            await writer.drain()
            await turns(1)
        there, _ = await sides.connected.get()
        assert await there.readexactly(3) == b"abc"
        assert loop.time() - began >= 0.05


async def test_refusing_and_resetting_break_what_is_connected() -> None:
    async with linked() as (link, sides):
        reader, writer = await sides.dial()
        writer.write(b"a")
        there, _ = await sides.connected.get()
        assert await there.readexactly(1) == b"a"
        link.reset()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        again, _ = await sides.dial()
        await sides.connected.get()
        link.set(held=[False, False], delay_s=[0.0, 0.0], refused=True)
        for stream in (again, (await sides.dial())[0]):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await stream.readexactly(1)
