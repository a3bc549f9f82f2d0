"""A node that is alone in its cluster and whose log has lost records: in doubt, until the operator accepts the loss."""

from __future__ import annotations

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
from corgi.runtime.drive import Driver
from corgi.runtime.folder import Folder
from corgi.runtime.segments import segment_path
from corgi.server.assemble import Mode
from corgi.server.config import check
from corgi.server.run import run_node

SEGMENT_BYTES = 256 * KIB
MESSAGES = 20


@asynccontextmanager
async def alone(path: Path, *, accept: bool = False, bootstrap: bool = False) -> AsyncIterator[tuple[Driver, str]]:
    """The only node of its cluster, for one life, and its address."""
    if bootstrap:
        folder = Folder.bootstrap(path, CLUSTER, NodeId(1), 2, segment_bytes=SEGMENT_BYTES)
    else:
        folder = Folder.open(path, NodeId(1), segment_bytes=SEGMENT_BYTES, alone=True)
    with folder:
        told = options(
            1, (1,), incarnation=folder.incarnation, boot=folder.boot, groups=2, scrub_bytes_s=0,
            accept_lost_votes=accept,
        )  # fmt: skip
        driver = Driver(told, path, disk=DiskOptions(segment_bytes=SEGMENT_BYTES), recovered=folder.mark_recovered)
        port = await driver.bind()
        await driver.start({NodeId(1): (HOST, port)})
        try:
            yield driver, f"{HOST}:{port}"
        finally:
            await driver.stop(timeout_s=0.5)


async def lose_a_record(path: Path) -> int:
    """Fill a node, and make an end of the header of a record in the middle; the group that this befell.

    The name of the topic is such that partition p lies in group p.
    """
    async with alone(path, bootstrap=True) as (driver, server):
        async with corgi.connect(server) as mq:
            await mq.topics.create("t", partitions=2)
            for number in range(MESSAGES):
                await mq.publish("t", b"%06d" % number, partition=number % 2)
        groups = driver.node.groups
        hit = next(
            g for g in (1, 0) if any(log.count == MESSAGES // 2 for log in groups[g].machine.partitions.values())
        )
        log = max(groups[hit].machine.partitions.values(), key=lambda log: log.count)
        position = groups[hit].slots.position(log.entry(MESSAGES // 4).slot)
    segment, offset = divmod(position - 30, SEGMENT_BYTES)
    with segment_path(path / "wal", segment).open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 20)
    return hit


async def test_lost_votes_are_accepted_by_name_and_told_from_then_on(tmp_path: Path) -> None:
    """What the record held is not known. What apply needs of it is waited for all the same: nothing else takes its
    place; the other group goes on, for good."""
    hit = await lose_a_record(tmp_path)
    async with alone(tmp_path) as (driver, _):
        node = driver.node
        assert node.identity.state == "recovering"
        assert not node.identity.given_up
    async with alone(tmp_path, accept=True) as (driver, server):
        node = driver.node
        (loss,) = node.identity.given_up
        assert loss.startswith("the log is damaged in segment ")
        assert ("loss-accepted", 0, loss) in [event[1:] for event in node.events]
        assert node.identity.voting
        behind, whole = node.groups[hit], node.groups[1 - hit]
        assert behind.machine.applied < behind.replica.prefix
        await until(lambda: node.repairs.lost == [(behind.id, behind.machine.applied + 1)])
        await until(lambda: whole.replica.leading)
        before = whole.machine.applied
        async with corgi.connect(server) as mq:
            (part,) = [key for key, log in whole.machine.partitions.items() if log.count == MESSAGES // 2]
            await mq.publish("t", b"more", partition=part[1])
        assert whole.machine.applied > before
    async with alone(tmp_path) as (driver, _):
        assert driver.node.identity.voting, "the same loss is no doubt any more"
        assert driver.node.identity.given_up == [loss]
        assert driver.node.counters["losses_accepted"] == 1


async def test_nothing_is_accepted_where_nothing_is_lost(tmp_path: Path) -> None:
    async with alone(tmp_path, bootstrap=True):
        pass
    async with alone(tmp_path, accept=True) as (driver, _):
        assert driver.node.identity.voting
        assert not driver.node.identity.given_up


def test_lost_votes_are_not_accepted_where_others_know_them(tmp_path: Path) -> None:
    members = [{"node": 1, "address": "127.0.0.1:7450"}, {"node": 2, "address": "127.0.0.1:7451"}]
    config = check({"node": 1, "data": str(tmp_path), "members": members})
    with pytest.raises(CorgiError) as caught:
        run_node(config, Mode.CONTINUE, accept_loss="votes")
    assert caught.value.code == "invalid-argument"
    assert "--rejoin" in caught.value.hint
