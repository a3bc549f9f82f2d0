"""Words for the person who runs a command, on stderr. Imports nearly nothing, so that all may import it."""

from __future__ import annotations

import sys

from corgi.base.errors import CorgiError


def say(text: str) -> None:
    """One or more lines on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


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
