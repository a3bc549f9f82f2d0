"""The clock and the chance of a real machine: two of the ports of the core."""

from __future__ import annotations

import random
import time


class MonotonicClock:
    """``Clock`` of this machine."""

    __slots__ = ()

    def now(self) -> float:
        """Monotonic seconds; differences only. The same clock as the event loop's."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Milliseconds since 1970, as this machine believes."""
        return time.time_ns() // 1_000_000


def system_random() -> random.Random:
    """``Random`` seeded by the operating system: for jitter and names, not for secrets."""
    return random.Random()
