"""The mechanisms without a connection: the RFC's own example, another's client, and whatever else may come."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sasl_world import PASSWORD, Outside, credential, put, scram_client, user

from corgi.base.errors import CorgiError
from corgi.kafka.credentials import (
    ITERATIONS_MAX,
    ITERATIONS_MIN,
    MECHANISMS,
    PLAIN,
    SCRAM_SHA_256,
    SCRAM_SHA_512,
    Credential,
    Derivation,
    credential_of,
    parse_credential,
)
from corgi.kafka.sasl import NAME_BYTES_MAX, TOKEN_BYTES_MAX, Known, Onward, Plain, Refused, Scram, begin
from corgi.kafka.security import Security, User

SECURITY = Security([user("alice"), user("bob"), user("with,comma=")])
BOTH = [SCRAM_SHA_256, SCRAM_SHA_512]


def test_the_example_of_rfc_7677() -> None:
    """Section 3."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    kept = credential_of(Derivation(SCRAM_SHA_256, b"pencil", salt, 4096))
    exchange = Scram(SCRAM_SHA_256, lambda _mechanism, _user: kept, Outside("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"))
    first = put(exchange, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    nonce = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    assert first == Onward(b"r=" + nonce + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    last = put(exchange, b"c=biws,r=" + nonce + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert last == Known("user", b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


@pytest.mark.parametrize("mechanism", BOTH)
@pytest.mark.parametrize("name", ["alice", "with,comma="])
def test_anothers_client_and_the_node_know_each_other(mechanism: str, name: str) -> None:
    client = scram_client(mechanism, name)
    exchange = begin(mechanism, SECURITY.credential, Outside())
    first = put(exchange, client.first_message().encode())
    assert isinstance(first, Onward)
    client.process_server_first_message(first.token.decode())
    last = put(exchange, client.final_message().encode())
    assert isinstance(last, Known)
    assert last.user == name
    client.process_server_final_message(last.token.decode())


@pytest.mark.parametrize("mechanism", BOTH)
def test_who_is_not_there_is_told_the_same_as_who_has_a_wrong_password(mechanism: str) -> None:
    told = []
    for name, password in (("alice", "wrong"), ("nobody", PASSWORD), ("nobody", PASSWORD)):
        client = scram_client(mechanism, name, password)
        exchange = begin(mechanism, SECURITY.credential, Outside())
        first = put(exchange, client.first_message().encode())
        assert isinstance(first, Onward)
        client.process_server_first_message(first.token.decode())
        salt, iterations = first.token.split(b",")[1:]
        last = put(exchange, client.final_message().encode())
        told.append((len(salt), iterations, last, salt))
    assert told[0][:3] == told[1][:3]
    assert isinstance(told[0][2], Refused)
    assert told[1] == told[2], "the same salt at every try"
    assert told[0][3] != told[1][3]


def test_the_salt_of_who_is_not_there_is_the_same_on_every_node_and_differs_by_name_and_mechanism() -> None:
    other = Security([user("with,comma="), user("bob"), user("alice")])
    for mechanism in MECHANISMS:
        assert other.credential(mechanism, "nobody") == SECURITY.credential(mechanism, "nobody")
    salts = {SECURITY.credential(mechanism, name).salt for mechanism in BOTH for name in ("x", "y")}
    assert len(salts) == 4
    changed = Security([User("alice", {SCRAM_SHA_256: credential(SCRAM_SHA_256, "other")})])
    assert changed.credential(SCRAM_SHA_256, "nobody") != SECURITY.credential(SCRAM_SHA_256, "nobody")


def test_a_mechanism_for_which_a_user_has_no_credential_knows_nobody() -> None:
    security = Security([User("alice", {SCRAM_SHA_256: credential(SCRAM_SHA_256)}), user("bob")])
    assert security.credential(SCRAM_SHA_512, "alice").stored_key != credential(SCRAM_SHA_512).stored_key
    assert security.credential(PLAIN, "alice") == credential(SCRAM_SHA_256)


def plain(token: bytes) -> object:
    return put(Plain(SECURITY.credential, Outside()), token)


def test_plain_takes_the_password_that_scram_takes() -> None:
    password = PASSWORD.encode()
    assert plain(b"\0alice\0" + password) == Known("alice")
    assert plain(b"alice\0alice\0" + password) == Known("alice")
    assert isinstance(plain(b"bob\0alice\0" + password), Refused)


def test_plain_costs_as_much_for_who_is_not_there() -> None:
    outsides = []
    for name in (b"alice", b"nobody"):
        outside = Outside()
        assert isinstance(put(Plain(SECURITY.credential, outside), b"\0" + name + b"\0wrong"), Refused)
        outsides.append([(one.mechanism, one.iterations, len(one.salt)) for one in outside.derived])
    assert outsides[0] == outsides[1]
    assert len(outsides[0]) == 1
    assert plain(b"\0alice\0wrong") == plain(b"\0nobody\0wrong")


@pytest.mark.parametrize(
    "token",
    [b"", b"\0", b"\0\0", b"\0alice\0", b"alice", b"\0alice\0a\0b", b"\0\0password", b"\0\xff\0password",
     b"\0" + b"x" * (NAME_BYTES_MAX + 1) + b"\0p", b"\0a\0" + b"x" * TOKEN_BYTES_MAX],
)  # fmt: skip
def test_a_plain_token_that_is_none_is_refused(token: bytes) -> None:
    assert isinstance(plain(token), Refused)


@pytest.mark.parametrize(
    "first",
    [b"", b"n,,", b"n,,n=alice", b"n,,r=abc,n=alice", b"p=tls-unique,,n=alice,r=abc", b"x,,n=alice,r=abc",
     b"n,,m=ext,n=alice,r=abc", b"n,,n=,r=abc", b"n,,n=al=ice,r=abc", b"n,,n=al=2cice,r=abc", b"n,,n=alice,r=",
     b"n,,n=alice,r=a b", b"n,,n=alice,r=\xc3\xbc", b"n,a=bob,n=alice,r=abc", b"n,bob,n=alice,r=abc", b"\xff",
     b"n,,n=alice,r=abc,tokenauth=true", b"n,,n=alice,r=" + b"x" * 1025, b"n=alice,r=abc",
     b"n,,n=" + b"x" * (NAME_BYTES_MAX + 1) + b",r=abc", b"n,,n=alice,r=abc," + b"x" * TOKEN_BYTES_MAX],
)  # fmt: skip
def test_a_first_message_that_is_none_is_refused(first: bytes) -> None:
    assert isinstance(put(Scram(SCRAM_SHA_256, SECURITY.credential, Outside()), first), Refused)


@pytest.mark.parametrize("first", [b"y,,n=alice,r=abc", b"n,a=alice,n=alice,r=abc", b"n,,n=alice,r=abc,x=1"])
def test_what_a_client_may_add_is_taken(first: bytes) -> None:
    exchange = Scram(SCRAM_SHA_256, SECURITY.credential, Outside("N"))
    assert isinstance(put(exchange, first), Onward)
    header = base64.b64encode(first[: first.index(b"n=alice,r")])
    told = b"c=" + header + b",r=abcN"
    assert put(exchange, told + b",p=AAAA") == Refused("the user or the password is wrong")


@pytest.mark.parametrize(
    "final",
    [b"", b"c=biws", b"c=biws,r=abcN", b"r=abcN,c=biws,p=AAAA", b"c=biws,r=abcN,p=!", b"c=!,r=abcN,p=AAAA", b"\xff",
     b"c=biws,r=abc,p=AAAA", b"c=biws,r=abcNN,p=AAAA", b"c=eSws,r=abcN,p=AAAA", b"c=,r=abcN,p=AAAA", b"p=AAAA",
     b"c=biws,r=abcN,p=", b"c=biws,r=abcN,p=\xc3\xbc", b"c=biws,r=abcN,p=" + b"A" * 44, b"e=other-error"],
)  # fmt: skip
def test_a_final_message_that_does_not_fit_is_refused(final: bytes) -> None:
    exchange = Scram(SCRAM_SHA_256, SECURITY.credential, Outside("N"))
    assert isinstance(put(exchange, b"n,,n=alice,r=abc"), Onward)
    assert isinstance(put(exchange, final), Refused)


def test_a_proof_is_good_for_its_own_exchange_only() -> None:
    client = scram_client(SCRAM_SHA_256, "alice")
    exchange = Scram(SCRAM_SHA_256, SECURITY.credential, Outside("one"))
    first = put(exchange, client.first_message().encode())
    assert isinstance(first, Onward)
    client.process_server_first_message(first.token.decode())
    said = client.final_message().encode()
    replayed = Scram(SCRAM_SHA_256, SECURITY.credential, Outside("two"))
    put(replayed, f"n,,n=alice,r={client._nonce.removesuffix('one')}".encode())
    assert isinstance(put(replayed, said), Refused)
    assert put(replayed, said.replace(b"one,", b"two,")) == Refused("the user or the password is wrong")
    assert isinstance(put(exchange, said), Known)


def proof(password: str, salt: bytes, message: bytes) -> bytes:
    """SHA-256's, by the RFC's formulas."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS_MIN)
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
    return base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))


@pytest.mark.parametrize(("nonce", "known"), [(b"abcN", True), (b"abcabcN", True), (b"abcNx", False), (b"abc", False)])
def test_a_client_may_put_its_own_nonce_before_the_one_that_both_made(nonce: bytes, known: bool) -> None:
    """librdkafka did so until 2.6.1, and Kafka looks at the end only: what the server added is in the proof anyway."""
    exchange = Scram(SCRAM_SHA_256, SECURITY.credential, Outside("N"))
    first = put(exchange, b"n,,n=alice,r=abc")
    assert isinstance(first, Onward)
    salt = base64.b64decode(first.token.split(b",")[1].removeprefix(b"s="))
    told = b"c=biws,r=" + nonce
    said = proof(PASSWORD, salt, b"n=alice,r=abc," + first.token + b"," + told)
    last = put(exchange, told + b",p=" + said)
    assert isinstance(last, Known if known else Refused)


SCRAM_PIECES = st.sampled_from(
    [b"n", b"y", b"p", b"=", b",", b"a", b"r", b"c", b"biws", b"alice", b"abc", b"N", b"2C", b"\0", b"\xff", b"m"]
)
ODD = st.binary(max_size=60) | st.lists(SCRAM_PIECES, max_size=14).map(b"".join)


@settings(max_examples=300)
@given(st.sampled_from(MECHANISMS), st.lists(ODD, min_size=1, max_size=3))
def test_any_tokens_are_refused_or_answered_and_nobody_comes_in(mechanism: str, tokens: list[bytes]) -> None:
    exchange = begin(mechanism, Security([user("alice")]).credential, Outside("N"))
    for token in tokens:
        assert isinstance(put(exchange, token), Onward | Refused)


@settings(max_examples=30)
@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30),
    st.sampled_from(BOTH),
)
def test_any_name_comes_in_by_its_password_and_by_no_other(name: str, mechanism: str) -> None:
    security = Security([user(name)])
    for password, comes_in in ((PASSWORD, True), (PASSWORD + " ", False)):
        client = scram_client(mechanism, name, password)
        exchange = begin(mechanism, security.credential, Outside())
        first = put(exchange, client.first_message().encode())
        assert isinstance(first, Onward)
        client.process_server_first_message(first.token.decode())
        assert isinstance(put(exchange, client.final_message().encode()), Known if comes_in else Refused)


@pytest.mark.parametrize("mechanism", BOTH)
def test_a_credential_is_written_and_read(mechanism: str) -> None:
    one = credential(mechanism)
    assert parse_credential(str(one)) == one
    assert str(one).startswith(f"{mechanism}$4096:")
    for secret in (one.stored_key, one.server_key, one.salt):
        assert base64.b64encode(secret).decode() not in repr(one)
        assert repr(secret) not in repr(one)


GOOD = str(credential(SCRAM_SHA_256))
_, _, REST = GOOD.partition(":")
SALT, KEYS = REST.split("$")


@pytest.mark.parametrize(
    "text",
    ["", "password", GOOD + "\n", GOOD.replace("256", "1"), GOOD.replace("256", "512"), GOOD.replace("$", "$$", 1),
     GOOD.replace("4096", str(ITERATIONS_MIN - 1)), GOOD.replace("4096", str(ITERATIONS_MAX + 1)),
     GOOD.replace("4096", "99999999999999999999"), GOOD.replace("4096", "-1"), GOOD.replace("4096", "٤٠٩٦"),
     f"SCRAM-SHA-256$4096:AAA${KEYS}", f"SCRAM-SHA-256$4096:====${KEYS}", f"SCRAM-SHA-256$4096:{'A' * 88}${KEYS}",
     f"SCRAM-SHA-256$4096:{SALT}$AAAA:AAAA", GOOD.replace(KEYS, KEYS.replace(":", ","))],
)  # fmt: skip
def test_a_credential_that_cannot_be_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(CorgiError) as caught:
        parse_credential(text)
    assert caught.value.code == "invalid-argument"
    assert KEYS[:20] not in str(caught.value)


def test_only_the_password_fits() -> None:
    kept: Credential = credential(SCRAM_SHA_512)
    assert kept.fits(kept.derivation(PASSWORD.encode()).run())
    assert not kept.fits(kept.derivation(b"other").run())
