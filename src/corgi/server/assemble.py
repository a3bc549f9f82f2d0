"""From a configuration to a node that can be started: whose folder it is, what the node is told, how it is driven.

The simulator assembles ``broker.node.Node`` from the same options with ports of its own; nothing else differs.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Literal

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.base.limits import GROUPS_DEFAULT, MEMORY_GROUPS_DEFAULT, SEGMENT_BYTES
from corgi.broker.options import NodeOptions
from corgi.kafka.front import KafkaOptions
from corgi.runtime.disk import DiskOptions
from corgi.runtime.drive import Driver, Notes
from corgi.runtime.folder import Folder
from corgi.server.address import Address
from corgi.server.config import ServerConfig
from corgi.server.example import new_cluster_id

# What an operator gives up, so that a node goes on: votes behind damage of its log, which nobody else can know, and
# with them what memory groups may have forgotten; or the latter alone.
Loss = Literal["votes", "memory"]


class Mode(Enum):
    """How a folder becomes a node's."""

    CONTINUE = "continue"  # it is one already
    BOOTSTRAP = "bootstrap"  # once, for a new cluster
    REJOIN = "rejoin"  # in the place of a lost disk


def open_folder(config: ServerConfig, mode: Mode, segment_bytes: int = SEGMENT_BYTES) -> Folder:
    """The node's folder, locked, with this start counted. Raises CorgiError as ``Folder`` does.

    A cluster of several nodes is never given an id by chance: all of them must name the same one.
    """
    path, node = Path(config.data), NodeId(config.node)
    if mode is Mode.CONTINUE:
        cluster = bytes.fromhex(config.cluster_id) if config.cluster_id else None
        folder = Folder.open(path, node, cluster, alone=len(config.everyone) == 1)
        fixed = {
            "groups": (config.groups, folder.groups),
            "memory_groups": (config.memory_groups, folder.memory_groups),
        }
        for key, (wanted, present) in fixed.items():
            if wanted not in (None, present):
                folder.close()
                raise CorgiError(
                    "invalid-configuration",
                    f"{key} = {wanted}: the cluster has {present} since its bootstrap",
                    hint=f"set {key} = {present}, or leave the key out",
                )
        return folder
    create = Folder.bootstrap if mode is Mode.BOOTSTRAP else Folder.rejoin
    cluster, groups = bytes.fromhex(_cluster_id(config, mode)), config.groups or GROUPS_DEFAULT
    memory_groups = MEMORY_GROUPS_DEFAULT if config.memory_groups is None else config.memory_groups
    return create(path, cluster, node, groups, memory_groups=memory_groups, segment_bytes=segment_bytes)


def assemble(
    config: ServerConfig,
    folder: Folder,
    *,
    software: str,
    disk: DiskOptions | None = None,
    accept_loss: Loss | None = None,
) -> Driver:
    """The node of an open folder, ready to start."""
    everyone = config.everyone
    options = NodeOptions(
        node=folder.node,
        cluster=folder.cluster,
        incarnation=folder.incarnation,
        boot=folder.boot,
        members=tuple(NodeId(member.node) for member in everyone),
        groups=folder.groups,
        memory_groups=folder.memory_groups,
        suspicion_s=config.suspicion_ms / 1000,
        recovering=folder.recovering,
        memory_lost=folder.memory_lost,
        addresses={NodeId(member.node): member.client_address for member in everyone},
        labels={NodeId(member.node): member.label for member in everyone},
        tail_bytes_max=config.tail_bytes,
        scrub_bytes_s=config.scrub_bytes_per_s,
        snapshot_segments=config.snapshot_segments,
        rewrite_bytes_per_s=config.rewrite_bytes_per_s,
        compaction_bytes_per_s=config.compaction_bytes_per_s,
        compaction_bytes_min=config.compaction_min_bytes,
        compaction_keys_bytes_max=config.compaction_keys_bytes,
        accept_lost_votes=accept_loss == "votes",
        accept_lost_memory=accept_loss is not None,
        software=software,
    )
    listen = config.listen_address
    return Driver(
        options,
        folder.path,
        host=listen.host,
        port=listen.port,
        disk=disk,
        recovered=folder.mark_recovered,
        notes=Notes.of(folder),
        kafka=KafkaOptions(
            {
                name: {NodeId(node): address for node, address in told.items()}
                for name, told in config.kafka_advertised.items()
            },
            config.kafka_create_topics,
            config.kafka_partitions,
            config.security,
        ),
        kafka_listen=config.kafka_listeners,
    )


def peer_addresses(config: ServerConfig) -> dict[NodeId, Address]:
    """Where the members reach each other."""
    return {NodeId(member.node): member.peer_address for member in config.everyone}


def _cluster_id(config: ServerConfig, mode: Mode) -> str:
    if config.cluster_id:
        return config.cluster_id
    if mode is Mode.BOOTSTRAP and len(config.everyone) == 1:
        return new_cluster_id()
    raise CorgiError(
        "invalid-configuration",
        f"--{mode.value} needs the cluster's id",
        hint=f'set cluster_id = "{new_cluster_id()}" (or 32 other random hex digits) on all nodes'
        if mode is Mode.BOOTSTRAP
        else "it is in node.json of the other nodes",
    )
