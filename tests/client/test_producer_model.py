"""Whatever happens between client and nodes, the log holds each record once, in order, where its receipt says.

Random schedules: publishing, carrying out requests early, late or never, losing answers and connections, refusing,
moving leaders, letting time pass. In the end all is healed, and the log is compared with what was published.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.client.model import ModelCluster, Request

from corgi.base.errors import BY_CODE
from corgi.client.core.options import ClientOptions
from corgi.wire.messages import ProduceReply

REFUSALS = ("not-leader", "overloaded", "partition-not-open", "recovering", "unsettled", "timeout", "no-quorum")
TOO_LARGE = BY_CODE["record-too-large"].number
PARTITIONS = 2


class ProducerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = ModelCluster(PARTITIONS, ClientOptions(publish_timeout_s=10_000.0, batch_bytes=1_024))
        self.published: list[list[tuple[bytes, Any]]] = [[] for _ in range(PARTITIONS)]
        self.zombies: list[Request] = []  # given up by the client, perhaps still carried out
        self.count = 0

    @rule(partition=st.integers(0, PARTITIONS - 1), size=st.sampled_from([0, 0, 400]), flush=st.booleans())
    def publish(self, partition: int, size: int, flush: bool) -> None:
        value = b"%d" % self.count + b"x" * size
        self.count += 1
        self.published[partition].append((value, self.cluster.publish(value, partition)))
        if flush:
            self.cluster.settle()

    @rule(data=st.data())
    def carry_out_and_answer(self, data: st.DataObject) -> None:
        request = self.pick(data)
        if request is not None:
            request.reply(self.cluster.apply(request))
            self.cluster.settle()

    @rule(data=st.data())
    def carry_out_but_answer_later(self, data: st.DataObject) -> None:
        request = self.pick(data)
        if request is not None:
            self.cluster.apply(request)
            self.zombies.append(request)

    @rule(data=st.data())
    def delay(self, data: st.DataObject) -> None:
        request = self.pick(data)
        if request is not None:
            self.zombies.append(request)

    @rule(data=st.data(), code=st.sampled_from(REFUSALS), stored=st.booleans())
    def refuse(self, data: st.DataObject, code: str, stored: bool) -> None:
        request = self.pick(data)
        if request is not None:
            if stored and code in ("timeout", "no-quorum"):
                self.cluster.apply(request)  # such an answer promises nothing
            self.cluster.refuse(request, code)
            self.cluster.settle()

    @rule(data=st.data(), first_only=st.booleans())
    def refuse_for_good(self, data: st.DataObject, first_only: bool) -> None:
        request = self.pick(data)
        if request is not None:
            answer = [(TOO_LARGE, -1, -1)] * len(request.message.batches)
            if first_only:
                answer[1:] = self.cluster.apply(request, skip=1).results
            request.reply(ProduceReply(tuple(answer)))
            self.cluster.settle()

    @rule(data=st.data())
    def a_delayed_request_is_carried_out(self, data: st.DataObject) -> None:
        if self.zombies:
            request = self.zombies.pop(data.draw(st.integers(0, len(self.zombies) - 1)))
            request.reply(self.cluster.apply(request))
            self.cluster.settle()

    @rule(node=st.integers(1, 3))
    def cut(self, node: int) -> None:
        if node in self.cluster.links:
            self.cluster.cut(node)
            self.cluster.settle()

    @rule(node=st.integers(1, 3))
    def connect(self, node: int) -> None:
        self.cluster.connect(node)

    @rule(group=st.integers(0, 1), node=st.integers(1, 3))
    def lead(self, group: int, node: int) -> None:
        self.cluster.lead(group, node)
        self.cluster.settle()

    @rule(seconds=st.sampled_from([0.01, 0.3, 3.0]), heard=st.booleans())
    def wait(self, seconds: float, heard: bool) -> None:
        self.cluster.clock.time += seconds
        if heard:
            for link in self.cluster.links.values():
                link.heard = self.cluster.clock.time
        self.cluster.client.advance()
        self.cluster.settle()

    @invariant()
    def the_log_holds_each_record_once_and_in_order(self) -> None:
        for partition, published in enumerate(self.published):
            numbers = {value: number for number, (value, _) in enumerate(published)}
            places = [numbers[value] for value in self.cluster.values(partition)]
            assert places == sorted(set(places))

    @invariant()
    def a_receipt_tells_the_truth(self) -> None:
        for partition, published in enumerate(self.published):
            stored = self.cluster.values(partition)
            for value, (outcome, index) in published:
                if not outcome.done:
                    continue
                if outcome.error is None:
                    assert stored[outcome.base_offset + index] == value
                elif outcome.error.code == "record-too-large":
                    assert value not in stored
                else:
                    assert outcome.error.code == "outcome-unknown"

    def teardown(self) -> None:
        for node in (1, 2, 3):
            self.cluster.connect(node)
        for _ in range(50):
            for link in self.cluster.links.values():
                link.heard = self.cluster.clock.time
            while self.zombies:
                request = self.zombies.pop(0)
                request.reply(self.cluster.apply(request))
            self.cluster.serve()
            self.cluster.pass_time(1.0)
        for partition, published in enumerate(self.published):
            assert all(outcome.done for _, (outcome, _) in published)
            stored = self.cluster.values(partition)
            assert all(value in stored for value, (outcome, _) in published if outcome.error is None)
        assert self.cluster.client.producer.buffered == 0

    def pick(self, data: st.DataObject) -> Request | None:
        """Any request: nodes are not bound to answer in order of arrival."""
        if not self.cluster.produces:
            return None
        return self.cluster.produces.pop(data.draw(st.integers(0, len(self.cluster.produces) - 1)))


TestProducer = ProducerMachine.TestCase
TestProducer.settings = settings(stateful_step_count=40)
