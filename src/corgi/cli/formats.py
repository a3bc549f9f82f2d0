"""How a message is shown: a format such as ``%t/%p/%o %k %v``, or a JSON object a line."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from corgi.base.errors import CorgiError


class Shown(Protocol):
    """The parts of a message that can be shown. ``timestamp``: ms since 1970."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


Part = Callable[[Shown], bytes]

PLACES: dict[str, tuple[str, Part]] = {
    "t": ("topic", lambda m: m.topic.encode()),
    "p": ("partition", lambda m: b"%d" % m.partition),
    "o": ("offset", lambda m: b"%d" % m.offset),
    "k": ("key", lambda m: m.key or b""),
    "v": ("value", lambda m: m.value or b""),
    "h": ("headers, as name=value,…", lambda m: b",".join(n.encode() + b"=" + (v or b"") for n, v in m.headers)),
    "s": ("size of the value in bytes", lambda m: b"%d" % len(m.value or b"")),
    "T": ("time, as 2013-01-01T05:15:00.000Z", lambda m: iso(m.timestamp).encode()),
    "M": ("time in ms since 1970", lambda m: b"%d" % m.timestamp),
    "%": ("a percent sign", lambda _: b"%"),
}
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", "0": "\0"}


def compile_format(text: str) -> Callable[[Shown], bytes]:
    """The function that shows a message, without a line end. Raises CorgiError "invalid-argument" for an unknown
    place.
    """
    parts: list[Part] = []
    literal = ""
    at = 0
    while at < len(text):
        pair = text[at : at + 2]
        if pair[0] == "%":
            if pair[1:] not in PLACES:
                known = ", ".join(f"%{letter} {what}" for letter, (what, _) in PLACES.items())
                raise CorgiError("invalid-argument", f"--format: {pair!r} is not known", hint=f"there are {known}")
            parts += [_constant(literal), PLACES[pair[1]][1]]
            literal = ""
        elif pair[0] == "\\" and pair[1:] in _ESCAPES:
            literal += _ESCAPES[pair[1]]
        else:
            literal += pair[0]
            at += 1
            continue
        at += 2
    parts.append(_constant(literal))
    return lambda message: b"".join([part(message) for part in parts])


def as_json(message: Shown) -> bytes:
    """One object: bytes that are not UTF-8 go into ``key_base64`` and ``value_base64``."""
    document: dict[str, Any] = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "timestamp_ms": message.timestamp,
        **_bytes_field("key", message.key),
        **_bytes_field("value", message.value),
        "headers": [{"name": name, **_bytes_field("value", value)} for name, value in message.headers],
    }
    return json.dumps(document, ensure_ascii=False).encode()


def iso(timestamp: int) -> str:
    """Milliseconds since 1970 as UTC; a time that no calendar has is shown as its number."""
    try:
        moment = datetime.fromtimestamp(timestamp / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return str(timestamp)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{timestamp % 1000:03d}Z"


def harmless(line: bytes) -> bytes:
    """For a terminal: control characters escaped, so that a message cannot rewrite the screen."""
    text = line.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text).encode()


def _constant(text: str) -> Part:
    encoded = text.encode()
    return lambda _: encoded


def _bytes_field(name: str, content: bytes | None) -> dict[str, str | None]:
    if content is None:
        return {name: None}
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}
