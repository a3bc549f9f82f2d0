"""InitProducerId (22), versions 0 to 4: an id for an idempotent producer, from any node.

Without a transactional id it is a fresh one with epoch 0, also for a client that names an old one: its epoch began with
its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from corgi.base.command import Buffer
from corgi.base.ports import Message
from corgi.kafka.api import Api, Call, bodies, error_of
from corgi.kafka.codec import Body, Int16, Int32, Int64, Since
from corgi.kafka.errors import Code, code_of
from corgi.wire.messages import InitProducer, InitProducerReply

_FLEXIBLE = 2


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
    """Answered by the node's own ids."""
    if call.request.name is not None:
        call.answer(Response(0, Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED))
        return

    def answered(reply: Message, _payload: Sequence[Buffer]) -> None:
        if isinstance(reply, InitProducerReply):
            call.answer(Response(0, Code.NONE, reply.producer_id, reply.producer_epoch))
            return
        failure = error_of(reply)
        call.answer(Response(0, code_of(failure.kind.number if failure else -1)))

    call.ask(InitProducer(), answered)


API = Api(22, "InitProducerId", (0, 4), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
