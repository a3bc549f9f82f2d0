"""Commit: checkpoints of consumer groups, alone or together with the results of what was consumed.

Checkpoints alone become batches of one command per Paxos group, each with a result of its own; one that names its
version becomes a command of its own. Results and checkpoints together become one command, so that they happen as one
act: then all lie in one Paxos group. Any node takes a Commit; who may move a checkpoint is decided at apply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base.batch import check_batch
from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import BY_NUMBER, OK, CorgiError
from corgi.base.ids import CHECKPOINTS, GroupId, Offset, TopicId
from corgi.base.limits import COMMAND_BYTES_MAX
from corgi.base.ports import ClientSession
from corgi.broker.bounds import timeout_s
from corgi.broker.places import Places, check_writable
from corgi.state.commands import CursorGuard, guard_cursor_at
from corgi.state.cursors import CheckpointRecord, CursorKey, encode_checkpoint
from corgi.state.outcomes import Outcome
from corgi.wire.group_messages import Commit, CommitEntry, CommitReply

if TYPE_CHECKING:
    from corgi.broker.node import Node

NO_OFFSET = Offset(-1)
NO_TIME = -1
ANY_VERSION = -1
_Append = tuple[TopicId, int, memoryview | bytes]


class _Answer:
    """One Commit that waits for ``waiting`` commands."""

    def __init__(self, client: ClientSession, correlation: int, message: Commit) -> None:
        self.client = client
        self.correlation = correlation
        self.entries = [OK] * len(message.entries)
        self.results = [(OK, NO_OFFSET, NO_TIME)] * len(message.results)
        self.detail = ""
        self.waiting = 1

    def refuse(self, place: int, error: int, detail: str) -> None:
        self.entries[place] = error
        self.detail = self.detail or detail or BY_NUMBER[error].meaning

    def done(self) -> None:
        self.waiting -= 1
        if not self.waiting and not self.client.closed:
            reply = CommitReply(tuple(self.entries), tuple(self.results), self.detail)
            self.client.reply(self.correlation, reply)


class Commits:
    """Checkpoints and results of consumers."""

    def __init__(self, node: Node, places: Places) -> None:
        self._node = node
        self._places = places

    def received(self, client: ClientSession, correlation: int, message: Commit, payload: memoryview) -> None:
        """Raises CorgiError when nothing of it was tried."""
        answer = _Answer(client, correlation, message)
        patience_s = timeout_s(message.timeout_ms)
        if message.results:
            self._together(answer, message, payload, patience_s)
        else:
            self._apart(answer, message, patience_s)
        answer.done()

    def _apart(self, answer: _Answer, message: Commit, patience_s: float) -> None:
        plain: dict[GroupId, tuple[list[int], list[_Append]]] = {}
        for place, entry in enumerate(message.entries):
            try:
                group = self._places.to_write(entry.topic, entry.partition).group
            except CorgiError as error:
                answer.refuse(place, error.kind.number, error.message)
                continue
            append = (CHECKPOINTS, int(group), self._batch(message, entry))
            if entry.version == ANY_VERSION:
                places, appends = plain.setdefault(group, ([], []))
                places.append(place)
                appends.append(append)
            else:
                self._submit(answer, group, [place], encode_data([append], [_guard(message, entry)]), patience_s)
        for group, (places, appends) in plain.items():
            self._submit(answer, group, places, encode_data(appends), patience_s)

    def _together(self, answer: _Answer, message: Commit, payload: memoryview, patience_s: float) -> None:
        group, appends = self._results(message, payload)
        for entry in message.entries:
            if entry.version == ANY_VERSION:
                raise CorgiError("invalid-argument", "a checkpoint beside results names the version that it replaces")
            if self._places.to_write(entry.topic, entry.partition).group != group:
                raise _scattered(entry.topic, entry.partition, group)
            appends.append((CHECKPOINTS, int(group), self._batch(message, entry)))
        guards = [_guard(message, entry) for entry in message.entries]
        body = encode_data(appends, guards)
        if len(body) > COMMAND_BYTES_MAX:
            text = f"results of {len(body)} bytes in one act, {COMMAND_BYTES_MAX} are the most"
            raise CorgiError("record-too-large", text)
        count = len(message.results)

        def applied(outcome: Outcome) -> None:
            if outcome.error:
                for place in range(len(answer.entries)):
                    answer.refuse(place, outcome.error, outcome.detail)
                answer.results = [(outcome.error, NO_OFFSET, NO_TIME)] * count
            else:
                stored = outcome.appends[:count]
                answer.results = [(OK, result.base_offset, outcome.timestamp_ms) for result in stored]
            answer.done()

        answer.waiting += 1
        self._node.submit(group, CommandKind.DATA, body, applied, timeout_s=patience_s)

    def _results(self, message: Commit, payload: memoryview) -> tuple[GroupId, list[_Append]]:
        """The one Paxos group of the results, and their batches."""
        first = message.entries[0]
        group = self._places.to_write(first.topic, first.partition).group
        appends: list[_Append] = []
        at = 0
        for topic, partition, length in message.results:
            batch = payload[at : at + length]
            at += length
            header = check_batch(batch)
            if header.producer_id >= 0:
                raise CorgiError("invalid-argument", "results name no producer: their checkpoint tells them apart")
            place = self._places.to_write(topic, partition)
            check_writable(place, batch)
            if place.group != group:
                raise _scattered(topic, partition, group)
            appends.append((topic, partition, batch))
        return group, appends

    def _submit(self, answer: _Answer, group: GroupId, places: list[int], body: bytes, patience_s: float) -> None:
        def applied(outcome: Outcome) -> None:
            for i, place in enumerate(places):
                error = outcome.appends[i].error if outcome.appends else outcome.error
                if error:
                    answer.refuse(place, error, outcome.detail)
            answer.done()

        answer.waiting += 1
        self._node.submit(group, CommandKind.DATA, body, applied, timeout_s=patience_s)

    def _batch(self, message: Commit, entry: CommitEntry) -> bytes:
        key = CursorKey(message.group, entry.topic, entry.partition, entry.slice)
        record = CheckpointRecord(
            entry.owner_epoch, message.member, entry.offset, entry.ranges, entry.metadata, entry.reset
        )
        return encode_checkpoint(key, record, self._node.clock.wall_ms())


def _guard(message: Commit, entry: CommitEntry) -> tuple[int, bytes]:
    return guard_cursor_at(
        CursorGuard(
            message.group, entry.topic, entry.partition, entry.slice, entry.owner_epoch, message.member,
            entry.version, entry.offset, entry.ranges,
        )
    )  # fmt: skip


def _scattered(topic: TopicId, partition: int, group: GroupId) -> CorgiError:
    return CorgiError(
        "invalid-argument",
        f"partition {partition} of topic {topic} does not lie in Paxos group {group} as the input does",
        hint="create the topic of the results with colocate_with=<input topic> and publish to the input's partition,"
        " or use a transaction",
    )
