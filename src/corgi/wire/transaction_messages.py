"""Requests, answers and pushes of transactions and prepared messages; docs/protocol.md tells how they work together.

Any node takes any of them: what was decided is in the log, and who writes it names what he takes it to be.
"""

from __future__ import annotations

from typing import ClassVar

from corgi.base.ids import Offset, TopicId
from corgi.wire.group_messages import Ranges
from corgi.wire.messages import WireMessage


class InitTransactions(WireMessage, frozen=True, array_like=True, gc=False):
    """Become the producer of this transactional name: what an older one left open is aborted, and it is fenced in every
    Paxos group before the answer."""

    TYPE: ClassVar[int] = 23
    name: str
    timeout_ms: int = 10_000


class InitTransactionsReply(WireMessage, frozen=True, array_like=True, gc=False):
    """``number`` is that of the last transaction; the next one has the number above it."""

    TYPE: ClassVar[int] = 151
    error: int
    message: str = ""
    producer_id: int = -1
    producer_epoch: int = -1
    number: int = 0


class Checkpoint(WireMessage, frozen=True, array_like=True, gc=False):
    """A consumer group's checkpoint that moves with a transaction. ``version``: that of the cursor which it replaces,
    -1 for any. ``reset``: it may go back. ``leader_epoch``: of the last record done, kept with the checkpoint."""

    group: str
    topic: TopicId
    partition: int
    slice: int
    owner_epoch: int
    member: str
    version: int
    offset: Offset
    ranges: Ranges = ()
    metadata: str = ""
    reset: bool = False
    leader_epoch: int = -1


class OpenTransaction(WireMessage, frozen=True, array_like=True, gc=False):
    """Begin transaction ``number``, or add to it: from the answer on these partitions take its batches, and these
    checkpoints are held fast. It is aborted ``life_ms`` after its beginning at the latest."""

    TYPE: ClassVar[int] = 24
    name: str
    producer_id: int
    producer_epoch: int
    number: int
    partitions: tuple[tuple[TopicId, int], ...]
    checkpoints: tuple[Checkpoint, ...] = ()
    life_ms: int = 60_000
    timeout_ms: int = 10_000


class OpenTransactionReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 152
    error: int
    message: str = ""


class EndTransaction(WireMessage, frozen=True, array_like=True, gc=False):
    """Commit or abort; answered when it is so in every partition. May be repeated."""

    TYPE: ClassVar[int] = 25
    name: str
    producer_id: int
    producer_epoch: int
    number: int
    commit: bool
    timeout_ms: int = 10_000


class EndTransactionReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 153
    error: int
    message: str = ""


class Prepare(WireMessage, frozen=True, array_like=True, gc=False):
    """Keep the batch in the payload for this partition, unseen, until it is settled. ``id`` is chosen by the client.

    ``producer``: who is asked back, ``check_limit`` times every ``check_ms``, when nobody settles it.
    """

    TYPE: ClassVar[int] = 26
    id: str
    producer: str
    topic: TopicId
    partition: int
    length: int
    check_ms: int = 60_000
    check_limit: int = 15
    timeout_ms: int = 10_000


class PrepareReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 154
    error: int
    message: str = ""


class Settle(WireMessage, frozen=True, array_like=True, gc=False):
    """Let the prepared message be in its partition, or nowhere. May be repeated for a minute."""

    TYPE: ClassVar[int] = 27
    id: str
    topic: TopicId
    partition: int
    commit: bool
    timeout_ms: int = 10_000


class SettleReply(WireMessage, frozen=True, array_like=True, gc=False):
    """``offset`` -1: rolled back, or settled by an earlier sending."""

    TYPE: ClassVar[int] = 155
    error: int
    message: str = ""
    offset: Offset = Offset(-1)
    timestamp_ms: int = -1


class Watch(WireMessage, frozen=True, array_like=True, gc=False):
    """Ask this connection back about prepared messages of these producers, and of no others from now on."""

    TYPE: ClassVar[int] = 28
    producers: tuple[str, ...]


class WatchReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 156


class ListTransactions(WireMessage, frozen=True, array_like=True, gc=False):
    """Everything that is open, confirmed through the log."""

    TYPE: ClassVar[int] = 29
    timeout_ms: int = 10_000


class TransactionInfo(WireMessage, frozen=True, array_like=True, gc=False):
    """``state``: "open", "committing", "aborting", or "prepared" for a prepared message, whose ``name`` is its
    producer's and ``id`` its own. ``age_ms`` since the beginning."""

    name: str
    state: str
    age_ms: int
    life_ms: int
    partitions: tuple[tuple[TopicId, int], ...]
    producer_id: int = -1
    producer_epoch: int = -1
    number: int = -1
    id: str = ""


class ListTransactionsReply(WireMessage, frozen=True, array_like=True, gc=False):
    TYPE: ClassVar[int] = 157
    error: int
    message: str = ""
    transactions: tuple[TransactionInfo, ...] = ()


class Atomic(WireMessage, frozen=True, array_like=True, gc=False):
    """Batches (topic, partition, bytes in the payload) and checkpoints as one command: all of it or nothing, in one
    Paxos group. Batches that name an idempotent producer may be sent again; checkpoints name their versions.

    ``producer_id`` and ``producer_epoch``, unless -1: refuse it if that producer was fenced.
    """

    TYPE: ClassVar[int] = 30
    timeout_ms: int
    batches: tuple[tuple[TopicId, int, int], ...]
    checkpoints: tuple[Checkpoint, ...] = ()
    producer_id: int = -1
    producer_epoch: int = -1


class AtomicReply(WireMessage, frozen=True, array_like=True, gc=False):
    """Per batch the offset (-1: stored by an earlier sending); the time of all."""

    TYPE: ClassVar[int] = 158
    error: int
    message: str = ""
    offsets: tuple[Offset, ...] = ()
    timestamp_ms: int = -1


class CheckBack(WireMessage, frozen=True, array_like=True, gc=False):
    """Pushed to who watches for ``producer``: what has become of what this message was prepared for? Settle it."""

    TYPE: ClassVar[int] = 245
    producer: str
    id: str
    topic: TopicId
    partition: int
    age_ms: int
    round: int
