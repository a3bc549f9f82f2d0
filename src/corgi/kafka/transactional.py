"""What the APIs of transactions share: codes of errors as each version knows them, and partitions by topic.

Transactions of Kafka's protocol have no numbers; the node finds the one that is meant in its record
(``broker.transactions``), so any node takes any of these requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from corgi.base.errors import BY_CODE, TRANSACTION_FENCED
from corgi.base.ids import TopicId
from corgi.broker.decisions import ABORT, COMMIT, DONE, OPEN, Decided
from corgi.kafka.codec import Body, Int32
from corgi.kafka.errors import Code, code_of
from corgi.kafka.front import Front

UNKNOWN_TRANSACTION = BY_CODE["unknown-transaction"].number
PATIENCE_MS = 30_000  # of a request of which its client does not tell how long it waits
EMPTY = "Empty"
_LIVE = {OPEN: "Ongoing", COMMIT: "PrepareCommit", ABORT: "PrepareAbort"}
_COMMITTED, _ABORTED = "CompleteCommit", "CompleteAbort"
STATES = frozenset((EMPTY, *_LIVE.values(), _COMMITTED, _ABORTED, "Dead", "PrepareEpochFence"))


class Places(Body, frozen=True):
    """Partitions of one topic."""

    name: str
    partitions: tuple[Int32, ...]


def code_in_transaction(error: int, version: int, told_fenced: int) -> Code:
    """As ``code_of``; before version ``told_fenced`` a producer that was fenced is told by the older code."""
    if error == TRANSACTION_FENCED and version < told_fenced:
        return Code.INVALID_PRODUCER_EPOCH
    if error == UNKNOWN_TRANSACTION:
        return Code.INVALID_PRODUCER_ID_MAPPING
    return code_of(error)


def known(front: Front, topics: Iterable[Places]) -> Iterator[tuple[str, int, TopicId | None]]:
    """(topic's name, partition, topic's id, None if there is no such partition)."""
    for topic in topics:
        for partition in topic.partitions:
            found = front.having(topic.name, partition)
            yield topic.name, partition, None if found is None else found.topic


def state_of(found: Decided) -> str:
    """By Kafka's names."""
    if found.state != DONE:
        return _LIVE[found.state]
    if not found.started_ms:
        return EMPTY
    return _COMMITTED if found.committed else _ABORTED


def by_topic(front: Front, partitions: Iterable[tuple[TopicId, int]]) -> tuple[Places, ...]:
    """Partitions as Kafka names them; those of topics that are gone are left out."""
    places: dict[str, list[int]] = {}
    for topic, partition in partitions:
        found = front.node.requests.places.topics.by_id.get(topic)
        if found is not None:
            places.setdefault(found.name, []).append(partition)
    return tuple([Places(name, tuple(numbers)) for name, numbers in places.items()])
