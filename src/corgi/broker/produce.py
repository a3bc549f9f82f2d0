"""Produce: batches in, one command per Paxos group, one answer when all groups have answered.

    acks 0   never answered, whatever becomes of it
    acks 1   answered when it is on this node's disk, if this node leads; otherwise when applied. No offsets
    acks 2   answered when chosen and applied here, with offsets

Every batch has a result of its own, in the order of the request; a refused batch does not touch its neighbours and
never ends the connection. Unfinished bytes are bounded: per group by the node ("overloaded" comes back through
``submit``), per node here, per connection by the connection, which counts its unanswered requests; and requests without
an answer by ``pause`` and ``resume``, which a session may offer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from corgi.base.batch import HEADER_BYTES, BatchHeader, check_batch, parse_header
from corgi.base.command import CommandKind, encode_append, encode_data
from corgi.base.errors import BY_NUMBER, OK, OVERLOADED, CorgiError
from corgi.base.ids import GroupId, Offset, TopicId
from corgi.base.ports import ClientSession
from corgi.broker.bounds import (
    COMMAND_FILL_MAX,
    NODE_PRODUCE_BYTES_MAX,
    REQUEST_BATCHES_MAX,
    SILENT_BYTES_HIGH,
    SILENT_BYTES_LOW,
    SILENT_BYTES_MAX,
    check_count,
    check_range,
    timeout_s,
)
from corgi.broker.gaps import Gaps
from corgi.broker.places import Places, check_writable
from corgi.state.outcomes import Outcome
from corgi.wire.messages import Produce, ProduceReply

if TYPE_CHECKING:
    from corgi.broker.node import Node

ACKS_NONE = 0
ACKS_LEADER = 1
ACKS_QUORUM = 2
NO_OFFSET = Offset(-1)
NO_TIME = -1

_Result = tuple[int, Offset, int]
_STORED: _Result = (OK, NO_OFFSET, NO_TIME)
_FIRST = [0]
_Append = tuple[TopicId, int, memoryview]


@runtime_checkable
class Pausable(Protocol):
    """What a session may offer beyond ``ClientSession``: not to take requests for a while."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class ProduceCounters:
    """Sums since the start. ``silent_dropped``: batches with acks 0 that were refused and nobody heard of it."""

    __slots__ = ("batches", "bytes", "refused", "silent_dropped")

    def __init__(self) -> None:
        self.batches = 0
        self.bytes = 0
        self.refused = 0
        self.silent_dropped = 0


class _Request:
    """One Produce. ``results`` fill up while ``waiting`` commands come back; ``detail`` tells of the first refusal."""

    __slots__ = (
        "answered",
        "client",
        "correlation",
        "detail",
        "headers",
        "message",
        "produces",
        "results",
        "size",
        "waiting",
    )

    def __init__(
        self, produces: Produces, client: ClientSession, correlation: int, message: Produce, size: int
    ) -> None:
        self.produces = produces
        self.client = client
        self.correlation = correlation
        self.message = message
        self.size = size
        self.waiting = 0
        self.answered = False
        self.detail = ""
        self.headers: list[BatchHeader | None] = [None] * len(message.batches)
        self.results: list[_Result] = [_STORED] * len(message.batches)


class _Part:
    """What one command carries of a request: the places of its batches."""

    __slots__ = ("acknowledged", "places", "request")

    def __init__(self, request: _Request, places: list[int]) -> None:
        self.request = request
        self.places = places
        self.acknowledged = False

    def on_leader_disk(self) -> None:
        """Acks 1: good enough."""
        if not self.acknowledged:
            self.acknowledged = True
            self.request.produces.part_done(self.request)

    def applied(self, outcome: Outcome) -> None:
        request = self.request
        if not request.answered:
            request.produces.take_outcome(request, self.places, outcome)
        if not self.acknowledged:
            self.acknowledged = True
            request.produces.part_done(request)


