"""Several commands that belong together: when all have their outcome, the first failure is told, or success."""

from __future__ import annotations

from collections.abc import Callable

from corgi.base.errors import BY_NUMBER, OK
from corgi.state.outcomes import Outcome

Done = Callable[[int, str], None]  # error number (0 ok), what was wrong


class Together:
    """Give ``ended`` to each of so many commands; with none, ``done`` is called at once."""

    __slots__ = ("_done", "_failure", "_left")

    def __init__(self, commands: int, done: Done) -> None:
        self._left = commands
        self._done = done
        self._failure: tuple[int, str] = (OK, "")
        if not commands:
            done(OK, "")

    def ended(self, outcome: Outcome) -> None:
        if outcome.error and not self._failure[0]:
            self._failure = (outcome.error, outcome.detail or BY_NUMBER[outcome.error].meaning)
        self._left -= 1
        if not self._left:
            self._done(*self._failure)
