"""The client's consumer: each record once and in order, whatever nodes push, repeat, damage or leave out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.client.model import NOTHING, TOPIC, ModelCluster, Request

from corgi.base.batch import patched_prefix
from corgi.base.errors import BY_CODE, CorgiError
from corgi.base.ids import Offset
from corgi.base.records import encode_batch
from corgi.client.core.options import ClientOptions
from corgi.client.core.subscriber import Start, Subscription
from corgi.client.subscription import messages_of
from corgi.state.compaction import NewestOffsets, survivors
from corgi.wire import messages as m


def batch_of(offset: int, *values: bytes, timestamp: int = 7) -> bytes:
    batch = encode_batch([(None, value, (), timestamp) for value in values])
    return patched_prefix(offset, len(batch), 1) + batch[16:]


EARLIEST = Start("earliest")


class Reader:
    """A subscription of partition 0 and the node's side of it."""

    def __init__(self, start: Start = EARLIEST, **options: Any) -> None:
        self.cluster = ModelCluster(1, ClientOptions(**options))
        self.notified = 0
        self.subscription: Subscription = self.cluster.client.consumer.subscribe("t", self._notify, start=start)
        self.cluster.settle()

    def _notify(self) -> None:
        self.notified += 1

    def request(self, kind: type) -> Request:
        """The oldest open request of that kind."""
        return next(
            request
            for link in self.cluster.links.values()
            for request in link.open
            if isinstance(request.message, kind)
        )

    def attach(self, end: int = 0) -> m.Subscribe:
        request = self.request(m.Subscribe)
        request.reply(m.SubscribeReply(0, Offset(end), Offset(0)))
        self.cluster.settle()
        self.node = request.link
        self.id = request.message.subscription
        return request.message

    def push(self, *batches: bytes, end: int = 100, subscription: int = 0, start: int = -1) -> None:
        lengths = tuple([len(batch) for batch in batches])
        message = m.Deliver(subscription or self.id, Offset(end), lengths, Offset(start))
        self.cluster.client.pushed(self.node, message, memoryview(b"".join(batches)))
        self.cluster.settle()

    def read(self) -> list[tuple[int, bytes | None]]:
        out = []
        while (delivery := self.subscription.take()) is not None:
            out += [(message.offset, message.value) for message in messages_of("t", delivery)]
        return out


def test_pushed_batches_are_read_in_order() -> None:
    reader = Reader()
    subscribe = reader.attach()
    assert (subscribe.topic, subscribe.partition, subscribe.offset) == (TOPIC, 0, 0)
    reader.push(batch_of(0, b"a", b"b"), batch_of(2, b"c"))
    assert reader.read() == [(0, b"a"), (1, b"b"), (2, b"c")]
    assert reader.subscription.attached


def test_after_a_lost_connection_it_goes_on_at_the_next_offset_elsewhere() -> None:
    reader = Reader()
    reader.attach()
    reader.push(batch_of(0, b"a", b"b"))
    reader.cluster.cut(1)
    reader.cluster.settle()
    subscribe = reader.attach()
    assert reader.node.node == 2
    assert subscribe.offset == 2
    reader.push(batch_of(0, b"a", b"b", b"c"), batch_of(3, b"d"))  # whole batches: the start of the first is known
    assert reader.read() == [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"d")]
    assert reader.subscription.dropped == 2


def test_what_was_pushed_twice_is_read_once() -> None:
    reader = Reader()
    reader.attach()
    reader.push(batch_of(0, b"a"))
    reader.push(batch_of(0, b"a"), batch_of(1, b"b"))
    assert reader.read() == [(0, b"a"), (1, b"b")]


def test_a_push_of_an_attachment_that_was_left_is_ignored() -> None:
    reader = Reader()
    reader.attach()
    left = reader.id
    reader.cluster.lead(0, 3)
    reader.cluster.settle()
    reader.attach()
    assert reader.node.node == 3
    reader.push(batch_of(0, b"old"), subscription=left)
    assert reader.read() == []
    reader.push(batch_of(0, b"new"))
    assert reader.read() == [(0, b"new")]


