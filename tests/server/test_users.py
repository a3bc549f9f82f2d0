"""Users and rules in the configuration: what is taken, what is refused with which words, and what they become."""

from __future__ import annotations

import io
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from corgi.base.errors import CorgiError
from corgi.cli.main import main
from corgi.kafka.access import ANONYMOUS, Kind, Operation
from corgi.kafka.credentials import (
    MECHANISMS,
    PLAIN,
    SCRAM_SHA_256,
    SCRAM_SHA_512,
    Derivation,
    credential_of,
    parse_credential,
)
from corgi.server.config import UNSAFE_PHRASE, check, load
from corgi.server.users import parse_security

LEAST: dict[str, Any] = {"node": 1, "data": "somewhere", "kafka_listen": "127.0.0.1:9092"}
CREDENTIAL = str(credential_of(Derivation(SCRAM_SHA_256, b"secret", b"salt", 4096)))
STRONG = str(credential_of(Derivation(SCRAM_SHA_512, b"secret", b"salt", 4096)))
ALICE = {"name": "alice", "credentials": [CREDENTIAL, STRONG]}
RULE = {"user": "alice", "operations": ["read"], "resource": "topic", "name": "a"}


def refusal(**values: Any) -> CorgiError:
    with pytest.raises(CorgiError) as caught:
        check({**LEAST, **values})
    assert caught.value.code == "invalid-configuration"
    assert "secret" not in str(caught.value)
    assert CREDENTIAL.rpartition(":")[2] not in str(caught.value)
    return caught.value


def test_without_users_nobody_is_asked() -> None:
    security = check(LEAST).security
    assert security.mechanisms == {}
    assert security.access is None


def test_with_users_every_listener_asks_unless_it_is_told_not_to() -> None:
    two = {**LEAST, "kafka_listen": "in=127.0.0.1:9092,out=127.0.0.1:9093", "users": [ALICE]}
    scram = (SCRAM_SHA_256, SCRAM_SHA_512)
    assert check(two).security.mechanisms == {"in": scram, "out": scram}
    assert check({**two, "kafka_security": "sasl_plaintext"}).security.mechanisms == {"in": scram, "out": scram}
    assert check({**two, "kafka_security": "plaintext"}).security.mechanisms == {}
    mixed = check({**two, "kafka_security": "out=sasl_plaintext, in=plaintext"})
    assert mixed.security.mechanisms == {"out": scram}
    named = check({**two, "kafka_mechanisms": " PLAIN,SCRAM-SHA-512,PLAIN"})
    assert named.security.mechanisms["in"] == (PLAIN, SCRAM_SHA_512)


