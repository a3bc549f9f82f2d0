"""Users of the Kafka listeners and what they may do, as the configuration has it, made into what the node checks by.

A refusal names the user and never repeats a credential.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from corgi.base.errors import CorgiError
from corgi.kafka.access import (
    ANONYMOUS,
    ANY_NAME,
    ANYBODY,
    CLUSTER_NAME,
    OPERATIONS,
    Access,
    Kind,
    Operation,
    Rule,
)
from corgi.kafka.credentials import MECHANISMS, PLAIN, Credential, parse_credential
from corgi.kafka.sasl import NAME_BYTES_MAX
from corgi.kafka.security import Security, User, check_user_name

USERS_MAX = 1_000
RULES_MAX = 10_000
PLAINTEXT, SASL_PLAINTEXT = "plaintext", "sasl_plaintext"
OperationName = Literal[
    "all", "read", "write", "create", "delete", "alter", "describe",
    "describe_configs", "alter_configs", "idempotent_write",
]  # fmt: skip


class UserEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One user; ``corgi user entry NAME`` prints it."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
    credentials: Annotated[tuple[str, ...], Meta(min_length=1, max_length=2)]  # RFC 5803, one for each hash
    superuser: bool = False  # may do everything


class AccessEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule of who may do what; every operation of it is a rule of Kafka's."""

    user: Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]  # or "*": everybody
    permission: Literal["allow", "deny"] = "allow"
    operations: Annotated[tuple[OperationName, ...], Meta(min_length=1, max_length=16)]
    resource: Literal["topic", "group", "transactional_id", "cluster"]
    name: Annotated[str, Meta(max_length=1_000)] = ""  # or "*": all; none for the cluster
    pattern: Literal["literal", "prefixed"] = "literal"  # prefixed: all names that begin so


def parse_security(text: str, listeners: Sequence[str], *, users: bool) -> dict[str, str]:
    """By listener, plaintext or sasl_plaintext: one word for all, or ``name=word,name=word``; empty: the latter where
    there are users. Raises CorgiError "invalid-argument"."""
    if not text.strip():
        return dict.fromkeys(listeners, SASL_PLAINTEXT if users else PLAINTEXT)
    if "=" not in text:
        return dict.fromkeys(listeners, _word(text.strip()))
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, word = part.partition("=")
        name = name.strip()
        if name in found or name not in listeners:
            why = "is there twice" if name in found else f"is not one of {', '.join(listeners)}"
            raise CorgiError("invalid-argument", f"kafka_security = {text!r}: the listener {name!r} {why}")
        found[name] = _word(word.strip())
    for name in listeners:
        if name not in found:
            raise CorgiError("invalid-argument", f"kafka_security = {text!r} does not name the listener {name!r}")
    return found


def _word(word: str) -> str:
    if word not in (PLAINTEXT, SASL_PLAINTEXT):
        hint = f"{PLAINTEXT} or {SASL_PLAINTEXT}"
        if word in ("ssl", "sasl_ssl"):
            hint += "; the node speaks no TLS: put a proxy that does in front of a listener on the loopback"
        raise CorgiError("invalid-argument", f"kafka_security: {word!r} is not served", hint=hint)
    return word


def parse_mechanisms(text: str) -> tuple[str, ...]:
    """Names of mechanisms, separated by commas. Raises CorgiError "invalid-argument"."""
    found = tuple(dict.fromkeys(piece.strip() for piece in text.split(",") if piece.strip()))
    for name in found:
        if name not in MECHANISMS:
            known = ", ".join(MECHANISMS)
            raise CorgiError("invalid-argument", f"kafka_mechanisms: {name!r} is not one of {known}")
    if not found:
        raise CorgiError("invalid-argument", "kafka_mechanisms is empty")
    return found


def security_of(
    users: Iterable[UserEntry],
    rules: Sequence[AccessEntry],
    security: Mapping[str, str],
    mechanisms: tuple[str, ...],
) -> Security:
    """What the node is told; ``security`` by listener. Raises CorgiError "invalid-argument"."""
    found: dict[str, User] = {}
    for entry in users:
        if entry.name in found:
            raise CorgiError("invalid-argument", f"users: {entry.name!r} is there twice")
        found[entry.name] = _user(entry)
    asking = {name: mechanisms for name, word in security.items() if word == SASL_PLAINTEXT}
    if asking and not found:
        raise CorgiError("invalid-argument", "kafka_security: clients are asked who they are, and there are no users")
    for mechanism in mechanisms if asking else ():
        if not any(user.credential(mechanism) for user in found.values()):
            raise CorgiError(
                "invalid-argument",
                f"kafka_mechanisms: no user has a credential for {mechanism}",
                hint="leave it out, or make one: corgi user entry NAME",
            )
    return Security(found.values(), asking, _access(rules, found))


def sends_passwords(mechanisms: Iterable[str]) -> bool:
    """Whether a password itself may cross the network."""
    return PLAIN in mechanisms


def _user(entry: UserEntry) -> User:
    try:
        check_user_name(entry.name)
    except CorgiError as error:
        raise CorgiError("invalid-argument", f"users: {error.message}") from None
    credentials: dict[str, Credential] = {}
    for i, text in enumerate(entry.credentials):
        try:
            credential = parse_credential(text)
        except CorgiError as error:
            raise CorgiError("invalid-argument", f"users: {entry.name!r}, {error.message}", hint=error.hint) from None
        if credential.mechanism in credentials:
            told = f"users: {entry.name!r}, credential {i + 1} is another one for {credential.mechanism}"
            raise CorgiError("invalid-argument", told)
        credentials[credential.mechanism] = credential
    return User(entry.name, credentials, entry.superuser)


def _access(entries: Sequence[AccessEntry], users: Mapping[str, User]) -> Access | None:
    """Without rules everybody may do everything."""
    if not entries:
        return None
    rules = [rule for number, entry in enumerate(entries, start=1) for rule in _rules(number, entry, users)]
    return Access(rules, [user.name for user in users.values() if user.superuser])


def _rules(number: int, entry: AccessEntry, users: Mapping[str, User]) -> list[Rule]:
    def refuse(why: str) -> CorgiError:
        return CorgiError("invalid-argument", f"acls: rule {number} of {entry.user!r} {why}")

    if entry.user not in (ANYBODY, ANONYMOUS) and entry.user not in users:
        raise refuse("is of no user that there is")
    name = entry.name
    if entry.resource == "cluster":
        if entry.pattern == "prefixed" or name not in ("", CLUSTER_NAME):
            raise refuse("names a cluster; there is one, and it needs no name")
        name = CLUSTER_NAME
    elif not name:
        raise refuse(f'names no {entry.resource}; "{ANY_NAME}" is all of them')
    kind = Kind[entry.resource.upper()]
    operations = [Operation[operation.upper()] for operation in dict.fromkeys(entry.operations)]
    for operation in operations:
        if operation not in (Operation.ALL, *OPERATIONS[kind]):
            asked = ", ".join([one.name.lower() for one in OPERATIONS[kind] if one != Operation.CLUSTER_ACTION])
            raise refuse(f"has {operation.name.lower()!r}, which nobody asks of a {entry.resource}, but {asked}")
    allow, prefix = entry.permission == "allow", entry.pattern == "prefixed"
    return [Rule(entry.user, allow, operation, kind, name, prefix) for operation in operations]
