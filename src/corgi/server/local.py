"""A cluster of node processes on this machine: for `corgi dev`, the load harness, the demonstration and
tests.

Each node is a `corgi server` with a configuration, a folder and a log file of its own. The nodes end with
the process that started them, however it ends: each holds the reading end of a pipe that closes with its
parent. Nothing is restarted by itself.
"""

from __future__ import annotations

import asyncio
import json
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from corgi.base.errors import BY_CODE, CorgiError
from corgi.base.limits import GROUPS_DEFAULT, GROUPS_MAX, NODES_MAX, SUSPICION_S
from corgi.client.corgi import connect
from corgi.server.address import LOOPBACK, is_loopback
from corgi.server.config import UNSAFE_PHRASE
from corgi.server.example import new_cluster_id
from corgi.server.ports import Reservation, reserve_free, reserve_from

IDENTITY_FILE = "cluster.json"
START_TIMEOUT_S = 30.0
LEADERS_TIMEOUT_S = 15.0
POLL_S = 0.02
STOP_TIMEOUT_S = 3.0
STOP_TIMEOUT_MS = 500  # of a node; when all stop at once there is nobody to hand over to
_ERROR_LINE = re.compile(r"^error: (?P<message>.*) \[(?P<code>[a-z-]+)\]$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """``folder`` may hold a cluster of an earlier run, which is then continued. Ports 0: free ones."""

    folder: Path
    nodes: int = 3
    port: int = 0
    kafka_port: int | None = None  # None: no Kafka listeners
    groups: int = GROUPS_DEFAULT
    suspicion_ms: int = round(SUSPICION_S * 1000)
    log_level: str = "info"
    configuration: str = ""  # more of every node's file, as TOML
    environment: dict[str, str] | None = None  # of the node processes; None: this one's
    program: tuple[str, ...] = ("corgi", "server")  # the module that is a node, and its first arguments


@dataclass(slots=True)
class LocalNode:
    """One node: where it lives and, while it runs, its process."""

    node: int
    port: int
    folder: Path
    config: Path
    log: Path
    host: str = LOOPBACK
    kafka_port: int = 0
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def native(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def kafka(self) -> str:
        """Where Kafka's clients are served; empty: nowhere."""
        return f"{self.host}:{self.kafka_port}" if self.kafka_port else ""

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        return self.process.pid if self.process is not None and self.process.poll() is None else 0

    @property
    def bootstrapped(self) -> bool:
        return (self.folder / "node.json").exists()


class LocalCluster:
    """Starts, kills, restarts and stops the processes; a context manager that stops them at the end."""

    def __init__(self, options: LocalOptions) -> None:
        if not 1 <= options.nodes <= NODES_MAX:
            raise CorgiError("invalid-argument", f"nodes = {options.nodes}: expected 1 to {NODES_MAX}")
        if not 1 <= options.groups <= GROUPS_MAX:
            raise CorgiError("invalid-argument", f"groups = {options.groups}: expected 1 to {GROUPS_MAX}")
        self.options = options
        self.cluster_id = ""
        self.nodes: list[LocalNode] = []
        self._ports: Reservation | None = None
        self._kafka_ports: Reservation | None = None
        self._made = False  # every node was bootstrapped: one whose folder is empty now has lost its disk

    @property
    def native(self) -> str:
        """All nodes as one string for ``corgi.connect`` and --cluster."""
        return ",".join(node.native for node in self.nodes)

    @property
    def kafka(self) -> str:
        """All nodes as one string for the bootstrap.servers of Kafka's clients."""
        return ",".join(node.kafka for node in self.nodes if node.kafka_port)

    def describe(self) -> dict[str, Any]:
        """What `corgi dev --output json` prints."""
        nodes = [
            {
                "id": node.node,
                "pid": node.pid,
                "native": node.native,
                "kafka": node.kafka,
                "dir": str(node.folder),
                "log": str(node.log),
            }
            for node in self.nodes
        ]
        return {"native": self.native, "kafka": self.kafka, "cluster": self.cluster_id, "nodes": nodes}

    def start(self) -> None:
        """Start all nodes and return when they serve: each listens, and every group has its leader.

        Raises the error of the first that cannot. Blocks; not to be called in a thread that runs an event loop.
        """
        options = self.options
        try:
            options.folder.mkdir(parents=True, exist_ok=True)
            self._settle_identity()
        except OSError as error:
            told = f"the folder {options.folder} cannot be used: {error.strerror or error}"
            raise CorgiError("invalid-configuration", told, hint="give a folder that you may write to") from None
        self._reserve_ports()
        try:
            self.ports_known()
            for node in self.nodes:
                node.config.write_text(self._config_of(node), encoding="utf-8")
            self.start_nodes(self.nodes)
            asyncio.run(_wait_until_led(self.native))
            self._note_made()
        except BaseException:
            self.stop(grace_s=0.0)
            raise

    def host(self, number: int) -> str:
        """Where a node listens."""
        return LOOPBACK

    def program(self, node: LocalNode) -> tuple[str, ...]:
        """The module that is the node, and its first arguments."""
        return self.options.program

    def _reserve_ports(self) -> None:
        options = self.options
        self._ports = reserve_from(options.port, options.nodes) if options.port else reserve_free(options.nodes)
        kafka_ports: tuple[int, ...] = (0,) * options.nodes
        if options.kafka_port is not None:
            try:
                base = options.kafka_port
                self._kafka_ports = reserve_from(base, options.nodes) if base else reserve_free(options.nodes)
            except BaseException:
                self._ports.release()
                raise
            kafka_ports = self._kafka_ports.ports
        for number, (port, kafka_port) in enumerate(zip(self._ports.ports, kafka_ports, strict=True), start=1):
            place = options.folder / f"node-{number}"
            files = (place, place.with_suffix(".toml"), place.with_suffix(".log"))
            self.nodes.append(LocalNode(number, port, *files, self.host(number), kafka_port))

    def ports_known(self) -> None:
        """Called by ``start`` between choosing the nodes' ports and writing their configurations."""

    def peer_address(self, member: LocalNode, *, dialled_by: LocalNode) -> str:
        """host:port by which one node reaches another."""
        return member.native

    def client_address(self, member: LocalNode) -> str:
        """host:port by which clients reach a node."""
        return member.native

    def start_nodes(self, nodes: Sequence[LocalNode], *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start processes for these nodes, at once, and wait until each says that it listens."""
        deadline = time.monotonic() + timeout_s
        for node in nodes:
            self._spawn(node)
        for node in nodes:
            _wait_until_ready(node, deadline)

    def node(self, number: int) -> LocalNode:
        """By id."""
        return self.nodes[number - 1]

    def kill(self, number: int) -> float:
        """kill -9; returns the monotonic time just before the signal."""
        process = self._running(number)
        at = time.monotonic()
        process.send_signal(signal.SIGKILL)
        process.wait()
        _close_pipes(process)
        return at

    def ended(self) -> list[tuple[LocalNode, int]]:
        """Nodes whose process has ended by itself, with its exit code (negative: the signal)."""
        out = []
        for node in self.nodes:
            code = node.process.poll() if node.process is not None else None
            if code is not None and node.process is not None:
                _close_pipes(node.process)
                node.process = None
                out.append((node, code))
        return out

    def stop(self, *, grace_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM to all, SIGKILL to those that are left after ``grace_s``; safe to call twice."""
        running = [node.process for node in self.nodes if node.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM if grace_s > 0 else signal.SIGKILL)
        deadline = time.monotonic() + grace_s
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close_pipes(process)
        for node in self.nodes:
            node.process = None
        for ports in (self._ports, self._kafka_ports):
            if ports is not None:
                ports.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self, number: int) -> subprocess.Popen[str]:
        process = self.node(number).process
        if process is None or process.poll() is not None:
            raise CorgiError("invalid-argument", f"node {number} does not run")
        return process

    def _settle_identity(self) -> None:
        """The cluster that the folder holds, or a new one written there before any node starts."""
        path = self.options.folder / IDENTITY_FILE
        wanted = {"nodes": self.options.nodes, "groups": self.options.groups}
        if not path.exists():
            self.cluster_id = new_cluster_id()
            self._write_identity()
            return
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            self.cluster_id = str(held["cluster"])
            self._made = bool(held["made"])
            found = {key: int(held[key]) for key in wanted}
        except (ValueError, KeyError, TypeError):
            raise CorgiError("invalid-configuration", f"{path} does not describe a local cluster") from None
        if found != wanted:
            told = ", ".join(f"{key} {value}" for key, value in found.items())
            raise CorgiError(
                "invalid-configuration",
                f"the folder {self.options.folder} holds a cluster with {told}",
                hint="ask for the same numbers, or give another folder",
            )

    def _note_made(self) -> None:
        if not self._made:
            self._made = True
            self._write_identity()

    def _write_identity(self) -> None:
        identity = {
            "cluster": self.cluster_id,
            "nodes": self.options.nodes,
            "groups": self.options.groups,
            "made": self._made,
        }
        path = self.options.folder / IDENTITY_FILE
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(identity) + "\n", encoding="utf-8")
        beside.rename(path)

    def _config_of(self, node: LocalNode) -> str:
        options = self.options
        lines = [
            f"node = {node.node}",
            f"data = {json.dumps(str(node.folder.resolve()))}",
            f'listen = "{node.native}"',
            f'cluster_id = "{self.cluster_id}"',
            'cluster_name = "local"',
            f"groups = {options.groups}",
            f"suspicion_ms = {options.suspicion_ms}",
            f"stop_timeout_ms = {STOP_TIMEOUT_MS}",
            f'log_level = "{options.log_level}"',
            'log_format = "json"',
            f'kafka_listen = "{node.kafka}"',
        ]
        if not is_loopback(node.host):
            lines.append(f"listen_without_authentication = {json.dumps(UNSAFE_PHRASE)}")
        lines.append(options.configuration)
        for member in self.nodes:
            label = f"host-{member.node}"
            lines += [
                "",
                "[[members]]",
                f"node = {member.node}",
                f'address = "{self.peer_address(member, dialled_by=node)}"',
                f'advertised = "{self.client_address(member)}"',
                f'label = "{label}"',
                f'kafka = "{member.kafka}"',
            ]
        return "\n".join(lines) + "\n"

    def _spawn(self, node: LocalNode) -> None:
        command = [sys.executable, "-m", *self.program(node), "--config", str(node.config)]
        command += ["--output", "json", "--stop-with-stdin"]
        if not node.bootstrapped:
            command.append("--rejoin" if self._made else "--bootstrap")
        with node.log.open("ab") as log:
            node.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the parent, which stops its nodes in order
                env=self.options.environment,
            )


