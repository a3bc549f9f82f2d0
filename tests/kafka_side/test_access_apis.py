"""Every API asks whether it may: what a user may not is refused by the code of its kind, what it may is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from access_world import (
    BATCH,
    CLUSTER,
    DENIED,
    GROUP,
    MINE,
    THEIRS,
    TOPIC,
    TRANSACTION,
    a_world,
    codes,
    come,
    fetched,
    produced,
    put,
    topic_of_metadata,
    with_and_without,
)
from kafka_world import KafkaNode, decoded
from sasl_world import user

from corgi.base.records import restamped
from corgi.kafka import transactional
from corgi.kafka.access import CLUSTER_NAME, REFUSALS, Access, Kind, Operation, Rule
from corgi.kafka.apis import (
    add_offsets_to_txn,
    add_partitions_to_txn,
    alter_configs,
    alter_user_scram_credentials,
    create_acls,
    create_partitions,
    create_topics,
    delete_acls,
    delete_groups,
    delete_records,
    delete_topics,
    describe_acls,
    describe_cluster,
    describe_configs,
    describe_groups,
    describe_log_dirs,
    describe_producers,
    describe_transactions,
    describe_user_scram_credentials,
    elect_leaders,
    end_txn,
    find_coordinator,
    heartbeat,
    incremental_alter_configs,
    init_producer_id,
    join_group,
    leave_group,
    list_groups,
    list_offsets,
    list_transactions,
    metadata,
    offset_commit,
    offset_delete,
    offset_fetch,
    offset_for_leader_epoch,
    sync_group,
    txn_offset_commit,
)
from corgi.kafka.codec import Body, write_body
from corgi.kafka.security import Security
from corgi.kafka.table import APIS

RULES = [
    Rule("alice", True, Operation.ALL, Kind.TOPIC, MINE),
    Rule("alice", True, Operation.ALL, Kind.GROUP, MINE),
    Rule("alice", True, Operation.ALL, Kind.TRANSACTIONAL_ID, MINE),
    Rule("admin", True, Operation.ALL, Kind.CLUSTER, "kafka-cluster"),
]
FREE = {18, 17, 36, 60}  # ApiVersions, logins, DescribeCluster
BY_HAND = {0, 1}  # tested by themselves below
NOTHING_NAMED = {16, 66}  # what may not be seen is left out

Case = tuple[Any, Callable[[str], Body], int, Operation]
P = transactional.Places


def by_name() -> Iterator[Case]:
    """Requests that name a resource, the code by which it is refused, and what Kafka's node asks for."""
    yield metadata, lambda n: metadata.Request((metadata.Wanted(name=n),)), TOPIC, Operation.DESCRIBE
    yield (
        list_offsets,
        lambda n: list_offsets.Request(-1, 0, (list_offsets.Topic(n, (list_offsets.Place(0),)),)),
        TOPIC,
        Operation.DESCRIBE,
    )
    place = offset_for_leader_epoch.Place(0, -1, 0)
    yield (
        offset_for_leader_epoch,
        lambda n: offset_for_leader_epoch.Request(-2, (offset_for_leader_epoch.Topic(n, (place,)),)),
        TOPIC,
        Operation.DESCRIBE,
    )
    yield find_coordinator, lambda n: find_coordinator.Request(kind=0, keys=(n,)), GROUP, Operation.DESCRIBE
    yield find_coordinator, lambda n: find_coordinator.Request(kind=1, keys=(n,)), TRANSACTION, Operation.DESCRIBE
    protocols = (join_group.Protocol("range", b""),)
    yield (
        join_group,
        lambda n: join_group.Request(n, 6000, 6000, "x", None, "consumer", protocols),
        GROUP,
        Operation.READ,
    )
    yield sync_group, lambda n: sync_group.Request(n, 1, "x"), GROUP, Operation.READ
    yield heartbeat, lambda n: heartbeat.Request(n, 1, "x"), GROUP, Operation.READ
    yield leave_group, lambda n: leave_group.Request(n, members=(leave_group.Leaving("x"),)), GROUP, Operation.READ
    commit = offset_commit.Place(0, 0)
    yield (
        offset_commit,
        lambda n: offset_commit.Request(n, topics=(offset_commit.Topic(MINE, (commit,)),)),
        GROUP,
        Operation.READ,
    )
    yield (
        offset_commit,
        lambda n: offset_commit.Request(MINE, topics=(offset_commit.Topic(n, (commit,)),)),
        TOPIC,
        Operation.READ,
    )
    fetched = offset_fetch.Topic(MINE, (0,))
    yield (
        offset_fetch,
        lambda n: offset_fetch.Request(groups=(offset_fetch.Group(n, topics=(fetched,)),)),
        GROUP,
        Operation.DESCRIBE,
    )
    yield (
        offset_fetch,
        lambda n: offset_fetch.Request(groups=(offset_fetch.Group(MINE, topics=(offset_fetch.Topic(n, (0,)),)),)),
        TOPIC,
        Operation.DESCRIBE,
    )
    yield describe_groups, lambda n: describe_groups.Request((n,)), GROUP, Operation.DESCRIBE
    yield delete_groups, lambda n: delete_groups.Request((n,)), GROUP, Operation.DELETE
    forgotten = (offset_delete.Place(0),)
    yield (
        offset_delete,
        lambda n: offset_delete.Request(n, (offset_delete.Topic(MINE, forgotten),)),
        GROUP,
        Operation.DELETE,
    )
    yield (
        offset_delete,
        lambda n: offset_delete.Request(MINE, (offset_delete.Topic(n, forgotten),)),
        TOPIC,
        Operation.READ,
    )
    yield init_producer_id, lambda n: init_producer_id.Request(n, 1000), TRANSACTION, Operation.WRITE
    yield (
        add_partitions_to_txn,
        lambda n: add_partitions_to_txn.Request(n, 1, 0, (P(MINE, (0,)),)),
        TRANSACTION,
        Operation.WRITE,
    )
    yield (
        add_partitions_to_txn,
        lambda n: add_partitions_to_txn.Request(MINE, 1, 0, (P(n, (0,)),)),
        TOPIC,
        Operation.WRITE,
    )
    yield add_offsets_to_txn, lambda n: add_offsets_to_txn.Request(n, 1, 0, MINE), TRANSACTION, Operation.WRITE
    yield add_offsets_to_txn, lambda n: add_offsets_to_txn.Request(MINE, 1, 0, n), GROUP, Operation.READ
    yield end_txn, lambda n: end_txn.Request(n, 1, 0, True), TRANSACTION, Operation.WRITE
    moved = (txn_offset_commit.Place(0, 0),)

    def move(name: str, group: str, topic: str) -> Body:
        return txn_offset_commit.Request(name, group, 1, 0, topics=(txn_offset_commit.Topic(topic, moved),))

    yield txn_offset_commit, lambda n: move(n, MINE, MINE), TRANSACTION, Operation.WRITE
    yield txn_offset_commit, lambda n: move(MINE, n, MINE), GROUP, Operation.READ
    yield txn_offset_commit, lambda n: move(MINE, MINE, n), TOPIC, Operation.READ
    yield (
        create_topics,
        lambda n: create_topics.Request((create_topics.Wanted(n, 1, 1),), 1000),
        TOPIC,
        Operation.CREATE,
    )
    yield delete_topics, lambda n: delete_topics.Request(topics=(delete_topics.Wanted(n),)), TOPIC, Operation.DELETE
    yield (
        create_partitions,
        lambda n: create_partitions.Request((create_partitions.Wanted(n, 9),), 1000, True),
        TOPIC,
        Operation.ALTER,
    )
    records = (delete_records.Place(0, 0),)
    yield (
        delete_records,
        lambda n: delete_records.Request((delete_records.Topic(n, records),), 1000),
        TOPIC,
        Operation.DELETE,
    )
    yield (
        describe_configs,
        lambda n: describe_configs.Request((describe_configs.Resource(2, n),)),
        TOPIC,
        Operation.DESCRIBE_CONFIGS,
    )
    yield (
        alter_configs,
        lambda n: alter_configs.Request((alter_configs.Resource(2, n, ()),), True),
        TOPIC,
        Operation.ALTER_CONFIGS,
    )
    resource = incremental_alter_configs.Resource
    yield (
        incremental_alter_configs,
        lambda n: incremental_alter_configs.Request((resource(2, n, ()),), True),
        TOPIC,
        Operation.ALTER_CONFIGS,
    )
    yield describe_producers, lambda n: describe_producers.Request((P(n, (0,)),)), TOPIC, Operation.READ
    yield describe_transactions, lambda n: describe_transactions.Request((n,)), TRANSACTION, Operation.DESCRIBE


