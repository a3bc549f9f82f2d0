"""Rules of who may do what, by themselves."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.kafka.access import ANY_NAME, ANYBODY, Access, Kind, Operation, Rule
from corgi.kafka.acls import ALLOW, ANY, DENY, LITERAL, MATCH, PREFIXED, Filter, entries

TOPIC, GROUP, CLUSTER = Kind.TOPIC, Kind.GROUP, Kind.CLUSTER
READ, WRITE, DESCRIBE, ALL = Operation.READ, Operation.WRITE, Operation.DESCRIBE, Operation.ALL


def allow(user: str, operation: Operation, name: str, kind: Kind = TOPIC, *, prefix: bool = False) -> Rule:
    return Rule(user, True, operation, kind, name, prefix)


def deny(user: str, operation: Operation, name: str, kind: Kind = TOPIC, *, prefix: bool = False) -> Rule:
    return Rule(user, False, operation, kind, name, prefix)


def test_what_no_rule_allows_is_denied() -> None:
    access = Access([allow("a", READ, "x")])
    assert access.may("a", READ, TOPIC, "x")
    assert not access.may("a", WRITE, TOPIC, "x")
    assert not access.may("a", READ, TOPIC, "xx")
    assert not access.may("a", READ, GROUP, "x")
    assert not access.may("b", READ, TOPIC, "x")
    assert not Access([]).may("a", READ, TOPIC, "x")


def test_a_prefix_is_for_every_name_that_begins_so() -> None:
    access = Access([allow("a", READ, "x.", prefix=True)])
    assert [access.may("a", READ, TOPIC, name) for name in ("x.", "x.y", "x", "yx.", "")] == [True, True] + [False] * 3


def test_all_names_all_operations_and_everybody() -> None:
    access = Access([allow(ANYBODY, ALL, ANY_NAME)])
    assert all(access.may("whoever", operation, TOPIC, "x") for operation in Operation)
    assert not access.may("whoever", READ, GROUP, "x")


def test_a_rule_that_denies_wins() -> None:
    access = Access([allow(ANYBODY, ALL, ANY_NAME), deny("a", READ, "secret", prefix=True), deny("b", ALL, "x")])
    assert not access.may("a", READ, TOPIC, "secret-1")
    assert access.may("a", WRITE, TOPIC, "secret-1")
    assert access.may("b", READ, TOPIC, "secret-1")
    assert not access.may("b", DESCRIBE, TOPIC, "x")


@pytest.mark.parametrize("operation", list(Operation))
def test_who_may_do_something_may_see_it(operation: Operation) -> None:
    access = Access([allow("a", operation, "x")])
    sees = {READ, WRITE, Operation.DELETE, Operation.ALTER, DESCRIBE, ALL}
    assert access.may("a", DESCRIBE, TOPIC, "x") is (operation in sees)
    told = {Operation.ALTER_CONFIGS, Operation.DESCRIBE_CONFIGS, ALL}
    assert access.may("a", Operation.DESCRIBE_CONFIGS, TOPIC, "x") is (operation in told)


def test_who_may_not_see_something_may_still_write_it() -> None:
    access = Access([allow("a", WRITE, "x"), deny("a", DESCRIBE, "x")])
    assert access.may("a", WRITE, TOPIC, "x")
    assert not access.may("a", DESCRIBE, TOPIC, "x")


def test_a_superuser_may_do_everything() -> None:
    access = Access([deny(ANYBODY, ALL, ANY_NAME)], ["root"])
    assert access.may("root", WRITE, TOPIC, "x")
    assert access.may_somewhere("root", WRITE, TOPIC)
    assert not access.may("roo", WRITE, TOPIC, "x")


@pytest.mark.parametrize(
    ("rules", "may"),
    [
        ([], False),
        ([allow("a", WRITE, "x")], True),
        ([allow("a", READ, "x")], False),
        ([allow("a", ALL, "x", prefix=True)], True),
        ([allow("a", WRITE, "x"), deny("a", WRITE, "x")], False),
        ([allow("a", WRITE, "x"), deny("a", WRITE, "x", prefix=True)], False),
        ([allow("a", WRITE, "x", prefix=True), deny("a", WRITE, "x")], True),
        ([allow("a", WRITE, "x"), deny(ANYBODY, ALL, ANY_NAME)], False),
        ([allow("a", WRITE, "x"), allow("a", WRITE, "y"), deny("a", WRITE, "x")], True),
    ],
)
def test_whether_there_is_anywhere_to_write(rules: list[Rule], may: bool) -> None:
    assert Access(rules).may_somewhere("a", WRITE, TOPIC) is may


NAMES = ["", "a", "ab", "abc", "b", ANY_NAME]
RULES = st.builds(
    Rule,
    st.sampled_from(["u", "v", ANYBODY]),
    st.booleans(),
    st.sampled_from([READ, DESCRIBE, ALL]),
    st.sampled_from([TOPIC, GROUP]),
    st.sampled_from(NAMES),
    st.booleans(),
)


@given(st.lists(RULES, max_size=6))
def test_a_naive_twin_says_the_same(rules: list[Rule]) -> None:
    access = Access(rules, ["v"])
    for user, operation, kind, name in itertools.product("uvw", (READ, DESCRIBE), (TOPIC, GROUP), NAMES[:-1]):
        mine = [
            rule
            for rule in rules
            if rule.user in (user, "*")
            and rule.kind == kind
            and (name.startswith(rule.name) if rule.prefix else rule.name in ("*", name))
        ]
        allowed = any(r.allow and (r.operation in (operation, ALL) or operation == DESCRIBE) for r in mine)
        denied = any(not r.allow and r.operation in (operation, ALL) for r in mine)
        expected = user == "v" or (allowed and not denied)
        assert access.may(user, operation, kind, name) is expected


@given(st.lists(RULES, max_size=6))
def test_there_is_somewhere_if_there_is_a_name(rules: list[Rule]) -> None:
    access = Access(rules, ["v"])
    tried = ["a", "ab", "abc", "b", "a?", "ab?", "abc?", "b?", "?", "*", "*?", ""]
    for user, operation, kind in itertools.product("uvw", (READ, DESCRIBE), (TOPIC, GROUP)):
        anywhere = any(access.may(user, operation, kind, name) for name in tried)
        assert access.may_somewhere(user, operation, kind) is anywhere


def test_a_name_is_looked_up_and_not_compared_with_every_rule() -> None:
    class Counted(str):
        slices = 0

        def __getitem__(self, key: Any) -> str:
            Counted.slices += 1
            return super().__getitem__(key)

        def startswith(self, *_: Any) -> bool:
            raise AssertionError("compared with one rule")

    rules = [allow("a", READ, f"{i:04}", prefix=i % 2 == 0) for i in range(10_000)]
    access = Access([*rules, deny("a", READ, "12", prefix=True)])
    found = [
        name for name in ("4444", "4444.x", "4445", "4445.x", "1244") if access.may("a", READ, TOPIC, Counted(name))
    ]
    assert found == ["4444", "4444.x", "4445"]
    assert Counted.slices == 10, "one for each length of a prefix"


SHOWN = Access(
    [
        allow("a", READ, "ab"),
        deny("a", READ, "ab", prefix=True),
        allow("*", ALL, ANY_NAME),
        allow("b", DESCRIBE, "kafka-cluster", CLUSTER),
    ]
)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, [0, 1, 2, 3]),
        ({"resource": TOPIC}, [0, 1, 2]),
        ({"resource": CLUSTER}, [3]),
        ({"resource": 7}, []),
        ({"operation": 15}, []),
        ({"principal": "User:a"}, [0, 1]),
        ({"principal": "a"}, []),
        ({"host": "*"}, [0, 1, 2, 3]),
        ({"host": "10.0.0.1"}, []),
        ({"operation": READ}, [0, 1]),
        ({"permission": DENY}, [1]),
        ({"permission": ALLOW}, [0, 2, 3]),
        ({"pattern": PREFIXED}, [1]),
        ({"name": "ab"}, [0, 1]),
        ({"name": "ab", "pattern": LITERAL}, [0]),
        ({"name": "abc", "pattern": LITERAL}, []),
        ({"name": "abc", "pattern": MATCH}, [1, 2]),
        ({"name": "ab", "pattern": MATCH, "resource": TOPIC}, [0, 1, 2]),
        ({"name": "x", "pattern": MATCH}, [2]),
    ],
)
def test_administrators_find_rules_as_kafkas_do(changed: dict[str, int | str], found: list[int]) -> None:
    every = {"resource": ANY, "name": None, "pattern": ANY, "principal": None, "host": None}
    wanted = Filter(**{**every, "operation": ANY, "permission": ANY, **changed})  # type: ignore[arg-type]
    assert wanted.sound
    assert [i for i, entry in enumerate(entries(SHOWN)) if wanted.takes(entry)] == found
