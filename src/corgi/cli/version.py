"""``corgi version``."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from corgi.cli.output import OutputOption, print_json


def version(*, output: OutputOption = "table") -> None:
    """Show the version of Corgi and of the Python that runs it.

    JSON: {"corgi": "0.1.0", "python": "3.11.7"}
    """
    corgi, python = corgi_version(), platform.python_version()
    if output == "json":
        print_json({"corgi": corgi, "python": python})
    else:
        print(f"corgi {corgi} (Python {python})")


def corgi_version() -> str:
    """The installed version; a source tree that is not installed says so."""
    try:
        return version_of("corgi-mq")
    except PackageNotFoundError:
        return "0+source"
