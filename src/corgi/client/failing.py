"""What becomes of messages that were not handled: the topics for another try and for the dead, and their records.

Both topics lie where their input lies, so that moving a message there and checkpointing it is one act. They are made
when the first message needs them. The record keeps key, value and headers of the message; headers that begin with
"corgi-" tell where it came from and why it is here.
"""

from __future__ import annotations

import re
from typing import Any

from corgi.base.errors import CorgiError
from corgi.base.records import Header
from corgi.client.core.backoff import Backoff
from corgi.client.core.routing import TopicRoute
from corgi.client.held import Delivered, Result, result_in
from corgi.client.shell import Shell
from corgi.client.topics import Topics

ATTEMPT = "corgi-attempt"
ERROR = "corgi-error"
TOPIC = "corgi-topic"
PARTITION = "corgi-partition"
OFFSET = "corgi-offset"
NOT_BEFORE = "corgi-not-before"
OWN = frozenset((ATTEMPT, ERROR, TOPIC, PARTITION, OFFSET, NOT_BEFORE))
ERROR_CHARACTERS_MAX = 1_000
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)


class Rejected(Exception):
    """A message that no further try will help."""


def retry_topic(topic: str, group: str) -> str:
    return f"{topic}.retry.{group}"


def dead_topic(topic: str, group: str) -> str:
    return f"{topic}.dead.{group}"


def check_names(topics: tuple[str, ...], group: str) -> None:
    """Raises "invalid-argument" if a dead-letter topic could not be named."""
    for topic in topics:
        if not _NAME.fullmatch(retry_topic(topic, group)):
            raise CorgiError(
                "invalid-argument",
                f"failed messages would go to {dead_topic(topic, group)!r}, which is no name of a topic",
                hint="name the group with letters, digits, '.', '_' or '-', and not too long",
            )


class Failures:
    """``attempts``: how often a message is tried. ``min_s``, ``max_s``: the pause after the first, and the longest."""

    def __init__(self, shell: Shell, group: str, attempts: int, min_s: float, max_s: float) -> None:
        self.attempts = attempts
        self.retried = 0
        self.dead = 0
        self._shell = shell
        self._topics = Topics(shell)
        self._group = group
        self._min_s = min_s
        self._max_s = max_s

    def pause_s(self, attempt: int) -> float:
        """Before the next try, after this one failed."""
        backoff = Backoff(self._min_s, self._max_s, self._shell.chance)
        backoff.failures = attempt - 1
        return backoff.next()

    def restore(self, message: Delivered[Any]) -> float:
        """Take in what its headers tell of earlier tries; returns how long it has to wait, in seconds."""
        attempt = message.header(ATTEMPT)
        not_before = message.header(NOT_BEFORE)
        if attempt is not None and attempt.isdigit():
            message.attempt = int(attempt[:9])
        if not_before is not None and not_before.isdigit():
            return int(not_before[:18]) / 1000 - self._shell.wall()
        return 0.0

    async def again(self, message: Delivered[Any], error: BaseException, after_s: float) -> Result:
        """The record that has the message tried again later. Raises what creating the topic does."""
        self.retried += 1
        more: list[Header] = [
            (ATTEMPT, b"%d" % (message.attempt + 1)),
            (NOT_BEFORE, b"%d" % int((self._shell.wall() + after_s) * 1000)),
        ]
        return await self._record(message, error, retry_topic(self._origin(message), self._group), more)

    async def bury(self, message: Delivered[Any], error: BaseException) -> Result:
        """The record in the dead-letter topic. Raises what creating the topic does."""
        self.dead += 1
        more: list[Header] = [(ATTEMPT, b"%d" % message.attempt)]
        return await self._record(message, error, dead_topic(self._origin(message), self._group), more)

    def _origin(self, message: Delivered[Any]) -> str:
        origin = message.header(TOPIC) if message.topic.endswith(f".retry.{self._group}") else None
        return message.topic if origin is None else origin.decode(errors="replace")

    async def _record(self, message: Delivered[Any], error: BaseException, topic: str, more: list[Header]) -> Result:
        kept = [header for header in message.headers if header[0] not in OWN]
        if message.header(TOPIC) is not None and self._origin(message) != message.topic:
            where = [header for header in message.headers if header[0] in (TOPIC, PARTITION, OFFSET)]
        else:
            where = [
                (TOPIC, message.topic.encode()),
                (PARTITION, b"%d" % message.partition),
                (OFFSET, b"%d" % message.offset),
            ]
        reason = text_of(error)[:ERROR_CHARACTERS_MAX].encode(errors="replace")
        route = await self._ready(topic, message)
        headers = [*kept, *where, *more, (ERROR, reason)]
        return result_in(route, message.partition, (message.key, message.value, headers, message.timestamp))

    async def _ready(self, name: str, message: Delivered[Any]) -> TopicRoute:
        """The topic, made if it is missing, with the partition that is needed."""
        routing = self._shell.core.routing
        wanted = len(routing.topics[message.topic].groups)
        route = routing.topics.get(name)
        if route is None:
            try:
                await self._topics.create(name, partitions=wanted, colocate_with=message.topic)
            except CorgiError as error:
                if error.code != "topic-exists":
                    raise
                await self._topics.describe(name)
        if routing.topics[name].partitions <= message.partition:
            await self._topics.alter(name, partitions=wanted)
        return routing.topics[name]


def text_of(error: BaseException) -> str:
    """What a person reads about it."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
