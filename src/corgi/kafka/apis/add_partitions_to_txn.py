"""AddPartitionsToTxn (24), versions 0 to 3: these partitions take batches of the producer's transaction from now on.

Begins the transaction if none is open. All partitions are added or none: where one does not exist, the others are told
OPERATION_NOT_ATTEMPTED. Later versions are for brokers among themselves.
"""

from __future__ import annotations

from corgi.base.ids import TopicId
from corgi.broker.transactions import OPEN_OR_NEXT
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Int64
from corgi.kafka.errors import Code
from corgi.kafka.transactional import PATIENCE_MS, Places, code_in_transaction, known
from corgi.wire.transaction_messages import OpenTransaction

_FLEXIBLE = 3
_TOLD_FENCED = 2


class Request(Body, frozen=True):
    name: str
    producer_id: Int64
    producer_epoch: Int16
    topics: tuple[Places, ...]


class Result(Body, frozen=True):
    partition: Int32
    error: Int16


class Results(Body, frozen=True):
    name: str
    partitions: tuple[Result, ...]


class Response(Body, frozen=True):
    throttle_ms: Int32
    topics: tuple[Results, ...]


def handle(call: Call[Request]) -> None:
    """Answered when the partitions know of the transaction."""
    request = call.request
    refused = call.refusal(Operation.WRITE, Kind.TRANSACTIONAL_ID, request.name)
    if refused:
        _answer(call, refused, {})
        return
    wanted: list[tuple[TopicId, int]] = []
    not_taken: dict[tuple[str, int], Code] = {}
    for name, partition, topic in known(call.front, request.topics):
        refused = call.refusal(Operation.WRITE, Kind.TOPIC, name)
        if refused or topic is None:
            not_taken[name, partition] = refused or Code.UNKNOWN_TOPIC_OR_PARTITION
        else:
            wanted.append((topic, partition))
    if not_taken:
        _answer(call, Code.OPERATION_NOT_ATTEMPTED, not_taken)
        return
    message = OpenTransaction(
        request.name, request.producer_id, request.producer_epoch, OPEN_OR_NEXT, tuple(wanted), (), 0, PATIENCE_MS
    )

    def opened(error: int, _text: str) -> None:
        _answer(call, code_in_transaction(error, call.version, _TOLD_FENCED), {})

    call.front.node.requests.transactions.transactions.begin(message, opened)


def _answer(call: Call[Request], code: Code, others: dict[tuple[str, int], Code]) -> None:
    def result(name: str, partition: int) -> Result:
        return Result(partition, others.get((name, partition), code))

    results = [
        Results(topic.name, tuple([result(topic.name, partition) for partition in topic.partitions]))
        for topic in call.request.topics
    ]
    call.answer(Response(0, tuple(results)))


API = Api(24, "AddPartitionsToTxn", (0, 3), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
