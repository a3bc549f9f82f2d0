"""One group's replicated state machine. ``apply`` walks the commands of a chosen value: duplicates, guards, appends.

It reads the value and this group's state, nothing else; so replicas that applied the same slots are equal, which
``digest`` tells. Nothing in a value makes it raise: what cannot be read or has no rule is refused, alike everywhere.

A DATA command with guards, records or FLAG_ATOMIC is all or nothing. Without them its batches are independent: one
client request has one command per group, and a gap in one partition is no reason to refuse the others.

Invariant: a refused command leaves its outcome behind and nothing else.
"""

from __future__ import annotations

import struct

from corgi.base import errors
from corgi.base.command import (
    APPEND_ENTRY,
    COMMAND_HEADER,
    COMMAND_HEADER_BYTES,
    DATA_HEADER,
    FORMAT_VERSION,
    VALUE_HEADER,
    VALUE_HEADER_BYTES,
    Buffer,
    CommandKind,
)
from corgi.base.errors import check
from corgi.base.ids import GroupId, Origin, Slot, TopicId
from corgi.base.tuples import new
from corgi.state import rules
from corgi.state.commands import FLAG_ATOMIC
from corgi.state.compaction import apply_compacted
from corgi.state.group_state import GroupState
from corgi.state.index import Dropped, PartitionLog
from corgi.state.outcomes import AppendResult, Outcome, admit
from corgi.state.transaction_rules import apply_marker

__all__ = ["AppendResult", "Machine", "Outcome"]

_SINGLE = struct.Struct(">HHIIII")  # a DATA body's header and table when it holds one batch
_SINGLE_BYTES = _SINGLE.size
_DATA = int(CommandKind.DATA)
_DIGEST_START = 0xCBF2_9CE4_8422_2325  # FNV-1a with 64 bits, a number at a time
_DIGEST_FACTOR = 0x0000_0100_0000_01B3
_DIGEST_MASK = 0xFFFF_FFFF_FFFF_FFFF


