"""Is there one order of a register's operations that explains every answer, and keeps to real time?

Searches as Wing and Gong do ("Testing and Verifying Concurrent Objects", 1993) with the memory of Lowe ("Testing for
linearizability", 2017), from event to event: what may be true after an event is a set of configurations, each a state
and what has been invoked and not yet taken effect. At an answer only those stay in which the answered operation has
taken effect. Operations without an answer may take effect at any later time, or never; equal ones are merely counted.
The search is bounded and says so when it gives up: a register is then undecided, never clean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from corgi.history.model import FAILED, OK, REFUSED, Call, State

CONFIGURATIONS_MAX = 200_000  # at one time, of one register: some 100 MB
STEPS_MAX = 1_000_000  # of one register, over all: some 5 s

Doubt: TypeAlias = tuple[str, State, State]  # action, old, new of an operation whose outcome is unknown


class Configuration(NamedTuple):
    """One way in which things may stand."""

    state: State
    waiting: frozenset[int]  # operations with an answer to come that have not taken effect
    doubts: tuple[int, ...]  # per kind of doubtful operation: how many may yet take effect


class Outcome(NamedTuple):
    """``broken``: the answer that no order explains, with what was under way. ``undecided``: the search gave up."""

    broken: str = ""
    time: float = 0.0
    undecided: bool = False


def judge_registers(
    calls: Iterable[Call], configurations_max: int = CONFIGURATIONS_MAX
) -> Iterator[tuple[str, Outcome]]:
    """Each register by name with its outcome. Every register begins as None."""
    by_name: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_name[call.register].append(call)
    for name, of_one in sorted(by_name.items()):
        yield name, judge_register(of_one, configurations_max)


def judge_register(calls: Iterable[Call], configurations_max: int = CONFIGURATIONS_MAX) -> Outcome:
    """The calls of one register, in any order; it begins as None."""
    known = [call for call in calls if call.status != FAILED]
    search = _Search(known, configurations_max)
    events: list[tuple[float, int, int]] = []
    for number, call in enumerate(known):
        events.append((call.invoked, 0, number))
        if call.status in (OK, REFUSED):
            events.append((call.ended, 1, number))
    for time, is_answer, number in sorted(events):
        if not is_answer:
            search.invoked(number)
        elif not search.answered(number):
            if search.gave_up:
                return Outcome(undecided=True)
            return Outcome(search.explain(number), time)
    return Outcome()


class _Search:
    def __init__(self, calls: list[Call], configurations_max: int) -> None:
        self._calls = calls
        self._configurations_max = configurations_max
        kinds = sorted({_doubt(call) for call in calls if _in_doubt(call)}, key=repr)
        self._kinds = {kind: index for index, kind in enumerate(kinds)}
        self._doubts = kinds
        self._before: set[Configuration] = set()
        self._steps_left = STEPS_MAX
        self._now = {Configuration(None, frozenset(), (0,) * len(kinds))}
        self.gave_up = False

    def invoked(self, number: int) -> None:
        call = self._calls[number]
        self._steps_left -= len(self._now)
        if not _in_doubt(call):
            self._now = {c._replace(waiting=c.waiting | {number}) for c in self._now}
        elif call.action != "read":  # an unanswered question changes nothing
            kind = self._kinds[_doubt(call)]
            self._now = {c._replace(doubts=_count(c.doubts, kind, 1)) for c in self._now}

    def answered(self, number: int) -> bool:
        """Whether some configuration allows the answer."""
        self._before = self._now
        done: set[Configuration] = set()
        seen = set(self._now)
        frontier = list(self._now)
        while frontier:
            configuration = frontier.pop()
            if number not in configuration.waiting:
                done.add(configuration)
                continue
            for following in self._steps(configuration):
                self._steps_left -= 1
                if following not in seen:
                    seen.add(following)
                    frontier.append(following)
            self._steps_left -= 1
            if len(seen) > self._configurations_max or self._steps_left < 0:
                self.gave_up = True
                return False
        self._now = done
        return bool(done)

    def explain(self, number: int) -> str:
        call = self._calls[number]
        states = sorted({repr(c.state) for c in self._before})
        beside = sorted({other for c in self._before for other in c.waiting if other != number})
        text = f"{call}: the register could only be {' or '.join(states)}"
        return text + "".join(f"; beside it {self._calls[other]}" for other in beside[:4])

    def _steps(self, configuration: Configuration) -> Iterator[Configuration]:
        """What may take effect next."""
        state, waiting, doubts = configuration
        for number in waiting:
            call = self._calls[number]
            for after in _effect(call.action, call.old, call.new, state, refused=call.status == REFUSED):
                yield Configuration(after, waiting - {number}, doubts)
        for kind, count in enumerate(doubts):
            if count:
                action, old, new = self._doubts[kind]
                for after in _effect(action, old, new, state, refused=False):
                    if after != state:
                        yield Configuration(after, waiting, _count(doubts, kind, -1))


def _effect(action: str, old: State, new: State, state: State, *, refused: bool) -> Iterator[State]:
    """The state after the operation, if it can take effect in ``state``."""
    if refused:
        if state != old:
            yield state
    elif action == "write":
        yield new
    elif state == old:
        yield old if action == "read" else new


def _in_doubt(call: Call) -> bool:
    return call.status not in (OK, REFUSED)


def _doubt(call: Call) -> Doubt:
    return (call.action, call.old, call.new)


def _count(doubts: tuple[int, ...], kind: int, by: int) -> tuple[int, ...]:
    return (*doubts[:kind], doubts[kind] + by, *doubts[kind + 1 :])