def of_the_cluster() -> Iterator[tuple[Any, Body, Operation]]:
    """Requests for which one must be trusted with the cluster, and what Kafka's node asks for."""
    yield describe_acls, describe_acls.Request(1, None, 1, None, None, 1, 1), Operation.DESCRIBE
    yield create_acls, create_acls.Request((create_acls.Wanted(2, "x", 3, "User:bob", "*", 3, 3),)), Operation.ALTER
    yield delete_acls, delete_acls.Request((delete_acls.Filter(1, None, 1, None, None, 1, 1),)), Operation.ALTER
    yield describe_user_scram_credentials, describe_user_scram_credentials.Request(None), Operation.DESCRIBE
    deletion = alter_user_scram_credentials.Deletion("bob", 1)
    yield alter_user_scram_credentials, alter_user_scram_credentials.Request((deletion,), ()), Operation.ALTER
    yield describe_log_dirs, describe_log_dirs.Request(None), Operation.DESCRIBE
    yield describe_configs, describe_configs.Request((describe_configs.Resource(4, "1"),)), Operation.DESCRIBE_CONFIGS
    yield alter_configs, alter_configs.Request((alter_configs.Resource(4, "1", ()),), True), Operation.ALTER_CONFIGS
    resource = incremental_alter_configs.Resource(4, "1", ())
    yield incremental_alter_configs, incremental_alter_configs.Request((resource,), True), Operation.ALTER_CONFIGS
    yield elect_leaders, elect_leaders.Request(topics=(elect_leaders.Topic(MINE, (0,)),)), Operation.ALTER


