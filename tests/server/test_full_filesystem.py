"""A cluster of real processes on a file system that is really full, freed without anybody deleting a file."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corgi.base.errors import CorgiError
from corgi.client.sync import Corgi, connect
from corgi.server.local import LocalCluster, LocalOptions

PATIENCE_S = 60.0
ROOM_MIB = 48  # for three nodes with segments of 2 MiB
VALUE = os.urandom(100_000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={ROOM_MIB}m", "corgi-test", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a file system needs root; the simulator shows the same without")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.1)


def publish(mq: Corgi, times: int) -> str:
    """The code of the first error; "" if there was none."""
    try:
        for _ in range(times):
            mq.publish("t", VALUE)
    except CorgiError as error:
        return error.code
    return ""


def full_nodes(mq: Corgi) -> int:
    return sum(bool(reply.counters["disk_full"]) for reply in mq.status())


def test_a_full_file_system_is_freed_by_shortening_retention(disk: Path) -> None:
    options = LocalOptions(folder=disk / "cluster", nodes=3, groups=2, program=("corgi.chaos.node_process",))
    with LocalCluster(options) as cluster, connect(cluster.native, publish_timeout="2s") as mq:
        mq.topics.create("t", partitions=2)
        assert publish(mq, 1000) == "disk-full"
        until(lambda: full_nodes(mq) >= 2)  # the third may have room left that nothing can be put into
        assert publish(mq, 1) == "disk-full"
        with pytest.raises(CorgiError, match="disk-full"):
            mq.topics.create("more", timeout="2s")
        cluster.kill(2)  # also while the disk is full a node comes back
        cluster.start_nodes([cluster.node(2)])
        until(lambda: len(mq.status()) == 3)
        mq.topics.alter("t", retention_bytes=1_000_000)
        until(lambda: full_nodes(mq) == 0)
        for _ in range(60):  # more than the disk had room for behind what filled it
            until(lambda: publish(mq, 1) == "")
        assert sum(mq.topics.offsets("t").values()) > 160
        assert not cluster.ended()
