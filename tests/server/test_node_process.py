"""A node as an operator starts it: what it refuses, in words and exit codes, and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corgi.cli.main import main
from corgi.server.example import new_cluster_id
from corgi.server.ports import reserve_free

PATIENCE_S = 30.0
CLUSTER = new_cluster_id()
DOCS = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
METRICS = DOCS.read_text(encoding="utf-8").partition("## Metrics")[2].partition("\n## ")[0]
PEER_METRICS = {"peer_connected", "peer_silent_seconds", "peer_clock_offset_seconds"}  # of a node that has peers


@pytest.fixture
def port() -> Iterator[int]:
    with reserve_free(1) as free:
        yield free.ports[0]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "corgi", "server", *map(str, arguments)]


def refusal(*arguments: object, **environment: str) -> tuple[int, str]:
    """Exit code and stderr of a node that cannot start."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert "hint: " in done.stderr
    return done.returncode, done.stderr


class Running:
    """A node of its own in a process, from its first line to its end."""

    def __init__(self, folder: Path, port: int, *arguments: object) -> None:
        line = command("--node", 1, "--data", folder, "--listen", f"127.0.0.1:{port}", "--output", "json", *arguments)
        self.log = folder.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*line, "--stop-with-stdin", "--log-format", "json"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first, self.log.read_text()
        self.told = json.loads(first)

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines()]

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(PATIENCE_S)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def test_a_node_is_made_started_again_and_stopped(tmp_path: Path, port: int) -> None:
    folder = tmp_path / "node"
    with Running(folder, port, "--bootstrap") as node:
        assert node.told["native"] == f"127.0.0.1:{port}"
        assert node.told["pid"] == node.process.pid
        cluster = node.told["cluster"]
        assert node.end() == 0
    with Running(folder, port) as node:
        assert node.told["cluster"] == cluster
        assert node.end(signal.SIGINT) == 0
        events = node.events()  # what the node noted of itself just before may come in between
        assert events[-1] == "stopped"
        assert "stopping" in events


def test_a_node_ends_with_the_process_that_started_it(tmp_path: Path, port: int) -> None:
    with Running(tmp_path / "node", port, "--bootstrap") as node:
        assert node.process.stdin is not None
        node.process.stdin.close()
        assert node.process.wait(PATIENCE_S) == 0


def test_a_folder_serves_one_process_at_a_time(tmp_path: Path, port: int) -> None:
    folder = tmp_path / "node"
    with Running(folder, port, "--bootstrap") as node:
        code, words = refusal("--node", 1, "--data", folder, "--listen", f"127.0.0.1:{port}")
        assert code == 1
        assert f"in use by process {node.process.pid} [data-folder-in-use]" in words
        code, words = refusal("--node", 1, "--data", folder, "--bootstrap")
        assert "[data-folder-in-use]" in words


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, words = refusal("--node", 1, "--data", tmp_path / "node", "--listen", address, "--bootstrap")
    assert code == 1
    assert "[port-in-use]" in words


def test_garbage_on_the_port_harms_nobody(tmp_path: Path, port: int) -> None:
    with Running(tmp_path / "node", port, "--bootstrap") as node:
        for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 4096, b"\x00" * 64, b"\x00\x00\x00\x0c" * 8):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as stranger:
                stranger.sendall(garbage)
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(4096):
                    pass
        assert node.end() == 0
    assert "net" in node.events(), "a refused connection is in the log"


@pytest.mark.parametrize("made", [False, True])
def test_an_empty_folder_does_not_become_a_node(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "node"
    if made:
        folder.mkdir()
    code, words = refusal("--node", 1, "--data", folder)
    assert code == 1
    assert "[data-folder-empty]" in words
    assert "--bootstrap" in words
    assert "--rejoin" in words
    assert folder.exists() == made, "a refusal leaves nothing behind"


def test_a_folder_belongs_to_its_cluster_and_node(tmp_path: Path, port: int) -> None:
    folder = tmp_path / "node"
    with Running(folder, port, "--bootstrap", "--cluster-id", CLUSTER, "--groups", 2) as node:
        assert node.told["cluster"] == CLUSTER
        assert node.end() == 0
    for arguments, words in (
        (("--node", 1, "--cluster-id", new_cluster_id()), f"belongs to cluster {CLUSTER}"),
        (("--node", 2), "belongs to node 1"),
        (("--node", 1, "--groups", 3), "the cluster has 2 since its bootstrap"),
        (("--node", 1, "--memory-groups", 0), "memory_groups = 0: the cluster has 2 since its bootstrap"),
        (("--node", 1, "--bootstrap"), "already holds node 1"),
        (("--node", 1, "--rejoin", "--cluster-id", CLUSTER), "already holds node 1"),
    ):
        code, told = refusal("--data", folder, "--listen", f"127.0.0.1:{port}", *arguments)
        assert code in (1, 2)
        assert words in told


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("--listen", "0.0.0.0:7450"), 4, "[unsafe-listener]"),
        (("--listen", "nonsense"), 2, "listen = 'nonsense'"),
        (("--bootstrap", "--rejoin"), 2, "exclude each other"),
        (("--config", "nowhere.toml"), 2, "nowhere.toml"),
        (("--members", "2=127.0.0.1:7451"), 2, "not among the members"),
    ],
)
def test_what_cannot_work_is_refused_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], exit_code: int, words: str
) -> None:
    assert main(["server", "--node", "1", "--data", str(tmp_path / "node"), "--check-config", *arguments]) == exit_code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "node").exists()


@pytest.mark.parametrize("act", ["--bootstrap", "--rejoin"])
def test_a_cluster_is_never_given_an_id_by_chance(tmp_path: Path, act: str) -> None:
    members = "1=127.0.0.1:7450,2=127.0.0.1:7451"
    code, words = refusal("--node", 1, "--data", tmp_path / "node", act, "--members", members)
    assert code == 2
    assert f"{act} needs the cluster's id" in words


def test_the_example_can_be_checked_and_a_typo_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["server", "--example-config"]) == 0
    example = capsys.readouterr().out
    path = tmp_path / "node-1.toml"
    path.write_text(example)
    assert main(["server", "--config", str(path), "--check-config"]) == 0
    assert "node 1 can be used" in capsys.readouterr().out
    path.write_text(example.replace("suspicion_ms", "suspicon_ms"))
    assert main(["server", "--config", str(path), "--check-config"]) == 2
    assert "did you mean 'suspicion_ms'?" in capsys.readouterr().err


def test_numbers_can_be_scraped(tmp_path: Path, port: int) -> None:
    with reserve_free(2) as free, Running(
        tmp_path / "node", port, "--bootstrap",
        "--metrics-listen", f"127.0.0.1:{free.ports[0]}", "--kafka-listen", f"127.0.0.1:{free.ports[1]}",
    ) as node:  # fmt: skip
        with socket.create_connection(("127.0.0.1", free.ports[0]), timeout=PATIENCE_S) as scrape:
            scrape.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            answer = b"".join(iter(lambda: scrape.recv(65536), b""))
        names = set(re.findall(r"^corgi_(\w+?)(?:\{| )", answer.decode(), re.MULTILINE))
        described = set(re.findall(r"`([a-z_]+)(?:\{\w+\})?`", METRICS)) - {"corgi_"}
        assert names - PEER_METRICS == described - PEER_METRICS
        assert node.end() == 0
