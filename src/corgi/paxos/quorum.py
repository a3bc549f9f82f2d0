"""Replica sets and majorities.

Votes are bit masks over the members' indexes, so that counting is one instruction and a vote counts once.
"""

from __future__ import annotations

from collections.abc import Iterable

from corgi.base.errors import check
from corgi.base.ids import GroupId, NodeId


class Members:
    """The replica set of a group, in ring order."""

    __slots__ = ("bit", "majority", "nodes")

    def __init__(self, nodes: Iterable[NodeId]) -> None:
        self.nodes: tuple[NodeId, ...] = tuple(sorted(set(nodes)))
        check(bool(self.nodes), "a replica set has at least one member")
        self.majority = len(self.nodes) // 2 + 1
        self.bit: dict[NodeId, int] = {node: 1 << i for i, node in enumerate(self.nodes)}

    def has_majority(self, mask: int) -> bool:
        return mask.bit_count() >= self.majority

    def others(self, me: NodeId) -> tuple[NodeId, ...]:
        return tuple(node for node in self.nodes if node != me)

    def succession(self, after: NodeId) -> tuple[NodeId, ...]:
        """Who takes over from ``after``, first in line first; ``after`` itself comes last."""
        at = self.nodes.index(after) + 1 if after in self.bit else 0
        return self.nodes[at:] + self.nodes[:at]

    def before(self, node: NodeId) -> NodeId:
        """The member whose first successor is ``node``."""
        return self.nodes[self.nodes.index(node) - 1]

    def preferred(self, group: GroupId) -> NodeId:
        """The node that leads ``group`` when everything is in order: spreads leaders over the nodes."""
        return self.nodes[group % len(self.nodes)]
