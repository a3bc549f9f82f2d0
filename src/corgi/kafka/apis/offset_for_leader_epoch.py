"""OffsetForLeaderEpoch (23), versions 2 to 4: where the records of a leader epoch end (KIP-101, 320).

Consumers ask it for their last record's epoch when they move to another leader; an end before their place means to
them that records were lost. So it is confirmed through the log first: a node that lags must not tell its own end. An
epoch of which all records are gone ended where the log starts now; one that this node has yet to hear of is told so
(75). Who knows an older leader epoch only is answered all the same, since what is confirmed is right whoever leads:
while a leader dies, clients are told of its heir before that has an epoch of its own, and franz-go waits a second after
an error here. The fetch that follows tells them.
"""

from __future__ import annotations

from typing import Annotated

from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, LeaderEpoch
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Int64, Since
from corgi.kafka.errors import Code, code_of
from corgi.state.index import PartitionLog

CONFIRM_S = 10.0
PARTITIONS_MAX = 10_000
_FLEXIBLE = 4


class Place(Body, frozen=True):
    partition: Int32
    current_epoch: Int32 = -1
    epoch: Int32 = -1


class Topic(Body, frozen=True):
    name: str
    partitions: tuple[Place, ...]


class Request(Body, frozen=True):
    replica: Annotated[Int32, Since(3)] = -2
    topics: tuple[Topic, ...] = ()


class Answer(Body, frozen=True):
    error: Int16
    partition: Int32
    epoch: Int32 = -1
    end: Int64 = -1


class Answers(Body, frozen=True):
    name: str
    partitions: tuple[Answer, ...]


class Response(Body, frozen=True):
    throttle_ms: Int32 = 0
    topics: tuple[Answers, ...] = ()


def handle(call: Call[Request]) -> None:
    """Answered behind a barrier in the Paxos groups of the partitions."""
    topics = call.request.topics
    if sum(len(topic.partitions) for topic in topics) > PARTITIONS_MAX:
        call.close(CorgiError("invalid-argument", f"a request names at most {PARTITIONS_MAX} partitions"))
        return
    groups: dict[GroupId, None] = {}
    for topic in topics:
        for place in topic.partitions:
            found = call.front.having(topic.name, place.partition)
            if found is not None:
                groups[found.group_of(place.partition)] = None

    def confirmed(errors: dict[GroupId, int]) -> None:
        told = [
            Answers(topic.name, tuple([_tell(call, topic.name, place, errors) for place in topic.partitions]))
            for topic in topics
        ]
        call.answer(Response(0, tuple(told)))

    call.front.node.requests.barriers.confirm(call.session, groups, CONFIRM_S, confirmed)


def _tell(call: Call[Request], name: str, place: Place, errors: dict[GroupId, int]) -> Answer:
    front = call.front
    refused = call.refusal(Operation.DESCRIBE, Kind.TOPIC, name)
    if refused:
        return Answer(refused, place.partition)
    topic = front.having(name, place.partition)
    if topic is None:
        return Answer(Code.UNKNOWN_TOPIC_OR_PARTITION, place.partition)
    try:
        group, log = front.node.requests.places.to_read(topic.topic, place.partition)
    except CorgiError as error:
        return Answer(code_of(error.kind.number), place.partition)
    if group in errors:
        return Answer(code_of(errors[group]), place.partition)
    if max(place.epoch, place.current_epoch) > front.node.groups[group].machine.epoch:
        return Answer(Code.UNKNOWN_LEADER_EPOCH, place.partition)
    return Answer(Code.NONE, place.partition, *_end(log, place.epoch))


def _end(log: PartitionLog, epoch: int) -> tuple[int, int]:
    """(epoch, end): the largest epoch with records that is not above the one that was asked for."""
    if epoch < 0:
        return -1, -1
    found, end = log.epoch_end(LeaderEpoch(epoch))
    return (found, end) if found >= 0 else (epoch, log.start)


API = Api(23, "OffsetForLeaderEpoch", (2, 4), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
