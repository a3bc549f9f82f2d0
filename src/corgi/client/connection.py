"""One TCP connection to a node: the asyncio side of a link.

What a loop's turn sends is written with one call at its end; only large amounts leave earlier, so that the kernel works
while the publisher goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError, error_from_number
from corgi.base.limits import KIB, MIB
from corgi.client.core.links import Address, Done
from corgi.client.faults import guarded
from corgi.wire.client_session import CallerSession
from corgi.wire.messages import ErrorReply, HelloReply, WireMessage
from corgi.wire.receiver import Scratch

if TYPE_CHECKING:
    from corgi.client.shell import Shell

WRITE_NOW_BYTES = 256 * KIB
WRITE_HIGH = 1 * MIB
WRITE_LOW = 256 * KIB
HELLO_S = 5.0
_NOTHING = memoryview(b"")


class Connection(asyncio.BufferedProtocol):
    """A link of the client's core, once the node has greeted."""

    def __init__(self, shell: Shell, address: Address, scratch: Scratch) -> None:
        self._shell = shell
        self._address = address
        self._session = CallerSession(scratch)
        self._transport: asyncio.Transport | None = None
        self._open: dict[int, Done] = {}  # by correlation
        self._up = False
        self._closing = False
        self._error = CorgiError("unreachable", "the connection was closed by the node")
        self._heard_at = shell.loop.time()
        self._patience: asyncio.TimerHandle | None = None

    # The link, as the core sees it

    def request(self, message: WireMessage, payload: Sequence[Buffer], done: Done) -> None:
        self._open[self._session.request(message, payload)] = done
        self._written()

    def tell(self, message: WireMessage, payload: Sequence[Buffer] = ()) -> None:
        self._session.tell(message, payload)
        self._written()

    def buffered(self) -> int:
        size = self._session.outbox.bytes
        return size if self._transport is None else size + self._transport.get_write_buffer_size()

    def heard_at(self) -> float:
        return self._heard_at

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if self._transport is not None:
                self._transport.abort()

    # The shell's turn

    def write(self) -> None:
        """Hand everything that waits to the kernel."""
        if self._session.outbox.bytes and self._transport is not None and not self._closing:
            self._transport.writelines(self._session.outbox.take())

    def _written(self) -> None:
        if self._session.outbox.bytes >= WRITE_NOW_BYTES:
            self.write()
        else:
            self._shell.dirty[self] = None

    # asyncio's side

    @guarded
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        self._shell.opened(self)
        if self._closing:
            self._transport.abort()
            return
        options = self._shell.options
        self._session.hello(options.software, options.cluster)
        self.write()
        self._patience = self._shell.loop.call_later(HELLO_S, self._lose_patience)

    def fail(self, fault: Exception) -> None:
        """The client is broken: of this connection too nothing more is to be expected."""
        self._shell.fail(fault)
        self.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._session.get_buffer(sizehint)

    @guarded
    def buffer_updated(self, nbytes: int) -> None:
        self._heard_at = self._shell.loop.time()
        core = self._shell.core
        for correlation, message, payload in self._session.received(nbytes):
            if not self._up:
                self._greeted(message)
            elif correlation:
                done = self._open.pop(correlation, None)
                if done is not None:
                    answer = (
                        error_from_number(message.error, message.message)
                        if isinstance(message, ErrorReply)
                        else message
                    )
                    done(answer, payload)
            else:
                core.pushed(self, message, payload)
            if self._closing:
                break
        failure = self._session.failure
        if failure is not None and not self._closing:
            if not self._up and failure.code in ("malformed-frame", "frame-too-large"):
                failure = CorgiError("malformed-frame", f"this is no node of Corgi: {failure.message}")
            self._error = failure
            self.close()
        self._shell.wake()

    def eof_received(self) -> bool:
        return False  # the transport closes itself

    @guarded
    def resume_writing(self) -> None:
        if self._up:
            self._shell.core.link_drained(self)
            self._shell.wake()

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._transport = None
        if self._patience is not None:
            self._patience.cancel()
        if exc is not None and self._error.code == "unreachable":
            self._error = CorgiError("unreachable", f"the connection broke: {exc}")
        self._shell.lost(self)
        if not self._up:
            self._shell.core.dial_failed(self._address, self._error)
        else:
            self._shell.core.link_lost(self, self._error)
            unanswered, self._open = self._open, {}
            error = CorgiError("outcome-unknown")
            for done in unanswered.values():
                done(error, _NOTHING)
        self._shell.wake()

    def _greeted(self, message: WireMessage) -> None:
        """The first answer: the node's greeting, or why there is none."""
        if self._patience is not None:
            self._patience.cancel()
        if isinstance(message, HelloReply):
            self._up = True
            self._shell.core.link_up(self, message, self._address)
            self._shell.greeted()
            return
        if isinstance(message, ErrorReply):
            self._error = error_from_number(message.error, message.message)
        else:
            self._error = CorgiError("malformed-frame", "the node did not greet")
        self.close()

    def _lose_patience(self) -> None:
        self._error = CorgiError("timeout", f"the node did not greet within {HELLO_S:.0f} s")
        self.close()
