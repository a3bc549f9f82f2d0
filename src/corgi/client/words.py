"""The words users speak: durations, times, acknowledgement modes, starts, headers; and what Corgi makes of them.

Durations are ``timedelta``, seconds as a number, or text such as "30s", "250ms", "1h30m". Times are aware datetimes,
or milliseconds since 1970.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from corgi.base.errors import CorgiError
from corgi.base.records import TIMESTAMP_MAX, Header
from corgi.client.core.names import name_error
from corgi.client.core.options import ACKS
from corgi.client.core.subscriber import Start

Duration = timedelta | float | str
Time = datetime | int
Acks = Literal["none", "leader", "quorum"]
Compression = Literal["none", "lz4", "zstd", "gzip", "snappy"]
Headers = Mapping[str, bytes | None] | Sequence[Header]
Read = Literal["committed", "uncommitted"]
StartAt = Literal["earliest", "latest"] | int | datetime | Mapping[int, int]

NAME_MAX = 249  # characters in the name of a consumer group
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
OFFSET_MAX = 2**63 - 1


def seconds(duration: Duration, name: str = "the duration") -> float:
    """A positive duration in seconds. Raises "invalid-argument"."""
    if isinstance(duration, timedelta):
        value = duration.total_seconds()
    elif isinstance(duration, str):
        text = duration.replace(" ", "")
        if not _DURATION.fullmatch(text):
            raise CorgiError("invalid-argument", f'{name} is text like "30s", "250ms" or "1h30m", not {duration!r}')
        value = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    elif type(duration) in (int, float):
        value = float(duration)
    else:
        raise CorgiError("invalid-argument", f"{name} is a timedelta, seconds or text, not {duration!r}")
    if not 0 < value <= 10 * 365 * 86_400:
        raise CorgiError("invalid-argument", f"{name} is more than 0 and less than ten years, not {duration!r}")
    return value


def milliseconds(time: Time, name: str = "timestamp") -> int:
    """A time in ms since 1970. Raises "invalid-argument" for a naive datetime or one before 1970."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise CorgiError("invalid-argument", f"{name} is an aware datetime; {time} has no time zone")
        value = (time - _EPOCH) // _MILLISECOND
    elif type(time) is int:
        value = time
    else:
        raise CorgiError("invalid-argument", f"{name} is an aware datetime or ms since 1970, not {time!r}")
    if not 0 <= value < TIMESTAMP_MAX:
        raise CorgiError("invalid-argument", f"{name} lies outside what can be stored: {time!r}")
    return value


def as_datetime(timestamp_ms: int) -> datetime:
    """The aware datetime (UTC) of ms since 1970."""
    return _EPOCH + timestamp_ms * _MILLISECOND


def acks_number(acks: str) -> int:
    number = ACKS.get(acks) if type(acks) is str else None
    if number is None:
        raise CorgiError("invalid-argument", f"acks is one of {', '.join(ACKS)}, not {acks!r}")
    return number


def header_list(headers: Headers) -> list[Header]:
    """Headers as pairs, in order; a key may come more than once in a sequence."""
    pairs: object = headers.items() if isinstance(headers, Mapping) else headers
    if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Iterable):
        raise CorgiError("invalid-argument", f"headers are a mapping or pairs, not {headers!r}")
    try:
        out = [(name, value) for name, value in pairs]
    except (TypeError, ValueError):
        raise CorgiError("invalid-argument", f"headers are a mapping or pairs, not {headers!r}") from None
    for name, value in out:
        if type(name) is not str or not (value is None or type(value) is bytes):
            raise CorgiError("invalid-argument", f"a header is a str with bytes or None, not {name!r}: {value!r}")
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise CorgiError("invalid-argument", f"the name of a header is text that UTF-8 can tell, not {name!r}")
    return out


def committed(read: str) -> bool:
    """Raises "invalid-argument"."""
    return one_of(read, "read", ("committed", "uncommitted")) == "committed"


def start_at(start: StartAt) -> Start | dict[int, Start]:
    """Where a subscription begins. Raises "invalid-argument"."""
    if isinstance(start, str) and start in ("earliest", "latest"):
        return Start(start)
    if isinstance(start, datetime):
        return Start("time", milliseconds(start, "start"))
    if type(start) is int:
        return Start("offset", between(start, "start", 0, OFFSET_MAX))
    if isinstance(start, Mapping) and start:
        partitions = partition_numbers(start, "start")
        starts = [Start("offset", between(offset, "an offset", 0, OFFSET_MAX)) for offset in start.values()]
        return dict(zip(partitions, starts, strict=True))
    raise CorgiError(
        "invalid-argument",
        f'start is "earliest", "latest", an offset, an aware datetime or {{partition: offset}}, not {start!r}',
    )


def partition_numbers(partitions: Iterable[int], name: str = "partitions") -> tuple[int, ...]:
    """Partitions that were named. Raises "invalid-argument"; an empty choice would wait for ever for nothing."""
    try:
        numbers = tuple(partitions)
    except TypeError:
        raise CorgiError("invalid-argument", f"{name} names partitions by number, not {partitions!r}") from None
    if not numbers:
        raise CorgiError("invalid-argument", f"{name} names no partition", hint="leave it out for all of them")
    for number in numbers:
        if type(number) is not int:
            raise CorgiError("invalid-argument", f"a partition is a number from 0, not {number!r}")
    return numbers


def group_name(group: str, name: str = "group") -> str:
    """A name that can be asked for. Raises "invalid-argument"."""
    said: object = group
    if not isinstance(said, str) or not 1 <= len(group) <= NAME_MAX or not _encodable(group):
        raise CorgiError("invalid-argument", f"{name} is a name of 1 to {NAME_MAX} characters, not {group!r}")
    return group


def one_of(value: str, name: str, choices: tuple[str, ...]) -> str:
    """Raises "invalid-argument"."""
    said: object = value
    if said not in choices:
        raise CorgiError("invalid-argument", f"{name} is one of {', '.join(choices)}, not {value!r}")
    return value


def between(value: int, name: str, least: int, most: int) -> int:
    """Raises "invalid-argument"."""
    kind: object = type(value)
    if kind is not int or not least <= value <= most:
        raise CorgiError("invalid-argument", f"{name} is a number from {least} to {most}, not {value!r}")
    return value


def topic_name(name: str) -> str:
    """A name that can be asked for. Raises "invalid-topic-name"."""
    if (error := name_error(name)) is not None:
        raise error
    return name


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
