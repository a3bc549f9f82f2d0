"""One at a time per key: a lane is a key that has something running, and what waits behind it.

Invariant: of each key at most one item has been let in and has not left, and items are let in as they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """``waiting``: items kept aside in all lanes."""

    __slots__ = ("_lanes", "waiting")

    def __init__(self) -> None:
        self._lanes: dict[Hashable, deque[T] | None] = {}
        self.waiting = 0

    def enter(self, key: Hashable, item: T) -> bool:
        """True: the item may run, and ``leave`` has to follow. False: it waits until its predecessor has left."""
        lanes = self._lanes
        if key not in lanes:
            lanes[key] = None
            return True
        queue = lanes[key]
        if queue is None:
            queue = lanes[key] = deque()
        queue.append(item)
        self.waiting += 1
        return False

    def leave(self, key: Hashable) -> T | None:
        """The one that ran is finished; returns the next of its key, which may run now."""
        queue = self._lanes[key]
        if queue:
            self.waiting -= 1
            return queue.popleft()
        del self._lanes[key]
        return None

    def __len__(self) -> int:
        """Keys of which something runs."""
        return len(self._lanes)
