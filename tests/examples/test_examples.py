"""The small examples, run as a reader would run them, against a broker of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from corgi.testing.plugin import RunningBroker

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PATIENCE_S = 60.0


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_publish_then_subscribe(corgi_embedded: RunningBroker) -> None:
    told = run("publish.py", corgi_embedded.servers)
    assert "10000 more, 0 errors" in told
    lines = run("subscribe.py", corgi_embedded.servers, "10101").splitlines()
    assert len(lines) == 10_101
    mine = [line for line in lines if "customer-2" in line]
    assert [line.split("b'")[-1] for line in mine] == [f"{n} pears'" for n in range(100)]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("typed.py", {"ada wants 3 apples", "bob wants 5 pears"}),
        ("sync.py", {"a is stored at offset 0", "read b'a'", "read b'b'", "read b'c'"}),
    ],
)
def test_an_example_says_what_it_does(corgi_embedded: RunningBroker, name: str, told: set[str]) -> None:
    assert told <= set(run(name, corgi_embedded.servers).splitlines())


def test_embedded_needs_nothing() -> None:
    assert run("embedded.py") == "b'nobody else needs to run'\n"


def test_every_example_runs_here() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert not [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tested]
