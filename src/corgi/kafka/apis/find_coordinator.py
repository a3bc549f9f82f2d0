"""FindCoordinator (10), versions 0 to 6: which node a consumer group or a transactional producer talks to.

A group's coordinator is the leader of the Paxos group that keeps it; transactions are taken by every node, and the one
named is the nearest to their record. There is always somebody to name: a node that is asked and leads nothing takes
over when nobody does. Share groups are not served.
"""

from __future__ import annotations

from typing import Annotated

from corgi.base.ids import NodeId
from corgi.broker.reigns import kept_in
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int8, Int16, Int32, Since, Until
from corgi.kafka.errors import Code
from corgi.kafka.front import Address

GROUP, TRANSACTION = 0, 1
_RESOURCES = {GROUP: Kind.GROUP, TRANSACTION: Kind.TRANSACTIONAL_ID}
_FLEXIBLE = 3
_NOWHERE = (NodeId(-1), ("", -1))


class Request(Body, frozen=True):
    key: Annotated[str, Until(3)] = ""
    kind: Annotated[Int8, Since(1)] = GROUP
    keys: Annotated[tuple[str, ...], Since(4)] = ()


class Coordinator(Body, frozen=True):
    key: str
    node: Int32
    host: str
    port: Int32
    error: Int16
    message: str | None = None


class Response(Body, frozen=True):
    throttle_ms: Annotated[Int32, Since(1)] = 0
    error: Annotated[Int16, Until(3)] = 0
    message: Annotated[str | None, Since(1), Until(3)] = None
    node: Annotated[Int32, Until(3)] = -1
    host: Annotated[str, Until(3)] = ""
    port: Annotated[Int32, Until(3)] = -1
    coordinators: Annotated[tuple[Coordinator, ...], Since(4)] = ()


def handle(call: Call[Request]) -> None:
    """From what this node knows of leaders, as soon as they are known to live."""
    call.front.when_sure(call, lambda: _tell(call))


def _tell(call: Call[Request]) -> None:
    if call.version >= 4:
        told = []
        for key in call.request.keys:
            error, (node, (host, port)) = _find(call, key)
            told.append(Coordinator(key, node, host, port, error))
        call.answer(Response(coordinators=tuple(told)))
        return
    error, (node, (host, port)) = _find(call, call.request.key)
    call.answer(Response(0, error, None, node, host, port))


def _find(call: Call[Request], key: str) -> tuple[Code, tuple[NodeId, Address]]:
    front = call.front
    resource = _RESOURCES.get(call.request.kind)
    refused = Code.INVALID_REQUEST if resource is None else call.refusal(Operation.DESCRIBE, resource, key)
    if refused:
        return refused, _NOWHERE
    if call.request.kind == GROUP:
        home = kept_in(key, front.node.options.groups)
    else:
        home = front.node.requests.transactions.decisions.home(key)
    node = front.lead(home, front.alive()).leader
    address = front.brokers(call.session.listener).get(node)
    return (Code.COORDINATOR_NOT_AVAILABLE, _NOWHERE) if address is None else (Code.NONE, (node, address))


API = Api(10, "FindCoordinator", (0, 6), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
