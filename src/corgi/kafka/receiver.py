"""Kafka's framing: an int32 size, then so many bytes."""

from __future__ import annotations

from corgi.base.errors import CorgiError
from corgi.base.limits import KIB
from corgi.wire.frame import Frame
from corgi.wire.receiver import Receiving, Scratch

SIZE_BYTES = 4
HEADER_BYTES_MIN = 8  # api key, version, correlation id
TOKEN_BYTES_MIN = 0  # what may come bare while a client logs in
EAGER_BYTES = 16 * KIB  # a large request's buffer before more of it has arrived
MODEST_BYTES = 56 * KIB  # its buffer until so much has arrived: with what else it costs, a dribbling client has 64 KiB
_NO_HEADER = memoryview(b"")


class KafkaReceiver(Receiving):
    """The receiving half of one connection; a request is a ``Frame`` whose payload is the request.

    The sizes that are taken may change while it lives.
    """

    __slots__ = ("bytes_max", "bytes_min")

    def __init__(self, scratch: Scratch, bytes_max: int, bytes_min: int = HEADER_BYTES_MIN) -> None:
        super().__init__(scratch, EAGER_BYTES)
        self.bytes_max = bytes_max
        self.bytes_min = bytes_min

    def _cut(self, end: int) -> list[Frame]:
        frames: list[Frame] = []
        scratch = self._scratch
        at = need = 0
        while end - at >= SIZE_BYTES:
            size = int.from_bytes(scratch[at : at + SIZE_BYTES], signed=True)
            if not self.bytes_min <= size <= self.bytes_max:
                self._fail(size)
                return frames
            need = SIZE_BYTES + size
            if need > end - at:
                break
            frames.append(self._whole(memoryview(bytes(scratch[at : at + need]))))
            at += need
            need = 0
        self._remember(at, end, need)
        return frames

    def _room(self, arrived: int) -> int:
        room = super()._room(arrived)
        return room if arrived >= MODEST_BYTES else min(room, MODEST_BYTES)

    def _whole(self, view: memoryview) -> Frame:
        return Frame(0, 0, _NO_HEADER, view[SIZE_BYTES:])

    def _fail(self, size: int) -> None:
        self._rest = b""
        if size > self.bytes_max:
            text = f"a request of {size} bytes is announced, {self.bytes_max} are the most here"
            self.failure = CorgiError("frame-too-large", text)
        else:
            self.failure = CorgiError("malformed-frame", f"a request of {size} bytes is none of Kafka's protocol")
