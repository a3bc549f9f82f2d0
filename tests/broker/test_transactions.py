"""Transactions through a node's requests: who may begin, what readers see, how they end, and who is fenced."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from corgi.base.errors import BY_NUMBER
from corgi.base.ids import TopicId
from corgi.base.records import restamped
from corgi.broker.decisions import COMMIT, DONE, OPEN, Decided, Decisions
from corgi.wire import group_messages as g
from corgi.wire import messages as m
from corgi.wire import transaction_messages as t
from one_node import Client, OneNode, a_batch, records_of, values_of

ALL = 2**20


def code(reply: Any) -> str:
    return BY_NUMBER[reply.error].code if reply.error else "ok"


class Producer:
    """A transactional producer as the SDK is one."""

    def __init__(self, node: OneNode, name: str = "payments") -> None:
        self.node = node
        self.name = name
        self.client: Client = node.client()
        self.sequences: dict[tuple[int, int], int] = {}
        reply = self.client.call(t.InitTransactions(name))
        assert code(reply) == "ok", reply
        self.id, self.epoch, self.number = reply.producer_id, reply.producer_epoch, reply.number

    def begin(self, *places: tuple[TopicId, int], **fields: Any) -> str:
        self.number += 1
        return self.add(*places, **fields)

    def add(self, *places: tuple[TopicId, int], **fields: Any) -> str:
        message = t.OpenTransaction(self.name, self.id, self.epoch, self.number, places, **fields)
        return code(self.client.call(message))

    def put(self, topic: TopicId, partition: int, *values: bytes) -> str:
        sequence = self.sequences.get((topic, partition), 0)
        batch = restamped(a_batch(*values), self.id, self.epoch, sequence, transactional=True)
        reply = self.client.call(m.Produce(2, 1000, ((topic, partition, len(batch)),)), bytes(batch))
        error = reply.results[0][0]
        if not error:
            self.sequences[topic, partition] = sequence + len(values)
        return BY_NUMBER[error].code if error else "ok"

    def end(self, *, commit: bool) -> str:
        return code(self.client.call(t.EndTransaction(self.name, self.id, self.epoch, self.number, commit)))


def fetch(node: OneNode, topic: TopicId, partition: int, offset: int = 0, *, committed: bool = True) -> list[Any]:
    """Everything a reader finds, and where it ends up."""
    found: list[Any] = []
    client = node.client()
    while True:
        correlation = client.ask(m.Fetch(0, 0, ALL, ((topic, partition, offset, ALL),), committed))  # type: ignore[arg-type]
        node.turns()
        reply = client.answer(correlation)
        assert not reply.partitions[0][0]
        found += values_of(client.body(correlation), reply.partitions[0][3])
        if reply.onward[0] == offset:
            return found
        offset = reply.onward[0]


def two_partitions() -> tuple[OneNode, TopicId]:
    node = OneNode()
    return node, node.create("t", 4)


# -- what readers see -------------------------------------------------------------------------------------------------


def test_nothing_is_seen_before_the_commit_and_all_of_it_after() -> None:
    node, topic = two_partitions()
    producer = Producer(node)
    assert producer.begin((topic, 0), (topic, 1)) == "ok"
    assert producer.put(topic, 0, b"a", b"b") == "ok"
    assert producer.put(topic, 1, b"c") == "ok"
    node.produce(topic, 0, b"plain")
    assert fetch(node, topic, 0) == []
    assert fetch(node, topic, 0, committed=False) == [b"a", b"b", b"plain"]
    assert producer.end(commit=True) == "ok"
    assert fetch(node, topic, 0) == [b"a", b"b", b"plain"]
    assert fetch(node, topic, 1) == [b"c"]


def test_what_was_aborted_is_seen_only_by_those_who_want_it() -> None:
    node, topic = two_partitions()
    producer = Producer(node)
    producer.begin((topic, 0))
    producer.put(topic, 0, b"no")
    node.produce(topic, 0, b"plain")
    assert producer.end(commit=False) == "ok"
    producer.begin((topic, 0))
    producer.put(topic, 0, b"yes")
    assert producer.end(commit=True) == "ok"
    assert fetch(node, topic, 0) == [b"plain", b"yes"]
    assert fetch(node, topic, 0, committed=False) == [b"no", b"plain", b"yes"]


@pytest.mark.parametrize("chilled", [False, True])
def test_a_subscriber_is_pushed_what_is_committed_and_told_of_no_gap(chilled: bool) -> None:
    node, topic = two_partitions()
    reader, raw = node.client(), node.client()
    producer = Producer(node)
    for number in range(20):
        producer.begin((topic, 0))
        producer.put(topic, 0, b"%d" % number)
        producer.end(commit=number % 3 == 0)
    if chilled:
        node.chill()
    reader.call(m.Subscribe(1, topic, 0, 0, ALL))
    raw.call(m.Subscribe(2, topic, 0, 0, ALL, committed=False))
    for _ in range(60):
        while node.reads:
            node.thaw()
    assert [int(record.value or b"") for record in reader.delivered(1)] == [0, 3, 6, 9, 12, 15, 18]
    assert [int(record.value or b"") for record in raw.delivered(2)] == list(range(20))
    node.produce(topic, 0, b"30")
    node.turns()
    position = 0
    for message, payload in reader.pushes:  # what a client that tracks offsets concludes
        assert message.start <= position
        for record in values_and_offsets(payload, message.lengths):
            assert record >= position
            position = record + 1
    assert position == node.log(topic, 0).end


def values_and_offsets(payload: bytes, lengths: tuple[int, ...]) -> list[int]:
    return [record.offset for record in records_of(payload, lengths)]


def test_a_waiting_reader_is_woken_by_the_marker() -> None:
    node, topic = two_partitions()
    producer = Producer(node)
    producer.begin((topic, 0))
    producer.put(topic, 0, b"x")
    reader = node.client()
    correlation = reader.ask(m.Fetch(10_000, 1, ALL, ((topic, 0, 0, ALL),)))  # type: ignore[arg-type]
    node.turns()
    assert correlation not in reader.replies
    producer.end(commit=True)
    assert values_of(reader.body(correlation), reader.answer(correlation).partitions[0][3]) == [b"x"]
    assert reader.answer(correlation).stable == (2,)


# -- how transactions end ---------------------------------------------------------------------------------------------


def test_an_end_may_be_repeated_but_not_turned_round() -> None:
    node, topic = two_partitions()
    producer = Producer(node)
    producer.begin((topic, 0))
    producer.put(topic, 0, b"x")
    assert producer.end(commit=True) == "ok"
    assert producer.end(commit=True) == "ok"
    assert producer.end(commit=False) == "transaction-ended"
    assert producer.add((topic, 1)) == "transaction-ended"
    producer.begin((topic, 0))
    producer.end(commit=False)
    assert producer.end(commit=True) == "transaction-aborted"


def test_a_transaction_of_nothing_ends_well() -> None:
    node, _ = two_partitions()
    producer = Producer(node)
    producer.number += 1
    assert producer.end(commit=True) == "ok"


def test_a_transaction_that_touched_nothing_is_carried_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    node, _ = two_partitions()
    producer = Producer(node)
    write = Decisions.write
    written: list[int] = []

    def spy(self: Decisions, name: str, before: Any, after: Decided, *more: Any) -> None:
        written.append(after.state)
        write(self, name, before, after, *more)

    monkeypatch.setattr(Decisions, "write", spy)
    assert producer.begin() == "ok"
    assert producer.end(commit=True) == "ok"
    assert written == [OPEN, COMMIT, DONE]


def test_a_node_that_lags_behind_confirms_no_commit_of_a_transaction_that_it_has_yet_to_hear_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, topic = two_partitions()
    producer = Producer(node)
    assert producer.begin((topic, 0), (topic, 1)) == "ok"
    assert producer.put(topic, 0, b"a") == "ok"
    get = Decisions.get
    asked: list[str] = []

    def late(self: Decisions, name: str) -> Decided | None:
        found = get(self, name)
        asked.append(name)
        if found is None or len(asked) > 1:
            return found
        return msgspec.structs.replace(found, number=found.number - 1, state=DONE, committed=True, groups=())

    monkeypatch.setattr(Decisions, "get", late)
    assert producer.end(commit=True) == "ok"
    assert fetch(node, topic, 0) == [b"a"]


def test_an_abandoned_transaction_is_aborted_by_log_time() -> None:
    node, topic = two_partitions()
    producer = Producer(node)
    producer.begin((topic, 0), life_ms=5_000)
    producer.put(topic, 0, b"x")
    node.produce(topic, 0, b"held up")
    node.wait(4.0)
    assert fetch(node, topic, 0) == []
    node.wait(2.0)
    assert fetch(node, topic, 0) == [b"held up"]
    assert producer.put(topic, 0, b"late") == "transaction-fenced"
    assert producer.end(commit=True) == "transaction-aborted"
    again = Producer(node)
    assert again.begin((topic, 0)) == "ok"
    assert again.put(topic, 0, b"again") == "ok"
    assert again.end(commit=True) == "ok"
    assert fetch(node, topic, 0) == [b"held up", b"again"]


def test_an_abandoned_transaction_is_aborted_in_time_also_when_the_clock_was_ahead_and_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Log time, which never goes back, stands still until the clock has caught up."""
    node, topic = two_partitions()
    producer = Producer(node)
    wall_ms = OneNode.wall_ms
    with monkeypatch.context() as ahead:
        ahead.setattr(OneNode, "wall_ms", lambda self: wall_ms(self) + 60_000)
        producer.begin((topic, 0), life_ms=5_000)
        producer.put(topic, 0, b"x")
        node.produce(topic, 0, b"held up")
    node.wait(0.3)  # until the leader has looked
    node.wait(4.0)
    assert fetch(node, topic, 0) == []
    node.wait(2.0)
    assert fetch(node, topic, 0) == [b"held up"]


