"""What a node is told at its start; one frozen object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from corgi.base.ids import NodeId
from corgi.base.limits import (
    GROUPS_DEFAULT,
    KEYS_BYTES_MAX,
    MIB,
    SCRUB_BYTES_S,
    SCRUB_PAUSE_S,
    SUSPICION_S,
    TAIL_BYTES_MAX,
    VALUE_BYTES_MAX,
    WINDOW_SLOTS,
)
from corgi.paxos.learner import FAR_SLOTS


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """``cluster`` and ``incarnation`` are 16 bytes; ``boot`` grows with every start; times in seconds."""

    node: NodeId
    cluster: bytes
    incarnation: bytes
    boot: int
    members: tuple[NodeId, ...]
    groups: int = GROUPS_DEFAULT
    memory_groups: int = 0  # behind the others
    suspicion_s: float = SUSPICION_S
    recovering: bool = False
    memory_lost: str = ""  # names the power loss after which the memory groups have not recovered yet
    addresses: Mapping[NodeId, tuple[str, int]] = field(default_factory=dict)
    labels: Mapping[NodeId, str] = field(default_factory=dict)
    window_slots: int = WINDOW_SLOTS
    tail_bytes_max: int = TAIL_BYTES_MAX
    value_bytes_max: int = VALUE_BYTES_MAX  # where merging stops
    snapshot_segments: int = 2  # of log between two snapshots of a group, at least
    far_slots: int = FAR_SLOTS  # a node that lags more would rather have a snapshot, if that is less
    rewrite_below: float = 0.25  # a segment in which a smaller part lives is emptied
    rewrite_bytes_per_s: int = 8 * MIB
    retention_interval_s: float = 1.0  # how often a leader looks what has become too old or too much
    compaction_interval_s: float = 1.0  # how often a leader looks what is to be compacted
    compaction_bytes_per_s: int = 8 * MIB  # read for it
    compaction_bytes_min: int = 1 * MIB  # of a partition that compaction has not seen, before it begins
    compaction_keys_bytes_max: int = KEYS_BYTES_MAX
    scrub_bytes_s: int = SCRUB_BYTES_S  # of sealed segments, read to find damage; 0: never
    scrub_pause_s: float = SCRUB_PAUSE_S  # between two passes over them
    accept_lost_votes: bool = False  # the operator's word for a node that is alone in its cluster
    accept_lost_memory: bool = False  # ... for memory groups of which a majority has forgotten votes
    classic_join_delay_s: float = 0.25  # how long an empty group waits for more members than its first
    software: str = "corgi"
    process_id: int = 0  # told to who asks for the status; 0: not a process of its own

    @property
    def all_groups(self) -> int:
        """The groups of both kinds."""
        return self.groups + self.memory_groups
