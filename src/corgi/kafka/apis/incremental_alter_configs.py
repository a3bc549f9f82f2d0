"""IncrementalAlterConfigs (44), versions 0 to 1: some keys of topics: 0 set, 1 delete, 2 append to, 3 subtract from a
list. The only list that can be changed is cleanup.policy, which cannot become empty."""

from __future__ import annotations

from corgi.base.errors import CorgiError
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.changes import Response, Settings, change
from corgi.kafka.codec import Body, Int8
from corgi.kafka.topic_config import list_value
from corgi.state.topics import Topic

__all__ = ["API", "Request", "Response"]

SET, DELETE, APPEND, SUBTRACT = range(4)
_FLEXIBLE = 1


class Config(Body, frozen=True):
    name: str
    operation: Int8
    value: str | None


class Resource(Body, frozen=True):
    kind: Int8
    name: str
    configs: tuple[Config, ...]


class Request(Body, frozen=True):
    resources: tuple[Resource, ...]
    validate_only: bool


def handle(call: Call[Request]) -> None:
    """Answered when the changes are in force everywhere."""
    resources = call.request.resources

    def settings(i: int, topic: Topic) -> Settings:
        wanted: dict[str, str | None] = {}
        for config in resources[i].configs:
            if config.name in wanted:
                raise CorgiError("invalid-argument", f"{config.name} is there twice")
            wanted[config.name] = _value(config, topic)
        return call.front.topic_keys.settings(wanted)

    change(call, [(one.kind, one.name) for one in resources], settings, validate_only=call.request.validate_only)


def _value(config: Config, topic: Topic) -> str | None:
    if config.operation == DELETE:
        return None
    if config.value is None:
        raise CorgiError("invalid-argument", f"{config.name} has no value")
    if config.operation == SET:
        return config.value
    if config.operation not in (APPEND, SUBTRACT):
        raise CorgiError("invalid-argument", f"there is no operation {config.operation}")
    present = list_value(topic.config, config.name)
    words = [word.strip() for word in config.value.split(",")]
    if config.operation == APPEND:
        return ",".join([*present, *[word for word in words if word not in present]])
    return ",".join([word for word in present if word not in words])


API = Api(44, "IncrementalAlterConfigs", (0, 1), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
