"""What was decided about transactions: a view of `__transactions/i`, made of nothing but the batches appended there.

A record's key is a kind and a name; its value is what the node that drives it wrote, whole; null ends it. Apply keeps
the bytes, with the record's offset as the version that the next writer has to name (RECORD_AT): so any node may drive
any transaction, and of two that try at once one is refused and looks again.

Invariant: what a Paxos group keeps here is bounded in number and in bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from corgi.base.batch import ATTRIBUTE_CODEC, parse_header
from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Offset
from corgi.base.limits import BATCH_BYTES_MAX, KIB, MIB
from corgi.base.records import decode_batch, encode_batch

TRANSACTION = b"t"  # the first byte of a key: a transactional name
PREPARED = b"p"  # … or a prepared message
NAME_BYTES_MAX = 1_000
BODY_BYTES_MAX = BATCH_BYTES_MAX - 64 * KIB
RECORDS_MAX = 100_000  # in one Paxos group
BYTES_MAX = 64 * MIB  # of all records of one Paxos group: prepared messages are held in memory
ABSENT = -1  # the version of what is not there


class StoredRecord(NamedTuple):
    """``log_time_ms``: when it was written."""

    version: Offset
    log_time_ms: int
    body: bytes


Changes = dict[bytes, StoredRecord | None]


def encode_record(key: bytes, body: bytes | None, timestamp_ms: int) -> bytes:
    """The batch to append to `__transactions/i`; None ends what has this key."""
    return encode_batch([(key, body, (), timestamp_ms)])


class TransactionRecords:
    """The records of one Paxos group by key. ``changed``: keys written since somebody looked."""

    __slots__ = ("by_key", "bytes", "changed")

    def __init__(self) -> None:
        self.by_key: dict[bytes, StoredRecord] = {}
        self.bytes = 0
        self.changed: dict[bytes, None] = {}

    def version(self, key: bytes) -> int:
        found = self.by_key.get(key)
        return ABSENT if found is None else found.version

    def stage(self, batch: Buffer, base_offset: Offset, log_time_ms: int) -> Changes:
        """What a batch would change. Raises CorgiError, alike on every replica."""
        if parse_header(batch).attributes & ATTRIBUTE_CODEC:
            raise CorgiError("corrupt-batch", "batches of __transactions are not compressed")
        try:
            records = decode_batch(batch)
        except CorgiError:
            raise CorgiError("corrupt-batch", "a batch of __transactions does not decode") from None
        changes: Changes = {}
        grown = added = 0
        for offset, record in enumerate(records, base_offset):
            key, body = record.key or b"", record.value
            if key[:1] not in (TRANSACTION, PREPARED) or not 2 <= len(key) <= NAME_BYTES_MAX:
                raise CorgiError("invalid-argument", "a record of __transactions names nothing")
            if body is None:
                changes[key] = None
                continue
            if len(body) > BODY_BYTES_MAX:
                raise CorgiError("record-too-large", f"a record of __transactions has at most {BODY_BYTES_MAX} bytes")
            present = self.by_key.get(key)
            grown += len(body) - (0 if present is None else len(present.body))
            added += present is None
            changes[key] = StoredRecord(Offset(offset), log_time_ms, body)
        if grown > 0 and (self.bytes + grown > BYTES_MAX or (added and len(self.by_key) + added > RECORDS_MAX)):
            raise CorgiError("overloaded", "too many transactions and prepared messages are kept in this group")
        return changes

    def commit(self, changes: Changes) -> Changes:
        """Make ``changes`` true; returns those that take them back."""
        before: Changes = {}
        for key, record in changes.items():
            present = before[key] = self.by_key.pop(key, None)
            if present is not None:
                self.bytes -= len(present.body)
            if record is not None:
                self.by_key[key] = record
                self.bytes += len(record.body)
            self.changed[key] = None
        return before
