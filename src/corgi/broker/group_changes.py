"""What people do to consumer groups, at the coordinator: forget one, or set where it goes on.

Both take units from whoever holds them by OWNER to nobody under the next owner epoch, followed by the change itself
under that epoch; whoever comes in between makes it fail, and nothing is done by halves within a unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base import errors
from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import CorgiError
from corgi.base.ids import CHECKPOINTS, GroupId, Offset, TopicId
from corgi.broker.assignment import Unit
from corgi.broker.classic_groups import ClassicGroups
from corgi.broker.coordinator import Coordinator, cursors_of
from corgi.broker.reigns import Reign, Reigns
from corgi.broker.together import Done, Together
from corgi.state.commands import Owner, encode_owner
from corgi.state.cursors import CheckpointRecord, CursorKey, encode_checkpoint
from corgi.state.outcomes import Outcome

if TYPE_CHECKING:
    from corgi.broker.node import Node


def _retriable(done: Done) -> Done:
    """A claim of an earlier coordinator may have come in between: trying again helps."""

    def told(error: int, text: str) -> None:
        done(errors.UNSETTLED if error == errors.CONSUMER_FENCED else error, text)

    return told


class GroupChanges:
    """Deletes and resets groups that this node coordinates."""

    def __init__(self, node: Node, reigns: Reigns, coordinator: Coordinator, classic: ClassicGroups) -> None:
        self._node = node
        self._reigns = reigns
        self._coordinator = coordinator
        self._classic = classic

    def delete(self, name: str, timeout_s: float, done: Done) -> None:
        """Forget a group without members, and its cursors. Raises as ``Coordinator.group``, and "group-not-empty"."""
        coordinator = self._coordinator
        group = coordinator.group(name)
        reign = self._reigns.of(name)
        if group.members:
            raise CorgiError("group-not-empty", f"the consumer group {name!r} has {len(group.members)} members")
        seat = self._classic.find(reign, name)
        if seat is not None and seat.occupied:
            raise CorgiError("group-not-empty", f"Kafka clients are members of the consumer group {name!r}")
        if group.unsaved or name in reign.saving or (seat is not None and seat.busy):
            raise CorgiError("unsettled", f"the last member of {name!r} has just left")
        version = self._reigns.version(reign, name)  # whoever joins from here on makes it another
        left = cursors_of(self._node, name)

        def emptied(error: int, text: str) -> None:
            if error:
                done(error, text)
            else:
                self._forget(reign, name, version, timeout_s, done)

        count = Together(2 * len(left) + 1, _retriable(emptied))
        for number, key, cursor in left:
            owner = Owner(name, key.topic, key.partition, key.slice, cursor.owner_epoch + 1, "")
            self._node.submit(number, CommandKind.OWNER, encode_owner(owner), count.ended, timeout_s=timeout_s)
            batch = encode_checkpoint(key, None, self._node.clock.wall_ms())
            self._append(number, batch, count, timeout_s)
        self._node.submit(reign.group, CommandKind.BARRIER, b"", count.ended, timeout_s=timeout_s)

    def reset(self, name: str, offsets: tuple[tuple[TopicId, int, Offset], ...], timeout_s: float, done: Done) -> None:
        """Set checkpoints; who holds the units loses them and gets them again. Raises as ``Coordinator.group``, and
        "unsettled" while one of them is on its way to somebody."""
        group = self._coordinator.group(name)
        seat = self._classic.find(self._reigns.of(name), name)
        if seat is not None and seat.occupied:
            text = f"Kafka clients are members of the consumer group {name!r}, and would not hear of a reset"
            raise CorgiError("group-not-empty", text, hint="stop them first; they go on from there when they start")
        units: list[tuple[GroupId, Unit, Offset]] = []
        for topic, partition, offset in offsets:
            number = self._node.requests.places.to_write(topic, partition).group
            units += [(number, (topic, partition, slice_), offset) for slice_ in range(max(group.slices, 1))]
        if not group.bar([unit for _, unit, _ in units]):
            raise CorgiError("unsettled", f"partitions of {name!r} are being given out")
        self._coordinator.touch(name)

        def ended(error: int, text: str) -> None:
            group.unbar([unit for _, unit, _ in units])
            self._coordinator.touch(name)
            done(error, text)

        count = Together(2 * len(units), _retriable(ended))
        for number, unit, offset in units:
            key = CursorKey(name, *unit)
            epoch = self._node.groups[number].machine.cursors.get(key).owner_epoch + 1
            owner = encode_owner(Owner(name, *unit, epoch, ""))
            self._node.submit(number, CommandKind.OWNER, owner, count.ended, timeout_s=timeout_s)
            record = CheckpointRecord(epoch, "", offset, (), "", True)
            self._append(number, encode_checkpoint(key, record, self._node.clock.wall_ms()), count, timeout_s)

    def _append(self, number: GroupId, batch: bytes, count: Together, timeout_s: float) -> None:
        body = encode_data([(CHECKPOINTS, int(number), batch)])
        self._node.submit(number, CommandKind.DATA, body, count.ended, timeout_s=timeout_s)

    def _forget(self, reign: Reign, name: str, version: int, timeout_s: float, done: Done) -> None:
        def decided(outcome: Outcome) -> None:
            group = reign.groups.get(name)
            if not outcome.error and group is not None and not group.members:
                del reign.groups[name]  # otherwise somebody joined meanwhile: its record is written anew
            if not outcome.error:
                self._classic.drop(reign, name)
            done(outcome.error, outcome.detail)

        self._reigns.write(reign, name, None, version, decided, timeout_s)