def test_a_gap_is_believed_only_when_another_node_shows_it_too() -> None:
    reader = Reader()
    reader.attach()
    reader.push(batch_of(0, b"a"))
    reader.push(batch_of(5, b"f"))
    assert reader.read() == [(0, b"a")]
    subscribe = reader.attach()
    assert reader.node.node != 1
    assert subscribe.offset == 1
    reader.push(batch_of(5, b"f"))  # retention took what was between
    assert reader.read() == [(5, b"f")]
    assert reader.subscription.gaps == 1


def test_holes_are_believed_when_the_node_says_where_a_push_begins() -> None:
    reader = Reader()
    reader.attach()
    reader.push(batch_of(3, b"d"), batch_of(9, b"j"), start=0)
    reader.push(batch_of(20, b"u"), start=10)
    assert reader.read() == [(3, b"d"), (9, b"j"), (20, b"u")]
    assert reader.subscription.gaps == 0
    reader.push(batch_of(30, b"z"), start=25)  # what came before it was lost on the way
    assert reader.read() == []
    assert reader.attach().offset == 21
    assert reader.subscription.gaps == 1


def test_the_position_comes_after_the_batch_though_its_last_records_are_gone() -> None:
    newest = NewestOffsets()
    newest.add(encode_batch([(b"a", b"1", (), 7), (b"b", b"1", (), 7)]), Offset(0))
    newest.add(encode_batch([(b"b", b"2", (), 7)]), Offset(2))
    whole = encode_batch([(b"a", b"1", (), 7), (b"b", b"1", (), 7)])
    left = survivors(whole, Offset(0), newest, Offset(0)).batch
    assert left is not None
    reader = Reader()
    reader.attach()
    reader.push(bytes(left), start=0)
    assert reader.read() == [(0, b"1")]
    reader.cluster.client.link_lost(reader.node, CorgiError("outcome-unknown"))
    reader.cluster.settle()
    assert reader.attach().offset == 2


def test_a_damaged_batch_is_fetched_from_another_node() -> None:
    reader = Reader()
    reader.attach()
    good = batch_of(0, b"a")
    reader.push(good[:-1] + bytes([good[-1] ^ 1]))
    assert reader.read() == []
    reader.attach()
    assert reader.node.node != 1
    reader.push(good)
    assert reader.read() == [(0, b"a")]


def test_damage_everywhere_is_told() -> None:
    reader = Reader()
    good = batch_of(0, b"a")
    while reader.subscription.error is None:
        reader.attach()
        reader.push(good[:-1] + bytes([good[-1] ^ 1]))
    assert reader.subscription.error.code == "record-damaged"
    assert reader.read() == []


def test_lengths_that_contradict_the_payload_cost_the_connection() -> None:
    reader = Reader()
    reader.attach()
    message = m.Deliver(reader.id, Offset(1), (10, 10**9))
    reader.cluster.client.pushed(reader.node, message, memoryview(b"x" * 20))
    assert reader.cluster.cut_later == [reader.node]


def test_credit_is_granted_rarely_and_in_full() -> None:
    reader = Reader(prefetch_bytes=100_000)
    credit = reader.attach().credit
    assert credit == 100_000
    pushed = 0
    for offset in range(200):
        batch = batch_of(offset, b"x" * 1_000)
        reader.push(batch)
        pushed += len(batch)
        assert len(reader.read()) == 1
        reader.cluster.settle()
    grants = [grant for message, _ in reader.node.told for _, grant in message.grants]
    assert len(grants) <= 5
    assert credit + sum(grants) - pushed >= credit // 2
    assert sum(grants) <= pushed


def test_a_consumer_that_does_not_read_is_granted_nothing() -> None:
    reader = Reader(prefetch_bytes=100_000)
    reader.attach()
    for offset in range(90):
        reader.push(batch_of(offset, b"x" * 1_000))
    assert reader.node.told == []


def test_what_is_still_held_is_not_credited_again_after_moving() -> None:
    reader = Reader(prefetch_bytes=100_000)
    reader.attach()
    held = batch_of(0, b"x" * 40_000)
    reader.push(held)
    reader.cluster.cut(1)
    reader.cluster.settle()
    assert reader.attach().credit == 100_000 - len(held)


def test_latest_asks_for_the_end_first() -> None:
    reader = Reader(Start("latest"))
    question = reader.request(m.ListOffsets)
    assert question.message.partitions == ((TOPIC, 0, -1),)
    question.reply(m.ListOffsetsReply(((0, Offset(41), -1),)))
    reader.cluster.settle()
    assert reader.attach(41).offset == 41


