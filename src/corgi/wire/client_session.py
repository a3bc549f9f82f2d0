"""The client's side of a connection: requests in, buffers out; bytes in, answers and pushes out.

It keeps no table of what was asked: correlations are returned to the caller, who knows what to do with an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError, error_from_number
from corgi.base.limits import FRAME_BYTES_MAX
from corgi.wire.catalog import REPLIES
from corgi.wire.codec import Codec
from corgi.wire.frame import encode_frame
from corgi.wire.messages import NATIVE_VERSION, ErrorReply, Hello, HelloReply, WireMessage
from corgi.wire.outbox import Outbox
from corgi.wire.receiver import Receiver, Scratch

VERSION_MIN = 1
CORRELATION_MAX = 2**32 - 1
_REPLIES = Codec(REPLIES)


class Answer(NamedTuple):
    """What a node sent: the answer to the request ``correlation``, or a push (0). ``payload`` is nobody else's."""

    correlation: int
    message: WireMessage
    payload: memoryview


class CallerSession:
    """The protocol state of one connection to a node.

    Bytes come in as into any ``asyncio.BufferedProtocol``: fill ``get_buffer()``, then ``received(count)``. What is to
    be sent is in ``outbox``. ``hello`` must be the first request; ``greeting`` is its answer.
    """

    __slots__ = ("_correlation", "_failure", "_receiver", "greeting", "outbox")

    def __init__(self, scratch: Scratch) -> None:
        self._receiver = Receiver(scratch, header_bytes_max=FRAME_BYTES_MAX)
        self._correlation = 0
        self._failure: CorgiError | None = None
        self.greeting: HelloReply | None = None
        self.outbox = Outbox()

    def hello(self, software: str = "", cluster: str = "") -> int:
        """Queue the greeting; ``cluster`` is the id expected in hex digits, empty for any."""
        return self.request(Hello(VERSION_MIN, NATIVE_VERSION, software, cluster))

    def request(self, message: WireMessage, payload: Sequence[Buffer] = ()) -> int:
        """Queue a request and return its correlation, never 0."""
        self._correlation = correlation = self._correlation % CORRELATION_MAX + 1
        self._put(message, correlation, payload)
        return correlation

    def tell(self, message: WireMessage, payload: Sequence[Buffer] = ()) -> None:
        """Queue what is never answered: a Credit, or a Produce with ``acks`` 0."""
        self._put(message, 0, payload)

    def get_buffer(self, hint: int = -1) -> memoryview:
        """Where the next bytes belong; raises the error that ended the session."""
        return self._receiver.get_buffer(hint)

    def received(self, count: int) -> list[Answer]:
        """``count`` bytes arrived in the buffer: the answers and pushes that are complete, in order.

        ``failure`` tells afterwards whether the stream has ended: the node said so, or its bytes make no sense.
        """
        answers: list[Answer] = []
        for frame in self._receiver.received(count):
            if self._failure is not None:
                break
            try:
                message = _REPLIES.decode(frame)
            except CorgiError as error:
                if error.code == "unsupported-version" and self.greeting is not None and not frame.correlation:
                    continue  # a push of a later release
                self._failure = error
                break
            if type(message) is HelloReply:
                self.greeting = message
            elif type(message) is ErrorReply and not frame.correlation:
                self._failure = error_from_number(message.error, message.message)
                break
            answers.append(Answer(frame.correlation, message, frame.payload))
        return answers

    @property
    def failure(self) -> CorgiError | None:
        """Why the session can not go on, or None."""
        return self._failure or self._receiver.failure

    def _put(self, message: WireMessage, correlation: int, payload: Sequence[Buffer]) -> None:
        size = 0
        for buffer in payload:
            size += len(buffer)
        self.outbox.put(encode_frame(message.TYPE, message, correlation, size), payload)
