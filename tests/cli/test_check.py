"""``corgi check``: verdicts, exit codes, and what it says of a history that is none."""

import io
import json
import re
from pathlib import Path

import pytest

from corgi.cli.exits import Exit
from corgi.cli.main import main

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "histories.md").read_text(encoding="utf-8")
GOOD = re.findall(r"```jsonl\n(.*?)```", DOCUMENT, re.DOTALL)[0]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.jsonl"
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_a_clean_history(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(good)]) == Exit.OK
    out, err = capsys.readouterr()
    assert re.search(r"^lost-write +clean +6", out, re.MULTILINE)
    assert "every check is clean" in err
    assert main(["check", str(good), "--output", "json"]) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    assert told["write_gaps_ms"] == {"orders/0": 250.0, "prices/0": 10.0}


def test_a_loss_is_told_by_name(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in GOOD.splitlines() if not ('"drain"' in line and '"orders"' in line)]
    lines.append('{"type":"drain","replica":"1","topic":"orders","partition":0,"records":[[0,"p1-0"],[1,"p1-1"]]}')
    good.write_text("\n".join(lines), encoding="utf-8")
    assert main(["check", str(good)]) == Exit.FAILURE
    out, err = capsys.readouterr()
    assert "lost-write at 1.350 s: p1 orders/0 #1+2 ok@1: 'p1-2' was acknowledged and is gone" in out
    assert "not clean: lost-write" in err
    assert main(["check", str(good), "--skip", "lost-write,stale-end"]) == Exit.OK


def test_limits(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(good), "--write-gap-ms", "200"]) == Exit.FAILURE
    assert "250 ms, 200 were promised" in capsys.readouterr().out
    assert main(["check", str(good), "--write-gap-ms", "300", "--settle", "1"]) == Exit.OK


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(GOOD.encode())

    monkeypatch.setattr("sys.stdin", Stdin)
    assert main(["check"]) == Exit.OK


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["/nowhere/history.jsonl"], "cannot be read: No such file"),
        (["{folder}"], "cannot be read: Is a directory"),
        (["{bad}"], "line 2: not JSON"),
        (["{good}", "--skip", "lost"], "there is no check 'lost'"),
        (["{good}", "--write-gap-ms", "0"], "expected more than 0"),
        (["{good}", "--settle", "-1"], "expected more than 0"),
    ],
)
def test_what_cannot_be_judged(
    words: list[str], told: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b'{"type":"history","version":1}\n\x00\xff\n')
    places = {"{folder}": str(tmp_path), "{bad}": str(bad), "{good}": str(good)}
    assert main(["check", *(places.get(word, word) for word in words)]) == Exit.USAGE
    err = capsys.readouterr().err
    assert told in err
    assert "hint:" in err