def test_a_time_skips_what_is_older_inside_the_first_batch() -> None:
    reader = Reader(Start("time", 50))
    question = reader.request(m.ListOffsets)
    assert question.message.partitions == ((TOPIC, 0, 50),)
    question.reply(m.ListOffsetsReply(((0, Offset(10), 60),)))
    reader.cluster.settle()
    reader.attach()
    batch = encode_batch([(None, b"old", (), 40), (None, b"new", (), 60), (None, b"late", (), 45)])
    reader.push(patched_prefix(10, len(batch), 1) + batch[16:], batch_of(13, b"next", timestamp=30))
    assert reader.read() == [(11, b"new"), (12, b"late"), (13, b"next")]


def test_earliest_looks_up_where_the_log_starts_when_it_is_not_zero() -> None:
    reader = Reader()
    reader.request(m.Subscribe).reply(m.SubscribeReply(BY_CODE["offset-out-of-range"].number, Offset(-1), Offset(-1)))
    reader.cluster.settle()
    question = reader.request(m.ListOffsets)
    assert question.message.partitions == ((TOPIC, 0, -2),)
    question.reply(m.ListOffsetsReply(((0, Offset(700), -1),)))
    reader.cluster.settle()
    assert reader.attach(900).offset == 700


def test_an_offset_that_is_not_stored_is_told() -> None:
    reader = Reader(Start("offset", 5))
    reader.request(m.Subscribe).reply(m.SubscribeReply(BY_CODE["offset-out-of-range"].number, Offset(-1), Offset(-1)))
    assert reader.subscription.error is not None
    assert reader.subscription.error.code == "offset-out-of-range"


def test_a_node_that_stops_sends_the_stream_elsewhere_after_a_pause() -> None:
    reader = Reader()
    reader.attach()
    ended = m.SubscriptionEnded(reader.id, BY_CODE["not-leader"].number, "stopping")
    reader.cluster.client.pushed(reader.node, ended, NOTHING)
    reader.cluster.settle()
    reader.cluster.pass_time(0.1)
    reader.attach()
    assert reader.node.node == 2


def test_a_deleted_topic_ends_the_subscription_after_what_was_received() -> None:
    reader = Reader()
    reader.attach()
    reader.push(batch_of(0, b"a"))
    ended = m.SubscriptionEnded(reader.id, BY_CODE["unknown-topic"].number)
    reader.cluster.client.pushed(reader.node, ended, NOTHING)
    assert reader.read() == [(0, b"a")]
    assert reader.subscription.error is not None
    assert reader.subscription.error.code == "unknown-topic"


@pytest.mark.parametrize("unknown", ["disk-full", "no-quorum", "timeout"])
def test_a_node_that_cannot_find_out_whether_a_topic_is_there_does_not_end_a_subscription(unknown: str) -> None:
    reader = Reader()
    reader.attach()
    reader.cluster.topics.clear()
    reader.cluster.unknown = unknown
    for node in (1, 2, 3):
        reader.cluster.cut(node)
    reader.cluster.connect(1)
    assert reader.subscription.error is None
    reader.attach()
    reader.push(batch_of(0, b"a"))
    assert reader.read() == [(0, b"a")]


def test_a_subscription_outlives_any_time_without_the_cluster() -> None:
    cluster = ModelCluster(connect=False)
    subscription = cluster.client.consumer.subscribe("t", lambda: None, start=Start("earliest"))
    cluster.pass_time(100.0)
    assert subscription.error is None
    cluster.connect_all()
    cluster.settle()
    assert set(subscription.streams) == {0, 1}


def test_added_partitions_are_read_from_their_start() -> None:
    reader = Reader(Start("latest"))
    reader.request(m.ListOffsets).reply(m.ListOffsetsReply(((0, Offset(41), -1),)))
    reader.cluster.settle()
    reader.attach(41)
    reader.cluster.partitions = 2
    reader.cluster.client.pushed(reader.node, m.TopicsChanged(("t",)), NOTHING)
    reader.cluster.settle()
    added = reader.attach()
    assert (added.partition, added.offset) == (1, 0)


