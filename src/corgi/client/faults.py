"""Guards the entries from the event loop into the client: a fault of the client itself must not leave callers waiting.

An exception there would only be logged by asyncio, and whoever waits for what the turn should have done would wait for
its time-out, or for ever. It is handed to ``fail`` instead, which ends every open call with an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from corgi.base.errors import CorgiError


class Breakable(Protocol):
    def fail(self, fault: Exception) -> None:
        """The client is broken by this from now on."""
        ...


S = TypeVar("S", bound=Breakable)
P = ParamSpec("P")


def guarded(entry: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """A method that the event loop calls, whose faults break the client instead of vanishing in a log."""

    @wraps(entry)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            entry(self, *args, **kwargs)
        except Exception as fault:  # noqa: BLE001 - whatever it is, somebody waits
            self.fail(fault)

    return run


def error_of(fault: Exception) -> CorgiError:
    """What the callers of a broken client are told."""
    what = f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__
    return CorgiError(
        "internal-error",
        f"the client is broken by a fault of its own ({what}); what was on its way may be stored or not",
    )
