"""Numbers that make no sense are refused by name, every request is answered once, and nobody else is touched."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corgi.base import errors
from corgi.base.errors import CorgiError, InvariantError
from corgi.base.ids import Offset, TopicId
from corgi.wire import messages as m
from one_node import OneNode, a_batch

BATCH = a_batch(b"v")
GOOD: list[tuple[m.WireMessage, dict[str, tuple[int, ...]]]] = [
    (m.Produce(2, 1000, ((16, 0, len(BATCH)),)), {"acks": (-1, 3, 2**31, 2**63), "timeout_ms": (0, -1, 2**31, 2**63)}),
    (
        m.Fetch(0, 1, 1000, ((16, 0, 0, 100),)),
        {"wait_ms": (-1, 2**31, 2**63), "bytes_min": (-1, 2**31, 2**63), "bytes_max": (0, -1, 2**31, 2**63)},
    ),
    (
        m.Subscribe(1, 16, 0, 0, 1000),
        {"subscription": (-1, 2**32, 2**63), "offset": (-1, 2**63), "credit": (0, -1, 2**31, 2**63)},
    ),
    (m.CreateTopic("n", 1), {"partitions": (0, -1, 2**31, 2**63), "timeout_ms": (0, -1, 2**31, 2**63)}),
    (m.AlterTopic("t"), {"partitions": (-1, 2**31, 2**63), "timeout_ms": (0, -1, 2**31, 2**63)}),
    (m.DeleteTopic("t"), {"timeout_ms": (0, -1, 2**31, 2**63)}),
    (m.DeleteRecords(((16, 0, 0),)), {"timeout_ms": (0, -1, 2**31, 2**63)}),
    (m.ListOffsets(((16, 0, -2),)), {"timeout_ms": (0, -1, 2**31, 2**63)}),
]
CASES = [(message, field, value) for message, fields in GOOD for field, values in fields.items() for value in values]


@pytest.mark.parametrize(
    ("message", "field", "value"), CASES, ids=[f"{type(c[0]).__name__}.{c[1]}={c[2]}" for c in CASES]
)
def test_a_number_out_of_range_is_refused_by_name(message: m.WireMessage, field: str, value: int) -> None:
    node = OneNode(groups=1)
    assert node.create() == 16
    client = node.client()
    reply = client.call(msgspec.structs.replace(message, **{field: value}), BATCH)
    assert isinstance(reply, m.ErrorReply)
    assert reply.error == errors.INVALID_ARGUMENT
    assert field in reply.message
    assert str(value) in reply.message
    assert client.call(m.Ping()) == m.Pong()


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (m.Produce(2, 1000, ()), "batches"),
        (m.Produce(2, 1000, ((16, 0, -5), (16, 0, len(BATCH) + 5))), "-5"),
        (m.Produce(2, 1000, ((16, 0, 2**63),)), str(2**63)),
        (m.Fetch(0, 1, 1000, ()), "partitions"),
        (m.Fetch(0, 1, 1000, ((16, 0, -1, 100),)), "offset"),
        (m.Fetch(0, 1, 1000, ((16, 0, 0, 0),)), "bytes wanted"),
        (m.ListOffsets(((16, 0, -4),)), "time"),
        (m.ListOffsets(()), "partitions"),
        (m.Pong(), "Pong"),
    ],
)
def test_lists_are_checked_too(message: m.WireMessage, word: str) -> None:
    node = OneNode(groups=1)
    node.create()
    reply = node.client().call(message, BATCH)
    assert isinstance(reply, m.ErrorReply)
    assert reply.error == errors.INVALID_ARGUMENT
    assert word in reply.message


def test_bad_grants_are_not_answered() -> None:
    node = OneNode(groups=1)
    client = node.client()
    client.ask(m.Credit(()))
    client.ask(m.Credit(((2**63, 2**63), (-1, -1))))
    node.turns()
    assert not client.replies
    with pytest.raises(AssertionError, match="failed"):
        client.ask(m.Credit(((1, 1),) * 20_000))


def test_a_fault_of_our_own_is_no_answer_but_goes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    node = OneNode(groups=1)
    client = node.client()

    def broken(*_: Any) -> None:
        raise InvariantError("this cannot be")

    monkeypatch.setattr(node.requests, "_handlers", {m.Ping: broken})
    with pytest.raises(InvariantError):
        client.ask(m.Ping())

    def refused(*_: Any) -> None:
        raise CorgiError("recovering", "not now")

    monkeypatch.setattr(node.requests, "_handlers", {m.Ping: refused})
    assert client.call(m.Ping()) == m.ErrorReply(errors.RECOVERING, "not now")


NUMBERS = st.sampled_from([0, 1, -1, 2, 15, 16, 17, 100, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, -(2**63)])
SMALL = st.one_of(NUMBERS, st.integers(0, 3))
PLACES = st.lists(st.tuples(SMALL, SMALL, SMALL), max_size=3).map(tuple)
REQUESTS = st.one_of(
    st.builds(m.Produce, SMALL, NUMBERS, PLACES),
    st.builds(
        m.Fetch, SMALL, NUMBERS, NUMBERS, st.lists(st.tuples(SMALL, SMALL, SMALL, NUMBERS), max_size=3).map(tuple)
    ),
    st.builds(m.Subscribe, SMALL, st.one_of(st.just(16), NUMBERS), SMALL, SMALL, NUMBERS),
    st.builds(m.Credit, st.lists(st.tuples(SMALL, NUMBERS), max_size=3).map(tuple)),
    st.builds(m.Unsubscribe, SMALL),
    st.builds(m.Metadata, st.one_of(st.none(), st.lists(st.text(max_size=5), max_size=3).map(tuple)), st.booleans()),
    st.builds(m.CreateTopic, st.text(max_size=5), NUMBERS, anchor=SMALL, timeout_ms=NUMBERS),
    st.builds(m.AlterTopic, st.sampled_from(["t", "u"]), SMALL, timeout_ms=NUMBERS),
    st.builds(m.ListOffsets, PLACES, NUMBERS),
    st.builds(m.InitProducer),
    st.builds(m.Status),
    st.builds(m.Ping),
)


@example([(m.Subscribe(0, TopicId(16), 0, Offset(1), 1), b""), (m.Unsubscribe(0), b"")])
@given(st.lists(st.tuples(REQUESTS, st.sampled_from([b"", BATCH, b"x" * 61, b"\xff" * 200])), max_size=12))
def test_any_requests_are_answered_once_and_the_node_goes_on(asked: list[tuple[m.WireMessage, bytes]]) -> None:
    node = OneNode(groups=2)
    topic = node.create("t", 2)
    client, neighbour = node.client(), node.client()
    assert neighbour.call(m.Subscribe(1, topic, 0, 0, 10_000)).error == 0
    expected = set()
    for message, payload in asked:
        correlation = client.ask(message, payload)
        if not (isinstance(message, m.Credit) or (isinstance(message, m.Produce) and message.acks == 0)):
            expected.add(correlation)
    node.turns()
    node.wait(700.0)
    assert set(client.replies) == expected
    assert all(len(answers) == 1 for answers in client.replies.values())
    node.produce(topic, 0, b"the neighbour is unharmed")
    assert neighbour.delivered(1)[-1].value == b"the neighbour is unharmed"
    client.close()
    assert len(node.requests.polls) == 0
    assert node.requests.produces.bytes_in_flight == 0
