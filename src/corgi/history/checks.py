"""The checks over a history, each by the name of the promise that it guards.

A check is a function from a history to what breaks the promise. None of them draws chance or knows the nodes: they see
what clients saw. ``tests/history/test_history_checks.py`` holds a hand-made bad history for each, which it must reject
by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from corgi.history.model import FAILED, OK, OPEN, History, Partition, Violation

Check = Callable[[History], Iterator[Violation]]


def check_history(history: History) -> list[Violation]:
    """Every violation, the checks in a fixed order."""
    return [violation for check in CHECKS.values() for violation in check(history)]


def lost_write(history: History) -> Iterator[Violation]:
    """What was acknowledged, or seen by a reader, is in the final drain."""
    stored = _stored(history)
    for send in history.sends:
        there = stored.get(send.partition)
        if send.status == OK and there is not None:
            for value in send.values:
                if value not in there:
                    yield Violation("lost-write", f"{send}: {value!r} was acknowledged and is gone", send.ended)
    for read in history.reads:
        there = stored.get(read.partition)
        if there is not None:
            for offset, value in read.records:
                if value not in there:
                    text = f"{read.reader} saw {value!r} at {read.partition}@{offset}, and it is gone"
                    yield Violation("lost-write", text, read.time)


def duplicate(history: History) -> Iterator[Violation]:
    """No value is stored twice: retries of idempotent producers are recognised, plain ones are not retried."""
    for partition, replicas in sorted(history.final.items()):
        for node, records in sorted(replicas.items()):
            for value, count in Counter(value for _, value in records).items():
                if count > 1:
                    at = [offset for offset, other in records if other == value]
                    yield Violation(
                        "duplicate", f"{value!r} lies {count} times in {partition} of node {node}: {at}", 0.0
                    )


def inconsistent_offsets(history: History) -> Iterator[Violation]:
    """One offset has one value, whoever looks, whenever; an acknowledgement names the offset that readers see."""
    seen: dict[tuple[Partition, int], tuple[bytes, str]] = {}

    def look(partition: Partition, offset: int, value: bytes, who: str, time: float) -> Iterator[Violation]:
        known = seen.setdefault((partition, offset), (value, who))
        if known[0] != value:
            text = f"{partition}@{offset} is {known[0]!r} for {known[1]} and {value!r} for {who}"
            yield Violation("inconsistent-offsets", text, time)

    for send in history.sends:
        if send.status == OK and send.offset >= 0:
            for index, value in enumerate(send.values):
                yield from look(send.partition, send.offset + index, value, f"writer {send.producer}", send.ended)
    for read in history.reads:
        for offset, value in read.records:
            yield from look(read.partition, offset, value, f"reader {read.reader}", read.time)
    for partition, replicas in sorted(history.final.items()):
        for node, records in sorted(replicas.items()):
            for offset, value in records:
                yield from look(partition, offset, value, f"the final drain of node {node}", 0.0)


def aborted_read(history: History) -> Iterator[Violation]:
    """Nothing is stored that was never sent, or whose sender was told that it failed for good."""
    sent = {value: send for send in history.sends for value in send.values}
    for partition, stored in _stored(history).items():
        for value, offset in stored.items():
            send = sent.get(value)
            if send is None or send.partition != partition:
                yield Violation("aborted-read", f"{partition}@{offset} holds {value!r}, which nobody sent there", 0.0)
            elif send.status == FAILED:
                yield Violation("aborted-read", f"{send}: told as failed, and stored at {offset}", send.ended)


def nonmonotonic_send(history: History) -> Iterator[Violation]:
    """What one producer sent to a partition, in order, is stored in that order."""
    where = {(p, value): offset for p, stored in _stored(history).items() for value, offset in stored.items()}
    last: dict[tuple[str, Partition], tuple[int, int]] = {}
    for send in sorted((s for s in history.sends if s.ordered), key=lambda s: (s.producer, s.partition, s.sequence)):
        for index, value in enumerate(send.values):
            offset = where.get((send.partition, value))
            if offset is None:
                continue
            key = (send.producer, send.partition)
            sequence = send.sequence + index
            before = last.get(key)
            if before is not None and before[1] >= offset:
                text = f"{send.producer} {send.partition}: #{sequence} lies at {offset}, #{before[0]} at {before[1]}"
                yield Violation("nonmonotonic-send", text, send.ended)
            last[key] = (sequence, offset)


def send_gap(history: History) -> Iterator[Violation]:
    """Of an idempotent producer nothing is stored behind something that is missing, unless that was given up."""
    stored = _stored(history)
    missing: dict[tuple[str, Partition], int] = {}
    sends = (send for send in history.sends if send.ordered and send.status != FAILED)
    for send in sorted(sends, key=lambda s: (s.producer, s.partition, s.sequence)):
        if send.partition not in stored:
            continue
        key = (send.producer, send.partition)
        for index, value in enumerate(send.values):
            if value not in stored[send.partition]:
                missing.setdefault(key, send.sequence + index)
            elif key in missing:
                text = f"{send.producer} {send.partition}: #{send.sequence + index} is stored, #{missing[key]} is not"
                yield Violation("send-gap", text, send.ended)


def poll_skip(history: History) -> Iterator[Violation]:
    """A reader gets every offset from its position on, without a hole."""
    for read in history.reads:
        expected = read.position
        for offset, _ in read.records:
            if offset > expected:
                text = f"{read.reader} at {read.partition}@{expected} was given {offset}"
                yield Violation("poll-skip", text, read.time)
            expected = offset + 1


def nonmonotonic_poll(history: History) -> Iterator[Violation]:
    """A reader never goes back: not within an answer, not from one answer to the next."""
    for read in history.reads:
        expected = read.position
        for offset, _ in read.records:
            if offset < expected:
                text = f"{read.reader} at {read.partition}@{expected} was given {offset} again"
                yield Violation("nonmonotonic-poll", text, read.time)
            expected = offset + 1


def stale_end(history: History) -> Iterator[Violation]:
    """A confirmed end lies beyond everything acknowledged, or confirmed, before the question was asked."""
    facts: dict[Partition, list[tuple[float, int, str]]] = {}
    for send in history.sends:
        if send.status == OK and send.offset >= 0:
            end = send.offset + len(send.values)
            facts.setdefault(send.partition, []).append((send.ended, end, str(send)))
    for bound in history.bounds:
        facts.setdefault(bound.partition, []).append((bound.ended, bound.end, f"{bound.reader} was told {bound.end}"))
    for bound in history.bounds:
        for time, end, text in facts.get(bound.partition, ()):
            if time < bound.invoked and bound.end < end:
                yield Violation("stale-end", f"{bound.reader} was told {bound.end} after {text}", bound.ended)


def stuck(history: History) -> Iterator[Violation]:
    """After healing every operation ends and every replica serves the same."""
    for text in history.unfinished:
        yield Violation("stuck", text, 0.0)
    for send in history.sends:
        if send.status == OPEN:
            yield Violation("stuck", f"{send} has no outcome", send.invoked)
    for partition, replicas in sorted(history.final.items()):
        nodes = sorted(replicas)
        for node in nodes[1:]:
            if replicas[node] != replicas[nodes[0]]:
                counts = f"{len(replicas[nodes[0]])} and {len(replicas[node])} records"
                yield Violation("stuck", f"{partition} differs on nodes {nodes[0]} and {node}: {counts}", 0.0)


CHECKS: dict[str, Check] = {
    "lost-write": lost_write,
    "duplicate": duplicate,
    "inconsistent-offsets": inconsistent_offsets,
    "aborted-read": aborted_read,
    "nonmonotonic-send": nonmonotonic_send,
    "send-gap": send_gap,
    "poll-skip": poll_skip,
    "nonmonotonic-poll": nonmonotonic_poll,
    "stale-end": stale_end,
    "stuck": stuck,
}


def _stored(history: History) -> dict[Partition, dict[bytes, int]]:
    """Per drained partition: value to offset, from the first replica (``stuck`` says whether they are equal)."""
    out: dict[Partition, dict[bytes, int]] = {}
    for partition, replicas in sorted(history.final.items()):
        records = replicas[min(replicas)] if replicas else []
        stored: dict[bytes, int] = {}
        for offset, value in records:
            stored.setdefault(value, offset)
        out[partition] = stored
    return out
