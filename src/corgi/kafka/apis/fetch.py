"""Fetch (1), versions 4 to 16: a long poll; stored batches leave as they lie, with what was aborted told beside them.

Read and written by hand. Whole batches only, beginning with the one that contains the offset. Any node serves what is
applied on it; a client with an older leader epoch is told so (74), and finds the leader by new metadata, or since
version 16 by what stands beside the error (KIP-951). Since version 13 topics are named by their ids (KIP-516); one that
is not known, as that of a deleted topic, is an error of its partitions (100). Sessions (KIP-227) are refused: the
session id is always 0, so every fetch is a full one. The holder of read_committed gets everything up to the last stable
offset and the aborted transactions in it, and leaves those out himself, as Kafka's clients do.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from corgi.base.batch import ATTRIBUTE_CODEC, parse_header
from corgi.base.command import Buffer
from corgi.base.compression import CODECS
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, Offset
from corgi.broker.bounds import INT64_MAX
from corgi.delivery.limits import POLL_BYTES_MAX
from corgi.delivery.polls import Part, PartAnswer
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call
from corgi.kafka.codec import Reader, put_count, put_text
from corgi.kafka.errors import Code, code_of
from corgi.kafka.front import UUID_BYTES
from corgi.kafka.hints import Hints
from corgi.state.index import PartitionLog
from corgi.state.topics import Topic

PARTITIONS_MAX = 10_000
NO_SESSION = 0
_NOWHERE = GroupId(0)
READ_COMMITTED = 1
_ZSTD = CODECS["zstd"]
_FULL_EPOCHS = (0, -1)
_FLEXIBLE = 12
_BY_ID = 13
_NO_REPLICA_ID = 15  # it became a tagged field, which only Kafka's own nodes write
_HINTS = 16
_CURRENT_LEADER = 1  # the tag of a partition's leader
_INT16, _INT32 = struct.Struct(">h"), struct.Struct(">i")
_HEAD = struct.Struct(">iiib")  # wait ms, bytes min, bytes max, isolation
_SESSION = struct.Struct(">ii")
_OFFSETS = struct.Struct(">ihqqq")  # partition, error, high watermark, last stable offset, log start offset
_ABORTED = struct.Struct(">qq")
_FORGOTTEN = struct.Struct(">i")
_FORMS = {4: struct.Struct(">iqi"), 5: struct.Struct(">iqqi"), 9: struct.Struct(">iiqqi"), 12: struct.Struct(">iiqiqi")}


class Wanted(NamedTuple):
    """One partition of a request. ``epoch`` -1: no check."""

    partition: int
    epoch: int
    offset: int
    bytes: int


class Named(NamedTuple):
    """One topic of a request: by its id since version 13, by its name before."""

    name: str
    uuid: bytes
    partitions: list[Wanted]


class Request(NamedTuple):
    wait_ms: int
    bytes_min: int
    bytes_max: int
    committed: bool
    session: int
    session_epoch: int
    topics: list[Named]


def read(reader: Reader, version: int) -> Request:
    """By hand; whatever follows the partitions is of no interest here."""
    compact = version >= _FLEXIBLE
    if version < _NO_REPLICA_ID:
        reader.take(_INT32.size)
    wait_ms, bytes_min, bytes_max, isolation = _HEAD.unpack(reader.take(_HEAD.size))
    session, epoch = _SESSION.unpack(reader.take(_SESSION.size)) if version >= 7 else (NO_SESSION, -1)
    form = next(_FORMS[since] for since in (12, 9, 5, 4) if version >= since)
    topics = []
    for _ in range(reader.count(compact=compact, bytes_each=2)):
        uuid = bytes(reader.take(UUID_BYTES)) if version >= _BY_ID else b""
        name = "" if version >= _BY_ID else reader.text(compact=compact)
        partitions = []
        for _ in range(reader.count(compact=compact, bytes_each=form.size)):
            fields = form.unpack(reader.take(form.size))
            epoch_told = fields[1] if version >= 9 else -1
            partitions.append(Wanted(fields[0], epoch_told, fields[2] if version >= 9 else fields[1], fields[-1]))
            if compact:
                reader.skip_tags()
        topics.append(Named(name, uuid, partitions))
        if compact:
            reader.skip_tags()
    return Request(wait_ms, bytes_min, bytes_max, isolation == READ_COMMITTED, session, epoch, topics)


def handle(call: Call[Request]) -> None:
    """Answered by the node's long polls."""
    request = call.request
    if request.session != NO_SESSION or request.session_epoch not in _FULL_EPOCHS:
        code = Code.FETCH_SESSION_ID_NOT_FOUND if request.session else Code.INVALID_FETCH_SESSION_EPOCH
        body = _encode(call, code, [], [], [])
        call.answer_bytes(body, sum(map(len, body)))
        return
    parts = [part for named in request.topics for part in _parts(call, named)]
    if len(parts) > PARTITIONS_MAX:
        call.close(CorgiError("invalid-argument", f"a fetch of {len(parts)} partitions, {PARTITIONS_MAX} are the most"))
        return

    def answer(answers: list[PartAnswer], buffers: list[Buffer]) -> None:
        if call.session.closed:
            return
        out = _encode(call, Code.NONE, parts, answers, buffers)
        call.answer_bytes(out, sum(map(len, out)))

    wait_ms, bytes_min = max(0, request.wait_ms), max(0, request.bytes_min)
    call.front.node.requests.fetches.begin(call.session, parts, wait_ms, bytes_min, max(1, request.bytes_max), answer)


