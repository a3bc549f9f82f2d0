"""DescribeCluster (60), versions 0 to 2: the nodes that this one is connected to; since version 2 also the others, as
fenced ones, for who asks."""

from __future__ import annotations

from typing import Annotated

from corgi.kafka.access import NOT_ASKED
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int8, Int16, Int32, Since
from corgi.kafka.errors import Code

BROKERS = 1  # the kind of endpoint that clients talk to
_CONTROLLERS = 2


class Request(Body, frozen=True):
    operations: bool
    endpoints: Annotated[Int8, Since(1)] = BROKERS
    fenced: Annotated[bool, Since(2)] = False


class Broker(Body, frozen=True):
    node: Int32
    host: str
    port: Int32
    rack: str | None
    fenced: Annotated[bool, Since(2)] = False


class Response(Body, frozen=True):
    throttle_ms: Int32
    error: Int16
    message: str | None
    endpoints: Annotated[Int8, Since(1)] = BROKERS
    cluster: str = ""
    controller: Int32 = -1
    brokers: tuple[Broker, ...] = ()
    operations: Int32 = NOT_ASKED


def handle(call: Call[Request]) -> None:
    """Answered at once."""
    request, front = call.request, call.front
    if request.endpoints != BROKERS:
        code = Code.MISMATCHED_ENDPOINT_TYPE if request.endpoints == _CONTROLLERS else Code.UNSUPPORTED_ENDPOINT_TYPE
        call.answer(Response(0, code, "every node is a broker and none a controller alone", request.endpoints))
        return
    alive, labels = front.alive(), front.node.options.labels
    brokers = [
        Broker(node, host, port, labels.get(node) or None, node not in alive)
        for node, (host, port) in front.brokers(call.session.listener).items()
        if node in alive or request.fenced
    ]
    operations = call.cluster_operations() if request.operations else NOT_ASKED
    call.answer(Response(0, Code.NONE, None, BROKERS, front.cluster_id, front.controller(), tuple(brokers), operations))


API = Api(60, "DescribeCluster", (0, 2), 0, bodies(Request, 0), handle)
