"""Kafka's configuration keys of a topic: which of them Corgi has under its own name, and which are as they are.

A key is *applied* (stored as a setting of Corgi's), *fixed* (told, and taken when it asks for what holds anyway), or a
*hint* on how Kafka lays out its files (taken, without effect). What would be a promise that is not kept is refused.
DURABILITY is Corgi's own: it is applied when a topic is created, and fixed from then on.
Invariant: what is told of a topic is what holds for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from corgi.base.errors import CorgiError
from corgi.base.limits import BATCH_BYTES_DEFAULT
from corgi.state.settings import DELETE_RETENTION_MS_DEFAULT, DIRTY_RATIO_DEFAULT, UNLIMITED, check_settings, in_memory


class Source(IntEnum):
    """Where a value comes from."""

    TOPIC = 1
    STATIC_BROKER = 4
    DEFAULT = 5


class Kind(IntEnum):
    """What a value is."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    LONG = 5
    DOUBLE = 6
    LIST = 7


@dataclass(frozen=True, slots=True)
class Told:
    """One key as clients are told it. ``broker_key``: what the node's own key for the default is called."""

    key: str
    value: str
    read_only: bool
    source: Source
    kind: Kind
    what: str
    broker_key: str = ""
    default: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """A key with a setting of Corgi's behind it."""

    setting: str
    default: str
    kind: Kind
    broker_key: str
    what: str


@dataclass(frozen=True, slots=True)
class Fixed:
    """A key whose value nobody changes. ``takes`` tells what may be asked for all the same; None: a hint."""

    value: str
    kind: Kind
    what: str
    takes: Callable[[str], bool] | None = None


CLEANUP = "cleanup.policy"
DURABILITY = "corgi.durability"
MIN_ISR = "min.insync.replicas"
_INT64 = str(2**63 - 1)
_SYNCED = "every write is synced before it is acknowledged"
_LAZY = {"flush.messages": _INT64, "flush.ms": "1000"}  # as told of topics with durability memory
_HINT = "how Kafka lays out its files; taken without effect"

APPLIED: dict[str, Applied] = {
    "max.message.bytes": Applied(
        "max_batch_bytes", str(BATCH_BYTES_DEFAULT), Kind.INT, "message.max.bytes", "the largest batch"
    ),
    "retention.ms": Applied("retention_ms", str(UNLIMITED), Kind.LONG, "log.retention.ms", "how long records stay"),
    "retention.bytes": Applied(
        "retention_bytes", str(UNLIMITED), Kind.LONG, "log.retention.bytes", "how much of a partition stays"
    ),
    CLEANUP: Applied("cleanup", "delete", Kind.LIST, "log.cleanup.policy", "delete, compact, or both"),
    "delete.retention.ms": Applied(
        "delete_retention_ms",
        str(DELETE_RETENTION_MS_DEFAULT),
        Kind.LONG,
        "log.cleaner.delete.retention.ms",
        "how long tombstones stay",
    ),
    "min.compaction.lag.ms": Applied(
        "min_compaction_lag_ms", "0", Kind.LONG, "log.cleaner.min.compaction.lag.ms", "how old a compacted record is"
    ),
    "min.cleanable.dirty.ratio": Applied(
        "min_cleanable_dirty_ratio",
        str(DIRTY_RATIO_DEFAULT),
        Kind.DOUBLE,
        "log.cleaner.min.cleanable.ratio",
        "the share of new bytes from which on compaction begins",
    ),
}
_BY_SETTING = {applied.setting: key for key, applied in APPLIED.items()}


