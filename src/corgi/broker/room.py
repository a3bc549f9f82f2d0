"""How much this node may still write down, and what for: the last segment of a full disk is kept to make room with.

A full disk tells itself when the next segment cannot be made, with the present one nearly empty before it. Users'
messages are then refused early, and what is left of that segment is for what makes room: settings and log starts of
topics, promises, epoch records, values moved out of sparse segments. As a story: (1) too few nodes have room for a
majority; (2) leaders propose no messages any more and clients are told "disk-full"; (3) what was in flight is still
voted for; (4) retention passes, or is shortened; (5) log starts move, segments are freed, the next one is made.

It knows the disk by its port and the others by their heartbeats, and decides nothing that safety depends on. Invariant:
what this node takes while its disk is full fits the segment that it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base.command import Buffer, CommandKind, decode_data, iter_commands, iter_data, peek_command
from corgi.base.ids import FIRST_USER_TOPIC

if TYPE_CHECKING:
    from corgi.broker.node import Node

MESSAGES_SHARE = 1 / 2  # of the last segment are not for messages, …
FLIGHT_SHARE = 1 / 4  # … but for those in flight when too few nodes have room, for values that are moved or learned
FLOOR_SHARE = 1 / 16  # nothing is taken below; promises of a candidate and the states of a restart go on


class Room:
    """``full``: no room for the node's next segment. ``restricted``: too few nodes have room to choose messages."""

    __slots__ = ("_node", "full", "restricted")

    def __init__(self, node: Node) -> None:
        self._node = node
        self.full = False
        self.restricted = False

    def look(self) -> None:
        """See anew whether a majority of nodes has room. Only full disks restrict: what is not linked is no reason."""
        detector = self._node.detector
        linked = [view for peer, view in detector.peers.items() if detector.linked(peer)]
        roomy = (not self.full) + sum(not view.full for view in linked)
        self.restricted = roomy < detector.majority and (self.full or any(view.full for view in linked))

    @property
    def any(self) -> bool:
        """Something can still be written down."""
        return not self.full or self._left() > FLOOR_SHARE * self._node.wal.segment_bytes

    @property
    def for_messages(self) -> bool:
        """Messages may be proposed here."""
        return not self.restricted and (not self.full or self._left() > MESSAGES_SHARE * self._node.wal.segment_bytes)

    def for_copies(self, length: int = 0) -> bool:
        """Values may be written down that are chosen already: moved, learned, or missing."""
        return not self.full or self._left() - length > FLIGHT_SHARE * self._node.wal.segment_bytes

    def takes(self, value: Buffer) -> bool:
        """A value of others may be written down. Raises CorgiError if it makes no sense."""
        if not self.full:
            return True
        left, segment = self._left() - len(value), self._node.wal.segment_bytes
        if left > (FLIGHT_SHARE if self.restricted else MESSAGES_SHARE) * segment:
            return True
        return left > FLOOR_SHARE * segment and not holds_messages(value)

    def _left(self) -> int:
        return self._node.wal.room


def holds_messages(value: Buffer) -> bool:
    """Whether a value appends to a user's topic, or holds what compaction leaves of one: that takes room first. Raises
    CorgiError if it makes no sense."""
    return any(
        command.kind == CommandKind.COMPACTED
        or (
            command.kind == CommandKind.DATA
            and any(append.topic >= FIRST_USER_TOPIC for append in decode_data(command.body, command.body_at).appends)
        )
        for command in iter_commands(value)
    )


def is_message(command: Buffer) -> bool:
    """Whether an encoded command appends to a user's topic, or holds what compaction leaves of one."""
    kind = peek_command(command)[0]
    if kind != CommandKind.DATA:
        return kind == CommandKind.COMPACTED
    return any(topic >= FIRST_USER_TOPIC for topic, _, _ in iter_data(command))
