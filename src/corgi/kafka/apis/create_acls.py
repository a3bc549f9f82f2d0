"""CreateAcls (30), versions 1 to 3: refused one by one. Access rules stand in the configuration of the nodes."""

from __future__ import annotations

from corgi.kafka.access import CLUSTER_NAME, Kind, Operation
from corgi.kafka.api import AnyCall, Api, Call, bodies
from corgi.kafka.apis.describe_acls import NO_RULES
from corgi.kafka.codec import Body, Int8, Int16, Int32
from corgi.kafka.errors import Code

WHY = "access rules stand in the configuration of the nodes, which is read at their start"
_FLEXIBLE = 2


class Wanted(Body, frozen=True):
    resource: Int8
    name: str
    pattern: Int8
    principal: str
    host: str
    operation: Int8
    permission: Int8


class Request(Body, frozen=True):
    rules: tuple[Wanted, ...]


class Result(Body, frozen=True):
    error: Int16
    message: str | None


class Response(Body, frozen=True):
    throttle_ms: Int32
    results: tuple[Result, ...]


def why_not(call: AnyCall) -> tuple[Code, str]:
    """Why rules are not changed by request: without any nobody is asked who may (54)."""
    if call.front.access is None:
        return Code.SECURITY_DISABLED, NO_RULES
    refused = call.refusal(Operation.ALTER, Kind.CLUSTER, CLUSTER_NAME)
    return (refused, "you may not alter the cluster") if refused else (Code.POLICY_VIOLATION, WHY)


def handle(call: Call[Request]) -> None:
    """At once."""
    call.answer(Response(0, (Result(*why_not(call)),) * len(call.request.rules)))


API = Api(30, "CreateAcls", (1, 3), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
