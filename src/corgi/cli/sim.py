"""``corgi sim``: whole clusters in virtual time, from seeds, as many as wanted."""

from __future__ import annotations

import secrets
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from corgi.base.errors import CorgiError
from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json, print_table
from corgi.cli.words import say

if TYPE_CHECKING:
    from corgi.sim.campaign import SeedOutcome, Task

SEEDS_MAX = 10_000_000
SEEDS_UNLESS_TOLD = 10
PROGRESS_S = 30.0
FAILURES_SHOWN = 20  # at the end


def sim(
    *,
    seeds: int | None = None,
    seed: int | None = None,
    jobs: int = 1,
    journal: Path | None = None,
    nodes: int | None = None,
    faults: str = "",
    rough: Annotated[bool | None, Parameter(negative="--smooth")] = None,
    groups: bool | None = None,
    transactions: bool | None = None,
    mutant: str = "",
    trace: Annotated[bool, Parameter(negative=())] = False,
    keep_going: Annotated[bool, Parameter(negative=())] = False,
    output: OutputOption = "table",
) -> int:
    """Run simulated clusters and check what their clients saw.

    Each seed is a world of its own: nodes, links, disks, clocks, faults and
    clients, in virtual time. The same seed does the same every time. A failure
    prints its seed, the broken rule and what led to it.

    Examples:

    corgi sim --seeds 200

    corgi sim --seed 4711 --trace       (repeat one, and see everything)

    corgi sim --seed 1 --seeds 10000 --jobs 2 --keep-going --journal night.jsonl
    (the same command again goes on where it was interrupted)

    JSON, one line a seed: {"seed", "ok", "violations": [{"name", "detail",
    "time_s"}], "trace_hash", "virtual_s", "operations", "faults"}, with a
    "report" if it failed and a "transcript" if it was traced; at the end
    {"seeds", "failed": [seed], "virtual_s", "seconds", "coverage":
    {name: count}}

    Parameters
    ----------
    seeds
        How many; by default 10, or 1 when --seed is given.
    seed
        The first one, 0 or more; by default chosen by chance, and told.
    jobs
        Processes that run seeds side by side.
    journal
        Keep outcomes in this file and do not run again what is in it.
        Then only failures are printed.
    nodes
        Nodes of the cluster; by default the seed decides.
    faults
        Only these kinds of faults, separated by commas.
    rough
        Links that lose, double and reorder messages, or --smooth ones; by
        default the seed decides.
    groups
        Consumer groups in every seed, or --no-groups; by default the seed
        decides.
    transactions
        The same of transactional clients.
    mutant
        Break the code in this way; then a run should fail.
    trace
        Print the whole transcript.
    keep_going
        Do not stop at the first failure.
    """
    from corgi.sim.campaign import Campaign

    count = seeds if seeds is not None else SEEDS_UNLESS_TOLD if seed is None else 1
    first = secrets.randbelow(2**32) if seed is None else seed
    asked = {"nodes": nodes, "rough": rough, "groups": groups, "transactions": transactions}
    task = _task(faults, asked, mutant, trace=trace)
    _check(count, first, jobs)
    if seed is None:
        say(f"the first seed is {first}")
    told = Told(count, output, quiet=journal is not None, trace=trace)
    with Campaign(task, jobs=jobs, journal=journal) as campaign:
        if campaign.known:
            say(f"{len(campaign.known)} seeds are known from {journal}")
        for outcome in campaign.outcomes(range(first, first + count)):
            told.add(outcome, known=outcome.seed in campaign.known)
            if not outcome.ok and not keep_going:
                break
    return told.end()


def _check(seeds: int, first: int, jobs: int) -> None:
    from corgi.sim.campaign import JOBS_MAX

    if not 1 <= seeds <= SEEDS_MAX:
        raise CorgiError("invalid-argument", f"--seeds {seeds}: expected 1 to {SEEDS_MAX}")
    if not 0 <= first < 2**63:
        raise CorgiError("invalid-argument", f"--seed {first}: expected 0 to 2^63 - 1")
    if not 1 <= jobs <= JOBS_MAX:
        raise CorgiError("invalid-argument", f"--jobs {jobs}: expected 1 to {JOBS_MAX}")


