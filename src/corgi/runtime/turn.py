"""One pass per turn of the event loop: facts come in, then the work they caused is done once, then sockets are written,
then the disk: the other nodes shall begin with what they are sent while this one is busy writing.

A fact calls ``wake``; the pass runs when the loop has handed out everything that had arrived. A connection with output
calls ``will_write`` and is flushed at the end of the pass, with one system call for all that it has to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Writer(Protocol):
    def flush(self) -> None:
        """Write what waits. Does not raise."""
        ...


class Turn:
    """Joins the connections of one loop with the work between reading and writing. ``number`` counts the passes."""

    __slots__ = ("_awake", "_dirty", "_finish", "_work", "loop", "number")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[], None],
        finish: Callable[[], None] = lambda: None,
    ) -> None:
        """``work`` is called before the sockets are written, ``finish`` after."""
        self.loop = loop
        self._work = work
        self._finish = finish
        self._awake = False
        self._dirty: list[Writer] = []
        self.number = 0

    def wake(self) -> None:
        """Something happened: run the pass at the end of this turn."""
        if not self._awake:
            self._awake = True
            self.loop.call_soon(self._run)

    def will_write(self, writer: Writer) -> None:
        """``writer`` has output; it calls this once until it is flushed."""
        self._dirty.append(writer)
        if not self._awake:
            self._awake = True
            self.loop.call_soon(self._run)

    def _run(self) -> None:
        self._awake = False
        self.number += 1
        self._work()
        dirty, self._dirty = self._dirty, []
        for writer in dirty:
            writer.flush()
        self._finish()
