"""Many seeds: told, kept in a file, taken up again, spread over processes; and what a failure says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from corgi.base.errors import CorgiError
from corgi.cli.main import main
from corgi.sim import campaign as module
from corgi.sim.campaign import Campaign, SeedOutcome, Task
from corgi.sim.mutants import MUTANTS
from corgi.sim.report import explain
from corgi.sim.run import Options, run_seed
from corgi.sim.world import World

TASK = Task(Options())


def outcome_of(task: Task, seed: int) -> SeedOutcome:
    """Instead of a run."""
    return SeedOutcome(seed, f"hash {seed}", 30.0, 1000, 3, {"takeovers": 2}, f"seed {seed}: ok")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which seeds were run."""
    ran: list[int] = []

    def run(task: Task, seed: int) -> SeedOutcome:
        ran.append(seed)
        return outcome_of(task, seed)

    monkeypatch.setattr(module, "run_one", run)
    return ran


def seeds_of(journal: Path, seeds: range, task: Task = TASK) -> list[int]:
    with Campaign(task, journal=journal) as campaign:
        return [outcome.seed for outcome in campaign.outcomes(seeds)]


def test_a_campaign_goes_on_where_it_was_interrupted(tmp_path: Path, runs: list[int]) -> None:
    journal = tmp_path / "night.jsonl"
    with Campaign(TASK, journal=journal) as campaign:
        for outcome in campaign.outcomes(range(10, 20)):
            if outcome.seed == 13:
                break
    assert seeds_of(journal, range(10, 20)) == list(range(10, 20))
    assert runs == list(range(10, 20)), "no seed twice"


def test_a_torn_last_line_is_cut_and_its_seed_runs_again(tmp_path: Path, runs: list[int]) -> None:
    journal = tmp_path / "night.jsonl"
    seeds_of(journal, range(5))
    journal.write_bytes(journal.read_bytes()[:-7])
    assert seeds_of(journal, range(6)) == [0, 1, 2, 3, 4, 5]
    assert runs == [0, 1, 2, 3, 4, 4, 5]
    assert len(journal.read_text().splitlines()) == 7


def test_a_file_of_other_options_or_other_code_is_refused(
    tmp_path: Path, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "night.jsonl"
    seeds_of(journal, range(2))
    with pytest.raises(CorgiError, match="other options"):
        seeds_of(journal, range(2), Task(Options(nodes=5)))
    monkeypatch.setattr(module, "code_fingerprint", lambda: "something else")
    with pytest.raises(CorgiError, match="other code"):
        seeds_of(journal, range(2))
    journal.write_text("what is this\n")
    with pytest.raises(CorgiError, match="no file of a campaign"):
        seeds_of(journal, range(2))


@pytest.mark.timeout(300)
def test_seeds_are_spread_over_processes_and_come_out_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sim", "--seed", "6", "--seeds", "2", "--nodes", "1", "-o", "json"]
    assert main([*words, "--jobs", "2", "--journal", str(tmp_path / "j")]) == 0
    spread = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(words) == 0
    *alone, summary = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert summary["coverage"] == spread["coverage"]
    kept = [msgspec.json.decode(line, type=SeedOutcome) for line in (tmp_path / "j").read_bytes().splitlines()[1:]]
    assert {one.seed: one.trace_hash for one in kept} == {one["seed"]: one["trace_hash"] for one in alone}


@pytest.mark.timeout(300)
def test_processes_that_run_seeds_end_with_their_parent() -> None:
    words = [sys.executable, "-m", "corgi", "sim", "--seed", "1", "--seeds", "1000", "--jobs", "2", "--nodes", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith(b"seed ")
        parent.kill()
        parent.stdout.read()  # ends when nobody is left who could write


def test_a_run_that_hangs_ends_as_a_broken_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(task: Task, seed: int) -> SeedOutcome:
        while True:
            pass

    monkeypatch.setattr(module, "run_one", hang)
    monkeypatch.setattr(module, "SEED_WALL_S", 1)
    outcome = module._bounded(TASK, 7)
    assert [found.name for found in outcome.violations] == ["runaway"]
    assert "in hang" in outcome.report


def test_a_world_that_goes_round_in_a_circle_is_halted() -> None:
    world = World(1)

    def again() -> None:
        world.after(0.0, again)

    again()
    assert world.run(1.0, 1_000)
    assert world.now == 0.0


def test_a_failure_tells_the_broken_rule_what_was_said_about_the_slot_and_how_to_repeat_it() -> None:
    mutant = MUTANTS["quorum-minus-one"]
    with mutant.in_force():
        result = run_seed(3, Options(nodes=3))
        report = explain(result, "quorum-minus-one")
    lines = report.splitlines()
    assert lines[0].startswith("seed 3: chosen-without-quorum at ")
    assert lines[-1] == "repeat: corgi sim --seed 3 --nodes 3 --mutant quorum-minus-one --trace"
    titles = [line for line in lines if line.startswith("-- ")]
    assert titles[0] == "-- what befell the cluster"
    assert titles[1].startswith("-- what was said about group ")
    assert titles[-1] == "-- how the replicas stood at the end"
    assert len(lines) < 200
    said = lines[lines.index(titles[1]) + 1 : lines.index(titles[2])]
    assert said
    assert all(f"group={result.focus.group}, " in line for line in said)


def test_the_command_repeats_a_failure_and_traces_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--seed", "3", "--nodes", "3", "--mutant", "quorum-minus-one", "--trace"]) == 1
    words = capsys.readouterr()
    assert "seed 3: chosen-without-quorum at " in words.out
    assert "enabled " in words.out.splitlines()[0], "the whole transcript comes first"
    assert words.err.endswith("failed: 3\n")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--jobs", "0"], "--jobs 0"),
        (["--mutant", "no-such"], "quorum-minus-one"),
        (["--faults", "no-such"], "there are kill"),
        (["--journal", "/nonexistent/file"], "--journal"),
    ],
)
def test_a_wrong_option_is_told(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--seed", "1", *words]) == 2
    assert hint in capsys.readouterr().err