def test_the_second_producer_of_a_name_fences_the_first() -> None:
    node, topic = two_partitions()
    first = Producer(node)
    first.begin((topic, 0), (topic, 1))
    first.put(topic, 0, b"zombie")
    second = Producer(node)
    assert (second.id, second.epoch > first.epoch) == (first.id, True)
    assert first.put(topic, 0, b"more") == "transaction-fenced"
    assert first.end(commit=True) == "transaction-fenced"
    assert first.begin((topic, 2)) == "transaction-fenced"
    batch = a_batch(b"alone")
    message = t.Atomic(1000, ((topic, 2, len(batch)),), (), first.id, first.epoch)
    assert code(first.client.call(message, batch)) == "transaction-fenced"
    assert fetch(node, topic, 0) == []
    second.begin((topic, 0))
    second.put(topic, 0, b"mine")
    assert second.end(commit=True) == "ok"
    assert fetch(node, topic, 0) == [b"mine"]


def test_epochs_that_run_out_lead_to_a_new_producer_id() -> None:
    node, topic = two_partitions()
    first = Producer(node)
    decisions = node.requests.transactions.decisions
    found = decisions.get("payments")
    assert found is not None
    decisions.write("payments", found, msgspec.structs.replace(found, epoch=32_766), 1.0, lambda *_: None)
    node.turns()
    second = Producer(node)
    assert second.id != first.id
    assert second.epoch == 0
    batch = a_batch(b"x")
    message = t.Atomic(1000, ((topic, 0, len(batch)),), (), first.id, 32_766)
    assert code(first.client.call(message, batch)) == "transaction-fenced"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": "nobody"}, "unknown-transaction"),
        ({"producer_id": 12}, "transaction-fenced"),
        ({"producer_epoch": 9}, "transaction-fenced"),
        ({"number": 7}, "invalid-argument"),
    ],
)
def test_who_is_not_the_producer_is_told_why(change: dict[str, Any], error: str) -> None:
    node, topic = two_partitions()
    producer = Producer(node)
    fields = {
        "name": producer.name,
        "producer_id": producer.id,
        "producer_epoch": producer.epoch,
        "number": 1,
        **change,
    }
    assert code(producer.client.call(t.OpenTransaction(**fields, partitions=((topic, 0),)))) == error
    if change.get("number") != 7:
        assert code(producer.client.call(t.EndTransaction(**fields, commit=True))) == error


