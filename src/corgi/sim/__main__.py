"""``python -m corgi.sim``: run seeds, print what broke, exit with 1 if anything did."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

from corgi.sim.mutants import MUTANTS
from corgi.sim.run import Options, run_seed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m corgi.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--trace", action="store_true", help="print the whole transcript")
    parser.add_argument("--faults", default="", help="only these kinds, separated by commas")
    parser.add_argument("--nodes", type=int, default=None, help="how many nodes instead of what the seed says")
    links = parser.add_mutually_exclusive_group()
    links.add_argument("--rough", action="store_true", default=None, help="links that lose and double messages")
    links.add_argument("--smooth", action="store_false", dest="rough", help="links that do not")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="break the cluster this way")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    given = parser.parse_args(arguments)
    mutant = MUTANTS[given.mutant] if given.mutant else None
    options = mutant.options if mutant is not None else Options()
    if given.faults:
        options = replace(options, faults=tuple(given.faults.split(",")))
    if given.nodes:
        options = replace(options, nodes=given.nodes)
    if given.rough is not None:
        options = replace(options, rough=given.rough)
    with mutant.in_force() if mutant is not None else nullcontext():
        return run(given, options)


def run(given: argparse.Namespace, options: Options) -> int:
    """Run the seeds asked for and print what came of them; the exit code."""
    coverage: Counter[str] = Counter()
    failed: list[int] = []
    seconds = 0.0
    began = time.perf_counter()
    write = sys.stdout.write
    for seed in range(given.seed, given.seed + given.seeds):
        start = time.perf_counter()
        result = run_seed(seed, options, trace=given.trace)
        coverage.update(result.coverage)
        seconds += result.seconds
        if given.trace:
            write("\n".join(result.transcript) + "\n")
            result.transcript = []
        write(f"{result.report()} ({time.perf_counter() - start:.1f} s)\n")
        if not result.ok:
            failed.append(seed)
            if not given.keep_going:
                break
    took = time.perf_counter() - began
    for name, number in sorted(coverage.items()):
        write(f"  {name:<32}{number:>10}\n")
    write(f"{seconds:.0f} virtual seconds in {took:.1f} s: {seconds / took * 60:.0f} per minute; failed: {failed}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
