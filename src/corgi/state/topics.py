"""The topics of the cluster: a view of `__meta/0`, made of nothing but the record batches appended there.

A record's key is the topic's name, its value a msgpack array (``TopicRecord``), or null: the topic is deleted. A
topic's id follows from the offset of the record that created it, so an id is never used twice, and whoever has applied
`__meta/0` up to some offset can tell of an id whether its topic was deleted or is not known to him yet.

Invariant: `__meta/0` holds only records that were a valid change of the view when they were appended.
"""

from __future__ import annotations

import crc32c
import msgspec

from corgi.base.batch import ATTRIBUTE_CODEC, parse_header
from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import FIRST_USER_TOPIC, SYSTEM_TOPIC_NAMES, GroupId, Offset, TopicId
from corgi.base.limits import GROUPS_MAX
from corgi.base.records import decode_batch, encode_batch
from corgi.state.commands import Unsigned32
from corgi.state.settings import check_partition_count, check_settings, check_topic_name, in_memory

TOPIC_ID_END = 2**32
_ANCHOR_END = 2**31


class TopicRecord(msgspec.Struct, frozen=True, array_like=True):
    """The value of a record in `__meta/0`.

    ``topic`` 0 creates a topic; otherwise it is the id of the topic to change, whose ``anchor``, ``groups`` and
    ``first`` stay.
    """

    topic: Unsigned32
    partitions: Unsigned32
    anchor: Unsigned32
    groups: Unsigned32
    config: dict[str, str]
    first: Unsigned32 = 0


class Topic(msgspec.Struct, frozen=True):
    """One topic. ``version`` is the offset in `__meta/0` that last changed it.

    ``groups`` is the number of groups that it was created under, for ever, and ``first`` the first of them: memory
    groups lie behind the others.
    """

    name: str
    topic: TopicId
    partitions: int
    anchor: int
    groups: int
    config: dict[str, str]
    version: int
    first: int = 0

    def group_of(self, partition: int) -> GroupId:
        return GroupId(self.first + (self.anchor + partition) % self.groups)

    def partitions_in(self, group: GroupId) -> range:
        """The partitions of this topic that live in a group, ascending."""
        if not self.first <= group < self.first + self.groups:
            return range(0)
        return range((group - self.first - self.anchor) % self.groups, self.partitions, self.groups)


Changes = dict[str, Topic | None]  # what each name means from here on; None: no topic

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TopicRecord).decode


def default_anchor(name: str, groups: int) -> int:
    """Where the partition 0 of a topic lies when nobody chose: the same for ever and everywhere."""
    return crc32c.crc32c(name.encode()) % groups


def created_id(version: Offset) -> TopicId:
    """The id of the topic that the record at this offset of `__meta/0` created."""
    return TopicId(FIRST_USER_TOPIC + version)


def encode_topic_record(name: str, record: TopicRecord | None, timestamp_ms: int) -> bytes:
    """The batch to append to `__meta/0`; None deletes the topic."""
    value = None if record is None else _encode(record)
    return encode_batch([(name.encode(), value, (), timestamp_ms)])


