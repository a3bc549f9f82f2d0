"""A local cluster whose nodes and clients meet through links that can be broken, and whose processes can be stopped.

What is done to a disk is in ``disks``; which fault is done when, in ``faults``.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

from corgi.base.errors import CorgiError
from corgi.chaos.links import LOOPBACK
from corgi.chaos.namespaces import Namespaces
from corgi.chaos.network import CLIENTS, Network
from corgi.chaos.node_process import IN_NAMESPACE, SUFFIX
from corgi.chaos.proxies import Proxies
from corgi.server.local import LocalCluster, LocalNode, LocalOptions

TERMINATE_S = 15.0


class ChaosCluster(LocalCluster):
    """Use as ``LocalCluster``; ``network`` is there from ``start`` on: proxies, if no other is given."""

    def __init__(self, options: LocalOptions, network: Namespaces | None = None) -> None:
        """``network`` stays the caller's to close; all that is done here is done in its observer's namespace."""
        super().__init__(options)
        self._namespaces = network
        self._proxies: Proxies | None = None
        self._halted: set[int] = set()

    @property
    def network(self) -> Network:
        network = self._namespaces or self._proxies
        if network is None:
            raise CorgiError("closed", "the cluster was not started")
        return network

    @property
    def native(self) -> str:
        """Where clients reach the nodes."""
        return ",".join(self.client_address(node) for node in self.nodes)

    @property
    def wal_folders(self) -> dict[int, Path]:
        return {node.node: node.folder / "wal" for node in self.nodes}

    @property
    def client_namespace(self) -> str:
        """The path of the namespace that clients have to enter; empty where there are none."""
        return self._namespaces.path(CLIENTS) if self._namespaces is not None else ""

    def host(self, number: int) -> str:
        return self._namespaces.host(number) if self._namespaces is not None else super().host(number)

    def program(self, node: LocalNode) -> tuple[str, ...]:
        program = super().program(node)
        return (*program, IN_NAMESPACE, self._namespaces.path(node.node)) if self._namespaces is not None else program

    def ports_known(self) -> None:
        if self._namespaces is None:
            self._proxies = Proxies({node.node: node.port for node in self.nodes})

    def peer_address(self, member: LocalNode, *, dialled_by: LocalNode) -> str:
        if self._proxies is not None and dialled_by.node < member.node:
            return f"{LOOPBACK}:{self._proxies.port(dialled_by.node, member.node)}"
        return member.native  # by proxies it is never dialled

    def client_address(self, member: LocalNode) -> str:
        if self._proxies is not None:
            return f"{LOOPBACK}:{self._proxies.port(CLIENTS, member.node)}"
        return member.native

    def halt(self, number: int) -> None:
        """SIGSTOP."""
        self._running(number).send_signal(signal.SIGSTOP)
        self._halted.add(number)

    def go_on(self, number: int) -> None:
        """SIGCONT."""
        if number in self._halted:
            self._halted.discard(number)
            self._running(number).send_signal(signal.SIGCONT)

    def terminate(self, number: int) -> None:
        """SIGTERM, and wait until the process has ended. Raises CorgiError "timeout"."""
        process = self._running(number)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(TERMINATE_S)
        except subprocess.TimeoutExpired:
            raise CorgiError("timeout", f"node {number} did not end {TERMINATE_S:.0f} s after SIGTERM") from None
        self.ended()

    def kill(self, number: int) -> float:
        self._halted.discard(number)
        at = super().kill(number)
        self.node(number).process = None
        return at

    def wipe(self, number: int) -> None:
        """The disk of a node that does not run is lost; its next start is as one that rejoins."""
        shutil.rmtree(self.node(number).folder)

    def suffer(self, number: int, *, slow_s: float = 0.0, full: bool = False, clock_ms: int = 0) -> None:
        """From now on each write of the node's disk takes so much longer, it has no room for another segment, and the
        node's clock is off by so much.

        Only for nodes whose program is ``node_process``.
        """
        self._tell_disk(number, slow_s, full=full, clock_ms=clock_ms)
        if self.node(number).pid:
            self._running(number).send_signal(signal.SIGUSR1)

    def _tell_disk(self, number: int, slow_s: float, *, full: bool, clock_ms: int = 0) -> None:
        path = self.node(number).config.with_suffix(SUFFIX)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps({"slow_s": slow_s, "full": full, "clock_ms": clock_ms}), encoding="utf-8")
        beside.rename(path)

    def resume_all(self) -> None:
        for number in list(self._halted):
            self.go_on(number)

    def stop(self, *, grace_s: float = 3.0) -> None:
        self.resume_all()
        super().stop(grace_s=grace_s)
        if self._proxies is not None:
            self._proxies.close()
