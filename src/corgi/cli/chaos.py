"""``corgi chaos``: a cluster of real processes under faults, and whether it kept its promises."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from corgi.base.errors import CorgiError
from corgi.cli.common import run as run_coroutine
from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json, print_table
from corgi.cli.words import printable, say

if TYPE_CHECKING:
    from corgi.chaos.conductor import ChaosOptions, Run
    from corgi.chaos.report import KindFigures

SEEDS = 1_000_000


def chaos(
    *,
    seed: int | None = None,
    minutes: float | None = None,
    seconds: float | None = None,
    faults: str = "",
    nodes: int = 3,
    partitions: int = 8,
    rate: float = 50.0,
    write_gap_ms: int | None = None,
    network: Literal["auto", "namespaces", "proxies"] = "auto",
    dir: Path | None = None,
    output: OutputOption = "table",
) -> int:
    """Start a cluster, break it in every way, and check what its clients saw.

    Node processes of its own on this machine, producers, readers and
    administrators in processes of their own, faults by a schedule that the seed
    draws: killed and stopped processes, broken and slow links, damaged and lost
    disks. Then everything heals, every node is read back, and the history is
    judged as by corgi check. Ctrl-C ends the faults early, heals and reports.

    Examples:

    corgi chaos

    corgi chaos --minutes 10 --seed 7

    corgi chaos --seconds 30 --faults kill,isolate,one-way

    corgi chaos --network namespaces --faults lossy-links,one-way

    JSON: {"ok", "seed", "seconds", "nodes", "network": "namespaces" or "proxies",
    "network_reason": why, if another was wanted, "operations", "acknowledged",
    "least_rate", "publishes": {status: count}, "checks": [as corgi check],
    "faults": [{"kind", "target", "began_s", "ended_s", "gap_ms", "detail"}],
    "kinds": [{"kind", "times", "gap_ms_median", "gap_ms_max",
    "leadership_changes"}], "write_gaps_ms", "leadership_changes",
    "interrupted", "dir"}

    Exit code 0 if every check is clean, 1 if not.

    Parameters
    ----------
    seed
        Draws kinds, targets and times of the faults; by default chosen by
        chance, and told. The machine's timing is no part of it.
    minutes
        How long faults go on.
    seconds
        The same, in seconds; by default 60.
    faults
        Only these kinds, separated by commas; docs/chaos.md lists them.
    nodes
        How many, 1 to 9.
    partitions
        Of the topic that is written to.
    rate
        Publishes per second to each partition; with fewer than 50 write gaps
        are measured coarsely.
    write_gap_ms
        The longest time that a publish may wait for its acknowledgement; by
        default no limit.
    network
        What nodes and clients meet through. namespaces: each node has a network
        namespace of its own, and packets are lost; needs Linux and root. proxies:
        bytes pass through links of the run's own, or wait there. auto: namespaces
        where they can be made, else proxies.
    dir
        An empty folder for history, report, picture and logs; by default
        corgi-chaos-SEED.
    """
    if minutes is not None and seconds is not None:
        raise CorgiError("invalid-argument", "--minutes and --seconds are both given", hint="name one of them")
    drawn = secrets.randbelow(SEEDS) if seed is None else seed
    if not 0 <= drawn < 2**63:
        raise CorgiError("invalid-argument", f"--seed {drawn}: expected 0 to 2^63 - 1")
    from corgi.chaos.conductor import ChaosOptions
    from corgi.chaos.faults import KINDS
    from corgi.chaos.namespaces import chosen

    options = ChaosOptions(
        folder=(dir or Path(f"corgi-chaos-{drawn}")).absolute(),
        seed=drawn,
        seconds=minutes * 60 if minutes is not None else 60.0 if seconds is None else seconds,
        nodes=nodes,
        faults=tuple(filter(None, (kind.strip() for kind in faults.split(",")))) or tuple(KINDS),
        partitions=partitions,
        rate=rate,
        write_gap_ms=write_gap_ms,
    )
    options.check()
    with chosen(network, nodes) as (namespaces, reason):
        options = replace(options, network=namespaces, network_reason=reason)
        if faults:
            options.check_faults()
        try:
            run = run_coroutine(_run(options))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    return _report(run, output)


async def _run(options: ChaosOptions) -> Run:
    from corgi.chaos.conductor import run_chaos

    stop = asyncio.Event()
    began = time.monotonic()
    with _signals(stop):
        return await run_chaos(options, lambda text: say(f"{time.monotonic() - began:6.1f} s  {text}"), stop)


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """The first signal ends the faults, a second one the run."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def signalled() -> None:
        if stop.is_set():
            task.cancel()
        else:
            say("no more faults: healing, and then the verdict; once more to end at once")
            stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, signalled)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _report(run: Run, output: str) -> int:
    from corgi.chaos.conductor import remove_data
    from corgi.chaos.report import described, figures
    from corgi.chaos.timeline import timeline

    told = described(run)
    folder = run.options.folder
    (folder / "report.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    verdict = "every promise was kept" if run.ok else "a promise was broken"
    title = f"Corgi under faults: {verdict}"
    about = f"seed {told['seed']}, {told['nodes']} nodes, {told['seconds']:.0f} s, {told['operations']:,} operations"
    page = timeline(run.history, run.verdicts, title, f"{about}, {len(told['faults'])} faults")
    (folder / "timeline.html").write_text(page, encoding="utf-8")
    if run.ok:
        remove_data(folder)
    if output == "json":
        print_json(told)
    else:
        _show(run, figures(run))
    return Exit.OK if run.ok else Exit.FAILURE


def _mb(kind: KindFigures) -> str:
    return f"{kind.received_bytes_max / 1e6:.1f}" if kind.rejoin_s_max else ""


def _show(run: Run, kinds: list[KindFigures]) -> None:
    from corgi.cli.check import show

    print_table(
        ("fault", ">times", ">write gap ms", ">longest", ">leaderships", ">rejoined in s", ">MB got"),
        [
            (k.kind, k.times, k.gap_ms_median, k.gap_ms_max, k.leadership_changes, k.rejoin_s_max or "", _mb(k))
            for k in kinds
        ],
    )
    show(run.history, run.verdicts)
    say(f"history, report and picture are in {printable(str(run.options.folder))}; again: --seed {run.options.seed}")
