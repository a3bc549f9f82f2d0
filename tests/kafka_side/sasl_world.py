"""Users with known passwords, and SCRAM's other side as aiokafka has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiokafka.conn import ScramAuthenticator

from corgi.kafka.credentials import ITERATIONS_MIN, SCRAM_SHA_256, SCRAM_SHA_512, Credential, Derivation, credential_of
from corgi.kafka.sasl import Exchange, Outcome
from corgi.kafka.security import User

PASSWORD = "pencil, = and ünicode"


def credential(mechanism: str, password: str = PASSWORD, salt: bytes = b"salt" * 4) -> Credential:
    return credential_of(Derivation(mechanism, password.encode(), salt, ITERATIONS_MIN))


_BOTH = {mechanism: credential(mechanism) for mechanism in (SCRAM_SHA_256, SCRAM_SHA_512)}


def user(name: str, *, superuser: bool = False) -> User:
    """With PASSWORD."""
    return User(name, _BOTH, superuser)


def scram_client(mechanism: str, name: str, password: str = PASSWORD) -> Any:
    """Somebody else's client: first_message, process_server_first_message, final_message, …"""
    return ScramAuthenticator(
        loop=None, sasl_plain_password=password, sasl_plain_username=name, sasl_mechanism=mechanism
    )


class Outside:
    """A nonce that is known, and derivations at once or when ``wait`` is over."""

    def __init__(self, nonce: str = "servers-nonce") -> None:
        self._nonce = nonce
        self.derived: list[Derivation] = []

    def nonce(self) -> str:
        return self._nonce

    def derive(self, work: Derivation, then: Callable[[bytes], None]) -> None:
        self.derived.append(work)
        then(work.run())


def put(exchange: Exchange, token: bytes) -> Outcome:
    """One token and what comes of it."""
    found: list[Outcome] = []
    exchange.take(token, found.append)
    (outcome,) = found
    return outcome
