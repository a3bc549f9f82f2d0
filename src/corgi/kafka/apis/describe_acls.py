"""DescribeAcls (29), versions 1 to 3: there are none, as nothing authenticates clients; consoles go on without (54)."""

from __future__ import annotations

from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int8, Int16, Int32
from corgi.kafka.errors import Code

WHY = "no users are known here, so there are no access rules"
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
    """Answered at once."""
    call.answer(Response(0, Code.SECURITY_DISABLED, WHY))


API = Api(29, "DescribeAcls", (1, 3), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
