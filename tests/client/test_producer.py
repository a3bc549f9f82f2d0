"""The client's producer against nodes that die, refuse, forget to answer and disagree about who leads."""

from __future__ import annotations

from typing import Any

import pytest
from tests.client.model import ModelCluster

from corgi.base.batch import parse_header
from corgi.base.errors import BY_CODE, CorgiError
from corgi.base.ids import Offset
from corgi.client.core.batch import EPOCH_MAX, Identity
from corgi.client.core.options import ACKS, ClientOptions
from corgi.wire.messages import ProduceReply


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def outcome_of(handle: tuple[Any, int]) -> int:
    outcome, index = handle
    assert outcome.done
    if outcome.error is not None:
        raise outcome.error
    return int(outcome.base_offset) + index


def one_flight_each(cluster: ModelCluster, values: list[bytes]) -> list[tuple[Any, int]]:
    """Publish each value in a batch of its own."""
    handles = []
    for value in values:
        handles.append(cluster.publish(value))
        cluster.settle()
    return handles


def test_a_record_is_acknowledged_with_its_offset() -> None:
    cluster = ModelCluster()
    first = cluster.publish(b"a")
    second = cluster.publish(b"b")
    cluster.settle()
    assert len(cluster.produces) == 1  # both in one batch
    cluster.serve()
    assert (outcome_of(first), outcome_of(second)) == (0, 1)
    assert cluster.values() == [b"a", b"b"]


def test_a_request_goes_to_the_leader_of_the_partitions_group() -> None:
    cluster = ModelCluster(partitions=3)
    for partition in range(3):
        cluster.publish(b"x", partition)
    cluster.settle()
    assert sorted(request.link.node for request in cluster.produces) == [1, 2, 3]


def test_nothing_lingers_and_the_load_makes_the_batches() -> None:
    cluster = ModelCluster(options=ClientOptions(requests_in_flight=2))
    one_flight_each(cluster, numbered(10))
    assert len(cluster.produces) == 2
    request = cluster.produces.pop(0)
    request.reply(cluster.apply(request))
    cluster.settle()
    waiting = cluster.produces[-1]
    assert parse_header(waiting.payload).record_count == 8
    cluster.serve()
    assert cluster.values() == numbered(10)


def test_a_lost_connection_sends_again_in_order_through_the_next_replica_at_once() -> None:
    cluster = ModelCluster()
    handles = one_flight_each(cluster, numbered(3))
    assert [request.link.node for request in cluster.produces] == [1, 1, 1]
    cluster.produces.clear()  # lost with the node
    cluster.cut(1)
    cluster.settle()
    assert {request.link.node for request in cluster.produces} == {2}  # no time has passed
    cluster.serve()
    assert cluster.values() == numbered(3)
    assert [outcome_of(handle) for handle in handles] == [0, 1, 2]


def test_what_the_dead_node_had_stored_is_not_stored_twice() -> None:
    cluster = ModelCluster()
    handles = one_flight_each(cluster, numbered(3))
    for request in cluster.produces:
        cluster.apply(request)  # chosen, but the answer dies with the connection
    cluster.produces.clear()
    cluster.cut(1)
    cluster.settle()
    cluster.serve()
    assert cluster.values() == numbered(3)
    assert [outcome_of(handle) for handle in handles] == [0, 1, 2]


def test_a_gap_left_by_the_dead_node_is_closed_by_resending() -> None:
    cluster = ModelCluster()
    handles = one_flight_each(cluster, numbered(3))
    first, second, third = cluster.produces
    cluster.produces.clear()
    second.reply(cluster.apply(second))  # the first was lost between nodes: a gap
    third.reply(cluster.apply(third))
    cluster.settle()
    assert cluster.values() == []
    cluster.publish(b"3")
    cluster.settle()
    assert cluster.produces == []  # nothing is sent while a sending is unanswered
    cluster.refuse(first, "unsettled")
    cluster.settle()
    cluster.pass_time(1.0)
    cluster.serve()
    assert cluster.values() == numbered(4)
    assert [outcome_of(handle) for handle in handles] == [0, 1, 2]


