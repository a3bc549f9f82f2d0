"""``corgi dev``: a whole cluster in the foreground, for trying things out and for tests of other programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json, stderr_console
from corgi.cli.words import say

if TYPE_CHECKING:
    from corgi.server.local import LocalCluster

WATCH_S = 0.5  # how often a node that ended by itself is looked for


def dev(
    *,
    nodes: int = 3,
    dir: Path | None = None,
    port: int | None = None,
    groups: int = 8,
    suspicion_ms: int = 150,
    output: OutputOption = "table",
) -> int:
    """Run a local cluster in the foreground; Ctrl-C stops it.

    Each node is a process of its own on the loopback. Kill one and watch: nothing is restarted by itself.

    Examples:

    corgi dev

    corgi dev --nodes 1 --port 0

    corgi dev --dir ./cluster      (kept, and continued the next time)

    JSON, one line when the cluster serves: {"native": "host:port,…", "cluster", "nodes": [{"id", "pid", "native",
    "dir", "log"}]}

    Parameters
    ----------
    nodes
        How many, 1 to 9.
    dir
        Folder for the data; by default a temporary one, removed at the end.
    port
        Port of the first node, the others follow; 0: free ones. By default 7450, or free ones where it is taken.
    groups
        Paxos groups.
    suspicion_ms
        Silence after which a node is suspected by the others.
    """
    from corgi.server.local import LocalOptions

    with _folder(dir) as folder, _stop_signals() as stop:
        options = LocalOptions(folder=folder, nodes=nodes, port=port or 0, groups=groups, suspicion_ms=suspicion_ms)
        cluster = _start(options, port)
        try:
            if output == "json":
                print_json(cluster.describe())
            else:
                _welcome(cluster, kept=dir is not None)
            return _watch(cluster, stop)
        finally:
            cluster.stop(grace_s=3.0 if dir is not None else 0.0)
