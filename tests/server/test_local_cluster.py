"""A cluster of local processes: killed, restarted, continued, and refused in words."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corgi.base.errors import CorgiError
from corgi.client.sync import connect
from corgi.server.local import LocalCluster, LocalOptions

PATIENCE_S = 30.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask again and again; fails when it takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.02)


def test_a_killed_node_comes_back_where_it_was(tmp_path: Path) -> None:
    with LocalCluster(LocalOptions(folder=tmp_path, nodes=3, groups=2)) as cluster:
        node = cluster.node(2)
        before = node.native, node.pid
        cluster.kill(2)
        assert node.pid == 0
        assert [ended.node for ended, _ in cluster.ended()] == [2]
        with pytest.raises(CorgiError, match="node 2 does not run"):
            cluster.kill(2)
        cluster.start_nodes([node])
        assert node.native == before[0]
        assert node.pid not in (0, before[1])
        pids = [one.pid for one in cluster.nodes]
    assert not any(one.pid for one in cluster.nodes)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_node_that_lost_its_disk_rejoins_and_holds_everything_again(tmp_path: Path) -> None:
    """It must not be bootstrapped anew: a node that forgot its votes may not vote."""
    with LocalCluster(LocalOptions(folder=tmp_path, nodes=3, groups=2)) as cluster:
        with connect(cluster.native) as mq:
            mq.topics.create("t", partitions=2)
            mq.publish_many("t", [b"%d" % n for n in range(500)])
            cluster.kill(2)
            shutil.rmtree(cluster.node(2).folder)
            cluster.start_nodes([cluster.node(2)])
            wait_until(lambda: any(reply.node == 2 and reply.voting for reply in mq.status()))
            cluster.kill(1)  # now a majority needs node 2
            mq.publish_many("t", [b"more"] * 10).raise_first()
            with mq.subscribe("t", start="earliest") as subscription:
                values = [message.value for _, message in zip(range(510), subscription, strict=False)]
        assert sorted(values) == sorted([*(b"%d" % n for n in range(500)), *([b"more"] * 10)])
    started = [json.loads(line) for line in cluster.node(2).log.read_text().splitlines()]
    assert [event["recovering"] for event in started if event["event"] == "starting"] == [False, True]


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    cluster = LocalCluster(LocalOptions(folder=tmp_path, nodes=2))
    (tmp_path / "node-2").mkdir()
    (tmp_path / "node-2" / "photos").write_text("mine")
    with pytest.raises(CorgiError, match=r"node 2: .* is not empty, it holds 'photos'") as caught:
        cluster.start()
    assert caught.value.code == "invalid-configuration"
    assert str(tmp_path / "node-2.log") in caught.value.hint
    assert not any(node.pid for node in cluster.nodes)
    assert (tmp_path / "node-2" / "photos").read_text() == "mine"
    cluster.stop()


def test_a_topic_is_compacted_though_its_leader_is_killed(tmp_path: Path) -> None:
    with LocalCluster(LocalOptions(folder=tmp_path, nodes=3, groups=1)) as cluster, connect(cluster.native) as mq:
        mq.topics.create("t", cleanup="compact", min_cleanable_dirty_ratio=0)
        count = 20_000
        mq.publish_many("t", [(b"%d" % (n % 10), b"%d" % n + bytes(100)) for n in range(count)]).raise_first()
        cluster.kill(mq.topics.describe("t").partitions[0].leader)
        end = mq.publish("t", b"head", key=b"head").offset + 1
        wait_until(lambda: mq.topics.describe("t").partitions[0].compacted_to > end // 2)
        ended = [node for node, _ in cluster.ended()]
        cluster.start_nodes(ended)
        found: dict[bytes | None, int] = {}
        read = 0
        with mq.subscribe("t", start="earliest") as subscription:
            for message in subscription:
                found[message.key], read = message.offset, read + 1
                if message.offset + 1 == end:
                    break
        assert read < count
        assert found == {**{b"%d" % (n % 10): n for n in range(count - 10, count)}, b"head": count}
