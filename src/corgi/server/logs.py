"""Structured logs on stderr: an event name and facts, as text for people or as JSON lines for programs.

No text of a user reaches the log unescaped: values with anything but plain characters are written as JSON
strings.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any, TextIO

logger = logging.getLogger("corgi")
_PLAIN = re.compile(r"[\w.:/@+\[\]-]+", re.ASCII)


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send everything at ``level`` and above to ``stream`` (default stderr) in ``form`` "text" or "json"."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logger.setLevel(level.upper())


def event(level: int, name: str, /, **facts: Any) -> None:
    """Log one event; ``facts`` are numbers, text or lists of them."""
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={"facts": facts})


def info(name: str, /, **facts: Any) -> None:
    event(logging.INFO, name, **facts)


def warning(name: str, /, **facts: Any) -> None:
    event(logging.WARNING, name, **facts)


def error(name: str, /, **facts: Any) -> None:
    event(logging.ERROR, name, **facts)


class JsonFormatter(logging.Formatter):
    """``{"time": …, "monotonic_s": …, "level": …, "event": …, facts…}``, one line.

    ``monotonic_s`` is common to the processes of one machine.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "monotonic_s": round(time.monotonic(), 6),
            "level": record.levelname.lower(),
            "event": _event_of(record),
        }
        line.update(_facts_of(record))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """``12:00:00.123 info    listening        node=1 address=127.0.0.1:7450``"""

    def format(self, record: logging.LogRecord) -> str:
        facts = " ".join(f"{key}={shown(value)}" for key, value in _facts_of(record).items())
        clock = _utc(record.created)[11:23]
        line = f"{clock} {record.levelname.lower():<7} {_event_of(record):<18} {facts}".rstrip()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def shown(value: object) -> str:
    """A value as one word: plain text as it is, everything else quoted and escaped."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _event_of(record: logging.LogRecord) -> str:
    """The event's name; a sentence that a layer below logged in the usual way is an event named after its logger."""
    return record.getMessage() if hasattr(record, "facts") else record.name.removeprefix("corgi.")


def _facts_of(record: logging.LogRecord) -> dict[str, Any]:
    facts: dict[str, Any] = getattr(record, "facts", None) or {}
    return facts if hasattr(record, "facts") else {"message": record.getMessage()}


def _utc(created: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{whole}.{int(created % 1 * 1000):03d}Z"
