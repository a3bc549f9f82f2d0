"""Lines to publish: where they come from, and which part of a line is its key. Bytes all the way: nothing is
decoded.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from corgi.base.errors import CorgiError

Record = tuple[bytes | None, bytes]  # key, value
KeyOf = Callable[[bytes], Record]
GZIP_MAGIC = b"\x1f\x8b"


def read_lines(path: str) -> Iterator[bytes]:
    """The lines of a file (``-``: stdin; gzip is recognised), without their ends; empty lines are left out.

    Raises CorgiError "invalid-argument" when the file cannot be read.
    """
    try:
        with _opened(path) as stream:
            for line in stream:
                if bare := line.rstrip(b"\r\n"):
                    yield bare
    except (OSError, EOFError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CorgiError(
            "invalid-argument", f"the file {path!r} cannot be read: {why}", hint="check the path"
        ) from None


def keyed(lines: Iterator[bytes], *, key: str | None, column: str | None, separator: str | None) -> Iterator[Record]:
    """(key, value) of each line.

    ``key``: the same for all. ``column``: a number (from 1), or a name in the first line, which is then a header and
    not published; columns end at ``separator`` (default a comma; quotes count as in CSV), and the value is the whole
    line. ``separator`` alone: the key stands before its first occurrence, the value behind.
    Raises CorgiError "invalid-argument" that names the line.
    """
    if key is not None and (column is not None or separator is not None):
        raise CorgiError("invalid-argument", "--key excludes --key-column and --separator", hint="choose one")
    if separator == "":
        raise CorgiError("invalid-argument", "--separator must not be empty", hint="for a tab: --separator $'\\t'")
    if column is not None:
        return _by_column(lines, column, separator or ",")
    if separator is not None:
        return _by_separator(lines, separator.encode())
    fixed = key.encode() if key is not None else None
    return ((fixed, line) for line in lines)


def _opened(path: str) -> BinaryIO:
    if path == "-":
        return sys.stdin.buffer
    with Path(path).open("rb") as stream:
        compressed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return cast("BinaryIO", gzip.open(path)) if compressed else Path(path).open("rb")


def _by_separator(lines: Iterator[bytes], separator: bytes) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        key, found, value = line.partition(separator)
        if not found:
            raise _line_error(number, f"has no separator {separator.decode()!r}")
        yield key, value


def _by_column(lines: Iterator[bytes], column: str, separator: str) -> Iterator[Record]:
    if len(separator) != 1:
        raise CorgiError(
            "invalid-argument", f"--separator {separator!r}: columns end at one character", hint="choose one"
        )
    number = 1
    if column.isascii() and column.isdigit():
        index = int(column) - 1
    else:
        header = _columns(next(lines, b""), separator)
        if column not in header:
            raise CorgiError(
                "invalid-argument",
                f"--key-column {column!r} is not in the first line",
                hint="its columns are: " + ", ".join(header),
            )
        index = header.index(column)
        number = 2
    if index < 0:
        raise CorgiError("invalid-argument", "--key-column counts from 1", hint="or give the name in the first line")
    for at, line in enumerate(lines, start=number):
        cells = _columns(line, separator)
        if index >= len(cells):
            raise _line_error(at, f"has {len(cells)} columns, the key would be column {index + 1}")
        yield cells[index].encode("utf-8", "surrogateescape"), line


def _columns(line: bytes, separator: str) -> list[str]:
    text = line.decode("utf-8", "surrogateescape")
    if '"' not in text:
        return text.split(separator)
    return next(csv.reader([text], delimiter=separator), [])


def _line_error(number: int, what: str) -> CorgiError:
    return CorgiError("invalid-argument", f"line {number} {what}", hint="nothing from this line on was published")
