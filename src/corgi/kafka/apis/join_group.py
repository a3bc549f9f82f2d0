"""JoinGroup (11), versions 0 to 9: become or stay a member; answered when a new generation begins.

Clients from version 4 on first get a member id to join under (KIP-394); since 5 a member may be an instance that
outlives its process (KIP-345), since 9 a leader may be told not to assign (KIP-814). Version 0 has no rebalance
time-out: it is the session's.
"""

from __future__ import annotations

from typing import Annotated

from corgi.broker.classic_member import Join, Joined
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, NullSince, Since
from corgi.kafka.errors import group_code_of

_FLEXIBLE = 6
_IDS_SINCE, _SKIPS_SINCE = 4, 9


class Protocol(Body, frozen=True):
    name: str
    metadata: bytes


class Request(Body, frozen=True):
    group: str = ""
    session_ms: Int32 = 0
    rebalance_ms: Annotated[Int32, Since(1)] = -1
    member: str = ""
    instance: Annotated[str | None, Since(5)] = None
    protocol_type: str = ""
    protocols: tuple[Protocol, ...] = ()
    reason: Annotated[str | None, Since(8)] = None


class Member(Body, frozen=True):
    member: str = ""
    instance: Annotated[str | None, Since(5)] = None
    metadata: bytes = b""


class Response(Body, frozen=True):
    throttle_ms: Annotated[Int32, Since(2)] = 0
    error: Int16 = 0
    generation: Int32 = -1
    protocol_type: Annotated[str | None, Since(7)] = None
    protocol: Annotated[str | None, NullSince(7)] = ""
    leader: str = ""
    skip_assignment: Annotated[bool, Since(9)] = False
    member: str = ""
    members: tuple[Member, ...] = ()


def handle(call: Call[Request]) -> None:
    """Waits in the group."""
    said = call.request
    refused = call.refusal(Operation.READ, Kind.GROUP, said.group)
    if refused:
        call.answer(Response(0, refused, member=said.member))
        return

    def joined(told: Joined) -> None:
        null = None if call.version >= 7 else ""
        members = tuple([Member(name, instance or None, metadata) for name, instance, metadata in told.members])
        call.answer(
            Response(
                0, group_code_of(told.error), told.generation, told.protocol_type or None, told.protocol or null,
                told.leader, told.skip_assignment, told.member, members,
            )
        )  # fmt: skip

    rebalance_ms = said.session_ms if said.rebalance_ms < 0 else said.rebalance_ms
    request = Join(
        said.member, said.instance or "", call.client_id, f"/{call.session.remote.rpartition(':')[0]}",
        said.session_ms, rebalance_ms, said.protocol_type,
        tuple([(protocol.name, protocol.metadata) for protocol in said.protocols]),
        takes_ids=call.version >= _IDS_SINCE, skips=call.version >= _SKIPS_SINCE,
    )  # fmt: skip
    call.front.node.requests.classic.join(call.session, said.group, request, joined)


API = Api(11, "JoinGroup", (0, 9), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
