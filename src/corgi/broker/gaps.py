"""Telling a gap that this node made from one that the producer made.

A batch of an idempotent producer that was refused here for a while (overloaded, no quorum, time-out) leaves a gap in
front of the batches that the client had sent behind it. Those are refused at apply as "out of order", which would make
the client give up. To it they are answered as "unsettled" instead, which it retries, in order.
"""

from __future__ import annotations

from corgi.base.batch import BatchHeader
from corgi.base.errors import BY_NUMBER, OK, OUT_OF_ORDER_SEQUENCE, UNSETTLED
from corgi.base.ids import TopicId
from corgi.base.ports import ClientSession

GAPS_MAX = 10_000  # remembered; the oldest is forgotten first

_Key = tuple[ClientSession, TopicId, int, int]


class Gaps:
    """The lowest sequence number refused for a while, by client, partition and producer."""

    __slots__ = ("_lowest",)

    def __init__(self) -> None:
        self._lowest: dict[_Key, int] = {}

    def __bool__(self) -> bool:
        return bool(self._lowest)

    def answer(self, client: ClientSession, topic: TopicId, partition: int, header: BatchHeader, error: int) -> int:
        """The error to tell the client for what became of its batch, which is remembered."""
        key = (client, topic, partition, header.producer_id)
        lowest = self._lowest.get(key)
        if error == OK:
            if lowest is not None and header.base_sequence >= lowest:
                del self._lowest[key]
            return error
        if error == OUT_OF_ORDER_SEQUENCE:
            return UNSETTLED if lowest is not None and header.base_sequence > lowest else error
        if BY_NUMBER[error].retryable and (lowest is None or header.base_sequence < lowest):
            self._lowest[key] = header.base_sequence
            if len(self._lowest) > GAPS_MAX:
                del self._lowest[next(iter(self._lowest))]
        return error

    def client_closed(self, client: ClientSession) -> None:
        for key in [key for key in self._lowest if key[0] is client]:
            del self._lowest[key]
