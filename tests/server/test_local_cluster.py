"""A cluster of local processes: killed, restarted, continued, and refused in words."""

import os
from pathlib import Path

import pytest

from corgi.base.errors import CorgiError
from corgi.server.local import LocalCluster, LocalOptions


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


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    cluster = LocalCluster(LocalOptions(folder=tmp_path, nodes=2))
    (tmp_path / "node-2").mkdir()
    (tmp_path / "node-2" / "photos").write_text("mine")
    with pytest.raises(CorgiError, match="node 2: .* is not empty, it holds 'photos'") as caught:
        cluster.start()
    assert caught.value.code == "invalid-configuration"
    assert str(tmp_path / "node-2.log") in caught.value.hint
    assert not any(node.pid for node in cluster.nodes)
    assert (tmp_path / "node-2" / "photos").read_text() == "mine"
    cluster.stop()
