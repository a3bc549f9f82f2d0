"""Nominal integer types, so that slots, offsets, ballots and times do not mix silently.

All of them are plain ``int`` at run time; they exist for the type checker and the reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from corgi.base.ports import Random

BOOT_LEAP_BITS = 20  # boots follow the clock in ms: up to a quarter of an hour

NodeId = NewType("NodeId", int)  # 1..65535, chosen by the operator, one folder each
GroupId = NewType("GroupId", int)  # 0..G-1: a Paxos group, a replicated log
Slot = NewType("Slot", int)  # 1.. within a group; 0 means "none"
Ballot = NewType("Ballot", int)  # round << 16 | node; 0 means "none"
TopicId = NewType("TopicId", int)  # never reused; below FIRST_USER_TOPIC: system topics
Offset = NewType("Offset", int)  # 0.. within a partition
LeaderEpoch = NewType("LeaderEpoch", int)  # 1.. within a group, grows with each epoch record
Origin = NewType("Origin", int)  # node << 48 | boot counter: who gave a command its id
Position = NewType("Position", int)  # byte position in a node's WAL: segment number * segment bytes + offset

# System topics: one partition per group each (``__meta`` only in group 0).
META = TopicId(1)
CHECKPOINTS = TopicId(2)
TRANSACTIONS = TopicId(3)
GROUPS = TopicId(4)
EVENTS = TopicId(5)
DELAY = TopicId(6)
FIRST_USER_TOPIC = TopicId(16)

SYSTEM_TOPIC_NAMES = {
    META: "__meta",
    CHECKPOINTS: "__checkpoints",
    TRANSACTIONS: "__transactions",
    GROUPS: "__groups",
    EVENTS: "__events",
    DELAY: "__delay",
}


def make_ballot(round_number: int, node: NodeId) -> Ballot:
    """The ballot of ``node`` in ``round_number``; ballots of one round are ordered by node."""
    return Ballot(round_number << 16 | node)


def ballot_round(ballot: Ballot) -> int:
    return ballot >> 16


def ballot_node(ballot: Ballot) -> NodeId:
    """The node that may propose in this ballot."""
    return NodeId(ballot & 0xFFFF)


def make_origin(node: NodeId, boot: int) -> Origin:
    """The command-id space of one process start: ``boot`` is counted durably by the node."""
    return Origin(node << 48 | boot)


def next_boot(previous: int, wall_ms: int, chance: Random) -> int:
    """The boot counter of a start: above the last one (0: none is known), and above those that a lost disk counted.

    A counter that began anew on a replaced or restored disk would give commands the ids of others long applied, and
    they would be answered with those outcomes; so it follows the clock (ms since 1970) where that is ahead. Where it is
    behind, it leaps by ``chance``: else a disk that was copied, started, and put back would count alike twice.
    """
    return wall_ms if wall_ms > previous else previous + 1 + chance.getrandbits(BOOT_LEAP_BITS)


def origin_node(origin: Origin) -> NodeId:
    return NodeId(origin >> 48)


def origin_boot(origin: Origin) -> int:
    return origin & 0xFFFF_FFFF_FFFF
