"""Who may do what: rules of users, and the one question that every API asks of them.

What no rule allows is denied, and a rule that denies wins. A superuser may do everything. Operations, kinds of
resources and what implies what are Kafka's (its authorizer's documentation, KIP-11): who may read, write, delete or
alter something may also see it; the permission to alter a configuration shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from corgi.kafka.errors import Code

ANYBODY = "*"
ANONYMOUS = "ANONYMOUS"  # the user of a listener that asks nobody who it is
CLUSTER_NAME = "kafka-cluster"
ANY_NAME = "*"


class Kind(IntEnum):
    """Of resources, by Kafka's numbers."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5


class Operation(IntEnum):
    """By Kafka's numbers."""

    ALL = 2
    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12


REFUSALS = {
    Kind.TOPIC: Code.TOPIC_AUTHORIZATION_FAILED,
    Kind.GROUP: Code.GROUP_AUTHORIZATION_FAILED,
    Kind.CLUSTER: Code.CLUSTER_AUTHORIZATION_FAILED,
    Kind.TRANSACTIONAL_ID: Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
OPERATIONS = {
    Kind.TOPIC: (
        Operation.READ, Operation.WRITE, Operation.CREATE, Operation.DELETE, Operation.ALTER, Operation.DESCRIBE,
        Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS,
    ),
    Kind.GROUP: (Operation.READ, Operation.DELETE, Operation.DESCRIBE),
    Kind.CLUSTER: (
        Operation.CREATE, Operation.ALTER, Operation.DESCRIBE, Operation.CLUSTER_ACTION, Operation.DESCRIBE_CONFIGS,
        Operation.ALTER_CONFIGS, Operation.IDEMPOTENT_WRITE,
    ),
    Kind.TRANSACTIONAL_ID: (Operation.WRITE, Operation.DESCRIBE),
}  # fmt: skip
NOT_ASKED = -(1 << 31)  # in the place of the operations that a client has, if it did not ask
_SEEING = (Operation.READ, Operation.WRITE, Operation.DELETE, Operation.ALTER)
_IMPLIED_BY = {Operation.DESCRIBE: _SEEING, Operation.DESCRIBE_CONFIGS: (Operation.ALTER_CONFIGS,)}
EVERYTHING = sum(1 << operation for operation in Operation)
_DENIED = len(Operation) + min(Operation)  # where the bits of what is denied begin, above those of what is allowed
_UNHEARD_OF = "\0"  # in no name


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows or denies a user, or ANYBODY, an operation.

    ``name`` "*" is every name; with ``prefix`` the rule is for all that begin with it.
    """

    user: str
    allow: bool
    operation: Operation
    kind: Kind
    name: str
    prefix: bool = False

    @property
    def bits(self) -> int:
        """The operations that it allows, with what they imply, or denies: a bit for each."""
        each = tuple(Operation) if self.operation == Operation.ALL else (self.operation,)
        if not self.allow:
            return sum(1 << operation + _DENIED for operation in each)
        implied = [operation for operation, by in _IMPLIED_BY.items() if self.operation in by]
        return sum(1 << operation for operation in {*each, *implied})


class _Book:
    """The rules of one user about resources of one kind, found by name: their number costs nothing."""

    __slots__ = ("lengths", "literal", "prefixed")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.literal: dict[str, int] = {}
        self.prefixed: dict[str, int] = {}
        for rule in rules:
            names = self.prefixed if rule.prefix else self.literal
            names[rule.name] = names.get(rule.name, 0) | rule.bits
        self.lengths = sorted({len(name) for name in self.prefixed})

    def about(self, name: str) -> int:
        """The bits of all rules that speak of the resource of this name."""
        found = self.literal.get(name, 0) | self.literal.get(ANY_NAME, 0)
        for length in self.lengths:
            if length > len(name):
                break
            found |= self.prefixed.get(name[:length], 0)
        return found

    def examples(self, operation: Operation) -> Iterator[str]:
        """Names of which one may be used so if any may: of each rule that allows it one that it speaks of."""
        for name, bits in self.literal.items():
            if bits >> operation & 1:
                yield _UNHEARD_OF if name == ANY_NAME else name
        for prefix, bits in self.prefixed.items():
            if bits >> operation & 1:
                yield prefix + _UNHEARD_OF


class Access:
    """The rules of a node, which stay the same as long as it runs."""

    def __init__(self, rules: Iterable[Rule], superusers: Iterable[str] = ()) -> None:
        self.rules = tuple(rules)
        self.superusers = frozenset(superusers)
        of: dict[tuple[str, Kind], list[Rule]] = {}
        for rule in self.rules:
            of.setdefault((rule.user, rule.kind), []).append(rule)
        self._books = {key: _Book(found) for key, found in of.items()}

    def may(self, user: str, operation: Operation, kind: Kind, name: str) -> bool:
        """Whether the user may do this to the resource."""
        return bool(self.operations(user, kind, name) >> operation & 1)

    def operations(self, user: str, kind: Kind, name: str) -> int:
        """What the user may do to the resource: a bit for each operation."""
        if user in self.superusers:
            return EVERYTHING
        found = 0
        for book in self._of(user, kind):
            found |= book.about(name)
        return found & ~(found >> _DENIED) & EVERYTHING

    def may_somewhere(self, user: str, operation: Operation, kind: Kind) -> bool:
        """Whether there is a name, known or not, with which the user may do this (KIP-679)."""
        names = (name for book in self._of(user, kind) for name in book.examples(operation))
        return user in self.superusers or any(self.may(user, operation, kind, name) for name in names)

    def _of(self, user: str, kind: Kind) -> list[_Book]:
        return [book for who in (user, ANYBODY) if (book := self._books.get((who, kind))) is not None]