@pytest.fixture
def world() -> KafkaNode:
    return a_world(RULES)


NAMED = [case for case in by_name() if case[0] is not metadata]


@pytest.mark.parametrize(
    ("module", "make", "code"), [pytest.param(*case[:3], id=f"{case[0].API.name}-{case[2]}") for case in NAMED]
)
def test_what_is_anothers_is_refused_and_ones_own_is_not(
    world: KafkaNode, module: Any, make: Callable[[str], Body], code: int
) -> None:
    alice = come(world, "alice")
    for version in {*module.API.versions} if module is not find_coordinator else {module.API.versions[1]}:
        if module in (delete_topics, offset_fetch, leave_group) and version < module.API.versions[1]:
            continue  # other fields then
        assert codes(put(alice, module, make(THEIRS), version)) & DENIED == {code}
        assert codes(put(come(world, "bob"), module, make(MINE), version)) & DENIED != set(), "one without any rule"
        assert not codes(put(alice, module, make(MINE), version)) & DENIED
        if module in (init_producer_id, create_topics, delete_topics, delete_groups):
            break  # has changed the world


@pytest.mark.parametrize(
    ("module", "body"), [pytest.param(*case[:2], id=case[0].API.name) for case in of_the_cluster()]
)  # fmt: skip
def test_the_cluster_is_for_who_is_trusted_with_it(world: KafkaNode, module: Any, body: Body) -> None:
    assert codes(put(come(world, "alice"), module, body)) == {CLUSTER}
    assert not codes(put(come(world, "admin"), module, body)) & DENIED


@pytest.mark.parametrize(
    ("module", "make", "code", "operation"), [pytest.param(*case, id=f"{case[0].API.name}-{case[2]}") for case in NAMED]
)
def test_kafkas_own_operation_decides(
    module: Any, make: Callable[[str], Body], code: int, operation: Operation
) -> None:
    (kind,) = [kind for kind, refusal in REFUSALS.items() if refusal == code]
    enough, all_others = with_and_without(operation, kind)
    assert codes(put(come(enough, "alice"), module, make(THEIRS))) & DENIED == set()
    assert codes(put(come(all_others, "alice"), module, make(THEIRS))) & DENIED == {code}


