"""Ports for a cluster of local processes, reserved so that no two clusters that start together choose the
same.

A reservation is a socket that is bound and never listens. On Linux another socket with SO_REUSEADDR may
bind the same port and listen there; when its process is killed, connections are refused at once, as they
should be, and the port is still ours for the restart.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from corgi.base.errors import CorgiError
from corgi.server.address import LOOPBACK

PORT_MAX = 65_535


class Reservation:
    """Ports of the loopback that nobody else is given until ``release``."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = list(sockets)
        inet = [sock for sock in sockets if sock.family == socket.AF_INET]
        self.ports: tuple[int, ...] = tuple(sock.getsockname()[1] for sock in inet)

    def release(self) -> None:
        """Give the ports back; safe to call twice."""
        while self._sockets:
            self._sockets.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def reserve_free(count: int) -> Reservation:
    """``count`` ports that the kernel chooses."""
    return Reservation([_bound(0) for _ in range(count)])


def reserve_from(base: int, count: int) -> Reservation:
    """The ports ``base`` to ``base + count - 1``; raises CorgiError "port-in-use" naming the first that is
    taken.
    """
    if not 1 <= base <= PORT_MAX - count + 1:
        raise CorgiError("invalid-argument", f"port = {base}: expected 1 to {PORT_MAX - count + 1}, or 0 for free")
    held: list[socket.socket] = []
    port = base
    try:
        for port in range(base, base + count):
            held.append(_lock(port))
            held.append(_bound(port))
    except OSError as error:
        for sock in held:
            sock.close()
        raise CorgiError("port-in-use", f"{LOOPBACK}:{port} cannot be used: {error.strerror}") from None
    return Reservation(held)


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if port:  # else a port that lingers (TIME_WAIT) after an earlier process could not be bound
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        sock.close()
        raise
    return sock


def _lock(port: int) -> socket.socket:
    """An abstract Unix name that one process at a time can hold, because SO_REUSEADDR lets both bind the
    port.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(f"\0corgi-port-{port}")
    except OSError:
        sock.close()
        raise
    return sock
