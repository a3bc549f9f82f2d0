"""CreateAcls (30), versions 1 to 3: refused one by one (54), as nothing authenticates clients."""

from __future__ import annotations

from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.apis.describe_acls import WHY
from corgi.kafka.codec import Body, Int8, Int16, Int32
from corgi.kafka.errors import Code

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


def handle(call: Call[Request]) -> None:
    """Answered at once."""
    call.answer(Response(0, (Result(Code.SECURITY_DISABLED, WHY),) * len(call.request.rules)))


API = Api(30, "CreateAcls", (1, 3), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
