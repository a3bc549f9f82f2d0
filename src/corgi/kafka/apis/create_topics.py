"""CreateTopics (19), versions 2 to 7: each topic by itself, with a result of its own.

-1 partitions or replicas are the node's defaults. Every node holds every partition: a replication factor up to the
number of nodes, and an assignment to any of them, is fulfilled and more than that. Configuration keys as in
``kafka.topic_config``. Since version 5 the answer tells the topic's configuration, since 7 its id.
"""

from __future__ import annotations

from typing import Annotated

from corgi.base.errors import OK, CorgiError
from corgi.base.limits import PARTITIONS_MAX
from corgi.base.ports import Message
from corgi.kafka.access import CLUSTER_NAME, Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import NO_UUID, Body, Int8, Int16, Int32, Since, Tag, Uuid
from corgi.kafka.errors import Code, code_of
from corgi.kafka.several import Several, failure_of, repeated, timeout_of, too_many, with_topics
from corgi.state.settings import check_topic_name
from corgi.wire.messages import CreateTopic, TopicReply

_FLEXIBLE = 5


class Assignment(Body, frozen=True):
    partition: Int32
    nodes: tuple[Int32, ...]


class Config(Body, frozen=True):
    name: str
    value: str | None


class Wanted(Body, frozen=True):
    name: str
    partitions: Int32
    replicas: Int16
    assignments: tuple[Assignment, ...] = ()
    configs: tuple[Config, ...] = ()


class Request(Body, frozen=True):
    topics: tuple[Wanted, ...]
    timeout_ms: Int32
    validate_only: bool = False


class ToldConfig(Body, frozen=True):
    name: str
    value: str | None
    read_only: bool
    source: Int8
    sensitive: bool = False


class Result(Body, frozen=True):
    name: str
    topic_id: Annotated[Uuid, Since(7)] = NO_UUID
    error: Int16 = 0
    message: str | None = None
    config_error: Annotated[Int16, Tag(0), Since(5)] = 0
    partitions: Annotated[Int32, Since(5)] = -1
    replicas: Annotated[Int16, Since(5)] = -1
    configs: Annotated[tuple[ToldConfig, ...] | None, Since(5)] = ()


class Response(Body, frozen=True):
    throttle_ms: Int32
    topics: tuple[Result, ...]


class _RefusedError(Exception):
    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


def handle(call: Call[Request]) -> None:
    """Answered when all topics take writes, or could not be made."""
    topics = call.request.topics
    several: Several[Result] = Several(len(topics), lambda results: call.answer(Response(0, results)))
    excess = too_many(len(topics))
    twice = repeated([topic.name for topic in topics])
    for i, topic in enumerate(topics):
        try:
            if excess is not None:
                raise _RefusedError(Code.POLICY_VIOLATION, excess.message)
            if topic.name in twice:
                raise _RefusedError(Code.INVALID_REQUEST, "the request names this topic twice")
            _begin(call, topic, several, i)
        except _RefusedError as refused:
            several.set(i, Result(topic.name, NO_UUID, refused.code, refused.why))
    several.started()


def _begin(call: Call[Request], topic: Wanted, several: Several[Result], i: int) -> None:
    refused = call.refusal(Operation.CREATE, Kind.TOPIC, topic.name)
    if refused and not call.may(Operation.CREATE, Kind.CLUSTER, CLUSTER_NAME):
        raise _RefusedError(refused, f"you may not create the topic {topic.name!r}")
    partitions = _partitions(call, topic)
    settings = _settings(call, topic)

    def created(reply: Message, _payload: object) -> None:
        code, why = failure_of(reply)
        if code or not isinstance(reply, TopicReply) or reply.topic is None:
            several.set(i, Result(topic.name, NO_UUID, code, why or None))
        else:
            uuid = call.front.uuid_of(reply.topic.topic)
            several.set(i, _told(call, topic.name, uuid, len(reply.topic.groups), reply.topic.config))

    def confirmed(error: int) -> None:
        if error:
            several.set(i, Result(topic.name, NO_UUID, code_of(error), "the topics could not be confirmed"))
        elif call.front.topic(topic.name) is not None:
            several.set(i, Result(topic.name, NO_UUID, Code.TOPIC_ALREADY_EXISTS, f"{topic.name!r} exists already"))
        else:
            several.set(i, _told(call, topic.name, NO_UUID, partitions, settings))

    if call.request.validate_only:
        with_topics(call, confirmed)
    else:
        call.ask(CreateTopic(topic.name, partitions, settings, timeout_ms=timeout_of(call.request.timeout_ms)), created)


def _partitions(call: Call[Request], topic: Wanted) -> int:
    try:
        check_topic_name(topic.name)
    except CorgiError as error:
        raise _RefusedError(Code.INVALID_TOPIC_EXCEPTION, error.message) from None
    nodes = call.front.node.options.members
    if topic.assignments:
        if topic.partitions != -1 or topic.replicas != -1:
            raise _RefusedError(Code.INVALID_REQUEST, "with an assignment, partitions and replicas are -1")
        if sorted(one.partition for one in topic.assignments) != list(range(len(topic.assignments))):
            raise _RefusedError(Code.INVALID_REPLICA_ASSIGNMENT, "the partitions assigned are not 0, 1, 2 …")
        for one in topic.assignments:
            _check_assigned(one.nodes, nodes)
        partitions = len(topic.assignments)
    else:
        partitions = call.front.options.partitions if topic.partitions == -1 else topic.partitions
        if topic.replicas != -1 and not 1 <= topic.replicas <= len(nodes):
            text = f"a replication factor of {topic.replicas}, there are {len(nodes)} nodes"
            raise _RefusedError(Code.INVALID_REPLICATION_FACTOR, text)
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise _RefusedError(Code.INVALID_PARTITIONS, f"a topic has 1 to {PARTITIONS_MAX} partitions, not {partitions}")
    return partitions


def _check_assigned(nodes: tuple[int, ...], members: tuple[int, ...]) -> None:
    """Raises _RefusedError for replicas that cannot be."""
    if not nodes or len(set(nodes)) < len(nodes) or not set(nodes) <= set(members):
        text = f"replicas on {', '.join(map(str, nodes))}; the nodes are {', '.join(map(str, members))}"
        raise _RefusedError(Code.INVALID_REPLICA_ASSIGNMENT, text)


def _settings(call: Call[Request], topic: Wanted) -> dict[str, str]:
    if len({config.name for config in topic.configs}) < len(topic.configs):
        raise _RefusedError(Code.INVALID_CONFIG, "a configuration key is there twice")
    try:
        settings = call.front.topic_keys.settings({config.name: config.value for config in topic.configs})
    except CorgiError as error:
        raise _RefusedError(Code.INVALID_CONFIG, error.message) from None
    return {key: value for key, value in settings.items() if value is not None}


def _told(call: Call[Request], name: str, uuid: bytes, partitions: int, settings: dict[str, str]) -> Result:
    refused = call.refusal(Operation.DESCRIBE_CONFIGS, Kind.TOPIC, name)
    if refused:
        return Result(name, uuid, OK, None, refused, configs=None)
    configs = [
        ToldConfig(told.key, told.value, told.read_only, told.source) for told in call.front.topic_keys.told(settings)
    ]
    return Result(name, uuid, OK, None, 0, partitions, len(call.front.node.options.members), tuple(configs))


API = Api(19, "CreateTopics", (2, 7), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
