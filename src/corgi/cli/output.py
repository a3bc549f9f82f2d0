"""What a command prints: data on stdout, as a table or as JSON.

Colour turns itself off when nobody watches. rich is imported late, so that scripts that ask for JSON do not
pay for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from corgi.cli.words import printable

if TYPE_CHECKING:
    from rich.console import Console

Form = Literal["table", "json"]
OutputOption = Annotated[Form, Parameter(name=("--output", "-o"), help="table for people, json for programs.")]

WIDTH_WHEN_PIPED = 200  # columns: nothing is cut because the output is not a terminal


def print_json(document: object) -> None:
    """One JSON document on one line of stdout, flushed, so that a reader of a pipe sees it at once."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """A table on stdout. A column whose name begins with ">" is aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console = stdout_console()
    if title:
        console.print(Text(title, style="bold"))
    console.print(table)


def stdout_console() -> Console:
    """For data."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH_WHEN_PIPED, highlight=False)


def stderr_console() -> Console:
    """For words and progress."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
