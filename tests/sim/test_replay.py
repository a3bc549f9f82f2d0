"""A seed says everything: the same run again, in another process, under another hash seed, traced or not."""

import gc
import os
import subprocess
import sys

from corgi.sim.run import Options, run_seed
from corgi.sim.world import World

SEED = 6
GROUPS = Options(groups=True, transactions=True)  # so that there are clients of every kind
PROGRAM = f"from corgi.sim.run import *; print(run_seed({SEED}, Options(groups=True, transactions=True)).trace_hash)"


def hash_elsewhere(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True, timeout=100
    )
    return done.stdout.strip()


def test_a_seed_gives_one_trace_hash_under_any_hash_seed() -> None:
    here = run_seed(SEED, GROUPS, trace=True)
    assert hash_elsewhere("1") == hash_elsewhere("4711") == here.trace_hash
    assert len(here.transcript) > 1000


def test_other_seeds_give_other_traces() -> None:
    assert run_seed(SEED).trace_hash != run_seed(SEED + 1).trace_hash


def test_a_run_leaves_nothing_behind() -> None:
    """Thousands of seeds run in one process."""
    for seed in (21, 23, 29):
        run_seed(seed, GROUPS)
        gc.collect()
        assert not [one for one in gc.get_objects() if isinstance(one, World)], seed
