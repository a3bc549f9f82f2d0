"""What a node's configuration says about its Kafka clients: who they are, what they may do, who is asked.

A user that nobody configured has a credential too, one that no password fits. It is made from the name and from what
is kept of the others' passwords, so it is the same at every try, after a restart, and on every node that has the same
users, and looks like any other.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from corgi.base.errors import CorgiError
from corgi.kafka.access import ANONYMOUS, ANYBODY, Access
from corgi.kafka.credentials import (
    HASHES,
    ITERATIONS_DEFAULT,
    MECHANISMS,
    PLAIN,
    SALT_BYTES,
    SCRAM_SHA_256,
    SCRAM_SHA_512,
    Credential,
)
from corgi.kafka.sasl import NAME_BYTES_MAX

_TOLD_MAX = 50  # characters of a name that cannot be one


def check_user_name(name: str) -> None:
    """Raises CorgiError "invalid-argument" for what no client can say, or rules have another meaning for."""
    if not name or not name.isprintable() or len(name.encode()) > NAME_BYTES_MAX or name in (ANYBODY, ANONYMOUS):
        raise CorgiError("invalid-argument", f"{name[:_TOLD_MAX]!r} cannot be a user's name")


@dataclass(frozen=True, slots=True)
class User:
    """``credentials``: by SCRAM mechanism; at least one."""

    name: str
    credentials: Mapping[str, Credential]
    superuser: bool = False

    def credential(self, mechanism: str) -> Credential | None:
        """The one for a mechanism; PLAIN takes any, and rather the one that is checked in half the time."""
        if mechanism != PLAIN:
            return self.credentials.get(mechanism)
        return self.credentials.get(SCRAM_SHA_256) or self.credentials.get(SCRAM_SHA_512)


class Security:
    """``mechanisms``: those offered, by listener; a listener that is not there asks nobody who it is.
    ``access`` None: everybody may do everything."""

    def __init__(
        self,
        users: Iterable[User] = (),
        mechanisms: Mapping[str, tuple[str, ...]] = {},
        access: Access | None = None,
    ) -> None:
        self.users = {user.name: user for user in sorted(users, key=lambda user: user.name)}
        self.mechanisms = dict(mechanisms)
        self.access = access
        self._decoys = {mechanism: _Decoys(mechanism, self.users.values()) for mechanism in MECHANISMS}

    def credential(self, mechanism: str, name: str) -> Credential:
        """A user's, or one that nobody has. Takes as long for either."""
        nobodys = self._decoys[mechanism].of(name)
        user = self.users.get(name)
        found = None if user is None else user.credential(mechanism)
        return nobodys if found is None else found


class _Decoys:
    """Credentials of those who are not there, each in the form of one that is."""

    def __init__(self, mechanism: str, users: Iterable[User]) -> None:
        found = [user.credential(mechanism) for user in users]
        self._known = [one for one in found if one is not None] or [_form(mechanism)]
        keys = b"".join([one.server_key for one in self._known])
        self._secret = hmac.digest(keys or b"nobody", mechanism.encode(), "sha512")

    def of(self, name: str) -> Credential:
        seed = hmac.digest(self._secret, name.encode(), "sha512")
        like = self._known[int.from_bytes(seed[-8:]) % len(self._known)]
        salt = hmac.digest(seed, b"salt", "sha512")[: len(like.salt)]
        key = hmac.digest(seed, b"key", HASHES[like.mechanism])
        return Credential(like.mechanism, salt, like.iterations, key, key)


def _form(mechanism: str) -> Credential:
    """What credentials look like where there are none."""
    scheme = SCRAM_SHA_256 if mechanism == PLAIN else mechanism
    return Credential(scheme, bytes(SALT_BYTES), ITERATIONS_DEFAULT, b"", b"")


OPEN = Security()
