"""The receiver: the same frames however the bytes are cut, bounded memory whatever is claimed, broken stays broken."""

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.base.errors import CorgiError
from corgi.base.limits import FRAME_BYTES_MAX, HEADER_BYTES_MAX, HELLO_BYTES_MAX, KIB, MIB
from corgi.wire.frame import FRAME, Frame, encode_frame
from corgi.wire.messages import Hello, Ping
from corgi.wire.outbox import JOIN_BYTES, Outbox
from corgi.wire.receiver import EAGER_BYTES, SCRATCH_BYTES, SMALL_BYTES, Receiver, Scratch


def frame(payload: bytes, correlation: int = 1, kind: int = 14) -> bytes:
    return encode_frame(kind, Ping(), correlation, len(payload)) + payload


def greeted(scratch: Scratch | None = None) -> Receiver:
    """A receiver that has its first frame behind it."""
    receiver = Receiver(scratch or Scratch())
    assert len(receiver.feed(frame(b""))) == 1
    return receiver


def told(frames: list[Frame]) -> list[tuple[int, int, bytes, bytes]]:
    return [(f.type, f.correlation, bytes(f.header), bytes(f.payload)) for f in frames]


SIZES = [0, 1, 61, 4000, SMALL_BYTES - 17, SMALL_BYTES - 16, EAGER_BYTES, SCRATCH_BYTES, 3 * SCRATCH_BYTES]


@given(st.lists(st.sampled_from(SIZES), max_size=6), st.integers())
def test_frames_are_the_same_however_the_bytes_arrive(sizes: list[int], seed: int) -> None:
    chance = random.Random(seed)
    payloads = [chance.randbytes(size) for size in sizes]
    stream = frame(b"hello") + b"".join(frame(payload, n) for n, payload in enumerate(payloads))
    receiver = Receiver(Scratch())
    got: list[Frame] = []
    at = 0
    while at < len(stream):
        step = min(chance.choice([1, 3, 16, 17, 700, 40_000, 10**6]), len(stream) - at)
        got += receiver.feed(stream[at : at + step])
        at += step
    assert [f.payload for f in got] == [b"hello", *payloads]
    assert [f.correlation for f in got] == [1, *range(len(payloads))]
    assert all(bytes(f.header) == b"\x90" and f.type == 14 for f in got)
    assert receiver.failure is None
    assert receiver.held() == 0


def test_connections_share_a_scratch_and_do_not_mix() -> None:
    scratch = Scratch()
    chance = random.Random(5)
    receivers = [greeted(scratch) for _ in range(5)]
    payloads = [[chance.randbytes(chance.choice([10, 5_000, 50_000])) for _ in range(8)] for _ in receivers]
    streams = [b"".join(frame(payload) for payload in each) for each in payloads]
    got: list[list[bytes]] = [[] for _ in receivers]
    at = [0] * len(receivers)
    while any(at[i] < len(streams[i]) for i in range(len(receivers))):
        i = chance.randrange(len(receivers))
        buffer = receivers[i].get_buffer()
        step = min(chance.choice([1, 100, 9_000, 70_000]), len(streams[i]) - at[i], len(buffer))
        buffer[:step] = streams[i][at[i] : at[i] + step]
        got[i] += [bytes(f.payload) for f in receivers[i].received(step)]
        at[i] += step
    assert got == payloads


def test_a_frame_owns_its_bytes_and_nothing_else() -> None:
    receiver = greeted()
    first, second = receiver.feed(frame(b"a" * 100) + frame(b"b" * 100))
    receiver.feed(b"z" * 100)
    assert bytes(first.payload) == b"a" * 100
    assert len(first.payload.obj) == FRAME.size + 1 + 100
    assert first.payload.obj is not second.payload.obj
    receiver = greeted()
    (large,) = receiver.feed(frame(b"c" * MIB))
    assert len(large.payload.obj) == FRAME.size + 1 + MIB


@given(st.binary(max_size=300), st.booleans())
def test_garbage_never_raises_anything_but_the_failure(garbage: bytes, after_hello: bool) -> None:
    receiver = greeted() if after_hello else Receiver(Scratch())
    for byte in garbage:
        receiver.feed(bytes([byte]))
        if receiver.failure is not None:
            break
    whole = greeted() if after_hello else Receiver(Scratch())
    whole.feed(garbage)
    assert (whole.failure is None) == (receiver.failure is None)
    assert receiver.held() <= EAGER_BYTES


