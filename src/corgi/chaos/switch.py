"""A switch between network namespaces: which packet goes where, when, and which never arrives.

Every ordered pair of ends is a way of its own, which can lose all packets, or some by chance, delay them, repeat them
and let them overtake each other. A way can refuse connections, and those that are there can be broken, with resets as
a host or a firewall sends them. What is lost is lost: to send it again is up to TCP at both ends.

Pure: packets and times in, packets out; knows no device. The switch holds a bounded number of packets.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from typing import NamedTuple

from corgi.chaos.packets import ACK, SYN, destination, resets, segment_at

DELAYED_MAX = 20_000  # packets; what comes then is lost, as in a device whose queue is full
CONNECTIONS_MAX = 4_096  # of a pair of ends whose connections are known
ASTRAY_S = 0.02  # a packet that goes astray comes at most so much later, and others overtake it


class Condition(NamedTuple):
    """How a way is. ``loss``, ``twice`` and ``astray``: how often a packet is lost, arrives twice, or is overtaken."""

    held: bool = False  # every packet is lost
    refused: bool = False
    delay_s: float = 0.0
    loss: float = 0.0
    twice: float = 0.0
    astray: float = 0.0


CALM = Condition()
Out = tuple[int, bytes]  # the end at which a packet leaves


class _Way:
    """From one end to another. ``connections`` and ``broken`` are shared with the way back: pairs of ports, that of the
    lower end first."""

    __slots__ = ("broken", "condition", "connections", "last_due", "source", "swapped", "target")

    def __init__(self, source: int, target: int, connections: dict[bytes, None], broken: set[bytes]) -> None:
        self.source = source
        self.target = target
        self.swapped = source > target
        self.condition = CALM
        self.connections = connections
        self.broken = broken
        self.last_due = 0.0

    def key(self, packet: bytes, at: int) -> bytes:
        return packet[at + 2 : at + 4] + packet[at : at + 2] if self.swapped else packet[at : at + 4]


class Switch:
    """``ends``: the address of each end as it is in packets. ``chance`` draws what is lost, repeated and overtaken."""

    def __init__(self, ends: Sequence[bytes], chance: random.Random) -> None:
        self._ends = {address: end for end, address in enumerate(ends)}
        self._chance = chance
        self._delayed: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._ways: dict[tuple[int, int], _Way] = {}
        for low in range(len(ends)):
            for high in range(low + 1, len(ends)):
                connections: dict[bytes, None] = {}
                broken: set[bytes] = set()
                self._ways[low, high] = _Way(low, high, connections, broken)
                self._ways[high, low] = _Way(high, low, connections, broken)

    @property
    def next_due(self) -> float | None:
        """When ``due`` has to be called next."""
        return self._delayed[0][0] if self._delayed else None

    def set(self, source: int, target: int, condition: Condition) -> None:
        """From now on the way is so; what is on it already arrives as it would have."""
        self._ways[source, target].condition = condition

    def reset(self, one: int, other: int) -> None:
        """Every connection between the two breaks, for both, as soon as either sends anything on it."""
        way = self._ways[one, other]
        way.broken.update(way.connections)
        way.connections.clear()

    def received(self, source: int, packet: bytes, now: float) -> Sequence[Out]:
        """A packet came in at an end: what leaves at once, and where."""
        target = self._ends.get(destination(packet))
        if target is None or target == source:
            return ()
        way = self._ways[source, target]
        condition = way.condition
        if condition.held or (condition.loss and self._chance.random() < condition.loss):
            return ()
        at = segment_at(packet)
        if at:
            if condition.refused:
                return [(source, resets(packet, at)[0])]
            if packet[at + 13] & SYN:
                self._opened(way, packet, at)
            elif way.broken and way.key(packet, at) in way.broken:
                back, onward = resets(packet, at)
                return [(source, back), (target, onward)]
        if condition == CALM:
            return ((target, packet),)
        return self._troubled(way, packet, now)

    def due(self, now: float) -> list[Out]:
        """What was delayed and leaves now."""
        out = []
        while self._delayed and self._delayed[0][0] <= now:
            _, _, target, packet = heapq.heappop(self._delayed)
            out.append((target, packet))
        return out

    def _opened(self, way: _Way, packet: bytes, at: int) -> None:
        key = way.key(packet, at)
        if packet[at + 13] & ACK:
            return
        way.broken.discard(key)
        way.connections[key] = None
        if len(way.connections) > CONNECTIONS_MAX:
            del way.connections[next(iter(way.connections))]
        if len(way.broken) > CONNECTIONS_MAX:
            way.broken.pop()

    def _troubled(self, way: _Way, packet: bytes, now: float) -> list[Out]:
        condition = way.condition
        out: list[Out] = []
        for _ in range(2 if condition.twice and self._chance.random() < condition.twice else 1):
            if condition.astray and self._chance.random() < condition.astray:
                self._delay(way, packet, now + condition.delay_s + self._chance.random() * ASTRAY_S)
            elif condition.delay_s:
                way.last_due = max(way.last_due, now + condition.delay_s)
                self._delay(way, packet, way.last_due)
            else:
                out.append((way.target, packet))
        return out

    def _delay(self, way: _Way, packet: bytes, due: float) -> None:
        if len(self._delayed) < DELAYED_MAX:
            self._count += 1
            heapq.heappush(self._delayed, (due, self._count, way.target, packet))
