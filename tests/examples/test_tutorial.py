"""The blocks of the tutorial, run from top to bottom as a reader would, on the cluster that it describes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corgi.server.local import LocalCluster, LocalOptions

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^(?P<skip><!-- not run -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
CONNECT = re.compile(r"\b(connect|connect_sync)\(\)")
PATIENCE_S = 60.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(LocalOptions(folder=tmp_path / "cluster")) as running:
        yield running


def blocks() -> list[re.Match[str]]:
    return list(BLOCK.finditer(TUTORIAL.read_text(encoding="utf-8")))


@pytest.mark.timeout(300)
def test_every_block_does_what_the_tutorial_says(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "corgi"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m corgi "$@"\n')
    command.chmod(0o755)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CORGI_CLUSTER": cluster.native,
    }
    told = ""
    for block in blocks():
        if block["skip"]:
            continue
        code = block["code"]
        if block["language"] == "sh":
            words = ["bash", "-e", "-o", "pipefail", "-c", code]
        else:
            words = [sys.executable, "-c", CONNECT.sub(rf"\1({cluster.native!r})", code)]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        told += done.stdout + done.stderr
    assert [node.node for node in cluster.nodes if not node.pid], "nothing was killed"
    for words_ in (
        "published 27004 messages",
        "stored at ",
        "10000 more, errors: {}",
        "Order(fruit='apples', pieces=3)",
        "handled by the group: True",
        "two phases: ",
        "at least 10,000 bills: True",
        "published 1 messages",
        "something is not well: 3",
        "the configuration of node 1 can be used",
        "No majority of the nodes can be reached.",
    ):
        assert words_ in told
    assert json.loads(next(line for line in told.splitlines() if line.startswith('{"topic": "flights"')))["offset"] == 0


def test_what_is_not_run_is_little_and_known() -> None:
    skipped = [block["code"].strip() for block in blocks() if block["skip"]]
    assert skipped == [". .venv/bin/activate", "corgi dev", "corgi bench failover --repeat 5"]
