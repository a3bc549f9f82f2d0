"""InitProducerId (22), versions 0 to 4: an id for an idempotent or a transactional producer, from any node.

Without a transactional id it is a fresh one with epoch 0, also for a client that names an old one: its epoch began with
its id. With one it is the id of that name with the next epoch: the older producer is fenced and what it left open is
aborted before the answer, so CONCURRENT_TRANSACTIONS is not told. A client that names its id and epoch goes on only if
nobody has begun since (KIP-360).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from corgi.base.command import Buffer
from corgi.base.ports import Message
from corgi.broker.decisions import Decided
from corgi.kafka.access import CLUSTER_NAME, Kind, Operation
from corgi.kafka.api import Api, Call, bodies, error_of
from corgi.kafka.codec import Body, Int16, Int32, Int64, Since
from corgi.kafka.errors import Code, code_of
from corgi.kafka.transactional import PATIENCE_MS, code_in_transaction
from corgi.wire.messages import InitProducer, InitProducerReply

LIFE_MS_MAX = 900_000  # of a transaction (Kafka's transaction.max.timeout.ms)
NAME_BYTES_MAX = 999
_FLEXIBLE = 2
_TOLD_FENCED = 4


class Request(Body, frozen=True):
    name: str | None
    timeout_ms: Int32
    producer_id: Annotated[Int64, Since(3)] = -1
    producer_epoch: Annotated[Int16, Since(3)] = -1


class Response(Body, frozen=True):
    throttle_ms: Int32
    error: Int16
    producer_id: Int64 = -1
    producer_epoch: Int16 = -1


def handle(call: Call[Request]) -> None:
    """Answered by the node's own ids, or behind the record of the transactional id."""
    name = call.request.name
    refused = _refusal(call, name)
    if refused:
        call.answer(Response(0, refused))
    elif name is None:
        _idempotent(call)
    elif not 0 < len(name.encode()) <= NAME_BYTES_MAX:
        call.answer(Response(0, Code.INVALID_REQUEST))
    elif not 0 < call.request.timeout_ms <= LIFE_MS_MAX:
        call.answer(Response(0, Code.INVALID_TRANSACTION_TIMEOUT))
    else:
        _transactional(call, name)


def _refusal(call: Call[Request], name: str | None) -> Code:
    """Who may write anywhere may have an idempotent producer (KIP-679)."""
    if name is not None:
        return call.refusal(Operation.WRITE, Kind.TRANSACTIONAL_ID, name)
    access = call.front.access
    if access is None or access.may_somewhere(call.session.user, Operation.WRITE, Kind.TOPIC):
        return Code.NONE
    return call.refusal(Operation.IDEMPOTENT_WRITE, Kind.CLUSTER, CLUSTER_NAME)


def _idempotent(call: Call[Request]) -> None:
    def answered(reply: Message, _payload: Sequence[Buffer]) -> None:
        if isinstance(reply, InitProducerReply):
            call.answer(Response(0, Code.NONE, reply.producer_id, reply.producer_epoch))
            return
        failure = error_of(reply)
        call.answer(Response(0, code_of(failure.kind.number if failure else -1)))

    call.ask(InitProducer(), answered)


def _transactional(call: Call[Request], name: str) -> None:
    request = call.request

    def began(error: int, _text: str, found: Decided | None) -> None:
        if found is None:
            call.answer(Response(0, code_in_transaction(error, call.version, _TOLD_FENCED)))
        else:
            call.answer(Response(0, Code.NONE, found.producer_id, found.epoch))

    mine = (request.producer_id, request.producer_epoch) if request.producer_id >= 0 else None
    transactions = call.front.node.requests.transactions.transactions
    transactions.become(name, PATIENCE_MS, began, life_ms=request.timeout_ms, mine=mine)


API = Api(22, "InitProducerId", (0, 4), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
