"""Whole clusters in virtual time: 300 seeds, what they must have met, and the seeds that once failed."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from corgi.sim.faults import KINDS
from corgi.sim.report import explain
from corgi.sim.run import OPERATIONS_MIN, SECONDS_MIN, Options, run_suite

pytestmark = pytest.mark.timeout(900)

SEEDS = 300
CHUNK = 25
FAILED_ONCE = [
    line.split()[0]
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def run(first: int, count: int, options: Options | None = None) -> Counter[str]:
    """All seeds hold; what they covered together."""
    coverage: Counter[str] = Counter()
    for result in run_suite(first, count, options=options):
        assert result.ok, explain(result)
        assert result.seconds >= SECONDS_MIN
        assert result.operations >= OPERATIONS_MIN
        assert result.faults >= 1
        coverage.update(result.coverage)
    return coverage


# What 25 seeds must have met, or they prove less than it seems …
COVERED = (
    "takeovers",
    "reproposals",
    "refused_gaps",
    "guard_refusals",
    "own_gaps",
    "loop_stalls",
    "forwarded",
    "relayed",
    "polite_refusals",
    "learned_slots",
    "recoveries",
    "resubmitted",
    "retransmits",
    "cold_reads",
    "snapshots",
    "snapshots_anchored",
    "snapshot_restarts",
    "votes_copied",
    "compaction_commands",
)
# … and all of them together.
COVERED_BY_ALL = (
    *COVERED,
    *(f"fault {kind}" for kind in KINDS),
    "conflicts",
    "damaged_records",
    "disk_full",
    "failed_syncs",
    "forwards_refused",
    "graceful_stops",
    "noop_fills",
    "old_disks",
    "old_disks_behind_restarts",
    "refused_copies",
    "snapshot_installs",
    "snapshots_preferred",
    "segments_freed",
    "segments_rewritten",
    "values_moved",
    "log_starts",
    "repaired_values",
    "stale_accepts",
    "step_downs",
    "tail_cuts",
    "torn_writes",
    "votes_withheld",
    "wiped_disks",
)


@pytest.fixture
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of the tests share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sim-coverage"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_seeds(first: int, suite: Path) -> None:
    """The last of these to end looks at what all of them have covered."""
    coverage = run(first, CHUNK)
    assert not [name for name in COVERED if not coverage[name]]
    beside = suite / f"{first}.unfinished"
    beside.write_text(json.dumps(coverage))
    beside.rename(suite / f"{first}.json")
    known = list(suite.glob("*.json"))
    if len(known) == SEEDS // CHUNK:
        total = sum((Counter(json.loads(path.read_text())) for path in known), Counter[str]())
        assert not [name for name in COVERED_BY_ALL if not total[name]]


# What the seeds seldom meet by themselves: options under which it happens, and how it is counted.
SOUGHT = {
    "gaps are filled with no-ops": (Options(rough=True, faults=("mumble",)), ("noop_fills",)),
    "torn tails are cut": (Options(faults=("power", "power-all")), ("torn_writes", "tail_cuts")),
    "lost disks recover": (Options(faults=("wipe", "kill", "clock-jump")), ("recoveries", "wiped_disks")),
    "damaged values are repaired": (
        Options(faults=("bit-flip", "kill")),
        ("flipped_values", "damaged_records", "repaired_values", "repaired_in_place"),
    ),
    "damaged votes are told": (
        Options(rough=True, faults=("bit-flip", "mumble")),
        ("faulty_votes_told",),
    ),
    "cold damage is found": (Options(faults=("bit-flip",)), ("scrub_passes", "scrub_damaged")),
    "holes are settled while a node runs": (
        Options(faults=("header-flip",)),
        ("scrub_holes", "reaffirmed"),
    ),
    "lost records are made up for": (
        Options(faults=("header-flip", "lost-segment")),
        ("log_holes", "recoveries", "repaired_values"),
    ),
}


@pytest.mark.parametrize("what", SOUGHT)
def test_rare_things_hold_too(what: str) -> None:
    options, counters = SOUGHT[what]
    results = run_suite(301, 12, options=replace(options, groups=False, transactions=False))
    assert not [explain(result) for result in results if not result.ok]
    assert not [name for name in counters if not sum(result.coverage[name] for result in results)]


@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_a_seed_that_once_failed(seed: str) -> None:
    number, _, how = seed.partition("+")
    both = how == "groups"
    run(int(number), 1, Options() if how == "drawn" else Options(groups=both, transactions=both))


# What consumer groups and transactions must have met in a few seeds that have them.
OF_GROUPS = (
    "rebalances",
    "units_moved",
    "member_kills",
    "member_leaves",
    "member_stalls",
    "members_fenced",
    "checkpoints",
    "exactly_once_commits",
    "exactly_once_transactions",
    "given_up",
    "acts_in_one",
    "acts_in_two_phases",
    "ferries_in_one",
    "ferries_in_two_phases",
    "transactions_committed",
    "transactions_aborted",
    "transactions_timed_out",
    "transactor_kills",
    "zombies_refused",
    "prepared_committed",
    "prepared_rolled_back",
)


def test_groups_and_transactions_hold() -> None:
    coverage = run(401, 24, Options(groups=True, transactions=True))
    assert not [name for name in OF_GROUPS if not coverage[name]]
