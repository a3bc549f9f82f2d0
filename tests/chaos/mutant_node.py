"""A node of ``corgi chaos`` that takes one vote too few for a majority."""

import sys

from corgi.chaos.node_process import main
from corgi.sim.mutants import MUTANTS

if __name__ == "__main__":
    with MUTANTS["quorum-minus-one"].in_force():
        sys.exit(main(sys.argv[1:]))
