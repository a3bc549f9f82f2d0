"""The client's core as a whole: links, leaders, topics, questions; with nodes that come, go, lie and fall silent."""

from __future__ import annotations

from typing import Any

import pytest
from tests.client.model import NOTHING, ModelCluster, ModelLink

from corgi.base.errors import BY_CODE, CorgiError
from corgi.base.ids import NodeId, Offset
from corgi.client.core.asks import Ask
from corgi.client.core.hedge import ResponseTimes
from corgi.client.core.links import Address
from corgi.client.core.options import ClientOptions
from corgi.client.core.routing import NO_NODE, Routing
from corgi.wire import messages as m


def greeting(node: int, cluster: str = "c" * 32) -> m.HelloReply:
    return m.HelloReply(1, cluster, NodeId(node), 2**26)


# Links


def test_it_dials_the_seeds_and_then_everybody_they_tell_of() -> None:
    cluster = ModelCluster(connect=False)
    assert {address.port for address in cluster.dials} == {1, 2}
    cluster.dials.clear()
    cluster.connect(1)
    assert [address.port for address in cluster.dials] == [3]
    assert cluster.client.ready


def test_a_node_has_one_link_whatever_it_is_called() -> None:
    cluster = ModelCluster(connect=False)
    cluster.connect(1)
    again = ModelLink(cluster, 1)
    cluster.client.link_up(again, greeting(1), Address("alias", 1))
    assert cluster.cut_later == [again]
    assert cluster.client.routing.links[NodeId(1)] is cluster.links[1]


def test_a_lost_node_is_dialled_again_with_growing_pauses() -> None:
    cluster = ModelCluster()
    cluster.cut(1)
    pauses = []
    before = cluster.clock.time
    for _ in range(6):
        while not cluster.dials:
            due = cluster.client.next_deadline()
            assert due is not None
            cluster.clock.time = max(due, cluster.clock.time)
            cluster.client.advance()
            cluster.settle()
        assert cluster.dials.pop() == cluster.address(1)
        pauses.append(cluster.clock.time - before)
        before = cluster.clock.time
        cluster.client.dial_failed(cluster.address(1), CorgiError("unreachable"))
    assert pauses[0] < 0.1
    assert pauses[-1] > 0.5
    assert max(pauses) <= 2.0


def test_a_node_of_another_cluster_is_not_used() -> None:
    cluster = ModelCluster(connect=False)
    cluster.connect(1)
    stranger = ModelLink(cluster, 2)
    cluster.client.link_up(stranger, greeting(2, "d" * 32), cluster.address(2))
    assert cluster.cut_later == [stranger]
    assert NodeId(2) not in cluster.client.routing.links


@pytest.mark.parametrize("number", [1, 2])
def test_seeds_of_different_clusters_are_told_apart_whatever_number_their_nodes_have(number: int) -> None:
    cluster = ModelCluster(connect=False)
    told: list[bool] = []
    cluster.client.when_seeds_told(lambda: told.append(True))
    cluster.connect(1)
    assert not told
    assert cluster.client.disagreement is None
    cluster.client.link_up(ModelLink(cluster, number), greeting(number, "d" * 32), cluster.address(2))
    assert told
    error = cluster.client.disagreement
    assert error is not None
    assert error.code == "wrong-cluster"
    for part in (str(cluster.address(1)), "c" * 32, str(cluster.address(2)), "d" * 32):
        assert part in error.message
    assert cluster.client.hopeless
    assert cluster.client.unreachable() is error


def test_a_client_never_goes_over_to_another_cluster() -> None:
    cluster = ModelCluster(connect=False)
    cluster.connect(1)
    cluster.connect(2)
    for node in (1, 2):
        cluster.cut(node)
    stranger = ModelLink(cluster, 1)
    cluster.client.link_up(stranger, greeting(1, "d" * 32), cluster.address(1))
    assert cluster.cut_later == [stranger]
    assert not cluster.client.ready
    assert cluster.client.routing.cluster == "c" * 32


def test_what_no_patience_mends_is_told_when_nobody_can_be_reached() -> None:
    cluster = ModelCluster(connect=False, options=ClientOptions(cluster="d" * 32))
    cluster.client.dial_failed(cluster.address(2), CorgiError("unreachable", "refused"))
    assert cluster.client.unreachable().code == "unreachable"
    cluster.client.link_up(ModelLink(cluster, 1), greeting(1), cluster.address(1))
    assert cluster.client.unreachable().code == "wrong-cluster"


def test_a_silent_link_is_asked_and_then_given_up() -> None:
    cluster = ModelCluster(options=ClientOptions(ping_s=1.0, silence_s=4.0))
    quiet = cluster.links[1]
    begun = cluster.clock.time
    while not cluster.cut_later and cluster.clock.time < begun + 6.0:
        cluster.clock.time += 0.1
        for node in (2, 3):
            cluster.links[node].heard = cluster.clock.time
        cluster.client.advance()
        cluster.client.flush()
    assert cluster.cut_later == [quiet]
    assert 3.9 <= cluster.clock.time - begun <= 4.5
    pings = [request for request in cluster.others if isinstance(request.message, m.Ping)]
    assert [ping.link.node for ping in pings] == [1]


