"""A thread for the slow step of checking a password.

At WAITING_MAX the next one is refused, so that a flood of logins costs a bounded share of one core and no memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from corgi.base.errors import CorgiError
from corgi.kafka.credentials import Derivation

WAITING_MAX = 256

Then = Callable[[bytes], None]


class Deriving:
    """One for all listeners of a node; the thread begins with the first password. Results come on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, "corgi-login")
        self._waiting = 0
        self._closed = False

    def derive(self, work: Derivation, then: Then) -> None:
        """Raises CorgiError "overloaded" if too many wait, and "closed"."""
        if self._closed:
            raise CorgiError("closed")
        if self._waiting >= WAITING_MAX:
            raise CorgiError("overloaded", f"{WAITING_MAX} passwords wait to be checked")
        self._waiting += 1
        self._thread.submit(self._run, work, then)

    def close(self) -> None:
        """What waits is dropped."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Derivation, then: Then) -> None:
        result = work.run()
        if not self._closed:
            self._loop.call_soon_threadsafe(self._done, result, then)

    def _done(self, result: bytes, then: Then) -> None:
        self._waiting -= 1
        if not self._closed:
            then(result)