def test_a_partition_that_is_not_there_is_told() -> None:
    cluster = ModelCluster(1)
    subscription = cluster.client.consumer.subscribe("t", lambda: None, start=Start("earliest"), partitions=(0, 7))
    assert subscription.error is not None
    assert subscription.error.code == "unknown-partition"


def test_after_closing_nothing_is_attached() -> None:
    reader = Reader()
    reader.attach()
    reader.cluster.client.consumer.unsubscribe(reader.subscription)
    reader.cluster.settle()
    assert reader.request(m.Unsubscribe).message.subscription == reader.id
    reader.cluster.cut(1)
    reader.cluster.settle()
    with pytest.raises(StopIteration):
        reader.request(m.Subscribe)


class ConsumerMachine(RuleBasedStateMachine):
    """Nodes that serve the same log push any slices of it, from any attachment; the reader sees it once, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = Reader()
        self.log: list[bytes] = []
        self.ends: list[int] = [0]
        self.served: dict[int, tuple[Any, int]] = {}  # attachment -> link, next offset to push
        self.seen: list[tuple[int, bytes | None]] = []

    @rule(count=st.integers(1, 4))
    def append(self, count: int) -> None:
        offset = self.ends[-1]
        self.log.append(batch_of(offset, *[b"%d" % number for number in range(offset, offset + count)]))
        self.ends.append(offset + count)

    @rule()
    def accept(self) -> None:
        for link in self.reader.cluster.links.values():
            for request in list(link.open):
                if isinstance(request.message, m.Subscribe):
                    assert request.message.offset <= self.ends[-1]
                    self.served[request.message.subscription] = (link, request.message.offset)
                    request.reply(m.SubscribeReply(0, Offset(self.ends[-1]), Offset(0)))
                elif isinstance(request.message, m.Unsubscribe):
                    self.served.pop(request.message.subscription, None)
                    request.reply(m.UnsubscribeReply())
        self.reader.cluster.settle()

    @rule(data=st.data(), damage=st.sampled_from([False, False, False, True]))
    def push(self, data: st.DataObject, damage: bool) -> None:
        live = [number for number, (link, _) in self.served.items() if link.up]
        if not live:
            return
        number = data.draw(st.sampled_from(live))
        link, offset = self.served[number]
        first = next((at for at, end in enumerate(self.ends[1:]) if end > offset), len(self.log))
        last = data.draw(st.integers(first, len(self.log)))
        batches = self.log[first:last]
        if not batches:
            return
        self.served[number] = (link, self.ends[last])
        if damage:
            batches[-1] = batches[-1][:-1] + bytes([batches[-1][-1] ^ 0xFF])
        self.reader.node = link
        self.reader.push(*batches, end=self.ends[-1], subscription=number)

    @rule(node=st.integers(1, 3))
    def cut(self, node: int) -> None:
        if node in self.reader.cluster.links and len(self.reader.cluster.links) > 1:
            self.reader.cluster.cut(node)
            self.reader.cluster.settle()

    @rule(node=st.integers(1, 3))
    def connect(self, node: int) -> None:
        self.reader.cluster.connect(node)

    @rule(node=st.integers(1, 3))
    def lead(self, node: int) -> None:
        self.reader.cluster.lead(0, node)
        self.reader.cluster.settle()

    @rule()
    def read(self) -> None:
        self.seen += self.reader.read()
        self.reader.cluster.settle()

    @invariant()
    def each_record_once_and_in_order(self) -> None:
        assert self.seen == [(number, b"%d" % number) for number in range(len(self.seen))]

    def teardown(self) -> None:
        for _ in range(30):
            self.reader.cluster.connect(1)
            self.accept()
            self.reader.cluster.pass_time(1.0)
            for number, (link, offset) in list(self.served.items()):
                if link.up and offset < self.ends[-1]:
                    first = next(at for at, end in enumerate(self.ends[1:]) if end > offset)
                    self.served[number] = (link, Offset(self.ends[-1]))
                    self.reader.node = link
                    self.reader.push(*self.log[first:], end=self.ends[-1], subscription=number)
            self.read()
        if self.reader.subscription.error is None:
            assert len(self.seen) == self.ends[-1]
        self.each_record_once_and_in_order()


TestConsumer = ConsumerMachine.TestCase
TestConsumer.settings = settings(stateful_step_count=40)
