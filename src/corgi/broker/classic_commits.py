"""Checkpoints of Kafka's consumers: the same cursors that native consumers use, slice 0 of each partition.

A commit is judged by the group's coordinator and fenced at apply: it names the owner epoch of its generation and the
member, and where the cursor does not tell so yet, it claims it first. Somebody without a group's membership may move
checkpoints while the group is empty; then the cursor belongs to nobody. Unlike native checkpoints these may go back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import BY_CODE, BY_NUMBER, CONSUMER_FENCED, NOT_LEADER, OFFSET_OUT_OF_RANGE, OK, CorgiError
from corgi.base.ids import CHECKPOINTS, GroupId, TopicId
from corgi.base.ports import ClientSession
from corgi.broker.assignment import Unit
from corgi.broker.barriers import Barriers
from corgi.broker.classic_claims import claim_epoch, generation_of, owns
from corgi.broker.classic_groups import ClassicGroups, Seat
from corgi.broker.classic_member import Fault
from corgi.broker.coordinator import cursors_of
from corgi.broker.places import Places
from corgi.broker.reigns import Reign
from corgi.broker.together import Together
from corgi.state.commands import Owner, encode_owner
from corgi.state.cursors import METADATA_MAX, NEW, CheckpointRecord, Cursor, CursorKey, encode_checkpoint
from corgi.state.outcomes import Outcome

if TYPE_CHECKING:
    from corgi.broker.node import Node

ATTEMPTS_MAX = 3  # of claiming what somebody else claims at the same moment
ENTRIES_PER_COMMAND = 256


class Committer(NamedTuple):
    """Who moves checkpoints of a group: a member in a generation, or (no name, generation -1) nobody in particular.

    ``in_transaction``: they move when a transaction commits; old clients do not tell who they are then.
    """

    group: str
    member: str
    instance: str
    generation: int
    in_transaction: bool = False


class Entry(NamedTuple):
    topic: TopicId
    partition: int
    offset: int
    leader_epoch: int
    metadata: str


class Stake(NamedTuple):
    """Under what the cursor of a unit is held; names it to who moves it."""

    owner_epoch: int
    member: str


class Found(NamedTuple):
    """A checkpoint; ``offset`` -1: there is none. ``unstable``: somebody may yet move it."""

    offset: int
    leader_epoch: int
    metadata: str
    unstable: bool


OnStaked = Callable[[Mapping[Unit, Stake | int]], None]


class ClassicCommits:
    """Moves and reads checkpoints for Kafka's protocol."""

    def __init__(self, node: Node, places: Places, barriers: Barriers, groups: ClassicGroups) -> None:
        self._node = node
        self._places = places
        self._barriers = barriers
        self._groups = groups

    # -- moving ---------------------------------------------------------------------------------------------------

    def commit(
        self,
        client: ClientSession,
        who: Committer,
        entries: Sequence[Entry],
        patience_s: float,
        done: Callable[[list[int]], None],
    ) -> None:
        """``done``: an error for each entry."""
        errors = [_fault(entry) for entry in entries]
        places = {(one.topic, one.partition, 0): place for place, one in enumerate(entries) if not errors[place]}

        def record_of(place: int, stake: Stake) -> CheckpointRecord:
            entry = entries[place]
            return CheckpointRecord(
                *stake, entry.offset, (), entry.metadata, reset=True, leader_epoch=max(entry.leader_epoch, -1)
            )

        self._move(client, who, places, errors, record_of, patience_s, done)

    def forget(
        self,
        client: ClientSession,
        who: Committer,
        units: Sequence[Unit],
        patience_s: float,
        done: Callable[[list[int]], None],
    ) -> None:
        """End the cursors of units while the group is empty. ``done``: an error for each."""
        places = {unit: place for place, unit in enumerate(units)}
        self._move(client, who, places, [OK] * len(units), lambda place, stake: None, patience_s, done)

    def _move(
        self,
        client: ClientSession,
        who: Committer,
        places: Mapping[Unit, int],
        errors: list[int],
        record_of: Callable[[int, Stake], CheckpointRecord | None],
        patience_s: float,
        done: Callable[[list[int]], None],
    ) -> None:
        """Append a record for each unit, or (None) the end of its cursor; ``errors`` at its place tells what failed."""

        def staked(stakes: Mapping[Unit, Stake | int]) -> None:
            appends: dict[GroupId, list[tuple[int, bytes]]] = {}
            now_ms = self._node.clock.wall_ms()
            for unit, place in places.items():
                stake = stakes[unit]
                if isinstance(stake, int):
                    errors[place] = stake
                    continue
                try:
                    group = self._places.to_write(unit[0], unit[1]).group
                except CorgiError as error:  # its topic was deleted while others were claimed
                    errors[place] = error.kind.number
                    continue
                batch = encode_checkpoint(CursorKey(who.group, *unit), record_of(place, stake), now_ms)
                appends.setdefault(group, []).append((place, batch))
            self._append(appends, errors, patience_s, lambda: done(errors))

        self.stake(client, who, list(places), patience_s, staked)

    def stake(
        self, client: ClientSession, who: Committer, units: Sequence[Unit], patience_s: float, done: OnStaked
    ) -> None:
        """Under what the cursors of ``units`` are held by who wants to move them, claimed where need be: for each an
        error number or a Stake. Fails as a whole with "not-leader", "unknown-member", "instance-fenced",
        "generation-over", "rebalancing"."""

        def refused(error: int) -> None:
            done(dict.fromkeys(units, error))

        def go(reign: Reign) -> None:
            seat = self._groups.find(reign, who.group)
            fault = self._judge(reign, seat, who)
            if fault:
                refused(fault)
            else:
                self._claim(_Stakes(who, reign, seat, done), list(units), patience_s)

        self._groups.at(client, who.group, go, refused)

    def _judge(self, reign: Reign, seat: Seat | None, who: Committer) -> int:
        if seat is not None:
            now = self._node.clock.now()
            return seat.group.may_commit(
                who.member, who.instance, who.generation, now, in_transaction=who.in_transaction
            )
        if who.member or who.instance or who.generation >= 0:
            return Fault.UNKNOWN_MEMBER
        native = reign.groups.get(who.group)
        if native is not None and native.members:
            return Fault.UNKNOWN_MEMBER
        if any(key.slice for _, key, _ in cursors_of(self._node, who.group)):
            return Fault.INCONSISTENT_PROTOCOL
        return OK

    def _claim(self, stakes: _Stakes, units: list[Unit], patience_s: float) -> None:
        """Find under what each cursor is held, claim the others, and look again."""
        stakes.attempts += 1
        claims: list[tuple[Unit, GroupId, bytes]] = []
        for unit in units:
            try:
                group = self._places.to_write(unit[0], unit[1]).group
                cursor = self._node.groups[group].machine.cursors.get(CursorKey(stakes.who.group, *unit))
                epoch = stakes.look(unit, cursor)
            except CorgiError as error:
                stakes.found[unit] = error.kind.number
                continue
            if epoch:
                owner = Owner(stakes.who.group, *unit, epoch, stakes.who.member)
                claims.append((unit, group, encode_owner(owner)))
        if not claims:
            stakes.done(stakes.found)
            return
        left = len(claims)
        again: list[Unit] = []

        def decided(unit: Unit, error: int) -> None:
            nonlocal left
            if error in (OK, CONSUMER_FENCED) and stakes.attempts < ATTEMPTS_MAX:
                again.append(unit)
            else:
                stakes.found[unit] = error or CONSUMER_FENCED
            left -= 1
            if left:
                return
            if stakes.reign.ended:
                stakes.found.update(dict.fromkeys(again, NOT_LEADER))
                again.clear()
            self._claim(stakes, again, patience_s)

        for unit, group, body in claims:
            self._node.submit(
                group,
                CommandKind.OWNER,
                body,
                lambda outcome, unit=unit: decided(unit, outcome.error),  # type: ignore[misc]
                timeout_s=patience_s,
            )

    def _append(
        self,
        appends: Mapping[GroupId, list[tuple[int, bytes]]],
        errors: list[int],
        patience_s: float,
        done: Callable[[], None],
    ) -> None:
        parts = [
            (group, batches[at : at + ENTRIES_PER_COMMAND])
            for group, batches in appends.items()
            for at in range(0, len(batches), ENTRIES_PER_COMMAND)
        ]
        count = Together(len(parts), lambda error, text: done())
        for group, batches in parts:

            def applied(outcome: Outcome, batches: list[tuple[int, bytes]] = batches) -> None:
                for i, (place, _) in enumerate(batches):
                    errors[place] = outcome.appends[i].error if outcome.appends else outcome.error
                count.ended(outcome)

            body = encode_data([(CHECKPOINTS, int(group), batch) for _, batch in batches])
            self._node.submit(group, CommandKind.DATA, body, applied, timeout_s=patience_s)

    # -- reading --------------------------------------------------------------------------------------------------

    def fetch(
        self,
        client: ClientSession,
        name: str,
        units: Sequence[tuple[TopicId, int]] | None,
        patience_s: float,
        done: Callable[[int, dict[tuple[TopicId, int], Found]], None],
    ) -> None:
        """Checkpoints of these partitions, or (None) of all that have one, confirmed through the log; partitions that
        do not exist are left out."""

        def refused(error: int) -> None:
            done(error, {})

        def go(reign: Reign) -> None:
            groups: dict[GroupId, None] = {}
            for topic, partition in units or ():
                try:
                    groups[self._places.to_write(topic, partition).group] = None
                except CorgiError as error:
                    if BY_NUMBER[error.kind.number].retryable:
                        raise

            def confirmed(errors: dict[GroupId, int]) -> None:
                if errors or reign.ended:
                    done(next(iter(errors.values()), NOT_LEADER), {})
                else:
                    done(OK, self._found(reign, name, units))

            if units is None:
                self._barriers.confirm_all(client, patience_s, confirmed)
            else:
                self._barriers.confirm(client, groups, patience_s, confirmed)

        self._groups.at(client, name, go, refused)

    def _found(
        self, reign: Reign, name: str, units: Sequence[tuple[TopicId, int]] | None
    ) -> dict[tuple[TopicId, int], Found]:
        seat = self._groups.find(reign, name)
        left = seat.claims.left if seat is not None else {}
        by_partition: dict[tuple[TopicId, int], list[tuple[CursorKey, Cursor, bool]]] = {}
        for number, key, cursor in cursors_of(self._node, name) if units is None else self._cursors(name, units):
            unstable = self._node.groups[number].machine.cursors.held(key) or key[1:] in left
            by_partition.setdefault((key.topic, key.partition), []).append((key, cursor, unstable))
        return {unit: found for unit, kept in by_partition.items() if (found := _of_slices(kept)).offset >= 0}

    def _cursors(self, name: str, units: Sequence[tuple[TopicId, int]]) -> Iterator[tuple[GroupId, CursorKey, Cursor]]:
        for unit in dict.fromkeys(units):
            try:
                number = self._places.to_write(*unit).group
            except CorgiError:
                continue  # it does not exist
            for (owner, slice_), cursor in self._node.groups[number].machine.cursors.by_partition.get(unit, {}).items():
                if owner == name:
                    yield number, CursorKey(name, *unit, slice_), cursor


