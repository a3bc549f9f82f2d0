"""What the nodes' own logs tell of a run, whose clock is every process's: who led which group from when on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

LEADING = "leading"


def leaderships(logs: Iterable[Path]) -> list[tuple[int, int, float]]:
    """(group, node, monotonic seconds) whenever a node began to lead a group, by time."""
    found = []
    for log in logs:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("{") and LEADING in line:
                try:
                    event = json.loads(line)
                except ValueError:  # the line of a node that was killed while it wrote
                    continue
                if event.get("event") == LEADING:
                    found.append((int(event["group"]), int(event["node"]), float(event["monotonic_s"])))
    return sorted(found, key=lambda entry: entry[2])
