"""``corgi server``: one node, as an operator runs it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from corgi.base.errors import CorgiError
from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json
from corgi.cli.words import say

_KEYS = Group("Configuration keys (each wins over the file and the environment)", sort_key=2)
Key = Parameter(group=_KEYS, show_default=False)


def server(
    *,
    config: Path | None = None,
    bootstrap: Annotated[bool, Parameter(negative=())] = False,
    rejoin: Annotated[bool, Parameter(negative=())] = False,
    accept_loss: Literal["votes", "memory"] | None = None,
    example_config: Annotated[bool, Parameter(negative=())] = False,
    check_config: Annotated[bool, Parameter(negative=())] = False,
    node: Annotated[int | None, Key] = None,
    data: Annotated[str | None, Key] = None,
    listen: Annotated[str | None, Key] = None,
    members: Annotated[str | None, Key] = None,
    cluster_id: Annotated[str | None, Key] = None,
    cluster_name: Annotated[str | None, Key] = None,
    groups: Annotated[int | None, Key] = None,
    memory_groups: Annotated[int | None, Key] = None,
    suspicion_ms: Annotated[int | None, Key] = None,
    stop_timeout_ms: Annotated[int | None, Key] = None,
    tail_bytes: Annotated[int | None, Key] = None,
    log_level: Annotated[str | None, Key] = None,
    log_format: Annotated[str | None, Key] = None,
    metrics_listen: Annotated[str | None, Key] = None,
    kafka_listen: Annotated[str | None, Key] = None,
    listen_without_authentication: Annotated[str | None, Key] = None,
    stop_with_stdin: Annotated[bool, Parameter(show=False, negative=())] = False,
    output: OutputOption = "table",
) -> int:
    """Run one node of a cluster until SIGTERM or Ctrl-C.

    A stopping node hands its leaderships over first; a second signal stops it
    at once. The log goes to stderr.

    Examples:

    corgi server --example-config > node-1.toml

    corgi server --config node-1.toml --bootstrap       (the first time, on
    each node)

    corgi server --config node-1.toml                   (from then on)

    corgi server --config node-1.toml --rejoin          (its disk was lost; the
    other nodes run)

    JSON, one line when the node listens: {"node", "pid", "native", "kafka",
    "cluster", "dir"}

    Parameters
    ----------
    config
        TOML file; see docs/configuration.md.
    bootstrap
        Make the node of a new cluster in an empty folder. All nodes of it need
        the same cluster id.
    rejoin
        Make a node in an empty folder that takes the place of one whose disk
        was lost.
    accept_loss
        votes: have a node that is alone in its cluster vote again although its
        log has lost records; what they held is given up. memory: have topics
        with durability memory go on although a majority of the nodes has lost
        its power, without what nobody has any more; to be told to each of these
        nodes (votes includes it).
    example_config
        Print a configuration with every key explained, and exit.
    check_config
        Check the configuration and exit.
    node
        This node's id, 1 to 65535.
    data
        The folder of its identity and log.
    listen
        HOST:PORT for clients and nodes.
    members
        All nodes: 1=HOST:PORT,2=HOST:PORT/LABEL,…
    cluster_id
        32 hex digits; needed with --bootstrap and --rejoin.
    cluster_name
        A name for people, shown in the log.
    groups
        Paxos groups of a new cluster.
    memory_groups
        More of them, for topics with durability memory; 0: no such topics.
    suspicion_ms
        Silence after which another node is suspected.
    stop_timeout_ms
        How long a stopping node waits for its leaderships to be handed over.
    tail_bytes
        Recent messages kept in memory.
    log_level
        debug, info, warning or error.
    log_format
        text or json.
    metrics_listen
        HOST:PORT for Prometheus.
    kafka_listen
        HOST:PORT for Kafka's clients.
    listen_without_authentication
        The phrase that allows a listener off the loopback.
    """
    if example_config:
        from corgi.server.example import example_config as example

        print(example(), end="")
        return Exit.OK
    flags: dict[str, Any] = {
        "node": node,
        "data": data,
        "listen": listen,
        "cluster_id": cluster_id,
        "cluster_name": cluster_name,
        "groups": groups,
        "memory_groups": memory_groups,
        "suspicion_ms": suspicion_ms,
        "stop_timeout_ms": stop_timeout_ms,
        "tail_bytes": tail_bytes,
        "log_level": log_level,
        "log_format": log_format,
        "metrics_listen": metrics_listen,
        "kafka_listen": kafka_listen,
        "listen_without_authentication": listen_without_authentication,
    }
    return _run(config, flags, members, bootstrap, rejoin, check_config, stop_with_stdin, output, accept_loss)


def _run(
    path: Path | None,
    flags: dict[str, Any],
    members: str | None,
    bootstrap: bool,
    rejoin: bool,
    check_only: bool,
    stop_with_stdin: bool,
    output: str,
    accept_loss: Literal["votes", "memory"] | None,
) -> int:
    from corgi.server.config import load, parse_members

    if bootstrap and rejoin:
        raise CorgiError(
            "invalid-argument",
            "--bootstrap and --rejoin exclude each other",
            hint="a new cluster is bootstrapped; a node that lost its disk rejoins",
        )
    flags["members"] = parse_members(members) if members is not None else None
    settings, warnings = load(path, os.environ, flags)
    for warning in warnings:
        say(f"warning: {warning}")
    if check_only:
        if output == "json":
            print_json({"ok": True, "node": settings.node})
        else:
            print(f"the configuration of node {settings.node} can be used")
        return Exit.OK
    from corgi.cli.version import corgi_version
    from corgi.server.assemble import Mode
    from corgi.server.run import run_node

    mode = Mode.BOOTSTRAP if bootstrap else Mode.REJOIN if rejoin else Mode.CONTINUE
    return run_node(
        settings,
        mode,
        software=f"corgi {corgi_version()}",
        on_ready=print_json if output == "json" else None,
        stop_with_stdin=stop_with_stdin,
        accept_loss=accept_loss,
    )