def test_a_refusal_for_the_moment_is_retried_after_a_growing_pause() -> None:
    cluster = ModelCluster()
    handle = cluster.publish(b"a")
    cluster.settle()
    pauses = []
    for _ in range(4):
        cluster.refuse(cluster.produces.pop(), "overloaded")
        cluster.settle()
        assert cluster.produces == []
        before = cluster.clock.time
        while not cluster.produces:
            due = cluster.client.next_deadline()
            assert due is not None
            cluster.clock.time = max(due, cluster.clock.time)
            cluster.client.advance()
            cluster.settle()
        pauses.append(cluster.clock.time - before)
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 4 * pauses[0]
    cluster.serve()
    assert outcome_of(handle) == 0


def test_when_nodes_cannot_each_of_the_others_is_tried() -> None:
    cluster = ModelCluster()
    handle = cluster.publish(b"a")
    cluster.settle()
    asked = []
    for _ in range(6):
        request = cluster.produces.pop()
        asked.append(request.link.node)
        cluster.refuse(request, "no-quorum")
        cluster.settle()
        while not cluster.produces:
            cluster.pass_time(0.02)
    assert asked == [1, 2, 3, 1, 2, 3]
    cluster.serve()
    assert outcome_of(handle) == 0
    cluster.publish(b"b")
    cluster.settle()
    assert cluster.produces[-1].link.node == 1


def test_a_new_leader_gets_the_next_batch_only_when_the_old_one_has_answered() -> None:
    cluster = ModelCluster()
    handles = [cluster.publish(b"0")]
    cluster.settle()
    cluster.lead(0, 3)
    handles.append(cluster.publish(b"1"))
    cluster.settle()
    (first,) = cluster.produces
    cluster.produces.clear()
    first.reply(cluster.apply(first))
    cluster.settle()
    assert [request.link.node for request in cluster.produces] == [3]
    cluster.serve()
    assert cluster.values() == [b"0", b"1"]
    assert [outcome_of(handle) for handle in handles] == [0, 1]


def test_a_silent_node_is_not_waited_for() -> None:
    cluster = ModelCluster()
    handle = cluster.publish(b"a")
    cluster.settle()
    (stuck,) = cluster.produces
    cluster.produces.clear()
    cluster.clock.time += 0.3  # and nothing was heard of it
    cluster.client.advance()
    cluster.settle()
    assert [request.link.node for request in cluster.produces] == [2]
    cluster.serve()
    assert outcome_of(handle) == 0
    stuck.reply(cluster.apply(stuck))  # it wakes up: recognised, and no harm done
    cluster.settle()
    assert cluster.values() == [b"a"]
    assert cluster.client.producer.buffered == 0


def test_a_late_refusal_from_a_node_given_up_decides_nothing() -> None:
    cluster = ModelCluster()
    handle = cluster.publish(b"a")
    cluster.settle()
    (stuck,) = cluster.produces
    cluster.clock.time += 0.3
    cluster.client.advance()
    cluster.settle()
    cluster.refuse(stuck, "not-leader")
    cluster.settle()
    cluster.pass_time(0.1)
    assert len(cluster.produces) == 2  # it was not sent a third time
    cluster.serve()
    assert outcome_of(handle) == 0


def test_a_slow_node_that_is_heard_is_waited_for() -> None:
    cluster = ModelCluster()
    cluster.publish(b"a")
    cluster.settle()
    for _ in range(20):
        cluster.clock.time += 0.1
        cluster.links[1].heard = cluster.clock.time
        cluster.client.advance()
        cluster.settle()
    assert len(cluster.produces) == 1


def test_who_was_asked_because_the_leader_refused_is_not_waited_for() -> None:
    """The leader refuses while it takes over; the next node answers pings and nothing else, for nobody hears it."""
    cluster = ModelCluster()
    handle = cluster.publish(b"a")
    cluster.settle()
    cluster.refuse(cluster.produces.pop(), "no-quorum")
    cluster.settle()
    cluster.pass_time(0.1)
    assert [request.link.node for request in cluster.produces] == [2]
    cluster.produces.clear()
    for _ in range(8):
        cluster.clock.time += 0.1
        for link in cluster.links.values():
            link.heard = cluster.clock.time
        cluster.client.advance()
        cluster.settle()
    assert [request.link.node for request in cluster.produces][:1] == [3]
    cluster.serve()
    assert outcome_of(handle) == 0