def test_users_without_a_listener_do_no_harm() -> None:
    config = check({"node": 1, "data": "x", "users": [ALICE], "kafka_security": "sasl_plaintext"})
    assert config.security.mechanisms == {}
    assert list(config.security.users) == ["alice"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kafka_security": "sasl_plaintext"}, "there are no users"),
        ({"kafka_security": "sasl_ssl", "users": [ALICE]}, "'sasl_ssl' is not served"),
        ({"kafka_security": "loud", "users": [ALICE]}, "'loud' is not served"),
        ({"kafka_security": "out=plaintext", "users": [ALICE]}, "'out' is not one of default"),
        ({"kafka_security": "default=plaintext,default=plaintext"}, "twice"),
        ({"kafka_security": "=plaintext"}, "is not one of"),
        ({"kafka_security": ",="}, "is not one of"),
        ({"kafka_mechanisms": "GSSAPI"}, "'GSSAPI' is not one of"),
        ({"kafka_mechanisms": ","}, "kafka_mechanisms is empty"),
        ({"users": [{**ALICE, "credentials": [CREDENTIAL]}]}, "no user has a credential for SCRAM-SHA-512"),
        ({"users": [ALICE, ALICE]}, "'alice' is there twice"),
        ({"users": [{"name": "alice"}]}, "users[0]"),
        ({"users": [{**ALICE, "credentials": []}]}, "users[0].credentials"),
        ({"users": [{**ALICE, "credentials": ["secret"]}]}, "'alice', a credential cannot be used"),
        ({"users": [{**ALICE, "credentials": [7]}]}, "users[0].credentials[0]"),
        ({"users": [{**ALICE, "credentials": [CREDENTIAL, CREDENTIAL]}]}, "credential 2 is another one"),
        ({"users": [{**ALICE, "password": "secret"}]}, "unknown key 'password' of one of the users"),
        ({"users": [{**ALICE, "name": ""}]}, "users[0].name"),
        ({"users": [{**ALICE, "name": "a\nb"}]}, "cannot be a user's name"),
        ({"users": [{**ALICE, "name": ANONYMOUS}]}, "cannot be a user's name"),
        ({"users": [{**ALICE, "name": "*"}]}, "cannot be a user's name"),
        ({"users": [{**ALICE, "name": "ü" * 128}]}, "cannot be a user's name"),
        ({"users": "alice:secret"}, "users"),
        ({"acls": [RULE]}, "rule 1 of 'alice' is of no user"),
        ({"users": [ALICE], "acls": [{**RULE, "name": ""}]}, "names no topic"),
        ({"users": [ALICE], "acls": [{**RULE, "operations": []}]}, "acls[0].operations"),
        ({"users": [ALICE], "acls": [{**RULE, "operations": ["fly"]}]}, "acls[0].operations[0]"),
        ({"users": [ALICE], "acls": [{**RULE, "resource": "moon"}]}, "acls[0].resource"),
        ({"users": [ALICE], "acls": [{**RULE, "resource": "group", "operations": ["write"]}]}, "'write'"),
        ({"users": [ALICE], "acls": [{**RULE, "operations": ["read", "idempotent_write"]}]}, "'idempotent_write'"),
        ({"users": [ALICE], "acls": [{**RULE, "resource": "transactional_id"}]}, "nobody asks of a transactional_id"),
        ({"users": [ALICE], "acls": [{**RULE, "resource": "cluster"}]}, "there is one, and it needs no name"),
        ({"users": [ALICE], "acls": [{**RULE, "operation": "read"}]}, "unknown key 'operation' of one of the acls"),
        ({"users": [ALICE], "acls": 7}, "acls"),
    ],
)
def test_what_cannot_be_is_refused_by_its_place(values: dict[str, Any], words: str) -> None:
    assert words in refusal(**values).message


def test_rules_become_what_the_node_asks() -> None:
    rules = [
        {**RULE, "operations": ["read", "write", "read"], "pattern": "prefixed", "name": "orders."},
        {"user": "*", "permission": "deny", "operations": ["all"], "resource": "group", "name": "g"},
        {"user": ANONYMOUS, "operations": ["describe"], "resource": "cluster"},
    ]
    root = {"name": "root", "credentials": [STRONG], "superuser": True}
    access = check({**LEAST, "users": [ALICE, root], "acls": rules}).security.access
    assert access is not None
    assert len(access.rules) == 4
    assert access.may("alice", Operation.WRITE, Kind.TOPIC, "orders.1")
    assert not access.may("alice", Operation.WRITE, Kind.TOPIC, "orders")
    assert not access.may("alice", Operation.READ, Kind.GROUP, "g")
    assert access.may(ANONYMOUS, Operation.DESCRIBE, Kind.CLUSTER, "kafka-cluster")
    assert access.may("root", Operation.ALL, Kind.GROUP, "g")


def test_a_listener_that_asks_may_be_reached_by_others() -> None:
    open_listener = {**LEAST, "kafka_listen": "10.0.0.1:9092"}
    with pytest.raises(CorgiError) as caught:
        check(open_listener)
    assert caught.value.code == "unsafe-listener"
    assert check({**open_listener, "users": [ALICE]}).security.mechanisms
    with pytest.raises(CorgiError) as caught:
        check({**open_listener, "users": [ALICE], "kafka_security": "plaintext"})
    assert caught.value.code == "unsafe-listener"
    with pytest.raises(CorgiError) as caught:
        check({**LEAST, "users": [ALICE], "listen": "10.0.0.1:7450"})
    assert caught.value.code == "unsafe-listener", "the native listener asks nobody"
    mixed = "in=10.0.0.1:9092,out=10.0.0.1:9093"
    with pytest.raises(CorgiError) as caught:
        check({**LEAST, "kafka_listen": mixed, "users": [ALICE], "kafka_security": "in=plaintext,out=sasl_plaintext"})
    assert caught.value.code == "unsafe-listener"
    assert check({**open_listener, "listen_without_authentication": UNSAFE_PHRASE}).security.mechanisms == {}


