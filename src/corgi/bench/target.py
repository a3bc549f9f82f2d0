"""Where a measurement runs: on a cluster that was named, or on three node processes of its own, and on a fresh
topic.
"""

from __future__ import annotations

import secrets
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corgi.base.errors import CorgiError
from corgi.base.limits import GROUPS_DEFAULT, SUSPICION_S
from corgi.server.local import LocalCluster, LocalOptions

NODES = 3
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """``cluster``: addresses, or empty for a cluster of its own in ``folder`` (None: a temporary one)."""

    cluster: str = ""
    folder: Path | None = None
    groups: int = GROUPS_DEFAULT
    suspicion_ms: int = round(SUSPICION_S * 1000)


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster that runs. ``local`` is there when the measurement started it, and may kill its nodes."""

    native: str
    local: LocalCluster | None

    def describe(self) -> dict[str, Any]:
        """What belongs beside a figure."""
        if self.local is None:
            return {"cluster": self.native}
        where = self.local.options.folder
        return {"cluster": f"{len(self.local.nodes)} local processes", "file_system": file_system(where)}


@contextmanager
def target(options: TargetOptions) -> Iterator[Target]:
    """The cluster of one measurement; its own is stopped and its temporary folder removed at the end."""
    if options.cluster:
        yield Target(options.cluster, None)
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="corgi-bench-"))
    local = LocalCluster(
        LocalOptions(folder=folder, nodes=NODES, groups=options.groups, suspicion_ms=options.suspicion_ms)
    )
    try:
        with local:
            yield Target(local.native, local)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def fresh_topic() -> str:
    """A name that no run used before."""
    return f"bench-{secrets.token_hex(4)}"


def file_system(path: Path) -> str:
    """The type of the file system that holds ``path``, so that nobody is proud of a sync to memory."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, what, *_ = line.split(" ")
        mount = mount.encode().decode("unicode_escape")
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, what
    return kind


def median_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per number the median over the runs (of equal shape); what is no number is taken from the first run."""
    first = runs[0]
    out: dict[str, Any] = {}
    for key, value in first.items():
        if isinstance(value, Mapping):
            out[key] = median_of([run[key] for run in runs])
        elif isinstance(value, bool) or not isinstance(value, int | float):
            out[key] = value
        else:
            out[key] = round(statistics.median(run[key] for run in runs), 3)
    return out


def check_count(name: str, value: float, least: float, most: float) -> None:
    """Refuse a number out of its range with CorgiError "invalid-argument"."""
    if not least <= value <= most:
        raise CorgiError("invalid-argument", f"{name} = {value:g}: expected {least:g} to {most:g}")