def test_a_node_that_leads_no_longer_is_not_waited_for() -> None:
    cluster = ModelCluster()
    handle = cluster.publish(b"a")
    cluster.settle()
    cluster.produces.clear()
    cluster.lead(0, 2)
    for _ in range(4):
        cluster.clock.time += 0.1
        cluster.links[1].heard = cluster.clock.time
        cluster.client.advance()
        cluster.settle()
    cluster.serve()
    assert outcome_of(handle) == 0


def test_nothing_is_left_at_a_node_that_was_not_waited_for() -> None:
    """One look moves all that it should answer no more: patience doubles with each."""
    cluster = ModelCluster(partitions=4)
    handles = []
    for partition in (0, 3, 0, 3):
        handles.append(cluster.publish(b"a", partition))
        cluster.settle()
        cluster.clock.time += 0.05
    cluster.produces.clear()
    cluster.lead(0, 2)
    cluster.lead(3, 2)
    cluster.clock.time += 0.1
    cluster.links[1].heard = cluster.clock.time
    cluster.client.advance()
    cluster.settle()
    assert {request.link.node for request in cluster.produces} == {2}
    cluster.serve()
    assert [outcome_of(handle) for handle in handles] == [0, 0, 1, 1]


def test_an_unknown_outcome_is_told_in_time_and_later_records_keep_their_place() -> None:
    cluster = ModelCluster(options=ClientOptions(publish_timeout_s=1.0))
    lost = cluster.publish(b"lost")
    cluster.settle()
    for node in (1, 2, 3):
        cluster.cut(node)
    cluster.produces.clear()
    cluster.pass_time(2.0)
    with pytest.raises(CorgiError) as caught:
        outcome_of(lost)
    assert caught.value.code == "unreachable"
    later = cluster.publish(b"later")
    cluster.pass_time(0.5)
    cluster.connect(2)
    cluster.serve()
    # The first one may be stored or not; here it is, and in its place.
    assert cluster.values() == [b"lost", b"later"]
    assert outcome_of(later) == 1
    assert cluster.client.producer.buffered == 0


def test_a_record_that_was_never_sent_is_dropped_when_its_time_is_up() -> None:
    cluster = ModelCluster(options=ClientOptions(publish_timeout_s=1.0))
    for node in (1, 2, 3):
        cluster.cut(node)
    handle = cluster.publish(b"never")
    cluster.pass_time(2.0)
    with pytest.raises(CorgiError, match="never sent"):
        outcome_of(handle)
    cluster.connect(1)
    assert cluster.serve() == 0
    assert cluster.values() == []


def test_after_a_refusal_for_good_the_others_go_on_under_a_new_identity() -> None:
    cluster = ModelCluster()
    handles = one_flight_each(cluster, numbered(3))
    first, second, third = cluster.produces
    cluster.produces.clear()
    cluster.refuse(first, "record-too-large")
    second.reply(cluster.apply(second))
    third.reply(cluster.apply(third))
    cluster.settle()
    cluster.pass_time(1.0)
    cluster.serve()
    with pytest.raises(CorgiError) as caught:
        outcome_of(handles[0])
    assert caught.value.code == "record-too-large"
    assert cluster.values() == [b"1", b"2"]
    assert [outcome_of(handle) for handle in handles[1:]] == [0, 1]
    assert cluster.producer_ids == 1  # the same id in its next epoch: nobody has to be asked


def test_a_late_copy_of_a_refused_batch_is_shut_out_by_what_came_after_it() -> None:
    cluster = ModelCluster()
    (refused,) = one_flight_each(cluster, [b"refused"])
    (late,) = cluster.produces
    cluster.produces.clear()
    cluster.cut(1)  # it is still on its way
    cluster.settle()
    (again,) = cluster.produces
    cluster.produces.clear()
    cluster.refuse(again, "record-too-large")
    cluster.settle()
    after = cluster.publish(b"after")
    cluster.settle()
    cluster.pass_time(1.0)
    cluster.serve()
    assert outcome_of(after) == 0
    (answer,) = cluster.apply(late).results
    assert answer[0] == BY_CODE["producer-fenced"].number
    assert cluster.values() == [b"after"]
    with pytest.raises(CorgiError) as caught:
        outcome_of(refused)
    assert caught.value.code == "outcome-unknown"