def test_a_node_with_users_says_loudly_what_it_does_not_ask(tmp_path: Path) -> None:
    entry = f'[[users]]\nname = "alice"\ncredentials = ["{CREDENTIAL}", "{STRONG}"]\n'
    path = tmp_path / "c.toml"

    def warnings(more: str) -> list[str]:
        path.write_text(f'node = 1\ndata = "x"\n{more}\n{entry}')
        return load(path, {})[1]

    assert warnings("") == []
    (native,) = warnings('kafka_listen = "127.0.0.1:9092"')
    assert "whoever reaches 127.0.0.1:7450 reads and writes everything" in native
    assert warnings('kafka_listen = "127.0.0.1:9092"\nkafka_security = "plaintext"') == []
    told = warnings('kafka_listen = "10.0.0.1:9092"\nkafka_mechanisms = "PLAIN"')
    assert len(told) == 2
    assert "passwords cross the network" in told[1]


def test_users_do_not_stand_in_the_environment() -> None:
    with pytest.raises(CorgiError) as caught:
        load(None, {"CORGI_NODE": "1", "CORGI_DATA": "x", "CORGI_USERS": "alice:secret"})
    assert "users stand in the file" in caught.value.message
    assert "secret" not in str(caught.value)


def test_words_for_listeners_that_are_not_there_are_judged_all_the_same() -> None:
    with pytest.raises(CorgiError):
        parse_security("loud", (), users=False)
    assert parse_security("plaintext", (), users=False) == {}


def type_in(monkeypatch: pytest.MonkeyPatch, typed: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), "ascii"))


@pytest.mark.parametrize("name", ["alice", 'with "quotes" and \\', "ünicode"])
def test_what_corgi_user_prints_is_a_configuration(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, b"secret\nmore\n")
    assert main(["user", "entry", name, "--superuser", "--iterations", "4096"]) == 0
    printed = capsys.readouterr()
    config = check({**LEAST, **tomllib.loads(printed.out)})
    user = config.security.users[name]
    assert user.superuser
    for mechanism in MECHANISMS:
        credential = user.credential(mechanism)
        assert credential is not None
        assert credential.iterations == 4096
        assert credential.fits(credential.derivation(b"secret").run())
    assert "secret" not in printed.out + printed.err


@pytest.mark.parametrize("password", ["pässword".encode(), b"\xff\x80", "秘密".encode()])
def test_a_password_is_taken_as_it_is_whatever_the_locale(
    password: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, password + b"\r\n")
    assert main(["user", "entry", "a", "--iterations", "4096"]) == 0
    (entry,) = tomllib.loads(capsys.readouterr().out)["users"]
    for credential in map(parse_credential, entry["credentials"]):
        assert credential.fits(credential.derivation(password).run())


def test_corgi_user_tells_programs_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    salts = set()
    for _ in range(2):
        type_in(monkeypatch, b"secret")
        assert main(["user", "entry", "a", "--mechanism", SCRAM_SHA_512, "-o", "json"]) == 0
        told = json.loads(capsys.readouterr().out)
        (credential,) = told.pop("credentials")
        assert told == {"name": "a", "superuser": False}
        assert credential.startswith("SCRAM-SHA-512$15000:")
        salts.add(credential)
    assert len(salts) == 2


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["alice"], ""),
        (["alice"], "\nsecret"),
        (["alice"], "x" * 1025),
        (["alice"], "a\0b"),
        ([""], "secret"),
        (["*"], "secret"),
        (["ü" * 128], "secret"),
        (["a\nb"], "secret"),
        (["alice", "--iterations", "4095"], "secret"),
        (["alice", "--iterations", str(2**31)], "secret"),
        (["alice", "--mechanism", "PLAIN"], "secret"),
    ],
)
def test_corgi_user_refuses_what_cannot_be(
    words: list[str], typed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, typed.encode())
    assert main(["user", "entry", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "hint:" in printed.err
    assert "secret" not in printed.err