class Topics:
    """All topics by name and id. ``end`` is the end offset of `__meta/0` that this view has seen."""

    __slots__ = ("_groups", "_watches", "by_id", "by_name", "end")

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._watches: list[dict[TopicId, str]] = []
        self.by_name: dict[str, Topic] = {}
        self.by_id: dict[TopicId, Topic] = {}
        self.end = Offset(0)

    def get(self, name: str) -> Topic | None:
        return self.by_name.get(name)

    def any_from(self, group: int) -> bool:
        """Does a topic lie in the groups from this one on?"""
        return any(topic.first >= group for topic in self.by_id.values())

    def deleted(self, topic: TopicId) -> bool:
        """Did this id name a topic that is gone? False also for an id that this view does not know yet."""
        return topic not in self.by_id and FIRST_USER_TOPIC <= topic < FIRST_USER_TOPIC + self.end

    def group_of(self, topic: TopicId, partition: int) -> GroupId:
        """The group of a partition, also of system topics. Raises "unknown-topic", "unknown-partition"."""
        found = self.by_id.get(topic)
        if found is None:
            if topic not in SYSTEM_TOPIC_NAMES:
                raise CorgiError("unknown-topic", f"no topic has the id {topic}")
            if not 0 <= partition < self._groups:
                raise CorgiError("unknown-partition", f"{SYSTEM_TOPIC_NAMES[topic]} has no partition {partition}")
            return GroupId(partition)
        if not 0 <= partition < found.partitions:
            raise CorgiError(
                "unknown-partition", f"{found.name} has partitions 0 to {found.partitions - 1}, not {partition}"
            )
        return found.group_of(partition)

    def watch(self) -> dict[TopicId, str]:
        """A dictionary that gains (id, name) of every topic that changes or ends; its owner empties it."""
        changed: dict[TopicId, str] = {}
        self._watches.append(changed)
        return changed

    def stage(self, batch: Buffer, base_offset: Offset) -> tuple[Changes, Offset]:
        """What a batch appended at ``base_offset`` would change, and where it ends.

        Raises CorgiError, the same on every replica.
        """
        if parse_header(batch).attributes & ATTRIBUTE_CODEC:
            raise CorgiError("corrupt-batch", "batches of __meta are not compressed")
        try:
            records = decode_batch(batch)
        except CorgiError:
            raise CorgiError("corrupt-batch", "a batch of __meta does not decode") from None
        changes: Changes = {}
        for offset, record in enumerate(records, base_offset):
            try:
                name = (record.key or b"").decode()
                value = None if record.value is None else _decode(record.value)
            except (UnicodeDecodeError, msgspec.DecodeError):
                raise CorgiError("invalid-argument", "a record of __meta does not decode") from None
            present = changes[name] if name in changes else self.by_name.get(name)
            changes[name] = _changed(name, present, value, Offset(offset))
        return changes, Offset(base_offset + len(records))

    def commit(self, changes: Changes, end: Offset) -> Changes:
        """Make ``changes`` true; returns those that take them back."""
        before: Changes = {}
        for name, topic in changes.items():
            present = before[name] = self.by_name.get(name)
            if present is not None:
                del self.by_id[present.topic]
                self._tell(present)
            if topic is None:
                self.by_name.pop(name, None)
            else:
                self.by_name[name] = topic
                self.by_id[topic.topic] = topic
                self._tell(topic)
        self.end = end
        return before

    def _tell(self, topic: Topic) -> None:
        for changed in self._watches:
            changed[topic.topic] = topic.name


def _changed(name: str, present: Topic | None, record: TopicRecord | None, offset: Offset) -> Topic | None:
    """The topic after one record; raises CorgiError when the record is no valid change of ``present``."""
    if record is None:
        if present is None:
            raise CorgiError("unknown-topic", f"there is no topic {name!r}")
        return None
    check_topic_name(name)
    check_partition_count(record.partitions)
    check_settings(record.config)
    if record.topic == 0:
        return _created(name, present, record, offset)
    if present is None or present.topic != record.topic:
        raise CorgiError("unknown-topic", f"{name!r} is not the topic {record.topic}")
    if (record.anchor, record.groups, record.first) != (present.anchor, present.groups, present.first):
        raise CorgiError("invalid-argument", "where a topic's partitions lie never changes")
    if in_memory(record.config) != in_memory(present.config):
        raise CorgiError("invalid-argument", f"the durability of {name!r} was decided when it was created")
    if record.partitions < present.partitions:
        raise CorgiError(
            "invalid-argument", f"{name!r} has {present.partitions} partitions; their number never shrinks"
        )
    where = (present.anchor, present.groups)
    return Topic(name, present.topic, record.partitions, *where, record.config, offset, present.first)


def _created(name: str, present: Topic | None, record: TopicRecord, offset: Offset) -> Topic:
    if present is not None:
        raise CorgiError("topic-exists", f"there is a topic {name!r} already")
    if not 1 <= record.groups <= GROUPS_MAX or record.first > GROUPS_MAX or record.anchor >= _ANCHOR_END:
        raise CorgiError("invalid-argument", f"anchor {record.anchor} and {record.groups} groups place no partition")
    if in_memory(record.config) != (record.first > 0):
        raise CorgiError("invalid-argument", "topics in memory lie in memory groups, others do not")
    topic = created_id(offset)
    if topic >= TOPIC_ID_END:
        raise CorgiError("invalid-argument", "all topic ids are used up")
    where = (record.anchor, record.groups)
    return Topic(name, topic, record.partitions, *where, record.config, offset, record.first)
