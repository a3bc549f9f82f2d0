"""DeleteTopics (20), versions 1 to 6: each with everything in it; since version 6 by name or by id."""

from __future__ import annotations

from typing import Annotated

from corgi.base.ports import Message
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import NO_UUID, Body, Int16, Int32, NullSince, Since, Until, Uuid
from corgi.kafka.errors import Code, code_of
from corgi.kafka.several import Several, failure_of, repeated, timeout_of, too_many, with_topics
from corgi.wire.messages import DeleteTopic

_FLEXIBLE = 4


class Wanted(Body, frozen=True):
    name: str | None = None
    topic_id: Uuid = NO_UUID


class Request(Body, frozen=True):
    topics: Annotated[tuple[Wanted, ...], Since(6)] = ()
    names: Annotated[tuple[str, ...], Until(5)] = ()
    timeout_ms: Int32 = 0


class Result(Body, frozen=True):
    name: Annotated[str | None, NullSince(6)] = None
    topic_id: Annotated[Uuid, Since(6)] = NO_UUID
    error: Int16 = 0
    message: Annotated[str | None, Since(5)] = None


class Response(Body, frozen=True):
    throttle_ms: Int32
    results: tuple[Result, ...]


def handle(call: Call[Request]) -> None:
    """Answered when the topics are gone everywhere."""
    topics = call.request.topics or tuple([Wanted(name) for name in call.request.names])
    if any(topic.topic_id != NO_UUID and call.front.topic_of(topic.topic_id) is None for topic in topics):
        with_topics(call, lambda error: _delete(call, topics, error))
    else:
        _delete(call, topics, 0)


def _delete(call: Call[Request], topics: tuple[Wanted, ...], unconfirmed: int) -> None:
    several: Several[Result] = Several(len(topics), lambda results: call.answer(Response(0, results)))
    excess = too_many(len(topics))
    twice = repeated([topic.name if topic.topic_id == NO_UUID else topic.topic_id for topic in topics])
    for i, topic in enumerate(topics):
        name, uuid = topic.name, topic.topic_id
        if excess is not None:
            several.set(i, Result(name, uuid, Code.POLICY_VIOLATION, excess.message))
        elif (name is None) == (uuid == NO_UUID) or (name or uuid) in twice:
            several.set(i, Result(name, uuid, Code.INVALID_REQUEST, "a topic is named once, by its name or its id"))
        elif name is None:
            found = call.front.topic_of(uuid)
            if found is not None and call.refusal(Operation.DESCRIBE, Kind.TOPIC, found.name):
                several.set(i, Result(None, uuid, Code.TOPIC_AUTHORIZATION_FAILED, "you may not see this topic"))
            elif found is not None:
                _ask(call, several, i, found.name, uuid)
            elif unconfirmed:
                several.set(i, Result(None, uuid, code_of(unconfirmed), "the topics could not be confirmed"))
            else:
                several.set(i, Result(None, uuid, Code.UNKNOWN_TOPIC_ID, "no topic has this id"))
        else:
            known = call.front.topic(name)
            _ask(call, several, i, name, NO_UUID if known is None else call.front.uuid_of(known.topic))
    several.started()


def _ask(call: Call[Request], several: Several[Result], i: int, name: str, uuid: bytes) -> None:
    refused = call.refusal(Operation.DELETE, Kind.TOPIC, name)
    if refused:
        seen = call.may(Operation.DESCRIBE, Kind.TOPIC, name)
        several.set(i, Result(name, uuid if seen else NO_UUID, refused, f"you may not delete the topic {name!r}"))
        return

    def deleted(reply: Message, _payload: object) -> None:
        code, why = failure_of(reply)
        several.set(i, Result(name, uuid, code, why or None))

    call.ask(DeleteTopic(name, timeout_of(call.request.timeout_ms)), deleted)


API = Api(20, "DeleteTopics", (1, 6), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
