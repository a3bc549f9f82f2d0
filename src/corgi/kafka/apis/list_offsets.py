"""ListOffsets (2), versions 1 to 10: a partition's end (-1), start (-2), newest record (-3), or place at a time.

The end goes through the log first, so it contains all that was acknowledged before the question; for read_committed it
is the last stable offset. A time is answered with the first record that is not older, its own offset and time, which
takes reading its batch. The leader epoch told is that of the batch at the offset. There is no second tier of storage:
-4 (earliest local) is the start, -5 (last tiered) is nothing.
"""

from __future__ import annotations

from typing import Annotated

from corgi.base.batch import parse_header
from corgi.base.command import Buffer
from corgi.base.errors import OK, CorgiError
from corgi.base.ids import GroupId
from corgi.base.records import iter_batch
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int8, Int16, Int32, Int64, Since
from corgi.kafka.errors import Code, code_of
from corgi.state.index import PartitionLog

END, START, NEWEST, LOCAL_START, TIERED = -1, -2, -3, -4, -5
CONFIRM_S = 10.0
PARTITIONS_MAX = 10_000
READ_COMMITTED = 1
_FLEXIBLE = 6
_BY_THE_LOG = frozenset((START, LOCAL_START, TIERED))  # known without asking the others


class Place(Body, frozen=True):
    partition: Int32
    leader_epoch: Annotated[Int32, Since(4)] = -1
    timestamp: Int64 = END


class Topic(Body, frozen=True):
    name: str
    partitions: tuple[Place, ...]


class Request(Body, frozen=True):
    replica: Int32
    isolation: Annotated[Int8, Since(2)] = 0
    topics: tuple[Topic, ...] = ()
    timeout_ms: Annotated[Int32, Since(10)] = 0


class Answer(Body, frozen=True):
    partition: Int32
    error: Int16
    timestamp: Int64 = -1
    offset: Int64 = -1
    leader_epoch: Annotated[Int32, Since(4)] = -1


class Answers(Body, frozen=True):
    name: str
    partitions: tuple[Answer, ...]


class Response(Body, frozen=True):
    throttle_ms: Annotated[Int32, Since(2)] = 0
    topics: tuple[Answers, ...] = ()


def handle(call: Call[Request]) -> None:
    """Answered when the ends are confirmed and the batches that times need are read."""
    topics = call.request.topics
    if sum(len(topic.partitions) for topic in topics) > PARTITIONS_MAX:
        call.close(CorgiError("invalid-argument", f"a request names at most {PARTITIONS_MAX} partitions"))
        return
    groups: dict[GroupId, None] = {}
    for topic in topics:
        for place in topic.partitions:
            found = call.front.having(topic.name, place.partition)
            if found is not None and place.timestamp not in _BY_THE_LOG:
                groups[found.group_of(place.partition)] = None

    def confirmed(errors: dict[GroupId, int]) -> None:
        _Question(call, errors).begin()

    call.front.node.requests.barriers.confirm(call.session, groups, CONFIRM_S, confirmed)


