"""``mq.topics`` and ``mq.groups`` of the synchronous face."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from corgi.client import corgi as asynchronous
from corgi.client.groups import GroupDescription, GroupSummary, ResetTo
from corgi.client.loop_thread import LoopThread
from corgi.client.messages import NodeDescription, TopicDescription
from corgi.client.words import Duration, Time


class Topics:
    """``mq.topics``, as in the asynchronous client."""

    def __init__(self, thread: LoopThread, mq: asynchronous.Corgi) -> None:
        self._thread = thread
        self._topics = mq.topics

    def create(
        self,
        name: str,
        *,
        partitions: int = 1,
        colocate_with: str = "",
        timeout: Duration = "10s",
        **config: str | int | bool | None,
    ) -> TopicDescription:
        return self._thread.call(
            lambda: self._topics.create(
                name, partitions=partitions, colocate_with=colocate_with, timeout=timeout, **config
            )
        )

    def list(self, *, system: bool = False) -> list[TopicDescription]:
        return self._thread.call(lambda: self._topics.list(system=system))

    def describe(self, name: str) -> TopicDescription:
        return self._thread.call(lambda: self._topics.describe(name))

    def offsets(self, name: str, at: Time | str = "latest") -> dict[int, int]:
        return self._thread.call(lambda: self._topics.offsets(name, at))

    def alter(
        self, name: str, *, partitions: int = 0, timeout: Duration = "10s", **config: str | int | bool | None
    ) -> TopicDescription:
        return self._thread.call(lambda: self._topics.alter(name, partitions=partitions, timeout=timeout, **config))

    def delete(self, name: str, *, timeout: Duration = "10s") -> None:
        self._thread.call(lambda: self._topics.delete(name, timeout=timeout))

    def trim(self, name: str, before: Mapping[int, int] | str, *, timeout: Duration = "10s") -> dict[int, int]:
        return self._thread.call(lambda: self._topics.trim(name, before, timeout=timeout))

    def nodes(self) -> Sequence[NodeDescription]:
        return self._thread.call(self._topics.nodes)


class Groups:
    """``mq.groups``, as in the asynchronous client."""

    def __init__(self, thread: LoopThread, mq: asynchronous.Corgi) -> None:
        self._thread = thread
        self._groups = mq.groups

    def list(self, *, timeout: Duration = "10s") -> list[GroupSummary]:
        return self._thread.call(lambda: self._groups.list(timeout=timeout))

    def describe(self, name: str, *, timeout: Duration = "10s") -> GroupDescription:
        return self._thread.call(lambda: self._groups.describe(name, timeout=timeout))

    def reset(
        self,
        name: str,
        topic: str,
        to: ResetTo,
        *,
        partitions: Iterable[int] | None = None,
        timeout: Duration = "10s",
    ) -> dict[int, int]:
        return self._thread.call(lambda: self._groups.reset(name, topic, to, partitions=partitions, timeout=timeout))

    def delete(self, name: str, *, timeout: Duration = "10s") -> None:
        self._thread.call(lambda: self._groups.delete(name, timeout=timeout))