def _whole(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= len(_INT64)


def _boolean(text: str) -> bool:
    return text.lower() in ("true", "false")


def _fixed(nodes: int) -> dict[str, Fixed]:
    majority = nodes // 2 + 1

    def at_most_majority(text: str) -> bool:
        return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= majority

    def just(*values: str) -> Callable[[str], bool]:
        return lambda text: text.lower() in values

    fixed = {
        "compression.type": Fixed("producer", Kind.STRING, "batches stay as producers made them", just("producer")),
        "message.timestamp.type": Fixed("CreateTime", Kind.STRING, "times are the producer's", just("createtime")),
        MIN_ISR: Fixed(str(majority), Kind.INT, "every acknowledged write is on so many disks", at_most_majority),
        "unclean.leader.election.enable": Fixed(
            "false", Kind.BOOLEAN, "no acknowledged record is given up", just("false")
        ),
        "max.compaction.lag.ms": Fixed(_INT64, Kind.LONG, "when a record is compacted at the latest", just(_INT64)),
        "message.timestamp.before.max.ms": Fixed(_INT64, Kind.LONG, "times are not judged", just(_INT64)),
        "message.timestamp.after.max.ms": Fixed(_INT64, Kind.LONG, "times are not judged", just(_INT64)),
        "message.timestamp.difference.max.ms": Fixed(_INT64, Kind.LONG, "times are not judged", just(_INT64)),
        "message.format.version": Fixed("3.0-IV1", Kind.STRING, "the record format is version 2", lambda _: True),
        "message.downconversion.enable": Fixed("false", Kind.BOOLEAN, "older formats are not served", _boolean),
        "remote.storage.enable": Fixed("false", Kind.BOOLEAN, "there is one tier of storage", just("false")),
        "flush.messages": Fixed("1", Kind.LONG, _SYNCED),
        "flush.ms": Fixed("0", Kind.LONG, _SYNCED),
    }
    for key, value in (
        ("segment.bytes", str(64 * 1024 * 1024)),
        ("segment.ms", "604800000"),
        ("segment.jitter.ms", "0"),
        ("segment.index.bytes", "10485760"),
        ("index.interval.bytes", "4096"),
        ("file.delete.delay.ms", "60000"),
    ):
        fixed[key] = Fixed(value, Kind.LONG, _HINT)
    fixed["preallocate"] = Fixed("true", Kind.BOOLEAN, _HINT, _boolean)
    return fixed


class TopicKeys:
    """The keys in a cluster of so many nodes."""

    def __init__(self, nodes: int) -> None:
        self._fixed = _fixed(nodes)

    def told(self, config: Mapping[str, str]) -> list[Told]:
        """Every key of a topic with these settings of Corgi's, by name."""
        found = []
        for key, applied in APPLIED.items():
            value = config.get(applied.setting)
            found.append(
                Told(
                    key,
                    applied.default if value is None else value,
                    read_only=False,
                    source=Source.DEFAULT if value is None else Source.TOPIC,
                    kind=applied.kind,
                    what=applied.what,
                    broker_key=applied.broker_key,
                    default=applied.default,
                )
            )
        lazy = in_memory(config)
        for key, fixed in self._fixed.items():
            value, what = fixed.value, fixed.what
            if lazy and key in _LAZY:
                value, what = _LAZY[key], "writes are acknowledged before they are synced"
            found.append(Told(key, value, read_only=True, source=Source.DEFAULT, kind=fixed.kind, what=what))
        source = Source.TOPIC if "durability" in config else Source.DEFAULT
        told = "memory" if lazy else "fsync"
        what = "fsync or memory: whether an acknowledged write is on disks; chosen when the topic is created"
        found.append(Told(DURABILITY, told, read_only=True, source=source, kind=Kind.STRING, what=what))
        return sorted(found, key=lambda one: one.key)

    def settings(self, wanted: Mapping[str, str | None]) -> dict[str, str | None]:
        """What Corgi is to be told for these keys; None returns one to its default.

        Raises CorgiError "invalid-argument" that names the key.
        """
        found: dict[str, str | None] = {}
        for key, value in wanted.items():
            applied = APPLIED.get(key)
            if applied is not None:
                text = value if value is None or key != CLEANUP else _cleanup(value)
                found.update(_checked(key, applied.setting, text))
            elif key == DURABILITY:
                found.update(_checked(key, "durability", value))
            else:
                self._check_fixed(key, value)
        return found

    def _check_fixed(self, key: str, value: str | None) -> None:
        fixed = self._fixed.get(key)
        if fixed is None:
            known = ", ".join([*APPLIED, DURABILITY, *self._fixed])
            raise CorgiError("invalid-argument", f"a topic has no key {key!r} here, only {known}")
        if value is None:
            return
        takes = fixed.takes or _whole
        if not takes(value):
            raise CorgiError("invalid-argument", f"{key} is {fixed.value} here ({fixed.what}), and cannot be {value!r}")


def _checked(key: str, setting: str, text: str | None) -> dict[str, str | None]:
    """The setting behind a key. Raises CorgiError "invalid-argument" that names the key."""
    try:
        check_settings({setting: text})
    except CorgiError as error:
        raise CorgiError("invalid-argument", error.message.replace(setting, key)) from None
    return {setting: text}


def list_value(config: Mapping[str, str], key: str) -> list[str]:
    """The present elements of a key that is a list. Raises CorgiError "invalid-argument" if it is none."""
    applied = APPLIED.get(key)
    if applied is None or applied.kind != Kind.LIST:
        raise CorgiError("invalid-argument", f"{key} is no list that something could be added to or taken from")
    return config.get(applied.setting, applied.default).split(",")


def settings_but(keys: Mapping[str, object]) -> dict[str, str | None]:
    """Every setting of Corgi's that has none of these keys of Kafka's, to be returned to its default."""
    return {setting: None for setting, key in _BY_SETTING.items() if key not in keys}


def _cleanup(text: str) -> str:
    """Kafka takes the two in any order and with spaces."""
    words = sorted({word.strip().lower() for word in text.split(",") if word.strip()})
    return ",".join(words) or text
