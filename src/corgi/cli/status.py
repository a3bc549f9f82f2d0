"""``corgi status``: one look at a cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corgi.cli.common import ClusterOption, connected, run
from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json, print_table
from corgi.cli.words import printable, say

if TYPE_CHECKING:
    from corgi.client.corgi import Corgi
    from corgi.client.messages import NodeDescription
    from corgi.wire.messages import StatusReply

LINKS_S = 1.0  # for reaching the nodes that were not named
POLL_S = 0.02
LAG_MAX = 1000  # slots; a node further behind is worth a word


def status(*, cluster: ClusterOption = None, output: OutputOption = "table") -> int:
    """Show nodes, groups, leaders and lag in one look.

    Exit code 0: all is well. 3: something is not, and it is named. 5: no node
    answers.

    Example: corgi status --cluster 10.0.0.1:7450

    JSON: {"cluster", "healthy", "problems": [text], "nodes": [{"node",
    "address", "label", "reachable", "voting", "software", "uptime_s", "pid", "leads",
    "lag", "disk_bytes", "live_bytes", "disk_full", "values_to_come",
    "groups_recovering", "memory_groups_in_doubt", "memory_log_bytes_held",
    "peers": [{"node", "connected", "silent_s", "clock_offset_ms"}],
    "counters": {}, "damage": {"found", "repaired", "missing", "lost",
    "lost_ranges": [{"topic_id", "partition", "first", "last"}]}}], "groups":
    [{"group", "leader", "chosen", "open_slots", "pending", "leadership_changes", "applied": {node: slot}}]}
    """

    async def work() -> dict[str, Any]:
        async with connected(cluster) as mq:
            nodes = await _nodes(mq)
            return survey(mq.cluster, nodes, await mq.status())

    document = run(work())
    if output == "json":
        print_json(document)
    else:
        _show(document)
    return Exit.OK if document["healthy"] else Exit.UNHEALTHY


def survey(cluster: str, nodes: Sequence[NodeDescription], replies: list[StatusReply]) -> dict[str, Any]:
    """Put together what each node says of itself; and what is wrong."""
    by_node: dict[int, StatusReply] = {reply.node: reply for reply in replies}
    groups = _groups(replies)
    told = [_node(node, by_node.get(node.node), groups) for node in nodes]
    problems = _problems(told, _used(groups, replies))
    return {"cluster": cluster, "healthy": not problems, "problems": problems, "nodes": told, "groups": groups}


def _used(groups: list[dict[str, Any]], replies: list[StatusReply]) -> list[dict[str, Any]]:
    """Without memory groups in which there is no topic: nothing waits for those."""
    topics = max((reply.counters.get("memory_topics", 0) for reply in replies), default=0)
    unused = 0 if topics else max((reply.counters.get("memory_groups", 0) for reply in replies), default=0)
    return groups[: len(groups) - round(unused)]


async def _nodes(mq: Corgi) -> Sequence[NodeDescription]:
    """All nodes, after giving the links a moment to come up."""
    deadline = time.monotonic() + LINKS_S
    while True:
        nodes = await mq.topics.nodes()
        if all(node.connected for node in nodes) or time.monotonic() > deadline:
            return nodes
        await asyncio.sleep(POLL_S)


def _groups(replies: list[StatusReply]) -> list[dict[str, Any]]:
    """Per group: of what the nodes say, the leader of the highest term is believed."""
    groups: list[dict[str, Any]] = []
    for number in sorted({status.group for reply in replies for status in reply.groups}):
        views = {reply.node: status for reply in replies for status in reply.groups if status.group == number}
        newest = max(views.values(), key=lambda view: view.term)
        led = views.get(newest.leader, newest)
        groups.append(
            {
                "group": number,
                "leader": newest.leader,
                "chosen": max(view.prefix for view in views.values()),
                "open_slots": led.open_slots,
                "pending": led.pending,
                "leadership_changes": max(view.leadership_changes for view in views.values()),
                "applied": {str(node): view.applied for node, view in views.items()},
            }
        )
    return groups


def _node(node: NodeDescription, reply: StatusReply | None, groups: list[dict[str, Any]]) -> dict[str, Any]:
    me = str(node.node)
    return {
        "node": node.node,
        "address": f"{node.host}:{node.port}",
        "label": node.label,
        "reachable": reply is not None,
        "voting": reply is not None and reply.voting,
        "software": reply.software if reply else "",
        "uptime_s": round(reply.uptime_s, 1) if reply else 0.0,
        "pid": round(reply.counters.get("process_id", 0)) if reply else None,
        "leads": [group["group"] for group in groups if group["leader"] == node.node],
        "lag": max((group["chosen"] - group["applied"].get(me, 0) for group in groups), default=0) if reply else None,
        "disk_bytes": round(reply.counters.get("log_bytes_held", 0)) if reply else None,
        "live_bytes": round(reply.counters.get("log_live_bytes", 0)) if reply else None,
        "disk_full": bool(reply and reply.counters.get("disk_full")),
        "values_to_come": round(reply.counters.get("values_to_come", 0)) if reply else 0,
        "peers": [
            {"node": peer, "connected": up, "silent_s": round(silent_s, 3), "clock_offset_ms": round(offset_ms, 1)}
            for peer, up, silent_s, offset_ms in (reply.peers if reply else ())
        ],
        "counters": reply.counters if reply else {},
        "groups_recovering": sum(group.role == "recovering" for group in reply.groups) if reply else 0,
        "memory_groups_in_doubt": round(reply.counters.get("memory_groups_in_doubt", 0)) if reply else 0,
        "memory_log_bytes_held": round(reply.counters.get("memory_log_bytes_held", 0)) if reply else 0,
        "damage": _damage(reply),
    }


def _damage(reply: StatusReply | None) -> dict[str, Any]:
    """What the node found wrong with its stored messages, and what became of it."""
    counters = reply.counters if reply else {}
    return {
        "found": int(sum(counters.get(name, 0) for name in ("damaged_records", "log_holes", "scrub_damaged"))),
        "repaired": int(counters.get("repaired_values", 0)),
        "missing": int(counters.get("values_missing", 0)),
        "lost": int(counters.get("values_lost", 0)),
        "lost_ranges": [
            {"topic_id": topic, "partition": partition, "first": first, "last": last}
            for topic, partition, first, last in (reply.lost if reply else ())
        ],
    }


def _problems(nodes: list[dict[str, Any]], groups: list[dict[str, Any]]) -> list[str]:
    problems: list[str] = []
    for node in nodes:
        name = f"node {node['node']}"
        if not node["reachable"]:
            problems.append(f"{name} at {node['address']} does not answer")
            continue
        if node["values_to_come"]:
            problems.append(f"{name} is incomplete: {node['values_to_come']} values are still to come from the others")
        if not node["voting"]:
            problems.append(f"{name} does not vote{_where(node)}: it recovers")
        if node["memory_log_bytes_held"]:
            problems.append(
                f"{name} holds {_size(node['memory_log_bytes_held'])} of its log, and ever more, for topics with "
                "durability memory of which something is lost here. Start the nodes that are gone, or this one once "
                "with --accept-loss memory, before its disk is full"
            )
        if node["disk_full"]:
            problems.append(f"the disk of {name} is full: shorten retention, delete topics, or give it room")
        damage = node["damage"]
        if damage["lost"]:
            problems.append(f"{name} cannot read {damage['lost']} values, and no other node can")
        for lost in damage["lost_ranges"]:
            where = f"topic {lost['topic_id']} partition {lost['partition']}"
            problems.append(f"{name} lost offsets {lost['first']} to {lost['last']} of {where}")
        if node["lag"] > LAG_MAX:
            problems.append(f"{name} is {node['lag']} slots behind in a group")
        cut = [str(peer["node"]) for peer in node["peers"] if not peer["connected"]]
        gone = {str(other["node"]) for other in nodes if not other["reachable"]}
        problems.extend(f"{name} has no link to node {peer}" for peer in cut if peer not in gone)
    reachable = {node["node"] for node in nodes if node["reachable"]}
    doubtful = {node["node"] for node in nodes if node["memory_groups_in_doubt"] and not node["voting"]}
    if doubtful and len(reachable - doubtful) <= len(nodes) // 2:
        problems.append(
            "topics with durability memory stand still: too few nodes know for sure what they voted for. Start those "
            "that are gone, or, to go on without what is lost, each that recovers once with --accept-loss memory"
        )
    leaderless = [str(group["group"]) for group in groups if group["leader"] not in reachable]
    if leaderless:
        problems.append(f"no leader is known for group {', '.join(leaderless)}")
    return problems


def _where(node: dict[str, Any]) -> str:
    doubtful = node["memory_groups_in_doubt"]
    return " in groups of topics with durability memory" if doubtful and doubtful == node["groups_recovering"] else ""


def _show(document: dict[str, Any]) -> None:
    rows = []
    for node in document["nodes"]:
        state = "unreachable" if not node["reachable"] else "up" if node["voting"] else "not voting"
        leads = ",".join(map(str, node["leads"])) or "-"
        lag = "-" if node["lag"] is None else node["lag"]
        sizes = [_size(node["disk_bytes"]), _size(node["live_bytes"])]
        rows.append(
            (node["node"], node["address"], node["label"], state, _lasted(node["uptime_s"]), leads, lag, *sizes)
        )
    print_table((">node", "address", "label", "state", ">up for", "leads groups", ">lag", ">log", ">live"), rows)
    print()
    groups = [
        (g["group"], g["leader"] or "?", g["chosen"], g["open_slots"], g["pending"], g["leadership_changes"])
        for g in document["groups"]
    ]
    found = [
        (n["node"], n["damage"]["found"], n["damage"]["repaired"], n["damage"]["missing"], n["damage"]["lost"])
        for n in document["nodes"]
        if n["damage"]["found"] or n["damage"]["missing"]
    ]
    if found:
        print_table((">node", ">damage found", ">repaired", ">missing", ">lost"), found)
        print()
    print_table((">group", ">leader", ">chosen", ">open", ">pending", ">changes of leader"), groups)
    for problem in document["problems"]:
        say(f"problem: {printable(problem)}")
    if document["healthy"]:
        say(f"cluster {document['cluster']} is well")


def _lasted(seconds: float) -> str:
    """12 s, 5 min, 3 h, 9 d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(size: int | None) -> str:
    """512 B, 64 MiB; - if nobody knows."""
    if size is None:
        return "-"
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= 2 * unit:
            return f"{size / unit:.0f} {name}"
    return f"{size} B"
