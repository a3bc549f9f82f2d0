"""The numbers of a running node, as samples for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from corgi.broker.status import memory_gauges
from corgi.runtime.drive import Driver
from corgi.server.metrics import Sample


def samples(driver: Driver) -> Iterator[Sample]:
    """One consistent moment, read on the node's event loop."""
    yield from _node(driver)
    yield from _groups(driver)
    yield from _damage(driver)
    yield from _disk(driver)
    for name, value in memory_gauges(driver.node).items():
        yield Sample(name, value)
    for name, value in driver.node.snapshots.gauges().items():
        yield Sample(name.removesuffix("_s") + "_seconds" if name.endswith("_s") else name, value)
    for peer, connected, silent_s, offset_ms in driver.node.peer_status():
        label = (("peer", str(peer)),)
        yield Sample("peer_connected", float(connected), label)
        yield Sample("peer_silent_seconds", silent_s, label)
        yield Sample("peer_clock_offset_seconds", offset_ms / 1000, label)


def _node(driver: Driver) -> Iterator[Sample]:
    statistics = driver.statistics()
    yield Sample("voting", float(driver.node.identity.voting and driver.node.room.any))
    yield Sample("loop_turns", statistics.turns, counter=True)
    yield Sample("loop_lag_seconds", statistics.lag_s)
    yield Sample("loop_lag_max_seconds", statistics.lag_max_s)
    yield Sample("client_connections", statistics.clients.clients)
    yield Sample("client_output_bytes", statistics.clients.output_bytes)
    yield Sample("client_connections_refused", statistics.clients.refused, counter=True)
    yield Sample("client_connections_cut_off", statistics.clients.cut_off, counter=True)
    for listener, kafka in statistics.kafka:
        label = (("listener", listener),)
        yield Sample("kafka_connections", kafka.clients, label)
        yield Sample("kafka_output_bytes", kafka.output_bytes, label)
        yield Sample("kafka_connections_accepted", kafka.accepted, label, counter=True)
        yield Sample("kafka_connections_refused", kafka.refused, label, counter=True)
        yield Sample("kafka_connections_cut_off", kafka.cut_off, label, counter=True)
    for name, value in sorted(driver.node.counters.items()):
        yield Sample("events", value, (("name", name),), counter=True)


def _groups(driver: Driver) -> Iterator[Sample]:
    for group in driver.node.groups:
        replica, label = group.replica, (("group", str(group.id)),)
        yield Sample("group_leading", float(replica.leading), label)
        yield Sample("group_chosen_slot", replica.prefix, label)
        yield Sample("group_open_slots", replica.open_slots, label)
        yield Sample("group_leadership_changes", replica.leadership_changes, label, counter=True)
        yield Sample("group_pending_commands", len(group.proposals), label)


def _damage(driver: Driver) -> Iterator[Sample]:
    node = driver.node
    yield Sample("values_missing", node.repairs.wanted)
    yield Sample("values_lost", len(node.repairs.lost))
    yield Sample("scrub_segment", node.scrubber.segment)
    passed_at = node.scrubber.passed_at
    yield Sample("scrub_pass_age_seconds", -1.0 if passed_at is None else node.clock.now() - passed_at)


def _disk(driver: Driver) -> Iterator[Sample]:
    disk = driver.disk.statistics()
    yield Sample("log_writes", disk.writes, counter=True)
    yield Sample("log_bytes", disk.bytes, counter=True)
    yield Sample("log_syncs", disk.syncs, counter=True)
    yield Sample("log_pending_bytes", disk.pending_bytes)
    yield Sample("log_full", float(disk.full))
    yield Sample("log_unsynced_seconds", driver.disk.unsynced_age())
    for quantile, value in (("0.5", disk.sync_p50_s), ("0.99", disk.sync_p99_s), ("1", disk.sync_max_s)):
        yield Sample("log_sync_seconds", value, (("quantile", quantile),))
    for quantile, value in (("0.5", disk.release_p50_s), ("0.99", disk.release_p99_s)):
        yield Sample("log_release_seconds", value, (("quantile", quantile),))