def test_a_decision_left_behind_is_carried_out() -> None:
    node, topic = two_partitions()
    producer = Producer(node)
    producer.begin((topic, 0), (topic, 1))
    producer.put(topic, 0, b"a")
    producer.put(topic, 1, b"b")
    marker = 8
    node.answer_instead = lambda group, kind: 13 if kind == marker else 0  # nobody hears what became of markers
    assert producer.end(commit=True) == "timeout"
    node.answer_instead = lambda group, kind: 0
    assert fetch(node, topic, 0) == []
    node.wait(1.5)
    assert (fetch(node, topic, 0), fetch(node, topic, 1)) == ([b"a"], [b"b"])
    assert node.counters["transactions_left_behind"] == 1
    assert producer.end(commit=True) == "ok"


def test_what_is_open_is_listed() -> None:
    node, topic = two_partitions()
    producer = Producer(node)
    producer.begin((topic, 3), life_ms=9_000)
    (info,) = producer.client.call(t.ListTransactions()).transactions
    assert (info.name, info.state, info.partitions, info.life_ms) == ("payments", "open", ((topic, 3),), 9_000)
    producer.end(commit=False)
    assert producer.client.call(t.ListTransactions()).transactions == ()


# -- checkpoints ------------------------------------------------------------------------------------------------------


def cursor(node: OneNode, topic: TopicId, partition: int) -> Any:
    return node.client().call(g.Cursors("billing", ((topic, partition, 0),))).cursors[0]


