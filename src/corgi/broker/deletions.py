"""DeleteRecords: the log start of partitions is moved because somebody asks for it, as retention moves it by itself.

The end is confirmed through the log first, so a start is never moved beyond what exists: that is refused, as is going
back quietly taken for done. Answered with the log start that is in force when the command is applied here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from corgi.base.command import CommandKind
from corgi.base.errors import OFFSET_OUT_OF_RANGE, OK, CorgiError
from corgi.base.ids import FIRST_USER_TOPIC, GroupId, Offset, TopicId
from corgi.base.ports import ClientSession
from corgi.broker.barriers import Barriers
from corgi.broker.bounds import INT64_MAX, REQUEST_PARTITIONS_MAX, check_count, check_range, timeout_s
from corgi.broker.places import Places
from corgi.state.commands import PARTITIONS_PER_COMMAND, encode_log_start
from corgi.state.outcomes import Outcome
from corgi.wire.messages import DeleteRecords, DeleteRecordsReply

if TYPE_CHECKING:
    from corgi.broker.node import Node

END = -1
NO_OFFSET = Offset(-1)


class Deletions:
    """Requests that forget the beginning of partitions."""

    __slots__ = ("_barriers", "_node", "_places")

    def __init__(self, node: Node, places: Places, barriers: Barriers) -> None:
        self._node = node
        self._places = places
        self._barriers = barriers

    def received(self, client: ClientSession, correlation: int, message: DeleteRecords) -> None:
        """Raises CorgiError "invalid-argument", "overloaded"."""
        patience_s = timeout_s(message.timeout_ms)
        check_count("partitions", len(message.partitions), REQUEST_PARTITIONS_MAX)
        groups: dict[GroupId, None] = {}
        for topic, partition, offset in message.partitions:
            check_range("offset", offset, END, INT64_MAX)
            if topic >= FIRST_USER_TOPIC:
                with suppress(CorgiError):  # told with the others
                    groups[self._places.to_write(topic, partition).group] = None

        def confirmed(errors: dict[GroupId, int]) -> None:
            _Deletion(self._node, self._places, client, correlation, message, patience_s).begin(errors)

        self._barriers.confirm(client, groups, patience_s, confirmed)


class _Deletion:
    """One request whose ends are confirmed."""

    def __init__(
        self,
        node: Node,
        places: Places,
        client: ClientSession,
        correlation: int,
        message: DeleteRecords,
        patience_s: float,
    ) -> None:
        self._node = node
        self._places = places
        self._client = client
        self._correlation = correlation
        self._wanted = message.partitions
        self._patience_s = patience_s
        self._errors = [OK] * len(message.partitions)
        self._waiting = 1

    def begin(self, unconfirmed: dict[GroupId, int]) -> None:
        starts: dict[GroupId, list[tuple[int, tuple[TopicId, int, Offset]]]] = {}
        for i, (topic, partition, offset) in enumerate(self._wanted):
            try:
                if topic < FIRST_USER_TOPIC:
                    raise CorgiError("unknown-topic", f"topic {topic} is not for clients to change")
                group, log = self._places.to_read(topic, partition)
            except CorgiError as error:
                self._errors[i] = error.kind.number
                continue
            if group in unconfirmed:
                self._errors[i] = unconfirmed[group]
            elif offset > log.end:
                self._errors[i] = OFFSET_OUT_OF_RANGE
            else:
                start = log.end if offset == END else Offset(offset)
                if start > log.start:
                    starts.setdefault(group, []).append((i, (topic, partition, start)))
        for group, wanted in starts.items():
            for at in range(0, len(wanted), PARTITIONS_PER_COMMAND):
                part = wanted[at : at + PARTITIONS_PER_COMMAND]
                self._submit(group, [i for i, _ in part], [start for _, start in part])
        self._ended()

    def _submit(self, group: GroupId, indexes: list[int], starts: list[tuple[TopicId, int, Offset]]) -> None:
        def applied(outcome: Outcome) -> None:
            for i in indexes:
                self._errors[i] = outcome.error
            self._ended()

        self._waiting += 1
        body = encode_log_start(starts)
        self._node.submit(group, CommandKind.LOG_START, body, applied, timeout_s=self._patience_s, makes_room=True)

    def _ended(self) -> None:
        self._waiting -= 1
        if self._waiting or self._client.closed:
            return
        self._client.reply(
            self._correlation,
            DeleteRecordsReply(
                tuple(
                    [
                        self._told(error, topic, partition)
                        for error, (topic, partition, _) in zip(self._errors, self._wanted, strict=True)
                    ]
                )
            ),
        )

    def _told(self, error: int, topic: TopicId, partition: int) -> tuple[int, Offset]:
        if error:
            return error, NO_OFFSET
        try:
            return OK, self._places.to_read(topic, partition)[1].start
        except CorgiError as gone:
            return gone.kind.number, NO_OFFSET
