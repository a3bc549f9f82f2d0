"""Bounds of delivery with their reasons. Sizes in bytes, times in seconds unless the name says otherwise."""

from __future__ import annotations

from corgi.base.limits import (
    BATCH_BYTES_MAX,
    CLIENT_OUTPUT_HIGH,
    CLIENT_OUTPUT_LOW,
    FRAME_BYTES_MAX,
    KIB,
    MIB,
    VALUE_BYTES_MAX,
)

QUANTUM_BYTES = 256 * KIB  # of one subscription before the next one has its turn
QUANTUM_BATCHES = 64
TAIL_TURN_BYTES = 4 * MIB  # pushed at the tail in one loop turn, over all clients: with the next, 5 ms at most
TAIL_TURN_BATCHES = 512
BACKLOG_TURN_BYTES = 2 * MIB  # served to those behind in one loop turn
BACKLOG_TURN_BATCHES = 320
FRAME_BATCHES = 4  # a pushed frame costs as much as so many batches
CLIENT_BUFFER_HIGH = 512 * KIB  # nothing more is read for a client that has so much unsent, until it drained
PARKED_CHECK_S = 0.050  # a blocked client is looked at again even if nobody told that it drained
COLD_BYTES_MAX = 8 * MIB  # values on their way from the disk or waiting to be served; further readers queue
COLD_CACHE_BYTES = 8 * MIB  # values read from the disk that a reader may want next
AHEAD_VALUES = 16  # read ahead of one reader who is behind: small values cost a change of threads each
AHEAD_BYTES = 256 * KIB  # ... but not more than this
AHEAD_TOTAL_BYTES = 4 * MIB  # no reading ahead while so much is on its way
JOIN_BATCH_BYTES = 4 * KIB  # batches smaller than this on average travel as one copy: cheaper than many buffers
JOIN_PINNED_RATIO = 8  # a slice that would keep a value 8 times its size in memory is copied
CREDIT_MAX = 1024 * MIB  # bytes one subscription may be ahead
SUBSCRIPTIONS_MAX = 10_000  # of one connection
POLLS_MAX = 64  # long polls that one connection may have waiting
POLL_BYTES_MAX = 32 * MIB  # one answer to a poll, the first batch excepted
POLL_BATCHES_MAX = 512  # one answer to a poll: about 2 ms of work

assert CLIENT_OUTPUT_LOW < CLIENT_BUFFER_HIGH <= CLIENT_OUTPUT_HIGH
assert QUANTUM_BYTES <= BACKLOG_TURN_BYTES <= TAIL_TURN_BYTES
assert QUANTUM_BATCHES <= BACKLOG_TURN_BATCHES <= TAIL_TURN_BATCHES
assert VALUE_BYTES_MAX <= COLD_CACHE_BYTES
assert AHEAD_BYTES <= AHEAD_TOTAL_BYTES < COLD_BYTES_MAX
assert POLL_BYTES_MAX + BATCH_BYTES_MAX < FRAME_BYTES_MAX
