"""A connection until it is known who is there: what is taken in which order, and how it ends."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka_world import KafkaClient, KafkaNode, request
from sasl_world import PASSWORD, scram_client, user

from corgi.kafka.credentials import MECHANISMS, PLAIN, SCRAM_SHA_256, SCRAM_SHA_512, Derivation
from corgi.kafka.errors import Code
from corgi.kafka.login import FAILURE_DELAY_S, GOODBYE_S, REQUESTS_MAX
from corgi.kafka.security import Security

API_VERSIONS, HANDSHAKE, AUTHENTICATE, METADATA = 18, 17, 36, 3
ASKING, OPEN = "asking", "open"
TOKEN = b"\0alice\0" + PASSWORD.encode()


@pytest.fixture
def world() -> KafkaNode:
    return a_world()


def a_world(mechanisms: tuple[str, ...] = MECHANISMS) -> KafkaNode:
    return KafkaNode(security=Security([user("alice")], {ASKING: mechanisms}))


@pytest.fixture
def client(world: KafkaNode) -> KafkaClient:
    return world.client(ASKING)


def handshake(client: KafkaClient, mechanism: str, version: int = 1) -> Any:
    return client.call(request(HANDSHAKE, version)(mechanism=mechanism))


def say(client: KafkaClient, token: bytes, version: int = 2) -> Any:
    return client.call(request(AUTHENTICATE, version)(auth_bytes=token))


def raw(client: KafkaClient, token: bytes) -> bytes:
    """A bare token; what is answered, bare as well."""
    client.take(token)
    (size,) = struct.unpack_from(">i", client.output)
    answer, client.output = client.output[4:], b""
    assert size == len(answer)
    return answer


def metadata(client: KafkaClient) -> int:
    client.send(METADATA, 4, b"\xff\xff\xff\xff\0")
    client.world.node.turns()
    return len(client.answers())


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_password_opens_the_connection(client: KafkaClient, version: int) -> None:
    told = handshake(client, PLAIN)
    assert (int(told.error_code), set(told.mechanisms)) == (0, set(MECHANISMS))
    answer = say(client, TOKEN, version)
    assert (int(answer.error_code), answer.auth_bytes) == (0, b"")
    assert version == 0 or answer.session_lifetime.total_seconds() == 0
    assert client.admitted
    assert client.session.user == "alice"
    assert metadata(client) == 1


@pytest.mark.parametrize("mechanism", [SCRAM_SHA_256, SCRAM_SHA_512])
@pytest.mark.parametrize("bare", [False, True])
def test_scram_opens_the_connection(client: KafkaClient, mechanism: str, bare: bool) -> None:
    scram = scram_client(mechanism, "alice")
    handshake(client, mechanism, 0 if bare else 1)

    def put(text: str) -> str:
        token = raw(client, text.encode()) if bare else say(client, text.encode()).auth_bytes
        return token.decode()

    scram.process_server_first_message(put(scram.first_message()))
    assert not client.admitted
    scram.process_server_final_message(put(scram.final_message()))
    assert client.admitted
    assert metadata(client) == 1


def test_bare_tokens_may_be_short_and_so_may_answers(client: KafkaClient) -> None:
    handshake(client, PLAIN, 0)
    assert raw(client, TOKEN) == b""
    assert client.session.user == "alice"
    assert metadata(client) == 1
    other = client.world.client(ASKING)
    handshake(other, PLAIN, 0)
    other.take(b"")
    run_later(other)
    assert other.output == b""
    assert other.failure is not None


def run_later(client: KafkaClient, expected_s: float = FAILURE_DELAY_S) -> None:
    """What was put off, which is one thing."""
    ((delay_s, call),) = client.later
    assert delay_s == expected_s
    client.later.clear()
    call()


def test_a_wrong_password_is_told_late_and_ends_the_connection(client: KafkaClient) -> None:
    handshake(client, PLAIN)
    client.send(AUTHENTICATE, 0, b"\0\0\0\x0d\0alice\0wrong!")
    assert client.answers() == []
    assert client.held
    assert client.failure is None
    run_later(client)
    ((_, answer),) = client.answers()
    assert client.failure is None, "the client has a moment to read it"
    run_later(client, GOODBYE_S)
    assert int.from_bytes(answer[:2]) == Code.SASL_AUTHENTICATION_FAILED
    assert b"the user or the password is wrong" in answer
    assert client.failure is not None
    assert client.failure.code == "authentication-failed"
    assert not client.admitted


def test_who_left_before_being_told_is_told_nothing(client: KafkaClient) -> None:
    handshake(client, PLAIN)
    client.send(AUTHENTICATE, 0, b"\0\0\0\x02\0a")
    client.session.lost()
    run_later(client)
    assert client.output == b""


def test_a_listener_that_asks_and_offers_nothing_lets_nobody_in() -> None:
    client = a_world(()).client(ASKING)
    client.send(METADATA, 4, b"\xff\xff\xff\xff\0")
    assert client.failure is not None
    assert client.answers() == []


@pytest.mark.parametrize("mechanism", ["", "GSSAPI", "plain", "OAUTHBEARER", "SCRAM-SHA-1", "x" * 30_000])
def test_a_mechanism_that_is_not_offered_is_refused_with_those_that_are(mechanism: str) -> None:
    client = a_world((SCRAM_SHA_512,)).client(ASKING)
    told = handshake(client, mechanism)
    assert (int(told.error_code), told.mechanisms) == (Code.UNSUPPORTED_SASL_MECHANISM, (SCRAM_SHA_512,))
    assert client.failure is not None
    assert len(client.failure.message) < 200


@pytest.mark.parametrize("key", [0, 1, 3, 10, 19, 29, 50, 999, -1])
def test_nothing_else_is_taken_before(client: KafkaClient, key: int) -> None:
    client.take(struct.pack(">hhihb", key, 0, 1, -1, 0))
    assert client.output == b""
    assert client.failure is not None
    assert client.failure.code == "authentication-failed"


@pytest.mark.parametrize("size", range(8))
def test_a_request_without_a_header_is_none(client: KafkaClient, size: int) -> None:
    client.take(bytes(size))
    assert client.failure is not None
    assert client.failure.code == "malformed-frame"


def test_versions_are_told_before(client: KafkaClient) -> None:
    told = client.call(request(API_VERSIONS, 0)())
    assert {HANDSHAKE, AUTHENTICATE} <= {int(one.api_key) for one in told.api_keys}
    assert client.failure is None


def test_a_token_without_a_handshake_ends_the_connection(client: KafkaClient) -> None:
    assert int(say(client, TOKEN).error_code) == Code.ILLEGAL_SASL_STATE
    assert client.failure is not None
    assert not client.admitted


def test_a_second_handshake_ends_the_connection(client: KafkaClient) -> None:
    handshake(client, PLAIN)
    assert int(handshake(client, PLAIN).error_code) == Code.ILLEGAL_SASL_STATE
    assert client.failure is not None


def test_who_is_known_is_not_asked_again(client: KafkaClient) -> None:
    handshake(client, PLAIN)
    say(client, TOKEN)
    assert int(handshake(client, PLAIN).error_code) == Code.ILLEGAL_SASL_STATE
    assert int(say(client, TOKEN).error_code) == Code.ILLEGAL_SASL_STATE
    assert client.failure is None
    assert metadata(client) == 1


def test_a_listener_that_asks_nobody_has_nothing_to_choose(world: KafkaNode) -> None:
    client = world.client(OPEN)
    assert int(handshake(client, PLAIN).error_code) == Code.ILLEGAL_SASL_STATE
    assert int(say(client, TOKEN).error_code) == Code.ILLEGAL_SASL_STATE
    assert client.failure is None
    assert metadata(client) == 1


def test_a_flood_of_requests_is_ended(client: KafkaClient) -> None:
    for _ in range(REQUESTS_MAX):
        client.send(API_VERSIONS, 0, b"")
    assert client.failure is None
    client.send(API_VERSIONS, 0, b"")
    assert client.failure is not None


def test_nothing_may_follow_a_token_that_is_not_answered(client: KafkaClient, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[Callable[[], None]] = []

    def derive(work: Derivation, then: Callable[[bytes], None]) -> None:
        waiting.append(lambda: then(work.run()))

    monkeypatch.setattr(client, "derive", derive)
    handshake(client, PLAIN)
    client.send(AUTHENTICATE, 0, len(TOKEN).to_bytes(4) + TOKEN)
    client.send(API_VERSIONS, 0, b"")
    assert client.failure is not None
    waiting[0]()
    assert not client.admitted
    assert client.output == b""


KEYS = st.sampled_from([HANDSHAKE, AUTHENTICATE, API_VERSIONS])
REQUESTS = st.tuples(KEYS, st.integers(-1, 5), st.binary(max_size=40))
FUZZED = a_world()


@settings(max_examples=150)
@given(st.lists(REQUESTS | st.binary(max_size=40), max_size=6), st.sampled_from(MECHANISMS), st.integers(0, 1))
def test_whatever_comes_nobody_comes_in_and_nothing_breaks(
    requests: list[tuple[int, int, bytes] | bytes], mechanism: str, version: int
) -> None:
    client = FUZZED.client(ASKING)
    handshake(client, mechanism, version)
    for one in requests:
        if isinstance(one, bytes):
            client.take(one)
        else:
            client.take(struct.pack(">hhih", *one[:2], 7, -1) + one[2])
        while client.later:
            client.later.pop()[1]()
    assert not client.admitted
    assert client.session.user == "ANONYMOUS"
