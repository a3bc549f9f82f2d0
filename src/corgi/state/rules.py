"""What each kind of command does, apart from DATA's plain appends: one small rule per kind.

A rule returns (error number, detail). Kinds without a rule are refused; a later release switches new rules on by a
record in the log, never by being installed. Details are our own words, so that they are the same on every replica.
"""

from __future__ import annotations

from collections.abc import Callable

from corgi.base import errors
from corgi.base.command import Buffer, CommandKind, Data, Item, decode_data
from corgi.base.errors import CorgiError
from corgi.base.ids import FIRST_USER_TOPIC, LeaderEpoch, Offset, TopicId
from corgi.base.limits import PARTITIONS_MAX
from corgi.state.commands import (
    GuardKind,
    decode_cursor_guard,
    decode_epoch,
    decode_group_guard,
    decode_log_start,
    decode_owner,
    decode_partition_close,
    decode_partition_open,
    decode_producer_guard,
    decode_producers_expired,
    decode_record_guard,
    decode_topic_guard,
)
from corgi.state.cursors import CursorKey
from corgi.state.group_state import GroupState
from corgi.state.index import PartitionLog
from corgi.state.outcomes import AppendResult
from corgi.state.settings import batch_bytes_max
from corgi.state.transaction_rules import apply_open

UNSUPPORTED = errors.BY_CODE["unsupported-version"].number
MALFORMED = errors.INVALID_ARGUMENT
CHECKPOINT_MOVED = errors.BY_CODE["checkpoint-moved"].number

Verdict = tuple[int, str]
_DONE: Verdict = (errors.OK, "")
_ITEM_VERSION = 1


def apply_rule(state: GroupState, kind: int, body: Buffer) -> Verdict:
    """Apply a command that is not DATA."""
    rule = _RULES.get(kind)
    if rule is None:
        return UNSUPPORTED, f"commands of kind {kind} have no rule yet"
    return rule(state, body)


def apply_atomic(state: GroupState, value: Buffer, body_at: int, end: int) -> tuple[Verdict, tuple[AppendResult, ...]]:
    """Apply a DATA command whole or not at all: guards first, then every batch, taken back if one is refused."""
    try:
        data = decode_data(memoryview(value)[body_at:end], body_at)
    except CorgiError as error:
        return (MALFORMED, error.message), ()
    verdict = _check_guards(state, data)
    if verdict is None:
        return _done_before(state, value, data)
    if verdict[0]:
        return verdict, ()
    results: list[AppendResult] = []
    state.recording()
    for append in data.appends:
        result = state.append(value, *append)
        if result.error:
            state.take_back()
            return (result.error, ""), (AppendResult(result.error, Offset(-1)),) * len(data.appends)
        results.append(result)
    state.keep()
    return _DONE, tuple(results)


def _done_before(state: GroupState, value: Buffer, data: Data) -> tuple[Verdict, tuple[AppendResult, ...]]:
    """A cursor stands where the command would move it. Results that name their producer tell whether it was this
    command that did so: without membership somebody else may have moved it as far, with results of his own."""
    results = []
    for append in data.appends:
        offset = state.stored_at(value, append.topic, append.partition, append.at, append.length)
        if offset is None:
            return (CHECKPOINT_MOVED, "somebody else has moved the checkpoint just as far"), ()
        results.append(AppendResult(errors.OK, offset))
    return _DONE, tuple(results)


def _check_guards(state: GroupState, data: Data) -> Verdict | None:
    """None: a guard tells that the command was done before."""
    if data.records:
        return UNSUPPORTED, f"records of kind {data.records[0].kind} have no rule yet"
    for guard in data.guards:
        verdict = _check_guard(state, guard)
        if verdict is None or verdict[0]:
            return verdict
    return _DONE


def _check_guard(state: GroupState, guard: Item) -> Verdict | None:
    check = _GUARDS.get(guard.kind)
    if check is None or guard.version != _ITEM_VERSION:
        return UNSUPPORTED, f"guards of kind {guard.kind} version {guard.version} have no rule yet"
    return check(state, guard)


