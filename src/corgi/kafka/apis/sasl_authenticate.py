"""SaslAuthenticate (36), versions 0 to 2: a token of the mechanism that was chosen (KIP-152, 368).

What fails is answered late (58) and ends the connection. A session lasts as long as its connection (0).
"""

from __future__ import annotations

from typing import Annotated

from corgi.base.errors import CorgiError
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int64, Since
from corgi.kafka.errors import Code
from corgi.kafka.login import AUTHENTICATE
from corgi.kafka.sasl import Known, Onward

_FLEXIBLE = 2


class Request(Body, frozen=True):
    token: bytes


class Response(Body, frozen=True):
    error: Int16
    message: str | None
    token: bytes = b""
    lifetime_ms: Annotated[Int64, Since(1)] = 0


def handle(call: Call[Request]) -> None:
    """When the mechanism has judged the token."""
    login = call.session.login
    if login is None:
        call.answer(Response(Code.ILLEGAL_SASL_STATE, "no login is under way on this connection"))
        return

    def answered(outcome: Onward | Known) -> None:
        call.answer(Response(Code.NONE, None, outcome.token))

    def refused(why: str) -> None:
        call.answer(Response(Code.SASL_AUTHENTICATION_FAILED, f"authentication failed: {why}"))

    try:
        login.take(call.request.token, answered, refused)
    except CorgiError as error:
        call.answer(Response(Code.ILLEGAL_SASL_STATE, error.message))
        call.session.fail(error)


API = Api(AUTHENTICATE, "SaslAuthenticate", (0, 2), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
