"""Fetch: a long poll over partitions, answered from what is applied here.

An offset beyond the applied end may be right, if this node is behind: then the group's end is confirmed through the log
before the poll begins, and only an offset beyond that is "out of range".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base.command import Buffer
from corgi.base.errors import OFFSET_OUT_OF_RANGE, CorgiError
from corgi.base.ids import GroupId, Offset, TopicId
from corgi.base.ports import ClientSession
from corgi.broker.barriers import Barriers
from corgi.broker.bounds import INT64_MAX, REQUEST_PARTITIONS_MAX, TIMEOUT_MS_MAX, check_count, check_range
from corgi.broker.places import Places
from corgi.delivery.limits import POLL_BYTES_MAX
from corgi.delivery.polls import Answer, Part, PartAnswer, Polls
from corgi.wire.messages import Fetch, FetchReply

if TYPE_CHECKING:
    from corgi.broker.node import Node

WAIT_S_MAX = 300.0
CONFIRM_S_MIN = 1.0  # to confirm an end through the log, also for a poll that waits less
CONFIRM_S_MAX = 10.0
BYTES_MAX = 2**31 - 1  # told by a client; one answer has at most POLL_BYTES_MAX


class Fetches:
    """Begins polls; ``delivery`` does the rest."""

    __slots__ = ("_barriers", "_node", "_places", "_polls")

    def __init__(self, node: Node, places: Places, barriers: Barriers, polls: Polls) -> None:
        self._node = node
        self._places = places
        self._barriers = barriers
        self._polls = polls

    def received(self, client: ClientSession, correlation: int, message: Fetch) -> None:
        """Raises CorgiError "invalid-argument", "overloaded"."""
        check_range("wait_ms", message.wait_ms, 0, TIMEOUT_MS_MAX)
        check_range("bytes_min", message.bytes_min, 0, BYTES_MAX)
        check_range("bytes_max", message.bytes_max, 1, BYTES_MAX)
        check_count("partitions", len(message.partitions), REQUEST_PARTITIONS_MAX)
        for _, _, offset, wanted in message.partitions:
            check_range("offset", offset, 0, INT64_MAX)
            check_range("bytes wanted", wanted, 1, BYTES_MAX)
        parts = [self.part(*entry, committed=message.committed) for entry in message.partitions]

        def answer(answers: list[PartAnswer], buffers: list[Buffer]) -> None:
            told = tuple((part.error, part.end, part.start, part.lengths) for part in answers)
            onward, stable = tuple(part.onward for part in answers), tuple(part.stable for part in answers)
            client.reply(correlation, FetchReply(told, onward, stable), buffers)

        self.begin(client, parts, message.wait_ms, message.bytes_min, message.bytes_max, answer)

    def part(
        self, topic: TopicId, partition: int, offset: Offset, wanted: int, *, committed: bool, raw: bool = False
    ) -> Part:
        """One partition of a poll; whatever is wrong with it is told in its answer."""
        try:
            group, log = self._places.to_read(topic, partition)
        except CorgiError as error:
            return Part(offset, wanted, None, GroupId(0), error.kind.number)
        return Part(offset, wanted, log, group, committed=committed, raw=raw)

    def begin(
        self, client: ClientSession, parts: list[Part], wait_ms: int, bytes_min: int, bytes_max: int, answer: Answer
    ) -> None:
        """Answer when ``bytes_min`` are there, when a part has an error or when time is up. Raises "overloaded"."""
        self._polls.admit(client)
        ahead = [part for part in parts if part.log is not None and part.offset > part.log.end]
        deadline = self._node.clock.now() + min(wait_ms / 1000, WAIT_S_MAX)
        bytes_max = min(bytes_max, POLL_BYTES_MAX)

        def confirmed(errors: dict[GroupId, int]) -> None:
            for part in ahead:
                if part.log is not None and part.offset > part.log.end:
                    part.error = errors.get(part.group, OFFSET_OUT_OF_RANGE)
            now = self._node.clock.now()
            self._polls.start(client, parts, min(bytes_min, bytes_max), bytes_max, deadline, now, answer)

        patience_s = min(max(wait_ms / 1000, CONFIRM_S_MIN), CONFIRM_S_MAX)
        self._barriers.confirm(client, dict.fromkeys(part.group for part in ahead), patience_s, confirmed)
