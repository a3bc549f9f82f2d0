"""One TCP connection that carries frames, whoever is at the other end: buffers, back-pressure and fairness, no meaning.

Its owner gives frames their meaning and may change while it lives: the first frame tells whether a client or a node
calls. Reading stops while anybody has a reason to hold it; output is written once per turn of the loop. No connection
occupies the loop: after FRAMES_PER_TURN frames or BYTES_PER_TURN bytes the others have their turn.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from enum import IntFlag
from typing import Protocol, cast

from corgi.base.errors import CorgiError
from corgi.base.limits import CLIENT_OUTPUT_LOW, MIB
from corgi.runtime.turn import Turn
from corgi.wire.frame import Frame
from corgi.wire.outbox import Outbox
from corgi.wire.receiver import Receiver, Receiving, Scratch

FRAMES_PER_TURN = 128
BYTES_PER_TURN = 1 * MIB
LINGER_S = 2.0  # after an error a connection is read and ignored for so long, so that the error is not lost in a reset
KEEPALIVE_S = 60  # silence after which the kernel asks whether the other machine is still there


class Hold(IntFlag):
    """Why a connection is not read at the moment."""

    FAIRNESS = 1  # its frames wait for the next turn
    PENDING = 2  # too many of its requests are unanswered
    OUTPUT = 4  # it does not read what it is sent
    ASKED = 8  # the broker has asked for a pause


class Owner(Protocol):
    """Who gives a connection's frames their meaning."""

    def frame_received(self, frame: Frame) -> None: ...

    def protocol_failed(self, error: CorgiError) -> None:
        """The bytes are not frames; nothing more will be received."""
        ...

    def output_drained(self) -> None:
        """The output fell below CLIENT_OUTPUT_LOW after ``buffered`` had told more to somebody."""
        ...

    def output_overflowed(self) -> None:
        """More waits than ``output_max``, and the kernel takes nothing."""
        ...

    def connection_lost(self) -> None:
        """The last call."""
        ...


