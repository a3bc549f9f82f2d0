"""DeleteGroups (42), versions 0 to 2: forget groups without members, of either kind, and their checkpoints."""

from __future__ import annotations

from collections.abc import Callable

from corgi.base.errors import CorgiError
from corgi.broker.reigns import Reign
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32
from corgi.kafka.errors import Code, group_code_of

PATIENCE_S = 10.0
GROUPS_MAX = 1_000
_FLEXIBLE = 2


class Request(Body, frozen=True):
    groups: tuple[str, ...] = ()


class Deleted(Body, frozen=True):
    group: str
    error: Int16


class Response(Body, frozen=True):
    throttle_ms: Int32 = 0
    results: tuple[Deleted, ...] = ()


def handle(call: Call[Request]) -> None:
    """Answered when all are gone, or not."""
    names = call.request.groups
    if len(names) > GROUPS_MAX:
        call.close(CorgiError("invalid-argument", f"a request names at most {GROUPS_MAX} groups"))
        return
    told: dict[int, Deleted] = {}

    def ended(place: int, code: Code) -> None:
        told[place] = Deleted(names[place], code)
        if len(told) == len(names):
            call.answer(Response(0, tuple([told[i] for i in range(len(names))])))

    if not names:
        call.answer(Response())
    for place, name in enumerate(names):
        _delete(call, name, lambda code, place=place: ended(place, code))  # type: ignore[misc]


def _delete(call: Call[Request], name: str, done: Callable[[Code], None]) -> None:
    requests = call.front.node.requests
    refused = call.refusal(Operation.DELETE, Kind.GROUP, name)
    if refused:
        done(refused)
        return

    def go(_: Reign) -> None:
        requests.groups.changes.delete(name, PATIENCE_S, lambda error, _text: done(group_code_of(error)))

    requests.classic.at(call.session, name, go, lambda error: done(group_code_of(error)))


API = Api(42, "DeleteGroups", (0, 2), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
