"""From bytes to frames, for a transport that reads into a buffer it is given (``asyncio.BufferedProtocol``).

All connections of one event loop read into one ``Scratch``; a connection that waits therefore holds no buffer, however
many there are. Each complete frame is copied out into bytes of exactly its size. The copy is the price of three things:
the kernel always writes into memory that is in the cache, a payload that is kept (a value in the acceptor and the tail)
pins nothing but itself, and nothing read is ever overwritten. It costs 0.4 µs a small frame and 3 µs at 64 KiB; only a
frame's first piece is copied when it is large, the rest is received in place.

What a peer claims is not believed: memory for a large frame grows with the bytes that arrived. The first frame of a
connection is limited to HELLO_BYTES_MAX. After a malformed frame nothing is received any more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from corgi.base.errors import CorgiError
from corgi.base.limits import FRAME_BYTES_MAX, HEADER_BYTES_MAX, HELLO_BYTES_MAX, KIB
from corgi.wire.frame import FRAME, FRAME_BYTES, LENGTH_BYTES, Frame

SCRATCH_BYTES = 256 * KIB  # one read takes at most that much
SMALL_BYTES = 32 * KIB  # an incomplete frame up to this size is kept as bytes, and read on in the scratch
EAGER_BYTES = 64 * KIB  # a large frame's buffer before more of it has arrived
GROWTH = 4  # its buffer grows to at most so many times what has arrived

assert SMALL_BYTES * 2 <= SCRATCH_BYTES
assert HELLO_BYTES_MAX <= SMALL_BYTES


class Scratch:
    """Where every connection of one event loop reads. Not for two threads; never kept by a frame."""

    __slots__ = ("view",)

    def __init__(self, size: int = SCRATCH_BYTES) -> None:
        self.view = memoryview(bytearray(size))


class Receiving(ABC):
    """What receivers of any framing share: the scratch, and a buffer of its own for a large frame that is incomplete.

    The caller fills ``get_buffer()`` from the start and tells how much by ``received()`` before any other receiver of
    the same scratch is asked: what an event loop does by itself. ``failure`` is set when the bytes turned out not to be
    frames; the frames before that are still returned.
    """

    __slots__ = ("_buffer", "_filled", "_need", "_rest", "_scratch", "_view", "eager_bytes", "failure")

    def __init__(self, scratch: Scratch, eager_bytes: int) -> None:
        self._scratch = scratch.view
        self._rest = b""  # the incomplete small frame
        self._buffer: bytearray | None = None  # the incomplete large frame
        self._view = memoryview(b"")  # of _buffer
        self._filled = 0
        self._need = 0
        self.eager_bytes = eager_bytes  # more may be given to a trusted peer, which saves copies while growing
        self.failure: CorgiError | None = None

    def get_buffer(self, hint: int = -1) -> memoryview:
        """Where the next bytes belong; valid until ``received`` is called. Raises ``failure``."""
        if self.failure is not None:
            raise self.failure
        if self._buffer is not None:
            if self._filled == len(self._buffer):
                self._grow()
            return self._view[self._filled :]
        rest = self._rest
        if rest:
            kept = len(rest)
            self._scratch[:kept] = rest
            return self._scratch[kept:]
        return self._scratch

    def received(self, count: int) -> list[Frame]:
        """``count`` bytes were written into the buffer: the frames that are complete now, in order."""
        if self.failure is not None:
            raise self.failure
        if self._buffer is None:
            return self._cut(len(self._rest) + count)
        self._filled += count
        if self._filled < self._need:
            return []
        view, self._buffer, self._view = self._view, None, memoryview(b"")
        return [self._whole(view)]

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Receive bytes that lie elsewhere: for transports that bring their own buffers, and for tests."""
        frames: list[Frame] = []
        view = memoryview(data)
        while view and self.failure is None:
            buffer = self.get_buffer()
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            frames += self.received(count)
            view = view[count:]
        return frames

    def held(self) -> int:
        """Bytes of memory that this connection's incomplete frame occupies."""
        return len(self._rest) if self._buffer is None else len(self._buffer)

    @abstractmethod
    def _cut(self, end: int) -> list[Frame]:
        """Copy out the complete frames of the scratch's first ``end`` bytes; ``_remember`` the incomplete last one."""

    @abstractmethod
    def _whole(self, view: memoryview) -> Frame:
        """The frame that these bytes are."""

    def _remember(self, at: int, end: int, need: int) -> None:
        """Keep the incomplete frame at ``at`` in the scratch, of ``need`` bytes if that is known, else 0."""
        if need <= SMALL_BYTES:
            self._rest = bytes(self._scratch[at:end])
            return
        self._rest = b""
        self._need = need
        self._filled = end - at
        self._allocate(self._scratch[at:end])

    def _grow(self) -> None:
        self._allocate(self._view[: self._filled])

    def _room(self, arrived: int) -> int:
        """How large the buffer of a large frame may be of which so many bytes have arrived."""
        return max(self.eager_bytes, GROWTH * arrived)

    def _allocate(self, arrived: memoryview) -> None:
        """A larger buffer for the large frame, beginning with what has arrived of it."""
        buffer = bytearray(min(self._need, self._room(len(arrived))))
        view = memoryview(buffer)
        view[: len(arrived)] = arrived
        self._buffer = buffer
        self._view = view


