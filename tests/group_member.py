"""A member of a consumer group at the level of messages, over a real connection: it beats, holds, commits."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

import corgi
from corgi.base.errors import CorgiError, error_from_number
from corgi.base.ids import Offset
from corgi.client.topics import ask
from corgi.wire import group_messages as g
from corgi.wire.messages import WireMessage

BEAT_S = 0.05


class GroupMember:
    """Lets go at once of what it is no longer shown. ``held``: what it was shown last; ``taken`` counts what it got
    that it had not held before."""

    def __init__(self, mq: corgi.Corgi, group: str, name: str, *topics: str, slices: int = 1) -> None:
        self.mq = mq
        self.group = group
        self.name = name
        self.topics = topics
        self.slices = slices
        self.epoch = 0
        self.held: dict[g.Unit, g.Assigned] = {}
        self.taken = 0

    async def ask(self, message: WireMessage, judge: Callable[[WireMessage], CorgiError | None]) -> WireMessage:
        shell = self.mq._shell
        home = zlib.crc32(self.group.encode()) % len(shell.core.routing.leaders)
        answer, _ = await ask(shell, message, group=home, judge=judge)
        return answer

    async def beat(self, *, leave: bool = False) -> None:
        """Raises CorgiError "unknown-member" …"""
        owned = tuple((*unit, one.owner_epoch) for unit, one in self.held.items())
        message = g.GroupHeartbeat(
            self.group, self.name, self.epoch, self.topics, slices=self.slices, owned=owned, leave=leave
        )

        def judge(answer: WireMessage) -> CorgiError | None:
            error = error_of(answer)
            return error if error is not None and error.retryable else None

        reply = await self.ask(message, judge)
        error = error_of(reply)
        if error is not None:
            raise error
        assert isinstance(reply, g.GroupHeartbeatReply)
        self.epoch = reply.epoch
        if reply.assignment is not None:
            given = {(one.topic, one.partition, one.slice): one for one in reply.assignment}
            self.taken += sum(self.held.get(unit) is None for unit in given)
            self.held = given

    async def until(self, condition: Callable[[], bool], *others: GroupMember) -> None:
        """Beat, and have others beat, until something is so."""
        async with asyncio.timeout(30):
            while not condition():
                for member in (self, *others):
                    await member.beat()
                await asyncio.sleep(BEAT_S)

    async def commit(self, unit: g.Unit, offset: int) -> str:
        """The code of the error, "" if it was done."""
        entry = g.CommitEntry(*unit, self.held[unit].owner_epoch, -1, Offset(offset))

        def judge(answer: WireMessage) -> CorgiError | None:
            assert isinstance(answer, g.CommitReply)
            error = error_from_number(answer.entries[0]) if answer.entries[0] else None
            return error if error is not None and error.retryable else None

        reply = await self.ask(g.Commit(self.group, self.name, 10_000, (entry,)), judge)
        assert isinstance(reply, g.CommitReply)
        return error_from_number(reply.entries[0]).code if reply.entries[0] else ""


def error_of(answer: WireMessage) -> CorgiError | None:
    assert isinstance(answer, g.GroupHeartbeatReply)
    return error_from_number(answer.error, answer.message) if answer.error else None
