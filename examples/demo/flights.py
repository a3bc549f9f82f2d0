"""January 2013 in ten seconds: 27,004 real flights through three nodes, one of which is killed half way.

`make demo` runs it. It starts three node processes, publishes every flight keyed by its aircraft, consumes them while
they arrive, kills (-9) the node that leads the busiest partition half way and starts it again later. Then it checks
every record end to end and every aircraft's order, and exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

import uvloop
from journey import PARTITIONS, Journey, Plan, travel
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from corgi import CorgiError
from corgi.server.local import LocalCluster, LocalOptions

NODES = 3


def main() -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long publishing lasts (default: 10)")
    parser.add_argument("--flights", type=int, default=0, help="only so many (default: all)")
    parser.add_argument("--calm", action="store_true", help="kill nobody")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    given = parser.parse_args()
    if not 0.1 <= given.seconds <= 3600 or given.flights < 0:
        parser.error("--seconds is 0.1 to 3600, --flights 0 or more")
    plan = Plan(seconds=given.seconds, flights=given.flights, kill=not given.calm)
    words = Console(stderr=True, highlight=False)
    words.print(
        f"Starting {NODES} nodes, each a process of its own, with fdatasync on a majority before every answer …"
    )
    try:
        journey = run(plan, words)
    except CorgiError as error:
        words.print(f"[bold red]error:[/] {error.message} [{error.code}]", markup=True)
        words.print(f"hint: {error.hint}", markup=False)
        return 1
    if given.output == "json":
        print(json.dumps(journey.document()))
    else:
        show(journey)
    return 0 if journey.fine else 1


def run(plan: Plan, words: Console) -> Journey:
    """A cluster of its own in a temporary folder, the journey, and the end of both."""
    with (
        tempfile.TemporaryDirectory(prefix="corgi-demo-") as folder,
        LocalCluster(LocalOptions(folder=Path(folder), nodes=NODES)) as cluster,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(travel(cluster, plan, words))


def show(journey: Journey) -> None:
    """The table that a person likes to read."""
    facts = journey.document()
    verdict = journey.verdict
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")

    def row(what: str, figure: object, unit: str = "", *, bad: bool = False) -> None:
        table.add_row(what, f"[red]{figure}[/]" if bad else str(figure), unit)

    row("records", f"{facts['records']:,}", f"flights of {facts['aircraft']:,} aircraft, in {PARTITIONS} partitions")
    row("rate", f"{facts['records_per_s']:,.0f}", "per second, paced")
    row(
        "acknowledged",
        f"{facts['acknowledgement']['p50_ms']:.1f}",
        f"ms p50, {facts['acknowledgement']['p99_ms']:.1f} ms p99",
    )
    row(
        "delivered",
        f"{facts['delivery']['p50_ms']:.1f}",
        f"ms p50, {facts['delivery']['p99_ms']:.1f} ms p99, from the scheduled time",
    )
    row("write gap before the kill", f"{facts['gap_before_ms']:.1f}", "ms, the longest wait of any partition")
    if journey.victim:
        row(
            "write gap during the kill",
            f"{facts['gap_during_ms']:.1f}",
            f"ms; node {journey.victim} led {facts['groups_led']} groups",
        )
    row("lost", verdict.lost, "", bad=verdict.lost > 0)
    row("duplicated", verdict.duplicated, "", bad=verdict.duplicated > 0)
    row("reordered", verdict.reordered, "checked aircraft by aircraft", bad=verdict.reordered > 0)
    row("damaged", verdict.strange, "compared byte by byte", bad=verdict.strange > 0)
    title = "[bold green]Every flight arrived, once, in order" if journey.fine else "[bold red]Something is wrong"
    Console(highlight=False).print(Panel(table, title=title, title_align="left", expand=False, padding=(1, 2)))
    for complaint in journey.complaints:
        Console(stderr=True, highlight=False).print(f"wrong: {complaint}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