@pytest.mark.parametrize(
    ("module", "body", "operation"), [pytest.param(*case, id=case[0].API.name) for case in of_the_cluster()]
)
def test_kafkas_own_operation_decides_of_the_cluster(module: Any, body: Body, operation: Operation) -> None:
    enough, all_others = with_and_without(operation, Kind.CLUSTER, CLUSTER_NAME)
    assert codes(put(come(enough, "alice"), module, body)) & DENIED == set()
    assert codes(put(come(all_others, "alice"), module, body)) == {CLUSTER}


def test_no_api_is_forgotten() -> None:
    tested = {module.API.key for module, *_ in (*by_name(), *of_the_cluster())}
    assert tested | FREE | BY_HAND | NOTHING_NAMED == set(APIS)


def test_who_may_not_write_does_not(world: KafkaNode) -> None:
    alice = come(world, "alice")
    assert produced(alice, THEIRS, BATCH) == TOPIC
    assert produced(alice, "not-there", BATCH) == TOPIC, "and does not hear whether it is there"
    assert world.node.log(world.front.topic(THEIRS).topic, 0).end == 0  # type: ignore[union-attr]
    assert produced(alice, MINE, BATCH) == 0
    assert produced(come(world, "bob"), MINE, BATCH) == TOPIC


@pytest.mark.parametrize(("name", "code"), [(THEIRS, TRANSACTION), (None, TRANSACTION)])
def test_a_transaction_is_its_owners(world: KafkaNode, name: str | None, code: int) -> None:
    batch = bytes(restamped(BATCH, 7, 0, 0, transactional=True))
    alice = come(world, "alice")
    assert produced(alice, MINE, batch, name) == code
    assert produced(alice, MINE, batch, MINE) not in DENIED
    assert produced(alice, MINE, BATCH, name) == 0, "what is in no transaction is judged by its topic"


@pytest.mark.parametrize("version", [4, 12])
def test_who_may_not_read_gets_nothing(world: KafkaNode, version: int) -> None:
    topic = world.front.topic(THEIRS)
    assert topic is not None
    world.node.produce(topic.topic, 0, b"secret")
    assert fetched(come(world, "alice"), THEIRS, version) == (TOPIC, b"")
    assert fetched(come(world, "alice"), "not-there", version) == (TOPIC, b"")
    assert fetched(come(world, "alice"), MINE, version) == (0, b"")


def test_metadata_shows_what_may_be_seen(world: KafkaNode) -> None:
    alice, bob = come(world, "alice"), come(world, "bob")
    for _ in range(2):  # made, then kept
        assert [topic.name for topic in topic_of_metadata(alice, 12, None)] == [MINE]
        assert topic_of_metadata(bob, 12, None) == []
        for client, name, code in ((alice, THEIRS, TOPIC), (alice, MINE, 0), (bob, MINE, TOPIC), (bob, "none", TOPIC)):
            (topic,) = topic_of_metadata(client, 9, name)
            assert int(topic.error_code) == code
            assert bool(topic.partitions) is (code == 0)


def test_an_id_does_not_show_what_may_not_be_seen(world: KafkaNode) -> None:
    topic = world.front.topic(THEIRS)
    assert topic is not None
    wanted = metadata.Wanted(topic_id=world.front.uuid_of(topic.topic), name=None)
    out = bytearray()
    write_body(metadata.Request((wanted,)), 12, out, flexible=True)
    alice = come(world, "alice")
    alice.send(3, 12, bytes(out))
    ((_, answer),) = alice.answers()
    assert THEIRS.encode() not in answer
    told = put(alice, delete_topics, delete_topics.Request(topics=(delete_topics.Wanted(None, wanted.topic_id),)))
    assert (told.results[0].error, told.results[0].name) == (TOPIC, None)
    assert world.front.topic(THEIRS) is not None