def test_when_the_epochs_of_an_id_are_used_up_there_is_another_id() -> None:
    cluster = ModelCluster()
    one_flight_each(cluster, [b"0"])
    cluster.serve()
    queue = next(iter(cluster.client.producer.sender._queues.values()))
    queue.identity = Identity(queue.identity.producer_id, EPOCH_MAX)
    cluster.logs[0].epochs[queue.identity.producer_id] = EPOCH_MAX
    one_flight_each(cluster, [b"1", b"2"])
    first, second = cluster.produces
    cluster.produces.clear()
    cluster.refuse(first, "record-too-large")
    second.reply(cluster.apply(second))
    cluster.settle()
    cluster.pass_time(1.0)
    cluster.serve()
    assert cluster.values() == [b"0", b"2"]
    assert cluster.producer_ids == 2


def test_a_refusal_after_an_unknown_outcome_leaves_what_may_depend_on_it_unknown() -> None:
    cluster = ModelCluster()
    handles = one_flight_each(cluster, numbered(2))
    cluster.produces.clear()
    cluster.cut(1)  # both unknown now
    cluster.settle()
    (again,) = cluster.produces
    cluster.produces.clear()
    too_large, gap = BY_CODE["record-too-large"].number, BY_CODE["out-of-order-sequence"].number
    again.reply(ProduceReply(((too_large, Offset(-1), -1), (gap, Offset(-1), -1))))
    cluster.settle()
    for handle in handles:
        with pytest.raises(CorgiError) as caught:
            outcome_of(handle)
        assert caught.value.code == "outcome-unknown"
    later = cluster.publish(b"later")
    cluster.pass_time(1.0)
    cluster.serve()
    assert outcome_of(later) == 0


def test_what_may_be_stored_lands_under_its_old_identity_before_the_others_get_a_new_one() -> None:
    cluster = ModelCluster()
    handles = one_flight_each(cluster, numbered(1))
    (stored,) = cluster.produces
    cluster.produces.clear()
    cluster.apply(stored)
    cluster.cut(1)  # unknown, though stored
    handles += one_flight_each(cluster, [b"1", b"2"])
    first, second, third = cluster.produces
    cluster.produces.clear()
    cluster.refuse(second, "record-too-large")
    cluster.refuse(first, "not-leader")
    third.reply(cluster.apply(third))
    cluster.settle()
    cluster.pass_time(1.0)
    cluster.serve()
    cluster.pass_time(1.0)
    cluster.serve()
    assert cluster.values() == [b"0", b"2"]
    assert outcome_of(handles[0]) == 0
    assert outcome_of(handles[2]) == 1


def test_a_forgotten_producer_gets_a_new_identity_without_anybody_noticing() -> None:
    cluster = ModelCluster()
    cluster.publish(b"0")
    cluster.settle()
    cluster.serve()
    log = cluster.logs[0]
    log.next.clear()  # expired on the cluster's side
    log.window.clear()
    handle = cluster.publish(b"1")
    cluster.settle()
    for _ in range(6):
        cluster.serve()
        cluster.pass_time(0.2)
    assert outcome_of(handle) == 1
    assert cluster.values() == [b"0", b"1"]


def test_a_leaders_acknowledgement_is_not_repeated_after_an_unknown_outcome() -> None:
    cluster = ModelCluster()
    handle = cluster.publish(b"a", acks=ACKS["leader"])
    cluster.settle()
    assert parse_header(cluster.produces[0].payload).producer_id == -1
    cluster.cut(1)
    cluster.settle()
    assert len(cluster.produces) == 1  # only the first
    with pytest.raises(CorgiError) as caught:
        outcome_of(handle)
    assert caught.value.code == "outcome-unknown"


def test_without_acknowledgement_the_outcome_is_known_when_it_is_sent() -> None:
    cluster = ModelCluster()
    outcome, _ = cluster.publish(b"a", acks=ACKS["none"])
    cluster.settle()
    assert outcome.done
    assert outcome.base_offset == -1
    (produce, _), *_ = cluster.links[1].told
    assert produce.acks == 0


