"""The checks over a history, each by the name of the promise that it guards.

A check is a function from a history to what breaks the promise. None of them draws chance or knows the nodes: they see
what clients saw. ``tests/history/test_history_checks.py`` holds a hand-made bad history for each, which it must reject
by name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from corgi.history.consuming import exactly_once, handled_twice, key_order, unhandled
from corgi.history.gaps import fault_gaps, partition_gaps
from corgi.history.model import (
    FAILED,
    NEVER,
    OK,
    OPEN,
    Bound,
    History,
    Partition,
    Replica,
    Send,
    Value,
    Violation,
)
from corgi.history.registers import judge_registers
from corgi.history.transactions import aborted_transaction_read, precommitted_read, torn_transaction

Check = Callable[[History], Iterator[Violation]]


def check_history(history: History) -> list[Violation]:
    """Every violation, the checks in a fixed order."""
    return [violation for check in CHECKS.values() for violation in check(history)]


def lost_write(history: History) -> Iterator[Violation]:
    """What was acknowledged, or seen by a reader, is in the final drain, if it lies behind the partition's start. What
    has a key in a compacted partition may be superseded: that is for ``lost-key``."""
    stored = {p: there for p, there in _stored(history).items() if p not in history.compacted}
    for send in history.sends:
        there = stored.get(send.partition)
        start = history.starts.get(send.partition, 0)
        if send.status == OK and there is not None:
            for index, value in enumerate(send.values):
                if value not in there and send.offset + index >= start:
                    yield Violation("lost-write", f"{send}: {value!r} was acknowledged and is gone", send.ended)
    for read in history.reads:
        there = stored.get(read.partition)
        if there is not None:
            for offset, value in read.records:
                if value not in there and offset >= history.starts.get(read.partition, 0):
                    text = f"{read.reader} saw {value!r} at {read.partition}@{offset}, and it is gone"
                    yield Violation("lost-write", text, read.time)


def lost_key(history: History) -> Iterator[Violation]:
    """In a compacted partition the final drain of every replica ends, for each key, with the newest record that was
    ever acknowledged or seen, or a newer one. A key that was deleted last may be gone; it is not back."""
    for partition in sorted(history.compacted & set(history.final)):
        known = _Keyed(history, partition)
        for node in _replicas(history.final[partition]):
            last = known.newest_of(history.final[partition][node])
            for key, (offset, value) in known.newest.items():
                found = last.get(key)
                if (found is not None and found[0] >= offset) or offset < history.starts.get(partition, 0):
                    continue
                if found is None and (value in known.tombstones or key in known.perhaps_deleted):
                    continue
                there = "nothing" if found is None else f"{found[1]!r} at {found[0]}"
                text = f"{partition} of node {node}: of {key!r} {value!r} at {offset} is the newest, {there} is left"
                yield Violation("lost-key", text, 0.0)


class _Keyed:
    """What is known of the keys of a compacted partition. ``newest``: (offset, value) of each key that anybody was told
    of; ``perhaps_deleted``: keys with a tombstone that may be stored and gone again without anybody having seen it."""

    def __init__(self, history: History, partition: Partition) -> None:
        self.keys: dict[Value, str] = {}
        self.tombstones: set[Value] = set()
        self.perhaps_deleted: set[str] = set()
        self.newest: dict[str, tuple[int, Value]] = {}
        for send in history.sends:
            if send.partition == partition and send.keys:
                self.keys.update(zip(send.values, send.keys, strict=True))
                self.tombstones |= send.tombstones
                if send.status != FAILED and send.offset < 0:
                    self.perhaps_deleted |= {self.keys[value] for value in send.tombstones}
        for at, offset, value, _, _ in _sightings(history):
            if at == partition:
                self._note(self.newest, offset, value)

    def newest_of(self, records: Sequence[tuple[int, Value]]) -> dict[str, tuple[int, Value]]:
        """(offset, value) of the newest of each key among these."""
        found: dict[str, tuple[int, Value]] = {}
        for offset, value in records:
            self._note(found, offset, value)
        return found

    def _note(self, newest: dict[str, tuple[int, Value]], offset: int, value: Value) -> None:
        key = self.keys.get(value)
        if key is not None and (key not in newest or newest[key][0] < offset):
            newest[key] = (offset, value)


def duplicate(history: History) -> Iterator[Violation]:
    """No value is stored twice: retries of idempotent producers are recognised, plain ones are not retried."""
    for partition, replicas in sorted(history.final.items()):
        for node in _replicas(replicas):
            records = replicas[node]
            for value, count in Counter(value for _, value in records).items():
                if count > 1:
                    at = [offset for offset, other in records if other == value]
                    yield Violation(
                        "duplicate", f"{value!r} lies {count} times in {partition} of node {node}: {at}", 0.0
                    )


def inconsistent_offsets(history: History) -> Iterator[Violation]:
    """One offset has one value, whoever looks, whenever; an acknowledgement names the offset that readers see."""
    seen: dict[Partition, dict[int, tuple[Value, str]]] = {}
    for partition, offset, value, who, time in _sightings(history):
        known = seen.setdefault(partition, {}).setdefault(offset, (value, who))
        if known[0] != value:
            text = f"{partition}@{offset} is {known[0]!r} for {known[1]} and {value!r} for {who}"
            yield Violation("inconsistent-offsets", text, time)


def aborted_read(history: History) -> Iterator[Violation]:
    """Nothing is stored, or read, that was never sent there, or whose sender was told that it failed for good.

    What consumers made of messages is judged by ``exactly_once``."""
    yield from aborted_transaction_read(history)
    sent = {value: send for send in history.sends for value in send.values}
    made: set[Value] = {value for result in history.results for value in result.values}
    made.update(value for transaction in history.transactions for _, value in transaction.messages)
    for partition, stored in _stored(history).items():
        for value, offset in stored.items():
            if value in made:
                continue
            yield from _unsent(sent.get(value), partition, offset, value, "the final drain")
    for read in history.reads:
        for offset, value in read.records:
            if value in made:
                continue
            yield from _unsent(sent.get(value), read.partition, offset, value, read.reader)


def _unsent(send: Send | None, partition: Partition, offset: int, value: Value, who: str) -> Iterator[Violation]:
    if send is None or send.partition != partition:
        yield Violation("aborted-read", f"{who} has {value!r} at {partition}@{offset}, which nobody sent there", 0.0)
    elif send.status == FAILED:
        yield Violation("aborted-read", f"{send}: told as failed, and {who} has it at {offset}", send.ended)


def nonmonotonic_send(history: History) -> Iterator[Violation]:
    """What one producer sent to a partition, in order, is stored in that order."""
    stored = _stored(history)
    last: dict[tuple[str, Partition], tuple[int, int]] = {}
    for send in sorted((s for s in history.sends if s.ordered), key=lambda s: (s.producer, s.partition, s.sequence)):
        for index, value in enumerate(send.values):
            offset = stored.get(send.partition, {}).get(value)
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
    """Of an idempotent producer nothing is stored behind something that is missing, unless that was given up, or
    everything before it as well because the partition begins later. In compacted partitions nobody can tell."""
    stored = {p: there for p, there in _stored(history).items() if p not in history.compacted}
    missing: dict[tuple[str, Partition], int] = {}
    begun: set[tuple[str, Partition]] = set()
    sends = (send for send in history.sends if send.ordered and send.status != FAILED)
    for send in sorted(sends, key=lambda s: (s.producer, s.partition, s.sequence)):
        if send.partition not in stored:
            continue
        key = (send.producer, send.partition)
        for index, value in enumerate(send.values):
            if value not in stored[send.partition]:
                if key in begun or not history.starts.get(send.partition):
                    missing.setdefault(key, send.sequence + index)
                continue
            begun.add(key)
            if key in missing:
                text = f"{send.producer} {send.partition}: #{send.sequence + index} is stored, #{missing[key]} is not"
                yield Violation("send-gap", text, send.ended)


def poll_skip(history: History) -> Iterator[Violation]:
    """A reader gets every offset from its position on, without a hole; where there may be holes, everything that is in
    the final drain."""
    holes = history.compacted | history.sparse if history.dense else set(history.partitions())
    held = {p: sorted(stored.values()) for p, stored in _stored(history).items() if p in holes}
    for read in history.reads:
        expected = read.position
        for offset, _ in read.records:
            between = read.partition not in holes or _any_between(held.get(read.partition, []), expected, offset)
            if offset > expected and between:
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
    facts: dict[Partition, list[tuple[float, int, Send | Bound]]] = {}
    for send in history.sends:
        if send.status == OK and send.offset >= 0:
            facts.setdefault(send.partition, []).append((send.ended, send.offset + len(send.values), send))
    for bound in history.bounds:
        facts.setdefault(bound.partition, []).append((bound.ended, bound.end, bound))
    furthest = {partition: _furthest(known) for partition, known in facts.items()}
    for bound in history.bounds:
        times, known = furthest[bound.partition]
        at = bisect_left(times, bound.invoked)  # what was known before the question
        if at and bound.end < known[at - 1][0]:
            fact = known[at - 1][1]
            text = str(fact) if isinstance(fact, Send) else f"{fact.reader} was told {fact.end}"
            yield Violation("stale-end", f"{bound.reader} was told {bound.end} after {text}", bound.ended)


def _furthest(facts: list[tuple[float, int, Send | Bound]]) -> tuple[list[float], list[tuple[int, Send | Bound]]]:
    """The times, ascending, and for each the furthest end known by then, with who knew it."""
    facts.sort(key=lambda fact: fact[0])
    times: list[float] = []
    known: list[tuple[int, Send | Bound]] = []
    for time, end, fact in facts:
        times.append(time)
        known.append((end, fact) if not known or end > known[-1][0] else known[-1])
    return times, known


def linearizability(history: History) -> Iterator[Violation]:
    """For each small register there is one order of its operations that explains every answer, in real time."""
    for name, outcome in judge_registers(history.calls):
        if outcome.broken:
            yield Violation("linearizability", f"{name}: {outcome.broken}", outcome.time)


def write_gap(history: History) -> Iterator[Violation]:
    """No publish waits longer for its acknowledgement than was promised."""
    limit_s = history.limits.write_gap_s
    if limit_s is not None:
        for partition, gap in partition_gaps(history).items():
            if gap.seconds > limit_s and gap.send is not None:
                text = f"{partition}: {gap.send} waited {gap.seconds * 1000:.0f} ms, {limit_s * 1000:.0f} were promised"
                yield Violation("write-gap", text, gap.send.due)
    if any(fault.gap_max_s is not None for fault in history.faults):
        for fault, seconds, where in fault_gaps(history):
            if fault.gap_max_s is not None and seconds > fault.gap_max_s:
                told = f"{seconds * 1000:.0f} ms, {fault.gap_max_s * 1000:.0f} were promised"
                text = f"{where}: around {fault.kind} of {fault.target} a publish waited {told}"
                yield Violation("write-gap", text, fault.began)


def stuck(history: History) -> Iterator[Violation]:
    """After healing every operation ends, within the time that was promised, and every replica serves the same."""
    for text in history.unfinished:
        yield Violation("stuck", text, 0.0)
    settle_s = history.limits.settle_s
    for send in history.sends:
        if send.status == OPEN:
            yield Violation("stuck", f"{send} has no outcome", send.invoked)
        elif settle_s is not None and history.healed != NEVER:
            waited = send.ended - max(send.invoked, history.healed)
            if waited > settle_s:
                yield Violation("stuck", f"{send} ended {waited:.1f} s after all was healed", send.invoked)
    for partition, replicas in sorted(history.final.items()):
        nodes = _replicas(replicas)
        for node in nodes[1:]:
            if replicas[node] != replicas[nodes[0]]:
                counts = f"{len(replicas[nodes[0]])} and {len(replicas[node])} records"
                yield Violation("stuck", f"{partition} differs on nodes {nodes[0]} and {node}: {counts}", 0.0)


CHECKS: dict[str, Check] = {
    "lost-write": lost_write,
    "lost-key": lost_key,
    "duplicate": duplicate,
    "inconsistent-offsets": inconsistent_offsets,
    "aborted-read": aborted_read,
    "torn-transaction": torn_transaction,
    "precommitted-read": precommitted_read,
    "nonmonotonic-send": nonmonotonic_send,
    "send-gap": send_gap,
    "poll-skip": poll_skip,
    "nonmonotonic-poll": nonmonotonic_poll,
    "stale-end": stale_end,
    "key-order": key_order,
    "unhandled": unhandled,
    "handled-twice": handled_twice,
    "exactly-once": exactly_once,
    "linearizability": linearizability,
    "write-gap": write_gap,
    "stuck": stuck,
}


def _stored(history: History) -> dict[Partition, dict[Value, int]]:
    """Per drained partition: value to offset, from the first replica (``stuck`` says whether they are equal)."""
    out: dict[Partition, dict[Value, int]] = {}
    for partition, replicas in sorted(history.final.items()):
        records = replicas[_replicas(replicas)[0]] if replicas else []
        stored: dict[Value, int] = {}
        for offset, value in records:
            stored.setdefault(value, offset)
        out[partition] = stored
    return out


def _replicas(replicas: Mapping[Replica, object]) -> list[Replica]:
    return sorted(replicas, key=str)


def _sightings(history: History) -> Iterator[tuple[Partition, int, Value, str, float]]:
    """Every time that somebody saw, or was told, which value lies at an offset: with who it was and when."""
    for send in history.sends:
        if send.status == OK and send.offset >= 0:
            who = f"writer {send.producer}"
            for index, value in enumerate(send.values):
                yield send.partition, send.offset + index, value, who, send.ended
    for read in history.reads:
        who = f"reader {read.reader}"
        for offset, value in read.records:
            yield read.partition, offset, value, who, read.time
    for partition, replicas in sorted(history.final.items()):
        for node in _replicas(replicas):
            who = f"the final drain of node {node}"
            for offset, value in replicas[node]:
                yield partition, offset, value, who, 0.0


def _any_between(offsets: Sequence[int], first: int, end: int) -> bool:
    """Whether one of the sorted offsets lies in first to end - 1."""
    at = bisect_left(offsets, first)
    return at < len(offsets) and offsets[at] < end
