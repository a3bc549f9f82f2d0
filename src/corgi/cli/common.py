"""What the commands that talk to a cluster share: which cluster, and how to reach it."""

from __future__ import annotations

import os
import signal
import tomllib
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from corgi.base.errors import CorgiError
from corgi.cli.exits import TerminatedError
from corgi.server.address import LOOPBACK, NATIVE_PORT, parse_address

if TYPE_CHECKING:
    from corgi.client.corgi import Connecting

T = TypeVar("T")
CONNECT_S = 3.0
CLUSTER_VARIABLE = "CORGI_CLUSTER"
CLUSTERS_VARIABLE = "CORGI_CLUSTERS"
DEFAULT_CLUSTER = ",".join(f"{LOOPBACK}:{NATIVE_PORT + node}" for node in range(3))  # one may be down

ClusterOption = Annotated[
    str | None,
    Parameter(
        name=("--cluster", "-c"),
        show_default=False,
        help=f"HOST:PORT,… or a name in clusters.toml; by default {CLUSTER_VARIABLE}, or that of `corgi dev`.",
    ),
]


def addresses_of(cluster: str | None) -> str:
    """``host:port,…`` of the cluster that was meant.

    Raises CorgiError "invalid-argument" for an unknown name: it is never taken for a default or a host.
    """
    meant = cluster if cluster is not None else os.environ.get(CLUSTER_VARIABLE, DEFAULT_CLUSTER)
    if not meant.strip():
        raise CorgiError("invalid-argument", "the cluster is empty", hint="name it: --cluster HOST:PORT")
    if ":" in meant:
        return ",".join(str(parse_address(part, what="--cluster")) for part in meant.split(",") if part.strip())
    return _named(meant)


def clusters_file() -> Path:
    """Where names of clusters are kept: CORGI_CLUSTERS, or corgi/clusters.toml in the user's configuration folder."""
    if given := os.environ.get(CLUSTERS_VARIABLE):
        return Path(given)
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "corgi" / "clusters.toml"


def _named(name: str) -> str:
    path = clusters_file()
    known: dict[str, object] = {}
    if path.exists():
        try:
            known = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CorgiError("invalid-configuration", f"{path} cannot be read: {error}") from None
    addresses = known.get(name)
    if not isinstance(addresses, str):
        hint = f"known names are {', '.join(sorted(known))}" if known else f"give HOST:PORT, or name it in {path}"
        raise CorgiError("invalid-argument", f"there is no cluster named {name!r}", hint=hint)
    return ",".join(str(parse_address(part, what=f"{name} in {path}")) for part in addresses.split(","))


def connected(cluster: str | None, **options: Any) -> Connecting:
    """A connection to the cluster that was meant: ``async with connected(cluster) as mq``."""
    from corgi.client.corgi import connect

    return connect(addresses_of(cluster), connect_timeout=CONNECT_S, **options)


def run(work: Coroutine[Any, Any, T], *, until_terminated: bool = False) -> T:
    """Run a command's coroutine to its end, on the fast event loop.

    ``until_terminated``: SIGTERM cancels it, and TerminatedError is raised when it has ended in good order.
    """
    import asyncio

    import uvloop

    terminated = False

    async def terminable() -> T:
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(terminable() if until_terminated else work)
        except asyncio.CancelledError:
            if terminated:
                raise TerminatedError from None
            raise