def test_what_is_buffered_is_bounded_and_room_is_told() -> None:
    cluster = ModelCluster(options=ClientOptions(buffer_bytes=4_096, batch_bytes=1_024))
    while not cluster.client.producer.full:
        cluster.publish(b"x" * 100)
    with pytest.raises(CorgiError) as caught:
        cluster.publish(b"x")
    assert caught.value.code == "overloaded"
    assert "ready" in caught.value.hint
    room: list[bool] = []
    cluster.client.producer.when_room(lambda: room.append(True))
    assert not room
    cluster.settle()
    cluster.serve()
    assert room == [True]
    assert cluster.client.producer.buffered == 0


def test_a_full_socket_holds_batches_back_until_it_drains() -> None:
    cluster = ModelCluster()
    cluster.links[1].backlog = 64 * 2**20
    handle = cluster.publish(b"a")
    cluster.settle()
    assert cluster.produces == []
    cluster.links[1].backlog = 0
    cluster.client.link_drained(cluster.links[1])
    cluster.settle()
    cluster.serve()
    assert outcome_of(handle) == 0


def test_a_record_larger_than_the_topic_allows_is_refused_at_once() -> None:
    cluster = ModelCluster()
    with pytest.raises(CorgiError) as caught:
        cluster.publish(b"x" * 2**21)
    assert caught.value.code == "record-too-large"
    handle = cluster.publish(b"x" * (2**20 - 100))  # larger than a batch usually gets, but allowed
    cluster.settle()
    cluster.serve()
    assert outcome_of(handle) == 0


def test_records_of_an_unknown_topic_wait_for_its_metadata() -> None:
    cluster = ModelCluster(connect=False)
    handle = cluster.publish(b"early")
    cluster.client.flush()
    cluster.connect_all()
    cluster.settle()
    cluster.serve()
    assert outcome_of(handle) == 0


def test_a_record_waits_for_its_topic_until_its_own_time_is_up() -> None:
    """The question about the topic gives up earlier than the record does; it is asked again."""
    cluster = ModelCluster(connect=False, options=ClientOptions(request_timeout_s=3.0, publish_timeout_s=30.0))
    early, late = cluster.publish(b"early"), None
    cluster.pass_time(10.0)
    assert not early[0].done
    late = cluster.publish(b"late")
    cluster.pass_time(21.0)
    with pytest.raises(CorgiError, match="never sent") as caught:
        outcome_of(early)
    assert caught.value.code == "unreachable"
    cluster.connect_all()
    cluster.settle()
    cluster.serve()
    assert outcome_of(late) == 0
    assert cluster.client.producer.buffered == 0


def test_records_of_a_topic_that_does_not_exist_fail() -> None:
    cluster = ModelCluster()
    handle = cluster.client.producer.publish("nowhere", None, b"x", None, 7)
    cluster.settle()
    with pytest.raises(CorgiError) as caught:
        outcome_of(handle)
    assert caught.value.code == "unknown-topic"
    assert "nowhere" in str(caught.value)
    assert cluster.client.producer.buffered == 0


def test_closing_gives_everything_an_outcome() -> None:
    cluster = ModelCluster()
    sent = cluster.publish(b"sent")
    cluster.settle()
    waiting = [cluster.publish(b"waiting") for _ in range(3)]
    deferred = cluster.client.producer.publish("unheard", None, b"x", None, 7)
    cluster.client.close()
    with pytest.raises(CorgiError, match="before the answer"):
        outcome_of(sent)
    for handle in (*waiting, deferred):
        with pytest.raises(CorgiError) as caught:
            outcome_of(handle)
        assert caught.value.code == "closed"


def test_at_most_five_batches_of_a_partition_fly() -> None:
    cluster = ModelCluster(options=ClientOptions(batch_bytes=1_024, requests_in_flight=50))
    for _ in range(40):
        cluster.publish(b"x" * 900)
    cluster.settle()
    assert sum(len(request.message.batches) for request in cluster.produces) == 5
    cluster.serve()
    assert len(cluster.values()) == 40


def test_sequence_numbers_start_anew_before_they_run_out() -> None:
    cluster = ModelCluster()
    cluster.publish(b"0")
    cluster.settle()
    cluster.serve()
    queue = next(iter(cluster.client.producer.sender._queues.values()))
    queue.next_sequence = 2**31 - 2
    for number in range(3):
        cluster.publish(b"%d" % number)
    cluster.settle()
    cluster.serve()
    assert cluster.values() == [b"0", b"0", b"1", b"2"]
    assert queue.identity.epoch == 1
