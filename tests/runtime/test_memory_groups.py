"""Topics with durability memory on real files: what a kill and what a power loss leave of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from net_world import CLUSTER, HOST, options, until

import corgi
from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.base.limits import KIB
from corgi.runtime.disk import DiskOptions
from corgi.runtime.drive import Driver, Notes
from corgi.runtime.folder import Folder
from corgi.runtime.segments import segment_path

SEGMENT_BYTES = 256 * KIB
GROUPS, MEMORY_GROUPS = 2, 2
MESSAGES = 20


@asynccontextmanager
async def alone(
    path: Path, *, kernel: str | None = None, accept: str = "", bootstrap: bool = False, kill: bool = False
) -> AsyncIterator[tuple[Driver, str]]:
    """The only node of its cluster, for one life that ends in order or by ``kill``; ``kernel`` is the computer's,
    ``accept`` what the operator says."""
    if bootstrap:
        folder = Folder.bootstrap(
            path, CLUSTER, NodeId(1), GROUPS, memory_groups=MEMORY_GROUPS, segment_bytes=SEGMENT_BYTES
        )
    else:
        folder = Folder.open(path, NodeId(1), segment_bytes=SEGMENT_BYTES, alone=True, kernel=kernel)
    with folder:
        told = options(
            1, (1,), incarnation=folder.incarnation, boot=folder.boot, groups=GROUPS, scrub_bytes_s=0,
            memory_groups=MEMORY_GROUPS, memory_lost=folder.memory_lost,
            accept_lost_memory=accept != "", accept_lost_votes=accept == "votes",
        )  # fmt: skip
        driver = Driver(
            told,
            path,
            disk=DiskOptions(segment_bytes=SEGMENT_BYTES),
            recovered=folder.mark_recovered,
            notes=Notes.of(folder),
        )
        port = await driver.bind()
        await driver.start({NodeId(1): (HOST, port)})
        try:
            yield driver, f"{HOST}:{port}"
        finally:
            if kill:
                driver.disk.abort()
            await driver.stop(timeout_s=0.5)


async def publish(server: str, topic: str, first: int, count: int) -> None:
    async with corgi.connect(server) as mq:
        for number in range(first, first + count):
            await mq.publish(topic, b"%06d" % number, partition=number % 2)


async def ends(server: str, topic: str) -> list[int]:
    async with corgi.connect(server) as mq:
        return [part.end for part in (await mq.topics.describe(topic)).partitions]


async def make(path: Path, *, kill: bool = False) -> None:
    async with alone(path, bootstrap=True, kill=kill) as (driver, server):
        async with corgi.connect(server) as mq:
            await mq.topics.create("quick", partitions=2, durability="memory")
            await mq.topics.create("sure", partitions=2)
        await publish(server, "sure", 0, MESSAGES)
        before = driver.disk.statistics().syncs
        await publish(server, "quick", 0, MESSAGES)
        spared = driver.disk.statistics().syncs - before
        assert spared < MESSAGES // 2, "votes in memory groups wait for no sync"
        groups = [group.id for group in driver.node.groups if group.machine.partitions]
        assert any(group >= GROUPS for group in groups)


async def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    await make(tmp_path, kill=True)
    assert not json.loads((tmp_path / "node.json").read_text())["clean"]
    async with alone(tmp_path) as (driver, server):
        assert await ends(server, "quick") == [MESSAGES // 2] * 2
        await publish(server, "quick", MESSAGES, 2)
        assert not driver.node.identity.memory.reason


async def test_a_clean_stop_is_no_power_loss(tmp_path: Path) -> None:
    await make(tmp_path)
    assert json.loads((tmp_path / "node.json").read_text())["clean"]
    async with alone(tmp_path, kernel="another life") as (driver, server):
        assert not driver.node.identity.memory.reason
        await publish(server, "quick", MESSAGES, 2)


async def test_after_a_power_loss_memory_groups_stand_still_and_others_go_on(tmp_path: Path) -> None:
    await make(tmp_path, kill=True)
    async with alone(tmp_path, kernel="another life", kill=True) as (driver, server):
        assert driver.node.identity.voting
        assert driver.node.identity.memory.reason == "the computer lost its power"
        await publish(server, "sure", MESSAGES, 2)
        roles = [group.replica.role for group in driver.node.groups]
        assert roles == ["leader"] * GROUPS + ["recovering"] * MEMORY_GROUPS
        assert any(name == "memory-in-doubt" for _, name, _, _ in driver.node.events)
    async with alone(tmp_path, kernel="another life", kill=True) as (driver, _):
        assert driver.node.identity.memory.reason, "a doubt outlasts the life in which it came up"
    async with alone(tmp_path, kernel="another life", accept="memory", kill=True) as (driver, server):
        await publish(server, "quick", MESSAGES, 2)
        (loss,) = driver.node.identity.given_up
        assert "the computer lost its power" in loss
        assert driver.node.counters["lossy_restarts"] == MEMORY_GROUPS
        await until(lambda: not driver.node.identity.memory.reason)
    async with alone(tmp_path, kernel="another life") as (driver, server):
        assert not driver.node.identity.memory.reason, "the doubt is settled for good"
        assert driver.node.identity.given_up == [loss]
        assert await ends(server, "quick") == [MESSAGES // 2 + 1] * 2


async def test_damage_on_the_only_node_puts_groups_of_both_kinds_in_doubt_and_one_word_settles_it(
    tmp_path: Path,
) -> None:
    await make(tmp_path)
    async with alone(tmp_path) as (driver, _):
        group = next(g for g in driver.node.groups if g.id < GROUPS and g.machine.partitions)
        log = max(group.machine.partitions.values(), key=lambda log: log.count)
        position = group.slots.position(log.entry(MESSAGES // 4).slot)
    segment, offset = divmod(position - 30, SEGMENT_BYTES)
    with segment_path(tmp_path / "wal", segment).open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 20)
    async with alone(tmp_path) as (driver, _):
        assert {group.replica.role for group in driver.node.groups} == {"recovering"}
    async with alone(tmp_path, accept="votes") as (driver, server):
        await until(lambda: not driver.node.identity.memory.reason)
        assert driver.node.identity.voting
        await publish(server, "quick", MESSAGES, 2)
    async with alone(tmp_path) as (driver, server):
        assert driver.node.identity.voting
        assert not driver.node.identity.memory.reason
        assert await ends(server, "quick") == [MESSAGES // 2 + 1] * 2


async def test_a_cluster_without_memory_groups_says_so(tmp_path: Path) -> None:
    folder = Folder.bootstrap(tmp_path, CLUSTER, NodeId(1), 2, segment_bytes=SEGMENT_BYTES)
    with folder:
        told = options(1, (1,), incarnation=folder.incarnation, boot=folder.boot, groups=2)
        driver = Driver(told, tmp_path, disk=DiskOptions(segment_bytes=SEGMENT_BYTES))
        port = await driver.bind()
        await driver.start({NodeId(1): (HOST, port)})
        try:
            async with corgi.connect(f"{HOST}:{port}") as mq:
                with pytest.raises(CorgiError, match="no memory groups"):
                    await mq.topics.create("quick", durability="memory")
        finally:
            await driver.stop(timeout_s=0.5)
