"""Who leads now, told beside the error by which a client hears that it did not know (KIP-951).

That spares the client a metadata request. A partition's leader is a tagged field of the partition; where that leader is
reached is one of the whole answer. Both are left out where no partition has such an error.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from corgi.base.ids import GroupId, NodeId
from corgi.kafka.codec import put_count, put_text, put_uvarint
from corgi.kafka.errors import Code

if TYPE_CHECKING:
    from corgi.kafka.session import KafkaSession

NODE_ENDPOINTS = 0  # the tag in the whole answer
_LEADER = struct.Struct(">iib")  # node, epoch, no tagged fields
_INT32 = struct.Struct(">i")
_OTHER_LEADER = (Code.NOT_LEADER_OR_FOLLOWER, Code.FENCED_LEADER_EPOCH)


class Hints:
    """Those of one answer. ``tag``: the number of a partition's tagged field."""

    __slots__ = ("_leaders", "_session", "_tag")

    def __init__(self, session: KafkaSession, tag: int) -> None:
        self._session = session
        self._tag = tag
        self._leaders: dict[NodeId, None] = {}

    def put_leader(self, out: bytearray, error: int, group: GroupId) -> None:
        """Append the tagged fields of one partition, whose Paxos group is ``group``."""
        if error not in _OTHER_LEADER:
            out.append(0)
            return
        front = self._session.front
        lead = front.lead(group, front.alive())
        self._leaders[lead.leader] = None
        out.append(1)
        put_uvarint(out, self._tag)
        put_uvarint(out, _LEADER.size)
        out += _LEADER.pack(lead.leader, lead.epoch, 0)

    def put_nodes(self, out: bytearray) -> None:
        """Append the tagged fields of the answer, after those of all partitions."""
        if not self._leaders:
            out.append(0)
            return
        front = self._session.front
        brokers = front.brokers(self._session.listener)
        known = [node for node in self._leaders if node in brokers]
        nodes = bytearray()
        put_count(nodes, len(known), compact=True)
        for node in known:
            host, port = brokers[node]
            nodes += _INT32.pack(node)
            put_text(nodes, host, compact=True)
            nodes += _INT32.pack(port)
            put_text(nodes, front.node.options.labels.get(node) or None, compact=True)
            nodes.append(0)
        out.append(1)
        put_uvarint(out, NODE_ENDPOINTS)
        put_uvarint(out, len(nodes))
        out += nodes
