"""Is everything well again? Asked of the nodes themselves, by a client that reaches them past all broken links."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from corgi.base.errors import CorgiError
from corgi.client.corgi import Corgi
from corgi.wire.messages import StatusReply

POLL_S = 0.05
LAG_SLOTS_MAX = 200  # a node that follows under load is never quite at the end


def complaints(replies: Sequence[StatusReply], nodes: int) -> list[str]:
    """What is not well: empty when every node answers, votes, hears all others, follows and holds everything, and every
    group is led."""
    told = [f"{nodes - len(replies)} nodes do not answer"] if len(replies) < nodes else []
    told += [f"node {reply.node} does not vote" for reply in replies if not reply.voting]
    told += [
        f"node {reply.node} misses {missing:.0f} damaged values"
        for reply in replies
        if (missing := reply.counters.get("values_missing", 0.0))
    ]
    told += [
        f"node {reply.node} has no link to node {peer}"
        for reply in replies
        for peer, connected, _, _ in reply.peers
        if not connected
    ]
    applied: dict[int, list[int]] = {}
    led = set()
    for reply in replies:
        for group in reply.groups:
            applied.setdefault(group.group, []).append(group.applied)
            if group.leader == reply.node:
                led.add(group.group)
    told += [f"group {group} is not led" for group in sorted(set(applied) - led)]
    told += [
        f"in group {group} a node is {max(slots) - min(slots)} slots behind"
        for group, slots in sorted(applied.items())
        if max(slots) - min(slots) > LAG_SLOTS_MAX
    ]
    return told


async def wait_healthy(mq: Corgi, nodes: int, timeout_s: float) -> None:
    """Raises CorgiError "timeout", which says what is not well."""
    deadline = time.monotonic() + timeout_s
    while True:
        told = complaints(await mq.status(), nodes)
        if not told:
            return
        if time.monotonic() > deadline:
            raise CorgiError("timeout", f"{timeout_s:.0f} s after all was healed: {'; '.join(told)}")
        await asyncio.sleep(POLL_S)


async def busiest(mq: Corgi) -> int:
    """The node that leads most groups; 0 when nobody says that it leads."""
    led: Counter[int] = Counter()
    for reply in await mq.status():
        led[reply.node] += sum(group.leader == reply.node for group in reply.groups)
    if not led or not max(led.values()):
        return 0
    return max(led, key=lambda node: (led[node], -node))


async def leadership_changes(mq: Corgi) -> dict[int, int]:
    """Per group the highest count that a node tells."""
    counts: dict[int, int] = {}
    for reply in await mq.status():
        for group in reply.groups:
            counts[group.group] = max(counts.get(group.group, 0), group.leadership_changes)
    return counts
