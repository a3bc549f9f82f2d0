"""CreateTopic, AlterTopic, DeleteTopic: checked for form here, done by the administration."""

from __future__ import annotations

from collections.abc import Callable

from corgi.base.limits import PARTITIONS_MAX
from corgi.base.ports import ClientSession
from corgi.broker.administration import Administration
from corgi.broker.bounds import check_range, timeout_s
from corgi.wire.messages import AlterTopic, CreateTopic, DeleteTopic, TopicInfo, TopicReply


class TopicRequests:
    """Requests that change topics."""

    __slots__ = ("_administration",)

    def __init__(self, administration: Administration) -> None:
        self._administration = administration

    def create(self, client: ClientSession, correlation: int, message: CreateTopic) -> None:
        """Raises CorgiError "invalid-argument"."""
        timeout_s(message.timeout_ms)
        check_range("partitions", message.partitions, 1, PARTITIONS_MAX)
        self._administration.create(message, _answer(client, correlation))

    def alter(self, client: ClientSession, correlation: int, message: AlterTopic) -> None:
        """Raises CorgiError "invalid-argument"."""
        timeout_s(message.timeout_ms)
        check_range("partitions", message.partitions, 0, PARTITIONS_MAX)
        self._administration.alter(message, _answer(client, correlation))

    def delete(self, client: ClientSession, correlation: int, message: DeleteTopic) -> None:
        """Raises CorgiError "invalid-argument"."""
        timeout_s(message.timeout_ms)
        self._administration.delete(message, _answer(client, correlation))


def _answer(client: ClientSession, correlation: int) -> Callable[[int, str, TopicInfo | None], None]:
    def done(error: int, message: str, topic: TopicInfo | None) -> None:
        if not client.closed:
            client.reply(correlation, TopicReply(error, message, topic))

    return done
