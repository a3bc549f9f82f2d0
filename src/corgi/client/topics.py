"""Topics: create, describe, list, alter, delete; and what else a client asks of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError, error_from_number
from corgi.base.ids import TopicId
from corgi.client.core.asks import Ask, Judge
from corgi.client.core.links import Answer
from corgi.client.core.routing import TopicRoute
from corgi.client.messages import NodeDescription, PartitionDescription, TopicDescription
from corgi.client.shell import Shell
from corgi.client.words import Duration, Time, milliseconds, seconds, topic_name
from corgi.wire.catalog import REQUESTS
from corgi.wire.codec import Codec
from corgi.wire.frame import FRAME_BYTES, Frame, encode_frame
from corgi.wire.messages import (
    AlterTopic,
    CreateTopic,
    DeleteRecords,
    DeleteRecordsReply,
    DeleteTopic,
    GroupInfo,
    ListOffsets,
    ListOffsetsReply,
    Metadata,
    MetadataReply,
    ProduceReply,
    TopicInfo,
    TopicReply,
    WireMessage,
)

R = TypeVar("R", bound=WireMessage)
Config = str | int | float | bool | None
END, START, COMPACTED = -1, -2, -3
OFFSETS_AT_ONCE = 500  # partitions in one ListOffsets
EACH_NODE_S = 2.0  # for what every node is asked
_REQUESTS = Codec(REQUESTS)
Told = tuple[int, int]  # offset, and a time or a share in thousandths
Numbers = list[int]  # the class below has a method named list
Places = list[tuple[TopicId, int, int]]


async def ask(
    shell: Shell,
    message: WireMessage,
    *,
    group: int = 0,
    judge: Judge = lambda _: None,
    timeout_s: float = 0.0,
    payload: Sequence[Buffer] = (),
) -> tuple[WireMessage, Ask]:
    """Ask the cluster and wait; raises what no retry helped against, and "invalid-argument" for what cannot be sent."""
    try:
        header = memoryview(encode_frame(message.TYPE, message, 0, 0))[FRAME_BYTES:]
        _ = _REQUESTS.decode(Frame(message.TYPE, 0, header, header[:0]))
    except (OverflowError, TypeError, UnicodeEncodeError) as error:
        raise CorgiError("invalid-argument", f"this cannot be sent: {error}") from None
    except CorgiError as error:  # a node would close the connection for it, under everybody else's requests
        raise CorgiError("invalid-argument", f"a {type(message).__name__} cannot say this: {error.message}") from None
    future: asyncio.Future[tuple[Answer, Ask]] = shell.loop.create_future()

    def done(asked: Ask, answer: Answer, _: memoryview) -> None:
        if not future.done():
            future.set_result((answer, asked))

    shell.core.ask(message, done, group=group, judge=judge, timeout_s=timeout_s, payload=payload)
    answer, asked = await future
    if isinstance(answer, CorgiError):
        raise answer
    return answer, asked


async def ask_for(
    shell: Shell,
    message: WireMessage,
    kind: type[R],
    *,
    group: int = 0,
    timeout_s: float = 0.0,
    payload: Sequence[Buffer] = (),
    gone_is_done: str = "",
) -> R:
    """As ``ask``, for an answer of one kind; raises the error inside it. ``gone_is_done``: the code that, after an
    earlier sending whose answer was lost, tells that the cluster is as wanted."""

    def judge(answer: WireMessage) -> CorgiError | None:
        error = error_in(answer)
        return error if error is not None and error.retryable else None

    answer, asked = await ask(shell, message, group=group, judge=judge, timeout_s=timeout_s, payload=payload)
    if not isinstance(answer, kind):
        raise CorgiError("malformed-frame", f"the answer was a {type(answer).__name__}")
    error = error_in(answer)
    if error is not None and not (asked.repeated and error.code == gone_is_done):
        raise error
    return answer


def error_in(answer: WireMessage) -> CorgiError | None:
    """What an answer with fields ``error`` and ``message``, or of the one batch of a Produce, says to be wrong."""
    number = answer.results[0][0] if isinstance(answer, ProduceReply) else getattr(answer, "error", 0)
    return error_from_number(number, getattr(answer, "message", "")) if number else None


async def route_of(shell: Shell, topic: str) -> TopicRoute:
    """What is known of a topic. Raises "unknown-topic"."""
    told: list[CorgiError | None] = []

    def register(done: Callable[[], None]) -> None:
        def known(error: CorgiError | None) -> None:
            told.append(error)
            done()

        shell.core.when_topic(topic, known)

    await shell.until(register)
    if told[0] is not None:
        raise told[0]
    return shell.core.routing.topics[topic]


async def ask_each_node(shell: Shell, message: WireMessage, kind: type[R]) -> list[R]:
    """What each linked node answers; those that say nothing in time, or something else, are left out."""
    told: list[R] = []
    links = list(shell.core.routing.links.values())
    open_answers = len(links)
    future: asyncio.Future[None] = shell.loop.create_future()

    def done(answer: Answer, _: memoryview) -> None:
        nonlocal open_answers
        open_answers -= 1
        if isinstance(answer, kind):
            told.append(answer)
        if not open_answers and not future.done():
            future.set_result(None)

    for link in links:
        link.request(message, (), done)
    if links:
        shell.wake()
        await asyncio.wait((future,), timeout=EACH_NODE_S)
    return told


async def info_of(shell: Shell, topic: str) -> TopicInfo:
    """What the cluster says of a topic now. Raises "unknown-topic"."""
    reply = await ask_for(shell, Metadata((topic,)), MetadataReply)
    info = next((info for info in reply.topics if info.name == topic and not info.error), None)
    if info is None:
        raise CorgiError("unknown-topic", f"the topic {topic!r} does not exist")
    return info


class Topics:
    """``mq.topics``. Durations bound the whole call, retries included."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def create(
        self,
        name: str,
        *,
        partitions: int = 1,
        colocate_with: str = "",
        timeout: Duration = "10s",
        **config: Config,
    ) -> TopicDescription:
        """Make a topic; it can be written to when this returns.

        ``colocate_with``: a topic of as many partitions, whose partitions share Paxos groups with these. ``config``:
        max_batch_bytes; retention_ms and retention_bytes (-1, the default, is no limit); cleanup ("delete", "compact",
        "compact,delete"), and for compaction by key delete_retention_ms, min_compaction_lag_ms and
        min_cleanable_dirty_ratio (0 to 1); durability ("fsync", "memory"), which never changes. Raises
        "topic-exists", "invalid-topic-name", "invalid-argument".
        """
        topic_name(name)
        timeout_s = seconds(timeout, "timeout")
        if colocate_with != "":
            topic_name(colocate_with)
        _check_partitions(partitions, 1)
        told = {key: text for key, text in _config_text(config).items() if text is not None}
        message = CreateTopic(name, partitions, told, colocate_with, timeout_ms=int(timeout_s * 1000))
        try:
            return self._told(await self._administer(message, timeout_s))
        except _RepeatedError as repeated:
            # The answer to an earlier sending was lost: if the topic is as wanted, it was this call that made it.
            if repeated.error.code != "topic-exists":
                raise repeated.error from None
            topic = await self.describe(name)
            if len(topic.partitions) != partitions:
                raise repeated.error from None
            return topic

    async def list(self, *, system: bool = False) -> list[TopicDescription]:
        """Every topic by name, without offsets; ``system``: those of Corgi itself too."""
        reply = await self._metadata(None)
        topics = [_description(info, reply.groups) for info in reply.topics if not info.error]
        return sorted([topic for topic in topics if system or not topic.name.startswith("__")], key=lambda t: t.name)

    async def describe(self, name: str) -> TopicDescription:
        """One topic with the offsets of its partitions. Raises "unknown-topic"."""
        topic_name(name)
        reply = await self._metadata((name,), confirm=True)
        info = next((info for info in reply.topics if info.name == name), None)
        if info is None or info.error:
            error = error_from_number(info.error) if info is not None else CorgiError("unknown-topic")
            raise CorgiError(error.code, f"the topic {name!r}: {error.message}")
        self._shell.core.topic_told(info)
        numbers = range(len(info.groups))
        starts = await self._offsets(info, numbers, START)
        ends = await self._offsets(info, numbers, END)
        compact = "compact" in info.config.get("cleanup", "")
        compacted = await self._ask_all(info, numbers, COMPACTED) if compact else ()
        return _description(info, reply.groups, starts, ends, compacted)

    async def offsets(self, name: str, at: Time | str = "latest") -> dict[int, int]:
        """The offset of each partition at "earliest", "latest" or a time. Raises "unknown-topic"."""
        topic_name(name)
        question = {"earliest": START, "latest": END}.get(at) if isinstance(at, str) else milliseconds(at, "at")
        if question is None:
            raise CorgiError("invalid-argument", f'at is "earliest", "latest" or a time, not {at!r}')
        info = await info_of(self._shell, name)
        numbers = range(len(info.groups))
        return dict(zip(numbers, await self._offsets(info, numbers, question), strict=True))

    async def alter(
        self, name: str, *, partitions: int = 0, timeout: Duration = "10s", **config: Config
    ) -> TopicDescription:
        """Add partitions (0 keeps the count, it never shrinks), change settings (None returns one to its default)."""
        topic_name(name)
        timeout_s = seconds(timeout, "timeout")
        _check_partitions(partitions, 0)
        message = AlterTopic(name, partitions, _config_text(config), int(timeout_s * 1000))
        try:
            return self._told(await self._administer(message, timeout_s))
        except _RepeatedError as repeated:
            raise repeated.error from None

    async def delete(self, name: str, *, timeout: Duration = "10s") -> None:
        """Delete a topic with everything in it. Raises "unknown-topic"."""
        topic_name(name)
        timeout_s = seconds(timeout, "timeout")
        try:
            await self._administer(DeleteTopic(name, int(timeout_s * 1000)), timeout_s)
        except _RepeatedError as repeated:
            if repeated.error.code != "unknown-topic":
                raise repeated.error from None
        except CorgiError as error:
            if error.code != "unknown-topic":
                raise
            raise CorgiError(error.code, error.message, hint="see which there are: corgi topic list") from None

    async def trim(self, name: str, before: Mapping[int, int] | str, *, timeout: Duration = "10s") -> dict[int, int]:
        """Forget the records before an offset, for ever: by partition, or "latest" for all that is there now.

        The first offsets that are left, by partition. Raises "unknown-topic", "unknown-partition",
        "offset-out-of-range" for one beyond the end; going back changes nothing.
        """
        topic_name(name)
        timeout_s = seconds(timeout, "timeout")
        if before != "latest" and not isinstance(before, Mapping):
            raise CorgiError("invalid-argument", f'before is "latest" or a mapping of partitions, not {before!r}')
        topic = await self._metadata((name,))
        info = next((info for info in topic.topics if info.name == name and not info.error), None)
        if info is None:
            raise CorgiError("unknown-topic", f"the topic {name!r} does not exist")
        wanted = dict.fromkeys(range(len(info.groups)), END) if isinstance(before, str) else dict(before)
        by_group: dict[int, Places] = {}
        for partition, offset in wanted.items():
            if type(partition) is not int or not 0 <= partition < len(info.groups):
                raise CorgiError("unknown-partition", f"{name!r} has no partition {partition!r}")
            if type(offset) is not int or (offset < 0 and not isinstance(before, str)):
                raise CorgiError("invalid-argument", f"an offset is 0 or more, not {offset!r}")
            by_group.setdefault(info.groups[partition], []).append((info.topic, partition, offset))
        asked = [
            self._trim_some(places[at : at + OFFSETS_AT_ONCE], group, timeout_s)
            for group, places in by_group.items()
            for at in range(0, len(places), OFFSETS_AT_ONCE)
        ]
        found: dict[int, int] = {}
        for part in await asyncio.gather(*asked):
            found.update(part)
        return dict(sorted(found.items()))

    async def nodes(self) -> Sequence[NodeDescription]:
        """The nodes of the cluster, by number."""
        reply = await self._metadata(())
        links = self._shell.core.routing.links
        nodes = [NodeDescription(n.node, n.host, n.port, n.label, n.node in links) for n in reply.nodes]
        return sorted(nodes, key=lambda node: node.node)

    # Asking

    async def _metadata(self, names: tuple[str, ...] | None, *, confirm: bool = False) -> MetadataReply:
        return await ask_for(self._shell, Metadata(names, confirm=confirm), MetadataReply)

    async def _administer(self, message: WireMessage, timeout_s: float) -> TopicReply:
        """Raises _RepeatedError for a refusal that an earlier sending of the same call may have caused."""
        answer, asked = await ask(self._shell, message, judge=_retryable_only, timeout_s=timeout_s)
        if not isinstance(answer, TopicReply):
            raise CorgiError("malformed-frame", "the answer was another")
        if answer.error:
            error = error_from_number(answer.error, answer.message)
            raise _RepeatedError(error) if asked.repeated else error
        return answer

    def _told(self, reply: TopicReply) -> TopicDescription:
        if reply.topic is None:
            raise CorgiError("malformed-frame", "the answer names no topic")
        self._shell.core.topic_told(reply.topic)
        routing = self._shell.core.routing
        groups = [
            GroupInfo(leader, term, replicas)
            for leader, term, replicas in zip(routing.leaders, routing.terms, routing.replicas, strict=True)
        ]
        return _description(reply.topic, groups)

    async def _offsets(self, info: TopicInfo, partitions: Sequence[int], question: int) -> Numbers:
        return [offset for offset, _ in await self._ask_all(info, partitions, question)]

    async def _ask_all(self, info: TopicInfo, partitions: Sequence[int], question: int) -> Sequence[Told]:
        """By group, so that each question goes to the node that leads."""
        by_group: dict[int, Numbers] = {}
        for partition in partitions:
            by_group.setdefault(info.groups[partition], []).append(partition)
        found: dict[int, Told] = {}
        asked = [
            self._ask_offsets(info, group, numbers[at : at + OFFSETS_AT_ONCE], question)
            for group, numbers in by_group.items()
            for at in range(0, len(numbers), OFFSETS_AT_ONCE)
        ]
        for part in await asyncio.gather(*asked):
            found.update(part)
        return [found[partition] for partition in partitions]

    async def _trim_some(self, places: Places, group: int, timeout_s: float) -> dict[int, int]:
        message = DeleteRecords(tuple(places), int(timeout_s * 1000))
        answer, _ = await ask(self._shell, message, group=group, judge=_retryable_part, timeout_s=timeout_s)
        if not isinstance(answer, DeleteRecordsReply) or len(answer.partitions) != len(places):
            raise CorgiError("malformed-frame", "the answer to DeleteRecords was another")
        found: dict[int, int] = {}
        for (_, partition, _), (error, start) in zip(places, answer.partitions, strict=True):
            if error:
                failure = error_from_number(error)
                raise CorgiError(failure.code, f"partition {partition}: {failure.message}")
            found[partition] = start
        return found

    async def _ask_offsets(self, info: TopicInfo, group: int, numbers: Numbers, question: int) -> dict[int, Told]:
        message = ListOffsets(tuple([(info.topic, number, question) for number in numbers]))
        answer, _ = await ask(self._shell, message, group=group, judge=_offsets_error)
        if not isinstance(answer, ListOffsetsReply) or len(answer.partitions) != len(numbers):
            raise CorgiError("malformed-frame", "the answer to ListOffsets was another")
        return {number: entry[1:] for number, entry in zip(numbers, answer.partitions, strict=True)}


