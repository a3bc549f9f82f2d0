"""DeleteRecords (21), versions 0 to 2: partitions begin at an offset from now on; -1 is the high watermark.

The node's own request of that name; answered with the log start that is in force.
"""

from __future__ import annotations

from corgi.base.ids import Offset, TopicId
from corgi.base.ports import Message
from corgi.broker.bounds import REQUEST_PARTITIONS_MAX
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies, error_of
from corgi.kafka.codec import Body, Int16, Int32, Int64
from corgi.kafka.errors import Code, code_of
from corgi.kafka.several import timeout_of, with_topics
from corgi.wire.messages import DeleteRecords, DeleteRecordsReply

_FLEXIBLE = 2
_NO_OFFSET = -1


class Place(Body, frozen=True):
    partition: Int32
    offset: Int64


class Topic(Body, frozen=True):
    name: str
    partitions: tuple[Place, ...]


class Request(Body, frozen=True):
    topics: tuple[Topic, ...]
    timeout_ms: Int32


class Result(Body, frozen=True):
    partition: Int32
    low_watermark: Int64
    error: Int16


class Results(Body, frozen=True):
    name: str
    partitions: tuple[Result, ...]


class Response(Body, frozen=True):
    throttle_ms: Int32
    topics: tuple[Results, ...]


def handle(call: Call[Request]) -> None:
    """Answered when the starts are moved."""
    topics = call.request.topics
    if sum(len(topic.partitions) for topic in topics) > REQUEST_PARTITIONS_MAX:
        _answer(call, {}, Code.POLICY_VIOLATION)
    elif any(call.front.topic(topic.name) is None for topic in topics):
        with_topics(call, lambda error: _ask(call, code_of(error) or Code.UNKNOWN_TOPIC_OR_PARTITION))
    else:
        _ask(call, Code.UNKNOWN_TOPIC_OR_PARTITION)


def _ask(call: Call[Request], missing: Code) -> None:
    places: dict[tuple[int, int], tuple[TopicId, int, int]] = {}
    found: dict[tuple[int, int], Result] = {}
    for i, topic in enumerate(call.request.topics):
        refused = call.refusal(Operation.DELETE, Kind.TOPIC, topic.name)
        for j, place in enumerate(topic.partitions):
            if refused:
                found[i, j] = Result(place.partition, _NO_OFFSET, refused)
                continue
            if call.front.topic(topic.name) is None:
                continue
            known = call.front.having(topic.name, place.partition)
            if place.offset < _NO_OFFSET:
                found[i, j] = Result(place.partition, _NO_OFFSET, Code.OFFSET_OUT_OF_RANGE)
            elif known is None:
                found[i, j] = Result(place.partition, _NO_OFFSET, Code.UNKNOWN_TOPIC_OR_PARTITION)
            else:
                places[i, j] = (known.topic, place.partition, place.offset)
    if not places:
        _answer(call, found, missing)
        return

    def deleted(reply: Message, _payload: object) -> None:
        failure = error_of(reply)
        told: tuple[tuple[int, Offset], ...] = ()
        if isinstance(reply, DeleteRecordsReply):
            told = reply.partitions
        elif failure is not None:
            told = ((failure.kind.number, Offset(_NO_OFFSET)),) * len(places)
        for (key, (_, partition, _)), (error, start) in zip(places.items(), told, strict=True):
            found[key] = Result(partition, start, code_of(error))
        _answer(call, found, missing)

    call.ask(DeleteRecords(tuple(places.values()), timeout_of(call.request.timeout_ms)), deleted)


def _answer(call: Call[Request], found: dict[tuple[int, int], Result], otherwise: Code) -> None:
    results = []
    for i, topic in enumerate(call.request.topics):
        told = [
            found.get((i, j)) or Result(place.partition, _NO_OFFSET, otherwise)
            for j, place in enumerate(topic.partitions)
        ]
        results.append(Results(topic.name, tuple(told)))
    call.answer(Response(0, tuple(results)))


API = Api(21, "DeleteRecords", (0, 2), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
