"""Topics with durability memory on real files: what a kill and what a power loss leave of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from net_world import CLUSTER, HOST, options, until

import corgi
from corgi.base.command import Buffer, CommandKind
from corgi.base.errors import NO_QUORUM, CorgiError
from corgi.base.ids import GroupId, NodeId
from corgi.base.limits import KIB
from corgi.broker import reigns
from corgi.log.record import (
    BATCH_HEADER_BYTES,
    DATA_FROM,
    BatchHeader,
    Damage,
    LogIdentity,
    decode_batch_header,
    decode_segment_header,
    segment_seed,
)
from corgi.runtime.disk import DiskOptions
from corgi.runtime.drive import Driver, Notes
from corgi.runtime.folder import Folder
from corgi.runtime.segments import segment_path
from corgi.server.assemble import Mode, open_folder
from corgi.server.config import ServerConfig
from corgi.state.outcomes import Outcome

SEGMENT_BYTES = 256 * KIB
GROUPS, MEMORY_GROUPS = 2, 2
MESSAGES = 20
LARGE = bytes(40_000)

Done = Callable[[Outcome], None]


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
        async with served(folder, accept=accept, kill=kill) as running:
            yield running


@asynccontextmanager
async def served(folder: Folder, *, accept: str = "", kill: bool = False) -> AsyncIterator[tuple[Driver, str]]:
    """The node of an open folder and its address."""
    told = options(
        1, (1,), incarnation=folder.incarnation, boot=folder.boot, groups=folder.groups, scrub_bytes_s=0,
        memory_groups=folder.memory_groups, memory_lost=folder.memory_lost,
        accept_lost_memory=accept != "", accept_lost_votes=accept == "votes",
    )  # fmt: skip
    driver = Driver(
        told,
        folder.path,
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
        assert not driver.node.identity.amnesia.reason


async def test_a_clean_stop_is_no_power_loss(tmp_path: Path) -> None:
    await make(tmp_path)
    assert json.loads((tmp_path / "node.json").read_text())["clean"]
    async with alone(tmp_path, kernel="another life") as (driver, server):
        assert not driver.node.identity.amnesia.reason
        await publish(server, "quick", MESSAGES, 2)


async def test_after_a_power_loss_memory_groups_stand_still_and_others_go_on(tmp_path: Path) -> None:
    await make(tmp_path, kill=True)
    async with alone(tmp_path, kernel="another life", kill=True) as (driver, server):
        assert driver.node.identity.voting
        assert driver.node.identity.amnesia.reason == "the computer lost its power"
        await publish(server, "sure", MESSAGES, 2)
        roles = [group.replica.role for group in driver.node.groups]
        assert roles == ["leader"] * GROUPS + ["recovering"] * MEMORY_GROUPS
        assert any(name == "memory-in-doubt" for _, name, _, _ in driver.node.events)
    async with alone(tmp_path, kernel="another life", kill=True) as (driver, _):
        assert driver.node.identity.amnesia.reason, "a doubt outlasts the life in which it came up"
    async with alone(tmp_path, kernel="another life", accept="memory", kill=True) as (driver, server):
        await publish(server, "quick", MESSAGES, 2)
        (loss,) = driver.node.identity.given_up
        assert "the computer lost its power" in loss
        assert driver.node.counters["lossy_restarts"] == MEMORY_GROUPS
        await until(lambda: not driver.node.identity.amnesia.reason)
    async with alone(tmp_path, kernel="another life") as (driver, server):
        assert not driver.node.identity.amnesia.reason, "the doubt is settled for good"
        assert driver.node.identity.given_up == [loss]
        assert await ends(server, "quick") == [MESSAGES // 2 + 1] * 2


async def test_memory_groups_that_stand_still_stop_nothing_else(tmp_path: Path) -> None:
    """Coordinators of consumers and of transactions look at every group in which there may be something."""
    await make(tmp_path, kill=True)
    async with (
        alone(tmp_path, kernel="another life", kill=True) as (driver, server),
        corgi.connect(server) as mq,
    ):
        async with mq.atomic("writer") as tx:
            for partition in range(2):
                tx.publish("sure", b"both", partition=partition)
        assert tx.receipt.two_phase
        found = 0
        async with mq.subscribe("sure", group="readers", start="earliest") as messages:
            async for message in messages:
                async with message:
                    found += 1
                if found == MESSAGES + 2:
                    break
        assert driver.node.identity.amnesia.reason
        with pytest.raises(CorgiError):
            await mq.groups.list(timeout="200ms")  # there may be checkpoints that nobody can tell of


async def test_a_consumer_group_takes_up_what_memory_groups_tell_when_they_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(tmp_path)
    async with alone(tmp_path) as (driver, server), corgi.connect(server) as mq:
        node, still = driver.node, {GroupId(number) for number in range(GROUPS, GROUPS + MEMORY_GROUPS)}
        submit = node.submit

        def submit_elsewhere(group: GroupId, kind: CommandKind, body: Buffer, done: Done, **words: Any) -> None:
            if group in still:
                node.later(lambda: done(Outcome(0, 0, NO_QUORUM, (), -1)))
            else:
                submit(group, kind, body, done, **words)

        monkeypatch.setattr(node, "submit", submit_elsewhere)
        monkeypatch.setattr(reigns, "UNSEEN_RETRY_S", 0.2)
        found = []
        begun = []
        async with mq.subscribe(["sure", "quick"], group="readers", start="earliest") as messages:
            async for message in messages:
                found.append(message.topic)
                message.ack()
                if len(found) == MESSAGES:
                    assert {*found} == {"sure"}
                    begun = node.requests.reigns.all()
                    assert [reign.unseen for reign in begun] == [still]
                    still.clear()
                if len(found) == 2 * MESSAGES:
                    break
            await until(lambda: begun[0].ended and node.requests.reigns.known("readers"))
            (again,) = node.requests.reigns.all()
            assert not again.unseen
            assert again.ballot == begun[0].ballot
            assert again.serial >= begun[0].serial, "a member would take another assignment for the one that it has"


async def test_without_topics_in_them_memory_groups_are_not_asked(tmp_path: Path) -> None:
    async with (
        alone(tmp_path, bootstrap=True) as (driver, server),
        corgi.connect(server) as mq,
    ):
        for group in driver.node.groups[GROUPS:]:
            group.replica.acceptor.voting = False
        await mq.topics.create("sure")
        assert await mq.groups.list(timeout="10s") == []


async def test_transactions_leave_topics_in_memory_alone_and_one_command_does_not(tmp_path: Path) -> None:
    await make(tmp_path)

    async def act(mq: corgi.Corgi, topics: tuple[str, str]) -> None:
        async with mq.atomic() as tx:
            for partition, topic in enumerate(topics):
                tx.publish(topic, b"x", partition=partition)

    async with alone(tmp_path) as (_, server), corgi.connect(server) as mq:
        for topics in (("quick", "sure"), ("quick", "quick")):
            with pytest.raises(CorgiError, match="durability memory") as caught:
                await act(mq, topics)
            assert caught.value.code == "invalid-argument"
        async with mq.atomic() as tx:
            tx.publish("quick", b"a", partition=0)
            tx.publish("quick", b"b", partition=0)
        assert not tx.receipt.two_phase
        assert await ends(server, "quick") == [MESSAGES // 2 + 2, MESSAGES // 2]
        assert await ends(server, "sure") == [MESSAGES // 2] * 2


async def test_no_topic_is_made_in_memory_groups_that_stand_still(tmp_path: Path) -> None:
    """Nobody could open it, and lists of consumer groups would wait for it."""
    async with alone(tmp_path, bootstrap=True, kill=True) as (_, server), corgi.connect(server) as mq:
        await mq.topics.create("sure")
    async with alone(tmp_path, kernel="another life", kill=True) as (_, server), corgi.connect(server) as mq:
        with pytest.raises(CorgiError, match="--accept-loss memory") as refused:
            await mq.topics.create("quick", durability="memory", timeout="1s")
        assert refused.value.code == "recovering"
        await mq.topics.create("more")
        assert [topic.name for topic in await mq.topics.list()] == ["more", "sure"]
        assert await mq.groups.list(timeout="2s") == []
    async with alone(tmp_path, kernel="another life", accept="memory") as (_, server), corgi.connect(server) as mq:
        await mq.topics.create("quick", durability="memory")
        await mq.publish("quick", b"x")


async def test_a_folder_of_a_build_without_memory_groups_goes_on(tmp_path: Path) -> None:
    with Folder.bootstrap(tmp_path, CLUSTER, NodeId(1), GROUPS, segment_bytes=SEGMENT_BYTES) as folder:
        async with served(folder) as (_, server):
            async with corgi.connect(server) as mq:
                await mq.topics.create("sure", partitions=2)
            await publish(server, "sure", 0, MESSAGES)
    config = ServerConfig(node=1, data=str(tmp_path))
    with open_folder(config, Mode.CONTINUE, SEGMENT_BYTES) as folder:
        async with served(folder) as (driver, server):
            assert len(driver.node.groups) == GROUPS
            assert await ends(server, "sure") == [MESSAGES // 2] * 2
            await publish(server, "sure", MESSAGES, 2)
            async with corgi.connect(server) as mq:
                with pytest.raises(CorgiError, match="no memory groups"):
                    await mq.topics.create("quick", durability="memory")


async def test_damage_on_the_only_node_puts_groups_of_both_kinds_in_doubt_and_one_word_settles_it(
    tmp_path: Path,
) -> None:
    await make(tmp_path)
    async with alone(tmp_path) as (driver, _):
        group = next(g for g in driver.node.groups if 0 < g.id < GROUPS and g.machine.partitions)
        log = max(group.machine.partitions.values(), key=lambda log: log.count)
        position = group.slots.position(log.entry(MESSAGES // 4).slot)
    segment, offset = divmod(position - 30, SEGMENT_BYTES)
    with segment_path(tmp_path / "wal", segment).open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 20)
    async with alone(tmp_path) as (driver, _):
        assert {group.replica.role for group in driver.node.groups} == {"recovering"}
    async with alone(tmp_path, accept="votes") as (driver, server):
        await until(lambda: not driver.node.identity.amnesia.reason)
        assert driver.node.identity.voting
        await publish(server, "quick", MESSAGES, 2)
    async with alone(tmp_path) as (driver, server):
        assert driver.node.identity.voting
        assert not driver.node.identity.amnesia.reason
        assert await ends(server, "quick") == [MESSAGES // 2 + 1] * 2


def lose_a_lazy_batch(path: Path) -> None:
    """Of the first segment, one that is not the last and that the next does not state as synced."""
    file = segment_path(path / "wal", 1)
    data = bytearray(file.read_bytes())
    seed = segment_seed(1, decode_segment_header(bytes(data[:DATA_FROM]), LogIdentity(CLUSTER, NodeId(1))).salt)
    batches: list[tuple[int, BatchHeader]] = []
    at = DATA_FROM
    with suppress(Damage):
        while True:
            batches.append((at, decode_batch_header(data, at, seed)))
            at += BATCH_HEADER_BYTES + batches[-1][1].records_bytes
    lazy = [(at, end) for (at, _), (end, header) in pairwise(batches) if header.synced <= SEGMENT_BYTES + at]
    start, stop = lazy[len(lazy) // 2]
    data[start:stop] = bytes(stop - start)
    file.write_bytes(data)


@pytest.mark.parametrize("lost", [False, True])
async def test_what_a_group_that_stands_still_holds_of_the_log_is_told(tmp_path: Path, lost: bool) -> None:
    await make(tmp_path, kill=True)
    if lost:
        lose_a_lazy_batch(tmp_path)
    async with (
        alone(tmp_path, kernel="another life", kill=True) as (driver, server),
        corgi.connect(server) as mq,
    ):
        snapshots = driver.node.snapshots
        assert driver.node.identity.amnesia.reason
        assert snapshots.held_in_doubt() == 0
        for _ in range(8 * SEGMENT_BYTES // len(LARGE)):
            await mq.publish("sure", LARGE, partition=0)
        durable = driver.node.groups[:GROUPS]
        await until(lambda: min(snapshots.first_segment(group.id) for group in durable) > 4)
        if lost:
            assert snapshots.held_in_doubt() >= 4 * SEGMENT_BYTES
        else:
            await until(lambda: min(snapshots.first_segment(group.id) for group in driver.node.groups) > 4)
            assert snapshots.held_in_doubt() == 0
    async with alone(tmp_path, kernel="another life", accept="memory") as (driver, _):
        await until(lambda: driver.node.snapshots.held_in_doubt() == 0)
