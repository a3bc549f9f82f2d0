"""The mechanisms by which a client says who it is: PLAIN (RFC 4616) and SCRAM (RFC 5802, 7677), each as an exchange.

An exchange takes the client's tokens one by one and ends in a user or in a refusal. Who is not known goes through
the same motions as who is, with a credential that no password fits, so neither answers nor their time tell who exists.
Knows nothing of Kafka's requests, and meets no chance and no clock: the nonce and the slow step come from outside.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from corgi.kafka.credentials import PLAIN, Credential, Derivation

TOKEN_BYTES_MAX = 16 * 1024
NAME_BYTES_MAX = 255
_NONCE = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,1024}")  # printable, without the comma
_ESCAPES = {"=2C": ",", "=3D": "="}
_NO_BINDING = ("n", "y")
_WRONG = "the user or the password is wrong"


@dataclass(frozen=True, slots=True)
class Onward:
    """The client is to go on: it gets this token."""

    token: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """The client is this user; it gets a last token."""

    user: str
    token: bytes = b""


@dataclass(frozen=True, slots=True)
class Refused:
    """The client is nobody. ``why`` may be told to it."""

    why: str


Outcome = Onward | Known | Refused
Then = Callable[[Outcome], None]


class Outside(Protocol):
    """What an exchange needs that is not in it."""

    def nonce(self) -> str:
        """Fresh printable text without a comma, that nobody can guess."""
        ...

    def derive(self, work: Derivation, then: Callable[[bytes], None]) -> None:
        """Run it without holding anybody up; ``then`` gets the result. Ends the connection if too many wait."""
        ...


Credentials = Callable[[str, str], Credential]
"""(mechanism, user) to the user's credential, or to one that nobody has. For PLAIN one of any hash."""


class Exchange(Protocol):
    """One attempt of one client."""

    def take(self, token: bytes, then: Then) -> None:
        """The client's next token; ``then`` is called once, at once or later. No other token may come before."""
        ...


def begin(mechanism: str, credentials: Credentials, outside: Outside) -> Exchange:
    """An exchange of a mechanism that is offered."""
    return Plain(credentials, outside) if mechanism == PLAIN else Scram(mechanism, credentials, outside)


class Plain:
    """``[authorization id] NUL user NUL password``, checked against what is kept for SCRAM."""

    def __init__(self, credentials: Credentials, outside: Outside) -> None:
        self._credentials = credentials
        self._outside = outside

    def take(self, token: bytes, then: Then) -> None:
        parts = token.split(b"\0")
        if len(token) > TOKEN_BYTES_MAX or len(parts) != 3:
            then(Refused("the token is not [authorization id] NUL user NUL password"))
            return
        try:
            authorization, user = (str(part, "utf-8") for part in parts[:2])
        except UnicodeDecodeError:
            then(Refused("the token is not UTF-8"))
            return
        password = parts[2]
        if not user or not password or len(parts[1]) > NAME_BYTES_MAX:
            then(Refused(_WRONG))
            return
        if authorization not in ("", user):
            then(Refused("a user may not act as another"))
            return
        credential = self._credentials(PLAIN, user)

        def derived(salted: bytes) -> None:
            then(Known(user) if credential.fits(salted) else Refused(_WRONG))

        self._outside.derive(credential.derivation(password), derived)


class Scram:
    """The server's side of RFC 5802 without channel binding."""

    def __init__(self, mechanism: str, credentials: Credentials, outside: Outside) -> None:
        self._mechanism = mechanism
        self._credentials = credentials
        self._outside = outside
        self._credential: Credential | None = None  # that of the first message
        self._user = ""
        self._header = ""  # GS2, to be repeated in the client's final message
        self._nonce = ""
        self._messages = ""  # client-first-bare, server-first

    def take(self, token: bytes, then: Then) -> None:
        if len(token) > TOKEN_BYTES_MAX:
            then(Refused(f"a token has at most {TOKEN_BYTES_MAX} bytes"))
            return
        try:
            text = str(token, "utf-8")
        except UnicodeDecodeError:
            then(Refused("a SCRAM message is not UTF-8"))
            return
        then(self._first(text) if self._credential is None else self._final(text, self._credential))

    def _first(self, text: str) -> Outcome:
        """``gs2-header client-first-message-bare``: ``n,,n=user,r=nonce``."""
        binding, _, rest = text.partition(",")
        authorization, comma, bare = rest.partition(",")
        if not comma:
            return Refused("the client's first SCRAM message has no GS2 header")
        if binding not in _NO_BINDING:
            return Refused("channel binding is not served")
        name, nonce, *more = [*bare.split(","), ""]
        if name.startswith("m="):
            return Refused("the client's first SCRAM message wants an extension that is not served")
        user = _name(name.removeprefix("n=")) if name.startswith("n=") else None
        if user is None or not nonce.startswith("r=") or not _NONCE.fullmatch(nonce[2:]):
            return Refused("the client's first SCRAM message is not n=user,r=nonce")
        if "tokenauth=true" in more:
            return Refused("delegation tokens are not served")
        if authorization and (not authorization.startswith("a=") or _name(authorization[2:]) != user):
            return Refused("a user may not act as another")
        credential = self._credentials(self._mechanism, user)
        self._user, self._credential = user, credential
        self._header = f"{binding},{authorization},"
        self._nonce = nonce[2:] + self._outside.nonce()
        salt = base64.b64encode(credential.salt).decode()
        answer = f"r={self._nonce},s={salt},i={credential.iterations}"
        self._messages = f"{bare},{answer}"
        return Onward(answer.encode())

    def _final(self, text: str, credential: Credential) -> Outcome:
        """``c=header,r=nonce[,extensions],p=proof``."""
        told, comma, last = text.rpartition(",")
        binding, nonce, *_ = [*told.split(","), ""]
        if not comma or not last.startswith("p=") or not binding.startswith("c=") or not nonce.startswith("r="):
            return Refused("the client's final SCRAM message is not c=header,r=nonce,p=proof")
        header, proof = _base64(binding[2:]), _base64(last[2:])
        if header is None or proof is None:
            return Refused("the client's final SCRAM message is not in base64")
        # librdkafka before 2.6.1 repeats its own nonce in front; as in Kafka the end counts, which the server added
        if header != self._header.encode() or not nonce.endswith(self._nonce):
            return Refused("the client's final SCRAM message does not continue its first")
        message = f"{self._messages},{told}".encode()
        if not credential.proves(message, proof):
            return Refused(_WRONG)
        return Known(self._user, b"v=" + base64.b64encode(credential.signature(message)))


def _name(text: str) -> str | None:
    """A user's name as SCRAM writes it: comma and equals sign escaped. None if it is none."""
    pieces = re.split("(=2C|=3D)", text)
    if any("=" in piece for piece in pieces[::2]):
        return None
    name = "".join([_ESCAPES.get(piece, piece) for piece in pieces])
    return name if name and len(name.encode()) <= NAME_BYTES_MAX else None


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
