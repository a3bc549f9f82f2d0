"""ListOffsets: the start, the end, how far compaction has come, or the place of a time in each partition.

What is said of the end goes through the log first, so that it contains all that was acknowledged before the question;
a time for which there is no batch is such a statement too. The start needs no confirmation, nor does how far
compaction has come: they only ever move up, and an offset below the start is refused wherever it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base.errors import OK, CorgiError
from corgi.base.ids import GroupId, Offset, TopicId
from corgi.base.ports import ClientSession
from corgi.broker.barriers import Barriers
from corgi.broker.bounds import INT64_MAX, REQUEST_PARTITIONS_MAX, check_count, check_range, timeout_s
from corgi.broker.compaction import dirty_ratio
from corgi.broker.places import Places
from corgi.state.settings import compacted
from corgi.wire.messages import ListOffsets, ListOffsetsReply

if TYPE_CHECKING:
    from corgi.broker.node import Node

END = -1
START = -2
COMPACTED = -3
NO_OFFSET = Offset(-1)
NO_TIME = -1


class OffsetQueries:
    """Questions about where a partition begins and ends."""

    __slots__ = ("_barriers", "_node", "_places")

    def __init__(self, node: Node, places: Places, barriers: Barriers) -> None:
        self._node = node
        self._places = places
        self._barriers = barriers

    def received(self, client: ClientSession, correlation: int, message: ListOffsets) -> None:
        """Raises CorgiError "invalid-argument", "overloaded"."""
        patience_s = timeout_s(message.timeout_ms)
        check_count("partitions", len(message.partitions), REQUEST_PARTITIONS_MAX)
        groups: dict[GroupId, None] = {}
        for topic, partition, timestamp in message.partitions:
            check_range("time", timestamp, COMPACTED, INT64_MAX)
            group = self._group_to_confirm(topic, partition, timestamp)
            if group is not None:
                groups[group] = None

        def confirmed(errors: dict[GroupId, int]) -> None:
            answers = [self._answer(topic, partition, time, errors) for topic, partition, time in message.partitions]
            client.reply(correlation, ListOffsetsReply(tuple(answers)))

        self._barriers.confirm(client, groups, patience_s, confirmed)

    def _group_to_confirm(self, topic: TopicId, partition: int, timestamp: int) -> GroupId | None:
        """The group to ask, if the answer needs it; a partition not seen here yet may be after that."""
        try:
            group, _ = self._places.to_read(topic, partition)
        except CorgiError:
            try:
                return self._places.to_write(topic, partition).group
            except CorgiError:
                return None
        return None if timestamp in (START, COMPACTED) else group

    def _answer(
        self, topic: TopicId, partition: int, timestamp: int, errors: dict[GroupId, int]
    ) -> tuple[int, Offset, int]:
        try:
            group, log = self._places.to_read(topic, partition)
        except CorgiError as error:
            return error.kind.number, NO_OFFSET, NO_TIME
        if group in errors and timestamp not in (START, COMPACTED):
            return errors[group], NO_OFFSET, NO_TIME
        if timestamp == START:
            return OK, log.start, NO_TIME
        if timestamp == COMPACTED:
            return OK, log.cleaned.to, round(1000 * dirty_ratio(log)) if compacted(log.config) else NO_TIME
        if timestamp != END:
            i = log.find_time(timestamp)
            if i < log.count:
                entry = log.entry(i)
                return OK, max(entry.base_offset, log.start), entry.max_timestamp
        return OK, log.end, NO_TIME
