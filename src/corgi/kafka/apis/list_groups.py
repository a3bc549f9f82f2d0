"""ListGroups (16), versions 0 to 5: the groups that this node coordinates; clients ask every node.

Confirmed through the log. Groups of Corgi's own consumers are listed as classic ones of the protocol type "consumer",
for no client knows another kind that fits; what only has checkpoints has no protocol type.
"""

from __future__ import annotations

from typing import Annotated

from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId
from corgi.broker.consumer_protocol import TYPE
from corgi.broker.group_records import StoredClassic, decode_record
from corgi.broker.reigns import kept_in
from corgi.kafka.access import CLUSTER_NAME, Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Since
from corgi.kafka.errors import Code, group_code_of

CONFIRM_S = 10.0
_FLEXIBLE = 3
_CLASSIC = "classic"


class Request(Body, frozen=True):
    states: Annotated[tuple[str, ...], Since(4)] = ()
    types: Annotated[tuple[str, ...], Since(5)] = ()


class Group(Body, frozen=True):
    group: str
    protocol_type: str
    state: Annotated[str, Since(4)]
    type: Annotated[str, Since(5)] = _CLASSIC


class Response(Body, frozen=True):
    throttle_ms: Annotated[Int32, Since(1)] = 0
    error: Int16 = 0
    groups: tuple[Group, ...] = ()


def handle(call: Call[Request]) -> None:
    """Answered when the records are confirmed."""
    node = call.front.node

    def confirmed(errors: dict[GroupId, int]) -> None:
        if errors:
            call.answer(Response(0, group_code_of(next(iter(errors.values())))))
            return
        states = {state.lower() for state in call.request.states}
        types = {kind.lower() for kind in call.request.types}
        everything = call.may(Operation.DESCRIBE, Kind.CLUSTER, CLUSTER_NAME)
        found = [
            group
            for group in _groups(call)
            if (everything or call.may(Operation.DESCRIBE, Kind.GROUP, group.group))
            and (not states or group.state.lower() in states)
            and (not types or _CLASSIC in types)
        ]
        call.answer(Response(0, Code.NONE, tuple(found)))

    try:
        node.requests.barriers.confirm_all(call.session, CONFIRM_S, confirmed)
    except CorgiError as error:
        call.answer(Response(0, group_code_of(error.kind.number)))


def _groups(call: Call[Request]) -> list[Group]:
    node = call.front.node
    found: dict[str, Group] = {}
    led = {group.id for group in node.groups if group.replica.leading}
    for number in led:
        for name, kept in node.groups[number].machine.consumer_groups.by_name.items():
            stored = decode_record(kept.body)
            kind = stored.protocol_type if isinstance(stored, StoredClassic) else TYPE
            found[name] = Group(name, kind, "Stable" if stored is not None and stored.members else "Empty")
    for group in node.groups:
        for name in group.machine.cursors.groups():
            if name not in found and kept_in(name, node.options.groups) in led:
                found[name] = Group(name, "", "Empty")
    for seat in node.requests.classic.seats():
        if seat.occupied or seat.name in found:
            found[seat.name] = Group(seat.name, seat.group.protocol_type, seat.group.state.value)
    return [found[name] for name in sorted(found)]


API = Api(16, "ListGroups", (0, 5), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
