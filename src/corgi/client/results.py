"""What a handler hands back in exactly-once: records that are stored together with the checkpoint, or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from corgi.base.errors import CorgiError
from corgi.client.held import Delivered, Result, result_in
from corgi.client.messages import Message
from corgi.client.publishing import Key, Value, as_bytes
from corgi.client.shell import Shell
from corgi.client.topics import route_of
from corgi.client.words import Headers, header_list, topic_name

if TYPE_CHECKING:
    from corgi.client.core.routing import TopicRoute

Item = Message[bytes] | tuple[Any, ...]


class Results:
    """The ``tx`` that a handler of two arguments gets: ``tx.publish(topic, value, key=...)``."""

    def __init__(self) -> None:
        self.items: list[tuple[str, bytes | None, bytes | None, Headers | None, int | None]] = []
        self.ended = False

    def publish(
        self,
        topic: str,
        value: Value,
        *,
        key: Key = None,
        headers: Headers | None = None,
        partition: int | None = None,
    ) -> None:
        """A result. Without ``partition`` it goes to that of the input, if the topic lies where the input lies;
        otherwise to that of its key. Results that lie in other Paxos groups than the input take two phases.

        Raises "closed" when the handler has returned, "invalid-argument".
        """
        if self.ended:
            raise CorgiError("closed", "results are published before the handler returns")
        self.items.append((topic_name(topic), as_bytes(key, "key"), as_bytes(value, "value"), headers, partition))

    def add(self, returned: object) -> None:
        """What the handler returned: None, a result, or an iterable of results. Raises "invalid-argument"."""
        if returned is None:
            return
        if isinstance(returned, (Message, tuple)):
            self._add_one(returned)
        elif isinstance(returned, Iterable) and not isinstance(returned, (str, bytes)):
            for one in returned:
                self._add_one(one)
        else:
            raise _not_a_result(returned)

    def _add_one(self, item: object) -> None:
        if isinstance(item, Message):
            partition = None if item.partition < 0 else item.partition
            self.publish(item.topic, item.value, key=item.key, headers=item.headers or None, partition=partition)
        elif isinstance(item, tuple) and len(item) in (2, 3) and isinstance(item[0], str):
            self.publish(item[0], item[1], key=item[2] if len(item) == 3 else None)
        else:
            raise _not_a_result(item)


def _not_a_result(item: object) -> CorgiError:
    return CorgiError(
        "invalid-argument",
        f"a handler in exactly-once returns None or results, not {type(item).__name__}",
        hint='a result is corgi.Message(topic=..., value=...) or ("topic", value) or ("topic", value, key)',
    )


async def placed(shell: Shell, results: Results, cause: Delivered[Any]) -> tuple[Result, ...]:
    """The results with their places. Raises "unknown-topic", "unknown-partition", "invalid-record"."""
    results.ended = True
    now = int(shell.wall() * 1000)
    group = shell.core.routing.topics[cause.topic].groups[cause.partition]
    found = []
    for topic, key, value, headers, partition in results.items:
        route = shell.core.routing.topics.get(topic) or await route_of(shell, topic)
        number = _partition(route, cause.partition, group, key, partition)
        if not 0 <= number < route.partitions:
            raise CorgiError("unknown-partition", f"{topic} has {route.partitions} partitions, no {number}")
        if route.compacted and key is None:
            raise route.keyless()
        fields = (key, value, [] if headers is None else header_list(headers), now)
        found.append(result_in(route, number, fields))
    return tuple(found)


def _partition(route: TopicRoute, of_cause: int, group: int, key: bytes | None, told: int | None) -> int:
    """That of the cause if it lies where the cause lies; otherwise that of the key, or one that is near."""
    if told is not None:
        return told
    if of_cause < route.partitions and route.groups[of_cause] == group:
        return of_cause
    if key is not None:
        return route.keyed[key]
    near = [number for number, of in enumerate(route.groups) if of == group]
    return near[of_cause % len(near)] if near else of_cause % route.partitions
