"""Metadata (3), versions 0 to 12: the nodes, and of topics who leads each partition.

Encoded by hand and kept: an answer is the same bytes for everybody who asks the same until a topic, a leader or a
node's liveness changes. There is always a leader to name: when the old one is gone, the replica that takes over, for it
takes writes too. Topics that do not exist are made if the client and the node's configuration allow it. Since version
10 topics have ids, since 12 they can be asked for by them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Annotated, NamedTuple

from corgi.base.errors import INVALID_TOPIC_NAME, OK, TOPIC_EXISTS, UNKNOWN_TOPIC, CorgiError
from corgi.base.ids import GroupId
from corgi.base.ports import Message
from corgi.kafka.access import CLUSTER_NAME, NOT_ASKED, Kind, Operation
from corgi.kafka.api import Api, Call
from corgi.kafka.codec import NO_UUID, Body, NullSince, Reader, Since, Until, Uuid, put_count, put_text, read_body
from corgi.kafka.errors import Code, code_of
from corgi.kafka.front import Front
from corgi.state.settings import check_topic_name
from corgi.wire.messages import CreateTopic, TopicInfo, TopicReply

CONFIRM_S = 5.0
CREATE_TIMEOUT_MS = 10_000
TOPICS_MAX = 10_000  # named in one request
_FLEXIBLE = 9
_META = GroupId(0)
_INT16, _INT32 = struct.Struct(">h"), struct.Struct(">i")
_PARTITION = struct.Struct(">hi")


class Wanted(Body, frozen=True):
    topic_id: Annotated[Uuid, Since(10)] = NO_UUID
    name: Annotated[str | None, NullSince(10)] = None


class Request(Body, frozen=True):
    topics: Annotated[tuple[Wanted, ...] | None, NullSince(1)] = None
    create: Annotated[bool, Since(4)] = True
    cluster_operations: Annotated[bool, Since(8), Until(10)] = False
    topic_operations: Annotated[bool, Since(8)] = False


class Found(NamedTuple):
    """A topic of the answer. ``name`` None: asked for by an id that names none."""

    error: int
    name: str | None
    uuid: bytes
    groups: tuple[int, ...]
    open: bool
    operations: int = NOT_ASKED


def stamp_of(front: Front) -> object:
    """Changes whenever an answer may."""
    alive = front.alive()
    leads = tuple([front.lead(group.id, alive) for group in front.node.groups])
    return front.node.requests.places.topics.end, alive, leads


def handle(call: Call[memoryview]) -> None:
    """Tells of no leader that is not known to live: who asks may have lost one, and noticed before this node."""
    call.front.when_sure(call, lambda: _tell(call))


def _tell(call: Call[memoryview]) -> None:
    """From what is kept, or made anew."""
    key = _key(call)
    found = call.front.metadata.get(stamp_of(call.front), key)
    if found is not None:
        call.answer_bytes((found,), len(found))
        return
    request = read_body(Request, call.version, Reader(call.request), flexible=call.version >= _FLEXIBLE)
    if request.topics is not None and len(request.topics) > TOPICS_MAX:
        call.close(CorgiError("invalid-argument", f"a request names at most {TOPICS_MAX} topics"))
        return
    _Query(call, request).begin()


def _key(call: Call[memoryview]) -> tuple[str, str, int, bytes]:
    """Everybody sees the same, as long as there are no rules about who sees what."""
    user = "" if call.front.access is None else call.session.user
    return user, call.session.listener, call.version, bytes(call.request)


class _Query:
    """A request whose answer is not kept."""

    def __init__(self, call: Call[memoryview], request: Request) -> None:
        self._call = call
        self._front = call.front
        self._request = request
        self._creating = 0
        self._uncreated: set[str] = set()  # the client may not make them

    def begin(self) -> None:
        if not self._missing() and all(self._front.topic_of(one.topic_id) for one in self._by_id()):
            self._answer()
            return
        # It may just have been made through another node.
        self._front.node.requests.barriers.confirm(self._call.session, (_META,), CONFIRM_S, self._confirmed)

    def _confirmed(self, errors: dict[GroupId, int]) -> None:
        missing = self._missing()
        if errors:
            self._answer(errors[_META])
        elif missing and self._request.create and self._front.options.create_topics:
            self._uncreated = {name for name in missing if not self._may_create(name)}
            self._create([name for name in missing if name not in self._uncreated])
        else:
            self._answer()

    def _by_id(self) -> list[Wanted]:
        return [wanted for wanted in self._request.topics or () if wanted.name is None]

    def _missing(self) -> list[str]:
        """Names that could be a topic's and are not, as far as this node knows."""
        names = [wanted.name for wanted in self._request.topics or () if wanted.name is not None]
        return [name for name in names if self._is_missing(name)]

    def _is_missing(self, name: str) -> bool:
        unknown = self._front.node.requests.administration.topic_info(name).error
        return bool(unknown) and _valid(name) and self._call.may(Operation.DESCRIBE, Kind.TOPIC, name)

    def _may_create(self, name: str) -> bool:
        return any(
            self._call.may(Operation.CREATE, kind, named)
            for kind, named in ((Kind.CLUSTER, CLUSTER_NAME), (Kind.TOPIC, name))
        )

    def _create(self, names: list[str]) -> None:
        self._creating = len(names)
        if not names:
            self._answer()
        partitions = self._front.options.partitions
        for name in names:
            self._call.ask(CreateTopic(name, partitions, timeout_ms=CREATE_TIMEOUT_MS), self._created)

    def _created(self, reply: Message, _payload: object) -> None:
        error = reply.error if isinstance(reply, TopicReply) and reply.error not in (OK, TOPIC_EXISTS) else OK
        self._creating -= 1
        if not self._creating:
            self._answer(error)

    def _answer(self, error: int = OK) -> None:
        """``error``: why it is not known whether unknown topics exist."""
        call, front = self._call, self._front
        found = self._found(error)
        operations = call.cluster_operations() if self._request.cluster_operations else NOT_ASKED
        body = encode(front, call.session.listener, call.version, found, operations)
        if all(topic.error == 0 and topic.open for topic in found):
            front.metadata.put(stamp_of(front), _key(call), body)
        call.answer_bytes((body,), len(body))

    def _found(self, error: int) -> list[Found]:
        front, wanted = self._front, self._request.topics
        administration = front.node.requests.administration
        if wanted is None or (not wanted and self._call.version == 0):
            infos = administration.topic_infos()
            return [self._told(info, OK) for info in infos if self._call.may(Operation.DESCRIBE, Kind.TOPIC, info.name)]
        found = []
        for one in wanted:
            if one.name is not None:
                refused = self._call.refusal(Operation.DESCRIBE, Kind.TOPIC, one.name)
                if refused or one.name in self._uncreated:
                    found.append(Found(Code.TOPIC_AUTHORIZATION_FAILED, one.name, NO_UUID, (), False))
                else:
                    found.append(self._told(administration.topic_info(one.name), error))
                continue
            topic = front.topic_of(one.topic_id)
            if topic is None:
                found.append(Found(Code.UNKNOWN_TOPIC_ID, None, one.topic_id, (), False))
            elif not self._call.may(Operation.DESCRIBE, Kind.TOPIC, topic.name):
                found.append(Found(Code.TOPIC_AUTHORIZATION_FAILED, None, one.topic_id, (), False))
            else:
                found.append(self._told(administration.topic_info(topic.name), error))
        return found

    def _told(self, info: TopicInfo, error: int) -> Found:
        if info.error:
            code = code_of(error if info.error == UNKNOWN_TOPIC and error else info.error)
            if not _valid(info.name):
                code = code_of(INVALID_TOPIC_NAME)
            return Found(code, info.name, NO_UUID, (), False)
        operations = NOT_ASKED
        if self._request.topic_operations:
            operations = self._call.operations(Kind.TOPIC, info.name)
        return Found(Code.NONE, info.name, self._front.uuid_of(info.topic), info.groups, info.open, operations)