def test_a_topic_is_made_for_who_may_make_it(world: KafkaNode) -> None:
    (refused,) = topic_of_metadata(come(world, "alice"), 9, "new", create=True)
    assert int(refused.error_code) == TOPIC
    assert world.front.topic("new") is None
    rules = [Rule("carol", True, operation, Kind.TOPIC, "new", True) for operation in (Operation.READ,)]
    other = KafkaNode(security=Security([], access=Access(rules)))
    (refused,) = topic_of_metadata(come(other, "carol"), 9, "new-1", create=True)
    assert int(refused.error_code) == TOPIC, "seen, but not to be made"
    assert other.front.topic("new-1") is None
    rules += [Rule("carol", True, Operation.CREATE, Kind.TOPIC, "new", True)]
    other = KafkaNode(security=Security([], access=Access(rules)))
    topic_of_metadata(come(other, "carol"), 9, "new-1", create=True)
    assert other.front.topic("new-1") is not None


def test_who_may_make_topics_anywhere_may_make_one(world: KafkaNode) -> None:
    wanted = create_topics.Request((create_topics.Wanted("new", 1, 1),), 1000)
    (made,) = put(come(world, "admin"), create_topics, wanted).topics
    assert made.error == 0
    assert (made.config_error, made.configs) == (TOPIC, None), "its configuration is not the admin's to see"


@pytest.mark.parametrize(
    ("operation", "kind", "name", "code"),
    [
        (Operation.WRITE, Kind.TOPIC, "anything", 0),
        (Operation.IDEMPOTENT_WRITE, Kind.CLUSTER, "kafka-cluster", 0),
        (Operation.READ, Kind.TOPIC, "anything", CLUSTER),
    ],
)
def test_an_idempotent_producer_is_for_who_may_write_somewhere(
    operation: Operation, kind: Kind, name: str, code: int
) -> None:
    world = KafkaNode(security=Security([], access=Access([Rule("carol", True, operation, kind, name)])))
    told = put(come(world, "carol"), init_producer_id, init_producer_id.Request(None, 1000))
    assert told.error == code


def test_lists_have_what_may_be_seen(world: KafkaNode) -> None:
    alice = come(world, "alice")
    for name in (MINE, THEIRS):
        put(come(world, "admin"), init_producer_id, init_producer_id.Request(None, 1))
        transactions = world.front.node.requests.transactions.transactions
        transactions.become(name, 1000, lambda *_: None, life_ms=1000)
    world.node.turns()
    told = put(alice, list_transactions, list_transactions.Request((), ()))
    assert [one.name for one in told.states] == [MINE]


def test_groups_and_their_commits_are_listed_for_who_may_see_them(world: KafkaNode) -> None:
    place = (offset_commit.Place(0, 0),)
    topics = tuple([offset_commit.Topic(topic, place) for topic in (MINE, THEIRS)])
    root = come(world, "root")
    for group in (MINE, THEIRS):
        put(root, offset_commit, offset_commit.Request(group, topics=topics))
        world.node.wait(1)

    def groups(name: str) -> list[str]:
        return sorted(one.group for one in put(come(world, name), list_groups, list_groups.Request()).groups)

    def commits(name: str) -> list[str]:
        fetched = offset_fetch.Request(groups=(offset_fetch.Group(MINE, topics=None),))
        (group,) = put(come(world, name), offset_fetch, fetched).groups
        return sorted(topic.name for topic in group.topics)

    assert groups("root") == groups("admin") == [MINE, THEIRS]
    assert (groups("alice"), groups("bob")) == ([MINE], [])
    assert commits("root") == [MINE, THEIRS]
    assert commits("alice") == [MINE]


ALICES = {Kind.TOPIC: 0b1101_1111_1000, Kind.GROUP: 0b1_0100_1000}  # by Kafka's numbers of operations
EVERYTHING = 0b1_1111_1010_0000  # of a cluster


