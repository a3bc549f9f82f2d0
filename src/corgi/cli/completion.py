"""``corgi completion``: what a shell needs to complete commands and options."""

from __future__ import annotations

from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a completion script.

    Example, for bash: corgi completion bash > ~/.local/share/bash-completion/completions/corgi

    Parameters
    ----------
    shell
        The shell that is to read the script.
    """
    from corgi.cli.main import build

    print(build("completion").generate_completion(shell=shell))