class Receiver(Receiving):
    """The receiving half of one connection of the native protocol."""

    __slots__ = ("_frame_bytes_max", "_limit", "header_bytes_max")

    def __init__(
        self,
        scratch: Scratch,
        *,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        header_bytes_max: int = HEADER_BYTES_MAX,
        eager_bytes: int = EAGER_BYTES,
    ) -> None:
        super().__init__(scratch, eager_bytes)
        self._frame_bytes_max = frame_bytes_max
        self.header_bytes_max = header_bytes_max
        self._limit = HELLO_BYTES_MAX  # of the first frame; then frame_bytes_max

    def _cut(self, end: int) -> list[Frame]:
        """Copy out the complete frames of the scratch's first ``end`` bytes; keep the incomplete last one."""
        frames: list[Frame] = []
        scratch = self._scratch
        unpack = FRAME.unpack_from
        at = 0
        while end - at >= FRAME_BYTES:
            length, correlation, header_bytes, kind, flags, reserved = unpack(scratch, at)
            size = length + LENGTH_BYTES
            if (
                size > self._limit
                or header_bytes > length - (FRAME_BYTES - LENGTH_BYTES)
                or header_bytes > self.header_bytes_max
                or flags
                or reserved
            ):
                self._fail(size, header_bytes)
                break
            if size > end - at:
                break
            self._limit = self._frame_bytes_max
            frame = memoryview(bytes(scratch[at : at + size]))
            body = FRAME_BYTES + header_bytes
            frames.append(Frame(kind, correlation, frame[FRAME_BYTES:body], frame[body:]))
            at += size
        if self.failure is None:
            self._keep(at, end)
        return frames

    def _whole(self, view: memoryview) -> Frame:
        _, correlation, header_bytes, kind, _, _ = FRAME.unpack_from(view)
        body = FRAME_BYTES + header_bytes
        return Frame(kind, correlation, view[FRAME_BYTES:body], view[body:])

    def _keep(self, at: int, end: int) -> None:
        """Remember the incomplete frame, if it can be one."""
        need = 0
        if end - at >= LENGTH_BYTES:
            need = int.from_bytes(self._scratch[at : at + LENGTH_BYTES]) + LENGTH_BYTES
            if not FRAME_BYTES <= need <= self._limit:
                self._fail(need, 0)
                return
        # Its header is looked at before it gets a buffer of its own.
        self._remember(at, end, need if end - at >= FRAME_BYTES else 0)

    def _fail(self, size: int, header_bytes: int) -> None:
        """From here on nothing is a frame: name what is wrong."""
        self._rest = b""
        if size > self._limit:
            self.failure = CorgiError(
                "frame-too-large", f"a frame of {size} bytes is announced, {self._limit} are the most here"
            )
        elif header_bytes > self.header_bytes_max and size >= FRAME_BYTES + header_bytes:
            self.failure = CorgiError(
                "frame-too-large",
                f"a frame's header of {header_bytes} bytes is announced, {self.header_bytes_max} are the most here",
            )
        else:
            self.failure = CorgiError("malformed-frame", "the lengths or reserved bits of a frame cannot be right")