@pytest.mark.parametrize(
    ("prefix", "code"),
    [
        (b"GET / HTTP/1.1\r\n", "frame-too-large"),
        (b"\x16\x03\x01\x02\x00\x01", "frame-too-large"),  # a TLS greeting
        (b"\x00\x00\x00\x00", "malformed-frame"),  # shorter than a frame can be
        (b"\x00\x00\x00\x0b", "malformed-frame"),
        (b"\xff\xff\xff\xff", "frame-too-large"),
        (b"\x80\x00\x00\x00", "frame-too-large"),
        (FRAME.pack(12, 1, 1, 14, 0, 0), "malformed-frame"),  # a header longer than the frame
        (FRAME.pack(12, 1, 2**32 - 1, 14, 0, 0), "malformed-frame"),
        (FRAME.pack(13, 1, 1, 14, 1, 0) + b"\x90", "malformed-frame"),  # a flag nobody knows
        (FRAME.pack(13, 1, 1, 14, 0, 1) + b"\x90", "malformed-frame"),
        (FRAME.pack(FRAME_BYTES_MAX - 4, 1, HEADER_BYTES_MAX + 1, 14, 0, 0), "frame-too-large"),
        (FRAME.pack(FRAME_BYTES_MAX - 3, 1, 1, 14, 0, 0), "frame-too-large"),
    ],
)
def test_what_is_no_frame_breaks_the_receiver_for_good(prefix: bytes, code: str) -> None:
    receiver = greeted()
    frames = receiver.feed(frame(b"before") + prefix)
    assert [bytes(f.payload) for f in frames] == [b"before"]
    assert receiver.failure is not None
    assert receiver.failure.code == code
    assert receiver.held() == 0
    with pytest.raises(CorgiError, match=code):
        receiver.get_buffer()
    with pytest.raises(CorgiError, match=code):
        receiver.received(1)


def test_the_largest_frame_is_accepted() -> None:
    receiver = greeted()
    assert receiver.feed(FRAME.pack(FRAME_BYTES_MAX - 4, 1, 1, 14, 0, 0)) == []
    assert receiver.failure is None


def test_the_first_frame_is_small() -> None:
    payload = b"x" * (HELLO_BYTES_MAX - FRAME.size - 1)
    assert len(Receiver(Scratch()).feed(frame(payload))) == 1
    receiver = Receiver(Scratch())
    assert receiver.feed(frame(payload + b"x")[:16]) == []
    assert receiver.failure is not None
    assert receiver.failure.code == "frame-too-large"
    hello = encode_frame(Hello.TYPE, Hello(1, 1), 1, 0)
    assert len(Receiver(Scratch()).feed(hello + frame(b"y" * HELLO_BYTES_MAX))) == 2


def traced(receivers: int, bytes_each: bytes, *, hello: bool) -> float:
    """Bytes of memory that each of many connections costs after ``bytes_each`` arrived one by one."""
    scratch = Scratch()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = []
        for _ in range(receivers):
            receiver = greeted(scratch) if hello else Receiver(scratch)
            for at in range(0, len(bytes_each), 50):
                receiver.feed(bytes_each[at : at + 50])
            kept.append(receiver)
        return (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    finally:
        tracemalloc.stop()


def test_a_connection_costs_next_to_nothing_before_its_hello() -> None:
    dribble = FRAME.pack(HELLO_BYTES_MAX - 4, 1, 1, 1, 0, 0) + b"x" * (HELLO_BYTES_MAX - 20)
    assert traced(20, b"", hello=False) < 2 * KIB
    assert traced(20, dribble[:-1], hello=False) < 8 * KIB
    assert traced(5, b"\x7f\xff\xff\xff" + b"x" * 1000, hello=False) < 4 * KIB


def test_a_claim_costs_little_until_its_bytes_arrive() -> None:
    claim = FRAME.pack(FRAME_BYTES_MAX - 4, 1, 1, 14, 0, 0)
    assert traced(5, claim + b"x" * 1000, hello=True) < EAGER_BYTES + 4 * KIB
    assert traced(1, claim + b"x" * 100_000, hello=True) < 4 * 100_000 + EAGER_BYTES


def test_a_connection_without_an_incomplete_frame_holds_no_buffer() -> None:
    assert traced(20, frame(b"x" * 10_000) * 3, hello=True) < 2 * KIB


@given(st.lists(st.binary(max_size=2 * JOIN_BYTES), max_size=12))
def test_the_outbox_keeps_bytes_and_order_and_does_not_copy_large_payloads(payloads: list[bytes]) -> None:
    outbox = Outbox()
    for number, payload in enumerate(payloads):
        outbox.put(bytes([number]), (payload,))
    joined = b"".join(bytes([number]) + payload for number, payload in enumerate(payloads))
    assert outbox.bytes == len(joined)
    buffers = outbox.take()
    assert b"".join(buffers) == joined
    assert (outbox.bytes, outbox.take()) == (0, [])
    for payload in payloads:
        if len(payload) >= JOIN_BYTES:
            assert any(buffer is payload for buffer in buffers)
