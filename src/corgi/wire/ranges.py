"""Numbers and texts of requests in their ranges; the checks name what is out of them."""

from __future__ import annotations

from corgi.base.errors import CorgiError
from corgi.base.limits import PARTITIONS_MAX

U32 = 2**32 - 1
I64 = 2**63 - 1
TIMEOUT_MS_MAX = 2**31 - 1
NAME_BYTES_MAX = 1024  # of any text that names something; a topic's own rule is stricter


def check_place(topic: int, partition: int) -> None:
    """Raises "invalid-argument"; the same for the checks below."""
    check_range("topic id", topic, 0, U32)
    check_range("partition", partition, 0, PARTITIONS_MAX - 1)


def check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise CorgiError("invalid-argument", f"{name} is {value}, it goes from {least} to {most}")


def check_text(name: str, value: str) -> None:
    if len(value) > NAME_BYTES_MAX:
        raise CorgiError("invalid-argument", f"{name} has {len(value)} characters, {NAME_BYTES_MAX} are the most")
