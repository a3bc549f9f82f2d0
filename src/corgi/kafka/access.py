"""Who may do what: rules of users, and the one question that every API asks of them.

What no rule allows is denied, and a rule that denies wins. A superuser may do everything. Operations, kinds of
resources and what implies what are Kafka's (its authorizer's documentation, KIP-11): who may read, write, delete or
alter something may also see it; the permission to alter a configuration shows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from corgi.kafka.errors import Code

ANYBODY = "*"
ANONYMOUS = "ANONYMOUS"  # the user of a listener that asks nobody who it is
CLUSTER_NAME = "kafka-cluster"
ANY_NAME = "*"
ANSWERS_MAX = 50_000  # that are kept
KEPT_NAME_MAX = 256  # characters of a name for which one is kept


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

    def covers(self, name: str) -> bool:
        """Whether it speaks of the resource of this name."""
        return name.startswith(self.name) if self.prefix else self.name in (name, ANY_NAME)


class Access:
    """The rules of a node, which stay the same as long as it runs."""

    def __init__(self, rules: Iterable[Rule], superusers: Iterable[str] = ()) -> None:
        self.rules = tuple(rules)
        self.superusers = frozenset(superusers)
        self._of: dict[tuple[str, Kind], list[Rule]] = {}
        for rule in self.rules:
            self._of.setdefault((rule.user, rule.kind), []).append(rule)
        self._answers: dict[tuple[str, Operation, Kind, str], bool] = {}

    def may(self, user: str, operation: Operation, kind: Kind, name: str) -> bool:
        """Whether the user may do this to the resource."""
        key = (user, operation, kind, name)
        if len(name) > KEPT_NAME_MAX:
            return self._judge(*key)
        found = self._answers.get(key)
        if found is None:
            if len(self._answers) >= ANSWERS_MAX:
                self._answers.clear()
            found = self._answers[key] = self._judge(*key)
        return found

    def may_somewhere(self, user: str, operation: Operation, kind: Kind) -> bool:
        """Whether there is a name, known or not, with which the user may do this (KIP-679)."""
        if user in self.superusers:
            return True
        rules = [rule for rule in self._rules(user, kind) if rule.operation in (operation, Operation.ALL)]
        denied = [rule for rule in rules if not rule.allow]
        return any(rule.allow and not any(_hides(other, rule) for other in denied) for rule in rules)

    def _rules(self, user: str, kind: Kind) -> list[Rule]:
        return self._of.get((user, kind), []) + self._of.get((ANYBODY, kind), [])

    def _judge(self, user: str, operation: Operation, kind: Kind, name: str) -> bool:
        if user in self.superusers:
            return True
        rules = [rule for rule in self._rules(user, kind) if rule.covers(name)]
        if any(not rule.allow and rule.operation in (operation, Operation.ALL) for rule in rules):
            return False
        enough = (operation, Operation.ALL, *_IMPLIED_BY.get(operation, ()))
        return any(rule.allow and rule.operation in enough for rule in rules)


def _hides(denied: Rule, allowed: Rule) -> bool:
    """Whether everything that one allows is what the other denies."""
    if denied.prefix:
        return allowed.name.startswith(denied.name)
    return denied.name == ANY_NAME or (not allowed.prefix and denied.name == allowed.name)