class _Stakes:
    """One question under what cursors are held."""

    def __init__(self, who: Committer, reign: Reign, seat: Seat | None, done: OnStaked) -> None:
        self.who = who
        self.reign = reign
        self.seat = seat
        self.done = done
        self.attempts = 0
        self.found: dict[Unit, Stake | int] = {}

    def look(self, unit: Unit, cursor: Cursor) -> int:
        """The epoch to claim the unit under; 0 if it is held by who wants it. Raises "generation-over"."""
        who = self.who
        if who.member:
            if owns(cursor, who.member, who.generation):
                self.found[unit] = Stake(cursor.owner_epoch, cursor.member)
                return 0
            return claim_epoch(cursor, who.generation)
        if not cursor.member or who.in_transaction:  # an old client in a transaction takes it as it is held
            self.found[unit] = Stake(cursor.owner_epoch, cursor.member)
            return 0
        generation = self.seat.group.generation if self.seat is not None else generation_of(cursor.owner_epoch)
        return claim_epoch(cursor, generation)


def _fault(entry: Entry) -> int:
    if len(entry.metadata) > METADATA_MAX:
        return BY_CODE["metadata-too-large"].number
    return OK if entry.offset >= 0 else OFFSET_OUT_OF_RANGE


def _of_slices(kept: list[tuple[CursorKey, Cursor, bool]]) -> Found:
    """The checkpoint of a partition; of one that native consumers cut into slices the least that is done in all."""
    cursors = {key.slice: cursor for key, cursor, _ in kept}
    least: Cursor = min((cursors.get(number, NEW) for number in range(max(cursors) + 1)), key=lambda one: one.offset)
    unstable = any(one for _, _, one in kept)
    return Found(least.offset, least.leader_epoch, least.metadata, unstable)
