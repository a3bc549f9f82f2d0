"""The view of `__meta/0`: what changes it, what does not get in, and that it can be made again from what is there."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from state_values import GROUPS, Driver, batch

from corgi.base import errors
from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import CorgiError
from corgi.base.ids import EVENTS, META, GroupId, Offset, TopicId
from corgi.base.records import encode_batch
from corgi.state.commands import guard_topic_absent, guard_topic_at
from corgi.state.fingerprint import fingerprint
from corgi.state.machine import Outcome
from corgi.state.rules import MALFORMED, UNSUPPORTED
from corgi.state.settings import batch_bytes_max, check_settings, check_topic_name
from corgi.state.topics import Topic, TopicRecord, Topics, default_anchor, encode_topic_record

DATA = CommandKind.DATA


def record(topic: int = 0, partitions: int = 4, anchor: int = 2, **config: str) -> TopicRecord:
    return TopicRecord(topic, partitions, anchor, GROUPS, config)


def meta(driver: Driver, name: str, value: TopicRecord | None, guards: Sequence[tuple[int, bytes]] = ()) -> Outcome:
    return driver.run(DATA, encode_data([(META, 0, encode_topic_record(name, value, 1))], guards))


def view(driver: Driver) -> Topics:
    assert driver.machine.topics is not None
    return driver.machine.topics


@pytest.fixture
def driver() -> Driver:
    return Driver(group=0)


def test_creation_assigns_an_id_and_a_version(driver: Driver) -> None:
    assert meta(driver, "orders", record(cleanup="compact")).appends == ((0, 0),)
    assert meta(driver, "bills", record()).appends == ((0, 1),)
    topics = view(driver)
    assert topics.get("orders") == Topic("orders", TopicId(16), 4, 2, GROUPS, {"cleanup": "compact"}, 0)
    assert topics.get("bills") == topics.by_id[TopicId(17)]
    assert topics.end == 2
    assert driver.machine.take_topic_changes() == ["orders", "bills"]
    assert driver.machine.take_topic_changes() == []


def test_an_id_is_never_used_again(driver: Driver) -> None:
    meta(driver, "orders", record())
    meta(driver, "orders", None)
    meta(driver, "orders", record())
    topics = view(driver)
    assert list(topics.by_id) == [18]
    assert [topics.deleted(TopicId(topic)) for topic in (5, 16, 17, 18, 19)] == [False, True, True, False, False]
    assert driver.machine.take_topic_changes() == ["orders"]


def test_a_change_keeps_id_and_place(driver: Driver) -> None:
    meta(driver, "orders", record())
    assert meta(driver, "orders", record(16, partitions=9, max_batch_bytes="1000")).error == errors.OK
    assert view(driver).get("orders") == Topic("orders", TopicId(16), 9, 2, GROUPS, {"max_batch_bytes": "1000"}, 1)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("orders", record(), errors.TOPIC_EXISTS),
        ("bills", None, errors.UNKNOWN_TOPIC),
        ("bills", record(16), errors.UNKNOWN_TOPIC),
        ("orders", record(17), errors.UNKNOWN_TOPIC),
        ("orders", record(16, partitions=3), errors.INVALID_ARGUMENT),
        ("orders", record(16, anchor=3), errors.INVALID_ARGUMENT),
        ("bills", record(partitions=0), errors.INVALID_ARGUMENT),
        ("bills", record(partitions=10_001), errors.INVALID_ARGUMENT),
        ("bills", record(anchor=2**31), errors.INVALID_ARGUMENT),
        ("bills", TopicRecord(0, 1, 0, 0, {}), errors.INVALID_ARGUMENT),
        ("bills", TopicRecord(0, 1, 0, 1025, {}), errors.INVALID_ARGUMENT),
        ("bills", record(colour="red"), errors.INVALID_ARGUMENT),
        ("__bills", record(), errors.INVALID_TOPIC_NAME),
        ("", record(), errors.INVALID_TOPIC_NAME),
    ],
)
def test_what_is_no_valid_change_does_not_get_in(driver: Driver, name: str, value: TopicRecord, error: int) -> None:
    meta(driver, "orders", record())
    before = (dict(view(driver).by_name), driver.machine.partitions[META, 0].mark())
    outcome = meta(driver, name, value)
    assert (outcome.error, outcome.appends) == (error, ((error, -1),))
    assert (view(driver).by_name, driver.machine.partitions[META, 0].mark()) == before


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (batch(1), errors.CORRUPT_BATCH),
        (encode_topic_record("bills", record(), 1)[:-1], errors.CORRUPT_BATCH),
        (encode_batch([(b"bills", b"x" * 900, (), 1)], codec="gzip"), errors.CORRUPT_BATCH),
        (encode_batch([(b"bills", b"\xc1", (), 1)]), errors.INVALID_ARGUMENT),
        (encode_batch([(b"bills", b"\x90", (), 1)]), errors.INVALID_ARGUMENT),
        (encode_batch([(b"\xff", None, (), 1)]), errors.INVALID_ARGUMENT),
        (encode_batch([(None, None, (), 1)]), errors.UNKNOWN_TOPIC),
        (encode_topic_record("bills", TopicRecord(0, -1, 0, 8, {}), 1), errors.INVALID_ARGUMENT),
    ],
)
def test_batches_that_do_not_decode_do_not_get_in(driver: Driver, body: bytes, error: int) -> None:
    outcome = driver.run(DATA, encode_data([(META, 0, body)]))
    assert outcome.appends == ((error, -1),)
    assert driver.machine.partitions[META, 0].end == 0


def test_guards_decide_between_two_who_create(driver: Driver) -> None:
    guards = [guard_topic_absent("orders")]
    assert meta(driver, "orders", record(), guards).error == errors.OK
    second = meta(driver, "orders", record(), guards)
    assert (second.error, second.appends) == (errors.TOPIC_EXISTS, ())
    assert "orders" in second.detail


def test_guards_decide_between_two_who_change(driver: Driver) -> None:
    meta(driver, "orders", record())
    guards = [guard_topic_at("orders", TopicId(16), 0)]
    assert meta(driver, "orders", record(16, cleanup="compact"), guards).error == errors.OK
    assert meta(driver, "orders", record(16, cleanup="delete"), guards).error == errors.UNSETTLED
    assert view(driver).by_name["orders"].config == {"cleanup": "compact"}
    guards = [guard_topic_at("orders", TopicId(16), 1)]
    assert meta(driver, "orders", None, guards).error == errors.OK
    assert meta(driver, "orders", None, guards).error == errors.UNKNOWN_TOPIC
    meta(driver, "orders", record())
    anew = meta(driver, "orders", None, guards)
    assert anew.error == errors.UNSETTLED, "another topic of the same name: who lagged behind looks again"


def test_guards_on_topics_belong_to_group_0(driver: Driver) -> None:
    other = Driver(group=3)
    body = encode_data([(EVENTS, 3, batch(1))], [guard_topic_absent("orders")])
    assert other.run(DATA, body).error == MALFORMED
    assert driver.run(DATA, encode_data([(EVENTS, 0, batch(1))], [(1, b"\xc1")])).error == MALFORMED
    assert driver.run(DATA, encode_data([], [(200, b"")])).error == UNSUPPORTED


def test_an_atomic_command_takes_topics_back(driver: Driver) -> None:
    meta(driver, "orders", record())
    before = fingerprint(driver.machine)
    batches = [
        (META, 0, encode_topic_record("orders", record(16, cleanup="compact"), 1)),
        (META, 0, encode_topic_record("bills", record(), 1)),
        (META, 0, encode_topic_record("orders", None, 1)),
        (TopicId(99), 0, batch(1)),
    ]
    outcome = driver.run(DATA, encode_data(batches, [guard_topic_absent("bills")]))
    assert outcome.error == errors.PARTITION_NOT_OPEN
    del driver.machine.windows[1].outcomes[driver.counter]
    driver.machine.applied = type(driver.machine.applied)(driver.machine.applied - 1)
    assert fingerprint(driver.machine) == before
    assert list(view(driver).by_id) == [16]


def test_one_batch_may_change_many_topics(driver: Driver) -> None:
    records = [
        (name.encode(), value, (), 1)
        for name, value in [("a", b"\x95\x00\x04\x02\x08\x80"), ("b", b"\x95\x00\x01\x00\x08\x80"), ("a", None)]
    ]
    assert driver.run(DATA, encode_data([(META, 0, encode_batch(records))])).error == errors.OK
    assert {name: topic.topic for name, topic in view(driver).by_name.items()} == {"b": 17}
    assert view(driver).end == 3


def test_where_partitions_lie() -> None:
    topic = Topic("t", TopicId(16), 20, 6, 8, {}, 0)
    assert [topic.group_of(partition) for partition in range(4)] == [6, 7, 0, 1]
    for group in range(8):
        here = list(topic.partitions_in(GroupId(group)))
        assert here == [partition for partition in range(20) if topic.group_of(partition) == group]
    assert default_anchor("orders", 8) == 2, "must never change: it places what is on the disks"


def test_groups_of_partitions(driver: Driver) -> None:
    meta(driver, "orders", record())
    topics = view(driver)
    assert [topics.group_of(TopicId(16), partition) for partition in range(4)] == [2, 3, 4, 5]
    assert topics.group_of(EVENTS, 7) == 7
    for topic, partition, code in (
        (16, 4, "unknown-partition"),
        (16, -1, "unknown-partition"),
        (17, 0, "unknown-topic"),
        (EVENTS, 8, "unknown-partition"),
    ):
        with pytest.raises(CorgiError) as caught:
            topics.group_of(TopicId(topic), partition)
        assert caught.value.code == code


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "_x", "a" * 249, "..."])
def test_good_names(name: str) -> None:
    check_topic_name(name)


@pytest.mark.parametrize("name", ["", "a" * 250, "a b", "ä", "__x", ".", "..", "a/b", "a\n", "\x00"])
def test_bad_names(name: str) -> None:
    with pytest.raises(CorgiError) as caught:
        check_topic_name(name)
    assert caught.value.code == "invalid-topic-name"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("key", "value", "good"),
    [
        ("max_batch_bytes", "61", True),
        ("max_batch_bytes", str(8 * 2**20), True),
        ("max_batch_bytes", "60", False),
        ("max_batch_bytes", str(8 * 2**20 + 1), False),
        ("max_batch_bytes", "-1", False),
        ("retention_ms", "-1", True),
        ("retention_ms", "1", True),
        ("retention_ms", str(2**63 - 1), True),
        ("retention_ms", "0", False),
        ("retention_ms", "-2", False),
        ("retention_bytes", str(2**63), False),
        ("retention_bytes", "9" * 5000, False),
        ("retention_bytes", "1_000", False),
        ("retention_bytes", " 1", False),
        ("retention_bytes", "١", False),
        ("retention_bytes", "1e3", False),
        ("retention_bytes", "--1", False),
        ("retention_bytes", "", False),
        ("cleanup", "delete", True),
        ("cleanup", "compact", True),
        ("cleanup", "compact,delete", True),
        ("cleanup", "Compact", False),
        ("cleanup", "delete,compact", False),
        ("delete_retention_ms", "0", True),
        ("delete_retention_ms", "-1", False),
        ("min_compaction_lag_ms", "60000", True),
        ("min_compaction_lag_ms", "1.5", False),
        ("min_cleanable_dirty_ratio", "0", True),
        ("min_cleanable_dirty_ratio", "0.25", True),
        ("min_cleanable_dirty_ratio", "1.0", True),
        ("min_cleanable_dirty_ratio", "1.1", False),
        ("min_cleanable_dirty_ratio", "-0.5", False),
        ("min_cleanable_dirty_ratio", ".5", False),
        ("min_cleanable_dirty_ratio", "0.٥", False),
        ("min_cleanable_dirty_ratio", "half", False),
        ("durability", "fsync", True),
        ("durability", "memory", True),
        ("durability", "disk", False),
    ],
)
def test_settings(key: str, value: str, good: bool) -> None:
    if good:
        check_settings({key: value})
        return
    with pytest.raises(CorgiError) as caught:
        check_settings({key: value})
    assert caught.value.code == "invalid-argument"
    assert key in caught.value.message


def test_an_unknown_setting_is_told_the_known_ones() -> None:
    with pytest.raises(
        CorgiError, match="only cleanup, delete_retention_ms, durability, max_batch_bytes, min_cleanable"
    ):
        check_settings({"color": "red"})
    check_settings({"cleanup": None})


def test_a_stored_setting_that_is_not_understood_means_the_default() -> None:
    assert batch_bytes_max({"max_batch_bytes": "many"}) == batch_bytes_max({}) == 2**20
    assert batch_bytes_max({"max_batch_bytes": "100"}) == 100


STEP = st.tuples(st.sampled_from("abc"), st.sampled_from(["create", "alter", "delete"]), st.integers(1, 3))


@given(st.lists(STEP, max_size=40))
def test_the_view_is_a_function_of_what_meta_holds(steps: list[tuple[str, str, int]]) -> None:
    """Random valid and invalid changes; a fresh view made from the batches that got in is the same."""
    driver = Driver(group=0)
    twin: dict[str, tuple[int, int]] = {}
    stored: list[bytes] = []
    for name, what, partitions in steps:
        topic, present = twin.get(name, (16, 0))
        value = record(topic if what == "alter" else 0, partitions=partitions) if what != "delete" else None
        body = encode_topic_record(name, value, 1)
        outcome = driver.run(DATA, encode_data([(META, 0, body)]))
        valid = (name in twin) != (what == "create") and (what != "alter" or partitions >= present)
        assert (outcome.error == errors.OK) == valid
        if not valid:
            continue
        if what == "create":
            topic = 16 + len(stored)
        stored.append(body)
        twin[name] = (topic, partitions)
        if what == "delete":
            del twin[name]
    topics = view(driver)
    assert {name: (topic.topic, topic.partitions) for name, topic in topics.by_name.items()} == twin
    again = Topics(GROUPS)
    for offset, body in enumerate(stored):
        again.commit(*again.stage(body, Offset(offset)))
    assert (again.by_name, again.by_id, again.end) == (topics.by_name, topics.by_id, topics.end)
