"""Produce (0), versions 3 to 10 (told from 0: old librdkafka takes a higher floor for a broker without compression).

Read and written by hand; batches go to the node as they came. Acks 1 and all both wait for the quorum, acks 0 gets no
answer, and an error there ends the connection. Any node takes a write and passes it on to the leader, so stale metadata
never fails one. Each partition has a result of its own. What Kafka refuses of a batch is refused here: more or less
than one batch in a partition, old formats, control batches, counts that contradict each other, times set by the log.
Where another node has to be asked, version 10 names it beside the error (KIP-951).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from corgi.base.batch import (
    ATTRIBUTE_CODEC,
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_LOG_APPEND_TIME,
    ATTRIBUTE_TRANSACTIONAL,
    HEADER_BYTES,
    LENGTH_OVERHEAD,
    MAGIC,
    parse_header,
)
from corgi.base.command import Buffer
from corgi.base.compression import CODECS
from corgi.base.errors import TRANSACTION_FENCED, CorgiError
from corgi.base.ids import GroupId, TopicId
from corgi.base.ports import Message
from corgi.broker.bounds import REQUEST_BATCHES_MAX
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, error_of
from corgi.kafka.codec import Reader, put_count, put_text
from corgi.kafka.errors import Code, code_of
from corgi.kafka.front import Front
from corgi.kafka.hints import Hints
from corgi.wire.messages import Produce, ProduceReply

TIMEOUT_MS_MIN = 100  # a client's patience of less would only make outcomes unknown
TIMEOUT_MS_MAX = 300_000
QUORUM = 2
_ZSTD = CODECS["zstd"]
_FLEXIBLE = 9
_HINTS = 10
_CURRENT_LEADER = 0  # the tag of a partition's leader
_ACKS = (-1, 0, 1)
_MAGIC_AT = 16
_HEAD = struct.Struct(">hi")  # acks, timeout ms
_INT32 = struct.Struct(">i")
_RESULT = struct.Struct(">ihqqq")  # partition, error, base offset, log append time, log start offset
_PARTITION_BYTES_MIN = 5


class Part(NamedTuple):
    """What is to be appended to one partition; None: nothing."""

    partition: int
    batch: memoryview | None


class Request(NamedTuple):
    transactional_id: str
    acks: int
    timeout_ms: int
    topics: list[tuple[str, list[Part]]]


def read(reader: Reader, version: int) -> Request:
    """By hand: batches stay slices of the request."""
    compact = version >= _FLEXIBLE
    transactional_id = reader.text(compact=compact)  # only to see who may; the batches tell their producer
    acks, timeout_ms = _HEAD.unpack(reader.take(_HEAD.size))
    topics = []
    for _ in range(reader.count(compact=compact, bytes_each=2)):
        name = reader.text(compact=compact)
        parts = []
        for _ in range(reader.count(compact=compact, bytes_each=_PARTITION_BYTES_MIN)):
            (partition,) = _INT32.unpack(reader.take(4))
            length = reader.length(compact=compact, short_form=False)
            parts.append(Part(partition, None if length < 0 else reader.take(length)))
            if compact:
                reader.skip_tags()
        topics.append((name, parts))
        if compact:
            reader.skip_tags()
    return Request(transactional_id, acks, timeout_ms, topics)


class _Result:
    """What becomes of one partition's batch."""

    __slots__ = ("error", "group", "message", "offset", "partition", "start", "time")

    def __init__(self, partition: int, group: GroupId, error: int) -> None:
        self.partition = partition
        self.group = group
        self.error = error
        self.message = ""
        self.offset = self.time = self.start = -1


class _Batch(NamedTuple):
    """A batch that is worth trying, and where its result goes."""

    topic: TopicId
    partition: int
    data: memoryview
    result: _Result


class _Pending:
    """A request until every part of it is answered."""

    __slots__ = ("_call", "_topics", "_waiting")

    def __init__(self, call: Call[Request], topics: list[tuple[str, list[_Result]]]) -> None:
        self._call = call
        self._topics = topics
        self._waiting = 1

    def give(self, batches: Sequence[_Batch]) -> None:
        """One Produce of the node's own."""
        self._waiting += 1
        payload = batches[0].data if len(batches) == 1 else memoryview(b"".join([one.data for one in batches]))
        timeout_ms = min(max(self._call.request.timeout_ms, TIMEOUT_MS_MIN), TIMEOUT_MS_MAX)
        named = tuple([(one.topic, one.partition, len(one.data)) for one in batches])

        def answered(reply: Message, _payload: Sequence[Buffer]) -> None:
            self._take(batches, reply)
            self.done()

        self._call.ask(Produce(QUORUM, timeout_ms, named), answered, payload)

    def _take(self, batches: Sequence[_Batch], reply: Message) -> None:
        if not isinstance(reply, ProduceReply):
            failure = error_of(reply)
            for batch in batches:
                batch.result.error = code_of(failure.kind.number if failure else -1)
                batch.result.message = failure.message if failure else ""
            return
        front = self._call.front
        for batch, (error, offset, _) in zip(batches, reply.results, strict=True):
            result = batch.result
            result.error = Code.INVALID_PRODUCER_EPOCH if error == TRANSACTION_FENCED else code_of(error)
            result.offset = offset
            if error:
                result.message = reply.message
            else:
                result.start = _start(front, batch.topic, batch.partition)

    def done(self) -> None:
        self._waiting -= 1
        if self._waiting:
            return
        call = self._call
        if call.quiet and any(result.error for _, results in self._topics for result in results):
            call.close(CorgiError("closed", "a produce with acks=0 failed, and there is no other way to say so"))
            return
        body = _encode(call, self._topics)
        call.answer_bytes((body,), len(body))


