"""Serving chosen values to a peer that lags: memory first, the disk otherwise, one answer at a time per question."""

from __future__ import annotations

from collections.abc import Callable

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, NodeId, Slot
from corgi.base.limits import PROMISE_CHUNK_BYTES
from corgi.base.ports import Network
from corgi.broker.values import Values
from corgi.paxos.messages import Learn, Learned

READS_MAX = 64  # questions whose disk reads may be outstanding at once


class CatchUp:
    """Answers Learn questions of peers; the asker asks on when an answer did not reach its goal."""

    def __init__(self, values: Values, network: Network) -> None:
        self.absent: Callable[[NodeId, GroupId, Slot], None] = lambda *_: None  # told of what cannot be answered
        self.newer: Callable[[NodeId, GroupId, Slot], None] = lambda *_: None  # … of who would rather have a snapshot
        self._values = values
        self._network = network
        self._reading: set[tuple[NodeId, GroupId]] = set()

    def on_learn(self, sender: NodeId, message: Learn, prefix: Slot) -> None:
        """Answer with chosen values from ``message.first`` on; ``prefix`` is this node's."""
        if message.lean:
            self.newer(sender, message.group, message.first)
        last = Slot(min(message.last, prefix))
        key = (sender, message.group)
        if last < message.first or message.first < 1 or key in self._reading or len(self._reading) >= READS_MAX:
            return
        self._reading.add(key)
        self._collect(key, message.first, message.first, last, prefix, [], 0)

    def _collect(
        self,
        key: tuple[NodeId, GroupId],
        first: Slot,
        slot: Slot,
        last: Slot,
        prefix: Slot,
        found: list[Buffer],
        size: int,
    ) -> None:
        group = key[1]
        while slot <= last and size < PROMISE_CHUNK_BYTES:
            at = slot

            def go_on(value: bytes | CorgiError, at: Slot = at, size: int = size) -> None:
                if isinstance(value, CorgiError):
                    self._answer(key, first, prefix, found)  # what is readable; the asker tries another peer
                    return
                found.append(value)
                self._collect(key, first, Slot(at + 1), last, prefix, found, size + len(value))

            value = self._values.read_here(group, slot, go_on)
            if value is None:
                return  # go_on is called when the disk has answered
            if isinstance(value, CorgiError):
                break
            found.append(value)
            size += len(value)
            slot = Slot(slot + 1)
        self._answer(key, first, prefix, found)

    def _answer(self, key: tuple[NodeId, GroupId], first: Slot, prefix: Slot, found: list[Buffer]) -> None:
        self._reading.discard(key)
        peer, group = key
        if not found:
            self.absent(peer, group, first)
        else:
            lengths = tuple(len(value) for value in found)
            self._network.send(peer, Learned(group, first, lengths, prefix), b"".join(found))
