"""Doing things on schedule: each has its time, and a late one does not move the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

SLEEP_MIN_S = 0.001  # an event loop's timers are no finer


async def schedule(rate: float, count: int, *, start_s: float | None = None) -> AsyncIterator[tuple[int, float]]:
    """(number, due) at ``rate`` per second: yields when it is due, or at once when that has passed.

    ``due`` is monotonic seconds. Latency counted from it includes the time that the measurement itself was late: no
    coordinated omission.
    """
    start = time.monotonic() if start_s is None else start_s
    for number in range(count):
        due = start + number / rate
        early = due - time.monotonic()
        if early > 0:
            await asyncio.sleep(max(early, SLEEP_MIN_S))
        yield number, due
