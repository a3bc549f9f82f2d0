"""The node's side of a client connection: frames in, checked requests out; answers and pushes in, buffers out.

A session greets first: nothing but a Hello is taken before it. A request that cannot be read is answered by itself when
it has a correlation and the stream still makes sense; otherwise the connection ends with an ErrorReply whose
correlation is 0. Broken stays broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from corgi.base.command import Buffer
from corgi.base.errors import BY_CODE, CorgiError
from corgi.base.ids import NodeId
from corgi.base.limits import FRAME_BYTES_MAX
from corgi.base.ports import Message
from corgi.wire.bounds import check_request
from corgi.wire.catalog import REQUESTS
from corgi.wire.codec import Codec
from corgi.wire.frame import Frame, encode_frame
from corgi.wire.messages import NATIVE_VERSION, Credit, ErrorReply, Hello, HelloReply, Produce, WireMessage
from corgi.wire.outbox import Outbox

VERSION_MIN = 1
MESSAGE_CHARACTERS_MAX = 1000  # of an error's text: it may quote what the client sent
_REQUESTS = Codec(REQUESTS)


class Request(NamedTuple):
    """A request whose fields are in range; ``payload`` is whole. ``correlation`` 0: no answer is expected."""

    correlation: int
    message: WireMessage
    payload: memoryview


def common_version(ours: tuple[int, int], theirs: tuple[int, int]) -> int:
    """The highest version both ranges (lowest, highest) hold; raises "unsupported-version"."""
    version = min(ours[1], theirs[1])
    if version < max(ours[0], theirs[0]):
        raise CorgiError(
            "unsupported-version",
            f"this node speaks versions {ours[0]} to {ours[1]}, the other side {theirs[0]} to {theirs[1]}",
        )
    return version


def encode_error(correlation: int, error: CorgiError) -> bytes:
    """The frame that tells an error; its text is cut to a size that cannot hurt."""
    reply = ErrorReply(BY_CODE[error.code].number, error.message[:MESSAGE_CHARACTERS_MAX])
    return encode_frame(ErrorReply.TYPE, reply, correlation, 0)


class ServerSession:
    """The protocol state of one client connection.

    ``version`` is 0 until the Hello is answered; ``outbox`` is where replies and pushes wait to be written.
    """

    __slots__ = ("_cluster", "_failed", "_node", "_software", "outbox", "peer_software", "version")

    def __init__(self, cluster: bytes, node: NodeId, software: str = "", outbox: Outbox | None = None) -> None:
        self._cluster = cluster.hex()
        self._node = node
        self._software = software
        self._failed = False
        self.outbox = Outbox() if outbox is None else outbox
        self.peer_software = ""
        self.version = 0

    def request(self, frame: Frame) -> Request | None:
        """Take one frame: the request in it, or None when the session answered by itself.

        Raises CorgiError when the connection cannot go on; ``fail`` tells the client so.
        """
        if self._failed:
            raise CorgiError("closed", "the session has failed")
        if not self.version:
            self._greet(frame)
            return None
        try:
            message = _REQUESTS.decode(frame)
            check_request(message, frame.payload)
            if type(message) is Hello:
                raise CorgiError("malformed-frame", "a second Hello")
        except CorgiError as error:
            if not frame.correlation:
                raise
            self.outbox.put(encode_error(frame.correlation, error))
            return None
        if _silent(message):
            return Request(0, message, frame.payload)
        if not frame.correlation:
            raise CorgiError("malformed-frame", f"a {type(message).__name__} needs a correlation for its answer")
        return Request(frame.correlation, message, frame.payload)

    def reply(self, correlation: int, response: Message, payload: Sequence[Buffer] = ()) -> None:
        """Queue the answer to the request ``correlation``; 0: push."""
        size = 0
        for buffer in payload:
            size += len(buffer)
        self.outbox.put(encode_frame(response.TYPE, response, correlation, size), payload)  # type: ignore[arg-type]

    def fail(self, error: CorgiError) -> None:
        """Queue the error that ends the connection; nothing is taken any more."""
        if not self._failed:
            self._failed = True
            self.outbox.put(encode_error(0, error))

    def _greet(self, frame: Frame) -> None:
        if frame.type != Hello.TYPE:
            raise CorgiError("malformed-frame", f"a connection starts with a Hello, not with frame type {frame.type}")
        hello = _REQUESTS.decode(frame)
        if not isinstance(hello, Hello):
            raise CorgiError("malformed-frame", "a connection starts with a Hello")
        version = common_version((VERSION_MIN, NATIVE_VERSION), (hello.version_min, hello.version_max))
        if hello.cluster and hello.cluster != self._cluster:
            raise CorgiError("wrong-cluster", f"this node belongs to cluster {self._cluster}")
        self.version = version
        self.peer_software = hello.software
        reply = HelloReply(version, self._cluster, self._node, FRAME_BYTES_MAX, self._software)
        self.outbox.put(encode_frame(HelloReply.TYPE, reply, frame.correlation, 0))


def _silent(message: WireMessage) -> bool:
    """Whether no answer follows."""
    return type(message) is Credit or (type(message) is Produce and message.acks == 0)
