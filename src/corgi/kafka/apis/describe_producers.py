"""DescribeProducers (61), version 0: the producers that a partition remembers, and what they have open there (KIP-664).

Confirmed through the log, so any node tells the same. The time is that of the log when the last batch was stored.
"""

from __future__ import annotations

from itertools import islice

from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, TopicId
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Int64
from corgi.kafka.errors import Code, code_of
from corgi.kafka.transactional import Places, known
from corgi.state.index import PartitionLog
from corgi.state.producers import SEQUENCE_MASK

CONFIRM_S = 10.0
PARTITIONS_MAX = 1_000
PRODUCERS_MAX = 10_000  # told of in one answer
_FLEXIBLE = 0


class Request(Body, frozen=True):
    topics: tuple[Places, ...]


class Producer(Body, frozen=True):
    producer_id: Int64
    producer_epoch: Int32
    last_sequence: Int32
    last_timestamp: Int64
    coordinator_epoch: Int32
    transaction_start: Int64


class Answer(Body, frozen=True):
    partition: Int32
    error: Int16
    message: str | None = None
    producers: tuple[Producer, ...] = ()


class Answers(Body, frozen=True):
    name: str
    partitions: tuple[Answer, ...]


class Response(Body, frozen=True):
    throttle_ms: Int32
    topics: tuple[Answers, ...]


def handle(call: Call[Request]) -> None:
    """Answered behind a barrier in the Paxos groups of the partitions."""
    topics = call.request.topics
    if sum(len(topic.partitions) for topic in topics) > PARTITIONS_MAX:
        call.close(CorgiError("invalid-argument", f"a request names at most {PARTITIONS_MAX} partitions"))
        return
    places = call.front.node.requests.places
    groups: dict[GroupId, None] = {}
    for _, partition, topic in known(call.front, topics):
        if topic is not None:
            groups[places.topics.by_id[topic].group_of(partition)] = None

    def confirmed(errors: dict[GroupId, int]) -> None:
        left = [PRODUCERS_MAX]
        answers = [
            Answers(topic.name, tuple([_tell(call, one, errors, left) for one in known(call.front, (topic,))]))
            for topic in topics
        ]
        call.answer(Response(0, tuple(answers)))

    call.front.node.requests.barriers.confirm(call.session, groups, CONFIRM_S, confirmed)


def _tell(
    call: Call[Request], place: tuple[str, int, TopicId | None], errors: dict[GroupId, int], left: list[int]
) -> Answer:
    name, partition, topic = place
    refused = call.refusal(Operation.READ, Kind.TOPIC, name)
    if refused:
        return Answer(partition, refused)
    if topic is None:
        return Answer(partition, Code.UNKNOWN_TOPIC_OR_PARTITION)
    try:
        group, log = call.front.node.requests.places.to_read(topic, partition)
    except CorgiError as error:
        return Answer(partition, code_of(error.kind.number), error.message)
    if group in errors:
        return Answer(partition, code_of(errors[group]))
    producers = tuple(islice(_producers(log), left[0]))
    left[0] -= len(producers)
    return Answer(partition, Code.NONE, None, producers)


def _producers(log: PartitionLog) -> list[Producer]:
    begun = log.transactions.open if log.transactions is not None else {}
    return [
        Producer(
            producer_id,
            one.epoch,
            (one.next_sequence - 1) & SEQUENCE_MASK if len(one.window) else -1,
            one.log_time_ms,
            -1,
            begun.get(producer_id, -1),
        )
        for producer_id, one in log.producers.items()
    ]


API = Api(61, "DescribeProducers", (0, 0), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
