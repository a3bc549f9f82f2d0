"""What a mutant is: the code broken on purpose against one rule, while it is in force.

A mutant replaces methods of the real code. ``names`` are the checks that may report it; a mutant that nothing reports
any more means that the simulator has gone blind, or that the code has a second guard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import ceil, log
from typing import Any

from corgi.sim.run import Options

Change = Callable[[], "tuple[object, str, Any]"]
PLAIN = Options(groups=False, transactions=False)
MISS = 1e-6  # chance that a mutant goes unnoticed


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is broken, by which changes, how to run it, which checks report it, and in which share of the seeds."""

    rule: str
    changes: tuple[Change, ...]
    names: tuple[str, ...]
    rate: float = 0.8  # measured over 60 seeds
    options: Options = PLAIN

    @property
    def seeds(self) -> int:
        """So many that one of them reports it, but for a chance of one in a million, even at half the rate."""
        return ceil(log(MISS) / log(1 - self.rate / 2))

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The code is broken inside, and whole again afterwards."""
        with ExitStack() as stack:
            for change in self.changes:
                owner, name, replacement = change()
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, replacement)
            yield