def test_a_link_that_answers_is_kept() -> None:
    cluster = ModelCluster(options=ClientOptions(ping_s=1.0, silence_s=4.0))
    cluster.pass_time(30.0)
    assert cluster.cut_later == []


def test_our_own_absence_is_not_held_against_the_others() -> None:
    cluster = ModelCluster(options=ClientOptions(ping_s=1.0, silence_s=4.0))
    for _ in range(5):
        cluster.clock.time += 60.0  # the program was stopped, or computed
        cluster.client.advance()
        cluster.client.flush()
    assert cluster.cut_later == []


# Routing


def test_the_highest_term_is_believed_whoever_tells() -> None:
    routing = Routing()
    routing.learn(ModelCluster(connect=False).metadata(()))
    assert routing.leader_changed(0, NodeId(2), 5)
    assert not routing.leader_changed(0, NodeId(3), 4)
    assert not routing.leader_changed(0, NodeId(3), 5)
    assert routing.leaders[0] == 2
    assert not routing.leader_changed(99, NodeId(3), 9)
    assert routing.leader_changed(0, NO_NODE, 6)
    assert routing.leader_changed(0, NodeId(1), 6)  # the same term, now with a name


def test_without_the_leader_the_next_in_takeover_order_is_asked() -> None:
    cluster = ModelCluster()
    routing = cluster.client.routing
    assert routing.preferred(2) == 3
    cluster.cut(3)
    assert routing.preferred(2) == 1
    cluster.cut(1)
    assert routing.preferred(2) == 2
    cluster.cut(2)
    assert routing.preferred(2) == NO_NODE


def test_a_suspected_node_is_asked_only_when_there_is_no_other() -> None:
    cluster = ModelCluster()
    routing = cluster.client.routing
    now = cluster.clock.time
    routing.suspected[NodeId(1)] = now
    assert routing.preferred(0) == 2
    routing.suspected |= {NodeId(2): now, NodeId(3): now}
    assert routing.preferred(0) == 1


def test_a_node_is_suspected_until_it_says_anything() -> None:
    """Also what it was not asked: a node that was silent once and leads nothing is asked nothing, so only answers to
    pings show that it is well again. A client that did not see that went on asking a leader that nobody heard."""
    cluster = ModelCluster()
    routing = cluster.client.routing
    for node in (NodeId(2), NodeId(3)):
        routing.suspected[node] = cluster.clock.time
        routing.links[node].heard = cluster.clock.time + 1.0
    assert routing.leader_changed(0, NodeId(2), 10**9)
    assert routing.preferred(0) == 2
    assert routing.suspected == {NodeId(3): cluster.clock.time}


def test_patience_follows_what_answers_take() -> None:
    times = ResponseTimes(0.25)
    for _ in range(200):
        times.note(0.002)
    assert times.patience_s == 0.25
    for _ in range(200):
        times.note(0.5)
    assert 0.5 < times.patience_s < 1.0
    times.lost_patience()
    assert times.patience_s > 1.0
    times.note(0.5)
    assert times.patience_s < 1.0


def test_a_suspected_node_is_asked_once_and_at_once_whether_it_lives() -> None:
    cluster = ModelCluster()
    cluster.clock.time += 0.5
    cluster.client.routing.suspected[NodeId(2)] = cluster.clock.time
    for _ in range(3):
        cluster.client.advance()
    pings = [request for request in cluster.others if isinstance(request.message, m.Ping)]
    assert [request.link.node for request in pings] == [2]


# Topics


def test_names_that_are_wanted_together_are_asked_together() -> None:
    cluster = ModelCluster(connect=False)
    cluster.connect(1)
    told: dict[str, Any] = {}
    for name in ("t", "u", "t"):
        cluster.client.when_topic(name, lambda error, name=name: told.__setitem__(name, error))
    cluster.client.flush()
    [asked] = [request.message for request in cluster.others if isinstance(request.message, m.Metadata)]
    assert asked.topics == ("t", "u")
    cluster.settle()
    assert told["t"] is None
    assert told["u"].code == "unknown-topic"


def test_a_node_that_does_not_know_the_topic_makes_us_ask_anew() -> None:
    cluster = ModelCluster()
    outcome, _ = cluster.publish(b"x")
    cluster.settle()
    del cluster.topics["t"]
    cluster.refuse(cluster.produces.pop(), "unknown-topic")  # it may just lag ...
    cluster.settle()
    assert not outcome.done
    assert "t" not in cluster.client.routing.topics  # ... but the others say so too
    cluster.pass_time(0.1)
    cluster.refuse(cluster.produces.pop(), "unknown-topic")
    assert outcome.error.code == "unknown-topic"


