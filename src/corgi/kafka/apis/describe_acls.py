"""DescribeAcls (29), versions 1 to 3: the access rules in this node's configuration.

Without any there is nothing to describe (54), and consoles go on without.
"""

from __future__ import annotations

from corgi.kafka.access import CLUSTER_NAME, Kind, Operation
from corgi.kafka.acls import Entry, Filter, entries
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int8, Int16, Int32
from corgi.kafka.errors import Code

NO_RULES = "there are no access rules in the configuration of this node"
_FLEXIBLE = 2


class Request(Body, frozen=True):
    resource: Int8
    name: str | None
    pattern: Int8
    principal: str | None
    host: str | None
    operation: Int8
    permission: Int8


class Rule(Body, frozen=True):
    principal: str
    host: str
    operation: Int8
    permission: Int8


class Resource(Body, frozen=True):
    resource: Int8
    name: str
    pattern: Int8
    rules: tuple[Rule, ...]


class Response(Body, frozen=True):
    throttle_ms: Int32
    error: Int16
    message: str | None
    resources: tuple[Resource, ...] = ()


def handle(call: Call[Request]) -> None:
    """At once."""
    said, access = call.request, call.front.access
    if access is None:
        call.answer(Response(0, Code.SECURITY_DISABLED, NO_RULES))
        return
    refused = call.refusal(Operation.DESCRIBE, Kind.CLUSTER, CLUSTER_NAME)
    if refused:
        call.answer(Response(0, refused, "you may not describe the cluster"))
        return
    wanted = Filter(
        said.resource, said.name, said.pattern, said.principal, said.host, said.operation, said.permission
    )  # fmt: skip
    if not wanted.sound:
        call.answer(Response(0, Code.INVALID_REQUEST, "the filter has a number that means nothing"))
        return
    found: dict[tuple[int, str, int], list[Entry]] = {}
    for entry in entries(access):
        if wanted.takes(entry):
            found.setdefault((entry.resource, entry.name, entry.pattern), []).append(entry)
    resources = [
        Resource(
            *place, tuple([Rule(one.principal, one.host, one.operation, one.permission) for one in rules])
        )
        for place, rules in found.items()
    ]  # fmt: skip
    call.answer(Response(0, Code.NONE, None, tuple(resources)))


API = Api(29, "DescribeAcls", (1, 3), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
