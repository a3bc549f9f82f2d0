"""``corgi sim``: whole clusters in virtual time, from seeds."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from corgi.base.errors import CorgiError
from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json, print_table
from corgi.cli.words import say

if TYPE_CHECKING:
    from corgi.sim.run import Result

SEEDS_MAX = 10_000_000


def sim(
    *,
    seeds: int = 10,
    seed: int | None = None,
    nodes: int | None = None,
    faults: str = "",
    trace: Annotated[bool, Parameter(negative=())] = False,
    keep_going: Annotated[bool, Parameter(negative=())] = False,
    output: OutputOption = "table",
) -> int:
    """Run simulated clusters and check what their clients saw.

    Each seed is a world of its own: nodes, links, disks, clocks, faults and
    clients, in virtual time. The same seed does the same every time. A failure
    prints its seed and what happened around it.

    Examples:

    corgi sim --seeds 200

    corgi sim --seeds 1 --seed 4711 --trace       (repeat one, and see
    everything)

    JSON, one line a seed: {"seed", "ok", "violations": [{"name", "detail",
    "time_s"}], "trace_hash", "virtual_s", "operations", "faults"}; at the end
    {"seeds", "failed": [seed], "virtual_s", "coverage": {name: count}}

    Parameters
    ----------
    seeds
        How many.
    seed
        The first one, 0 or more; by default chosen by chance, and told.
    nodes
        Nodes of the cluster; by default the seed decides.
    faults
        Only these kinds of faults, separated by commas.
    trace
        Print the whole transcript.
    keep_going
        Do not stop at the first failure.
    """
    from corgi.sim.run import Options, run_seed

    if not 1 <= seeds <= SEEDS_MAX:
        raise CorgiError("invalid-argument", f"--seeds {seeds}: expected 1 to {SEEDS_MAX}")
    first = secrets.randbelow(2**32) if seed is None else seed
    if not 0 <= first < 2**63:
        raise CorgiError("invalid-argument", f"--seed {first}: expected 0 to 2^63 - 1")
    if nodes is not None and not 1 <= nodes <= 9:
        raise CorgiError("invalid-argument", f"--nodes {nodes}: expected 1 to 9")
    options = Options(faults=_kinds(faults), nodes=nodes)
    if seed is None:
        say(f"the first seed is {first}")
    coverage: Counter[str] = Counter()
    failed: list[int] = []
    virtual_s = 0.0
    ran = 0
    for number in range(first, first + seeds):
        result = run_seed(number, options, trace=trace)
        ran += 1
        coverage.update(result.coverage)
        virtual_s += result.seconds
        _show(result, output, trace=trace)
        if not result.ok:
            failed.append(number)
            if not keep_going:
                break
    if output == "json":
        print_json({"seeds": ran, "failed": failed, "virtual_s": round(virtual_s, 1), "coverage": dict(coverage)})
    else:
        print_table(("happened", ">times"), sorted(coverage.items()))
        say(f"{ran} seeds, {virtual_s:.0f} virtual seconds, failed: {', '.join(map(str, failed)) or 'none'}")
    return Exit.FAILURE if failed else Exit.OK


def _kinds(faults: str) -> tuple[str, ...] | None:
    from corgi.sim.faults import KINDS

    wanted = tuple(filter(None, (kind.strip() for kind in faults.split(","))))
    for kind in wanted:
        if kind not in KINDS:
            raise CorgiError("invalid-argument", f"--faults: {kind!r} is no kind", hint="there are " + ", ".join(KINDS))
    return wanted or None


def _show(result: Result, output: str, *, trace: bool) -> None:
    if output == "json":
        document: dict[str, Any] = {
            "seed": result.seed,
            "ok": result.ok,
            "violations": [{"name": v.name, "detail": v.detail, "time_s": round(v.time, 6)} for v in result.violations],
            "trace_hash": result.trace_hash,
            "virtual_s": round(result.seconds, 3),
            "operations": result.operations,
            "faults": result.faults,
        }
        print_json(document | ({"transcript": result.transcript} if trace or not result.ok else {}))
        return
    if trace and result.ok:
        print("\n".join(result.transcript))
    print(result.report(), flush=True)
