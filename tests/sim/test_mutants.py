"""The simulator is able to fail: each way to break the protocol is noticed, by name, within so many seeds."""

import pytest

from corgi.sim.mutants import MUTANTS, Mutant
from corgi.sim.run import Result, run_seed

pytestmark = pytest.mark.timeout(300)


def caught_by(mutant: Mutant) -> Result | None:
    """The first run that notices the mutant."""
    with mutant.in_force():
        for seed in range(1, mutant.seeds + 1):
            result = run_seed(seed, mutant.options)
            if not result.ok:
                return result
    return None


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    result = caught_by(mutant)
    assert result is not None, f"{mutant.rule}: nobody noticed in {mutant.seeds} seeds"
    assert result.violations[0].name in mutant.names, result.violations


def test_the_code_is_whole_again_behind_a_mutant() -> None:
    mutant = MUTANTS["quorum-minus-one"]
    owners = [(owner, name, getattr(owner, name)) for owner, name, _ in (change() for change in mutant.changes)]
    with mutant.in_force():
        assert all(getattr(owner, name) is not method for owner, name, method in owners)
    assert all(getattr(owner, name) is method for owner, name, method in owners)
