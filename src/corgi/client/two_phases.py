"""Batches and checkpoints of several Paxos groups as one act: the client's side of a transaction.

In order: the opening (which stages the checkpoints), the batches, the decision. What fails before that was asked for
has not happened and never will; what fails while it is asked for may have happened. ``fence`` makes an end of that:
after it nothing of what the producer had begun can happen any more.

Invariant: a producer is used by one transaction at a time, and its sequences count what was stored under its epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.base.records import restamped
from corgi.client.shell import Shell
from corgi.client.topics import ask_for
from corgi.state.producers import SEQUENCE_MASK
from corgi.wire import messages as m
from corgi.wire import transaction_messages as t

ACKS_QUORUM = 2
_OVER = ("transaction-aborted", "transaction-ended")
Place = tuple[TopicId, int]
Stored = tuple[int, int]  # offset, time in ms
_Who = tuple[str, int, int, int]  # a transaction: name, producer id, epoch, number


class Part(NamedTuple):
    """A batch that names no producer yet, of so many ``records``, and where it goes."""

    topic: TopicId
    partition: int
    group: int
    records: int
    batch: bytes

    @property
    def place(self) -> Place:
        return self.topic, self.partition


class Identity:
    """A producer and where its sequences stand. ``id`` -1: it has to begin (anew)."""

    def __init__(self, name: str = "") -> None:
        self.name = name  # transactional; "": for one-command acts only
        self.lock = asyncio.Lock()
        self.fenced = False  # another client took the name: to begin again would only fence that one
        self.unsure: _Who | None = None  # whether somebody did when this one was refused, is not known yet
        self.id = -1
        self.epoch = -1
        self.number = 0
        self.sequences: dict[Place, int] = {}

    def begin(self, producer_id: int, epoch: int, number: int = 0) -> None:
        self.id, self.epoch, self.number = producer_id, epoch, number
        self.sequences = {}

    def stamp(self, part: Part, *, transactional: bool) -> bytes:
        """The part as a batch of this producer, which is the next of its partition."""
        first = self.sequences.get(part.place, 0)
        return bytes(restamped(part.batch, self.id, self.epoch, first, transactional=transactional))

    def sent(self, part: Part) -> None:
        self.sequences[part.place] = (self.sequences.get(part.place, 0) + part.records) & SEQUENCE_MASK


def own_identity(shell: Shell) -> Identity:
    """A producer under a name that nobody else uses."""
    return Identity(f"sdk-{shell.token()}")


class TwoPhases:
    """Carries transactions out. All raise CorgiError; ``timeout_s`` bounds each step."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def begin(self, identity: Identity) -> None:
        """Become the producer, unless it is one. Raises "transaction-fenced"."""
        if identity.fenced:
            raise CorgiError("transaction-fenced")
        if identity.id >= 0:
            return
        if identity.unsure is not None:
            refused = await self._abort(identity.unsure)
            if refused is not None and refused.code not in _OVER:
                raise refused
            identity.unsure = None
        if identity.name:
            became = await ask_for(self._shell, t.InitTransactions(identity.name), t.InitTransactionsReply)
            identity.begin(became.producer_id, became.producer_epoch, became.number)
        else:
            given = await ask_for(self._shell, m.InitProducer(), m.InitProducerReply)
            identity.begin(given.producer_id, given.producer_epoch)

    async def fence(self, identity: Identity) -> None:
        """Begin anew: what was open is aborted, what was decided is carried out, and nothing else will come of it."""
        identity.id = -1
        await self.begin(identity)

    async def store(
        self,
        identity: Identity,
        parts: Sequence[Part],
        checkpoints: Sequence[t.Checkpoint],
        *,
        life_s: float,
        timeout_s: float,
    ) -> list[Stored]:
        """Open, and store the batches, which nobody sees yet; where each is. If it raises, it has not happened.

        Whoever is late is fenced by the cluster, which has ended the transaction; that nobody else has begun under this
        name only its record tells.
        """
        who = self._next(identity)
        places = tuple(dict.fromkeys([part.place for part in parts]))
        try:
            opening = t.OpenTransaction(*who, places, tuple(checkpoints), int(life_s * 1000), int(timeout_s * 1000))
            await ask_for(self._shell, opening, t.OpenTransactionReply, timeout_s=timeout_s)
            return await self._append(identity, parts, timeout_s)
        except BaseException as error:
            refused = await asyncio.shield(self._abort(who))
            if isinstance(error, CorgiError) and error.code == "transaction-fenced":
                raise self._ended(identity, who, refused) from None
            raise

    async def commit(self, identity: Identity, *, timeout_s: float) -> None:
        """Have it happen. If it raises, it may have happened; not after "transaction-aborted"."""
        ending = t.EndTransaction(*self._next(identity), True, int(timeout_s * 1000))
        await ask_for(self._shell, ending, t.EndTransactionReply, timeout_s=timeout_s)
        identity.number += 1

    def _next(self, identity: Identity) -> _Who:
        return identity.name, identity.id, identity.epoch, identity.number + 1

    async def _append(self, identity: Identity, parts: Sequence[Part], timeout_s: float) -> list[Stored]:
        """Store the batches, those of different partitions at the same time."""
        stored: list[Stored] = [(-1, -1)] * len(parts)
        by_place: dict[Place, list[int]] = {}
        for number, part in enumerate(parts):
            by_place.setdefault(part.place, []).append(number)

        async def store(numbers: list[int]) -> None:
            for number in numbers:
                part = parts[number]
                body = identity.stamp(part, transactional=True)
                message = m.Produce(ACKS_QUORUM, int(timeout_s * 1000), ((*part.place, len(body)),))
                reply = await ask_for(
                    self._shell, message, m.ProduceReply, group=part.group, payload=[body], timeout_s=timeout_s
                )
                identity.sent(part)
                stored[number] = reply.results[0][1], reply.results[0][2]

        try:
            async with asyncio.TaskGroup() as group:
                for numbers in by_place.values():
                    group.create_task(store(numbers))
        except ExceptionGroup as failed:
            # Not ``except*``: what is raised in it comes out in a group of its own, with some releases of Python 3.11.
            faults = [one for one in failed.exceptions if not isinstance(one, CorgiError)]
            raise (faults or failed.exceptions)[0] from None
        return stored

    def _ended(self, identity: Identity, who: _Who, refused: CorgiError | None) -> CorgiError:
        """Why the transaction has ended, as its record tells; if that could not be asked, it is asked later."""
        if refused is not None and refused.code in ("transaction-fenced", "transaction-aborted"):
            return refused
        identity.unsure = who
        text = "the cluster has ended the transaction: it was open for too long, or another producer has taken its name"
        return CorgiError("transaction-aborted", text)

    async def _abort(self, who: _Who) -> CorgiError | None:
        """As far as it can be told; the cluster aborts by itself what is left open. What it says against that."""
        try:
            await ask_for(self._shell, t.EndTransaction(*who, False), t.EndTransactionReply)
        except CorgiError as error:
            return error
        return None
