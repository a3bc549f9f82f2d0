"""AddOffsetsToTxn (25), versions 0 to 3: the producer's transaction will move checkpoints of this consumer group.

Begins the transaction if none is open. Which checkpoints move is told by TxnOffsetCommit, which opens the transaction
where they lie; so nothing of the group is noted here.
"""

from __future__ import annotations

from corgi.broker.transactions import OPEN_OR_NEXT
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Int64
from corgi.kafka.transactional import PATIENCE_MS, code_in_transaction
from corgi.wire.transaction_messages import OpenTransaction

_FLEXIBLE = 3
_TOLD_FENCED = 2


class Request(Body, frozen=True):
    name: str
    producer_id: Int64
    producer_epoch: Int16
    group: str


class Response(Body, frozen=True):
    throttle_ms: Int32
    error: Int16


def handle(call: Call[Request]) -> None:
    """Answered when the transaction is open."""
    request = call.request
    refused = call.refusal(Operation.WRITE, Kind.TRANSACTIONAL_ID, request.name)
    refused = refused or call.refusal(Operation.READ, Kind.GROUP, request.group)
    if refused:
        call.answer(Response(0, refused))
        return
    message = OpenTransaction(
        request.name, request.producer_id, request.producer_epoch, OPEN_OR_NEXT, (), (), 0, PATIENCE_MS
    )

    def opened(error: int, _text: str) -> None:
        call.answer(Response(0, code_in_transaction(error, call.version, _TOLD_FENCED)))

    call.front.node.requests.transactions.transactions.begin(message, opened)


API = Api(25, "AddOffsetsToTxn", (0, 3), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
