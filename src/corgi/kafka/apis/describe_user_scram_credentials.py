"""DescribeUserScramCredentials (50), version 0: which mechanisms users have, with how many iterations (KIP-554).

Users stand in the nodes' configuration; this node tells of its own.
"""

from __future__ import annotations

from corgi.kafka.access import CLUSTER_NAME, Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int8, Int16, Int32
from corgi.kafka.credentials import SCRAM_SHA_256, SCRAM_SHA_512
from corgi.kafka.errors import Code
from corgi.kafka.several import repeated, too_many

MECHANISMS = {SCRAM_SHA_256: 1, SCRAM_SHA_512: 2}
_FLEXIBLE = 0


class Wanted(Body, frozen=True):
    name: str


class Request(Body, frozen=True):
    users: tuple[Wanted, ...] | None


class Info(Body, frozen=True):
    mechanism: Int8
    iterations: Int32


class Result(Body, frozen=True):
    user: str
    error: Int16
    message: str | None = None
    credentials: tuple[Info, ...] = ()


class Response(Body, frozen=True):
    throttle_ms: Int32
    error: Int16
    message: str | None = None
    results: tuple[Result, ...] = ()


def handle(call: Call[Request]) -> None:
    """At once. No users named are all."""
    refused = call.refusal(Operation.DESCRIBE, Kind.CLUSTER, CLUSTER_NAME)
    names = [wanted.name for wanted in call.request.users or ()]
    excess = too_many(len(names))
    if refused:
        call.answer(Response(0, refused, "you may not describe the cluster"))
        return
    if excess is not None:
        call.answer(Response(0, Code.POLICY_VIOLATION, excess.message))
        return
    twice = repeated(names)
    told = dict.fromkeys(names) or dict.fromkeys(call.front.options.security.users)
    call.answer(Response(0, Code.NONE, None, tuple([_told(call, name, name in twice) for name in told])))


def _told(call: Call[Request], name: str, twice: bool) -> Result:
    user = call.front.options.security.users.get(name)
    if twice:
        return Result(name, Code.DUPLICATE_RESOURCE, "the request names this user twice")
    if user is None:
        return Result(name, Code.RESOURCE_NOT_FOUND, "there is no such user")
    infos = [Info(MECHANISMS[mechanism], one.iterations) for mechanism, one in sorted(user.credentials.items())]
    return Result(name, Code.NONE, None, tuple(infos))


API = Api(50, "DescribeUserScramCredentials", (0, 0), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