def _check_group(state: GroupState, guard: Item) -> Verdict:
    wanted = decode_group_guard(guard.body)
    if wanted is None:
        return MALFORMED, "a guard on a consumer group is malformed"
    if state.consumer_groups.version(wanted.name) != wanted.version:
        return errors.UNSETTLED, f"the consumer group {wanted.name!r} has changed meanwhile"
    return _DONE


def _check_cursor(state: GroupState, guard: Item) -> Verdict | None:
    wanted = decode_cursor_guard(guard.body)
    if wanted is None:
        return MALFORMED, "a guard on a cursor is malformed"
    try:
        return _DONE if state.cursors.judge(wanted) else None
    except CorgiError as error:
        return error.kind.number, error.message


def _check_record(state: GroupState, guard: Item) -> Verdict:
    wanted = decode_record_guard(guard.body)
    if wanted is None:
        return MALFORMED, "a guard on a transaction is malformed"
    if state.transaction_records.version(wanted.key) != wanted.version:
        return errors.UNSETTLED, "the transaction has changed meanwhile"
    return _DONE


def _check_producer(state: GroupState, guard: Item) -> Verdict:
    wanted = decode_producer_guard(guard.body)
    if wanted is None:
        return MALFORMED, "a guard on a producer is malformed"
    fence = state.transactions.fences.get(wanted.producer_id)
    if fence is not None and wanted.epoch < fence.epoch:
        return errors.TRANSACTION_FENCED, "a newer producer of this name has taken over"
    return _DONE


def _check_topic(state: GroupState, guard: Item) -> Verdict:
    wanted = decode_topic_guard(guard.body)
    if wanted is None or state.topics is None:
        return MALFORMED, "a guard on a topic is malformed or in the wrong group"
    present = state.topics.get(wanted.name)
    if guard.kind == GuardKind.TOPIC_ABSENT:
        if present is not None:
            return errors.TOPIC_EXISTS, f"there is a topic {wanted.name!r} already"
        return _DONE
    if present is None:
        return errors.UNKNOWN_TOPIC, f"the topic {wanted.name!r} is gone"
    if present.topic != wanted.topic or present.version != wanted.version:  # another of that name, or another version
        return errors.UNSETTLED, f"the topic {wanted.name!r} has changed meanwhile"
    return _DONE


_GUARDS: dict[int, Callable[[GroupState, Item], Verdict | None]] = {
    int(GuardKind.TOPIC_ABSENT): _check_topic,
    int(GuardKind.TOPIC_AT): _check_topic,
    int(GuardKind.GROUP_AT): _check_group,
    int(GuardKind.CURSOR_AT): _check_cursor,
    int(GuardKind.RECORD_AT): _check_record,
    int(GuardKind.PRODUCER_AT): _check_producer,
}


def _epoch(state: GroupState, body: Buffer) -> Verdict:
    epoch = decode_epoch(body)
    if epoch is None:
        return MALFORMED, "an epoch record does not decode"
    state.epoch = LeaderEpoch(state.epoch + 1)
    state.leader_node = epoch.node
    state.leader_ballot = epoch.ballot
    return _DONE


def _nothing(_state: GroupState, _body: Buffer) -> Verdict:
    """TICK moves log time by the value that it came in; BARRIER is there to be waited for."""
    return _DONE


def _open(state: GroupState, body: Buffer) -> Verdict:
    wanted = decode_partition_open(body)
    if wanted is None or not _are_user_partitions(wanted.topic, wanted.partitions):
        return MALFORMED, "a partition-open does not decode"
    topic = TopicId(wanted.topic)
    present = [state.partitions.get((topic, partition)) for partition in wanted.partitions]
    if wanted.version < state.closed_version and None in present:
        # 1. A leader finds a new topic and submits its opening; the command is slow. 2. The topic is deleted, the next
        # leader finds nothing to close. 3. The opening arrives. Its sender may not have known of a closing that
        # happened here, so it has to look again.
        return errors.UNSETTLED, "the opening is older than a closing"
    bytes_max = batch_bytes_max(wanted.config)
    for partition, log in zip(wanted.partitions, present, strict=True):
        if log is None:
            log = state.partitions[topic, partition] = PartitionLog(topic, partition)
            state.held.setdefault(topic, []).append(partition)
        elif log.version >= wanted.version:
            continue
        else:
            state.touch(log)
        log.version = wanted.version
        log.config = wanted.config
        log.batch_bytes_max = bytes_max
    state.opened(topic)
    return _DONE