def test_a_checkpoint_and_results_in_other_groups_are_one_act() -> None:
    node, topic = two_partitions()
    node.produce(topic, 0, b"one", b"two")
    producer = Producer(node)
    moved = t.Checkpoint("billing", topic, 0, 0, 0, "", 0, 2)  # type: ignore[arg-type]
    for commit, expected in ((False, -1), (True, 2)):
        assert producer.begin((topic, 1), checkpoints=(moved,)) == "ok"
        producer.put(topic, 1, b"result")
        assert cursor(node, topic, 0).offset == -1
        assert producer.end(commit=commit) == "ok"
        assert cursor(node, topic, 0).offset == expected
    assert fetch(node, topic, 1) == [b"result"]


def test_one_command_does_what_lies_in_one_group() -> None:
    node = OneNode()
    topic = node.create("t", 8)
    node.produce(topic, 0, b"in")
    client = node.client()
    batch = a_batch(b"out")
    moved = t.Checkpoint("billing", topic, 0, 0, 0, "", 0, 1)  # type: ignore[arg-type]
    message = t.Atomic(1000, ((topic, 4, len(batch)),), (moved,))
    reply = client.call(message, batch)
    assert (code(reply), reply.offsets) == ("ok", (0,))
    again = client.call(message, batch)
    assert (code(again), again.offsets) == ("ok", (-1,))
    assert (fetch(node, topic, 4), cursor(node, topic, 0).offset) == ([b"out"], 1)
    scattered = t.Atomic(1000, ((topic, 1, len(batch)),), (moved,))
    correlation = client.ask(scattered, batch)
    node.turns()
    assert code(client.answer(correlation)) == "invalid-argument"


# -- prepared messages ------------------------------------------------------------------------------------------------


def prepare(client: Client, topic: TopicId, id_: str, value: bytes = b"v", **fields: Any) -> str:
    batch = a_batch(value)
    return code(client.call(t.Prepare(id_, "orders", topic, 0, len(batch), **fields), batch))


def test_a_prepared_message_is_seen_when_it_is_committed_and_holds_up_nobody() -> None:
    node, topic = two_partitions()
    client = node.client()
    assert prepare(client, topic, "one") == "ok"
    assert prepare(client, topic, "one") == "ok"  # sent again
    assert prepare(client, topic, "one", b"other") == "unknown-transaction"
    node.produce(topic, 0, b"plain")
    assert fetch(node, topic, 0) == [b"plain"]
    reply = client.call(t.Settle("one", topic, 0, True))
    assert (code(reply), reply.offset) == ("ok", 1)
    assert code(client.call(t.Settle("one", topic, 0, True))) == "ok"
    assert code(client.call(t.Settle("one", topic, 0, False))) == "transaction-ended"
    assert fetch(node, topic, 0) == [b"plain", b"v"]


def test_a_rolled_back_message_is_nowhere() -> None:
    node, topic = two_partitions()
    client = node.client()
    prepare(client, topic, "one")
    assert code(client.call(t.Settle("one", topic, 0, False))) == "ok"
    assert code(client.call(t.Settle("one", topic, 0, True))) == "transaction-aborted"
    assert code(client.call(t.Settle("two", topic, 0, True))) == "unknown-transaction"
    node.wait(61.0)
    assert code(client.call(t.Settle("one", topic, 0, True))) == "unknown-transaction"
    assert (fetch(node, topic, 0), node.groups[node.group_of(topic, 0)].machine.transaction_records.by_key) == ([], {})


def test_a_silent_producer_is_asked_back_and_at_the_end_it_is_left_to_people() -> None:
    node, topic = two_partitions()
    client, watcher = node.client(), node.client()
    prepare(client, topic, "one", check_ms=1_000, check_limit=2)
    watcher.call(t.Watch(("orders",)))
    rounds = []
    for _ in range(20):
        node.wait(0.5)
        rounds += [push.round for push in watcher.take(t.CheckBack)]
    assert rounds == [1, 2]
    (info,) = client.call(t.ListTransactions()).transactions
    assert (info.state, info.id, info.name) == ("prepared", "one", "orders")
    watcher.close()
    assert code(client.call(t.Settle("one", topic, 0, True))) == "ok"
    assert client.call(t.ListTransactions()).transactions == ()


def test_a_silent_producer_is_asked_back_in_time_also_when_the_clock_was_ahead_and_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, topic = two_partitions()
    client, watcher = node.client(), node.client()
    wall_ms = OneNode.wall_ms
    with monkeypatch.context() as ahead:
        ahead.setattr(OneNode, "wall_ms", lambda self: wall_ms(self) + 60_000)
        prepare(client, topic, "one", check_ms=1_000, check_limit=2)
    watcher.call(t.Watch(("orders",)))
    rounds = []
    for _ in range(6):
        node.wait(0.5)
        rounds += [(push.round, push.age_ms // 1_000) for push in watcher.take(t.CheckBack)]
    assert rounds == [(1, 1), (2, 2)]
