"""EndTxn (26), versions 0 to 4: commit or abort the producer's transaction; answered when it is so in every partition.

May be repeated: the same outcome is a success, the other one INVALID_TXN_STATE. The protocol of these versions does
not number transactions, so a request that was delayed beyond the next transaction's beginning ends that one (KIP-890
tells of it); the native protocol does not have this gap.
"""

from __future__ import annotations

from corgi.broker.transactions import LAST_ONE
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Int64
from corgi.kafka.transactional import PATIENCE_MS, code_in_transaction
from corgi.wire.transaction_messages import EndTransaction

_FLEXIBLE = 3
_TOLD_FENCED = 2


class Request(Body, frozen=True):
    name: str
    producer_id: Int64
    producer_epoch: Int16
    commit: bool


class Response(Body, frozen=True):
    throttle_ms: Int32
    error: Int16


def handle(call: Call[Request]) -> None:
    """Answered behind the markers."""
    request = call.request
    refused = call.refusal(Operation.WRITE, Kind.TRANSACTIONAL_ID, request.name)
    if refused:
        call.answer(Response(0, refused))
        return
    message = EndTransaction(
        request.name, request.producer_id, request.producer_epoch, LAST_ONE, request.commit, PATIENCE_MS
    )

    def ended(error: int, _text: str) -> None:
        call.answer(Response(0, code_in_transaction(error, call.version, _TOLD_FENCED)))

    call.front.node.requests.transactions.transactions.decide(message, ended)


API = Api(26, "EndTxn", (0, 4), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
