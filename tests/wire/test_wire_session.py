"""Both ends of a client conversation, connected by bytes alone; and everything a client may get wrong."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.base.errors import BY_NUMBER, CorgiError
from corgi.base.ids import NodeId, Offset, TopicId
from corgi.base.limits import FRAME_BYTES_MAX
from corgi.wire import messages as m
from corgi.wire.client_session import Answer, CallerSession
from corgi.wire.frame import Frame, encode_frame
from corgi.wire.receiver import Receiver, Scratch
from corgi.wire.session import Request, ServerSession

CLUSTER = bytes(range(16))
BATCH = b"b" * 61


class Pair:
    """A client and a node without a network between them."""

    def __init__(self, *, hello: bool = True) -> None:
        self.client = CallerSession(Scratch())
        self.server = ServerSession(CLUSTER, NodeId(3), "corgi test")
        self._receiver = Receiver(Scratch())
        if hello:
            self.client.hello("a test")
            assert self.up() == []
            assert self.server.version == m.NATIVE_VERSION
            self.down()

    def up(self) -> list[Request]:
        """Carry what the client wrote to the node: the requests it sees."""
        requests = []
        for buffer in self.client.outbox.take():
            for frame in self._receiver.feed(buffer):
                request = self.server.request(frame)
                if request is not None:
                    requests.append(request)
        return requests

    def down(self) -> list[Answer]:
        answers = []
        for buffer in self.server.outbox.take():
            view = memoryview(buffer)
            while view:
                into = self.client.get_buffer()
                count = min(len(into), len(view))
                into[:count] = view[:count]
                answers += self.client.received(count)
                view = view[count:]
        return answers


def frame_of(message: msgspec.Struct, correlation: int = 7, payload: bytes = b"") -> Frame:
    encoded = encode_frame(message.TYPE, message, correlation, len(payload))  # type: ignore[attr-defined]
    return Frame(encoded[12], correlation, memoryview(encoded)[16:], memoryview(payload))


def refusal(pair: Pair, frame: Frame) -> m.ErrorReply:
    """The error with which the node answers a request, going on afterwards."""
    assert pair.server.request(frame) is None
    (answer,) = pair.down()
    assert answer.correlation == frame.correlation
    assert isinstance(answer.message, m.ErrorReply)
    assert pair.server.request(frame_of(m.Ping())) is not None
    return answer.message


def test_hello_names_version_cluster_and_node() -> None:
    pair = Pair()
    assert pair.client.greeting == m.HelloReply(1, CLUSTER.hex(), NodeId(3), FRAME_BYTES_MAX, "corgi test")
    assert pair.server.peer_software == "a test"


def test_requests_answers_and_pushes_arrive_as_they_were_sent() -> None:
    pair = Pair()
    first = pair.client.request(m.Produce(2, 1000, ((TopicId(16), 0, 61), (TopicId(16), 5, 61))), (BATCH, BATCH))
    second = pair.client.request(m.Ping())
    pair.client.tell(m.Credit(((1, 1000),)))
    assert first != second
    produce, ping, credit = pair.up()
    assert produce == Request(first, m.Produce(2, 1000, ((TopicId(16), 0, 61), (TopicId(16), 5, 61))), BATCH * 2)
    assert ping == Request(second, m.Ping(), b"")
    assert credit == Request(0, m.Credit(((1, 1000),)), b"")
    pair.server.reply(second, m.Pong())
    pair.server.reply(0, m.Deliver(1, Offset(9), (3, 100_000)), (b"abc", memoryview(b"d" * 100_000)))
    pair.server.reply(first, m.ProduceReply(((0, Offset(4), 1), (0, Offset(9), 1))))
    pong, deliver, reply = pair.down()
    assert pong == Answer(second, m.Pong(), b"")
    assert deliver == Answer(0, m.Deliver(1, Offset(9), (3, 100_000)), b"abc" + b"d" * 100_000)
    assert reply == Answer(first, m.ProduceReply(((0, Offset(4), 1), (0, Offset(9), 1))), b"")


@pytest.mark.parametrize(("low", "high"), [(2, 9), (0, 0), (-5, -1), (5, 1)])
def test_versions_without_overlap_are_refused_in_words(low: int, high: int) -> None:
    pair = Pair(hello=False)
    with pytest.raises(CorgiError, match="unsupported-version") as caught:
        pair.server.request(frame_of(m.Hello(low, high)))
    pair.server.fail(caught.value)
    pair.down()
    assert pair.client.failure is not None
    assert pair.client.failure.code == "unsupported-version"
    assert str(high) in str(pair.client.failure)


def test_a_newer_client_is_met_at_our_version() -> None:
    pair = Pair(hello=False)
    pair.server.request(frame_of(m.Hello(1, 99)))
    assert pair.server.version == 1


@pytest.mark.parametrize("cluster", ["00" * 16, "no hex"])
def test_a_client_of_another_cluster_is_refused(cluster: str) -> None:
    with pytest.raises(CorgiError, match="wrong-cluster"):
        Pair(hello=False).server.request(frame_of(m.Hello(1, 1, cluster=cluster)))
    pair = Pair(hello=False)
    pair.server.request(frame_of(m.Hello(1, 1, cluster=CLUSTER.hex())))
    assert pair.server.version == 1


def test_nothing_is_taken_before_the_hello_and_no_second_one() -> None:
    with pytest.raises(CorgiError, match="starts with a Hello"):
        Pair(hello=False).server.request(frame_of(m.Ping()))
    assert BY_NUMBER[refusal(Pair(), frame_of(m.Hello(1, 1))).error].code == "malformed-frame"


def test_a_failed_session_takes_nothing_and_tells_once() -> None:
    pair = Pair()
    pair.server.fail(CorgiError("overloaded", "x" * 5000))
    pair.server.fail(CorgiError("closed"))
    with pytest.raises(CorgiError, match="closed"):
        pair.server.request(frame_of(m.Ping()))
    assert pair.down() == []
    assert pair.client.failure is not None
    assert pair.client.failure.code == "overloaded"
    assert len(pair.client.failure.message) == 1000


def test_an_unknown_request_is_refused_and_the_next_one_served() -> None:
    for kind in (0, 40, 63, 64, 128, 250, 255):
        message = refusal(Pair(), Frame(kind, 7, memoryview(b"\x90"), memoryview(b"")))
        assert BY_NUMBER[message.error].code == "unsupported-version"
    with pytest.raises(CorgiError, match="unsupported-version"):
        Pair().server.request(Frame(40, 0, memoryview(b"\x90"), memoryview(b"")))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\x93\x02\x00\xdd\xff\xff\xff\xff",  # four billion batches in five bytes
        b"\x93\x02\x00\xdc\xff\xff",
        b"\x93\xa1x\x00\x90",  # text for a number
        b"\x93\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x00\x90",  # 2^64 - 1
        b"\x94\x02\x00\x90" + b"\x91" * 100_000,  # nested beyond any sense, in a field that is skipped
    ],
)
def test_a_header_that_is_not_the_message_is_refused(header: bytes) -> None:
    message = refusal(Pair(), Frame(m.Produce.TYPE, 7, memoryview(header), memoryview(b"")))
    assert BY_NUMBER[message.error].code in {"malformed-frame", "invalid-argument"}


HUGE = [-1, 2**31, 2**63 - 1, -(2**63)]
SUSPECTS = [
    *[m.Produce(n, 0, ((TopicId(16), 0, 61),)) for n in (-1, 3, *HUGE)],
    *[m.Produce(2, n, ((TopicId(16), 0, 61),)) for n in HUGE],
    *[m.Produce(2, 0, ((TopicId(n), 0, 61),)) for n in (-1, 2**32, 2**63 - 1)],
    *[m.Produce(2, 0, ((TopicId(16), n, 61),)) for n in HUGE],
    *[m.Produce(2, 0, ((TopicId(16), 0, n),)) for n in (0, 60, 62, *HUGE)],
    m.Produce(2, 0, ((TopicId(16), 0, 122), (TopicId(16), 0, -61))),
    m.Produce(2, 0, ()),
    *[m.Fetch(n, 0, 1, ()) for n in HUGE],
    *[m.Fetch(0, n, 1, ()) for n in HUGE],
    *[m.Fetch(0, 0, n, ()) for n in HUGE],
    *[m.Fetch(0, 0, 1, ((TopicId(16), n, Offset(0), 1),)) for n in HUGE],
    *[m.Fetch(0, 0, 1, ((TopicId(16), 0, Offset(n), 1),)) for n in (-1, -(2**63))],
    *[m.Fetch(0, 0, 1, ((TopicId(16), 0, Offset(0), n),)) for n in HUGE],
    *[m.Subscribe(n, TopicId(16), 0, Offset(0), 1) for n in (-1, 2**32, 2**63 - 1)],
    *[m.Subscribe(1, TopicId(16), n, Offset(0), 1) for n in HUGE],
    *[m.Subscribe(1, TopicId(16), 0, Offset(n), 1) for n in (-1, -2)],
    *[m.Subscribe(1, TopicId(16), 0, Offset(0), n) for n in (-1, 2**63 - 1)],
    m.Unsubscribe(-1),
    m.Metadata(("n" * 2000,)),
    *[m.CreateTopic("t", n) for n in (0, 10_001, *HUGE)],
    m.CreateTopic("t" * 2000, 1),
    m.CreateTopic("t", 1, {str(n): "" for n in range(100)}),
    m.CreateTopic("t", 1, {"k": "v" * 2000}),
    m.CreateTopic("t", 1, colocate_with="c" * 2000),
    *[m.CreateTopic("t", 1, anchor=n) for n in (-2, 2**32, 2**63 - 1)],
    *[m.CreateTopic("t", 1, timeout_ms=n) for n in HUGE],
    *[m.AlterTopic("t", n) for n in (-1, 10_001)],
    m.AlterTopic("t", 0, {"k" * 2000: None}),
    m.DeleteTopic("t" * 2000),
    *[m.ListOffsets(((TopicId(16), 0, n),)) for n in (-4, -(2**63))],
    *[m.ListOffsets(((TopicId(n), 0, 0),)) for n in (-1, 2**32)],
    m.ListOffsets((), -1),
]


@pytest.mark.parametrize("message", SUSPECTS, ids=repr)
def test_numbers_out_of_range_are_refused_before_the_node_sees_them(message: m.WireMessage) -> None:
    payload = BATCH if isinstance(message, m.Produce) and message.batches else b""
    reply = refusal(Pair(), frame_of(message, 7, payload))
    assert BY_NUMBER[reply.error].code in {"malformed-frame", "invalid-argument"}


def test_a_credit_out_of_range_ends_the_connection_because_nobody_waits_for_an_answer() -> None:
    with pytest.raises(CorgiError, match="invalid-argument"):
        Pair().server.request(frame_of(m.Credit(((1, -1),)), 0))


def test_a_payload_where_none_belongs_and_lengths_that_do_not_add_up() -> None:
    assert "no payload" in refusal(Pair(), frame_of(m.Ping(), 7, b"x")).message
    short = frame_of(m.Produce(2, 0, ((TopicId(16), 0, 100),)), 7, BATCH)
    assert "61 are there" in refusal(Pair(), short).message


def test_a_request_that_wants_an_answer_needs_a_correlation() -> None:
    with pytest.raises(CorgiError, match="needs a correlation"):
        Pair().server.request(frame_of(m.Ping(), 0))


def test_what_is_not_answered_has_no_correlation() -> None:
    request = Pair().server.request(frame_of(m.Produce(0, 0, ((TopicId(16), 0, 61),)), 9, BATCH))
    assert request is not None
    assert request.correlation == 0


@given(st.integers(0, 255), st.binary(max_size=60), st.binary(max_size=80), st.integers(0, 2))
def test_no_frame_makes_the_session_raise_anything_else(
    kind: int, header: bytes, payload: bytes, correlation: int
) -> None:
    for pair in (Pair(), Pair(hello=False)):
        try:
            pair.server.request(Frame(kind, correlation, memoryview(header), memoryview(payload)))
        except CorgiError as error:
            pair.server.fail(error)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_client_raise_anything_else(garbage: bytes) -> None:
    client = CallerSession(Scratch())
    buffer = client.get_buffer()
    buffer[: len(garbage)] = garbage
    client.received(len(garbage))


def test_the_client_skips_pushes_of_a_later_release_and_fails_on_an_unknown_answer() -> None:
    pair = Pair()
    pair.server.outbox.put(encode_frame(249, m.Pong(), 0, 0))
    pair.server.reply(0, m.TopicsChanged(("t",)))
    assert [answer.message for answer in pair.down()] == [m.TopicsChanged(("t",))]
    pair.server.outbox.put(encode_frame(200, m.Pong(), 3, 0))
    assert pair.down() == []
    assert pair.client.failure is not None


def test_correlations_come_around_without_zero() -> None:
    client = CallerSession(Scratch())
    client._correlation = 2**32 - 2
    assert [client.request(m.Ping()) for _ in range(3)] == [2**32 - 1, 1, 2]
