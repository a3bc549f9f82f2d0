"""Access rules as Kafka's administrators see them: in its numbers, with its filters and its names for users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from corgi.kafka.access import ANY_NAME, CLUSTER_NAME, Access, Kind, Rule

ANY, MATCH = 1, 2  # of kinds, operations, permissions; of patterns
LITERAL, PREFIXED = 3, 4
DENY, ALLOW = 2, 3
RESOURCES = range(ANY, 8)  # that Kafka has, also those of which there are no rules here
OPERATIONS = range(ANY, 16)
PATTERNS = (ANY, MATCH, LITERAL, PREFIXED)
EVERY_HOST = "*"
_USER = "User:"


class Entry(NamedTuple):
    """One rule."""

    resource: int
    name: str
    pattern: int
    principal: str
    host: str
    operation: int
    permission: int


class Filter(NamedTuple):
    """None or ANY: whatever it is."""

    resource: int
    name: str | None
    pattern: int
    principal: str | None
    host: str | None
    operation: int
    permission: int

    @property
    def sound(self) -> bool:
        """Whether it is made of numbers that mean something."""
        return (
            self.resource in RESOURCES
            and self.operation in OPERATIONS
            and self.permission in (ANY, DENY, ALLOW)
            and self.pattern in PATTERNS
        )

    def takes(self, entry: Entry) -> bool:
        """Whether the rule is one of those that are meant."""
        return (
            self.resource in (ANY, entry.resource)
            and self.principal in (None, entry.principal)
            and self.host in (None, entry.host)
            and self.operation in (ANY, entry.operation)
            and self.permission in (ANY, entry.permission)
            and self._names(entry)
        )

    def _names(self, entry: Entry) -> bool:
        if self.pattern in (LITERAL, PREFIXED) and self.pattern != entry.pattern:
            return False
        if self.name is None or self.name == entry.name:
            return True
        if self.pattern != MATCH:
            return False
        return entry.name == ANY_NAME if entry.pattern == LITERAL else self.name.startswith(entry.name)


def entries(access: Access) -> Iterator[Entry]:
    """Every rule; superusers are none."""
    for rule in access.rules:
        yield _entry(rule)


def _entry(rule: Rule) -> Entry:
    name = CLUSTER_NAME if rule.kind == Kind.CLUSTER else rule.name
    pattern = PREFIXED if rule.prefix else LITERAL
    permission = ALLOW if rule.allow else DENY
    return Entry(rule.kind, name, pattern, _USER + rule.user, EVERY_HOST, rule.operation, permission)
