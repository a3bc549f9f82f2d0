"""Writes what a client does and sees, one line when it is over; what has no outcome at the end is written as open."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from corgi.history.lines import HistoryLine, Line, SendLine, encode_line
from corgi.history.model import OPEN

BUFFER_BYTES = 1 << 20


class Recorder:
    """A file of lines; a context manager."""

    def __init__(self, path: Path, *, at_once: bool = False) -> None:
        """``at_once``: a line that was written outlives the process, even if it is killed."""
        self._file = path.open("wb", buffering=0 if at_once else BUFFER_BYTES)
        self._open: dict[tuple[str, str], SendLine] = {}

    def head(self, software: str) -> None:
        """The first line of a whole history; the files of its parts have none."""
        self.write(HistoryLine(1, software))

    def write(self, line: Line) -> None:
        self._file.write(encode_line(line))

    def copy(self, part: Path) -> None:
        """Append the lines of another file, which may lack the end of its last line if its writer was killed."""
        for line in part.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                self._file.write(line)

    def began(self, send: SendLine) -> None:
        """``send`` is under way; its status is ``open``."""
        assert send.status == OPEN
        self._open[send.process, send.values[0]] = send

    def ended(self, send: SendLine) -> None:
        """The same send with its outcome."""
        del self._open[send.process, send.values[0]]
        self.write(send)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for send in self._open.values():
            self.write(send)
        self._file.close()
