"""How long a produce may take before another node is asked too.

A killed node's connection breaks and needs no such patience; a stopped process, a lost machine or a one-way
partition keeps it open. The patience follows what answers usually take (as TCP's retransmission time does,
RFC 6298), so that a loaded cluster is not loaded twice, and doubles each time it was in vain.
"""

from __future__ import annotations

_GAIN = 1 / 8
_VARIATION_GAIN = 1 / 4
_VARIATIONS = 8  # asking twice is dearer than a TCP segment: be more patient than TCP's 4
_DOUBLINGS_MAX = 5


class ResponseTimes:
    """``patience_s`` in seconds; never below ``min_s``."""

    __slots__ = ("_doublings", "_mean_s", "_min_s", "_variation_s", "patience_s")

    def __init__(self, min_s: float) -> None:
        self._min_s = min_s
        self._mean_s = 0.0
        self._variation_s = 0.0
        self._doublings = 0
        self.patience_s = min_s

    def note(self, seconds: float) -> None:
        """An answer came after that long."""
        self._variation_s += _VARIATION_GAIN * (abs(seconds - self._mean_s) - self._variation_s)
        self._mean_s += _GAIN * (seconds - self._mean_s)
        self._doublings = 0
        self._update()

    def lost_patience(self) -> None:
        self._doublings = min(_DOUBLINGS_MAX, self._doublings + 1)
        self._update()

    def _update(self) -> None:
        usual = self._mean_s + _VARIATIONS * self._variation_s
        self.patience_s = max(self._min_s, usual) * 2**self._doublings
