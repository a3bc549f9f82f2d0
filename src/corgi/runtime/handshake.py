"""Who may be whose peer: what a node says of itself, and which introductions it refuses. Decides, and does nothing."""

from __future__ import annotations

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.broker.options import NodeOptions
from corgi.paxos.messages import PEER_VERSION, PeerHello
from corgi.wire.session import common_version

DATA = "data"
BEAT = "beat"
PURPOSES = (DATA, BEAT)
PEER_VERSION_MIN = 1


def introduction(options: NodeOptions, purpose: str) -> PeerHello:
    """The first frame of this node on a connection for ``purpose``."""
    return PeerHello(
        PEER_VERSION_MIN,
        PEER_VERSION,
        options.cluster,
        options.node,
        options.incarnation,
        options.boot,
        purpose,
        options.groups,
        options.memory_groups,
    )


def check_introduction(
    options: NodeOptions, hello: PeerHello, *, expected: NodeId | None = None, purpose: str | None = None
) -> int:
    """The version to speak with the node that sent ``hello``; ``expected`` and ``purpose`` when this node dialled.

    Raises CorgiError "unsupported-version", "wrong-cluster", or "invalid-configuration" for a node that is not a
    member, is not the one expected, is this node itself, or has another number of groups.
    """
    version = common_version((PEER_VERSION_MIN, PEER_VERSION), (hello.version_min, hello.version_max))
    if hello.cluster != options.cluster:
        raise CorgiError(
            "wrong-cluster",
            f"node {options.node} belongs to cluster {options.cluster.hex()}, not to {hello.cluster.hex()}",
        )
    if hello.node == options.node:
        raise _misconfigured(f"node {options.node} has reached itself, or a second node has its id")
    if hello.node not in options.members:
        raise _misconfigured(f"node {hello.node} is not a member that node {options.node} knows")
    if expected is not None and hello.node != expected:
        raise _misconfigured(f"the address of node {expected} is answered by node {hello.node}")
    if hello.groups != options.groups:
        raise _misconfigured(f"node {options.node} has {options.groups} groups, node {hello.node} has {hello.groups}")
    if hello.memory_groups != options.memory_groups:
        here, there = options.memory_groups, hello.memory_groups
        raise CorgiError(
            "invalid-configuration",
            f"node {options.node} has {here} memory groups, node {hello.node} has {there}",
            hint="their number is fixed when a folder is made: make the wrong one anew, in an empty folder with "
            "--rejoin, and with memory_groups as the others have it",
        )
    if hello.purpose not in PURPOSES or (purpose is not None and hello.purpose != purpose):
        raise CorgiError("malformed-frame", f"a connection for {hello.purpose[:20]!r} is not known")
    if len(hello.incarnation) != len(options.incarnation):
        raise CorgiError("malformed-frame", f"an incarnation has {len(options.incarnation)} bytes")
    return version


def _misconfigured(message: str) -> CorgiError:
    return CorgiError("invalid-configuration", message, hint="check node ids, addresses and groups of all members")
