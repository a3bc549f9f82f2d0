"""Bounds on what one client request may ask of the loop, and the checks that name the argument.

The wire checks what has a fixed range; sessions without a wire (embedded nodes, the simulator) rely on the checks here.
"""

from __future__ import annotations

from corgi.base.errors import CorgiError
from corgi.base.limits import BATCH_BYTES_MAX, COMMAND_BYTES_MAX, MIB

REQUEST_BATCHES_MAX = 512  # batches of one Produce: checking and splitting them takes about 5 ms
REQUEST_PARTITIONS_MAX = 1_000  # partitions in one Fetch or ListOffsets, names in one Metadata
TIMEOUT_MS_MAX = 2**31 - 1  # told by a client
TIMEOUT_S_MAX = 600.0  # kept for a client: nothing waits longer, whatever was asked for
INT64_MAX = 2**63 - 1
UINT32_MAX = 2**32 - 1
COMMAND_FILL_MAX = COMMAND_BYTES_MAX - BATCH_BYTES_MAX  # from here on a request's next batch starts another command
SILENT_BYTES_HIGH = 8 * MIB  # of unfinished produces with acks 0: the connection is read no more
SILENT_BYTES_LOW = 4 * MIB  # ... until it has fallen to this
SILENT_BYTES_MAX = 32 * MIB  # ... and what a session that cannot be paused sends beyond this is dropped
NODE_PRODUCE_BYTES_MAX = 256 * MIB  # unfinished produces of all clients; above it they are refused as "overloaded"

assert SILENT_BYTES_LOW < SILENT_BYTES_HIGH < SILENT_BYTES_MAX <= NODE_PRODUCE_BYTES_MAX


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Raises CorgiError "invalid-argument" that names the argument and its range."""
    if not least <= value <= most:
        raise CorgiError("invalid-argument", f"{name} is {value}, it goes from {least} to {most}")


def check_count(name: str, count: int, most: int) -> None:
    """Raises CorgiError "invalid-argument" for a list that is empty or too long."""
    if not 1 <= count <= most:
        raise CorgiError("invalid-argument", f"a request names 1 to {most} {name}, this one {count}")


def timeout_s(timeout_ms: int) -> float:
    """The time to keep, in seconds. Raises CorgiError "invalid-argument" for 0 and less."""
    if not 0 < timeout_ms <= TIMEOUT_MS_MAX:
        check_range("timeout_ms", timeout_ms, 1, TIMEOUT_MS_MAX)
    seconds = timeout_ms / 1000
    return seconds if seconds < TIMEOUT_S_MAX else TIMEOUT_S_MAX
