"""The frame of the command line: help, usage, errors as words, exit codes, and how fast it answers."""

import json
import os
import subprocess
import sys
import time

import pytest

from corgi.base.errors import BY_CODE, CorgiError
from corgi.cli import errors as errors_command
from corgi.cli.exits import Exit, exit_of
from corgi.cli.main import COMMANDS, main

PATIENCE_S = 30.0


def corgi(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "corgi", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_help_lists_every_command_and_is_quick() -> None:
    took_s = []
    for _ in range(3):
        began = time.perf_counter()
        done = corgi("--help")
        took_s.append(time.perf_counter() - began)
    assert done.returncode == 0
    assert not [name for name in COMMANDS if f"\n  {name} " not in done.stdout]
    assert min(took_s) < 0.3


def test_no_command_is_a_question_not_a_failure() -> None:
    done = corgi()
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert "First steps:" in done.stderr


@pytest.mark.parametrize("words", [("errors",), ("errors", "-o", "json"), ("--help",), ("completion", "bash")])
def test_an_output_that_takes_nothing_is_no_fault_of_corgi(words: tuple[str, ...]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "corgi", *words], stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    assert done.returncode == Exit.FAILURE
    error, hint = done.stderr.splitlines()
    assert error == "error: the output cannot be written: No space left on device [output-failed]"
    assert hint.startswith("hint: ")


def test_a_closed_output_is_told_as_such() -> None:
    words = f"exec {sys.executable} -m corgi errors >&-"
    done = subprocess.run(["sh", "-c", words], stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == Exit.FAILURE
    assert "[output-failed]" in done.stderr
    assert "fault" not in done.stderr


def test_without_anybody_to_tell_the_exit_code_still_tells() -> None:
    for redirected in ("2>/dev/full", "2>&-"):
        words = f"exec {sys.executable} -m corgi errors nonsense {redirected}"
        done = subprocess.run(["sh", "-c", words], stdout=subprocess.PIPE, timeout=PATIENCE_S, check=False)
        assert (done.returncode, done.stdout) == (Exit.USAGE, b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_long_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: corgi {command}" in text
    assert "xample" in text or command in ("version",)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["servre"], "did you mean: corgi server?"),
        (["zzz"], "see: corgi --help"),
        (["version", "--nope"], "see: corgi version --help"),
        (["errors", "-o", "yaml"], "see: corgi errors --help"),
        (["errors", "no-quorom"], "did you mean no-quorum?"),
        (["dev", "--nodes", "three"], "see: corgi dev --help"),
    ],
)
def test_usage_errors_end_with_a_hint(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == Exit.USAGE
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert f"hint: {told}" in err


@pytest.mark.parametrize(
    "words", [["-o", "json", "errors"], ["--output=json", "errors"], ["-c", "x:1", "-o", "json", "errors", "no-quorum"]]
)
def test_what_all_commands_take_may_stand_first(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if "-c" in words:  # which this command does not take: it is told so, as behind the command
        assert main(words) == Exit.USAGE
        assert "hint: see: corgi errors --help" in capsys.readouterr().err
    else:
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("words", [["-o"], ["-o", "json"], ["--cluster=x:1"]])
def test_options_alone_are_no_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == Exit.USAGE
    assert "error: there is no command [invalid-argument]\nhint: see: corgi --help" in capsys.readouterr().err


def test_every_error_code_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["errors", "-o", "json"]) == 0
    assert {row["code"] for row in json.loads(capsys.readouterr().out)} == set(BY_CODE)
    assert main(["errors", "11", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["code"] == "no-quorum"
    assert main(["errors", "no-quorum"]) == 0
    assert "hint: see: corgi status" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["-1", "0", str(2**31), str(2**63)])
def test_a_number_that_is_no_code_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["errors", number]) == Exit.USAGE
    assert "hint:" in capsys.readouterr().err


def test_every_error_has_an_exit_code() -> None:
    assert {exit_of(CorgiError(code)) for code in BY_CODE} == set(Exit) - {Exit.OK}


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("corgi ")
    assert main(["version", "--output", "json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"corgi", "python"}


def test_no_traceback_reaches_a_user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(_: object) -> None:
        raise ZeroDivisionError("a\x1b[2J fault")

    monkeypatch.setattr(errors_command, "_find", fails)
    assert main(["errors", "x"]) == Exit.FAILURE
    err = capsys.readouterr().err
    assert err.startswith("error: ZeroDivisionError: a\\x1b[2J fault\nhint: this is a fault of corgi")
    monkeypatch.setenv("CORGI_TRACEBACK", "1")
    assert main(["errors", "x"]) == Exit.FAILURE
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_no_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(errors_command, "_find", interrupted)
    assert main(["errors", "x"]) == 130
    assert not capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_fault() -> None:
    line = f"{sys.executable} -m corgi errors | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout.endswith("0\n")
    assert not done.stderr


def test_completion_knows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert not [name for name in COMMANDS if name not in script]
