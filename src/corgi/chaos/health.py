"""Is everything well again? Asked of the nodes themselves, by a client that reaches them past all broken links."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from corgi.base.errors import CorgiError
from corgi.client.corgi import Corgi
from corgi.wire.messages import StatusReply

POLL_S = 0.05
RECEIVED = ("snapshot_bytes_received", "learned_bytes", "repaired_bytes")
PATIENCE_MAX = 20
LAG_SLOTS_MAX = 200  # a node that follows under load is never quite at the end


@dataclass(frozen=True, slots=True)
class Healed:
    """How long it took until every node voted and until every node held everything as well, in seconds; and what they
    told then."""

    voting_s: float
    whole_s: float
    replies: Sequence[StatusReply]

    def received_bytes(self, node: int) -> int:
        """What the node has got of others since it was started to make up for what it had not: states and values."""
        return sum(
            int(reply.counters.get(name, 0)) for reply in self.replies if reply.node == node for name in RECEIVED
        )


def complaints(replies: Sequence[StatusReply], nodes: int) -> list[str]:
    """What is not well, apart from values that are missing: empty when every node answers, votes, hears all others and
    follows, and every group is led."""
    told = [f"{nodes - len(replies)} nodes do not answer"] if len(replies) < nodes else []
    told += [f"node {reply.node} does not vote" for reply in replies if not reply.voting]
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


def missing(replies: Sequence[StatusReply]) -> list[str]:
    """Who does not hold everything: damaged values, and those that a snapshot names and that have not come yet."""
    return [
        f"node {reply.node} misses {count:.0f} values"
        for reply in replies
        if (count := max(reply.counters.get(name, 0.0) for name in ("values_missing", "values_to_come")))
    ]


async def wait_healthy(mq: Corgi, nodes: int, timeout_s: float) -> Healed:
    """Every node has so long to vote and follow; values have to keep coming, however many they are, and it ends when
    none has come for so long, or after PATIENCE_MAX times as long: the same ones may come again and again. Raises
    CorgiError "timeout", which says what is not well.
    """
    began = time.monotonic()
    deadline = began + timeout_s
    voting_s: float | None = None
    most = 0.0  # values that have come: a node that does not answer for a moment takes its own away
    while True:
        replies = await mq.status()
        told, missed = complaints(replies, nodes), missing(replies)
        passed_s = time.monotonic() - began
        if voting_s is None and len(replies) == nodes and all(reply.voting for reply in replies):
            voting_s = passed_s
        if not told and not missed:
            return Healed(passed_s if voting_s is None else voting_s, passed_s, replies)
        come = sum(reply.counters.get("repaired_values", 0.0) for reply in replies)
        if not told and come > most:
            deadline = min(time.monotonic() + timeout_s, began + PATIENCE_MAX * timeout_s)
        most = max(most, come)
        if time.monotonic() > deadline:
            raise CorgiError("timeout", f"{passed_s:.0f} s after all was healed: {'; '.join(told + missed)}")
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
