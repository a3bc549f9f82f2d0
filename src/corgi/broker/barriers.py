"""Reads that must be current go through the log: a BARRIER command per group, answered when it is applied here.

What this node has applied when its barrier is applied contains everything that was acknowledged anywhere before the
question came. A client that goes away takes its questions along. Memory groups without topics are not asked: they may
stand still, and nothing is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from corgi.base.command import CommandKind
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId
from corgi.base.ports import ClientSession
from corgi.state.outcomes import Outcome

if TYPE_CHECKING:
    from corgi.broker.node import Node

BARRIERS_PER_CLIENT = 1024  # questions of one connection that wait for the log

Confirmed = Callable[[dict[GroupId, int]], None]  # error number per group that could not be confirmed


def memory_in_use(node: Node) -> list[GroupId]:
    """The memory groups, if a topic is kept in them as far as this node knows."""
    topics = node.groups[0].machine.topics
    assert topics is not None, "group 0 holds the topics"
    first = node.options.groups
    return [group.id for group in node.groups[first:]] if topics.any_from(first) else []


class Barrier:
    """One question and the groups that it waits for."""

    __slots__ = ("_barriers", "_client", "_done", "_errors", "_waiting")

    def __init__(self, barriers: Barriers, client: ClientSession, waiting: int, done: Confirmed) -> None:
        self._barriers = barriers
        self._client = client
        self._waiting = waiting
        self._done: Confirmed | None = done
        self._errors: dict[GroupId, int] = {}

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        self._done = None
        self._barriers.forget(self._client, self)

    def answered(self, group: GroupId, outcome: Outcome) -> None:
        if outcome.error:
            self._errors[group] = outcome.error
        self._waiting -= 1
        if not self._waiting and self._done is not None:
            self._barriers.forget(self._client, self)
            self._done(self._errors)


class Barriers:
    """All questions that wait for the log, by client."""

    __slots__ = ("_by_client", "_node")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._by_client: dict[ClientSession, dict[Barrier, None]] = {}

    def confirm(
        self, client: ClientSession, groups: Collection[GroupId], timeout_s: float, done: Confirmed
    ) -> Barrier | None:
        """Call ``done`` when this node is current in ``groups``; at once, returning None, if there are none.

        Raises CorgiError "overloaded" when the client has too many such questions open.
        """
        if not groups:
            done({})
            return None
        waiting = self._by_client.setdefault(client, {})
        if len(waiting) >= BARRIERS_PER_CLIENT:
            raise CorgiError("overloaded", f"a connection has at most {BARRIERS_PER_CLIENT} questions about ends open")
        barrier = Barrier(self, client, len(groups), done)
        waiting[barrier] = None
        for group in groups:
            self._submit(barrier, group, timeout_s)
        return barrier

    def confirm_all(self, client: ClientSession, timeout_s: float, done: Confirmed) -> None:
        """As ``confirm``, of every group in which there may be something."""
        node = self._node
        until = node.clock.now() + timeout_s

        def confirmed(errors: dict[GroupId, int]) -> None:
            used = memory_in_use(node)  # known for certain only now: topics are told of in one of those groups
            if errors or not used:
                done(errors)
                return
            try:
                self.confirm(client, used, max(until - node.clock.now(), 0.001), done)
            except CorgiError as error:
                done({used[0]: error.kind.number})

        self.confirm(client, [group.id for group in node.groups[: node.options.groups]], timeout_s, confirmed)

    def client_closed(self, client: ClientSession) -> None:
        for barrier in list(self._by_client.get(client, ())):
            barrier.cancel()

    def forget(self, client: ClientSession, barrier: Barrier) -> None:
        waiting = self._by_client.get(client)
        if waiting is not None:
            waiting.pop(barrier, None)
            if not waiting:
                del self._by_client[client]

    def _submit(self, barrier: Barrier, group: GroupId, timeout_s: float) -> None:
        def applied(outcome: Outcome) -> None:
            barrier.answered(group, outcome)

        self._node.submit(group, CommandKind.BARRIER, b"", applied, timeout_s=timeout_s)
