"""Waiting times that double from one refusal to the next, with chance in them so that clients do not march in step."""

from __future__ import annotations

from corgi.client.core.links import Chance


class Backoff:
    """``next()`` gives the seconds to wait; ``reset()`` after a success."""

    __slots__ = ("_chance", "_max_s", "_min_s", "failures")

    def __init__(self, min_s: float, max_s: float, chance: Chance) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._chance = chance
        self.failures = 0

    def next(self) -> float:
        delay = min(self._max_s, self._min_s * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return delay * (0.75 + 0.5 * self._chance())

    def reset(self) -> None:
        self.failures = 0
