"""DescribeGroups (15), versions 0 to 6: the members of groups, what they said and what they were assigned.

Asked of each group's coordinator. A group that does not exist is "Dead", since version 6 with an error. A group of
Corgi's own consumers is told as one of protocol "corgi", its partitions as Kafka's consumers write them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from corgi.base.errors import CorgiError
from corgi.broker.classic_groups import Seat
from corgi.broker.consumer_group import ConsumerGroup
from corgi.broker.consumer_protocol import TYPE, encode_assignment, encode_subscription
from corgi.broker.reigns import Reign
from corgi.kafka.access import NOT_ASKED, Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Since
from corgi.kafka.errors import Code, group_code_of

GROUPS_MAX = 1_000
_FLEXIBLE = 5
_MISSING_SINCE = 6


class Request(Body, frozen=True):
    groups: tuple[str, ...] = ()
    operations: Annotated[bool, Since(3)] = False


class Member(Body, frozen=True):
    member: str
    instance: Annotated[str | None, Since(4)]
    client: str
    host: str
    metadata: bytes
    assignment: bytes


class Group(Body, frozen=True):
    error: Int16 = 0
    message: Annotated[str | None, Since(6)] = None
    group: str = ""
    state: str = ""
    protocol_type: str = ""
    protocol: str = ""
    members: tuple[Member, ...] = ()
    operations: Annotated[Int32, Since(3)] = NOT_ASKED


class Response(Body, frozen=True):
    throttle_ms: Annotated[Int32, Since(1)] = 0
    groups: tuple[Group, ...] = ()


def handle(call: Call[Request]) -> None:
    """Answered when all are known."""
    names = call.request.groups
    if len(names) > GROUPS_MAX:
        call.close(CorgiError("invalid-argument", f"a request names at most {GROUPS_MAX} groups"))
        return
    told: dict[int, Group] = {}

    def known(place: int, group: Group) -> None:
        if call.request.operations and group.error != Code.GROUP_AUTHORIZATION_FAILED:
            group = msgspec.structs.replace(group, operations=call.operations(Kind.GROUP, group.group))
        told[place] = group
        if len(told) == len(names):
            call.answer(Response(0, tuple([told[i] for i in range(len(names))])))

    if not names:
        call.answer(Response())
    for place, name in enumerate(names):
        _describe(call, name, lambda group, place=place: known(place, group))  # type: ignore[misc]


def _describe(call: Call[Request], name: str, done: Callable[[Group], None]) -> None:
    requests = call.front.node.requests
    refused = call.refusal(Operation.DESCRIBE, Kind.GROUP, name)
    if refused:
        done(Group(refused, None, name))
        return

    def go(reign: Reign) -> None:
        seat = requests.classic.find(reign, name)
        if seat is not None:
            done(_classic(seat))
            return
        try:
            done(_native(call, requests.coordinator.group(name)))
        except CorgiError as error:
            if error.code != "unknown-group":
                raise
            missing = call.version >= _MISSING_SINCE
            done(Group(Code.GROUP_ID_NOT_FOUND if missing else Code.NONE, error.message, name, "Dead"))

    requests.classic.at(call.session, name, go, lambda error: done(Group(group_code_of(error), None, name)))


def _classic(seat: Seat) -> Group:
    group = seat.group
    members = [
        Member(
            one.name, one.instance or None, one.client, one.host, one.metadata(group.protocol), one.assignment
        )
        for one in group.members.values()
    ]  # fmt: skip
    return Group(
        0, None, seat.name, group.state.value, group.protocol_type, group.protocol, tuple(members)
    )  # fmt: skip


def _native(call: Call[Request], group: ConsumerGroup) -> Group:
    topics = call.front.node.requests.places.topics.by_id
    members = []
    for name, member in sorted(group.members.items()):
        held = sorted({(topics[topic].name, partition) for topic, partition, _ in member.shown if topic in topics})
        members.append(
            Member(
                name, member.stored.instance or None, member.stored.client, "",
                encode_subscription(member.stored.topics), encode_assignment(held),
            )
        )  # fmt: skip
    states = {"empty": "Empty", "stable": "Stable", "rebalancing": "PreparingRebalance"}
    return Group(0, None, group.name, states[group.state], TYPE, "corgi" if members else "", tuple(members))


API = Api(15, "DescribeGroups", (0, 6), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
