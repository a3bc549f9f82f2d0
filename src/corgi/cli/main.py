"""The ``corgi`` command: its subcommands, loaded when used, and the one place where errors become words.

No traceback ever reaches a user unless CORGI_TRACEBACK is set.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from corgi.base.errors import CorgiError
from corgi.cli.exits import INTERRUPTED, TERMINATED, Exit, TerminatedError, exit_of
from corgi.cli.words import complain, let_go, printable, say

if TYPE_CHECKING:
    from cyclopts import App

COMMANDS = {
    "dev": ("corgi.cli.dev:dev", "Run a local cluster in the foreground."),
    "server": ("corgi.cli.server:server", "Run one node."),
    "topic": ("corgi.cli.topic:app", "Create, list, describe, alter, trim and delete topics."),
    "pub": ("corgi.cli.pub:pub", "Publish lines from stdin or a file."),
    "sub": ("corgi.cli.sub:sub", "Print messages as they arrive."),
    "group": ("corgi.cli.group:app", "List, describe, reset and delete consumer groups."),
    "tx": ("corgi.cli.tx:app", "List transactions and prepared messages; settle those left behind."),
    "dlq": ("corgi.cli.dlq:app", "See and replay the messages that a consumer group gave up."),
    "user": ("corgi.cli.user:app", "Make the credentials of users of the Kafka listeners."),
    "status": ("corgi.cli.status:status", "Show nodes, groups, leaders and lag in one look."),
    "bench": ("corgi.cli.bench:app", "Measure throughput, latency, failover and memory."),
    "sim": ("corgi.cli.sim:sim", "Run whole clusters in the simulator, from seeds."),
    "chaos": ("corgi.cli.chaos:chaos", "Break a cluster of real processes, and check what its clients saw."),
    "check": ("corgi.cli.check:check", "Judge a recorded history, of Corgi or another broker."),
    "errors": ("corgi.cli.errors:errors", "Explain an error code."),
    "completion": ("corgi.cli.completion:completion", "Print a completion script for your shell."),
    "version": ("corgi.cli.version:version", "Show the version."),
}

_GROUPS = ("topic", "group", "tx", "dlq", "user", "bench")  # of commands
_COMMON = ("-o", "--output", "-c", "--cluster")
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

_ABOUT = """\
Corgi, a replicated message broker.

Usage: corgi COMMAND [OPTIONS]

First steps:
  corgi dev                                    a cluster of three nodes, in this terminal
  corgi topic create flights --partitions 8    and in another one
  echo hello | corgi pub flights
  corgi sub flights --start earliest

Commands:
{commands}

Every command has --help with examples, and --output json. Data goes to stdout, words to stderr.
The cluster is named by --cluster HOST:PORT,… or CORGI_CLUSTER; by default it is the one of `corgi dev`.
Exit codes: 0 ok, 1 failure, 2 usage, 3 unhealthy, 4 denied, 5 unreachable."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = _command_first(list(sys.argv[1:] if arguments is None else arguments))
    _open_missing_streams()
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        let_go(sys.stdout)
        return Exit.OK
    except KeyboardInterrupt as interrupt:
        return TERMINATED if isinstance(interrupt, TerminatedError) else INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: a sentence instead of a traceback
        return _traced(_told(_output_error(_first(error)), words))
    return code


def build(first: str) -> App:
    """The command line as cyclopts sees it; only the command ``first`` is loaded, with its whole help."""
    from cyclopts import App

    app = App(
        name="corgi",
        version_flags=[],
        help_format="plaintext",
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for name, (path, summary) in COMMANDS.items():
        if name == first:
            app.command(path, name=name)
        else:
            app.command(path, name=name, help=summary)
    return app


def _command_first(words: list[str]) -> list[str]:
    """What every command takes may also stand before it: it goes to the end, or before "--"."""
    early: list[str] = []
    while words and words[0].partition("=")[0] in _COMMON:
        taken = 1 if "=" in words[0] else 2
        early += words[:taken]
        words = words[taken:]
    if not words:
        return early
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], *early, *words[end:]]


def _run(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        return _print_help(sys.stdout if words else sys.stderr)
    if words[0] == "--version":
        words[0] = "version"
    if words[0].partition("=")[0] in _COMMON:
        raise CorgiError("invalid-argument", "there is no command", hint="see: corgi --help")
    if words[0] not in COMMANDS:
        raise _unknown_command(words[0])
    from cyclopts import CycloptsError

    try:
        result = build(words[0])(words)
    except CycloptsError as error:
        complain(CorgiError("invalid-argument", str(error).strip(), hint=_help_of(words)))
        return Exit.USAGE
    return result if isinstance(result, int) else Exit.OK


def _help_of(words: Sequence[str]) -> str:
    grouped = words[0] in _GROUPS and len(words) > 1 and words[1].isalpha()
    return f"see: corgi {' '.join(words[: 2 if grouped else 1])} --help"


def _unknown_command(word: str) -> CorgiError:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean: corgi {near[0]}?" if near else "see: corgi --help"
    return CorgiError("invalid-argument", f"there is no command {word!r}", hint=hint)


def _print_help(stream: TextIO) -> int:
    """Without cyclopts and rich: in 50 ms. Asked for, it is data; otherwise it is a hint."""
    commands = "\n".join(f"  {name:<11} {summary}" for name, (_, summary) in COMMANDS.items())
    stream.write(_ABOUT.format(commands=commands) + "\n")
    return Exit.OK if stream is sys.stdout else Exit.USAGE


def _first(error: Exception) -> Exception:
    """The error itself; of a group of them the first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _told(error: Exception, words: Sequence[str]) -> Exit:
    if isinstance(error, CorgiError):
        if error.code == "invalid-argument" and error.hint == error.kind.hint and words[0] in COMMANDS:
            error = CorgiError(error.code, error.message, hint=_help_of(words))
        complain(error)
        return exit_of(error)
    say(f"error: {type(error).__name__}: {printable(str(error))}")
    say("hint: this is a fault of corgi; run it again with CORGI_TRACEBACK=1 and report what it shows")
    return Exit.FAILURE


def _traced(code: Exit) -> Exit:
    if os.environ.get("CORGI_TRACEBACK"):
        import traceback

        traceback.print_exc()
    return code


def _open_missing_streams() -> None:
    """Where stdout or stderr was closed, what is written to stdout fails, and words go nowhere."""
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: SIM115 - until the end
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end


def _output_error(error: Exception) -> Exception:
    """What is written to does not take it: stdout, or a report's file (an error in opening would name the file)."""
    if isinstance(error, OSError) and error.filename is None and error.errno in _UNWRITABLE:
        let_go(sys.stdout)
        return CorgiError("output-failed", f"the output cannot be written: {error.strerror}")
    return error
