"""OffsetFetch (9), versions 1 to 9: where a group goes on, since version 8 of several groups.

Asked of the coordinator and confirmed through the log. No commit is offset -1 without an error. Since version 7 a
client may ask for what is stable: a checkpoint that a transaction or a claim may still move is UNSTABLE_OFFSET_COMMIT,
to be asked for again. A group of Corgi's own consumers that cuts partitions into slices is told at its least slice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.broker.classic_commits import Found
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Int64, NullSince, Since, Until
from corgi.kafka.errors import Code, group_code_of

PATIENCE_S = 5.0
PARTITIONS_MAX = 10_000
_FLEXIBLE = 6
_GROUPS_SINCE = 8
_NONE = Found(-1, -1, "", unstable=False)


class Topic(Body, frozen=True):
    name: str
    partitions: tuple[Int32, ...]


class Group(Body, frozen=True):
    group: str = ""
    member: Annotated[str | None, Since(9)] = None
    member_epoch: Annotated[Int32, Since(9)] = -1
    topics: tuple[Topic, ...] | None = None


class Request(Body, frozen=True):
    group: Annotated[str, Until(7)] = ""
    topics: Annotated[tuple[Topic, ...] | None, Until(7), NullSince(2)] = None
    groups: Annotated[tuple[Group, ...], Since(8)] = ()
    stable: Annotated[bool, Since(7)] = False


class Told(Body, frozen=True):
    partition: Int32
    offset: Int64
    leader_epoch: Annotated[Int32, Since(5)]
    metadata: str | None
    error: Int16


class ToldTopic(Body, frozen=True):
    name: str
    partitions: tuple[Told, ...]


class ToldGroup(Body, frozen=True):
    group: str
    topics: tuple[ToldTopic, ...]
    error: Int16


class Response(Body, frozen=True):
    throttle_ms: Annotated[Int32, Since(3)] = 0
    topics: Annotated[tuple[ToldTopic, ...], Until(7)] = ()
    error: Annotated[Int16, Since(2), Until(7)] = 0
    groups: Annotated[tuple[ToldGroup, ...], Since(8)] = ()


def handle(call: Call[Request]) -> None:
    """Answered when all groups are read."""
    said = call.request
    groups = said.groups if call.version >= _GROUPS_SINCE else (Group(said.group, topics=said.topics),)
    if sum(len(topic.partitions) for group in groups for topic in group.topics or ()) > PARTITIONS_MAX:
        call.close(CorgiError("invalid-argument", f"a request names at most {PARTITIONS_MAX} partitions"))
        return
    told: dict[int, ToldGroup] = {}

    def read(place: int, group: ToldGroup) -> None:
        told[place] = group
        if len(told) == len(groups):
            _answer(call, [told[i] for i in range(len(groups))])

    if not groups:
        _answer(call, [])
    for place, group in enumerate(groups):
        _read(call, group, lambda found, place=place: read(place, found))  # type: ignore[misc]


def _answer(call: Call[Request], told: list[ToldGroup]) -> None:
    if call.version >= _GROUPS_SINCE:
        call.answer(Response(groups=tuple(told)))
    else:
        call.answer(Response(0, told[0].topics, told[0].error))


def _read(call: Call[Request], group: Group, done: Callable[[ToldGroup], None]) -> None:
    front = call.front
    refused = call.refusal(Operation.DESCRIBE, Kind.GROUP, group.group)
    if refused:
        done(ToldGroup(group.group, _refused(group, refused), refused))
        return
    units = None
    if group.topics is not None:
        units = [
            (found.topic, partition)
            for topic in group.topics
            if (found := front.topic(topic.name)) is not None and call.may(Operation.DESCRIBE, Kind.TOPIC, topic.name)
            for partition in topic.partitions
            if 0 <= partition < found.partitions
        ]

    def fetched(error: int, found: dict[tuple[TopicId, int], Found]) -> None:
        code = group_code_of(error)
        if group.topics is not None:
            topics = [_topic(call, topic, found, code) for topic in group.topics]
        else:
            topics = _all(call, found)
        done(ToldGroup(group.group, tuple(topics), code))

    front.node.requests.classic_commits.fetch(call.session, group.group, units, PATIENCE_S, fetched)


def _refused(group: Group, code: Code) -> tuple[ToldTopic, ...]:
    return tuple(
        [
            ToldTopic(topic.name, tuple([Told(at, -1, -1, "", code) for at in topic.partitions]))
            for topic in group.topics or ()
        ]
    )


def _topic(call: Call[Request], wanted: Topic, found: dict[tuple[TopicId, int], Found], code: int) -> ToldTopic:
    topic = call.front.topic(wanted.name)
    code = call.refusal(Operation.DESCRIBE, Kind.TOPIC, wanted.name) or code
    each = [(at, found.get((topic.topic, at), _NONE) if topic else _NONE) for at in wanted.partitions]
    return ToldTopic(wanted.name, tuple([_told(call, at, one, code) for at, one in each]))


def _all(call: Call[Request], found: dict[tuple[TopicId, int], Found]) -> list[ToldTopic]:
    by_id = call.front.node.requests.places.topics.by_id
    parts: dict[str, list[Told]] = {}
    for (topic, partition), one in sorted(found.items()):
        if topic in by_id and call.may(Operation.DESCRIBE, Kind.TOPIC, by_id[topic].name):
            parts.setdefault(by_id[topic].name, []).append(_told(call, partition, one, Code.NONE))
    return [ToldTopic(name, tuple(partitions)) for name, partitions in parts.items()]


def _told(call: Call[Request], partition: int, found: Found, code: int) -> Told:
    if code:
        return Told(partition, -1, -1, "", code)
    if found.unstable and call.request.stable:
        return Told(partition, -1, -1, "", Code.UNSTABLE_OFFSET_COMMIT)
    return Told(partition, found.offset, found.leader_epoch, found.metadata, Code.NONE)


API = Api(9, "OffsetFetch", (1, 9), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
