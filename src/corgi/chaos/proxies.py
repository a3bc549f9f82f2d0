"""A network of proxies, for which nothing is needed: who dials reaches a link of the run's own, which passes bytes on.

Between nodes there is one link for each pair, dialled by the lower id; clients reach each node through a link of its
own. All links live in one process (``links_process``), which ends with this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from corgi.chaos.commanded import Commanded
from corgi.chaos.links import IN, LOOPBACK, OUT
from corgi.chaos.network import CLIENTS, Network


@dataclass(slots=True)
class _State:
    """How one link is."""

    held: list[bool] = field(default_factory=lambda: [False, False])
    delay_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    refused: bool = False


class Proxies(Network):
    """Made with the nodes' real ports; ``port(a, b)`` is where ``a`` believes ``b`` to listen."""

    def __init__(self, ports: Mapping[int, int]) -> None:
        super().__init__(ports)
        nodes = self.nodes
        pairs = [(CLIENTS, node) for node in nodes]
        pairs += [(low, high) for low in nodes for high in nodes if low < high]
        self._links = {pair: number for number, pair in enumerate(pairs)}
        self._states = [_State() for _ in pairs]
        self._process = Commanded("corgi.chaos.links_process", [(LOOPBACK, ports[high]) for _, high in pairs])
        self._ports = cast("list[int]", self._process.greeting)

    def port(self, dialling: int, listening: int) -> int:
        """Of the link between the two; ``dialling`` is CLIENTS or the lower node."""
        return self._ports[self._links[dialling, listening]]

    def hold(self, source: int, target: int) -> None:
        number, direction = self._direction(source, target)
        self._states[number].held[direction] = True
        self._tell(number)

    def slow(self, source: int, target: int, delay_s: float) -> None:
        number, direction = self._direction(source, target)
        self._states[number].delay_s[direction] = delay_s
        self._tell(number)

    def refuse(self, one: int, other: int) -> None:
        number, _ = self._direction(one, other)
        self._states[number].refused = True
        self._tell(number)

    def reset(self, one: int, other: int) -> None:
        number, _ = self._direction(one, other)
        self._tell(number, reset=True)

    def heal(self, *, reset: bool = False) -> None:
        """What was held arrives, or with ``reset`` is thrown away with its connections."""
        for number, state in enumerate(self._states):
            if any(state.held) or any(state.delay_s) or state.refused:
                broken = any(state.held)
                self._states[number] = _State()
                if reset and broken:  # while they are still held, so that nothing of them is passed on
                    self._send(number, _State([True, True]), reset=True)
                self._tell(number)

    def close(self) -> None:
        self._process.close()

    def _direction(self, source: int, target: int) -> tuple[int, int]:
        if source < target:
            return self._links[source, target], OUT
        return self._links[target, source], IN

    def _tell(self, number: int, *, reset: bool = False) -> None:
        self._send(number, self._states[number], reset=reset)

    def _send(self, number: int, state: _State, *, reset: bool) -> None:
        self._process.tell(
            {
                "link": number,
                "held": state.held,
                "delay_s": state.delay_s,
                "refused": state.refused,
                "reset": reset,
            }
        )
