"""The APIs that are served: one row, one module."""

from __future__ import annotations

from corgi.kafka.api import AnyApi
from corgi.kafka.apis import (
    add_offsets_to_txn,
    add_partitions_to_txn,
    alter_configs,
    alter_user_scram_credentials,
    api_versions,
    create_acls,
    create_partitions,
    create_topics,
    delete_acls,
    delete_groups,
    delete_records,
    delete_topics,
    describe_acls,
    describe_cluster,
    describe_configs,
    describe_groups,
    describe_log_dirs,
    describe_producers,
    describe_transactions,
    describe_user_scram_credentials,
    elect_leaders,
    end_txn,
    fetch,
    find_coordinator,
    heartbeat,
    incremental_alter_configs,
    init_producer_id,
    join_group,
    leave_group,
    list_groups,
    list_offsets,
    list_transactions,
    metadata,
    offset_commit,
    offset_delete,
    offset_fetch,
    offset_for_leader_epoch,
    produce,
    sasl_authenticate,
    sasl_handshake,
    sync_group,
    txn_offset_commit,
)

_MODULES = (
    produce, fetch, list_offsets, metadata, offset_for_leader_epoch,
    find_coordinator, join_group, sync_group, heartbeat, leave_group, offset_commit, offset_fetch,
    describe_groups, list_groups, delete_groups, offset_delete,
    api_versions, sasl_handshake, sasl_authenticate, init_producer_id,
    create_topics, delete_topics, create_partitions, delete_records, elect_leaders,
    describe_configs, alter_configs, incremental_alter_configs, describe_cluster, describe_log_dirs,
    describe_acls, create_acls, delete_acls, describe_user_scram_credentials, alter_user_scram_credentials,
    add_partitions_to_txn, add_offsets_to_txn, txn_offset_commit, end_txn,
    describe_producers, describe_transactions, list_transactions,
)  # fmt: skip

APIS: dict[int, AnyApi] = {module.API.key: module.API for module in _MODULES}
