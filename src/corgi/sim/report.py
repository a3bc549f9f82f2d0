"""What led to a failure, for people: the broken rule first, then only as much of the transcript as helps.

A long transcript hides what matters, so the report tells it four times, each time shorter than a screen: what befell
the cluster, what was said about the slot in question, what each node took in last, and everything just before the end.
A rule over the history is found broken only when all is over: then "the end" is the time of the operation in question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from corgi.sim.ledger import Focus
from corgi.sim.run import Result, run_seed
from corgi.sim.world import Note, line

OPERATOR = ("cluster", "faults")  # who notes what befalls the cluster
BEFALLEN_LINES = 16
SLOT_LINES = 40
NODE_LINES = 6
LAST_LINES = 24
AFTER_S = 0.005  # shown beyond the time of a broken rule
VIOLATIONS = 6


def explain(result: Result, mutant: str = "") -> str:
    """The report of a run; that of a failure says how to repeat it. Runs a failure again when it was not traced."""
    if result.ok:
        return (
            f"seed {result.seed}: ok, {result.operations} operations, {result.faults} faults, hash {result.trace_hash}"
        )
    traced = result if result.traced else run_seed(result.seed, result.options, trace=True)
    first, *others = result.violations
    parts = [f"seed {result.seed}: {first.name} at {first.time:.6f} s", f"  {first.detail}"]
    parts += [f"  also {violation.name}: {violation.detail}" for violation in others[: VIOLATIONS - 1]]
    if traced.trace_hash != result.trace_hash:
        parts.append("  the simulator itself is at fault: the same seed did something else when it was run again")
    until = first.time + AFTER_S if first.time > 0 else float("inf")
    parts += _story([note for note in traced.notes if note[0] <= until], traced.focus)
    here = "" if traced.focus.group < 0 else f" group {traced.focus.group}: "
    stood = [text for text in traced.replicas if here in text or text.endswith(": down")]
    parts += _titled("how the replicas stood at the end", stood)
    flags = result.options.flags() + (f" --mutant {mutant}" if mutant else "")
    return "\n".join([*parts, f"repeat: corgi sim --seed {result.seed}{flags} --trace"])


def _story(notes: list[Note], focus: Focus) -> Iterator[str]:
    yield from _titled("what befell the cluster", _last(BEFALLEN_LINES, (n for n in notes if n[1] in OPERATOR)))
    if focus.group >= 0:
        what = f"group {focus.group}" + (f" slot {focus.slot}" if focus.slot else "")
        about = (note for note in notes if _concerns(note, focus))
        yield from _titled(f"what was said about {what}", _last(SLOT_LINES, about))
    for name in sorted({note[1] for note in notes if note[1].startswith("node ")}):
        if not focus.node or name == f"node {focus.node}" or focus.group < 0:
            yield from _titled(f"the last of {name}", _last(NODE_LINES, (n for n in notes if n[1] == name)))
    yield from _titled("the last of all", _last(LAST_LINES, notes))


def _titled(title: str, lines: list[str]) -> list[str]:
    return [f"-- {title}", *lines] if lines else []


def _last(number: int, notes: Iterable[Note]) -> list[str]:
    return [line(note) for note in list(notes)[-number:]]


def _concerns(note: Note, focus: Focus) -> bool:
    """A message of this group that is about this slot, or about all of them."""
    what = note[2]
    if not isinstance(what, tuple):
        return False
    return any(
        getattr(part, "group", None) == focus.group
        and (not focus.slot or getattr(part, "slot", focus.slot) == focus.slot)
        for part in what
    )
