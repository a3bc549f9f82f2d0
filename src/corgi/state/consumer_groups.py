"""Consumer groups as records: a view of `__groups/i`, made of nothing but the batches appended there.

A record's key is the group's name, its value the group as its coordinator wrote it, whole; null ends the group. What a
value means is the coordinator's business: apply keeps the bytes, with the offset of the record as the version that the
next writer has to name (GROUP_AT).
"""

from __future__ import annotations

from typing import NamedTuple

from corgi.base.batch import ATTRIBUTE_CODEC, parse_header
from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Offset
from corgi.base.records import decode_batch, encode_batch

GROUP_BYTES_MAX = 512 * 1024  # of one group's record
GROUP_NAME_MAX = 249
ABSENT = -1  # the version of a group that is not there


class StoredGroup(NamedTuple):
    version: Offset
    body: bytes


Changes = dict[str, StoredGroup | None]


def encode_group(name: str, body: bytes | None, timestamp_ms: int) -> bytes:
    """The batch to append to `__groups/i`; None ends the group."""
    return encode_batch([(name.encode(), body, (), timestamp_ms)])


class ConsumerGroups:
    """Every consumer group that is kept in one Paxos group, by name."""

    __slots__ = ("by_name",)

    def __init__(self) -> None:
        self.by_name: dict[str, StoredGroup] = {}

    def version(self, name: str) -> int:
        found = self.by_name.get(name)
        return ABSENT if found is None else found.version

    def stage(self, batch: Buffer, base_offset: Offset) -> Changes:
        """What a batch would change. Raises CorgiError, alike on every replica."""
        if parse_header(batch).attributes & ATTRIBUTE_CODEC:
            raise CorgiError("corrupt-batch", "batches of __groups are not compressed")
        try:
            records = decode_batch(batch)
        except CorgiError:
            raise CorgiError("corrupt-batch", "a batch of __groups does not decode") from None
        changes: Changes = {}
        for offset, record in enumerate(records, base_offset):
            try:
                name = (record.key or b"").decode()
            except UnicodeDecodeError:
                raise CorgiError("invalid-argument", "a record of __groups names no group") from None
            if not 1 <= len(name) <= GROUP_NAME_MAX:
                raise CorgiError("invalid-argument", "a record of __groups names no group")
            if record.value is not None and len(record.value) > GROUP_BYTES_MAX:
                raise CorgiError("record-too-large", f"a group takes at most {GROUP_BYTES_MAX} bytes")
            changes[name] = None if record.value is None else StoredGroup(Offset(offset), record.value)
        return changes

    def commit(self, changes: Changes) -> Changes:
        """Make ``changes`` true; returns those that take them back."""
        before: Changes = {}
        for name, group in changes.items():
            before[name] = self.by_name.get(name)
            if group is None:
                self.by_name.pop(name, None)
            else:
                self.by_name[name] = group
        return before
