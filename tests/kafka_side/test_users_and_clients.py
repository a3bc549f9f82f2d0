"""Kafka's own clients as users of three nodes: who comes in, by which mechanism, and what each may do."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiokafka
import pytest
from aiokafka.errors import AuthenticationFailedError, GroupAuthorizationFailedError, TopicAuthorizationFailedError
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from foreign import ending, run
from sasl_world import PASSWORD, credential

from corgi.kafka.credentials import MECHANISMS, PLAIN, SCRAM_SHA_256
from corgi.server.local import LocalCluster, LocalOptions

WAIT_S = 30
CONFIGURATION = """
kafka_mechanisms = "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN"

[[users]]
name = "alice"
credentials = ["{weak}", "{strong}"]

[[users]]
name = "root"
credentials = ["{weak}", "{strong}"]
superuser = true

[[acls]]
user = "alice"
operations = ["all"]
resource = "topic"
name = "alice."
pattern = "prefixed"

[[acls]]
user = "alice"
operations = ["read"]
resource = "group"
name = "alice."
pattern = "prefixed"

[[acls]]
user = "alice"
operations = ["write"]
resource = "transactional_id"
name = "alice"
"""
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder: Path = tmp_path_factory.mktemp("users") / "cluster"
    more = CONFIGURATION.format(weak=credential("SCRAM-SHA-256"), strong=credential("SCRAM-SHA-512"))
    options = LocalOptions(folder=folder, nodes=3, groups=4, kafka_port=0, configuration=more)
    with LocalCluster(options) as running:
        yield running


@pytest.fixture
def mine() -> str:
    """A name that alice may use, and no other test does."""
    return f"alice.{next(_numbers)}"


def as_user(
    cluster: LocalCluster, user: str = "alice", password: str = PASSWORD, mechanism: str = SCRAM_SHA_256
) -> dict[str, Any]:
    """Configuration of librdkafka."""
    return {
        "bootstrap.servers": cluster.kafka,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": mechanism,
        "sasl.username": user,
        "sasl.password": password,
        "log_level": 0,
    }


def publish(configuration: dict[str, Any], topic: str, value: bytes = b"hello") -> KafkaError | None:
    told: list[KafkaError | None] = []
    producer = Producer({**configuration, "message.timeout.ms": WAIT_S * 1000})
    producer.produce(topic, value, on_delivery=lambda error, _message: told.append(error))
    assert producer.flush(WAIT_S) == 0
    return told[0]


def read(configuration: dict[str, Any], topic: str, group: str) -> bytes | KafkaError:
    """The first record, or the error that ends the search."""
    consumer = Consumer({**configuration, "group.id": group, "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe([topic])
        message = consumer.poll(WAIT_S)
        assert message is not None
        error = message.error()
        return error if error is not None else message.value()
    finally:
        consumer.close()


def first_error(configuration: dict[str, Any]) -> int:
    """Which one a client tells of that cannot come in."""
    told: list[KafkaError] = []
    client = AdminClient({**configuration, "error_cb": told.append})
    for _ in range(WAIT_S * 10):
        client.poll(0.1)
        codes = [error.code() for error in told if error.code() != KafkaError._ALL_BROKERS_DOWN]
        if codes:
            return int(codes[0])
    raise AssertionError("no error came")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_librdkafka_comes_in_and_does_its_work(cluster: LocalCluster, mine: str, mechanism: str) -> None:
    configuration = as_user(cluster, mechanism=mechanism)
    assert publish(configuration, mine) is None
    assert read(configuration, mine, mine) == b"hello"


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(("user", "password"), [("alice", "wrong"), ("nobody", PASSWORD)])
def test_librdkafka_is_told_that_it_does_not_come_in(
    cluster: LocalCluster, mechanism: str, user: str, password: str
) -> None:
    assert first_error(as_user(cluster, user, password, mechanism)) == KafkaError._AUTHENTICATION


def test_librdkafka_is_told_which_mechanisms_there_are(cluster: LocalCluster) -> None:
    configuration = as_user(cluster, mechanism="OAUTHBEARER")
    configuration["enable.sasl.oauthbearer.unsecure.jwt"] = True
    configuration["sasl.oauthbearer.config"] = "principal=alice"
    assert first_error(configuration) == KafkaError._AUTHENTICATION


def test_who_does_not_say_who_it_is_gets_nothing(cluster: LocalCluster) -> None:
    client = AdminClient({"bootstrap.servers": cluster.kafka, "log_level": 0})
    with pytest.raises(KafkaException):
        client.list_topics(timeout=2)


def test_librdkafka_is_told_what_it_may_not(cluster: LocalCluster, mine: str) -> None:
    alice, root = as_user(cluster), as_user(cluster, "root")
    hidden = f"hidden.{mine}"
    assert publish(root, hidden) is None
    error = publish(alice, hidden)
    assert error is not None
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert publish(alice, mine) is None
    found = read(alice, hidden, mine)
    assert isinstance(found, KafkaError)
    assert found.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    found = read(alice, mine, hidden)
    assert isinstance(found, KafkaError)
    assert found.code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    listed = AdminClient(alice).list_topics(timeout=WAIT_S).topics
    assert mine in listed
    assert all(name.startswith("alice.") for name in listed)
    assert hidden in AdminClient(root).list_topics(timeout=WAIT_S).topics


def test_a_transaction_is_its_users(cluster: LocalCluster, mine: str) -> None:
    producer = Producer({**as_user(cluster), "transactional.id": "alice"})
    producer.init_transactions(WAIT_S)
    producer.begin_transaction()
    producer.produce(mine, b"in a transaction")
    producer.commit_transaction(WAIT_S)
    assert read({**as_user(cluster), "isolation.level": "read_committed"}, mine, mine) == b"in a transaction"
    with pytest.raises(KafkaException) as caught:
        Producer({**as_user(cluster), "transactional.id": "another"}).init_transactions(WAIT_S)
    assert caught.value.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def test_administrators_see_rules_and_credentials(cluster: LocalCluster, mine: str) -> None:
    root, alice = AdminClient(as_user(cluster, "root")), AdminClient(as_user(cluster))
    every = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    rules = root.describe_acls(every).result(WAIT_S)
    assert [(rule.name, rule.principal) for rule in rules if rule.restype == ResourceType.TOPIC] == [
        ("alice.", "User:alice")
    ]
    credentials = root.describe_user_scram_credentials().result(WAIT_S)
    assert sorted(credentials) == ["alice", "root"]
    assert {info.iterations for info in credentials["alice"].scram_credential_infos} == {4096}
    assert alice.describe_acls(every).result(WAIT_S) == [], "librdkafka passes over the refusal"
    rule = AclBinding(
        ResourceType.TOPIC, "x", ResourcePatternType.LITERAL, "User:alice", "*", AclOperation.READ,
        AclPermissionType.ALLOW,
    )  # fmt: skip
    with pytest.raises(KafkaException) as caught:
        root.create_acls([rule])[rule].result(WAIT_S)
    assert caught.value.args[0].code() == KafkaError.POLICY_VIOLATION
    for client, name, code in ((alice, mine, None), (alice, "other", KafkaError.TOPIC_AUTHORIZATION_FAILED)):
        made = client.create_topics([NewTopic(name, 1, 3)])[name]
        if code is None:
            made.result(WAIT_S)
            continue
        with pytest.raises(KafkaException) as caught:
            made.result(WAIT_S)
        assert caught.value.args[0].code() == code


def of_aiokafka(
    cluster: LocalCluster, user: str = "alice", password: str = PASSWORD, mechanism: str = SCRAM_SHA_256
) -> dict[str, Any]:
    return {
        "bootstrap_servers": cluster.kafka,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": user,
        "sasl_plain_password": password,
    }


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_aiokafka_comes_in_and_does_its_work(cluster: LocalCluster, mine: str, mechanism: str) -> None:
    async with asyncio.timeout(WAIT_S):
        configuration = of_aiokafka(cluster, mechanism=mechanism)
        async with aiokafka.AIOKafkaProducer(**configuration, enable_idempotence=True) as producer:
            await producer.send_and_wait(mine, b"hello")
        consumer = aiokafka.AIOKafkaConsumer(mine, **configuration, group_id=mine, auto_offset_reset="earliest")
        async with consumer:
            assert (await consumer.getone()).value == b"hello"


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_aiokafka_is_told_that_it_does_not_come_in(cluster: LocalCluster, mechanism: str) -> None:
    producer = aiokafka.AIOKafkaProducer(**of_aiokafka(cluster, password="wrong", mechanism=mechanism))
    try:
        async with asyncio.timeout(WAIT_S):
            with pytest.raises((AuthenticationFailedError, aiokafka.errors.KafkaConnectionError)):
                await producer.start()
    finally:
        await producer.stop()


async def test_aiokafka_is_told_what_it_may_not(cluster: LocalCluster, mine: str) -> None:
    async with asyncio.timeout(WAIT_S):
        async with aiokafka.AIOKafkaProducer(**of_aiokafka(cluster)) as producer:
            await producer.send_and_wait(mine, b"hello")
            with pytest.raises(TopicAuthorizationFailedError):
                await producer.send_and_wait("not.mine", b"hello")
        consumer = aiokafka.AIOKafkaConsumer(mine, **of_aiokafka(cluster), group_id="not.mine")
        try:
            with pytest.raises(GroupAuthorizationFailedError):
                await consumer.start()
        finally:
            await consumer.stop()


def by_kafka_python(
    cluster: LocalCluster, topic: str, group: str, *who: str, wait_ms: int = 20_000
) -> tuple[dict[str, Any], str]:
    """What it saw, and its log."""
    program = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "clients" / "kafka_python_with_sasl.py")]
    ran = subprocess.run(
        [*program, cluster.kafka, topic, group, *who, str(wait_ms)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout), ran.stderr


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_kafka_python_comes_in_and_does_its_work(cluster: LocalCluster, mine: str, mechanism: str) -> None:
    found, _ = by_kafka_python(cluster, mine, mine, mechanism, "alice", PASSWORD)
    assert found == {"read": ["hello"]}


def test_kafka_python_is_told_that_it_does_not_come_in(cluster: LocalCluster, mine: str) -> None:
    """It goes on trying until its time is over, and says why in its log."""
    found, log = by_kafka_python(cluster, mine, mine, SCRAM_SHA_256, "alice", "wrong", wait_ms=1_000)
    assert found == {"failed": "KafkaTimeoutError"}
    assert "SaslAuthenticationFailedError: authentication failed: the user or the password is wrong" in log


def test_kafka_python_is_told_what_it_may_not(cluster: LocalCluster, mine: str) -> None:
    for topic, group, told in (
        ("not.mine", mine, "TopicAuthorizationFailedError"),
        (mine, "not.mine", "GroupAuthorizationFailedError"),
    ):
        found, _ = by_kafka_python(cluster, topic, group, SCRAM_SHA_256, "alice", PASSWORD)
        assert found == {"failed": told}


FOREIGN = ["kafkajs", "java", "franz-go"]


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("client", FOREIGN)
def test_clients_of_other_languages_come_in(cluster: LocalCluster, mine: str, client: str, mechanism: str) -> None:
    told = run(client, "copy", cluster.kafka, mine, "none", "20", sasl=f"{mechanism} root {PASSWORD}")
    assert sorted(value for _, value in told["read"]) == sorted(f"value-{i}" for i in range(20))


@pytest.mark.parametrize("mechanism", [SCRAM_SHA_256, PLAIN])
@pytest.mark.parametrize("client", ["kafkajs", "java"])
def test_clients_of_other_languages_are_told_that_they_do_not(
    cluster: LocalCluster, mine: str, client: str, mechanism: str
) -> None:
    """franz-go goes on trying for ever, as it is made to."""
    ran = ending(client, "copy", cluster.kafka, mine, "none", "20", sasl=f"{mechanism} root wrong")
    assert ran.returncode != 0
    assert "the user or the password is wrong" in ran.stderr


def test_franz_go_is_told_what_it_may_not(cluster: LocalCluster) -> None:
    ran = ending("franz-go", "copy", cluster.kafka, "not.mine", "none", "20", sasl=f"PLAIN alice {PASSWORD}")
    assert ran.returncode != 0
    assert "authoriz" in ran.stderr.lower()
