"""The client against ports that are no node, nodes that say no, and nodes that lose answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

import corgi
from corgi import CorgiError
from corgi.base.errors import BY_CODE
from corgi.base.ids import NodeId, Offset, TopicId
from corgi.wire import messages as m
from corgi.wire.catalog import REQUESTS
from corgi.wire.frame import FRAME, LENGTH_BYTES, encode_frame

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
GREETING = m.HelloReply(1, "c" * 32, NodeId(1), 2**26)


@asynccontextmanager
async def port(serve: Serve) -> AsyncIterator[str]:
    """Something that listens; ``serve`` is what it does with a connection."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def receive(reader: asyncio.StreamReader) -> tuple[m.WireMessage, int]:
    """The next request and its correlation."""
    head = await reader.readexactly(FRAME.size)
    length, correlation, header_bytes, kind, _, _ = FRAME.unpack(head)
    body = await reader.readexactly(length - (FRAME.size - LENGTH_BYTES))
    return msgspec.msgpack.decode(body[:header_bytes], type=REQUESTS[kind]), correlation


def frame(message: m.WireMessage, correlation: int) -> bytes:
    return encode_frame(message.TYPE, message, correlation, 0)


class ScriptedNode:
    """Greets and tells metadata; ``answers`` gives the rest: an answer, None to close, ... to say nothing."""

    def __init__(self, answers: Callable[[m.WireMessage, int], Any]) -> None:
        self.answers = answers
        self.port = 0
        self.seen: list[m.WireMessage] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request, correlation = await receive(reader)
            answer: Any
            if isinstance(request, m.Hello):
                answer = GREETING
            elif isinstance(request, m.Metadata):
                answer = self.metadata(request, writer)
            else:
                self.seen.append(request)
                answer = self.answers(request, len(self.seen))
            if answer is None:
                return
            if answer is not ...:
                writer.write(frame(answer, correlation))

    def metadata(self, request: m.Metadata, writer: asyncio.StreamWriter) -> m.MetadataReply:
        own = m.NodeInfo(NodeId(1), *writer.get_extra_info("sockname")[:2], True)
        topics = tuple([topic_info(name) for name in request.topics or ()])
        return m.MetadataReply("c" * 32, NodeId(1), (own,), (m.GroupInfo(NodeId(1), 1, (NodeId(1),)),), topics)


def topic_info(name: str) -> m.TopicInfo:
    return m.TopicInfo(name, TopicId(16), (0,), {})


async def error_of_connecting(serve: Serve) -> CorgiError:
    async with port(serve) as address:
        with pytest.raises(CorgiError) as caught:
            await corgi.connect(address, connect_timeout="400ms")
    return caught.value


# Not a node


async def test_a_port_that_speaks_something_else() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    error = await error_of_connecting(http)
    assert error.code == "malformed-frame"
    assert "this is no node of Corgi" in str(error)
    assert "native port" in error.hint


async def test_a_port_that_closes() -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...

    error = await error_of_connecting(nothing)
    assert error.code == "unreachable"
    assert "closed by the node" in str(error) or "reset" in str(error)


async def test_a_port_that_says_nothing() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    error = await error_of_connecting(silent)
    assert error.code == "unreachable"


async def test_a_node_of_another_version() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, correlation = await receive(reader)
        number = BY_CODE["unsupported-version"].number
        writer.write(frame(m.ErrorReply(number, "versions 7 to 9 are spoken here"), correlation))
        await writer.drain()
        await reader.read()

    error = await error_of_connecting(refuse)
    assert error.code == "unsupported-version"
    assert "7 to 9" in str(error)


async def test_what_no_patience_mends_is_told_at_once() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, correlation = await receive(reader)
        writer.write(frame(m.ErrorReply(BY_CODE["unsupported-version"].number), correlation))
        await reader.read()

    async with asyncio.timeout(5), port(refuse) as address:
        with pytest.raises(CorgiError) as caught:
            await corgi.connect(address, connect_timeout="1h")
    assert caught.value.code == "unsupported-version"


async def test_a_node_that_answers_the_greeting_with_something_else() -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, correlation = await receive(reader)
        writer.write(frame(m.Pong(), correlation))
        await reader.read()

    assert (await error_of_connecting(rude)).code == "malformed-frame"


# A node that loses answers


