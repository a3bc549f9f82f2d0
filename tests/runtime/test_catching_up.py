"""Three real nodes: one that lost its disk gets the state from a peer's snapshot over real links, then the values."""

from __future__ import annotations

import shutil
from pathlib import Path

from net_world import CLUSTER
from test_repair import SEGMENT_BYTES, trio

import corgi
from corgi.base.ids import NodeId
from corgi.base.limits import KIB
from corgi.runtime.folder import Folder
from corgi.runtime.segments import segment_numbers


async def test_a_lost_disk_is_made_good_by_snapshot_and_backfill(tmp_path: Path) -> None:
    async with trio(tmp_path, 10, 100) as nodes:
        async with corgi.connect(nodes.servers) as mq:
            await mq.topics.create("brief", partitions=1, retention_bytes=160 * KIB)
            number = 0
            while any(2 in segment_numbers(nodes.wal(node)) for node in (1, 2, 3)):
                await mq.publish("brief", b"%06d" % number + b"x" * 8000)
                number += 1
        await nodes.stop(3, 2, 1)
        await nodes.start(1, 2)  # what they had in memory is gone
        shutil.rmtree(nodes.path / "3")
        folder = Folder.rejoin(nodes.path / "3", CLUSTER, NodeId(3), 1, segment_bytes=SEGMENT_BYTES)
        nodes._assemble(3, folder)
        driver = nodes.drivers[3]
        await driver.start(nodes.addresses)
        await nodes.until(lambda: nodes.counted(3, "snapshot_installs") == 1)
        node = driver.node
        await nodes.until(lambda: nodes.applied(3) == nodes.applied(1) and node.identity.voting)
        await nodes.until(lambda: not (node.values.counting or node.groups[0].slots.missing or node.repairs.wanted))
        logs = {n: nodes.drivers[n].node.groups[0].machine.partitions for n in (1, 3)}
        assert {key: (log.start, log.end, log.count) for key, log in logs[1].items()} == {
            key: (log.start, log.end, log.count) for key, log in logs[3].items()
        }
        for log in logs[3].values():
            for i in range(log.count):
                slot = log.entry(i).slot
                assert await nodes.value(3, slot) == await nodes.value(1, slot)
