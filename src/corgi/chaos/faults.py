"""The kinds of faults: what each does to a running cluster, and how it is undone.

A fault is done to one node, or to the links around it, for a time drawn from the seed. Disks are lost on one node at a
time, and only while every other node votes: with a majority gone no protocol keeps its promises.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from corgi.base.errors import CorgiError
from corgi.chaos import disks
from corgi.chaos.cluster import ChaosCluster
from corgi.chaos.logs import has_event
from corgi.chaos.network import CLIENTS, PacketNetwork
from corgi.log.record import LogIdentity

Part: TypeAlias = Literal["process", "links", "disk"]
RESETS = 5
SHARES = (0.0, 0.01, 0.05, 0.2)  # of packets that are lost, repeated, or overtaken
GAP_MAX_S = 2.0  # of one fault that leaves a majority; far above what a takeover needs, below a wait until it is over
FULL_S = 20.0  # in which a node should have filled the segments that it has


@dataclass(frozen=True, slots=True)
class Victim:
    """Of what the faults of a run are done to: the cluster, one of its nodes, for how long, and chance."""

    cluster: ChaosCluster
    node: int
    hold_s: float
    chance: random.Random
    healthy: Callable[[], Awaitable[object]]  # returns when all nodes vote and follow
    kill_worker: Callable[[random.Random], Awaitable[str]]  # one of the groups' members, and start another

    @property
    def others(self) -> list[int]:
        return [node.node for node in self.cluster.nodes if node.node != self.node]

    @property
    def wal(self) -> Path:
        return self.cluster.node(self.node).folder / "wal"

    @property
    def identity(self) -> LogIdentity:
        return disks.identity_of(self.cluster.cluster_id, self.node)

    async def wait(self) -> None:
        await asyncio.sleep(self.hold_s)

    async def kill(self) -> None:
        await asyncio.to_thread(self.cluster.kill, self.node)

    async def start(self) -> str:
        """Start the node again; one whose log is damaged beyond its own repair rejoins with an empty disk."""
        nodes = [self.cluster.node(self.node)]
        try:
            await asyncio.to_thread(self.cluster.start_nodes, nodes)
        except CorgiError as error:
            if error.code != "log-damaged":
                raise
            nodes[0].process = None
            self.cluster.wipe(self.node)
            await asyncio.to_thread(self.cluster.start_nodes, nodes)
            return "; the node refused to start (log-damaged), was wiped and rejoined"
        return ""


Act: TypeAlias = Callable[[Victim], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Kind:
    """``act`` does it, holds it, undoes it, and tells in words what it was."""

    name: str
    part: Part
    act: Act
    summary: str
    aims_at_leader: float = 0.7  # how often it is the node that leads most
    leaves_majority: bool = True  # of three nodes or more, when it is done alone
    needs_packets: bool = False  # a network that can lose, repeat and reorder them


async def kill(victim: Victim) -> str:
    await victim.kill()
    await victim.wait()
    return await victim.start()


async def kill_all(victim: Victim) -> str:
    cluster = victim.cluster
    for node in cluster.nodes:
        await asyncio.to_thread(cluster.kill, node.node)
    await asyncio.sleep(victim.hold_s / 4)
    await asyncio.to_thread(cluster.start_nodes, cluster.nodes)
    return "every node at once"


async def pause(victim: Victim) -> str:
    victim.cluster.halt(victim.node)
    await victim.wait()
    victim.cluster.go_on(victim.node)
    return ""


async def restart(victim: Victim) -> str:
    await asyncio.to_thread(victim.cluster.terminate, victim.node)
    await asyncio.sleep(victim.hold_s / 4)
    return await victim.start()


async def isolate(victim: Victim) -> str:
    victim.cluster.network.isolate(victim.node)
    return await _over(victim)


async def one_way(victim: Victim) -> str:
    deaf = victim.chance.random() < 0.5
    network = victim.cluster.network
    for other in victim.others:
        source, target = (other, victim.node) if deaf else (victim.node, other)
        network.hold(source, target)
    return await _over(victim) + ("; it hears nobody" if deaf else "; nobody hears it")


async def chain(victim: Victim) -> str:
    """Two nodes that only a third one joins; with more nodes every one sees its neighbours only."""
    nodes = [node.node for node in victim.cluster.nodes]
    middle = nodes.index(victim.node)
    line = nodes[middle + 1 :] + nodes[: middle + 1]
    network = victim.cluster.network
    for at, one in enumerate(line):
        for other in line[at + 2 :]:
            network.cut(one, other)
    return await _over(victim) + f"; {' - '.join(map(str, line))}"


async def bridge(victim: Victim) -> str:
    """Two halves that see each other through one node only."""
    others = victim.others
    victim.chance.shuffle(others)
    half = len(others) // 2
    for one in others[:half]:
        for other in others[half:]:
            victim.cluster.network.cut(one, other)
    return await _over(victim) + f"; {others[:half]} - {victim.node} - {others[half:]}"


async def refuse(victim: Victim) -> str:
    for other in victim.others:
        victim.cluster.network.refuse(victim.node, other)
    return await _over(victim)


async def reset(victim: Victim) -> str:
    for _ in range(RESETS):
        for other in victim.others:
            victim.cluster.network.reset(victim.node, other)
        await asyncio.sleep(victim.hold_s / RESETS * 2 * victim.chance.random())
    return f"{RESETS} times"


async def slow_links(victim: Victim) -> str:
    delays = {}
    for other in victim.others:
        for source, target in ((victim.node, other), (other, victim.node)):
            delay_s = victim.chance.choice((0.0, 0.02, 0.1, 0.4))
            victim.cluster.network.slow(source, target, delay_s)
            delays[f"{source}→{target}"] = round(delay_s * 1000)
    return await _over(victim) + f"; ms: {delays}"


async def lossy_links(victim: Victim) -> str:
    network = victim.cluster.network
    assert isinstance(network, PacketNetwork)
    told = {}
    for other in victim.others:
        for source, target in ((victim.node, other), (other, victim.node)):
            loss, twice, astray = (victim.chance.choice(SHARES) for _ in range(3))
            network.lose(source, target, loss=loss, twice=twice, astray=astray)
            told[f"{source}→{target}"] = f"{loss:.0%} lost, {twice:.0%} twice, {astray:.0%} astray"
    return await _over(victim) + "; " + ", ".join(f"{way}: {how}" for way, how in told.items())


async def hide(victim: Victim) -> str:
    """Clients do not reach the node; the nodes do."""
    if victim.chance.random() < 0.5:
        victim.cluster.network.refuse(CLIENTS, victim.node)
    else:
        victim.cluster.network.cut(CLIENTS, victim.node)
    return await _over(victim)


async def torn_tail(victim: Victim) -> str:
    await victim.kill()
    told = disks.tear(victim.wal, victim.identity, victim.chance)
    return told + await victim.start()


async def lost_tail(victim: Victim) -> str:
    await victim.kill()
    told = disks.lose_tail(victim.wal, victim.identity, victim.chance)
    return told + await victim.start()


async def bit_flip(victim: Victim) -> str:
    await victim.kill()
    told = disks.flip(victim.wal, victim.identity, victim.chance, sealed=victim.chance.random() < 0.5)
    return told + await victim.start()


async def truncate(victim: Victim) -> str:
    await victim.kill()
    told = disks.cut_segment(victim.wal, victim.chance, delete=False)
    return told + await victim.start()


async def delete(victim: Victim) -> str:
    await victim.kill()
    told = disks.cut_segment(victim.wal, victim.chance, delete=True)
    return told + await victim.start()


async def wipe(victim: Victim) -> str:
    await victim.kill()
    victim.cluster.wipe(victim.node)
    await asyncio.sleep(victim.hold_s / 4)
    return await victim.start()


async def old_disk(victim: Victim) -> str:
    """No other node restarts between the copy and its return: what they remember does not outlast that."""
    folder = victim.cluster.node(victim.node).folder
    copy = folder.with_name(f"{folder.name}.old")
    await victim.kill()
    await asyncio.to_thread(disks.copy_folder, folder, copy)
    told = await victim.start()
    await victim.healthy()
    await victim.wait()
    await victim.kill()
    await asyncio.to_thread(disks.put_back, folder, copy)
    return told + await victim.start() + f"a copy {victim.hold_s:.1f} s old"


async def slow_disk(victim: Victim) -> str:
    slow_s = victim.chance.choice((0.02, 0.1, 0.4))
    victim.cluster.suffer(victim.node, slow_s=slow_s)
    await victim.wait()
    victim.cluster.suffer(victim.node)
    return f"each write took {slow_s * 1000:.0f} ms more"


async def full_disk(victim: Victim) -> str:
    """The node notices when its last segment is full; then it stays so for a while."""
    victim.cluster.suffer(victim.node, full=True)
    deadline = time.monotonic() + FULL_S
    noticed = False
    while time.monotonic() < deadline and not noticed:
        await asyncio.sleep(0.1)
        noticed = has_event(victim.cluster.node(victim.node).log, "disk-full", since=deadline - FULL_S)
    await victim.wait()
    victim.cluster.suffer(victim.node)
    return "" if noticed else "the node still had room all the time"


async def kill_worker(victim: Victim) -> str:
    return await victim.kill_worker(victim.chance)


async def clock_jump(victim: Victim) -> str:
    """Within what is trusted, and far beyond; back at the end, which is a jump as well."""
    offset_ms = victim.chance.choice((-20_000, -1_500, 700, 3_000, 60_000))
    victim.cluster.suffer(victim.node, clock_ms=offset_ms)
    await victim.wait()
    victim.cluster.suffer(victim.node)
    return f"by {offset_ms / 1000:+g} s"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("kill", "process", kill, "kill -9, and a start some time later"),
        Kind("pause", "process", pause, "SIGSTOP, and SIGCONT some time later"),
        Kind("restart", "process", restart, "SIGTERM and a start"),
        Kind("clock-jump", "process", clock_jump, "a node's clock is set, and set back some time later"),
        Kind("kill-worker", "process", kill_worker, "kill -9 of a consumer group's member; another one joins"),
        Kind("kill-all", "process", kill_all, "kill -9 of every node at once", leaves_majority=False),
        Kind("isolate", "links", isolate, "a node neither hears the others nor is heard"),
        Kind("one-way", "links", one_way, "a node is not heard, or does not hear"),
        Kind("chain", "links", chain, "each node reaches its neighbours in a line only"),
        Kind("bridge", "links", bridge, "two halves, joined by one node only"),
        Kind("refuse", "links", refuse, "connections to a node are broken and refused"),
        Kind("reset", "links", reset, "connections of a node break again and again"),
        Kind("slow-links", "links", slow_links, "what a node sends or is sent comes up to 400 ms late"),
        Kind(
            "lossy-links", "links", lossy_links, "packets of a node are lost, repeated, reordered", needs_packets=True
        ),
        Kind("hide", "links", hide, "clients do not reach a node"),
        Kind("slow-disk", "disk", slow_disk, "each write of a node's disk takes 20 to 400 ms more"),
        Kind("full-disk", "disk", full_disk, "there is no room for another segment of a node's log", 0.3),
        Kind("torn-tail", "disk", torn_tail, "kill -9, half of a last write is on disk"),
        Kind("lost-tail", "disk", lost_tail, "kill -9, the last synced writes are gone"),
        Kind("bit-flip", "disk", bit_flip, "kill -9, bits are flipped in the log"),
        Kind("truncate", "disk", truncate, "kill -9, a segment of the log is cut short"),
        Kind("delete", "disk", delete, "kill -9, a segment of the log is gone"),
        Kind("wipe", "disk", wipe, "kill -9, the disk is empty"),
        Kind("old-disk", "disk", old_disk, "kill -9, an older copy of the disk is put back"),
    )
}


async def _over(victim: Victim) -> str:
    """Hold what was done to the links, then heal them, in one of two ways."""
    await victim.wait()
    broken = victim.chance.random() < 0.5
    network = victim.cluster.network
    network.heal(reset=broken)
    if broken:
        return "connections broke"
    return "what was lost was sent again" if isinstance(network, PacketNetwork) else "what was sent came late"
