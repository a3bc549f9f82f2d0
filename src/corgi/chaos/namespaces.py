"""A network of packets: every node in a network namespace of its own, the clients in another, a switch between them.

It needs Linux and the privilege to make namespaces (root has it), and touches nothing of the machine's own network: the
namespaces reach each other only, through a switch of the run's own (``switch_process``) that loses, delays, repeats and
reorders packets. So TCP does what it does in a broken network: it sends again, backs off, and breaks when told to.

Whoever starts nodes and asks them stands in one more namespace, whose links never break.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Literal, cast

from corgi.base.errors import CorgiError
from corgi.chaos.commanded import Commanded
from corgi.chaos.namespace import standing_in
from corgi.chaos.network import CLIENTS, PacketNetwork
from corgi.chaos.switch import CALM, Condition

_SUBNET = "10.77.0"
_CLIENTS_HOST, _OBSERVER_HOST = 100, 101


class Namespaces(PacketNetwork):
    """Use ``made`` to get one."""

    def __init__(self, nodes: int) -> None:
        """Raises CorgiError "invalid-argument" when the kernel or the privileges do not suffice."""
        super().__init__(range(1, nodes + 1))
        ends = [self.host(end) for end in (CLIENTS, *self.nodes)] + [f"{_SUBNET}.{_OBSERVER_HOST}"]
        seed = random.SystemRandom().randrange(2**32)
        self._process = Commanded("corgi.chaos.switch_process", {"ends": ends, "seed": seed})
        greeting = cast("dict[str, object]", self._process.greeting)
        if "error" in greeting:
            self._process.close()
            hint = "run as root, with /dev/net/tun there, or use --network proxies"
            raise CorgiError("invalid-argument", f"network namespaces cannot be made: {greeting['error']}", hint=hint)
        self._paths = cast("list[str]", greeting["namespaces"])
        self._conditions: dict[tuple[int, int], Condition] = {}

    def host(self, end: int) -> str:
        """The address of a node, or of the clients."""
        return f"{_SUBNET}.{end or _CLIENTS_HOST}"

    def path(self, end: int) -> str:
        """Of the namespace in which a node, or every client, is to run; for ``namespace.enter``."""
        return self._paths[end]

    @property
    def observer(self) -> str:
        """The path of the namespace from which every node is reached, always."""
        return self._paths[-1]

    def hold(self, source: int, target: int) -> None:
        self._set(source, target, self._condition(source, target)._replace(held=True))

    def slow(self, source: int, target: int, delay_s: float) -> None:
        self._set(source, target, self._condition(source, target)._replace(delay_s=delay_s))

    def lose(self, source: int, target: int, *, loss: float, twice: float, astray: float) -> None:
        condition = self._condition(source, target)
        self._set(source, target, condition._replace(loss=loss, twice=twice, astray=astray))

    def refuse(self, one: int, other: int) -> None:
        for source, target in ((one, other), (other, one)):
            self._set(source, target, self._condition(source, target)._replace(refused=True))

    def reset(self, one: int, other: int) -> None:
        self._tell(one, other, reset=True)

    def heal(self, *, reset: bool = False) -> None:
        """What was lost meanwhile is sent again by TCP; with ``reset`` it is answered with a reset then."""
        for (source, target), condition in list(self._conditions.items()):
            del self._conditions[source, target]
            self._tell(source, target, reset=reset and condition.held)

    def close(self) -> None:
        self._process.close()

    def _condition(self, source: int, target: int) -> Condition:
        return self._conditions.get((source, target), CALM)

    def _set(self, source: int, target: int, condition: Condition) -> None:
        self._conditions[source, target] = condition
        self._tell(source, target)

    def _tell(self, source: int, target: int, *, reset: bool = False) -> None:
        condition = self._condition(source, target)
        self._process.tell({"source": source, "target": target, "condition": condition, "reset": reset})


@contextlib.contextmanager
def made(nodes: int) -> Iterator[Namespaces]:
    """The network, with the calling thread standing in its observer's namespace; to be entered before any event loop.

    Raises CorgiError "invalid-argument" when it cannot be made.
    """
    network = Namespaces(nodes)
    try:
        with standing_in(network.observer):
            yield network
    finally:
        network.close()


@contextlib.contextmanager
def chosen(wanted: Literal["auto", "namespaces", "proxies"], nodes: int) -> Iterator[tuple[Namespaces | None, str]]:
    """As ``made``, or None for proxies; and why it is proxies, if those were not asked for."""
    with contextlib.ExitStack() as stack:
        network, reason = None, ""
        if wanted != "proxies":
            try:
                network = stack.enter_context(made(nodes))
            except CorgiError as error:
                if wanted == "namespaces":
                    raise
                reason = error.message
        yield network, reason
