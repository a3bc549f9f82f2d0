"""DescribeConfigs (32), versions 1 to 4: the keys of topics (2) and of this node (4); null keys are all.

A topic's are read after the log confirmed what topics there are. Node keys are read-only, and the node with an empty
name, which stands for what all nodes share, has none. Nothing told is secret.
"""

from __future__ import annotations

from typing import Annotated

from corgi.kafka.access import CLUSTER_NAME, Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.broker_config import broker_told
from corgi.kafka.codec import Body, Int8, Int16, Int32, Since
from corgi.kafka.errors import Code, code_of
from corgi.kafka.several import too_many, with_topics
from corgi.kafka.topic_config import Source, Told

TOPIC, BROKER = 2, 4
_FLEXIBLE = 4


class Resource(Body, frozen=True):
    kind: Int8
    name: str
    keys: tuple[str, ...] | None = None


class Request(Body, frozen=True):
    resources: tuple[Resource, ...]
    synonyms: bool = False
    documentation: Annotated[bool, Since(3)] = False


class Synonym(Body, frozen=True):
    name: str
    value: str | None
    source: Int8


class Config(Body, frozen=True):
    name: str
    value: str | None
    read_only: bool
    source: Int8
    sensitive: bool = False
    synonyms: tuple[Synonym, ...] = ()
    kind: Annotated[Int8, Since(3)] = 0
    documentation: Annotated[str | None, Since(3)] = None


class Result(Body, frozen=True):
    error: Int16
    message: str | None
    kind: Int8
    name: str
    configs: tuple[Config, ...] = ()


class Response(Body, frozen=True):
    throttle_ms: Int32
    results: tuple[Result, ...]


def handle(call: Call[Request]) -> None:
    """Answered when the topics are confirmed."""
    if any(resource.kind == TOPIC for resource in call.request.resources):
        with_topics(call, lambda error: _answer(call, error))
    else:
        _answer(call, 0)


def _answer(call: Call[Request], unconfirmed: int) -> None:
    resources = call.request.resources
    excess = too_many(len(resources))
    if excess is not None:
        refused = [Result(Code.POLICY_VIOLATION, excess.message, one.kind, one.name) for one in resources]
        call.answer(Response(0, tuple(refused)))
        return
    call.answer(Response(0, tuple([_result(call, one, unconfirmed) for one in resources])))


def _result(call: Call[Request], wanted: Resource, unconfirmed: int) -> Result:
    front = call.front

    def refused(code: Code, why: str) -> Result:
        return Result(code, why, wanted.kind, wanted.name)

    denied = Code.NONE
    if wanted.kind == TOPIC:
        denied = call.refusal(Operation.DESCRIBE_CONFIGS, Kind.TOPIC, wanted.name)
    elif wanted.kind == BROKER:
        denied = call.refusal(Operation.DESCRIBE_CONFIGS, Kind.CLUSTER, CLUSTER_NAME)
    if denied:
        return refused(denied, "you may not see this configuration")
    if wanted.kind == TOPIC:
        if unconfirmed:
            return refused(code_of(unconfirmed), "the topics could not be confirmed")
        topic = front.topic(wanted.name)
        if topic is None:
            return refused(Code.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {wanted.name!r}")
        told = front.topic_keys.told(topic.config)
    elif wanted.kind == BROKER:
        own = str(front.node.options.node)
        if wanted.name not in ("", own):
            return refused(Code.INVALID_REQUEST, f"this is node {own}; ask node {wanted.name} itself")
        told = broker_told(front, call.session.listener) if wanted.name else []
    else:
        return refused(Code.INVALID_REQUEST, f"resources of type {wanted.kind} have no configuration here")
    keys = None if wanted.keys is None else frozenset(wanted.keys)
    configs = [_config(call.request, one) for one in told if keys is None or one.key in keys]
    return Result(Code.NONE, None, wanted.kind, wanted.name, tuple(configs))


def _config(request: Request, told: Told) -> Config:
    synonyms = []
    if request.synonyms:
        if told.source != Source.DEFAULT:
            synonyms.append(Synonym(told.key, told.value, told.source))
        if told.broker_key or told.source == Source.DEFAULT:
            synonyms.append(Synonym(told.broker_key or told.key, told.default or told.value, Source.DEFAULT))
    what = told.what if request.documentation else None
    return Config(told.key, told.value, told.read_only, told.source, False, tuple(synonyms), told.kind, what)


API = Api(32, "DescribeConfigs", (1, 4), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