def _valid(name: str) -> bool:
    try:
        check_topic_name(name)
    except CorgiError:
        return False
    return True


def encode(front: Front, listener: str, version: int, topics: list[Found], operations: int = NOT_ASKED) -> bytes:
    """The body of an answer. ``operations``: what the client may do to the cluster."""
    compact = version >= _FLEXIBLE
    out = bytearray()
    length, text, end = _writers(out, compact)
    if version >= 3:
        out += _INT32.pack(0)
    _put_brokers(front, listener, version, out, length, text, end)
    length(len(topics))
    parts = _group_parts(front, version, compact)
    for topic in topics:
        out += _INT16.pack(topic.error)
        text(topic.name if topic.name is not None or version >= 12 else "")
        if version >= 10:
            out += topic.uuid
        if version >= 1:
            out.append(bool(topic.name) and str(topic.name).startswith("__"))
        length(len(topic.groups))
        error = Code.NONE if topic.open else Code.LEADER_NOT_AVAILABLE
        for partition, group in enumerate(topic.groups):
            out += _PARTITION.pack(error, partition)
            out += parts[group]
        if version >= 8:
            out += _INT32.pack(topic.operations)
        end()
    if 8 <= version <= 10:
        out += _INT32.pack(operations)
    end()
    return bytes(out)


def _put_brokers(
    front: Front,
    listener: str,
    version: int,
    out: bytearray,
    length: Callable[[int], None],
    text: Callable[[str | None], None],
    end: Callable[[], None],
) -> None:
    brokers = front.brokers(listener)
    length(len(brokers))
    for node, (host, port) in brokers.items():
        out += _INT32.pack(node)
        text(host)
        out += _INT32.pack(port)
        if version >= 1:
            text(front.node.options.labels.get(node) or None)
        end()
    if version >= 2:
        text(front.cluster_id)
    if version >= 1:
        out += _INT32.pack(front.controller())


def _group_parts(front: Front, version: int, compact: bool) -> list[bytes]:
    """What is the same of all partitions in one Paxos group: leader, epoch, replicas."""
    alive = front.alive()
    parts = []
    for group in front.node.groups:
        lead, replicas = front.lead(group.id, alive), front.order(group.id)
        out = bytearray()
        length, _, end = _writers(out, compact)
        out += _INT32.pack(lead.leader)
        if version >= 7:
            out += _INT32.pack(lead.epoch)
        lists = [replicas, [node for node in replicas if node in alive]]
        if version >= 5:
            lists.append([node for node in replicas if node not in alive])
        for nodes in lists:
            length(len(nodes))
            for node in nodes:
                out += _INT32.pack(node)
        end()
        parts.append(bytes(out))
    return parts


def _writers(
    out: bytearray, compact: bool
) -> tuple[Callable[[int], None], Callable[[str | None], None], Callable[[], None]]:
    """Appends the length of an array, a nullable string, the end of a struct."""

    def length(count: int) -> None:
        put_count(out, count, compact=compact)

    def text(value: str | None) -> None:
        put_text(out, value, compact=compact)

    def end() -> None:
        if compact:
            out.append(0)

    return length, text, end


def _rest(reader: Reader, _version: int) -> memoryview:
    return reader.view[reader.at :]


API = Api(3, "Metadata", (0, 12), _FLEXIBLE, _rest, handle)
