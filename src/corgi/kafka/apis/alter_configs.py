"""AlterConfigs (33), versions 0 to 2: all keys of topics anew; what is not named returns to its default."""

from __future__ import annotations

from corgi.base.errors import CorgiError
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.changes import Response, Settings, change
from corgi.kafka.codec import Body, Int8
from corgi.kafka.topic_config import settings_but
from corgi.state.topics import Topic

__all__ = ["API", "Request", "Response"]

_FLEXIBLE = 2


class Config(Body, frozen=True):
    name: str
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

    def settings(i: int, _topic: Topic) -> Settings:
        wanted = {config.name: config.value for config in resources[i].configs}
        if len(wanted) < len(resources[i].configs):
            raise CorgiError("invalid-argument", "a configuration key is there twice")
        return settings_but(wanted) | call.front.topic_keys.settings(wanted)

    change(call, [(one.kind, one.name) for one in resources], settings, validate_only=call.request.validate_only)


API = Api(33, "AlterConfigs", (0, 2), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
