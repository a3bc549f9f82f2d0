"""The checks of what consumer groups did: order of keys, and what each semantic promises.

A group's checkpoint is told at the end: offset, ranges done above it, and the semantic that was promised. An input is
**passed** if the checkpoint says that it is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from corgi.history.model import (
    AT_MOST_ONCE,
    EXACTLY_ONCE,
    HANDLING_FAILED,
    NEVER,
    Checkpoint,
    Handling,
    History,
    Partition,
    Value,
    Violation,
)


def key_order(history: History) -> Iterator[Violation]:
    """In a group the messages of a key are handled one at a time, each process in log order, and none for the first
    time before an earlier one. Another process may do again what is not known to be done."""
    by_key: dict[tuple[str, Partition, str], list[Handling]] = {}
    for handling in history.handlings:
        by_key.setdefault((handling.group, handling.partition, handling.key), []).append(handling)
    for (group, partition, key), handlings in sorted(by_key.items()):
        handlings.sort(key=lambda handling: (handling.started, handling.offset))
        for before, after in pairwise(handlings):
            what = f"{group} {partition} key {key!r}: {after.process} began {after.offset}"
            if before.ended == NEVER or before.ended > after.started:
                text = f"{what} while {before.process} was at {before.offset}"
                yield Violation("key-order", text, after.started)
            elif after.offset < before.offset and after.process == before.process:
                yield Violation("key-order", f"{what} after it had done {before.offset}", after.started)
        furthest = -1
        seen: set[int] = set()
        for handling in handlings:
            if handling.offset not in seen and handling.offset < furthest:
                text = f"{group} {partition} key {key!r}: {handling.offset} was first begun after {furthest}"
                yield Violation("key-order", text, handling.started)
            seen.add(handling.offset)
            furthest = max(furthest, handling.offset)


def unhandled(history: History) -> Iterator[Violation]:
    """No checkpoint passes a message that nobody has handled to its end, unless at most once was promised."""
    finished: dict[tuple[str, Partition], set[int]] = {}
    for handling in history.handlings:
        if handling.ended != NEVER and handling.outcome != HANDLING_FAILED:
            finished.setdefault((handling.group, handling.partition), set()).add(handling.offset)
    for checkpoint in history.checkpoints:
        if checkpoint.semantics in (AT_MOST_ONCE, EXACTLY_ONCE):
            continue
        done = finished.get((checkpoint.group, checkpoint.partition), set())
        for offset, value in _passed(history, checkpoint):
            if offset not in done:
                text = f"{checkpoint} passes {value!r} at {offset}, which nobody has handled to its end"
                yield Violation("unhandled", text, 0.0)


def handled_twice(history: History) -> Iterator[Violation]:
    """Where at most once is promised, no message is handled twice."""
    told = history.checkpoints
    groups = {(one.group, one.partition) for one in told if one.semantics == AT_MOST_ONCE}
    begun: dict[tuple[str, Partition, int], Handling] = {}
    for handling in sorted(history.handlings, key=lambda handling: handling.started):
        if (handling.group, handling.partition) not in groups:
            continue
        first = begun.setdefault((handling.group, handling.partition, handling.offset), handling)
        if first is not handling:
            where = f"{handling.group} {handling.partition}@{handling.offset}"
            text = f"{where}: begun by {first.process}, then by {handling.process}"
            yield Violation("handled-twice", text, handling.started)


def exactly_once(history: History) -> Iterator[Violation]:
    """Where exactly once is promised: what is made of a message is stored once if the checkpoint passes it, and
    otherwise not at all. What a handler makes depends on nothing but the message."""
    made: dict[tuple[str, Partition], dict[int, tuple[Value, ...]]] = {}
    for result in history.results:
        first = made.setdefault((result.group, result.partition), {}).setdefault(result.offset, result.values)
        if first != result.values:
            text = f"{result.group} {result.partition}@{result.offset}: {first!r} and {result.values!r} were made of it"
            yield Violation("exactly-once", text, result.time)
    stored: Counter[Value] = Counter()
    for replicas in history.final.values():
        if replicas:
            stored.update(value for _, value in replicas[min(replicas, key=str)])
    for checkpoint in history.checkpoints:
        if checkpoint.semantics == EXACTLY_ONCE:
            yield from _once(history, checkpoint, made.get((checkpoint.group, checkpoint.partition), {}), stored)


def _once(
    history: History, checkpoint: Checkpoint, made: dict[int, tuple[Value, ...]], stored: Counter[Value]
) -> Iterator[Violation]:
    for offset, value in _passed(history, checkpoint):
        if offset not in made:
            text = f"{checkpoint} passes {value!r} at {offset}, of which nobody has made anything"
            yield Violation("exactly-once", text, 0.0)
    for offset, values in made.items():
        wanted = 1 if checkpoint.passes(offset) else 0
        for value in values if offset >= checkpoint.start else ():
            if stored[value] != wanted:
                text = f"{value!r}, made of {offset}, is stored {stored[value]} times, not {wanted}: {checkpoint}"
                yield Violation("exactly-once", text, 0.0)


def _passed(history: History, checkpoint: Checkpoint) -> Iterator[tuple[int, Value]]:
    """The stored messages that the checkpoint passes, from where the group began."""
    replicas = history.final.get(checkpoint.partition)
    if replicas:
        for offset, value in replicas[min(replicas, key=str)]:
            if offset >= checkpoint.start and checkpoint.passes(offset):
                yield offset, value
