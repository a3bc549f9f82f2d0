"""How long writing stood still: per partition, and around each fault.

The gap of a partition is the longest time that a publish to it waited for its acknowledgement, counted from the time at
which it was due. A publish that was never acknowledged waited at least until its producer gave it up. A pause between
acknowledgements over all partitions would hide a partition that stands still.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import NamedTuple

from corgi.history.model import NEVER, OK, Fault, History, Partition, Send

RATE_MIN = 50.0  # publishes/s and partition, below which a gap is measured coarsely
AFTERMATH_S = 2.0  # what waits so soon after a fault ended waits because of it


class Gap(NamedTuple):
    """The longest wait of a partition (s), and the publish that waited."""

    seconds: float
    send: Send | None


class FaultGap(NamedTuple):
    """The longest wait around one fault, over all partitions."""

    fault: Fault
    seconds: float
    partition: Partition | None


def partition_gaps(history: History) -> dict[Partition, Gap]:
    """The gap of each partition that was written to."""
    last = _last_time(history)
    gaps: dict[Partition, Gap] = {}
    for send in history.sends:
        waited = _waited(send, last)
        known = gaps.get(send.partition)
        if known is None or waited > known.seconds:
            gaps[send.partition] = Gap(waited, send)
    return dict(sorted(gaps.items()))


def fault_gaps(history: History) -> list[FaultGap]:
    """Per fault the longest wait of the publishes that were waiting at some time from its beginning to soon after its
    end, in the order of the faults. Each wait counts from the fault's beginning at the earliest, for what waited before
    waits because of another one, and up to the beginning of the next fault behind its end."""
    last = _last_time(history)
    faults = sorted(history.faults, key=lambda fault: fault.began)
    waits = sorted((send.due, _waited(send, last), send.partition) for send in history.sends)
    out = []
    longest = max((wait for _, wait, _ in waits), default=0.0)
    dues = [due for due, _, _ in waits]
    for number, fault in enumerate(faults):
        ended = fault.ended if fault.ended >= fault.began else last
        following = next((other.began for other in faults[number + 1 :] if other.began >= ended), float("inf"))
        until = min(ended + AFTERMATH_S, following)
        best = FaultGap(fault, 0.0, None)
        for at in range(bisect_left(dues, fault.began - longest), bisect_left(dues, until)):
            due, waited, partition = waits[at]
            if due + waited >= fault.began:
                because = min(due + waited, following) - max(due, fault.began)
                if because > best.seconds:
                    best = FaultGap(fault, because, partition)
        out.append(best)
    return out


def least_rate(history: History) -> float:
    """Publishes per second to the partition that got the fewest; 0 without any."""
    spans: dict[Partition, list[float]] = defaultdict(lambda: [float("inf"), NEVER, 0])
    for send in history.sends:
        span = spans[send.partition]
        span[0] = min(span[0], send.due)
        span[1] = max(span[1], send.due)
        span[2] += 1
    return min(((count - 1) / (end - start) for start, end, count in spans.values() if end > start), default=0.0)


def _waited(send: Send, last: float) -> float:
    return (send.ended if send.ended >= 0 else last) - send.due


def _last_time(history: History) -> float:
    """When the last outcome was known."""
    return max((send.ended for send in history.sends if send.status == OK), default=0.0)
