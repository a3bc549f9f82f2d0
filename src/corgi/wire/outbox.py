"""What waits to be sent on one connection, as buffers in order. Payloads are not copied unless they are small."""

from __future__ import annotations

from collections.abc import Sequence

from corgi.base.command import Buffer
from corgi.base.limits import KIB

JOIN_BYTES = 4 * KIB  # neighbours smaller than this are joined: copying them is cheaper than a vector entry each
_NOTHING: tuple[Buffer, ...] = ()


class Outbox:
    """``put`` frames, ``take`` what one vectored write should send; ``bytes`` counts what waits."""

    __slots__ = ("_buffers", "bytes")

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self.bytes = 0

    def put(self, frame: bytes, payload: Sequence[Buffer] = _NOTHING) -> None:
        """Queue an encoded frame and the payload that its length already counts."""
        self._buffers.append(frame)
        size = len(frame)
        for buffer in payload:
            self._buffers.append(buffer)
            size += len(buffer)
        self.bytes += size

    def take(self) -> list[Buffer]:
        """Everything that waits, in order; the outbox is empty afterwards."""
        buffers = self._buffers
        small = self.bytes <= JOIN_BYTES
        self._buffers = []
        self.bytes = 0
        if len(buffers) < 2:
            return buffers
        if small:
            return [b"".join(buffers)]
        out: list[Buffer] = []
        run: list[Buffer] = []
        for buffer in buffers:
            if len(buffer) < JOIN_BYTES:
                run.append(buffer)
                continue
            if run:
                out.append(b"".join(run) if len(run) > 1 else run[0])
                run.clear()
            out.append(buffer)
        if run:
            out.append(b"".join(run) if len(run) > 1 else run[0])
        return out