async def test_a_time_out_of_ones_own_is_kept() -> None:
    def answer(request: m.WireMessage, _: int) -> Any:
        return m.InitProducerReply(1, 0) if isinstance(request, m.InitProducer) else ...

    async with port(ScriptedNode(answer)) as address:
        mq = await corgi.connect(address)
        with pytest.raises(CorgiError) as caught:
            await mq.publish("t", b"x", timeout="100ms")
        assert caught.value.code == "timeout"
        assert "stored or not" in str(caught.value)
        await mq.close()


async def test_creating_a_topic_again_because_the_answer_was_lost_is_no_error() -> None:
    def answer(request: m.WireMessage, count: int) -> Any:
        if isinstance(request, m.ListOffsets):
            return m.ListOffsetsReply(((0, Offset(0), -1),))
        if count == 1:
            return None
        return m.TopicReply(BY_CODE["topic-exists"].number, "", None)

    node = ScriptedNode(answer)
    async with port(node) as address, corgi.connect(address) as mq:
        assert (await mq.topics.create("t")).name == "t"
        with pytest.raises(CorgiError) as caught:  # but a topic of another shape is somebody else's
            await mq.topics.create("t", partitions=2)
        assert caught.value.code == "topic-exists"


async def test_a_topic_of_another_shape_is_not_taken_for_the_lost_one() -> None:
    def answer(request: m.WireMessage, count: int) -> Any:
        if isinstance(request, m.ListOffsets):
            return m.ListOffsetsReply(((0, Offset(0), -1),))
        return None if count == 1 else m.TopicReply(BY_CODE["topic-exists"].number, "", None)

    async with port(ScriptedNode(answer)) as address, corgi.connect(address) as mq:
        with pytest.raises(CorgiError) as caught:
            await mq.topics.create("t", partitions=2)
        assert caught.value.code == "topic-exists"


async def test_deleting_a_topic_again_because_the_answer_was_lost_is_no_error() -> None:
    def answer(request: m.WireMessage, count: int) -> Any:
        return None if count == 1 else m.TopicReply(BY_CODE["unknown-topic"].number, "", None)

    async with port(ScriptedNode(answer)) as address, corgi.connect(address) as mq:
        await mq.topics.delete("t")
        with pytest.raises(CorgiError) as caught:
            await mq.topics.delete("t")
        assert caught.value.code == "unknown-topic"


async def test_a_busy_node_is_asked_again() -> None:
    def answer(request: m.WireMessage, count: int) -> Any:
        if count < 4:
            return m.TopicReply(BY_CODE["no-quorum"].number, "", None)
        return m.TopicReply(0, "", topic_info("t"))

    node = ScriptedNode(answer)
    async with port(node) as address, corgi.connect(address) as mq:
        assert len((await mq.topics.alter("t", retention_ms=5, cleanup=True)).partitions) == 1
        assert len(node.seen) == 4
        sent = node.seen[-1]
        assert isinstance(sent, m.AlterTopic)
        assert sent.config == {"retention_ms": "5", "cleanup": "true"}


async def test_an_error_that_closes_the_connection_is_survived() -> None:
    """The node calls our request malformed and closes; the client connects anew and says what was lost."""

    def answer(request: m.WireMessage, count: int) -> Any:
        if isinstance(request, m.InitProducer):
            return m.InitProducerReply(1, 0)
        if count == 2:
            return None
        return m.ProduceReply(((0, Offset(5), 5),))

    async with port(ScriptedNode(answer)) as address, corgi.connect(address) as mq:
        assert (await mq.publish("t", b"x")).offset == 5


# Clusters


@pytest.mark.parametrize("order", [1, -1])
async def test_seeds_of_two_clusters_are_refused_with_both_addresses_and_ids(order: int) -> None:
    async with corgi.embedded() as one, corgi.embedded() as other:
        with pytest.raises(CorgiError) as caught:
            await corgi.connect([one.servers, other.servers][::order])
        assert caught.value.code == "wrong-cluster"
        for part in (one.servers, one.cluster, other.servers, other.cluster):
            assert part in caught.value.message


async def test_a_seed_that_says_too_late_that_it_is_of_another_cluster_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connected = asyncio.Event()
    warned = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, correlation = await receive(reader)
        await connected.wait()
        writer.write(frame(msgspec.structs.replace(GREETING, cluster="d" * 32), correlation))
        await reader.read()
        warned.set()

    async with corgi.embedded() as one, port(slow) as late, corgi.connect([one.servers, late]) as mq:
        connected.set()
        await asyncio.wait_for(warned.wait(), 10)
        assert mq.cluster == one.cluster
        [record] = [record for record in caplog.records if record.name == "corgi.client"]
        assert late in record.getMessage()
        assert "d" * 32 in record.getMessage()
