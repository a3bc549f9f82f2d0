"""Applying what a restart found chosen but could not apply, because a value before it is damaged.

During the scan values are applied as they come until one is missing; from there on they are read from the disk, in
order, a few ahead, once it was fetched from a peer. Meanwhile the node votes and learns, serves what it has applied,
and does not lead the group. Invariant: slots are applied in order, each once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, Slot
from corgi.base.limits import MIB

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node

AHEAD_VALUES = 32
AHEAD_BYTES = 8 * MIB
APPLY_MAX = 64  # values in one go, so that the loop is not held
RETRY_S = 0.5


class Replay:
    """Which groups are behind what they know chosen, and what is on its way to them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._behind: dict[GroupId, dict[Slot, Buffer | None]] = {}  # values read ahead; None: asked for
        self._retry_at: dict[GroupId, float] = {}

    def start(self) -> None:
        """The scan is over."""
        for group in self._node.groups:
            if group.machine.applied < group.replica.prefix:
                waits = f"slot {group.machine.applied + 1} of {group.replica.prefix}"
                self._node.note("apply-waits", group.id, waits)
                self._behind[group.id] = {}
                self._go_on(group)

    def behind(self, group: GroupId) -> bool:
        return group in self._behind

    def overtaken(self, group: Group) -> None:
        """The group has another state, from a snapshot."""
        if group.id in self._behind:
            self._behind[group.id] = {}
            self._go_on(group)

    def tick(self, now: float) -> None:
        """Try again what failed."""
        for group_id in list(self._behind):
            if now >= self._retry_at.get(group_id, 0.0):
                self._go_on(self._node.groups[group_id])

    def _go_on(self, group: Group) -> None:
        """Apply what is here, ask for what is not."""
        ahead = self._behind[group.id]
        machine = group.machine
        for _ in range(APPLY_MAX):
            if machine.applied == group.replica.prefix:
                del self._behind[group.id]
                self._retry_at.pop(group.id, None)
                self._node.note("apply-caught-up", group.id, f"slot {machine.applied}")
                return
            slot = Slot(machine.applied + 1)
            self._read_ahead(group, ahead)
            value = ahead.get(slot)
            if value is None:
                return
            del ahead[slot]
            self._node.apply(group.id, slot, value)
        self._node.wake_at(self._node.clock.now())

    def _read_ahead(self, group: Group, ahead: dict[Slot, Buffer | None]) -> None:
        applied = group.machine.applied
        room = AHEAD_BYTES
        for number in range(applied + 1, min(group.replica.prefix, applied + AHEAD_VALUES) + 1):
            slot = Slot(number)
            room -= group.slots.length(slot)
            if room < 0 and number > applied + 1:
                return
            if slot not in ahead:
                ahead[slot] = None
                value = group.values.read(group.id, slot, partial(self._arrived, group, slot))
                if isinstance(value, CorgiError):
                    self._failed(group, ahead, slot)
                    return
                ahead[slot] = value

    def _arrived(self, group: Group, slot: Slot, found: bytes | CorgiError) -> None:
        ahead = self._behind.get(group.id)
        if ahead is None:
            return  # a snapshot has overtaken it
        if isinstance(found, CorgiError):
            self._failed(group, ahead, slot)
            return
        ahead[slot] = found
        if slot == group.machine.applied + 1:
            self._go_on(group)

    def _failed(self, group: Group, ahead: dict[Slot, Buffer | None], slot: Slot) -> None:
        """Not now; another try may do."""
        ahead.pop(slot, None)
        self._retry_at[group.id] = self._node.clock.now() + RETRY_S
        self._node.wake_at(self._retry_at[group.id])