class FrameConnection(asyncio.BufferedProtocol):
    """A connection; ``owner`` must be set before the first frame comes. ``outbox`` may be filled directly, then
    ``written`` must be called."""

    def __init__(self, turn: Turn, scratch: Scratch, output_max: int, receiver: Receiving | None = None) -> None:
        self.owner: Owner
        self.outbox = Outbox()
        self.receiver: Receiving = receiver or Receiver(scratch)
        self.remote = "?"
        self.closed = False
        self.bytes_received = 0
        self.bytes_queued = 0
        self.output_max = output_max
        self._turn = turn
        self._scratch = scratch
        self._linger: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Frame] = deque()
        self._holds = Hold(0)
        self._dirty = False
        self._ending = False
        self._said_eof = False
        self._tell_drained = False
        self._turn_number = 0
        self._turn_frames = 0
        self._turn_bytes = 0

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(CLIENT_OUTPUT_LOW - 1, CLIENT_OUTPUT_LOW - 1)
        plug = transport.get_extra_info("socket")
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        address = transport.get_extra_info("peername")
        self.remote = f"{address[0]}:{address[1]}" if address else "?"

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch.view if self._ending else self.receiver.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self.bytes_received += nbytes
        if self._ending:
            return
        if self._turn_number != self._turn.number:
            self._turn_number = self._turn.number
            self._turn_frames = self._turn_bytes = 0
        self._turn_bytes += nbytes
        frames = self.receiver.received(nbytes)
        if frames:
            self._turn_frames += len(frames)
            if self._holds or self._turn_frames > FRAMES_PER_TURN:
                self._waiting.extend(frames)
                self.hold(Hold.FAIRNESS)
                self._turn_frames = 0
            else:
                self._take(frames)
        if self.receiver.failure is not None:
            if not self._waiting:
                self._fail()
        elif self._turn_bytes > BYTES_PER_TURN:
            self._turn_bytes = 0
            self.hold(Hold.FAIRNESS)

    def eof_received(self) -> None:
        """The other end is gone or will say nothing more: both mean the same here."""
        self._lost()
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def pause_writing(self) -> None:
        """The kernel takes no more for now; ``flush`` looks at the amount by itself."""

    def resume_writing(self) -> None:
        self._drained()

    # what owners call

    def written(self) -> None:
        """Something was put into the outbox."""
        if not self._dirty and not self.closed:
            self._dirty = True
            self._turn.will_write(self)

    def waiting(self) -> int:
        """Bytes queued here and not yet taken by the kernel."""
        if self._transport is None or self.closed:
            return self.outbox.bytes
        return self.outbox.bytes + self._transport.get_write_buffer_size()

    def buffered(self) -> int:
        """As ``waiting``; who is told CLIENT_OUTPUT_LOW or more may wait for ``output_drained``."""
        size = self.waiting()
        if size >= CLIENT_OUTPUT_LOW:
            self._tell_drained = True
            self.written()
        return size

    def sent(self) -> int:
        """Bytes that the kernel has taken so far."""
        return self.bytes_queued + self.outbox.bytes - self.waiting()

    def hold(self, reason: Hold) -> None:
        """Do not read until ``release`` of every reason."""
        if not self._holds and self._transport is not None and not self.closed:
            self._transport.pause_reading()
        if reason is Hold.FAIRNESS and not self._holds & Hold.FAIRNESS:
            self._turn.loop.call_soon(self._continue)
        self._holds |= reason

    def release(self, reason: Hold) -> None:
        self._holds &= ~reason
        if self._holds or self.closed or self._ending:
            return
        if self._waiting:
            self.hold(Hold.FAIRNESS)
        elif self._transport is not None:
            self._transport.resume_reading()

    def flush(self) -> None:
        """Write what waits; called once per turn."""
        self._dirty = False
        transport = self._transport
        if transport is None or self.closed:
            self.outbox.take()
            return
        if self.outbox.bytes:
            self.bytes_queued += self.outbox.bytes
            buffers = self.outbox.take()
            if len(buffers) == 1:
                transport.write(buffers[0])
            else:
                transport.writelines(buffers)
            if transport.get_write_buffer_size() > self.output_max:
                self.owner.output_overflowed()
                return
        if self._ending:
            if transport.can_write_eof() and not self._said_eof:
                self._said_eof = True
                transport.write_eof()
        elif self._tell_drained:
            self._drained()

    def close(self) -> None:
        """Take nothing any more; write what is queued, then end the connection when the other side does or after
        LINGER_S. The owner hears of the end."""
        if self._ending or self.closed or self._transport is None:
            return
        self._ending = True
        self._waiting.clear()
        self._linger = self._turn.loop.call_later(LINGER_S, self.abort)
        self._transport.resume_reading()
        self.written()

    def abort(self) -> None:
        """End the connection now; what waits is dropped. The owner hears of it later."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def ending(self) -> bool:
        """``close`` was called."""
        return self._ending

    def _take(self, frames: list[Frame]) -> None:
        """Hand frames to the owner; what comes after a hold waits."""
        for index, frame in enumerate(frames):
            if self._ending or self.closed:
                return
            if self._holds:
                self._waiting.extend(frames[index:])
                return
            self.owner.frame_received(frame)

    def _continue(self) -> None:
        """The others had their turn: handle frames that waited, at most FRAMES_PER_TURN."""
        self._holds &= ~Hold.FAIRNESS
        count = 0
        while self._waiting and not self._holds:
            if count == FRAMES_PER_TURN:
                self.hold(Hold.FAIRNESS)
                return
            count += 1
            self.owner.frame_received(self._waiting.popleft())
        if self._waiting or self._holds or self.closed or self._ending:
            return
        if self.receiver.failure is not None:
            self._fail()
        elif self._transport is not None:
            self._transport.resume_reading()

    def _fail(self) -> None:
        failure = self.receiver.failure
        if failure is not None and not self._ending and not self.closed:
            self.owner.protocol_failed(failure)

    def _drained(self) -> None:
        if not self._tell_drained or self._transport is None or self.closed:
            return
        if self.outbox.bytes + self._transport.get_write_buffer_size() < CLIENT_OUTPUT_LOW:
            self._tell_drained = False
            self._turn.loop.call_soon(self._say_drained)

    def _say_drained(self) -> None:
        if not self.closed:
            self.owner.output_drained()

    def _lost(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self._linger is not None:
            self._linger.cancel()
        self._waiting.clear()
        self.outbox.take()
        self.owner.connection_lost()
