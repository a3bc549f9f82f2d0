"""A node of ``corgi chaos`` that takes one vote too few for a majority.

With "run FOLDER" a whole short run of such nodes, which prints the names of the checks that are not clean.
"""

import asyncio
import json
import sys
from pathlib import Path

from corgi.chaos.conductor import ChaosOptions, run_chaos
from corgi.chaos.node_process import main
from corgi.sim.mutants import MUTANTS


def run(folder: Path) -> list[str]:
    options = ChaosOptions(folder, 3, seconds=2, faults=("isolate",), partitions=4, patience_s=2, program="mutant_node")
    return [verdict.name for verdict in asyncio.run(run_chaos(options)).verdicts if not verdict.good]


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.stdout.write(json.dumps(run(Path(sys.argv[2]))))
    else:
        with MUTANTS["quorum-minus-one"].in_force():
            sys.exit(main(sys.argv[1:]))
