"""AlterUserScramCredentials (51), version 0: refused user by user. They stand in the nodes' configuration (KIP-554)."""

from __future__ import annotations

from corgi.kafka.access import CLUSTER_NAME, Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int8, Int16, Int32
from corgi.kafka.errors import Code

WHY = "users stand in the configuration of the nodes, which is read at their start"
_FLEXIBLE = 0


class Deletion(Body, frozen=True):
    name: str
    mechanism: Int8


class Upsertion(Body, frozen=True):
    name: str
    mechanism: Int8
    iterations: Int32
    salt: bytes
    salted_password: bytes


class Request(Body, frozen=True):
    deletions: tuple[Deletion, ...]
    upsertions: tuple[Upsertion, ...]


class Result(Body, frozen=True):
    user: str
    error: Int16
    message: str | None


class Response(Body, frozen=True):
    throttle_ms: Int32
    results: tuple[Result, ...]


def handle(call: Call[Request]) -> None:
    """At once."""
    refused = call.refusal(Operation.ALTER, Kind.CLUSTER, CLUSTER_NAME)
    code, why = (refused, None) if refused else (Code.POLICY_VIOLATION, WHY)
    names = [one.name for one in call.request.deletions] + [one.name for one in call.request.upsertions]
    call.answer(Response(0, tuple([Result(name, code, why) for name in dict.fromkeys(names)])))


API = Api(51, "AlterUserScramCredentials", (0, 0), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
