"""What can be set per topic: the known keys, their form and range. Values are text, as they travel and are stored.

Invariant: what `__meta` holds has passed ``check_settings``, so readers of a stored value need no second opinion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from corgi.base.batch import HEADER_BYTES
from corgi.base.errors import CorgiError
from corgi.base.limits import BATCH_BYTES_DEFAULT, BATCH_BYTES_MAX, PARTITIONS_MAX, TOPIC_NAME_MAX

UNLIMITED = -1
_INT64_MAX = 2**63 - 1
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_CLEANUPS = ("delete", "compact", "compact,delete")
DELETE_RETENTION_MS_DEFAULT = 24 * 3600 * 1000
DIRTY_RATIO_DEFAULT = 0.5
_RATIO_DIGITS_MAX = 6


def check_topic_name(name: str) -> None:
    """Raises CorgiError "invalid-topic-name"."""
    if not name or len(name) > TOPIC_NAME_MAX:
        raise CorgiError("invalid-topic-name", f"a topic's name has 1 to {TOPIC_NAME_MAX} characters, not {len(name)}")
    strange = [character for character in name if character not in _NAME_CHARACTERS]
    if strange:
        raise CorgiError("invalid-topic-name", f"a topic's name cannot hold {strange[0]!r}")
    if name.startswith("__"):
        raise CorgiError("invalid-topic-name", "names that start with '__' are the system's")
    if name in {".", ".."}:
        raise CorgiError("invalid-topic-name", f"{name!r} is not a name")


def check_partition_count(partitions: int) -> None:
    """Raises CorgiError "invalid-argument"."""
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise CorgiError("invalid-argument", f"a topic has 1 to {PARTITIONS_MAX} partitions, not {partitions}")


def check_settings(config: Mapping[str, str] | Mapping[str, str | None]) -> None:
    """Raises CorgiError "invalid-argument" that names the key, and for an unknown one those that are known.

    None stands for the default.
    """
    for key, value in config.items():
        check_setting = _KEYS.get(key)
        if check_setting is None:
            known = ", ".join(sorted(_KEYS))
            raise CorgiError("invalid-argument", f"a topic has no setting {key!r}, only {known}")
        if value is not None:
            check_setting(key, value)


def batch_bytes_max(config: Mapping[str, str]) -> int:
    """The largest batch that a topic takes; the default when nothing valid is set."""
    value = _integer(config.get("max_batch_bytes", ""))
    if value is None or not HEADER_BYTES <= value <= BATCH_BYTES_MAX:
        return BATCH_BYTES_DEFAULT
    return value


def retention(config: Mapping[str, str]) -> tuple[int, int]:
    """How long (ms) and how much (bytes) a partition keeps; UNLIMITED when nothing valid is set, or when it is only
    compacted."""
    if config.get("cleanup") == "compact":
        return UNLIMITED, UNLIMITED
    limits = [_integer(config[key]) if key in config else None for key in ("retention_ms", "retention_bytes")]
    age, size = (UNLIMITED if limit is None or limit < 1 else limit for limit in limits)
    return age, size


def compacted(config: Mapping[str, str]) -> bool:
    """Whether of the records with one key only the newest is sure to stay."""
    return "compact" in config.get("cleanup", "")


def in_memory(config: Mapping[str, str]) -> bool:
    """Whether a message counts as stored once a majority has written it, without waiting for their disks."""
    return config.get("durability") == "memory"


def delete_retention_ms(config: Mapping[str, str]) -> int:
    """How long a tombstone stays after what it deletes is gone."""
    value = _integer(config.get("delete_retention_ms", ""))
    return DELETE_RETENTION_MS_DEFAULT if value is None or value < 0 else value


def min_compaction_lag_ms(config: Mapping[str, str]) -> int:
    """How old a record is at least before compaction looks at it."""
    value = _integer(config.get("min_compaction_lag_ms", ""))
    return 0 if value is None or value < 0 else value


def min_cleanable_dirty_ratio(config: Mapping[str, str]) -> float:
    """The share of a partition's bytes that compaction has not seen, from which on it begins."""
    value = _ratio(config.get("min_cleanable_dirty_ratio", ""))
    return DIRTY_RATIO_DEFAULT if value is None else value


def _ratio(text: str) -> float | None:
    whole, _, digits = text.partition(".")
    if whole not in ("0", "1") or len(digits) > _RATIO_DIGITS_MAX or (digits and not _are_digits(digits)):
        return None
    value = float(text)
    return value if value <= 1 else None


def _are_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _check_ratio(key: str, text: str) -> None:
    if _ratio(text) is None:
        raise CorgiError("invalid-argument", f"{key} is a number from 0 to 1 like 0.25, not {text!r}")


def _integer(text: str) -> int | None:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 19:
        return None
    return int(text)


def _within(low: int, high: int, *, unlimited: bool) -> Callable[[str, str], None]:
    def check_setting(key: str, text: str) -> None:
        value = _integer(text)
        if value is not None and (low <= value <= high or (unlimited and value == UNLIMITED)):
            return
        also = f", or {UNLIMITED} for no limit" if unlimited else ""
        raise CorgiError("invalid-argument", f"{key} is a whole number from {low} to {high}{also}, not {text!r}")

    return check_setting


def _one_of(*words: str) -> Callable[[str, str], None]:
    def check_setting(key: str, text: str) -> None:
        if text not in words:
            raise CorgiError("invalid-argument", f"{key} is {', '.join(words[:-1])} or {words[-1]}, not {text!r}")

    return check_setting


_KEYS: dict[str, Callable[[str, str], None]] = {
    "max_batch_bytes": _within(HEADER_BYTES, BATCH_BYTES_MAX, unlimited=False),
    "retention_ms": _within(1, _INT64_MAX, unlimited=True),
    "retention_bytes": _within(1, _INT64_MAX, unlimited=True),
    "cleanup": _one_of(*_CLEANUPS),
    "durability": _one_of("fsync", "memory"),
    "delete_retention_ms": _within(0, _INT64_MAX, unlimited=False),
    "min_compaction_lag_ms": _within(0, _INT64_MAX, unlimited=False),
    "min_cleanable_dirty_ratio": _check_ratio,
}
