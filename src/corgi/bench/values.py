"""Values to publish: distinct and incompressible, made before the clock starts."""

from __future__ import annotations

import random
import struct

HEADER = struct.Struct(">Qd")  # a number of its own, and when it was due (monotonic seconds)
SIZE_MIN = HEADER.size
_POOL_BYTES = 1 << 20


def make_values(count: int, size: int, *, seed: int = 1) -> list[bytes]:
    """``count`` values of ``size`` random bytes each, no two of them the same."""
    chance = random.Random(seed)
    return [index.to_bytes(8, "big") + chance.randbytes(size - 8) for index in range(count)]


class Stamps:
    """Values that carry their number and the time at which they were due; the rest is random bytes from a pool."""

    def __init__(self, size: int, *, seed: int = 1) -> None:
        self._fill = size - HEADER.size
        self._pool = random.Random(seed).randbytes(_POOL_BYTES + max(0, self._fill))

    def value(self, number: int, due_s: float) -> bytes:
        """One value; distinct by its number."""
        at = number * 4099 % _POOL_BYTES
        return HEADER.pack(number, due_s) + self._pool[at : at + self._fill]


def read_stamp(value: bytes) -> tuple[int, float]:
    """(number, due) of a value that ``Stamps`` made."""
    number, due_s = HEADER.unpack_from(value)
    return int(number), float(due_s)
