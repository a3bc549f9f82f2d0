"""Kafka's framing: an int32 size, then so many bytes. Reads as ``wire.receiver`` does, into the loop's one scratch.

Memory for a large request grows with the bytes that arrived, so a client that announces much and sends little costs
little.
"""

from __future__ import annotations

from corgi.base.errors import CorgiError
from corgi.base.limits import KIB
from corgi.wire.frame import Frame
from corgi.wire.receiver import GROWTH, Scratch

SIZE_BYTES = 4
HEADER_BYTES_MIN = 8  # api key, version, correlation id
SMALL_BYTES = 16 * KIB  # an incomplete request up to this size is kept as bytes, and read on in the scratch
EAGER_BYTES = 32 * KIB  # a large request's buffer before more of it has arrived
_NO_HEADER = memoryview(b"")


class KafkaReceiver:
    """The receiving half of one connection; a request is a ``Frame`` whose payload is the request.

    The same calls as ``wire.receiver.Receiver``.
    """

    __slots__ = ("_buffer", "_bytes_max", "_filled", "_need", "_rest", "_scratch", "_view", "failure")

    def __init__(self, scratch: Scratch, bytes_max: int) -> None:
        self._scratch = scratch.view
        self._bytes_max = bytes_max
        self._rest = b""
        self._buffer: bytearray | None = None
        self._view = _NO_HEADER
        self._filled = 0
        self._need = 0
        self.failure: CorgiError | None = None

    def get_buffer(self, hint: int = -1) -> memoryview:
        """Where the next bytes belong; valid until ``received`` is called. Raises ``failure``."""
        if self.failure is not None:
            raise self.failure
        if self._buffer is not None:
            if self._filled == len(self._buffer):
                self._allocate(self._view[: self._filled])
            return self._view[self._filled :]
        rest = self._rest
        if rest:
            self._scratch[: len(rest)] = rest
            return self._scratch[len(rest) :]
        return self._scratch

    def received(self, count: int) -> list[Frame]:
        """``count`` bytes were written into the buffer: the requests that are complete now, in order."""
        if self.failure is not None:
            raise self.failure
        if self._buffer is None:
            return self._cut(len(self._rest) + count)
        self._filled += count
        if self._filled < self._need:
            return []
        view, self._buffer, self._view = self._view, None, _NO_HEADER
        return [Frame(0, 0, _NO_HEADER, view[SIZE_BYTES:])]

    def held(self) -> int:
        """Bytes of memory that this connection's incomplete request occupies."""
        return len(self._rest) if self._buffer is None else len(self._buffer)

    def _cut(self, end: int) -> list[Frame]:
        """Copy out the complete requests of the scratch's first ``end`` bytes; keep the incomplete last one."""
        frames: list[Frame] = []
        scratch = self._scratch
        at = 0
        need = 0
        while end - at >= SIZE_BYTES:
            size = int.from_bytes(scratch[at : at + SIZE_BYTES], signed=True)
            if not HEADER_BYTES_MIN <= size <= self._bytes_max:
                self._fail(size)
                return frames
            need = SIZE_BYTES + size
            if need > end - at:
                break
            frames.append(Frame(0, 0, _NO_HEADER, memoryview(bytes(scratch[at + SIZE_BYTES : at + need]))))
            at += need
            need = 0
        if need <= SMALL_BYTES:
            self._rest = bytes(scratch[at:end])
        else:
            self._rest = b""
            self._need = need
            self._filled = end - at
            self._allocate(scratch[at:end])
        return frames

    def _allocate(self, arrived: memoryview) -> None:
        """A larger buffer for the large request, beginning with what has arrived of it."""
        buffer = bytearray(min(self._need, max(EAGER_BYTES, GROWTH * len(arrived))))
        view = memoryview(buffer)
        view[: len(arrived)] = arrived
        self._buffer = buffer
        self._view = view

    def _fail(self, size: int) -> None:
        self._rest = b""
        if size > self._bytes_max:
            text = f"a request of {size} bytes is announced, {self._bytes_max} are the most here"
            self.failure = CorgiError("frame-too-large", text)
        else:
            self.failure = CorgiError("malformed-frame", f"a request of {size} bytes is none of Kafka's protocol")