@pytest.mark.parametrize("version", [8, 10, 12])
def test_who_asks_is_told_what_it_may_do(world: KafkaNode, version: int) -> None:
    def told(name: str) -> tuple[int, int]:
        """Of the cluster, where this version has it, and of the topic."""
        client = come(world, name)
        for asked in (False, True):
            body = metadata.Request((metadata.Wanted(name=MINE),), False, asked, asked)
            out = bytearray()
            write_body(body, version, out, flexible=version >= 9)
            client.send(3, version, bytes(out))
            ((_, answer),) = client.answers()
            found = decoded(3, version, answer)
            operations = found.topics[0].topic_authorized_operations
            assert asked or operations == -(2**31)
        return getattr(found, "cluster_authorized_operations", -1), operations

    cluster, topic = told("alice")
    assert topic == ALICES[Kind.TOPIC]
    assert cluster == (0 if version <= 10 else -1)
    assert told("admin")[0] == (EVERYTHING if version <= 10 else -1)
    assert told("admin")[1] == -(2**31), "of what is refused nothing is told"


def test_operations_of_groups_and_the_cluster_are_told(world: KafkaNode) -> None:
    def of_the_cluster(name: str, *, asked: bool) -> int:
        return int(put(come(world, name), describe_cluster, describe_cluster.Request(asked)).operations)

    assert of_the_cluster("admin", asked=True) == EVERYTHING
    assert of_the_cluster("alice", asked=True) == 0
    assert of_the_cluster("alice", asked=False) == -(2**31)
    asked = describe_groups.Request((MINE, THEIRS), operations=True)
    mine, theirs = put(come(world, "alice"), describe_groups, asked).groups
    assert (mine.operations, theirs.operations) == (ALICES[Kind.GROUP], -(2**31))


def test_without_rules_everybody_may_do_everything() -> None:
    world = KafkaNode(security=Security([user("alice")]))
    world.node.create(THEIRS, 1)
    assert produced(come(world, "bob"), THEIRS, BATCH) == 0


def test_rules_are_described_and_only_the_file_changes_them(world: KafkaNode) -> None:
    admin = come(world, "admin")
    every = (1, None, 1, None, None, 1, 1)
    told = put(admin, describe_acls, describe_acls.Request(*every))
    found = {(r.resource, r.name, r.pattern, one.principal, one.host) for r in told.resources for one in r.rules}
    assert found == {
        (2, MINE, 3, "User:alice", "*"), (3, MINE, 3, "User:alice", "*"), (5, MINE, 3, "User:alice", "*"),
        (4, "kafka-cluster", 3, "User:admin", "*"),
    }  # fmt: skip
    assert codes(put(admin, describe_acls, describe_acls.Request(99, None, 1, None, None, 1, 1))) == {42}
    rule = create_acls.Wanted(2, "x", 3, "User:bob", "*", 3, 3)
    assert codes(put(admin, create_acls, create_acls.Request((rule, rule)))) == {44}
    assert codes(put(admin, delete_acls, delete_acls.Request((delete_acls.Filter(*every),)))) == {44}


def test_credentials_are_described_without_telling_them(world: KafkaNode) -> None:
    admin = come(world, "admin")
    wanted = describe_user_scram_credentials.Wanted

    def described(*names: str) -> list[tuple[str, int, list[tuple[int, int]]]]:
        request = describe_user_scram_credentials.Request(tuple(map(wanted, names)) or None)
        told = put(admin, describe_user_scram_credentials, request)
        assert told.error == 0
        return [(r.user, r.error, [(one.mechanism, one.iterations) for one in r.credentials]) for r in told.results]

    both = [(1, 4096), (2, 4096)]
    assert described() == [(name, 0, both) for name in ("admin", "alice", "bob", "root")]
    assert described("bob", "nobody") == [("bob", 0, both), ("nobody", 91, [])]
    assert described("bob", "bob") == [("bob", 92, [])]
    upsertion = alter_user_scram_credentials.Upsertion("carol", 1, 4096, b"salt", b"salted")
    request = alter_user_scram_credentials.Request((alter_user_scram_credentials.Deletion("bob", 1),), (upsertion,))
    told = put(admin, alter_user_scram_credentials, request)
    assert [(one.user, one.error) for one in told.results] == [("bob", 44), ("carol", 44)]