class Produces:
    """All unfinished produce requests of a node."""

    __slots__ = ("_node", "_places", "_silent", "bytes_in_flight", "counters", "gaps")

    def __init__(self, node: Node, places: Places) -> None:
        self._node = node
        self._places = places
        self._silent: dict[ClientSession, int] = {}  # bytes in flight without an answer
        self.gaps = Gaps()
        self.bytes_in_flight = 0
        self.counters = ProduceCounters()

    @property
    def busy(self) -> bool:
        """The node takes no more for now."""
        return self.bytes_in_flight >= NODE_PRODUCE_BYTES_MAX

    def received(self, client: ClientSession, correlation: int, message: Produce, payload: memoryview) -> None:
        """Raises CorgiError "invalid-argument" when the request as a whole makes no sense."""
        patience_s = _check(message, payload)
        size = len(payload)
        counters = self.counters
        counters.batches += len(message.batches)
        counters.bytes += size
        request = _Request(self, client, correlation, message, size)
        if self._no_room(request):
            self._refuse_all(request, payload)
            return
        self.bytes_in_flight += size
        if len(message.batches) == 1:
            self._submit_one(request, payload, patience_s)
        else:
            self._submit(request, payload, patience_s)

    def client_closed(self, client: ClientSession) -> None:
        self.gaps.client_closed(client)
        self._silent.pop(client, None)

    def take_outcome(self, request: _Request, places: list[int], outcome: Outcome) -> None:
        """Note what became of the batches at ``places``."""
        appends = outcome.appends
        results = request.results
        with_offset = request.message.acks == ACKS_QUORUM
        for k, i in enumerate(places):
            error, offset = appends[k] if appends else (outcome.error, NO_OFFSET)
            if error:
                self._refuse(request, i, error, outcome.detail)
                continue
            if self.gaps:
                self._tell_gaps(request, i, OK)
            if with_offset:
                results[i] = (OK, offset, outcome.timestamp_ms)

    def part_done(self, request: _Request) -> None:
        """One of the request's commands has its answer."""
        request.waiting -= 1
        if not request.waiting:
            size = request.size
            self.bytes_in_flight -= size
            if request.message.acks == ACKS_NONE:
                self._silence_over(request.client, size)
            self._answer(request)

    # -- on the way in ------------------------------------------------------------------------------------------------

    def _no_room(self, request: _Request) -> bool:
        """Has the node, or a client that waits for no answers, too much unfinished? One request is always taken."""
        size = request.size
        if self.bytes_in_flight and self.bytes_in_flight + size > NODE_PRODUCE_BYTES_MAX:
            return True
        if request.message.acks == ACKS_NONE:
            client = request.client
            held = self._silent.get(client, 0)
            if held and held + size > SILENT_BYTES_MAX:
                return True
            self._silent[client] = held + size
            if held <= SILENT_BYTES_HIGH < held + size and isinstance(client, Pausable):
                client.pause()
        return False

    def _submit(self, request: _Request, payload: memoryview, patience_s: float) -> None:
        """Check each batch and give those that hold to their groups."""
        commands = self._split(request, payload)
        request.waiting = len(commands) + 1
        for group, places, appends in commands:
            self._give(_Part(request, places), group, encode_data(appends), patience_s)
        self.part_done(request)  # a request of which nothing was worth submitting is answered here

    def _submit_one(self, request: _Request, batch: memoryview, patience_s: float) -> None:
        """As ``_submit`` for a request of one batch, which most are."""
        request.waiting = 1
        topic, partition, _ = request.message.batches[0]
        group = self._admit(request, 0, topic, partition, batch)
        if group is None:
            self.part_done(request)
        else:
            self._give(_Part(request, _FIRST), group, encode_append(topic, partition, batch), patience_s)

    def _give(self, part: _Part, group: GroupId, body: bytes, patience_s: float) -> None:
        leader_ack = part.on_leader_disk if part.request.message.acks == ACKS_LEADER else None
        self._node.submit(group, CommandKind.DATA, body, part.applied, timeout_s=patience_s, leader_ack=leader_ack)

    def _split(self, request: _Request, payload: memoryview) -> list[tuple[GroupId, list[int], list[_Append]]]:
        """(group, places, batches) per command, in the order of the request within each group."""
        commands: list[tuple[GroupId, list[int], list[_Append]]] = []
        open_commands: dict[GroupId, tuple[list[int], list[_Append], list[int]]] = {}
        at = 0
        for i, (topic, partition, length) in enumerate(request.message.batches):
            batch = payload[at : at + length]
            at += length
            group = self._admit(request, i, topic, partition, batch)
            if group is None:
                continue
            command = open_commands.get(group)
            if command is None or command[2][0] + length > COMMAND_FILL_MAX:
                open_commands[group] = command = ([], [], [0])
                commands.append((group, command[0], command[1]))
            command[0].append(i)
            command[1].append((topic, partition, batch))
            command[2][0] += length
        return commands

    def _admit(self, request: _Request, i: int, topic: TopicId, partition: int, batch: memoryview) -> GroupId | None:
        """The group that takes the batch; None, and its result noted, if it is refused here."""
        try:
            request.headers[i] = check_batch(batch)
            place = self._places.to_write(topic, partition)
            check_writable(place, batch)
        except CorgiError as error:
            self._refuse(request, i, error.kind.number, error.message)
            return None
        return place.group

    # -- on the way out -----------------------------------------------------------------------------------------------

    def _refuse_all(self, request: _Request, payload: memoryview) -> None:
        """There is no room: nothing of the request is taken."""
        at = 0
        for i, (_, _, length) in enumerate(request.message.batches):
            if length >= HEADER_BYTES:
                request.headers[i] = parse_header(payload, at)
            at += length
            self._refuse(request, i, OVERLOADED)
        self._answer(request)

    def _refuse(self, request: _Request, i: int, error: int, detail: str = "") -> None:
        self.counters.refused += 1
        if request.message.acks == ACKS_NONE:
            self.counters.silent_dropped += 1
        if not request.detail:
            request.detail = detail or BY_NUMBER[error].meaning
        request.results[i] = (self._tell_gaps(request, i, error), NO_OFFSET, NO_TIME)

    def _tell_gaps(self, request: _Request, i: int, error: int) -> int:
        header = request.headers[i]
        if header is None or header.producer_id < 0:
            return error
        topic, partition, _ = request.message.batches[i]
        return self.gaps.answer(request.client, topic, partition, header, error)

    def _answer(self, request: _Request) -> None:
        request.answered = True
        client = request.client
        if request.message.acks != ACKS_NONE and not client.closed:
            client.reply(request.correlation, ProduceReply(tuple(request.results), request.detail))

    def _silence_over(self, client: ClientSession, size: int) -> None:
        held = self._silent.get(client)
        if held is None:
            return
        left = held - size
        if left > 0:
            self._silent[client] = left
        else:
            del self._silent[client]
        if left <= SILENT_BYTES_LOW < held and isinstance(client, Pausable):
            client.resume()


def _check(message: Produce, payload: memoryview) -> float:
    """The time to wait, in seconds. Raises CorgiError "invalid-argument" when the request makes no sense as a whole."""
    if not 0 <= message.acks <= ACKS_QUORUM:
        check_range("acks", message.acks, 0, ACKS_QUORUM)
    batches = message.batches
    if not 1 <= len(batches) <= REQUEST_BATCHES_MAX:
        check_count("batches", len(batches), REQUEST_BATCHES_MAX)
    size = 0
    for _, _, length in batches:
        if length <= 0:
            raise CorgiError("invalid-argument", f"a batch of {length} bytes in a Produce")
        size += length
    if size != len(payload):
        raise CorgiError("invalid-argument", f"batches of {size} bytes are named, {len(payload)} bytes are there")
    return timeout_s(message.timeout_ms)