def test_a_node_that_has_not_heard_of_the_topic_yet_is_asked_again() -> None:
    cluster = ModelCluster()
    outcome, _ = cluster.publish(b"x")
    cluster.settle()
    cluster.refuse(cluster.produces.pop(), "unknown-topic")
    cluster.settle()
    cluster.pass_time(0.1)
    cluster.serve()
    assert outcome.error is None
    assert cluster.values() == [b"x"]


def test_after_being_cut_off_the_topics_in_use_are_asked_for_again() -> None:
    cluster = ModelCluster()
    for node in (1, 2, 3):
        cluster.cut(node)
    cluster.partitions = 3
    cluster.connect(2)
    assert cluster.client.routing.topics["t"].partitions == 3


def test_a_topic_without_a_readable_limit_has_the_default() -> None:
    cluster = ModelCluster()
    cluster.config = {"max_batch_bytes": "many"}
    cluster.client.topic_told(cluster.topic("t"))
    assert cluster.client.routing.topics["t"].batch_bytes_max == 2**20
    cluster.config = {"max_batch_bytes": "5000"}
    cluster.client.topic_told(cluster.topic("t"))
    assert cluster.client.routing.topics["t"].batch_bytes_max == 5_000


# Questions


class Question:
    def __init__(self, cluster: ModelCluster, timeout_s: float = 5.0) -> None:
        self.cluster = cluster
        self.answers: list[Any] = []
        self.repeated = False
        cluster.client.ask(m.DeleteTopic("t"), self._done, judge=self._judge, timeout_s=timeout_s)
        cluster.settle()

    def _done(self, ask: Ask, answer: Any, _: memoryview) -> None:
        self.answers.append(answer)
        self.repeated = ask.repeated

    def _judge(self, answer: Any) -> CorgiError | None:
        return CorgiError("overloaded") if answer.error else None

    def open(self) -> Any:
        """The request that is out."""
        [request] = [
            r for link in self.cluster.links.values() for r in link.open if isinstance(r.message, m.DeleteTopic)
        ]
        return request


ANSWER = m.TopicReply(0, "", None)
BUSY = m.TopicReply(BY_CODE["overloaded"].number, "", None)


def test_a_question_is_answered() -> None:
    question = Question(ModelCluster())
    question.open().reply(ANSWER)
    assert question.answers == [ANSWER]
    assert not question.repeated


def test_a_refused_question_goes_to_another_node_after_a_pause() -> None:
    cluster = ModelCluster()
    question = Question(cluster)
    request = question.open()
    request.reply(BUSY)
    cluster.settle()
    cluster.pass_time(0.1)
    assert question.open().link.node != request.link.node
    question.open().reply(ANSWER)
    assert question.answers == [ANSWER]
    assert not question.repeated


def test_a_lost_question_is_asked_again_and_says_so() -> None:
    cluster = ModelCluster()
    question = Question(cluster)
    cluster.cut(question.open().link.node)
    cluster.settle()
    question.open().reply(ANSWER)
    assert question.answers == [ANSWER]
    assert question.repeated


def test_a_question_that_nothing_helps_ends_in_time_with_the_last_reason() -> None:
    cluster = ModelCluster()
    question = Question(cluster, timeout_s=2.0)
    for _ in range(100):
        for request in [r for link in cluster.links.values() for r in link.open]:
            request.reply(BUSY)
        cluster.pass_time(0.1)
    [error] = question.answers
    assert error.code == "overloaded"


def test_an_unanswered_question_times_out() -> None:
    cluster = ModelCluster()
    question = Question(cluster, timeout_s=2.0)
    cluster.pass_time(3.0)
    assert [error.code for error in question.answers] == ["timeout"]
    question.open().reply(ANSWER)  # too late
    assert len(question.answers) == 1


def test_without_any_node_a_question_ends_as_unreachable() -> None:
    cluster = ModelCluster(connect=False)
    question = Question(cluster, timeout_s=2.0)
    cluster.pass_time(3.0)
    assert [error.code for error in question.answers] == ["unreachable"]


# Pushes


def test_pushes_for_nobody_are_ignored() -> None:
    cluster = ModelCluster()
    link = cluster.links[1]
    for message in (
        m.Deliver(99, Offset(0), (1, 2)),
        m.SubscriptionEnded(99, 1),
        m.LeaderChanged(((77, NodeId(1), 5),)),
        m.TopicsChanged(("nobody-uses-it",)),
    ):
        cluster.client.pushed(link, message, NOTHING)
    assert cluster.cut_later == []


@pytest.mark.parametrize("answer", [m.Pong(), m.ProduceReply(()), CorgiError("malformed-frame")])
def test_an_answer_that_is_none_is_a_refusal(answer: Any) -> None:
    cluster = ModelCluster()
    outcome, _ = cluster.publish(b"x")
    cluster.settle()
    cluster.produces.pop().reply(answer)
    cluster.settle()
    cluster.pass_time(1.0)
    cluster.serve()
    assert outcome.done
