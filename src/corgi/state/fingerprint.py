"""A fingerprint of everything a group's state holds, for comparing replicas and for tests.

``Machine.digest`` tells that the same values were applied with the same outcomes; this tells that what they left
behind is the same. It costs time in proportion to the state.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from corgi.state.group_state import GroupState
from corgi.state.index import PartitionLog

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def fingerprint(state: GroupState) -> str:
    """32 hex digits, equal for equal states, in whatever order their parts came to be."""
    partitions = [_partition(log) for _, log in sorted(state.partitions.items())]
    windows = [
        (window.origin, window.settled, sorted(window.outcomes.items())) for _, window in sorted(state.windows.items())
    ]
    topics = sorted(state.topics.by_id.items()) if state.topics else []
    scalars = (
        state.group,
        state.applied,
        state.log_time_ms,
        state.epoch,
        state.leader_node,
        state.leader_ballot,
        state.closed_version,
        state.producers_expired_below,
        state.topics.end if state.topics else 0,
    )
    cursors = sorted(state.cursors.items())
    groups = sorted(state.consumer_groups.by_name.items())
    fences = sorted((*fence[:5], sorted(fence.parts), sorted(fence.staged)) for fence in state.transactions.stored())
    records = sorted(state.transaction_records.by_key.items())
    parts = (scalars, partitions, windows, topics, cursors, groups, fences, records)
    return blake2b(_encode(parts), digest_size=16).hexdigest()


def _partition(log: PartitionLog) -> tuple[object, ...]:
    producers = [
        (producer_id, producer.epoch, producer.next_sequence, producer.log_time_ms, list(producer.window))
        for producer_id, producer in sorted(log.producers.items())
    ]
    entries = [log.entry(i) for i in range(log.count)]
    facts = (log.topic, log.partition, log.start, log.end, log.epoch, log.version, log.batch_bytes_max)
    found = log.transactions
    transactions = None if found is None else (list(found.open.items()), found.aborted())
    return (*facts, log.config, producers, entries, log.cleaned, transactions)
