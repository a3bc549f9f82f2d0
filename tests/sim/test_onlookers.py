"""Those who check a run change nothing in it and draw no chance: a run is the same without them."""

import ast
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from corgi.history import checks, gaps, registers, verdicts
from corgi.sim import ledger, report
from corgi.sim.ledger import Ledger
from corgi.sim.run import Options, run_seed

WATCHING = ("synced", "sent", "beaten", "heard", "turn_ended", "answered")
OPTIONS = Options(groups=True, transactions=True, nodes=3, faults=("kill", "isolate", "power", "wipe"))


def test_a_run_is_the_same_when_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = run_seed(7, OPTIONS)
    for name in WATCHING:
        monkeypatch.setattr(Ledger, name, lambda *_: None)
    monkeypatch.setattr("corgi.sim.run.check_history", lambda _: [])
    unwatched = run_seed(7, OPTIONS)
    assert watched.ok
    assert unwatched.trace_hash == watched.trace_hash


def test_the_test_above_sees_an_onlooker_that_draws_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    turn_ended: Callable[..., None] = Ledger.turn_ended

    def meddling(self: Ledger, process: Any) -> None:
        process.cluster.network.chance.random()
        turn_ended(self, process)

    watched = run_seed(7, OPTIONS)
    monkeypatch.setattr(Ledger, "turn_ended", meddling)
    assert run_seed(7, OPTIONS).trace_hash != watched.trace_hash


@pytest.mark.parametrize("module", [checks, gaps, registers, verdicts, ledger, report])
def test_no_checker_has_a_source_of_chance(module: object) -> None:
    for node in ast.walk(ast.parse(inspect.getsource(module))):  # type: ignore[arg-type]
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            assert not {"random", "secrets", "time", "os"} & set(names)
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("stream", "chance", "random", "getrandbits")
