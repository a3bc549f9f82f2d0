"""What a run says in numbers: verdicts, write gaps and rejoins per kind of fault, leadership changes."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any, NamedTuple

from corgi.chaos.conductor import Run
from corgi.history.gaps import fault_gaps, least_rate, partition_gaps
from corgi.history.model import OK


class KindFigures(NamedTuple):
    """Of all faults of one kind: how often it was done, the write gaps around it (ms), and how
    nodes rejoined."""

    kind: str
    times: int
    gap_ms_median: float
    gap_ms_max: float
    leadership_changes: int
    rejoin_s_max: float  # until a node that it had started again held everything; 0 if there was none
    received_bytes_max: int  # of such a node


def figures(run: Run) -> list[KindFigures]:
    """By kind, in alphabetical order. A change of leadership counts for every fault during which it happened."""
    gaps: dict[str, list[float]] = defaultdict(list)
    changes: dict[str, int] = defaultdict(int)
    for gap in fault_gaps(run.history):
        gaps[gap.fault.kind].append(gap.seconds * 1000)
        changes[gap.fault.kind] += sum(
            gap.fault.began <= leadership.time <= gap.fault.ended for leadership in run.history.leaderships
        )
    return [
        KindFigures(
            kind,
            len(of_kind),
            round(statistics.median(of_kind), 1),
            round(max(of_kind), 1),
            changes[kind],
            round(max((rejoin.whole_s for rejoin in run.rejoins if rejoin.kind == kind), default=0.0), 1),
            max((rejoin.received_bytes for rejoin in run.rejoins if rejoin.kind == kind), default=0),
        )
        for kind, of_kind in sorted(gaps.items())
    ]


def described(run: Run) -> dict[str, Any]:
    """What --output json prints, and report.json holds."""
    history = run.history
    statuses = [send.status for send in history.sends]
    return {
        "ok": run.ok,
        "seed": run.options.seed,
        "interrupted": run.interrupted,
        "seconds": round(run.ended - run.began, 1),
        "nodes": run.options.nodes,
        "network": run.options.network_kind,
        "network_reason": run.options.network_reason,
        "operations": history.operations(),
        "publishes": {status: statuses.count(status) for status in sorted(set(statuses))},
        "acknowledged": statuses.count(OK),
        "least_rate": round(least_rate(history), 1),
        "checks": [
            {
                "name": verdict.name,
                "status": verdict.status,
                "looked_at": verdict.looked_at,
                "count": verdict.count,
                "first": [{"detail": v.detail, "time_s": round(v.time - run.began, 3)} for v in verdict.first],
            }
            for verdict in run.verdicts
        ],
        "faults": [
            {
                "kind": gap.fault.kind,
                "target": gap.fault.target,
                "began_s": round(gap.fault.began - run.began, 3),
                "ended_s": round(gap.fault.ended - run.began, 3),
                "gap_ms": round(gap.seconds * 1000, 1),
                "detail": gap.fault.detail,
            }
            for gap in fault_gaps(history)
        ],
        "rejoins": [
            {
                "kind": rejoin.kind,
                "node": rejoin.node,
                "healed_s": round(rejoin.healed - run.began, 3),
                "voting_s": round(rejoin.voting_s, 3),
                "whole_s": round(rejoin.whole_s, 3),
                "received_bytes": rejoin.received_bytes,
            }
            for rejoin in run.rejoins
        ],
        "kinds": [entry._asdict() for entry in figures(run)],
        "write_gaps_ms": {str(p): round(gap.seconds * 1000, 1) for p, gap in partition_gaps(history).items()},
        "leadership_changes": len(history.leaderships),
        "dir": str(run.options.folder),
    }
