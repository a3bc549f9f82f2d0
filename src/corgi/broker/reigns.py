"""Reigns: for which consumer groups this node is the coordinator, and since when it knows all that it has to.

The leader of the Paxos group in whose `__groups` partition consumer groups are kept coordinates them. A new one first
goes through the log of every Paxos group, so that it sees all cursors and records as of its election; who asks
meanwhile waits. Only memory groups may be passed over for a while (docs/adr/0010-memory-groups.md). A reign ends when
another ballot leads: what was begun in it is over.

Invariant: nothing is coordinated in a reign before it has begun or after it has ended.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import CorgiError
from corgi.base.ids import GROUPS, GroupId
from corgi.base.ports import ClientSession
from corgi.broker.barriers import memory_in_use
from corgi.broker.group_records import StoredClassic, StoredGroup, decode_record
from corgi.state.commands import guard_group_at
from corgi.state.consumer_groups import encode_group
from corgi.state.outcomes import Outcome

if TYPE_CHECKING:
    from corgi.broker.classic_groups import Seat
    from corgi.broker.consumer_group import ConsumerGroup
    from corgi.broker.node import Node

SUBMIT_TIMEOUT_S = 5.0
MEMORY_PATIENCE_S = 1.0  # with memory groups, of which a majority may have forgotten votes
UNSEEN_RETRY_S = 5.0  # until those that stood still are asked again
WAITING_MAX = 10_000  # requests that wait for a coordinator to become one


Records = Mapping[str, StoredGroup | StoredClassic | None]  # by group; None: this release does not understand it


def kept_in(group: str, groups: int) -> GroupId:
    """The Paxos group that keeps a consumer group."""
    return GroupId(zlib.crc32(group.encode()) % groups)


class Waiting(NamedTuple):
    """A request that came before the reign had begun."""

    client: ClientSession
    go: Callable[[Reign], None]
    refuse: Callable[[CorgiError], None]

    def tell(self, reign: Reign) -> None:
        if self.client.closed:
            return
        try:
            self.go(reign)
        except CorgiError as error:
            self.refuse(error)


class Reign:
    """What this node coordinates as the leader of one Paxos group in one ballot."""

    def __init__(self, group: GroupId, ballot: int, told: int = 0) -> None:
        """``told``: the last serial of an earlier reign in this ballot."""
        self.group = group
        self.ballot = ballot
        self.begun = False  # every log was gone through
        self.ended = False
        self.unseen: set[GroupId] = set()  # memory groups that stood still when it began
        self.look_at = 0.0  # for those
        self.waiting: list[Waiting] = []
        self.groups: dict[str, ConsumerGroup] = {}
        self.classic: dict[str, Seat] = {}
        self.saving: set[str] = set()
        self.dirty: dict[str, None] = {}
        self.asking: dict[
            str, list[tuple[ClientSession, int, str, int]]
        ] = {}  # answered when it is known who holds what
        self.joining: dict[str, list[tuple[ClientSession, int, str]]] = {}  # answered when the record is saved
        self.serial = max(ballot << 24, told)

    def next_serial(self) -> int:
        """What tells one assignment of a member from another, of this reign or an earlier one."""
        self.serial += 1
        return self.serial


class Reigns:
    """Those of this node. ``when_begun`` hears of each, with the records of its groups, and then ``when_ended``."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._current: dict[GroupId, Reign] = {}
        self._told: dict[GroupId, int] = {}  # last serials of reigns that have ended
        self.when_begun: list[Callable[[Reign, Records], None]] = []
        self.when_ended: list[Callable[[Reign], None]] = []

    def __bool__(self) -> bool:
        return bool(self._current)

    def all(self) -> list[Reign]:
        return list(self._current.values())

    def of(self, name: str) -> Reign:
        """Where a group is coordinated by this node. Raises "not-leader"; if nobody leads, has somebody take over."""
        number = kept_in(name, self._node.options.groups)
        group = self._node.groups[number]
        reign = self._current.get(number)
        if reign is not None and self._lasts(reign):
            return reign
        if reign is not None:
            self._end(reign)
        if self._node.stopping:
            raise CorgiError("not-leader", "the node is stopping")
        if not group.replica.leading:
            if not group.replica.route():
                self._node.submit(number, CommandKind.BARRIER, b"", lambda _: None, timeout_s=1.0)
            raise CorgiError("not-leader", f"consumer group {name!r} is coordinated by node {group.replica.route()}")
        reign = self._current[number] = Reign(number, int(group.replica.ballot), self._told.get(number, 0))
        self._begin(reign)
        return reign

    def begun(self, name: str) -> Reign:
        """As ``of``, also raises "not-leader" while it has not begun."""
        reign = self.of(name)
        if not reign.begun:
            raise CorgiError("not-leader", "the coordinator has just been elected")
        return reign

    def known(self, name: str) -> Reign | None:
        """The present reign over this group, if there is one."""
        return self._current.get(kept_in(name, self._node.options.groups))

    def attend(
        self,
        name: str,
        client: ClientSession,
        go: Callable[[Reign], None],
        refuse: Callable[[CorgiError], None],
    ) -> None:
        """Call ``go`` when the reign has begun, at once if it has: then what it raises goes up. Raises as ``of``, and
        "overloaded"."""
        reign = self.of(name)
        if reign.begun:
            go(reign)
            return
        if len(reign.waiting) >= WAITING_MAX:
            raise CorgiError("overloaded", "too many consumers wait for their coordinator")
        reign.waiting.append(Waiting(client, go, refuse))

    # -- records --------------------------------------------------------------------------------------------------

    def version(self, reign: Reign, name: str) -> int:
        """Of the group's record."""
        return self._node.groups[reign.group].machine.consumer_groups.version(name)

    def write(
        self,
        reign: Reign,
        name: str,
        body: bytes | None,
        version: int,
        done: Callable[[Outcome], None],
        timeout_s: float,
    ) -> None:
        """Replace the group's record of ``version``; None ends it."""
        batch = encode_group(name, body, self._node.clock.wall_ms())
        command = encode_data([(GROUPS, int(reign.group), batch)], [guard_group_at(name, version)])
        self._node.submit(reign.group, CommandKind.DATA, command, done, timeout_s=timeout_s)

    # -- facts ----------------------------------------------------------------------------------------------------

    def leader_changed(self, group: GroupId) -> None:
        reign = self._current.get(group)
        if reign is not None and not self._lasts(reign):
            self._end(reign)

    def look(self) -> None:
        """End those that are over, and those that began without memory groups which go on again."""
        for reign in self.all():
            if not self._lasts(reign):
                self._end(reign)
            elif reign.unseen and self._node.clock.now() >= reign.look_at:
                reign.look_at = self._node.clock.now() + UNSEEN_RETRY_S
                for number in reign.unseen:
                    self._go_through(reign, number, SUBMIT_TIMEOUT_S, partial(self._seen, reign))

    def client_closed(self, client: ClientSession) -> None:
        for reign in self._current.values():
            reign.waiting = [waiting for waiting in reign.waiting if waiting.client is not client]

    # -- their course ---------------------------------------------------------------------------------------------

    def _lasts(self, reign: Reign) -> bool:
        replica = self._node.groups[reign.group].replica
        return replica.leading and int(replica.ballot) == reign.ballot

    def _begin(self, reign: Reign) -> None:
        durable = [group.id for group in self._node.groups[: self._node.options.groups]]
        left = set(durable)

        def gone_through(number: GroupId, outcome: Outcome) -> None:
            if outcome.error:
                self._end(reign)
                return
            left.discard(number)
            if not left:
                self._begin_in_memory(reign)

        for number in durable:
            self._go_through(reign, number, SUBMIT_TIMEOUT_S, gone_through)

    def _begin_in_memory(self, reign: Reign) -> None:
        """Consumers of other topics do not wait for memory groups that stand still. What those tell later may be news
        for who has begun without it, so then the reign begins again."""
        left = set(memory_in_use(self._node))

        def gone_through(number: GroupId, outcome: Outcome) -> None:
            if outcome.error:
                reign.unseen.add(number)
            left.discard(number)
            if not left:
                self._begun(reign)

        for number in list(left):
            self._go_through(reign, number, MEMORY_PATIENCE_S, gone_through)
        if not left:
            self._begun(reign)

    def _begun(self, reign: Reign) -> None:
        reign.begun = True
        reign.look_at = self._node.clock.now() + UNSEEN_RETRY_S
        waiting, reign.waiting = reign.waiting, []
        kept = self._node.groups[reign.group].machine.consumer_groups.by_name
        records = {name: decode_record(record.body) for name, record in kept.items()}
        for told in self.when_begun:
            told(reign, records)
        for one in waiting:
            one.tell(reign)

    def _seen(self, reign: Reign, number: GroupId, outcome: Outcome) -> None:
        if not outcome.error:
            self._end(reign)

    def _go_through(
        self, reign: Reign, number: GroupId, patience_s: float, then: Callable[[GroupId, Outcome], None]
    ) -> None:
        """Tell when this node is current in a group, unless the reign has ended by then."""

        def passed(outcome: Outcome) -> None:
            if not reign.ended:
                then(number, outcome)

        self._node.submit(number, CommandKind.BARRIER, b"", passed, timeout_s=patience_s)

    def _end(self, reign: Reign) -> None:
        del self._current[reign.group]
        self._told[reign.group] = reign.serial
        reign.ended = True
        error = CorgiError("not-leader", "the coordinator has changed")
        for waiting in reign.waiting:
            waiting.refuse(error)
        for told in self.when_ended:
            told(reign)