class _RepeatedError(Exception):
    """A refusal of a request that was sent more than once."""

    def __init__(self, error: CorgiError) -> None:
        super().__init__(error)
        self.error = error


def _retryable_only(answer: WireMessage) -> CorgiError | None:
    if isinstance(answer, TopicReply) and answer.error:
        error = error_from_number(answer.error, answer.message)
        return error if error.retryable else None
    return None


def _retryable_part(answer: WireMessage) -> CorgiError | None:
    if isinstance(answer, DeleteRecordsReply):
        for number, _ in answer.partitions:
            if number and error_from_number(number).retryable:
                return error_from_number(number)
    return None


def _offsets_error(answer: WireMessage) -> CorgiError | None:
    if isinstance(answer, ListOffsetsReply):
        for number, _, _ in answer.partitions:
            if number:
                return error_from_number(number)
    return None


def _check_partitions(partitions: int, least: int) -> None:
    if type(partitions) is not int or partitions < least:
        raise CorgiError("invalid-argument", f"partitions is {least} or more, not {partitions!r}")


def _config_text(config: dict[str, Config]) -> dict[str, str | None]:
    """Settings travel as text. Raises "invalid-argument" for a value of another type."""
    for key, value in config.items():
        if value is not None and not isinstance(value, str | int | float):
            raise CorgiError("invalid-argument", f"{key} is text, a number or None, not {value!r}")
    return {
        key: value if value is None or isinstance(value, str) else str(value).lower() for key, value in config.items()
    }


def _description(
    info: TopicInfo,
    groups: Sequence[GroupInfo],
    starts: Sequence[int] = (),
    ends: Sequence[int] = (),
    compacted: Sequence[Told] = (),
) -> TopicDescription:
    partitions = tuple(
        [
            PartitionDescription(
                number,
                group,
                groups[group].leader if group < len(groups) else 0,
                groups[group].replicas if group < len(groups) else (),
                starts[number] if starts else -1,
                ends[number] if ends else -1,
                compacted[number][0] if compacted else -1,
                compacted[number][1] / 1000 if compacted and compacted[number][1] >= 0 else -1.0,
            )
            for number, group in enumerate(info.groups)
        ]
    )
    return TopicDescription(info.name, info.topic, partitions, info.config)
