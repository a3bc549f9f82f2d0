"""CreatePartitions (37), versions 0 to 3: more partitions for topics; one result each.

A number that is not higher than the present one is refused (37). An assignment may name any nodes: all of them hold
every partition.
"""

from __future__ import annotations

from corgi.base.limits import PARTITIONS_MAX
from corgi.base.ports import Message
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32
from corgi.kafka.errors import Code, code_of
from corgi.kafka.several import Several, failure_of, repeated, timeout_of, too_many, with_topics
from corgi.wire.messages import AlterTopic

_FLEXIBLE = 2


class Assignment(Body, frozen=True):
    nodes: tuple[Int32, ...]


class Wanted(Body, frozen=True):
    name: str
    count: Int32
    assignments: tuple[Assignment, ...] | None = None


class Request(Body, frozen=True):
    topics: tuple[Wanted, ...]
    timeout_ms: Int32
    validate_only: bool


class Result(Body, frozen=True):
    name: str
    error: Int16 = 0
    message: str | None = None


class Response(Body, frozen=True):
    throttle_ms: Int32
    results: tuple[Result, ...]


def handle(call: Call[Request]) -> None:
    """Answered when the partitions take writes."""
    with_topics(call, lambda error: _grow(call, error))


def _grow(call: Call[Request], unconfirmed: int) -> None:
    topics = call.request.topics
    several: Several[Result] = Several(len(topics), lambda results: call.answer(Response(0, results)))
    excess = too_many(len(topics))
    twice = repeated([topic.name for topic in topics])
    for i, topic in enumerate(topics):
        if excess is not None:
            several.set(i, Result(topic.name, Code.POLICY_VIOLATION, excess.message))
        elif topic.name in twice:
            several.set(i, Result(topic.name, Code.INVALID_REQUEST, "the request names this topic twice"))
        elif unconfirmed:
            several.set(i, Result(topic.name, code_of(unconfirmed), "the topics could not be confirmed"))
        else:
            code, why = _judge(call, topic)
            if code or call.request.validate_only:
                several.set(i, Result(topic.name, code, why))
            else:
                _ask(call, several, i, topic)
    several.started()


def _judge(call: Call[Request], topic: Wanted) -> tuple[Code, str | None]:
    refused = call.refusal(Operation.ALTER, Kind.TOPIC, topic.name)
    if refused:
        return refused, f"you may not alter the topic {topic.name!r}"
    found = call.front.topic(topic.name)
    if found is None:
        return Code.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {topic.name!r}"
    if not found.partitions < topic.count <= PARTITIONS_MAX:
        text = f"{topic.name!r} has {found.partitions} partitions and may have {PARTITIONS_MAX}, not {topic.count}"
        return Code.INVALID_PARTITIONS, text
    if topic.assignments is not None:
        members = set(call.front.node.options.members)
        if len(topic.assignments) != topic.count - found.partitions:
            return Code.INVALID_REPLICA_ASSIGNMENT, "there is not one assignment for each new partition"
        for one in topic.assignments:
            if not one.nodes or len(set(one.nodes)) < len(one.nodes) or not set(one.nodes) <= members:
                return Code.INVALID_REPLICA_ASSIGNMENT, "an assignment names no nodes, unknown ones, or one twice"
    return Code.NONE, None


def _ask(call: Call[Request], several: Several[Result], i: int, topic: Wanted) -> None:
    def altered(reply: Message, _payload: object) -> None:
        code, why = failure_of(reply)
        several.set(i, Result(topic.name, code, why or None))

    call.ask(AlterTopic(topic.name, topic.count, timeout_ms=timeout_of(call.request.timeout_ms)), altered)


API = Api(37, "CreatePartitions", (0, 3), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
