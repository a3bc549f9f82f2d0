"""A node's Kafka listeners together: begun and ended with the node, and told to it as facts of the outside world.

An unexpected fault in taking a request ends that client's connection, not the node: the same request would come again,
to the next node and the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from corgi.base.errors import CorgiError, InvariantError
from corgi.broker.node import Node
from corgi.kafka.front import Front, KafkaOptions
from corgi.kafka.session import KafkaSession
from corgi.kafka.table import APIS
from corgi.runtime.deriving import Deriving
from corgi.runtime.fault import fault_of
from corgi.runtime.kafka import KafkaListener, KafkaStatistics
from corgi.runtime.turn import Turn
from corgi.wire.receiver import Scratch

logger = logging.getLogger("corgi.kafka")


class Fact(Protocol):
    """Hands something to the node as a fact; raises the CorgiError with which it is rejected."""

    def __call__(self, tell: Callable[[], None], /) -> None: ...


class KafkaSide:
    """See the module. Without listeners it does nothing."""

    def __init__(self, fact: Fact) -> None:
        self._fact = fact
        self._listeners: list[KafkaListener] = []
        self._front: Front
        self._deriving: Deriving | None = None
        self.ports: dict[str, int] = {}  # by listener

    async def bind(self, listen: Mapping[str, tuple[str, int]], turn: Turn, scratch: Scratch) -> None:
        """Take the ports. Raises CorgiError "port-in-use", "invalid-configuration"."""
        if listen:
            self._deriving = Deriving(turn.loop)
        for name, (host, port) in listen.items():
            assert self._deriving is not None
            listener = KafkaListener(name, self, turn, scratch, self._deriving, lambda: self._front)
            self.ports[name] = await listener.bind(host, port)
            self._listeners.append(listener)

    async def listen(self, node: Node, options: KafkaOptions) -> None:
        """The node has started: serve. A node alone whose address nobody named is where it listens."""
        own, advertised = node.options.node, dict(options.advertised)
        for listener in self._listeners:
            advertised.setdefault(listener.name, {own: (listener.where[0], self.ports[listener.name])})
        self._front = Front(node, replace(options, advertised=advertised), APIS)
        for listener in self._listeners:
            await listener.listen()

    def stop_listening(self) -> None:
        for listener in self._listeners:
            listener.stop_listening()

    def abort(self) -> None:
        for listener in self._listeners:
            listener.abort()
        if self._deriving is not None:
            self._deriving.close()

    def statistics(self) -> tuple[tuple[str, KafkaStatistics], ...]:
        """By listener."""
        return tuple([(listener.name, listener.statistics()) for listener in self._listeners])

    # -- facts --------------------------------------------------------------------------------------------------------

    def kafka_request(self, session: KafkaSession, request: memoryview) -> None:
        try:
            self._fact(lambda: self._guard(session, lambda: session.received(request)))
        except CorgiError as error:
            session.fail(error)

    def kafka_closed(self, session: KafkaSession) -> None:
        self._fact(lambda: self._front.node.client_closed(session))

    def kafka_drained(self, session: KafkaSession) -> None:
        self._fact(lambda: self._front.node.client_drained(session))

    def kafka_later(self, session: KafkaSession, call: Callable[[], None]) -> None:
        try:
            self._fact(lambda: self._guard(session, call))
        except CorgiError as error:
            session.fail(error)

    def _guard(self, session: KafkaSession, call: Callable[[], None]) -> None:
        try:
            call()
        except InvariantError:
            raise
        except CorgiError as error:
            session.fail(error)
        except Exception as error:  # noqa: BLE001 - see the module
            fault = fault_of(error)
            logger.error("a Kafka client's request met a fault: %s", fault)
            counters = self._front.node.counters
            counters["request_faults"] = counters.get("request_faults", 0) + 1
            session.fail(fault)
