"""Heartbeat (12), versions 0 to 4: a member lives; it hears whether it has to join again."""

from __future__ import annotations

from typing import Annotated

from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Since
from corgi.kafka.errors import group_code_of

_FLEXIBLE = 4


class Request(Body, frozen=True):
    group: str = ""
    generation: Int32 = -1
    member: str = ""
    instance: Annotated[str | None, Since(3)] = None


class Response(Body, frozen=True):
    throttle_ms: Annotated[Int32, Since(1)] = 0
    error: Int16 = 0


def handle(call: Call[Request]) -> None:
    """At once, unless the coordinator is just becoming one."""
    said = call.request
    refused = call.refusal(Operation.READ, Kind.GROUP, said.group)
    if refused:
        call.answer(Response(0, refused))
        return

    def told(error: int) -> None:
        call.answer(Response(0, group_code_of(error)))

    who = (said.member, said.instance or "")
    call.front.node.requests.classic.heartbeat(call.session, said.group, who, said.generation, told)


API = Api(12, "Heartbeat", (0, 4), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
