"""What the log tells of nodes and their disks: the bodies of NODE records.

Knows their form; what they mean is judged in ``identity`` and ``amnesia``. Invariant: fields are only ever added.
"""

from __future__ import annotations

import msgspec

from corgi.base.ids import Ballot, GroupId, Slot
from corgi.base.ports import LogRecord, RecordKind

NO_GROUP = GroupId(0xFFFF)


class NodeRecord(msgspec.Struct, array_like=True, frozen=True):
    """Body of a NODE record: ``peer`` 0 tells of this node itself, else which incarnation of a peer is known.

    ``durable_to`` is how far that peer's log was durable, -1 says nothing of it; of this node, which recovery it is.
    """

    peer: int
    incarnation: bytes = b""
    recovering: bool = False
    durable_to: int = -1
    repeated: bool = False  # at the start of a segment: told before
    accepted: str = ""  # a loss that the operator accepted; then nothing else is told
    memory: str = ""  # of the memory groups only: which loss; "-" is one of the log
    cut: tuple[tuple[GroupId, Slot], ...] = ()  # behind these slots the groups go on as if they knew nothing
    emptied: tuple[tuple[GroupId, Slot], ...] = ()  # so do these with all; snapshots after these slots are void
    another: bool = False  # a peer knows another disk of this node; what this one holds is to be given up


def log_record(told: NodeRecord) -> LogRecord:
    """It as a record of the log."""
    body = msgspec.msgpack.encode(told)
    return LogRecord(RecordKind.NODE, NO_GROUP, Ballot(0), Slot(0), Slot(0), body)
