"""Encoded answers that are the same for everybody, until the cluster looks different."""

from __future__ import annotations

KEPT_BYTES_MAX = 16 * 1024 * 1024


class Kept:
    """Encoded answers by user, listener, version and request, as long as the cluster looks like ``stamp``."""

    def __init__(self) -> None:
        self._stamp: object = None
        self._bodies: dict[tuple[str, str, int, bytes], bytes] = {}
        self._bytes = 0

    def get(self, stamp: object, key: tuple[str, str, int, bytes]) -> bytes | None:
        if stamp != self._stamp:
            self._stamp = stamp
            self._bodies.clear()
            self._bytes = 0
        return self._bodies.get(key)

    def put(self, stamp: object, key: tuple[str, str, int, bytes], body: bytes) -> None:
        """Keep an answer that was made while the cluster looked like ``stamp``, if it is asked for like that now."""
        size = len(body) + len(key[3])
        if stamp != self._stamp or size > KEPT_BYTES_MAX:
            return
        if self._bytes + size > KEPT_BYTES_MAX:
            self._bodies.clear()
            self._bytes = 0
        self._bodies[key] = body
        self._bytes += size
