"""What a client of a run is to do, and how messages are told apart."""

from __future__ import annotations

from dataclasses import dataclass

REQUEST_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Job:
    """What a client is to do. ``rate``: publishes per second to each partition; ``patience_s``: for what was begun when
    the run is over."""

    name: str
    servers: str
    topic: str
    partitions: int
    rate: float = 25.0
    size: int = 200
    seed: int = 0
    patience_s: float = 30.0


def name_of(value: bytes | None) -> str:
    """What identifies a message: the first word of its value."""
    return (value or b"").split(b" ", 1)[0].decode("utf-8", "backslashreplace")
