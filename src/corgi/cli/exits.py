"""How a command ends: the exit codes that scripts rely on, and which error leads to which."""

from __future__ import annotations

from enum import IntEnum

from corgi.base.errors import CorgiError


class Exit(IntEnum):
    """Documented in docs/cli.md; never renumbered."""

    OK = 0
    FAILURE = 1  # it was tried and did not work
    USAGE = 2  # the command line or the configuration makes no sense
    UNHEALTHY = 3  # the answer came, and something is not well
    DENIED = 4  # not allowed
    UNREACHABLE = 5  # no node answered


INTERRUPTED = 130  # as shells count SIGINT
TERMINATED = 143  # and SIGTERM


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came: a command that waits for it ends in good order, as with Ctrl-C."""


_EXIT_OF_CODE = {
    "invalid-argument": Exit.USAGE,
    "invalid-configuration": Exit.USAGE,
    "invalid-topic-name": Exit.USAGE,
    "no-quorum": Exit.UNHEALTHY,
    "recovering": Exit.UNHEALTHY,
    "log-damaged": Exit.UNHEALTHY,
    "unsafe-listener": Exit.DENIED,
    "producer-fenced": Exit.DENIED,
    "unreachable": Exit.UNREACHABLE,
}


def exit_of(error: CorgiError) -> Exit:
    """The exit code of a command that ended with ``error``."""
    return _EXIT_OF_CODE.get(error.code, Exit.FAILURE)
