"""The network of a cluster under test: who reaches whom, and how quickly.

Between nodes there is one link for each pair, dialled by the lower id; clients reach each node through a link of its
own. All links live in one process (``links_process``), which ends with this one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from corgi.base.errors import CorgiError
from corgi.chaos.links import IN, LOOPBACK, OUT

CLIENTS = 0  # stands for all clients where a node is expected
STOP_S = 3.0


@dataclass(slots=True)
class _State:
    """How one link is."""

    held: list[bool] = field(default_factory=lambda: [False, False])
    delay_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    refused: bool = False


class Network:
    """Made with the nodes' real ports; ``port(a, b)`` is where ``a`` believes ``b`` to listen."""

    def __init__(self, ports: Mapping[int, int]) -> None:
        nodes = sorted(ports)
        self.nodes = tuple(nodes)
        pairs = [(CLIENTS, node) for node in nodes]
        pairs += [(low, high) for low in nodes for high in nodes if low < high]
        self._links = {pair: number for number, pair in enumerate(pairs)}
        self._states = [_State() for _ in pairs]
        self._lock = threading.Lock()
        targets = [(LOOPBACK, ports[high]) for _, high in pairs]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "corgi.chaos.links_process", json.dumps(targets)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        told = self._line()
        self._ports: list[int] = json.loads(told)

    def port(self, dialling: int, listening: int) -> int:
        """Of the link between the two; ``dialling`` is CLIENTS or the lower node."""
        return self._ports[self._links[dialling, listening]]

    def hold(self, source: int, target: int) -> None:
        """From now on nothing that ``source`` sends reaches ``target``."""
        number, direction = self._direction(source, target)
        self._states[number].held[direction] = True
        self._tell(number)

    def slow(self, source: int, target: int, delay_s: float) -> None:
        """What ``source`` sends arrives so much later."""
        number, direction = self._direction(source, target)
        self._states[number].delay_s[direction] = delay_s
        self._tell(number)

    def refuse(self, one: int, other: int) -> None:
        """Break what is connected, and refuse what dials."""
        number, _ = self._direction(one, other)
        self._states[number].refused = True
        self._tell(number)

    def reset(self, one: int, other: int) -> None:
        """Break what is connected, once."""
        number, _ = self._direction(one, other)
        self._tell(number, reset=True)

    def cut(self, one: int, other: int) -> None:
        """Nothing passes, in either direction."""
        self.hold(one, other)
        self.hold(other, one)

    def isolate(self, node: int, others: Iterable[int] = ()) -> None:
        """Cut a node off from ``others``, by default from all nodes; clients reach it still."""
        for other in others or self.nodes:
            if other != node:
                self.cut(node, other)

    def heal(self, *, reset: bool = False) -> None:
        """Everything passes at once. ``reset``: what was held is thrown away with its connections."""
        for number, state in enumerate(self._states):
            if any(state.held) or any(state.delay_s) or state.refused:
                broken = any(state.held)
                self._states[number] = _State()
                if reset and broken:
                    self._tell_reset_first(number)
                self._tell(number)

    def close(self) -> None:
        """End the process of the links; safe to call twice."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _direction(self, source: int, target: int) -> tuple[int, int]:
        if source < target:
            return self._links[source, target], OUT
        return self._links[target, source], IN

    def _tell_reset_first(self, number: int) -> None:
        """Break the connections while they are still held, so that nothing of them is passed on."""
        self._send({"link": number, "held": [True, True], "delay_s": [0.0, 0.0], "refused": False, "reset": True})

    def _tell(self, number: int, *, reset: bool = False) -> None:
        state = self._states[number]
        self._send(
            {
                "link": number,
                "held": state.held,
                "delay_s": state.delay_s,
                "refused": state.refused,
                "reset": reset,
            }
        )

    def _send(self, command: dict[str, object]) -> None:
        """Returns when it is done."""
        assert self._process.stdin is not None
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(command) + "\n")
                self._process.stdin.flush()
            except OSError:
                raise CorgiError("closed", "the process that holds the links has ended") from None
            self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CorgiError("closed", "the process that holds the links has ended")
        return line
