"""A link between two processes that can be broken in every way in which networks break, without any privilege.

A ``Link`` listens where the dialling side believes the other to be and passes bytes on to where it really is. Each
direction can be held: nothing passes, neither bytes nor the end of a connection, as if every packet was dropped; what
was sent meanwhile arrives when the direction is released, as TCP would send it again. It can be slow. The link can
refuse connections, and reset those that are there. Nothing is ever changed, reordered or lost within a connection.

Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import cast

OUT, IN = 0, 1  # from the side that dialled, and towards it
HELD_BYTES_MAX = 4 << 20  # then the sender is no longer read: its own buffers fill, as they would
LOOPBACK = "127.0.0.1"


class Link:
    """One way between a dialling process and a listening one; any number of connections."""

    def __init__(self, host: str, port: int) -> None:
        """``host`` and ``port`` of the listening side."""
        self.held = [False, False]
        self.delay_s = [0.0, 0.0]
        self.refused = False
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._released = asyncio.Event()
        self._joining: set[asyncio.Task[None]] = set()

    async def listen(self) -> int:
        """Begin to pass on; returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _End(self, OUT), LOOPBACK, 0)
        return int(self._server.sockets[0].getsockname()[1])

    def set(self, *, held: list[bool], delay_s: list[float], refused: bool) -> None:
        """Make the link so from now on; what a released direction held is passed on."""
        self.held, self.delay_s, self.refused = list(held), list(delay_s), refused
        if refused:
            self.reset()
        if not any(held):
            self._released.set()
            self._released = asyncio.Event()
        for end in list(self._ends):
            end.pass_on()

    def reset(self) -> None:
        """Break every connection, for both sides at once."""
        for end in list(self._ends):
            end.abort()

    async def close(self) -> None:
        for task in list(self._joining):
            task.cancel()
        self.reset()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def accepted(self, end: _End) -> None:
        if self.refused:
            end.abort()
            return
        task = asyncio.create_task(self._join(end))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    def opened(self, end: _End) -> None:
        self._ends.add(end)

    def closed(self, end: _End) -> None:
        self._ends.discard(end)

    async def _join(self, end: _End) -> None:
        """Dial the listening side, as soon as a handshake could pass."""
        while any(self.held):
            await self._released.wait()
        if end.lost:
            return
        other = _End(self, IN)
        try:
            await asyncio.get_running_loop().create_connection(lambda: other, *self._target)
        except OSError:
            end.abort()
            return
        end.other, other.other = other, end
        end.pass_on()
        other.pass_on()


class _End(asyncio.Protocol):
    """One end of a connection: what arrives here leaves at ``other``. ``direction`` is that of what arrives."""

    def __init__(self, link: Link, direction: int) -> None:
        self.other: _End | None = None
        self.lost = False
        self._link = link
        self._direction = direction
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[float, bytes | None]] = deque()  # when it may leave, and what; None: the end
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._link.opened(self)
        if self._direction == OUT:
            self._link.accepted(self)

    def data_received(self, data: bytes) -> None:
        link = self._link
        if not (self._waiting or link.held[self._direction] or link.delay_s[self._direction]) and self.other:
            self.other.write(data)
            return
        self._wait(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._wait(None)

    def pause_writing(self) -> None:
        if self.other is not None and self.other._transport is not None:
            with contextlib.suppress(RuntimeError):
                self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self.lost and self._waiting_bytes < HELD_BYTES_MAX:
            with contextlib.suppress(RuntimeError):
                self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write(data)

    def end(self) -> None:
        """The other side has closed, and everything that it sent has been passed on."""
        if self._transport is not None and not self.lost:
            self._transport.close()

    def abort(self) -> None:
        """Break this connection on both sides."""
        for end in (self, self.other):
            if end is not None:
                end._waiting.clear()
                if end._transport is not None:
                    end._transport.abort()
                self._link.closed(end)

    def pass_on(self) -> None:
        """Let go of what may leave now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.other is None or self._link.held[self._direction]:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            _, data = self._waiting.popleft()
            if data is None:
                self.other.end()
                self.forget()
                return
            self._waiting_bytes -= len(data)
            self.other.write(data)
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self.pass_on)
        self.resume_reading()

    def forget(self) -> None:
        self._link.closed(self)

    def _wait(self, data: bytes | None) -> None:
        loop = asyncio.get_running_loop()
        self._waiting.append((loop.time() + self._link.delay_s[self._direction], data))
        self._waiting_bytes += len(data or b"")
        if self._waiting_bytes >= HELD_BYTES_MAX and self._transport is not None and not self.lost:
            self._transport.pause_reading()
        if self.other is None:
            if self.lost:
                self.forget()
        elif self._timer is None:
            self.pass_on()