class Machine(GroupState):
    """The state of one group and how values change it.

    ``digest``: 64 bits over every value applied and every outcome, equal on replicas that applied the same slots.
    """

    def __init__(self, group: GroupId, groups: int) -> None:
        super().__init__(group, groups)
        self._topic_changes = self.topics.watch() if self.topics else {}
        self.digest = _DIGEST_START

    def take_appended(self) -> list[PartitionLog]:
        """The partitions whose end moved, or that were closed (``open`` is False then), since last asked."""
        moved = self._moved
        if moved:
            self._moved = []
            for log in moved:
                log.moved = False
        return moved

    def take_dropped(self) -> list[Dropped]:
        """What no index names any more since last asked."""
        dropped = self.dropped
        if dropped:
            self.dropped = []
        return dropped

    def take_topic_changes(self) -> list[str]:
        """Names of topics created, changed or deleted since last asked; always empty outside group 0."""
        names = list(dict.fromkeys(self._topic_changes.values()))
        self._topic_changes.clear()
        return names

    def take_opened(self) -> list[TopicId]:
        """Topics with partitions that were opened, changed or closed in this group since last asked."""
        topics = list(self._opened)
        self._opened.clear()
        return topics

    def apply(self, slot: Slot, value: Buffer) -> list[Outcome]:
        """Apply the next slot's value; one outcome per command, in order. A duplicate gives the first outcome.

        A value that is cut wrong is passed over from there on: its proposer was at fault, for the CRC is checked
        where values enter the node. Raises InvariantError when ``slot`` is not the next one.
        """
        check(slot == self.applied + 1, f"slot {slot} is applied after {self.applied}")
        self.applied = slot
        self.stored = 0
        outcomes: list[Outcome] = []
        size = len(value)
        version = count = timestamp_ms = crc = 0
        if size >= VALUE_HEADER_BYTES:
            version, _, _, count, timestamp_ms, crc, _ = VALUE_HEADER.unpack_from(value)
        if version != FORMAT_VERSION:
            count = 0
        elif timestamp_ms > self.log_time_ms:
            self.log_time_ms = timestamp_ms
        at = VALUE_HEADER_BYTES
        digest = ((self.digest ^ slot) * _DIGEST_FACTOR ^ crc) * _DIGEST_FACTOR & _DIGEST_MASK
        for _ in range(count):
            if at + COMMAND_HEADER_BYTES > size:
                break
            header = COMMAND_HEADER.unpack_from(value, at)
            end = at + header[3]
            if header[3] < COMMAND_HEADER_BYTES or end > size:
                break
            outcome = self._command(value, at + COMMAND_HEADER_BYTES, end, header)
            outcomes.append(outcome)
            digest = (digest ^ outcome[2]) * _DIGEST_FACTOR & _DIGEST_MASK
            for result in outcome[3]:
                digest = (digest ^ result[1] & _DIGEST_MASK) * _DIGEST_FACTOR & _DIGEST_MASK
            at = end
        self.digest = digest
        return outcomes

    def _command(
        self, value: Buffer, at: int, end: int, header: tuple[int, int, int, int, Origin, int, int]
    ) -> Outcome:
        """The outcome of the command with the body ``value[at:end]``: the first one if it was applied before."""
        version, kind, flags, _, origin, counter, settled = header
        window = self.windows.get(origin >> 48)
        if window is None or window.origin != origin:
            window = admit(self.windows, origin)
        if window is None or counter < window.settled:
            return self._refused(
                origin, counter, errors.UNSETTLED, "the command was given up, or its node has restarted"
            )
        if settled > window.settled:
            if settled > counter:
                return self._refused(origin, counter, rules.MALFORMED, "a command cannot settle itself")
            window.settle(settled)
        outcome = window.outcomes.get(counter)
        if outcome is not None:
            return outcome
        if version != FORMAT_VERSION or flags & ~FLAG_ATOMIC:
            outcome = self._refused(origin, counter, rules.UNSUPPORTED, f"command format {version}, flags {flags:#x}")
        elif kind == _DATA:
            outcome = self._data(value, at, end, flags, origin, counter)
        elif kind == CommandKind.COMPACTED:
            error, detail = apply_compacted(self, value, at, end)
            outcome = Outcome(origin, counter, error, (), self.log_time_ms, detail)
        elif kind == CommandKind.MARKER:
            error, detail = apply_marker(self, value, at, end)
            outcome = Outcome(origin, counter, error, (), self.log_time_ms, detail)
        else:
            error, detail = rules.apply_rule(self, kind, value[at:end])
            outcome = Outcome(origin, counter, error, (), self.log_time_ms, detail)
        window.outcomes[counter] = outcome
        return outcome

    def _data(self, value: Buffer, at: int, end: int, flags: int, origin: Origin, counter: int) -> Outcome:
        batch_at = at + _SINGLE_BYTES
        if batch_at <= end:
            guards, records, count, topic, partition, length = _SINGLE.unpack_from(value, at)
            if count == 1 and not (guards or records or flags):
                if batch_at + length != end:
                    return self._refused(origin, counter, rules.MALFORMED, "a batch does not fill its command")
                result = self.append(value, topic, partition, batch_at, length)
                return new(Outcome, (origin, counter, result[0], (result,), self.log_time_ms, ""))
        elif end - at < DATA_HEADER.size:
            return self._refused(origin, counter, rules.MALFORMED, "a data command is too short")
        guards, records, count = DATA_HEADER.unpack_from(value, at)
        if guards or records or flags:
            (error, detail), results = rules.apply_atomic(self, value, at, end)
            return new(Outcome, (origin, counter, error, results, self.log_time_ms, detail))
        return self._independent(value, at + DATA_HEADER.size, count, end, origin, counter)

    def _independent(self, value: Buffer, at: int, count: int, end: int, origin: Origin, counter: int) -> Outcome:
        """Any number of batches, each with a result of its own."""
        batch_at = at + count * APPEND_ENTRY.size
        if batch_at > end:
            return self._refused(origin, counter, rules.MALFORMED, "a data command ends inside its table")
        table = list(APPEND_ENTRY.iter_unpack(value[at:batch_at]))
        if batch_at + sum([length for _, _, length in table]) != end:
            return self._refused(origin, counter, rules.MALFORMED, "the batches do not fill their command")
        results = []
        for topic, partition, length in table:
            results.append(self.append(value, topic, partition, batch_at, length))
            batch_at += length
        refused = bool(results) and all(result.error for result in results)
        error = results[0].error if refused else errors.OK
        return Outcome(origin, counter, error, tuple(results), self.log_time_ms)

    def _refused(self, origin: Origin, counter: int, error: int, detail: str) -> Outcome:
        return Outcome(origin, counter, error, (), self.log_time_ms, detail)
