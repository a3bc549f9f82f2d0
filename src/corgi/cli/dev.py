"""``corgi dev``: a whole cluster in the foreground, for trying things out and for tests of other programs."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from corgi.base.errors import CorgiError
from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json, stderr_console
from corgi.cli.words import say
from corgi.server.address import KAFKA_PORT, NATIVE_PORT

if TYPE_CHECKING:
    from corgi.server.local import LocalCluster, LocalOptions

WATCH_S = 0.5  # how often a node that ended by itself is looked for


def dev(
    *,
    nodes: int = 3,
    dir: Path | None = None,
    port: int | None = None,
    kafka_port: int | None = None,
    groups: int = 8,
    suspicion_ms: int = 150,
    output: OutputOption = "table",
) -> int:
    """Run a local cluster in the foreground; Ctrl-C stops it.

    Each node is a process of its own on the loopback. Kill one and watch:
    nothing is restarted by itself.

    Examples:

    corgi dev

    corgi dev --nodes 1 --port 0

    corgi dev --dir ./cluster      (kept, and continued the next time)

    JSON, one line when the cluster serves: {"native": "host:port,…",
    "kafka": "host:port,…", "cluster", "nodes": [{"id", "pid", "native",
    "kafka", "dir", "log"}]}

    Parameters
    ----------
    nodes
        How many, 1 to 9.
    dir
        Folder for the data; by default a temporary one, removed at the end.
    port
        Port of the first node, the others follow; 0: free ones. By default
        7450, or free ones where it is taken.
    kafka_port
        The same for Kafka's clients; by default 9092, or free ones.
    groups
        Paxos groups.
    suspicion_ms
        Silence after which a node is suspected by the others.
    """
    from corgi.server.local import LocalOptions

    with _folder(dir) as folder, _stop_signals() as stop:
        options = LocalOptions(
            folder=folder,
            nodes=nodes,
            port=port or 0,
            kafka_port=kafka_port or 0,
            groups=groups,
            suspicion_ms=suspicion_ms,
        )
        cluster = _start(options, port, kafka_port)
        try:
            if output == "json":
                print_json(cluster.describe())
            else:
                _welcome(cluster, kept=dir is not None)
            return _watch(cluster, stop)
        finally:
            cluster.stop(grace_s=3.0 if dir is not None else 0.0)


def _start(options: LocalOptions, port: int | None, kafka_port: int | None) -> LocalCluster:
    """Start on the default ports when none were asked for, with free ones instead of those that are taken."""
    from corgi.server.local import LocalCluster

    natives = (NATIVE_PORT, 0) if port is None else (port,)
    kafkas = (KAFKA_PORT, 0) if port is None and kafka_port is None else (kafka_port or 0,)
    *tries, last = itertools.product(natives, kafkas)
    taken: dict[str, None] = {}
    for native, kafka in tries:
        cluster = LocalCluster(dataclasses.replace(options, port=native, kafka_port=kafka))
        try:
            cluster.start()
            break
        except CorgiError as error:
            if error.code != "port-in-use":
                raise
            taken[error.message] = None
    else:
        cluster = LocalCluster(dataclasses.replace(options, port=last[0], kafka_port=last[1]))
        cluster.start()
    for message in taken:
        say(f"{message}: free ports are used instead")
    return cluster


def _watch(cluster: LocalCluster, stop: threading.Event) -> int:
    """Until a signal comes or no node is left."""
    while not stop.wait(WATCH_S):
        for node, code in cluster.ended():
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            say(f"node {node.node} ended ({how}); start it again: corgi server --config {node.config}")
        if not any(node.pid for node in cluster.nodes):
            raise CorgiError("closed", "no node is left", hint=f"see the logs in {cluster.options.folder}")
    return Exit.OK


def _welcome(cluster: LocalCluster, *, kept: bool) -> None:
    """Words for a person, so on stderr."""
    from rich.panel import Panel
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("node", "pid", "address", "kafka", "folder"):
        table.add_column(column, overflow="fold")
    for node in cluster.nodes:
        table.add_row(str(node.node), str(node.pid), node.native, node.kafka, str(node.folder))
    console = stderr_console()
    console.print(Panel(table, title="[bold]Corgi[/] is up", title_align="left", expand=False))
    there = "" if cluster.nodes[0].port == NATIVE_PORT else f" --cluster {cluster.native}"
    say("Try, in another terminal:")
    say(f"  corgi topic create hello --partitions 4{there}")
    say(f"  corgi sub hello --start earliest{there}")
    say(f"  echo world | corgi pub hello{there}")
    if len(cluster.nodes) > 2:
        say(f"  kill -9 {cluster.nodes[0].pid}      and see that nothing is lost")
    say(f"Ctrl-C stops it; {'the data stays' if kept else 'the data goes with it'}.")


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """The folder that was given, or a temporary one that is removed at the end."""
    if given is not None:
        yield given.absolute()
        return
    temporary = Path(tempfile.mkdtemp(prefix="corgi-dev-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set; a second one interrupts whatever is still going on."""
    stop = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
