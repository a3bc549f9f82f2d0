"""LeaveGroup (13), versions 0 to 5: members go, since version 3 several at once, by member id or instance id."""

from __future__ import annotations

from typing import Annotated

from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Since, Until
from corgi.kafka.errors import Code, group_code_of

_FLEXIBLE = 4
_BATCH_SINCE = 3


class Leaving(Body, frozen=True):
    member: str = ""
    instance: str | None = None
    reason: Annotated[str | None, Since(5)] = None


class Request(Body, frozen=True):
    group: str = ""
    member: Annotated[str, Until(2)] = ""
    members: Annotated[tuple[Leaving, ...], Since(3)] = ()


class Left(Body, frozen=True):
    member: str
    instance: str | None
    error: Int16


class Response(Body, frozen=True):
    throttle_ms: Annotated[Int32, Since(1)] = 0
    error: Int16 = 0
    members: Annotated[tuple[Left, ...], Since(3)] = ()


def handle(call: Call[Request]) -> None:
    """At once; the rest of the group hears of it by its heartbeats."""
    said = call.request
    refused = call.refusal(Operation.READ, Kind.GROUP, said.group)
    if refused:
        call.answer(Response(0, refused))
        return
    leaving = said.members if call.version >= _BATCH_SINCE else (Leaving(said.member),)

    def left(error: int, errors: list[int]) -> None:
        if error or call.version < _BATCH_SINCE:
            call.answer(Response(0, group_code_of(error or next(iter(errors), 0))))
            return
        told = [
            Left(one.member, one.instance, group_code_of(number)) for one, number in zip(leaving, errors, strict=True)
        ]
        call.answer(Response(0, Code.NONE, tuple(told)))

    who = [(one.member, one.instance or "") for one in leaving]
    call.front.node.requests.classic.leave(call.session, said.group, who, left)


API = Api(13, "LeaveGroup", (0, 5), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
