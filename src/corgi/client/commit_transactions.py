"""A checkpoint and results that lie in several Paxos groups: stored as a transaction, once, whatever happens meanwhile.

As a story: (1) the decision is asked for and the connection breaks; (2) nobody knows whether it was taken; (3) the
producer begins anew, so that what was open is aborted and what was decided is carried out; (4) now the version of the
cursor tells which of the two it was, and it stays so. A consumer that dies between opening and decision holds its unit
until the cluster aborts the transaction, LIFE_S after it was opened.
"""

from __future__ import annotations

import asyncio

from corgi.base.errors import CorgiError
from corgi.client.core.backoff import Backoff
from corgi.client.held import Flight
from corgi.client.shell import Shell
from corgi.client.topics import ask_for
from corgi.client.two_phases import Identity, TwoPhases, own_identity
from corgi.wire.group_messages import CommitEntry, Cursors, CursorsReply
from corgi.wire.transaction_messages import Checkpoint

LIFE_S = 10.0
STEP_S = 10.0


class CommitTransactions:
    """Of one consumer; its producers are used again."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._two_phases = TwoPhases(shell)
        self._free: list[Identity] = []

    async def store(self, group: str, member: str, home: int, flight: Flight) -> CorgiError | None:
        """Store it; why it is not stored otherwise. ``home``: the Paxos group of the unit."""
        identity = self._free.pop() if self._free else own_identity(self._shell)
        entry = flight.entry
        checkpoint = Checkpoint(
            group,
            entry.topic,
            entry.partition,
            entry.slice,
            entry.owner_epoch,
            member,
            entry.version,
            entry.offset,
            entry.ranges,
            entry.metadata,
        )
        try:
            await self._two_phases.begin(identity)
            await self._two_phases.store(identity, flight.parts, (checkpoint,), life_s=LIFE_S, timeout_s=STEP_S)
        except CorgiError as error:
            return error  # nothing has happened, and the producer is given up
        try:
            await self._two_phases.commit(identity, timeout_s=STEP_S)
        except CorgiError as error:
            return await self._outcome(identity, group, member, home, entry, error)
        self._free.append(identity)
        return None

    async def _outcome(
        self, identity: Identity, group: str, member: str, home: int, entry: CommitEntry, error: CorgiError
    ) -> CorgiError | None:
        """What became of a decision that met ``error``."""
        backoff = Backoff(0.05, 1.0, self._shell.chance)
        while True:
            try:
                await self._two_phases.fence(identity)
                question = Cursors(group, ((entry.topic, entry.partition, entry.slice),))
                reply = await ask_for(self._shell, question, CursorsReply, group=home)
            except CorgiError as failure:
                if not (failure.retryable or failure.code == "outcome-unknown"):
                    return failure
                await asyncio.sleep(backoff.next())
                continue
            [cursor] = reply.cursors
            if (cursor.owner_epoch, cursor.member) != (entry.owner_epoch, member):
                return CorgiError("consumer-fenced", "the unit was given to another consumer meanwhile")
            if cursor.version == entry.version:
                self._free.append(identity)
                return error if error.retryable else CorgiError("outcome-unknown", str(error))
            if (cursor.version, cursor.offset, cursor.ranges) == (entry.version + 1, entry.offset, entry.ranges):
                self._free.append(identity)
                return None
            return CorgiError("checkpoint-moved", f"the checkpoint has version {cursor.version}, not {entry.version}")
