"""Full disks, on whole simulated nodes: messages are refused early, and what makes room goes on."""

from __future__ import annotations

import pytest
from test_storage import BUSY, TOPIC, WALL_MS, Scene

from corgi.base import errors
from corgi.base.command import CommandKind, encode_data
from corgi.base.ids import NodeId
from corgi.base.records import encode_batch
from corgi.state.outcomes import Outcome
from corgi.wire.messages import AlterTopic, CreateTopic

NODES = (NodeId(1), NodeId(2), NodeId(3))
SEGMENTS = 6


class FullScene(Scene):
    """Disks with room for a few segments."""

    def limit(self, *nodes: NodeId, segments: int = SEGMENTS) -> None:
        for node in nodes:
            self.cluster.computers[node].disk.segments_max = segments

    def full(self, node: NodeId) -> bool:
        process = self.cluster.process_of(node)
        return process is not None and process.node.room.full

    def try_write(self, node: int) -> int:
        """One batch of 2 KiB; the error."""
        self.number += 1
        batch = encode_batch([(None, self.number.to_bytes(4, "big") * 512, (), WALL_MS + int(self.world.now * 1000))])
        outcomes: list[Outcome] = []
        process = self.cluster.process_of(NodeId(node))
        body = encode_data([(TOPIC, 0, batch)])
        self.call(node, lambda: process.node.submit(BUSY, CommandKind.DATA, body, outcomes.append, timeout_s=2.0))
        self.until(lambda: bool(outcomes))
        if outcomes[0].error:
            self.number -= 1
        return outcomes[0].error

    def write_until_full(self, node: int = 1) -> int:
        """Messages until they are refused; the error of the refusal."""
        for _ in range(2000):
            error = self.try_write(node)
            if error:
                return error
        raise AssertionError("the disks took everything")

    def write_on(self, node: int, batches: int) -> None:
        """Messages, each again for as long as it is refused: small disks are full now and then."""
        for _ in range(batches):
            self.until(lambda: self.try_write(node) == errors.OK)

    def alter(self, node: int, config: dict[str, str | None]) -> list[tuple[int, str]]:
        """Ask for other settings; where the answer will be."""
        told: list[tuple[int, str]] = []
        requests = self.cluster.process_of(NodeId(node)).node.requests
        message = AlterTopic("busy", 0, config)
        self.call(
            node, lambda: requests.administration.alter(message, lambda error, text, _: told.append((error, text)))
        )
        return told


def full_scene() -> FullScene:
    scene = FullScene()
    scene.limit(*NODES)
    return scene


@pytest.mark.parametrize("node", NODES)
def test_a_full_cluster_is_freed_by_shortening_retention(node: NodeId) -> None:
    """Through any node, without anybody deleting a file; then messages are taken again."""
    scene = full_scene()
    assert scene.write_until_full() == errors.DISK_FULL
    scene.run(3.0)
    assert all(scene.full(node) for node in NODES)
    assert scene.try_write(node) == errors.DISK_FULL
    told = scene.alter(node, {"retention_bytes": str(10 * 2048)})
    scene.until(lambda: bool(told))
    assert told[0][0] == errors.OK, told
    scene.until(lambda: not any(scene.full(node) for node in NODES))
    scene.write_on(node, 400)
    scene.until(scene.equal)
    assert all(len(scene.cluster.computers[node].disk.segments) <= SEGMENTS for node in NODES)


def test_a_full_cluster_frees_itself_when_retention_passes() -> None:
    scene = FullScene(config={"retention_ms": "30000"})
    scene.limit(*NODES)
    assert scene.write_until_full() == errors.DISK_FULL
    scene.run(35.0)
    assert not any(scene.full(node) for node in NODES)
    scene.write_on(2, 50)
    scene.until(scene.equal)


def test_a_full_cluster_restarts_and_is_freed() -> None:
    """All nodes die while their disks are full: somebody leads all the same, and the last segment serves it."""
    scene = full_scene()
    scene.write_until_full()
    scene.run(3.0)
    for node in NODES:
        scene.cluster.kill(node, power=True)
    scene.run(0.5)
    for node in NODES:
        scene.cluster.start(node)
    scene.run(5.0)
    assert all(scene.full(node) for node in NODES)
    told = scene.alter(2, {"retention_bytes": str(10 * 2048)})
    scene.until(lambda: bool(told))
    assert told[0][0] == errors.OK, told
    scene.until(lambda: not any(scene.full(node) for node in NODES))
    scene.write_on(3, 50)


def test_a_topic_that_is_deleted_frees_a_full_cluster_and_none_is_created_meanwhile() -> None:
    scene = full_scene()
    scene.write_until_full()
    scene.run(3.0)
    told: list[int] = []
    administration = scene.cluster.process_of(NodeId(1)).node.requests.administration
    scene.call(1, lambda: administration.create(CreateTopic("more", 1), lambda error, *_: told.append(error)))
    scene.until(lambda: bool(told))
    assert told == [errors.DISK_FULL]


def test_one_full_disk_stops_nobody_and_is_freed() -> None:
    """The others go on without its votes, past all that it could hold. When retention is shortened, it takes a snapshot
    in place of what lies between."""
    scene = FullScene()
    scene.limit(NodeId(1), segments=4)
    scene.write(2, 400, trim=False)
    scene.run(3.0)
    assert scene.full(NodeId(1))
    assert scene.log(1).end < 200
    told = scene.alter(1, {"retention_bytes": str(20 * 2048)})
    scene.until(lambda: scene.equal() and not scene.full(NodeId(1)) and not scene.missing(1), limit=60.0)
    assert told[0][0] == errors.OK
    assert scene.cluster.process_of(NodeId(1)).node.counters.get("snapshot_installs", 0) > 0
    assert scene.stored(1) == scene.stored(2)


def test_messages_in_flight_do_not_take_the_reserve() -> None:
    """However long clients go on trying, there is room for the settings that make room."""
    scene = full_scene()
    scene.write_until_full()
    for _ in range(300):
        assert scene.try_write(1 + scene.number % 3) == errors.DISK_FULL
    for node in NODES:
        process = scene.cluster.process_of(node)
        assert process is not None
        assert process.node.wal.room > process.node.wal.segment_bytes // 8
