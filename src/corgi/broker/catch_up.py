"""Serving chosen values to a peer that lags: memory first, the disk otherwise, one answer at a time per question.

Who lags far is offered a snapshot where that is less to send and to take in than the values, one by one.
"""

from __future__ import annotations

from collections.abc import Callable

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, NodeId, Slot
from corgi.base.limits import MIB
from corgi.base.ports import Network
from corgi.broker.values import Values
from corgi.paxos.messages import Learn, Learned

READS_MAX = 64  # questions whose disk reads may be outstanding at once
ANSWER_BYTES = MIB  # of one answer, or one value


class CatchUp:
    """Answers Learn questions of peers; the asker asks on when an answer did not reach its goal."""

    def __init__(self, values: Values, network: Network) -> None:
        self.absent: Callable[[NodeId, GroupId, Slot], object] = lambda *_: None  # told of what cannot be answered
        self.newer: Callable[[NodeId, GroupId, Slot], object] = lambda *_: None  # … of who would rather have a snapshot
        self.nearer: Callable[[NodeId, GroupId, Slot], bool] = lambda *_: (
            False
        )  # … of who lags far; True: was offered one
        self._values = values
        self._network = network
        self._reading: set[tuple[NodeId, GroupId]] = set()

    def on_learn(self, sender: NodeId, message: Learn, prefix: Slot) -> None:
        """Answer with chosen values from ``message.first`` on; ``prefix`` is this node's."""
        group, first = message.group, message.first
        if message.lean:
            self.newer(sender, group, first)
        last = Slot(min(message.last, prefix))
        key = (sender, group)
        if last < first or first < 1 or key in self._reading or len(self._reading) >= READS_MAX:
            return
        if message.far and self.nearer(sender, group, first):
            return
        slots: list[Slot] = []
        size = 0
        while len(slots) <= last - first and size < ANSWER_BYTES:
            slot = Slot(first + len(slots))
            if not self._values.tellable(group, slot):
                break
            slots.append(slot)
            size += self._values.length(group, slot)
        if not slots:
            self.absent(sender, group, first)
            return
        self._reading.add(key)
        self._values.tell(group, slots, lambda found: self._answer(key, first, prefix, found))

    def _answer(self, key: tuple[NodeId, GroupId], first: Slot, prefix: Slot, found: list[Buffer | CorgiError]) -> None:
        """What is readable up to the first that is not; the asker tries another peer for that."""
        self._reading.discard(key)
        peer, group = key
        values: list[Buffer] = []
        for value in found:
            if isinstance(value, CorgiError):
                break
            values.append(value)
        if not values:
            self.absent(peer, group, first)
        else:
            lengths = tuple(len(value) for value in values)
            self._network.send(peer, Learned(group, first, lengths, prefix), b"".join(values))
