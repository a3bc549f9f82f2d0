"""SaslHandshake (17), versions 0 and 1: the mechanism by which the client will say who it is (KIP-43).

After version 1 its tokens come in SaslAuthenticate, after version 0 bare. Where nobody is asked, or it is known who the
client is, there is nothing to choose (34): sessions do not expire, so nobody needs to authenticate anew.
"""

from __future__ import annotations

from corgi.base.errors import CorgiError
from corgi.kafka.api import NEVER, Api, Call, bodies
from corgi.kafka.codec import Body, Int16
from corgi.kafka.errors import Code
from corgi.kafka.login import HANDSHAKE

_TOLD_MAX = 50  # characters of what was asked for


class Request(Body, frozen=True):
    mechanism: str


class Response(Body, frozen=True):
    error: Int16
    mechanisms: tuple[str, ...]


def handle(call: Call[Request]) -> None:
    """At once. The connection ends behind a refusal, if there is something to choose."""
    login = call.session.login
    if login is None:
        offered = call.front.options.security.mechanisms.get(call.session.listener, ())
        call.answer(Response(Code.ILLEGAL_SASL_STATE, offered))
        return
    mechanism = call.request.mechanism
    code = login.choose(mechanism, raw=call.version == 0)
    call.answer(Response(code, login.mechanisms))
    if code:
        wanted = f"the SASL mechanism {mechanism[:_TOLD_MAX]!r} is not offered, or another one was begun"
        call.session.fail(CorgiError("authentication-failed", wanted))


API = Api(HANDSHAKE, "SaslHandshake", (0, 1), NEVER, bodies(Request, NEVER), handle)
