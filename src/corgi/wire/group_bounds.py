"""What requests of consumer groups may say: counts and numbers in their ranges, batches against the bytes there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from corgi.base.batch import HEADER_BYTES
from corgi.base.errors import CorgiError
from corgi.wire import group_messages as g
from corgi.wire.messages import WireMessage
from corgi.wire.ranges import I64, TIMEOUT_MS_MAX, check_place, check_range, check_text

NAME_CHARS_MAX = 249
METADATA_CHARS_MAX = 4096
TOPICS_MAX = 1_000  # of one member
UNITS_MAX = 100_000  # held by one member, or asked for
ENTRIES_MAX = 1_000  # checkpoints of one Commit
RESULTS_MAX = 512  # batches of one Commit
RANGES_MAX = 1_000
SLICES_MAX = 256
SESSION_MS_MIN, SESSION_MS_MAX = 500, 3_600_000


def check_results(message: g.Commit, payload: memoryview) -> None:
    """Raises "malformed-frame" unless the results of a Commit are its payload."""
    total = 0
    for topic, partition, length in message.results:
        check_place(topic, partition)
        if length < HEADER_BYTES:
            raise CorgiError("malformed-frame", f"a batch of {length} bytes, {HEADER_BYTES} are the least")
        total += length
    if total != len(payload):
        raise CorgiError("malformed-frame", f"the batches are {total} bytes by their lengths, {len(payload)} are there")


def _heartbeat(message: g.GroupHeartbeat) -> None:
    _group(message.group)
    _name("member", message.member)
    _count("topics", len(message.topics), TOPICS_MAX)
    for text in (*message.topics, message.client):
        check_text("a name", text)
    if len(message.instance) > NAME_CHARS_MAX:
        raise CorgiError("invalid-argument", f"an instance has at most {NAME_CHARS_MAX} characters")
    check_range("epoch", message.epoch, 0, I64)
    check_range("slices", message.slices, 1, SLICES_MAX)
    check_range("session_ms", message.session_ms, SESSION_MS_MIN, SESSION_MS_MAX)
    check_range("rebalance_ms", message.rebalance_ms, 0, SESSION_MS_MAX)
    _count("units", len(message.owned or ()), UNITS_MAX)
    for topic, partition, number, epoch in message.owned or ():
        _unit(topic, partition, number)
        check_range("owner epoch", epoch, 0, I64)


def _commit(message: g.Commit) -> None:
    _group(message.group)
    if len(message.member) > NAME_CHARS_MAX:
        raise CorgiError("invalid-argument", f"a member has at most {NAME_CHARS_MAX} characters")
    check_range("timeout_ms", message.timeout_ms, 1, TIMEOUT_MS_MAX)
    if not message.entries:
        raise CorgiError("invalid-argument", "a Commit without checkpoints")
    _count("checkpoints", len(message.entries), ENTRIES_MAX)
    _count("results", len(message.results), RESULTS_MAX)
    for entry in message.entries:
        _unit(entry.topic, entry.partition, entry.slice)
        check_range("owner epoch", entry.owner_epoch, 0, I64)
        check_range("version", entry.version, 0 if message.results else -1, I64)
        check_range("offset", entry.offset, 0, I64)
        _count("ranges", len(entry.ranges), RANGES_MAX)
        below: int = entry.offset
        for first, end in entry.ranges:
            if not below < first < end <= I64:
                raise CorgiError("invalid-argument", "ranges are sorted, apart from each other and above the offset")
            below = end
        if len(entry.metadata) > METADATA_CHARS_MAX:
            raise CorgiError("invalid-argument", f"metadata has at most {METADATA_CHARS_MAX} characters")


def _cursors(message: g.Cursors) -> None:
    _group(message.group)
    check_range("timeout_ms", message.timeout_ms, 1, TIMEOUT_MS_MAX)
    _count("units", len(message.units or ()), UNITS_MAX)
    for unit in message.units or ():
        _unit(*unit)


def _reset(message: g.ResetGroup) -> None:
    _named(message)
    _count("offsets", len(message.offsets), ENTRIES_MAX)
    for topic, partition, offset in message.offsets:
        check_place(topic, partition)
        check_range("offset", offset, 0, I64)


def _named(message: g.DescribeGroup | g.DeleteGroup | g.ResetGroup) -> None:
    _group(message.group)
    check_range("timeout_ms", message.timeout_ms, 1, TIMEOUT_MS_MAX)


def _list(message: g.ListGroups) -> None:
    check_range("timeout_ms", message.timeout_ms, 1, TIMEOUT_MS_MAX)


def _sessions(message: g.Sessions) -> None:
    check_text("group", message.group)


def _group(name: str) -> None:
    _name("group", name)


def _name(what: str, name: str) -> None:
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        raise CorgiError("invalid-argument", f"a {what} is named by 1 to {NAME_CHARS_MAX} characters, not {len(name)}")


def _unit(topic: int, partition: int, number: int) -> None:
    check_place(topic, partition)
    check_range("slice", number, 0, SLICES_MAX - 1)


def _count(what: str, count: int, most: int) -> None:
    if count > most:
        raise CorgiError("invalid-argument", f"a request has at most {most} {what}, not {count}")


GROUP_CHECKS: dict[type[WireMessage], Callable[[Any], None]] = {
    g.GroupHeartbeat: _heartbeat,
    g.Commit: _commit,
    g.Cursors: _cursors,
    g.ListGroups: _list,
    g.DescribeGroup: _named,
    g.DeleteGroup: _named,
    g.ResetGroup: _reset,
    g.Sessions: _sessions,
}
