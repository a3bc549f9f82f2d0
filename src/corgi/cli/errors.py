"""``corgi errors``: the dictionary of error codes."""

from __future__ import annotations

import difflib

from corgi.base.errors import BY_CODE, BY_NUMBER, CorgiError, ErrorKind
from corgi.cli.output import OutputOption, print_json, print_table


def errors(code: str = "", /, *, output: OutputOption = "table") -> None:
    """Explain an error code; without one, list them all.

    Example: corgi errors no-quorum

    JSON: {"code", "number", "retryable", "meaning", "hint"}, or a list of
    them.

    Parameters
    ----------
    code
        The code in brackets behind an error, or its number in the protocol.
    """
    if not code:
        rows = [BY_CODE[name] for name in sorted(BY_CODE)]
        if output == "json":
            print_json([row._asdict() for row in rows])
        else:
            print_table(
                ("code", "retry", "meaning"),
                [(r.code, "yes" if r.retryable else "no", r.meaning) for r in rows],
            )
        return
    row = _find(code)
    if output == "json":
        print_json(row._asdict())
    else:
        print(f"{row.code} (number {row.number})\n  {row.meaning}")
        print(f"  retry: {'may help' if row.retryable else 'does not help'}\n  hint: {row.hint}")


def _find(code: str) -> ErrorKind:
    row = BY_CODE.get(code.lower()) or (BY_NUMBER.get(int(code)) if code.isascii() and code.isdigit() else None)
    if row is None:
        near = difflib.get_close_matches(code, BY_CODE, n=1)
        hint = f"did you mean {near[0]}?" if near else "list them all: corgi errors"
        raise CorgiError("invalid-argument", f"there is no error code {code!r}", hint=hint)
    return row