def _close(state: GroupState, body: Buffer) -> Verdict:
    wanted = decode_partition_close(body)
    if wanted is None or not _are_user_partitions(wanted.topic, wanted.partitions):
        return MALFORMED, "a partition-close does not decode"
    topic = TopicId(wanted.topic)
    keys = [(topic, partition) for partition in wanted.partitions]
    present = [state.partitions[key] for key in keys if key in state.partitions]
    if any(log.version > wanted.version for log in present):
        return errors.UNSETTLED, "the closing is older than the opening"
    state.closed_version = max(state.closed_version, wanted.version)
    for log in present:
        state.moved(log)
        del state.partitions[topic, log.partition]
        state.cursors.close(topic, log.partition)
        state.transactions.close((topic, log.partition))
        state.dropped.extend(log.close())
    gone = {log.partition for log in present}
    left = [partition for partition in state.held.pop(topic, ()) if partition not in gone]
    if left:
        state.held[topic] = left
    state.opened(topic)
    return _DONE


def _are_user_partitions(topic: int, partitions: list[int]) -> bool:
    if topic < FIRST_USER_TOPIC or len(set(partitions)) != len(partitions):
        return False
    return all(partition < PARTITIONS_MAX for partition in partitions)


def _producers_expired(state: GroupState, body: Buffer) -> Verdict:
    expired = decode_producers_expired(body)
    if expired is None:
        return MALFORMED, "a mark of expired producers does not decode"
    below = state.producers_expired_below = max(state.producers_expired_below, expired.below)
    for log in state.partitions.values():
        silent = [
            producer_id
            for producer_id, producer in log.producers.items()
            if producer_id < below and producer.log_time_ms < expired.idle_since_ms
        ]
        if silent:
            state.touch(log)
        for producer_id in silent:
            del log.producers[producer_id]
    state.transactions.expire(below, expired.idle_since_ms)
    return _DONE


def _log_start(state: GroupState, body: Buffer) -> Verdict:
    """Each named partition begins at an offset, and forgets the whole batches below it. A start that was passed
    already changes nothing, one beyond the end empties the partition; a partition that is not here is passed over."""
    wanted = decode_log_start(body)
    if wanted is None:
        return MALFORMED, "a log start does not decode"
    for topic, partition, offset in wanted.starts:
        log = state.partitions.get((TopicId(topic), partition))
        if log is not None and offset > log.start:
            state.moved(log)
            state.dropped.extend(log.trim(Offset(offset)))
    return _DONE


def _owner(state: GroupState, body: Buffer) -> Verdict:
    wanted = decode_owner(body)
    if wanted is None:
        return MALFORMED, "an owner does not decode"
    key = CursorKey(wanted.group, TopicId(wanted.topic), wanted.partition, wanted.slice)
    if (key.topic, key.partition) not in state.partitions:
        return errors.PARTITION_NOT_OPEN, ""
    try:
        state.cursors.own(key, wanted.owner_epoch, wanted.member)
    except CorgiError as error:
        return error.kind.number, error.message
    return _DONE


_RULES: dict[int, Callable[[GroupState, Buffer], Verdict]] = {
    CommandKind.EPOCH: _epoch,
    CommandKind.TICK: _nothing,
    CommandKind.PARTITION_OPEN: _open,
    CommandKind.PARTITION_CLOSE: _close,
    CommandKind.PRODUCERS_EXPIRED: _producers_expired,
    CommandKind.OWNER: _owner,
    CommandKind.TRANSACTION_OPEN: apply_open,
    CommandKind.LOG_START: _log_start,
    CommandKind.BARRIER: _nothing,
}
