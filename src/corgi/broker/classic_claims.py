"""Who holds a partition in a classic group: claims of its units for the members of one generation.

A classic group's cursors are owned under epochs that tell the generation: 2^16 of them belong to each. When a
generation has its assignments, each assigned unit is claimed for its member, so that whoever was its owner before, and
coordinators that are none any more, can move no checkpoint there. A member that commits in a partition of another one
claims it under the next epoch of the same generation: Kafka lets it, and so does this.

Invariant: a unit is claimed under epochs of the present generation only, and never back from a later one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from corgi.base.command import CommandKind
from corgi.base.errors import CONSUMER_FENCED, NO_QUORUM, OVERLOADED, TIMEOUT, TRANSACTION_IN_PROGRESS, CorgiError
from corgi.broker.assignment import Unit
from corgi.broker.classic_member import NEVER
from corgi.broker.reigns import SUBMIT_TIMEOUT_S
from corgi.state.commands import Owner, encode_owner
from corgi.state.cursors import Cursor, CursorKey
from corgi.state.outcomes import Outcome

if TYPE_CHECKING:
    from corgi.broker.node import Node

GENERATION_BITS = 16
RETRY_S = 0.1
_LATER = (TRANSACTION_IN_PROGRESS, OVERLOADED, TIMEOUT, NO_QUORUM)


def generation_of(owner_epoch: int) -> int:
    return owner_epoch >> GENERATION_BITS


def claim_epoch(cursor: Cursor, generation: int) -> int:
    """Under which epoch a unit is claimed in a generation. Raises "generation-over" when a later one has it."""
    if generation_of(cursor.owner_epoch) > generation:
        raise CorgiError("generation-over", "a later generation of the group has the partition")
    return max(cursor.owner_epoch + 1, generation << GENERATION_BITS)


def owns(cursor: Cursor, member: str, generation: int) -> bool:
    return cursor.member == member and generation_of(cursor.owner_epoch) == generation


class Claims:
    """Those of one group; ``changed`` is called when one has its outcome. ``left``: what is not claimed yet."""

    def __init__(self, node: Node, name: str, changed: Callable[[], None]) -> None:
        self._node = node
        self._changed = changed
        self._name = name
        self._generation = 0
        self._queue: deque[Unit] = deque()
        self._under_way = 0
        self._round = 0
        self.left: dict[Unit, str] = {}
        self.retry_at = NEVER

    @property
    def tried(self) -> bool:
        """Whether each was tried once."""
        return not self._queue and not self._under_way

    @property
    def ready(self) -> bool:
        """Whether there is something to submit now."""
        return bool(self._queue)

    def begin(self, generation: int, wanted: Iterable[tuple[Unit, str]]) -> None:
        """What was begun for an earlier generation is over."""
        self._round += 1
        self._generation = generation
        self.left = dict(wanted)
        self._queue = deque(self.left)
        self._under_way = 0
        self.retry_at = NEVER

    def again(self, now: float) -> None:
        """Try those once more that could not be claimed."""
        if now >= self.retry_at:
            self.retry_at = NEVER
            queued = set(self._queue)
            self._queue.extend(unit for unit in self.left if unit not in queued)

    def submit(self, most: int) -> None:
        """Claim the next ones."""
        for _ in range(min(most, len(self._queue))):
            self._claim(self._queue.popleft())

    def _claim(self, unit: Unit) -> None:
        member = self.left.get(unit)
        if member is None:
            return
        topics = self._node.groups[0].machine.topics
        assert topics is not None, "group 0 holds the topics"
        try:
            number = topics.group_of(unit[0], unit[1])
            cursor = self._node.groups[number].machine.cursors.get(CursorKey(self._name, *unit))
            if owns(cursor, member, self._generation):
                del self.left[unit]
                return
            epoch = claim_epoch(cursor, self._generation)
        except CorgiError:  # the topic is gone, or this generation is
            del self.left[unit]
            return
        begun = self._round

        def decided(outcome: Outcome) -> None:
            if begun == self._round:
                self._under_way -= 1
                self._decided(unit, outcome.error)
                self._changed()

        self._under_way += 1
        body = encode_owner(Owner(self._name, *unit, epoch, member))
        self._node.submit(number, CommandKind.OWNER, body, decided, timeout_s=SUBMIT_TIMEOUT_S)
        self._node.count("group_claims")

    def _decided(self, unit: Unit, error: int) -> None:
        if error == CONSUMER_FENCED:  # somebody claimed it meanwhile: look again
            self._queue.append(unit)
        elif error in _LATER:
            self.retry_at = min(self.retry_at, self._node.clock.now() + RETRY_S)
        else:  # claimed, or the partition is gone
            self.left.pop(unit, None)
