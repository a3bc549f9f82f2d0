"""What the nodes' own logs tell of a run, whose clock is every process's: who led which group from when on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LEADING = "leading"


def leaderships(logs: Iterable[Path]) -> list[tuple[int, int, float]]:
    """(group, node, monotonic seconds) whenever a node began to lead a group, by time."""
    found = [
        (int(event["group"]), int(event["node"]), float(event["monotonic_s"]))
        for log in logs
        for event in _events(log, LEADING)
    ]
    return sorted(found, key=lambda entry: entry[2])


def has_event(log: Path, name: str, *, since: float) -> bool:
    """Whether a node noted the event at ``since`` (monotonic seconds) or later."""
    return any(float(event["monotonic_s"]) >= since for event in _events(log, name))


def _events(log: Path, name: str) -> Iterator[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("{") and name in line:
            try:
                event = json.loads(line)
            except ValueError:  # the line of a node that was killed while it wrote
                continue
            if event.get("event") == name:
                yield event
