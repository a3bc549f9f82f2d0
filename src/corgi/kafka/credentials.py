"""What a node keeps of a password: enough to check it, not enough to know it or to pass for its owner (RFC 5802, 7677).

The text form is that of RFC 5803, which other programs write as well:

    SCRAM-SHA-256$15000:<salt>$<stored key>:<server key>        (the three in base64)

Passwords are taken as UTF-8 without SASLprep, as Kafka and its clients do.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass

from corgi.base.errors import CorgiError

SCRAM_SHA_256, SCRAM_SHA_512, PLAIN = "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"
HASHES = {SCRAM_SHA_256: "sha256", SCRAM_SHA_512: "sha512"}
MECHANISMS = (SCRAM_SHA_256, SCRAM_SHA_512, PLAIN)
ITERATIONS_MIN = 4_096  # RFC 7677
ITERATIONS_DEFAULT = 15_000  # … which recommends so many
ITERATIONS_MAX = 200_000  # a PLAIN login costs the node so many steps
SALT_BYTES = 16
SALT_BYTES_MAX = 64
_TEXT = re.compile(r"(SCRAM-SHA-(?:256|512))\$([0-9]{1,7}):([\w+/=]+)\$([\w+/=]+):([\w+/=]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Derivation:
    """From a password to its salted form, the slow step: ``iterations`` steps of PBKDF2."""

    mechanism: str
    password: bytes
    salt: bytes
    iterations: int

    def run(self) -> bytes:
        """Takes milliseconds; lets other threads run meanwhile."""
        return hashlib.pbkdf2_hmac(HASHES[self.mechanism], self.password, self.salt, self.iterations)


@dataclass(frozen=True, slots=True)
class Credential:
    """See the module. ``mechanism`` is the SCRAM one whose hash it was made with."""

    mechanism: str
    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes

    def __str__(self) -> str:
        salt, stored, server = (base64.b64encode(one).decode() for one in (self.salt, self.stored_key, self.server_key))
        return f"{self.mechanism}${self.iterations}:{salt}${stored}:{server}"

    def __repr__(self) -> str:
        return f"<{self.mechanism} credential>"  # what it holds belongs into no log

    def derivation(self, password: bytes) -> Derivation:
        """What must be computed to check a password."""
        return Derivation(self.mechanism, password, self.salt, self.iterations)

    def fits(self, salted_password: bytes) -> bool:
        """Whether this is the salted form of its password."""
        return hmac.compare_digest(_stored_key(self.mechanism, salted_password), self.stored_key)

    def proves(self, auth_message: bytes, proof: bytes) -> bool:
        """Whether ``proof`` was made by who knows the password (RFC 5802 section 3)."""
        signature = keyed(self.mechanism, self.stored_key, auth_message)
        if len(proof) != len(signature):
            return False
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        return hmac.compare_digest(_digest(self.mechanism, client_key), self.stored_key)

    def signature(self, auth_message: bytes) -> bytes:
        """By which the client knows that the node has the user's credential."""
        return keyed(self.mechanism, self.server_key, auth_message)


def credential_of(derivation: Derivation) -> Credential:
    """The credential of a password; ``derivation`` says with which salt and how many iterations."""
    salted = derivation.run()
    mechanism = derivation.mechanism
    return Credential(
        mechanism,
        derivation.salt,
        derivation.iterations,
        _stored_key(mechanism, salted),
        keyed(mechanism, salted, b"Server Key"),
    )


def parse_credential(text: str) -> Credential:
    """From its text form. Raises CorgiError "invalid-argument", which does not repeat the text."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise _refuse("it is not SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY, or the same with 512")
    mechanism, iterations = match[1], int(match[2])
    try:
        salt, stored, server = (base64.b64decode(part, validate=True) for part in match.group(3, 4, 5))
    except binascii.Error:
        raise _refuse("its salt or one of its keys is not base64") from None
    if not ITERATIONS_MIN <= iterations <= ITERATIONS_MAX:
        raise _refuse(f"it has {iterations} iterations, {ITERATIONS_MIN} to {ITERATIONS_MAX} are taken")
    if not 1 <= len(salt) <= SALT_BYTES_MAX:
        raise _refuse(f"its salt has {len(salt)} bytes, 1 to {SALT_BYTES_MAX} are taken")
    size = hashlib.new(HASHES[mechanism]).digest_size
    if len(stored) != size or len(server) != size:
        raise _refuse(f"the keys of {mechanism} have {size} bytes each")
    return Credential(mechanism, salt, iterations, stored, server)


def keyed(mechanism: str, key: bytes, message: bytes) -> bytes:
    """The mechanism's HMAC."""
    return hmac.digest(key, message, HASHES[mechanism])


def _digest(mechanism: str, data: bytes) -> bytes:
    return hashlib.new(HASHES[mechanism], data).digest()


def _stored_key(mechanism: str, salted_password: bytes) -> bytes:
    return _digest(mechanism, keyed(mechanism, salted_password, b"Client Key"))


def _refuse(why: str) -> CorgiError:
    return CorgiError("invalid-argument", f"a credential cannot be used: {why}", hint="make one: corgi user entry NAME")