def _task(faults: str, asked: dict[str, Any], mutant: str, *, trace: bool) -> Task:
    """What to do with each seed: the options of the mutant, if there is one, changed as far as something is asked."""
    from dataclasses import replace

    from corgi.sim.campaign import Task
    from corgi.sim.faults import KINDS
    from corgi.sim.mutants import MUTANTS
    from corgi.sim.run import Options

    if asked["nodes"] is not None and not 1 <= asked["nodes"] <= 9:
        raise CorgiError("invalid-argument", f"--nodes {asked['nodes']}: expected 1 to 9")
    if mutant and mutant not in MUTANTS:
        raise CorgiError("invalid-argument", f"--mutant: {mutant!r} is none", hint="there are " + ", ".join(MUTANTS))
    kinds = tuple(filter(None, (kind.strip() for kind in faults.split(","))))
    for kind in kinds:
        if kind not in KINDS:
            raise CorgiError("invalid-argument", f"--faults: {kind!r} is no kind", hint="there are " + ", ".join(KINDS))
    options = MUTANTS[mutant].options if mutant else Options()
    changes = {name: wanted for name, wanted in {**asked, "faults": kinds or None}.items() if wanted is not None}
    return Task(replace(options, **changes), mutant, trace)


class Told:
    """Tells outcomes as they come, and sums them up."""

    def __init__(self, count: int, output: str, *, quiet: bool, trace: bool) -> None:
        self._count = count
        self._output = output
        self._quiet = quiet
        self._trace = trace
        self._coverage: Counter[str] = Counter()
        self._failed: dict[int, str] = {}
        self._ran = self._fresh = 0
        self._virtual_s = self._fresh_s = 0.0
        self._began = self._last = time.monotonic()

    def add(self, outcome: SeedOutcome, *, known: bool) -> None:
        self._ran += 1
        self._coverage.update(outcome.coverage)
        self._virtual_s += outcome.virtual_s
        if not known:
            self._fresh += 1
            self._fresh_s += outcome.virtual_s
        if not outcome.ok:
            self._failed[outcome.seed] = outcome.violations[0].name
        self._show(outcome)
        if time.monotonic() - self._last > PROGRESS_S:
            self._last = time.monotonic()
            self._progress()

    def end(self) -> int:
        """The summary, and the exit code."""
        took = time.monotonic() - self._began
        if self._output == "json":
            print_json(
                {
                    "seeds": self._ran,
                    "failed": sorted(self._failed),
                    "virtual_s": round(self._virtual_s, 1),
                    "seconds": round(took, 1),
                    "coverage": dict(sorted(self._coverage.items())),
                }
            )
        else:
            print_table(("happened", ">times"), sorted(self._coverage.items()))
            if len(self._failed) > 1:
                print_table(("failed seed", "first broken rule"), sorted(self._failed.items())[:FAILURES_SHOWN])
            rate = f", {self._fresh_s / took * 60:.0f} a minute" if self._fresh_s else ""
            failed = ", ".join(map(str, sorted(self._failed)[:FAILURES_SHOWN])) or "none"
            more = f" and {len(self._failed) - FAILURES_SHOWN} more" if len(self._failed) > FAILURES_SHOWN else ""
            say(f"{self._ran} seeds, {self._virtual_s:.0f} virtual seconds{rate}, failed: {failed}{more}")
        return Exit.FAILURE if self._failed else Exit.OK

    def _show(self, outcome: SeedOutcome) -> None:
        if self._quiet and outcome.ok:
            return
        if self._output == "json":
            print_json(_document(outcome))
            return
        if self._trace:
            sys.stdout.write("\n".join(outcome.transcript) + "\n")
        print(outcome.report, flush=True)

    def _progress(self) -> None:
        rate = self._fresh / (time.monotonic() - self._began)
        left = (self._count - self._ran) / rate / 60 if rate else 0.0
        say(f"{self._ran} of {self._count} seeds, {len(self._failed)} failed, {rate:.2f} a second, {left:.0f} min left")


def _document(outcome: SeedOutcome) -> dict[str, Any]:
    document: dict[str, Any] = {
        "seed": outcome.seed,
        "ok": outcome.ok,
        "violations": [{"name": v.name, "detail": v.detail, "time_s": v.time_s} for v in outcome.violations],
        "trace_hash": outcome.trace_hash,
        "virtual_s": outcome.virtual_s,
        "operations": outcome.operations,
        "faults": outcome.faults,
    }
    if not outcome.ok:
        document["report"] = outcome.report
    return document | ({"transcript": list(outcome.transcript)} if outcome.transcript else {})
