"""`corgi dev` as another program uses it: one JSON line, a cluster that serves, and nothing left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corgi import connect_sync
from corgi.base.errors import CorgiError
from corgi.cli.dev import _start
from corgi.server import local
from corgi.server.local import LocalOptions

PATIENCE_S = 30.0


@contextmanager
def dev(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`corgi dev` while it runs, and what its first line told."""
    process = subprocess.Popen(
        [sys.executable, "-m", "corgi", "dev", "--port", "0", "--output", "json", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        first = process.stdout.readline()
        assert first, process.stderr.read()
        yield process, json.loads(first)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def answers(native: str) -> bool:
    host, _, port = native.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    return True


def wait_until_gone(pids: list[int]) -> None:
    """Until none of these processes runs (they may be zombies of whoever inherited them)."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with os.fdopen(fd, "rb", closefd=True) as handle:
            import select

            ended, _, _ = select.select([handle], [], [], PATIENCE_S)
            assert ended, f"process {pid} still runs"


def test_three_nodes_serve_and_leave_nothing_behind() -> None:
    with dev() as (process, told):
        assert [node["id"] for node in told["nodes"]] == [1, 2, 3]
        assert told["native"] == ",".join(node["native"] for node in told["nodes"])
        assert len(told["cluster"]) == 32
        assert all(answers(node["native"]) for node in told["nodes"])
        with connect_sync(told["native"]) as mq:
            replies = [(reply.node, reply.counters["process_id"]) for reply in mq.status()]  # of those linked so far
        assert replies
        assert set(replies) <= {(node["id"], node["pid"]) for node in told["nodes"]}
        folder = Path(told["nodes"][0]["dir"]).parent
        assert (folder / "node-3" / "node.json").exists()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
        wait_until_gone([node["pid"] for node in told["nodes"]])
        assert not folder.exists()
        assert not any(answers(node["native"]) for node in told["nodes"])


def test_the_nodes_die_with_a_killed_parent_and_a_given_folder_is_continued(tmp_path: Path) -> None:
    with dev("--dir", tmp_path / "c", "--nodes", 1) as (process, told):
        process.kill()
        wait_until_gone([node["pid"] for node in told["nodes"]])
        cluster = told["cluster"]
    with dev("--dir", tmp_path / "c", "--nodes", 1) as (process, told):
        assert told["cluster"] == cluster
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert (tmp_path / "c" / "node-1" / "node.json").exists()


def test_a_node_that_ends_is_told_and_not_restarted() -> None:
    with dev("--nodes", 1) as (process, told):
        (node,) = told["nodes"]
        os.kill(node["pid"], signal.SIGKILL)
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr is not None
        words = process.stderr.read()
        assert "node 1 ended (signal 9)" in words
        assert "no node is left" in words
        assert "Traceback" not in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--nodes", "0"), "nodes = 0: expected 1 to 9"),
        (("--nodes", "-1"), "nodes = -1"),
        (("--nodes", str(2**63)), "expected 1 to 9"),
        (("--groups", "0"), "groups = 0"),
        (("--port", "65535"), "port = 65535: expected 1 to 65533"),
        (("--port", str(2**31)), "expected 1 to 65533"),
        (("--suspicion-ms", "0"), "suspicion_ms = 0"),
    ],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    from corgi.cli.main import main

    assert main(["dev", "--dir", str(tmp_path), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_folder_with_another_number_of_nodes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from corgi.cli.main import main

    (tmp_path / "cluster.json").write_text(json.dumps({"cluster": "0" * 32, "nodes": 5, "groups": 8, "made": True}))
    assert main(["dev", "--dir", str(tmp_path), "--port", "0"]) == 2
    assert "holds a cluster with nodes 5, groups 8" in capsys.readouterr().err
    (tmp_path / "cluster.json").write_text("[]")
    assert main(["dev", "--dir", str(tmp_path), "--port", "0"]) == 2
    assert "does not describe a local cluster" in capsys.readouterr().err


def test_a_folder_that_cannot_be_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from corgi.cli.main import main

    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/corgi")):
        assert main(["dev", "--dir", str(folder), "--port", "0"]) == 2
        told = capsys.readouterr().err
        assert f"the folder {folder} cannot be used: " in told
        assert "hint: give a folder" in told


def test_a_taken_port_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from corgi.cli.main import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["dev", "--dir", str(tmp_path), "--nodes", "1", "--port", str(port)]) == 1
    assert "[port-in-use]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("taken", "asked", "given"),
    [
        ((), (None, None), (7450, 9092)),
        ((9092,), (None, None), (7450, 0)),
        ((7450,), (None, None), (0, 9092)),
        ((7450, 9092), (None, None), (0, 0)),
        ((7450,), (None, 9192), (0, 9192)),
        ((7450,), (8450, None), (8450, 0)),
        ((9092,), (None, 9092), None),
    ],
)
def test_of_the_default_ports_only_those_that_are_taken_are_replaced(
    taken: tuple[int, ...],
    asked: tuple[int | None, int | None],
    given: tuple[int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Cluster:
        def __init__(self, options: LocalOptions) -> None:
            self.options = options

        def start(self) -> None:
            for port in (self.options.port, self.options.kafka_port):
                if port in taken:
                    raise CorgiError("port-in-use", f"port {port} is taken")

    monkeypatch.setattr(local, "LocalCluster", Cluster)
    options = LocalOptions(folder=Path("nowhere"), nodes=3, port=asked[0] or 0, kafka_port=asked[1] or 0)
    if given is None:
        with pytest.raises(CorgiError, match="9092"):
            _start(options, *asked)
        return
    started = _start(options, *asked).options
    assert (started.port, started.kafka_port) == given
    told = capsys.readouterr().err
    assert all((f"port {port} is taken" in told) == (port in taken and asked[0] is None) for port in (7450, 9092))