class _Refused(Part):
    """A partition whose error is one of Kafka's own."""

    __slots__ = ("code",)

    def __init__(self, offset: Offset, code: Code, group: GroupId = _NOWHERE) -> None:
        super().__init__(offset, 0, None, group, -1)
        self.code = code


def _parts(call: Call[Request], named: Named) -> list[Part]:
    front = call.front
    topic = front.topic_of(named.uuid) if named.uuid else front.topic(named.name)
    unknown = Code.UNKNOWN_TOPIC_ID if named.uuid and topic is None else Code.UNKNOWN_TOPIC_OR_PARTITION
    name = named.name if topic is None else topic.name
    refused = call.refusal(Operation.READ, Kind.TOPIC, name) if name else Code.NONE
    if refused:
        return [_Refused(Offset(wanted.offset), refused) for wanted in named.partitions]
    return [_part(call, topic, wanted, unknown) for wanted in named.partitions]


def _part(call: Call[Request], topic: Topic | None, wanted: Wanted, unknown: Code) -> Part:
    front, offset = call.front, Offset(wanted.offset)
    if topic is None or not 0 <= wanted.partition < topic.partitions:
        return _Refused(offset, unknown)
    if not 0 <= offset <= INT64_MAX:
        return _Refused(offset, Code.OFFSET_OUT_OF_RANGE)
    group = topic.group_of(wanted.partition)
    fault = front.epoch_fault(group, wanted.epoch)
    if fault:
        return _Refused(offset, fault, group)
    return front.node.requests.fetches.part(
        topic.topic, wanted.partition, offset, max(1, wanted.bytes), committed=call.request.committed, raw=True
    )


def _encode(
    call: Call[Request], code: Code, parts: list[Part], answers: list[PartAnswer], buffers: list[Buffer]
) -> list[Buffer]:
    """The body as buffers: the stored batches are not copied."""
    version, request = call.version, call.request
    hints = Hints(call.session, _CURRENT_LEADER)
    compact = version >= _FLEXIBLE
    out: list[Buffer] = []
    head = bytearray(_INT32.pack(0))
    if version >= 7:
        head += _INT16.pack(code) + _INT32.pack(NO_SESSION)
    topics = request.topics if not code else []
    put_count(head, len(topics), compact=compact)
    each = zip(parts, answers, _cut(answers, buffers), strict=True)
    for name, uuid, partitions in topics:
        if version >= _BY_ID:
            head += uuid
        else:
            put_text(head, name, compact=compact)
        put_count(head, len(partitions), compact=compact)
        for wanted in partitions:
            part, told, records = next(each)
            size = sum(map(len, records))
            error = _code(part, told, records, version)
            if error:
                records, size = [], 0
            _put_partition(head, call, wanted, part, told, error)
            put_count(head, size, compact=compact)
            if records:
                out.append(bytes(head))
                out += records
                head = bytearray()
            if version >= _HINTS:
                hints.put_leader(head, error, part.group)
            elif compact:
                head.append(0)
        if compact:
            head.append(0)
    if version >= _HINTS:
        hints.put_nodes(head)
    elif compact:
        head.append(0)
    out.append(bytes(head))
    return out


def _put_partition(
    head: bytearray, call: Call[Request], wanted: Wanted, part: Part, told: PartAnswer, error: int
) -> None:
    version = call.version
    compact = version >= _FLEXIBLE
    offsets = _OFFSETS.pack(wanted.partition, error, told.end, told.stable, told.start)
    head += offsets if version >= 5 else offsets[:-8]
    if not call.request.committed or error:
        put_count(head, -1, compact=compact)
    else:
        aborted = _aborted(part, told)
        put_count(head, len(aborted), compact=compact)
        for producer_id, first in aborted:
            head += _ABORTED.pack(producer_id, first)
            if compact:
                head.append(0)
    if version >= 11:
        head += _INT32.pack(-1)  # preferred read replica: any node serves, the leader soonest


def _aborted(part: Part, told: PartAnswer) -> list[tuple[int, int]]:
    """(producer id, first offset) of what was aborted in the range that is served."""
    log = part.log
    if not isinstance(log, PartitionLog) or log.transactions is None or told.onward <= part.offset:
        return []
    return [(one.producer_id, one.first) for one in log.transactions.aborted(part.offset, told.onward)]


def _code(part: Part, told: PartAnswer, records: Sequence[Buffer], version: int) -> int:
    if isinstance(part, _Refused):
        return part.code
    if told.error:
        return code_of(told.error)
    if version < 10 and any(codec == _ZSTD for codec in _codecs(b"".join(records), told.lengths)):
        return Code.UNSUPPORTED_COMPRESSION_TYPE
    return Code.NONE


def _codecs(batches: bytes, lengths: Sequence[int]) -> Iterator[int]:
    at = 0
    for length in lengths:
        yield parse_header(batches, at).attributes & ATTRIBUTE_CODEC
        at += length


def _cut(answers: list[PartAnswer], buffers: list[Buffer]) -> Iterator[list[Buffer]]:
    """The buffers of each partition: none holds bytes of two."""
    rest = iter(buffers)
    for told in answers:
        left = sum(told.lengths)
        mine: list[Buffer] = []
        while left > 0:
            buffer = next(rest)
            left -= len(buffer)
            mine.append(buffer)
        yield mine


def _cost(request: Request) -> int:
    return min(max(0, request.bytes_max), POLL_BYTES_MAX)


API = Api(1, "Fetch", (4, 16), _FLEXIBLE, read, handle, cost=_cost)
