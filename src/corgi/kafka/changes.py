"""Changes of configuration, as both AlterConfigs and IncrementalAlterConfigs answer them: a result per resource."""

from __future__ import annotations

from collections.abc import Callable

from corgi.base.errors import CorgiError
from corgi.base.ports import Message
from corgi.kafka.access import CLUSTER_NAME, Kind, Operation
from corgi.kafka.api import AnyCall
from corgi.kafka.codec import Body, Int8, Int16, Int32
from corgi.kafka.errors import Code, code_of
from corgi.kafka.several import Several, failure_of, repeated, too_many, with_topics
from corgi.state.topics import Topic
from corgi.wire.messages import AlterTopic

TOPIC, BROKER = 2, 4
TIMEOUT_MS = 30_000

Settings = dict[str, str | None]


class Result(Body, frozen=True):
    error: Int16
    message: str | None
    kind: Int8
    name: str


class Response(Body, frozen=True):
    throttle_ms: Int32
    results: tuple[Result, ...]


def change(
    call: AnyCall, resources: list[tuple[int, str]], settings: Callable[[int, Topic], Settings], *, validate_only: bool
) -> None:
    """Change each (type, name). ``settings`` tells what of a topic, by the index of the resource; raises CorgiError
    "invalid-argument" for what cannot be."""
    with_topics(call, lambda error: _Changes(call, resources, settings, validate_only).begin(error))


class _Changes:
    def __init__(
        self,
        call: AnyCall,
        resources: list[tuple[int, str]],
        settings: Callable[[int, Topic], Settings],
        validate_only: bool,
    ) -> None:
        self._call = call
        self._resources = resources
        self._settings = settings
        self._validate_only = validate_only
        self._several: Several[Result] = Several(len(resources), lambda results: call.answer(Response(0, results)))

    def begin(self, unconfirmed: int) -> None:
        excess = too_many(len(self._resources))
        twice = repeated(self._resources)
        for i, (kind, name) in enumerate(self._resources):
            if excess is not None:
                self._tell(i, Code.POLICY_VIOLATION, excess.message)
            elif (kind, name) in twice:
                self._tell(i, Code.INVALID_REQUEST, "the request names this resource twice")
            elif refused := self._refusal(kind, name):
                self._tell(i, refused, "you may not alter this configuration")
            elif kind == BROKER:
                self._tell(
                    i, Code.INVALID_CONFIG, "a node's configuration is changed in its file, and read at its start"
                )
            elif kind != TOPIC:
                self._tell(i, Code.INVALID_REQUEST, f"resources of type {kind} have no configuration here")
            elif unconfirmed:
                self._tell(i, code_of(unconfirmed), "the topics could not be confirmed")
            else:
                self._change(i, name)
        self._several.started()

    def _refusal(self, kind: int, name: str) -> Code:
        if kind == BROKER:
            return self._call.refusal(Operation.ALTER_CONFIGS, Kind.CLUSTER, CLUSTER_NAME)
        return self._call.refusal(Operation.ALTER_CONFIGS, Kind.TOPIC, name) if kind == TOPIC else Code.NONE

    def _change(self, i: int, name: str) -> None:
        topic = self._call.front.topic(name)
        if topic is None:
            self._tell(i, Code.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {name!r}")
            return
        try:
            settings = self._settings(i, topic)
        except CorgiError as error:
            self._tell(i, Code.INVALID_CONFIG, error.message)
            return
        if self._validate_only or all(topic.config.get(key) == value for key, value in settings.items()):
            self._tell(i, Code.NONE, "")
            return

        def altered(reply: Message, _payload: object) -> None:
            self._tell(i, *failure_of(reply))

        self._call.ask(AlterTopic(name, config=settings, timeout_ms=TIMEOUT_MS), altered)

    def _tell(self, i: int, code: Code, why: str) -> None:
        self._several.set(i, Result(code, why or None, *self._resources[i]))
