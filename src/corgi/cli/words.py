"""Words for the person who runs a command, on stderr. Imports nearly nothing, so that all may import it."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from corgi.base.errors import CorgiError


def say(text: str) -> None:
    """One or more lines on stderr; nobody hears them where that cannot be written."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        let_go(sys.stderr)


def complain(error: CorgiError) -> None:
    """``error: what [code]`` and ``hint: what to do``."""
    say(f"error: {printable(error.message)} [{error.code}]")
    if error.hint:
        say(f"hint: {printable(error.hint)}")


def printable(text: str) -> str:
    """Text from elsewhere without control characters, which could rewrite a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def let_go(stream: TextIO) -> None:
    """It cannot be written any more; keep the interpreter from complaining when it flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
