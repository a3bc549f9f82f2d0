"""SyncGroup (14), versions 0 to 5: the leader tells who is assigned what, everybody hears its own part.

Answered when the assignments are in the group's record and the partitions in them belong to their members.
"""

from __future__ import annotations

from typing import Annotated

from corgi.broker.classic_member import Sync, Synced
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Since
from corgi.kafka.errors import group_code_of

_FLEXIBLE = 4


class Assignment(Body, frozen=True):
    member: str
    assignment: bytes


class Request(Body, frozen=True):
    group: str = ""
    generation: Int32 = -1
    member: str = ""
    instance: Annotated[str | None, Since(3)] = None
    protocol_type: Annotated[str | None, Since(5)] = None
    protocol: Annotated[str | None, Since(5)] = None
    assignments: tuple[Assignment, ...] = ()


class Response(Body, frozen=True):
    throttle_ms: Annotated[Int32, Since(1)] = 0
    error: Int16 = 0
    protocol_type: Annotated[str | None, Since(5)] = None
    protocol: Annotated[str | None, Since(5)] = None
    assignment: bytes = b""


def handle(call: Call[Request]) -> None:
    """Waits in the group."""
    said = call.request
    refused = call.refusal(Operation.READ, Kind.GROUP, said.group)
    if refused:
        call.answer(Response(0, refused))
        return

    def synced(told: Synced) -> None:
        error = group_code_of(told.error)
        call.answer(Response(0, error, told.protocol_type or None, told.protocol or None, told.assignment))

    assignments = {one.member: one.assignment for one in said.assignments}
    request = Sync(
        said.member, said.instance or "", said.generation, said.protocol_type or "", said.protocol or "", assignments
    )
    call.front.node.requests.classic.sync(call.session, said.group, request, synced)


API = Api(14, "SyncGroup", (0, 5), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
