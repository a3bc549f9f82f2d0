"""Lines to publish: where they come from, and which part of a line is its key. Bytes all the way: nothing is
decoded.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import cast

from corgi.base.errors import CorgiError
from corgi.base.limits import BATCH_BYTES_MAX

Record = tuple[bytes | None, bytes]  # key, value
KeyOf = Callable[[bytes], Record | None]
CHUNK_BYTES = 64 * 1024
GZIP_MAGIC = b"\x1f\x8b"


def read_chunks(path: str) -> Iterator[list[bytes]]:
    """The lines of a file (``-``: stdin; gzip is recognised) without their ends, as they arrive; empty ones left out.

    Raises CorgiError "invalid-argument" when the file cannot be read, "record-too-large" when a line never ends.
    """
    rest = b""
    try:
        with _opened(path) as stream:
            while chunk := stream.read1(CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                if bare := _bare(lines):
                    yield bare
                if len(rest) > BATCH_BYTES_MAX:
                    raise CorgiError("record-too-large", f"a line of {path!r} has more than {BATCH_BYTES_MAX} bytes")
    except (OSError, EOFError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CorgiError(
            "invalid-argument", f"the file {path!r} cannot be read: {why}", hint="check the path"
        ) from None
    if bare := _bare([rest]):
        yield bare


def key_reader(*, key: str | None = None, column: str | None = None, separator: str | None = None) -> KeyOf:
    """What makes (key, value) of a line, called for each line in order; None for a header, which is not published.

    ``key``: the same for all. ``column``: a number (from 1), or a name in the first line, which is then the header;
    columns end at ``separator`` (default a comma; quotes count as in CSV), and the value is the whole line.
    ``separator`` alone: the key stands before its first occurrence, the value behind.
    Raises CorgiError "invalid-argument", also when called, then naming the line.
    """
    if key is not None and (column is not None or separator is not None):
        raise CorgiError("invalid-argument", "--key excludes --key-column and --separator", hint="choose one")
    if separator == "":
        raise CorgiError("invalid-argument", "--separator must not be empty", hint="for a tab: --separator $'\\t'")
    if column is not None:
        return _ByColumn(column, separator or ",")
    if separator is not None:
        return _BySeparator(separator.encode())
    fixed = key.encode() if key is not None else None
    return lambda line: (fixed, line)


def _bare(lines: list[bytes]) -> list[bytes]:
    return [bare for line in lines if (bare := line.rstrip(b"\r"))]


def _opened(path: str) -> BufferedReader:
    if path == "-":
        return open(0, "rb", closefd=False)
    with Path(path).open("rb") as stream:
        compressed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return cast("BufferedReader", gzip.open(path)) if compressed else Path(path).open("rb")


class _BySeparator:
    def __init__(self, separator: bytes) -> None:
        self._separator = separator
        self._number = 0

    def __call__(self, line: bytes) -> Record:
        self._number += 1
        key, found, value = line.partition(self._separator)
        if not found:
            raise _line_error(self._number, f"has no separator {self._separator.decode()!r}")
        return key, value


class _ByColumn:
    def __init__(self, column: str, separator: str) -> None:
        if len(separator) != 1:
            raise CorgiError(
                "invalid-argument", f"--separator {separator!r}: columns end at one character", hint="choose one"
            )
        self._name = column
        self._separator = separator
        self._index = int(column) - 1 if column.isascii() and column.isdigit() else -1
        self._number = 0
        if column.isascii() and column.isdigit() and self._index < 0:
            raise CorgiError("invalid-argument", "--key-column counts from 1", hint="or name it as the first line does")

    def __call__(self, line: bytes) -> Record | None:
        self._number += 1
        cells = _columns(line, self._separator)
        if self._index < 0:
            self._find(cells)
            return None
        if self._index >= len(cells):
            raise _line_error(self._number, f"has {len(cells)} columns, the key would be column {self._index + 1}")
        return cells[self._index].encode("utf-8", "surrogateescape"), line

    def _find(self, header: list[str]) -> None:
        if self._name not in header:
            raise CorgiError(
                "invalid-argument",
                f"--key-column {self._name!r} is not in the first line",
                hint="its columns are: " + ", ".join(header),
            )
        self._index = header.index(self._name)


def _columns(line: bytes, separator: str) -> list[str]:
    text = line.decode("utf-8", "surrogateescape")
    if '"' not in text:
        return text.split(separator)
    return next(csv.reader([text], delimiter=separator), [])


def _line_error(number: int, what: str) -> CorgiError:
    return CorgiError("invalid-argument", f"line {number} {what}", hint="nothing from this line on was published")