def handle(call: Call[Request]) -> None:
    """Tries what is sound; the answer comes when all of it is chosen, or refused."""
    request, front, version = call.request, call.front, call.version
    refused = Code.NONE if request.acks in _ACKS else Code.INVALID_REQUIRED_ACKS
    not_in_transaction = call.refusal(Operation.WRITE, Kind.TRANSACTIONAL_ID, request.transactional_id)
    topics: list[tuple[str, list[_Result]]] = []
    batches: list[_Batch] = []
    for name, parts in request.topics:
        results = []
        not_here = refused or call.refusal(Operation.WRITE, Kind.TOPIC, name)
        for partition, batch in parts:
            topic = front.having(name, partition)
            error = not_here or (Code.UNKNOWN_TOPIC_OR_PARTITION if topic is None else _fault(batch, version))
            if not_in_transaction and not error and batch is not None:
                error = not_in_transaction if parse_header(batch).attributes & ATTRIBUTE_TRANSACTIONAL else error
            result = _Result(partition, GroupId(0) if topic is None else topic.group_of(partition), error)
            results.append(result)
            if not error and topic is not None and batch is not None:
                batches.append(_Batch(topic.topic, partition, batch, result))
        topics.append((name, results))
    pending = _Pending(call, topics)
    for at in range(0, len(batches), REQUEST_BATCHES_MAX):
        pending.give(batches[at : at + REQUEST_BATCHES_MAX])
    pending.done()


def _fault(batch: memoryview | None, version: int) -> Code:
    """What Kafka would say against a batch, as far as the node itself says it otherwise or not at all."""
    if batch is None or len(batch) <= _MAGIC_AT:
        return Code.INVALID_RECORD
    if batch[_MAGIC_AT] != MAGIC or len(batch) < HEADER_BYTES:
        return Code.INVALID_RECORD
    header = parse_header(batch)
    if header.length + LENGTH_OVERHEAD != len(batch):
        return Code.INVALID_RECORD if 0 < header.length + LENGTH_OVERHEAD < len(batch) else Code.CORRUPT_MESSAGE
    if header.record_count <= 0 or header.last_offset_delta != header.record_count - 1:
        return Code.INVALID_RECORD
    attributes = header.attributes
    if attributes & ATTRIBUTE_CONTROL or (header.producer_id >= 0 and header.base_sequence < 0):
        return Code.INVALID_RECORD
    if attributes & ATTRIBUTE_LOG_APPEND_TIME:
        return Code.INVALID_TIMESTAMP
    codec = attributes & ATTRIBUTE_CODEC
    if codec > _ZSTD or (codec == _ZSTD and version < 7):
        return Code.UNSUPPORTED_COMPRESSION_TYPE
    return Code.NONE


def _start(front: Front, topic: TopicId, partition: int) -> int:
    """The log start offset of a partition, or -1."""
    try:
        return front.node.requests.places.to_read(topic, partition)[1].start
    except CorgiError:
        return -1


def _encode(call: Call[Request], topics: list[tuple[str, list[_Result]]]) -> bytes:
    version = call.version
    compact = version >= _FLEXIBLE
    hints = Hints(call.session, _CURRENT_LEADER)
    out = bytearray()
    put_count(out, len(topics), compact=compact)
    for name, results in topics:
        put_text(out, name, compact=compact)
        put_count(out, len(results), compact=compact)
        for result in results:
            told = _RESULT.pack(result.partition, result.error, result.offset, result.time, result.start)
            out += told if version >= 5 else told[:-8]
            if version >= 8:
                put_count(out, 0, compact=compact)  # errors of single records are not told
                put_text(out, result.message or None, compact=compact)
            if version >= _HINTS:
                hints.put_leader(out, result.error, result.group)
            elif compact:
                out.append(0)
        if compact:
            out.append(0)
    out += _INT32.pack(0)  # throttle time
    if version >= _HINTS:
        hints.put_nodes(out)
    elif compact:
        out.append(0)
    return bytes(out)


def _silent(request: Request) -> bool:
    return request.acks == 0


API = Api(0, "Produce", (3, 10), _FLEXIBLE, read, handle, floor=0, quiet=_silent)
