"""Short runs with real processes: one that is clean, one that is stopped early and has lost something."""

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from corgi.chaos import conductor, namespaces, switch_process
from corgi.chaos.conductor import ChaosOptions, run_chaos
from corgi.chaos.drain import Drained, drain
from corgi.cli.exits import Exit
from corgi.cli.main import main


@pytest.mark.timeout(180)
def test_a_run_keeps_its_promises_and_leaves_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    words = ["chaos", "--seconds", "4", "--seed", "1", "--faults", "kill,isolate", "--partitions", "4"]
    words += ["--network", "proxies"]
    code = main([*words, "--dir", str(folder), "--output", "json"])
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert code == Exit.OK, (told, err)
    assert told["ok"]
    assert told["seed"] == 1
    assert told["network"] == "proxies"
    assert {fault["kind"] for fault in told["faults"]} <= {"kill", "isolate"}
    assert told["faults"]
    assert told["acknowledged"] > 200
    judged = {check["name"]: check["status"] for check in told["checks"]}
    assert judged["lost-write"] == judged["poll-skip"] == judged["linearizability"] == judged["stuck"] == "clean"
    assert {path.name for path in folder.iterdir()} >= {"history.jsonl", "report.json", "timeline.html"}
    assert not list((folder / "cluster").glob("node-*/wal"))
    page = (folder / "timeline.html").read_text(encoding="utf-8")
    assert "kill" in page
    assert "http" not in page.replace('xmlns="http', "")
    assert main(["check", str(folder / "history.jsonl")]) == Exit.OK
    assert main([*words, "--dir", str(folder)]) == Exit.USAGE
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.timeout(180)
async def test_a_run_that_is_stopped_heals_and_a_loss_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgetful(host: str, port: int, topic: str, ends: dict[int, int]) -> AsyncGenerator[Drained, None]:
        first = True
        async for part in drain(host, port, topic, ends):
            yield Drained(part.partition, part.records[1:]) if first else part
            first = False

    monkeypatch.setattr(conductor, "drain", forgetful)
    stop = asyncio.Event()

    def told(text: str) -> None:
        if text.startswith("pause"):
            stop.set()

    options = ChaosOptions(tmp_path / "run", seed=1, seconds=60, faults=("pause",), partitions=2)
    run = await run_chaos(options, told, stop)
    assert run.interrupted
    assert not run.ok
    assert [fault.kind for fault in run.history.faults] == ["pause"]
    found = {verdict.name for verdict in run.verdicts if not verdict.good}
    assert found == {"lost-write", "send-gap", "exactly-once"}


@pytest.mark.timeout(300)
def test_a_broker_whose_quorum_is_too_small_is_found_out(tmp_path: Path) -> None:
    """Its leader goes on acknowledging while it is cut off; what it acknowledged is gone afterwards."""
    here = Path(__file__).parent
    command = [sys.executable, str(here / "mutant_node.py"), "run", str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(here)}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=True)
    assert set(json.loads(told.stdout)) & {"lost-write", "inconsistent-offsets"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--faults", "fire"], "'fire' is no kind of fault"),
        (["--seconds", "0"], "seconds = 0"),
        (["--seconds", "5", "--minutes", "5"], "both given"),
        (["--nodes", "10"], "nodes = 10"),
        (["--seed", "-1"], "--seed -1"),
        (["--rate", "0"], "rate = 0"),
        (["--network", "proxies", "--faults", "kill,lossy-links"], "lossy-links: proxies cannot lose packets"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chaos", *words]) == Exit.USAGE
    err = capsys.readouterr().err
    assert told in err
    assert "hint:" in err


def test_without_namespaces_there_are_proxies_unless_namespaces_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused() -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(switch_process, "unshare", refused)
    assert switch_process.main([json.dumps({"ends": ["10.77.0.1"], "seed": 1})]) == 1
    told = json.loads(capfd.readouterr().out)
    assert "Operation not permitted" in told["error"]

    class Refused:
        greeting = told

        def __init__(self, *_: object) -> None:
            self.close = lambda: None

    monkeypatch.setattr(namespaces, "Commanded", Refused)
    with namespaces.chosen("auto", 3) as (network, reason):
        assert network is None
        assert "Operation not permitted" in reason
    with namespaces.chosen("proxies", 3) as (network, reason):
        assert (network, reason) == (None, "")
    assert main(["chaos", "--network", "namespaces"]) == Exit.USAGE
    err = capfd.readouterr().err
    assert "Operation not permitted" in err
    assert "hint: run as root" in err
