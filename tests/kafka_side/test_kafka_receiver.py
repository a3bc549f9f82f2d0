"""Kafka's framing: any cut of the stream gives the same requests, and memory follows what arrived."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.kafka.receiver import EAGER_BYTES, KafkaReceiver
from corgi.wire.receiver import Scratch

LIMIT = 1 << 20


def feed(receiver: KafkaReceiver, data: bytes, cut: int) -> list[bytes]:
    found = []
    view = memoryview(data)
    while view and receiver.failure is None:
        buffer = receiver.get_buffer()
        count = min(len(buffer), len(view), cut)
        buffer[:count] = view[:count]
        found += [bytes(frame.payload) for frame in receiver.received(count)]
        view = view[count:]
    return found


@given(st.lists(st.integers(8, 70_000), min_size=1, max_size=6), st.integers(1, 300_000))
def test_requests_come_out_as_they_went_in(sizes: list[int], cut: int) -> None:
    requests = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    stream = b"".join(struct.pack(">i", len(request)) + request for request in requests)
    if cut < 50:
        stream = stream[:20_000]
    receiver = KafkaReceiver(Scratch(), LIMIT)
    found = feed(receiver, stream, cut)
    assert found == requests[: len(found)]
    assert cut < 50 or len(found) == len(requests)


@pytest.mark.parametrize("size", [-1, 0, 7, LIMIT + 1, 2**31 - 1])
def test_a_size_that_cannot_be_ends_the_connection(size: int) -> None:
    receiver = KafkaReceiver(Scratch(), LIMIT)
    good = struct.pack(">i", 8) + b"x" * 8
    assert feed(receiver, good + struct.pack(">i", size) + b"y" * 20, 1 << 20) == [b"x" * 8]
    assert receiver.failure is not None


def test_who_announces_much_and_dribbles_costs_little() -> None:
    receiver = KafkaReceiver(Scratch(), 2**31 - 1)
    feed(receiver, struct.pack(">i", 2**31 - 1) + b"x" * 100, 10)
    assert receiver.held() <= EAGER_BYTES
    assert receiver.failure is None
