"""OffsetDelete (47), version 0: forget single checkpoints of a group that has no members.

Kafka also lets it be done while members are there that want other topics; here the group has to be empty.
"""

from __future__ import annotations

from corgi.base.errors import BY_CODE, OK, CorgiError
from corgi.broker.classic_commits import Committer
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import NEVER, Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32
from corgi.kafka.errors import Code, group_code_of

PATIENCE_S = 5.0
PARTITIONS_MAX = 10_000
_UNKNOWN_MEMBER = BY_CODE["unknown-member"].number


class Place(Body, frozen=True):
    partition: Int32


class Topic(Body, frozen=True):
    name: str
    partitions: tuple[Place, ...]


class Request(Body, frozen=True):
    group: str
    topics: tuple[Topic, ...]


class Deleted(Body, frozen=True):
    partition: Int32
    error: Int16


class DeletedTopic(Body, frozen=True):
    name: str
    partitions: tuple[Deleted, ...]


class Response(Body, frozen=True):
    error: Int16 = 0
    throttle_ms: Int32 = 0
    topics: tuple[DeletedTopic, ...] = ()


def handle(call: Call[Request]) -> None:
    """Answered when they are gone."""
    said = call.request
    if sum(len(topic.partitions) for topic in said.topics) > PARTITIONS_MAX:
        call.close(CorgiError("invalid-argument", f"a request names at most {PARTITIONS_MAX} partitions"))
        return
    refused = call.refusal(Operation.DELETE, Kind.GROUP, said.group)
    if refused:
        call.answer(Response(refused))
        return
    units = {}
    codes: dict[tuple[str, int], Code] = {}
    for topic in said.topics:
        refused = call.refusal(Operation.READ, Kind.TOPIC, topic.name)
        for place in topic.partitions:
            found = call.front.having(topic.name, place.partition)
            if refused or found is None:
                codes[topic.name, place.partition] = refused or Code.UNKNOWN_TOPIC_OR_PARTITION
            else:
                units[topic.name, place.partition] = (found.topic, place.partition, 0)

    def done(errors: list[int]) -> None:
        codes.update({at: _code(error) for at, error in zip(units, errors, strict=True)})
        whole = next((error for error in errors if group_code_of(error) == Code.NOT_COORDINATOR), OK)
        topics = [
            DeletedTopic(
                topic.name,
                tuple([Deleted(one.partition, codes[topic.name, one.partition]) for one in topic.partitions]),
            )
            for topic in said.topics
        ]
        call.answer(Response(group_code_of(whole), 0, () if whole else tuple(topics)))

    who = Committer(said.group, "", "", -1)
    call.front.node.requests.classic_commits.forget(call.session, who, list(units.values()), PATIENCE_S, done)


def _code(error: int) -> Code:
    return Code.GROUP_SUBSCRIBED_TO_TOPIC if error == _UNKNOWN_MEMBER else group_code_of(error)


API = Api(47, "OffsetDelete", (0, 0), NEVER, bodies(Request, NEVER), handle)
