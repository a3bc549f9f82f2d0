"""The ports of the client: what its core needs from the world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.wire.messages import WireMessage

Answer = WireMessage | CorgiError
Done = Callable[[Answer, memoryview], None]  # the answer and its payload


class Address(NamedTuple):
    """Where a node listens for clients."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Link(Protocol):
    """One connection to a node, its handshake done; hashable. What is sent leaves at the end of the loop's turn.

    ``request`` calls ``done`` once: with the answer, with the node's ErrorReply turned into a CorgiError,
    or, when the link is lost, with CorgiError "outcome-unknown" after ``Client.link_lost`` returned. It is
    never called before ``request`` returns.
    """

    def request(self, message: WireMessage, payload: Sequence[Buffer], done: Done) -> None: ...

    def tell(self, message: WireMessage, payload: Sequence[Buffer] = ()) -> None:
        """Send what is not answered."""
        ...

    def buffered(self) -> int:
        """Bytes sent and not yet taken by the kernel; ``Client.link_drained`` follows when few are left."""
        ...

    def heard_at(self) -> float:
        """When bytes last arrived, in the clock's seconds."""
        ...

    def close(self) -> None:
        """Close the connection; ``Client.link_lost`` follows."""
        ...


class Dialer(Protocol):
    def dial(self, address: Address) -> None:
        """Try to connect; ``Client.link_up`` or ``Client.dial_failed`` follows, never before this returns."""
        ...


class Clock(Protocol):
    def now(self) -> float:
        """Monotonic seconds."""
        ...


Chance = Callable[[], float]  # uniform in [0, 1)
