"""Whole clusters in virtual time: 200 seeds, and those that once failed."""

from collections import Counter
from pathlib import Path

import pytest

from corgi.sim.run import OPERATIONS_MIN, SECONDS_MIN, run_suite

pytestmark = pytest.mark.timeout(900)

SEEDS = 200
CHUNK = 25
FAILED_ONCE = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def run(first: int, count: int) -> Counter[str]:
    """All seeds hold; what they covered together."""
    coverage: Counter[str] = Counter()
    for result in run_suite(first, count):
        assert result.ok, result.report()
        assert result.seconds >= SECONDS_MIN
        assert result.operations >= OPERATIONS_MIN
        assert result.faults >= 1
        coverage.update(result.coverage)
    return coverage


# What a suite must have seen, or it proves less than it seems to.
COVERED = (
    "takeovers",
    "reproposals",
    "refused_gaps",
    "guard_refusals",
    "forwarded",
    "relayed",
    "polite_refusals",
    "learned_slots",
    "recoveries",
    "tail_cuts",
    "torn_writes",
    "wiped_disks",
    "graceful_stops",
    "resubmitted",
    "retransmits",
    "cold_reads",
)


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_seeds(first: int) -> None:
    coverage = run(first, CHUNK)
    assert not [name for name in COVERED if not coverage[name]]


@pytest.mark.parametrize("seed", [seed for seed in FAILED_ONCE if seed > SEEDS])
def test_a_seed_that_once_failed(seed: int) -> None:
    run(seed, 1)
