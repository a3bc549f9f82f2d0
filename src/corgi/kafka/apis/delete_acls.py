"""DeleteAcls (31), versions 1 to 3: refused filter by filter. Access rules stand in the configuration of the nodes."""

from __future__ import annotations

from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.apis.create_acls import why_not
from corgi.kafka.codec import Body, Int8, Int16, Int32

_FLEXIBLE = 2


class Filter(Body, frozen=True):
    resource: Int8
    name: str | None
    pattern: Int8
    principal: str | None
    host: str | None
    operation: Int8
    permission: Int8


class Request(Body, frozen=True):
    filters: tuple[Filter, ...]


class Match(Body, frozen=True):
    error: Int16
    message: str | None
    resource: Int8
    name: str
    pattern: Int8
    principal: str
    host: str
    operation: Int8
    permission: Int8


class Result(Body, frozen=True):
    error: Int16
    message: str | None
    matches: tuple[Match, ...] = ()


class Response(Body, frozen=True):
    throttle_ms: Int32
    results: tuple[Result, ...]


def handle(call: Call[Request]) -> None:
    """At once."""
    call.answer(Response(0, (Result(*why_not(call)),) * len(call.request.filters)))


API = Api(31, "DeleteAcls", (1, 3), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