class _Question:
    """A request whose ends are known; batches may have to be read."""

    def __init__(self, call: Call[Request], errors: dict[GroupId, int]) -> None:
        self._call = call
        self._errors = errors
        self._answers = {
            (i, j): Answer(place.partition, Code.NONE)
            for i, topic in enumerate(call.request.topics)
            for j, place in enumerate(topic.partitions)
        }
        self._waiting = 1

    def begin(self) -> None:
        for i, topic in enumerate(self._call.request.topics):
            for j, place in enumerate(topic.partitions):
                self._look((i, j), topic.name, place)
        self._done()

    def set(self, key: tuple[int, int], answer: Answer) -> None:
        """The answer that took reading a batch."""
        self._answers[key] = answer
        self._done()

    def _look(self, key: tuple[int, int], name: str, place: Place) -> None:
        front = self._call.front
        refused = self._call.refusal(Operation.DESCRIBE, Kind.TOPIC, name)
        if refused:
            self._answers[key] = Answer(place.partition, refused)
            return
        topic = front.having(name, place.partition)
        if topic is None:
            self._answers[key] = Answer(place.partition, Code.UNKNOWN_TOPIC_OR_PARTITION)
            return
        try:
            group, log = front.node.requests.places.to_read(topic.topic, place.partition)
        except CorgiError as error:
            self._answers[key] = Answer(place.partition, code_of(error.kind.number))
            return
        fault = front.epoch_fault(group, place.leader_epoch)
        if fault:
            self._answers[key] = Answer(place.partition, fault)
        elif group in self._errors and place.timestamp not in _BY_THE_LOG:
            self._answers[key] = Answer(place.partition, code_of(self._errors[group]))
        elif place.timestamp in (START, LOCAL_START):
            self._answers[key] = Answer(place.partition, OK, -1, log.start, _epoch(log, log.start))
        elif place.timestamp == TIERED:
            self._answers[key] = Answer(place.partition, OK)
        elif place.timestamp == END:
            self._answers[key] = self._end(place, log)
        else:
            self._find(key, place, group, log)

    def _end(self, place: Place, log: PartitionLog) -> Answer:
        end = log.end
        if self._call.request.isolation == READ_COMMITTED and log.transactions is not None:
            end = log.transactions.stable_end(end)
        return Answer(place.partition, OK, -1, end, _epoch(log, end))

    def _find(self, key: tuple[int, int], place: Place, group: GroupId, log: PartitionLog) -> None:
        """By time, or the newest record."""
        if log.count == 0 or place.timestamp < NEWEST:
            return
        timestamp = log.entry(log.count - 1).max_timestamp if place.timestamp == NEWEST else place.timestamp
        i = log.find_time(timestamp)
        if i < log.count:
            self._waiting += 1
            _Look(self, key, place.partition, group, log, i, timestamp).value_ready()

    def read(self, look: _Look) -> Buffer | CorgiError | None:
        entry = look.log.entry(look.index)
        values = self._call.front.node.requests.values
        return values.get(look.group, entry.slot, look, urgent=False)

    def let_go(self, look: _Look) -> None:
        """Nobody wants to know any more."""
        self._call.front.node.requests.values.forget(look)

    @property
    def gone(self) -> bool:
        return self._call.session.closed

    def _done(self) -> None:
        self._waiting -= 1
        if self._waiting or self.gone:
            return
        told = []
        for i, topic in enumerate(self._call.request.topics):
            told.append(Answers(topic.name, tuple([self._answers[i, j] for j in range(len(topic.partitions))])))
        self._call.answer(Response(0, tuple(told)))


class _Look:
    """Waits for one batch and finds the record in it."""

    def __init__(
        self,
        question: _Question,
        key: tuple[int, int],
        partition: int,
        group: GroupId,
        log: PartitionLog,
        index: int,
        timestamp: int,
    ) -> None:
        self._question = question
        self._key = key
        self._partition = partition
        self.group = group
        self.log = log
        self._offset = log.entry(index).base_offset
        self._timestamp = timestamp

    @property
    def index(self) -> int:
        """Of the batch now: indices move when the log's start does."""
        return self.log.find(self._offset)

    def value_ready(self) -> None:
        if self._question.gone:
            self._question.let_go(self)
            return
        if self.index >= self.log.count or not self.log.open:
            self._question.set(self._key, Answer(self._partition, Code.NONE))
            return
        value = self._question.read(self)
        if value is None:
            return
        if isinstance(value, CorgiError):
            self._question.set(self._key, Answer(self._partition, code_of(value.kind.number)))
            return
        self._question.set(self._key, self._inside(value))

    def _inside(self, value: Buffer) -> Answer:
        entry = self.log.entry(self.index)
        batch = memoryview(value)[entry.at : entry.at + entry.length]
        header = parse_header(batch)
        try:
            for record in iter_batch(batch, checked=True):
                offset = entry.base_offset + record.offset - header.base_offset
                if record.timestamp >= self._timestamp and offset >= self.log.start:
                    return Answer(self._partition, OK, record.timestamp, offset, entry.epoch)
        except CorgiError as error:
            return Answer(self._partition, code_of(error.kind.number))
        return Answer(self._partition, Code.NONE)


def _epoch(log: PartitionLog, offset: int) -> int:
    """The leader epoch of the batch at ``offset``, or of the last one before it; -1 if there is none."""
    return log.epoch or -1 if offset >= log.end else log.entry(log.find(log.start)).epoch


API = Api(2, "ListOffsets", (1, 10), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