def _wait_until_ready(node: LocalNode, deadline: float) -> None:
    """A node prints one JSON line on stdout when it listens."""
    process = node.process
    assert process is not None
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not selector.select(max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                raise CorgiError("timeout", f"node {node.node} did not listen in time", hint=f"see {node.log}")
    if not process.stdout.readline():
        process.wait()
        raise _error_of(node)


async def _wait_until_led(native: str) -> None:
    """Until the leader of every group says so itself."""
    try:
        async with asyncio.timeout(LEADERS_TIMEOUT_S), connect(native) as mq:
            while True:
                replies = await mq.status()
                groups = {group.group for reply in replies for group in reply.groups}
                led = {group.group for reply in replies for group in reply.groups if group.leader == reply.node}
                if groups and led == groups:
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise CorgiError("timeout", "the nodes run and did not agree on leaders in time") from None


def _error_of(node: LocalNode) -> CorgiError:
    """What a node that ended at once has told its log."""
    text = node.log.read_text(encoding="utf-8", errors="replace")
    told = list(_ERROR_LINE.finditer(text))
    code = told[-1]["code"] if told else "closed"
    message = told[-1]["message"] if told else "its process ended without a word"
    return CorgiError(code if code in BY_CODE else "closed", f"node {node.node}: {message}", hint=f"see {node.log}")


def _close_pipes(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
