"""Producer ids that are never given twice, made without asking anybody.

    milliseconds since 2020 (41 bits) | node (16 bits) | counter (6 bits): a positive 64-bit number until 2089

Ids grow with time, so that "every producer below this one has expired" can be said of old ones. The clock is the
highest of the wall clock, this node's last id, and the log times of its groups: a wall clock that was set back, also
across a restart, does not lead into a time whose ids have been used by whoever wrote anything with them. While the wall
clock is behind, log times stand still, and every start would begin at the same one: so each begins at a distance of its
own, which follows from its boot counter.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from corgi.base.errors import check
from corgi.base.ids import NodeId

EPOCH_MS = 1_577_836_800_000  # 2020-01-01
NODE_BITS = 16
COUNTER_BITS = 6
IDS_PER_MS = 1 << COUNTER_BITS
LIVES_MS = 1 << 20  # 17 minutes: as far apart do starts begin behind one log time; expiry counts in days


class ProducerIds:
    """Makes the ids of one node."""

    __slots__ = ("_ahead_ms", "_counter", "_last_ms", "_node")

    def __init__(self, node: NodeId, boot: int = 0) -> None:
        """``boot``: another one for each start."""
        check(0 <= node < 1 << NODE_BITS, "a node id has 16 bits")
        self._node = node
        self._ahead_ms = crc32(boot.to_bytes(8, "big")) % LIVES_MS
        self._last_ms = 0
        self._counter = 0

    def next(self, wall_ms: int, log_times_ms: Iterable[int]) -> int | None:
        """An id, or None if this millisecond has none left: ask again in the next."""
        now_ms = max(wall_ms, EPOCH_MS + 1)
        logged_ms = max(log_times_ms, default=0)
        if logged_ms >= now_ms:
            now_ms = logged_ms + 1 + self._ahead_ms
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._counter = 0
        elif self._counter >= IDS_PER_MS:
            if now_ms == self._last_ms:
                return None
            self._last_ms += 1  # the wall clock is behind what was used: count on without it
            self._counter = 0
        number = ((self._last_ms - EPOCH_MS) << NODE_BITS | self._node) << COUNTER_BITS | self._counter
        self._counter += 1
        return number
