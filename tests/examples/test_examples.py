"""The small examples, run as a reader would run them, against a broker of their own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from corgi.client.corgi import DEFAULT_SERVERS
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
        ("group.py", {"99 delivered, 1 dead, 4 tries failed", "b'parcel 13': b'ValueError: no such address'"}),
        (
            "exactly_once.py",
            {
                "receipts: 0 commits took two phases",
                "ledger: some commits took two phases",
                "200 messages in receipts, 200 of them different",
                "200 messages in ledger, 200 of them different",
            },
        ),
        (
            "transaction.py",
            {"transferred 2 messages", "nothing of it happened: not enough money", "+10", "-10", "order o-1"},
        ),
        ("sync.py", {"a is stored at offset 0", "read b'a'", "read b'b'", "read b'c'"}),
    ],
)
def test_an_example_says_what_it_does(corgi_embedded: RunningBroker, name: str, told: set[str]) -> None:
    assert told <= set(run(name, corgi_embedded.servers).splitlines())


def test_a_database_has_every_delivery_once(corgi_embedded: RunningBroker, tmp_path: Path) -> None:
    told = run("database.py", f"sqlite:///{tmp_path}/stock.sqlite", corgi_embedded.servers)
    pieces = [sum(n % 10 for n in range(fruit, 1_000, 3)) for fruit in range(3)]
    assert told.splitlines() == [f"apple {pieces[0]}", f"fig {pieces[2]}", f"pear {pieces[1]}"]


def test_embedded_needs_nothing() -> None:
    assert run("embedded.py") == "b'nobody else needs to run'\n"


@pytest.mark.parametrize(
    "name",
    [
        "database.py",
        "exactly_once.py",
        "group.py",
        "publish.py",
        "subscribe.py",
        "sync.py",
        "transaction.py",
        "typed.py",
    ],
)
def test_without_an_address_an_example_uses_what_the_client_uses(name: str) -> None:
    assert f'CORGI_DEV = "{DEFAULT_SERVERS}"' in (EXAMPLES / name).read_text(encoding="utf-8")


def test_a_subscription_without_a_count_says_that_it_stays(corgi_embedded: RunningBroker) -> None:
    run("publish.py", corgi_embedded.servers)
    command = [sys.executable, str(EXAMPLES / "subscribe.py"), corgi_embedded.servers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting for messages; Ctrl-C ends it\n"
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, err) == (0, "")


def test_every_example_runs_here() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert not [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tested]
