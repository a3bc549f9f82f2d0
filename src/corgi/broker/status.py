"""Status: one look at a node for people, counters for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.wire.messages import GroupStatus, StatusReply

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node


def status_reply(node: Node, uptime_s: float, counters: dict[str, float]) -> StatusReply:
    """What the node knows of itself; ``counters`` are those of its requests and join the node's own."""
    options = node.options
    groups = tuple([group_status(group) for group in node.groups])
    process = {"process_id": float(options.process_id)} if options.process_id else {}
    disk = {"disk_full": float(node.room.full)}
    damage = {"values_missing": float(node.repairs.wanted), "values_lost": float(len(node.repairs.lost))}
    memory = memory_gauges(node)
    needed = options.all_groups if memory.get("memory_topics") else options.groups
    return StatusReply(
        options.cluster.hex(),
        options.node,
        options.software,
        uptime_s,
        not any(group.role == "recovering" for group in groups[:needed]),
        tuple(node.peer_status()),
        groups,
        {**node.counters, **counters, **node.snapshots.gauges(), **damage, **memory, **disk, **process},
        tuple(node.repairs.lost_ranges()),
    )


def memory_gauges(node: Node) -> dict[str, float]:
    """Of memory groups, if there are any: whether they are in doubt, how many topics that concerns, and how many bytes
    of the log are held for nothing else."""
    options, topics = node.options, node.groups[0].machine.topics
    if not options.memory_groups or topics is None:
        return {}
    return {
        "memory_groups": float(options.memory_groups),
        "memory_groups_in_doubt": float(sum(node.identity.recovers(g.id) for g in node.groups[options.groups :])),
        "memory_log_bytes_held": float(node.snapshots.held_in_doubt()),
        "memory_topics": float(sum(topic.first >= options.groups for topic in topics.by_id.values())),
    }


def group_status(group: Group) -> GroupStatus:
    replica = group.replica
    return GroupStatus(
        group.id,
        replica.leader,
        replica.ballot,
        replica.role,
        replica.prefix,
        group.machine.applied,
        replica.open_slots,
        len(group.proposals),
        replica.leadership_changes,
    )
