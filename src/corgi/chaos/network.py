"""The network of a cluster under test, whatever it is made of: who reaches whom, and how well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

CLIENTS = 0  # stands for all clients where a node is expected


class Network(ABC):
    """Between any two nodes, and between the clients and each node, there is a link that can be broken."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self.nodes: Sequence[int] = sorted(nodes)

    @abstractmethod
    def hold(self, source: int, target: int) -> None:
        """From now on nothing that ``source`` sends reaches ``target``."""

    @abstractmethod
    def slow(self, source: int, target: int, delay_s: float) -> None:
        """What ``source`` sends arrives so much later."""

    @abstractmethod
    def refuse(self, one: int, other: int) -> None:
        """Break what is connected, and refuse what dials."""

    @abstractmethod
    def reset(self, one: int, other: int) -> None:
        """Break what is connected, once."""

    @abstractmethod
    def heal(self, *, reset: bool = False) -> None:
        """Everything passes at once. ``reset``: where nothing passed, connections break."""

    @abstractmethod
    def close(self) -> None:
        """End every process of the network; safe to call twice."""

    def cut(self, one: int, other: int) -> None:
        """Nothing passes, in either direction."""
        self.hold(one, other)
        self.hold(other, one)

    def isolate(self, node: int, others: Iterable[int] = ()) -> None:
        """Cut a node off from ``others``, by default from all nodes; clients reach it still."""
        for other in others or self.nodes:
            if other != node:
                self.cut(node, other)


class PacketNetwork(Network):
    """One that carries packets: what a link loses is lost, and to send it again is up to both ends."""

    @abstractmethod
    def lose(self, source: int, target: int, *, loss: float, twice: float, astray: float) -> None:
        """So often a packet of ``source`` is lost, comes twice, or is overtaken."""
