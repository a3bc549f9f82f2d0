"""``mq.topic(name, type)``: a topic whose values have a type, checked when they are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, cast, overload

from corgi.base.errors import CorgiError
from corgi.client.codecs import Codec
from corgi.client.consuming import GroupWords, HandlerWords
from corgi.client.group_subscription import GroupSubscription
from corgi.client.handlers import RunStatistics
from corgi.client.messages import Message, Receipt
from corgi.client.publishing import Item, Key, as_bytes, check_items, pair_of
from corgi.client.receipts import Outcomes, PendingReceipt
from corgi.client.subscription import Subscription
from corgi.client.words import Acks, Duration, Headers, Read, StartAt, Time, header_list, start_at, topic_name

if TYPE_CHECKING:
    from corgi.client.corgi import Corgi

V = TypeVar("V")


class Topic(Generic[V]):
    """Publishes and yields values of one type; ``name`` is the topic's. A value of None deletes a key."""

    def __init__(self, mq: Corgi, name: str, codec: Codec[V]) -> None:
        self.name = topic_name(name)
        self._mq = mq
        self._codec = codec

    async def publish(
        self,
        value: V | None,
        *,
        key: Key = None,
        headers: Headers | None = None,
        timestamp: Time | None = None,
        partition: int | None = None,
        acks: Acks = "quorum",
        timeout: Duration | None = None,
    ) -> Receipt:
        """As ``Corgi.publish``; raises "codec" too."""
        return await self._mq.publish(
            self.name,
            self._encode(value),
            key=key,
            headers=headers,
            timestamp=timestamp,
            partition=partition,
            acks=acks,
            timeout=timeout,
        )

    def publish_nowait(
        self,
        value: V | None,
        *,
        key: Key = None,
        headers: Headers | None = None,
        timestamp: Time | None = None,
        partition: int | None = None,
        acks: Acks = "quorum",
    ) -> PendingReceipt:
        """As ``Corgi.publish_nowait``; raises "codec" too."""
        return self._mq.publish_nowait(
            self.name,
            self._encode(value),
            key=key,
            headers=headers,
            timestamp=timestamp,
            partition=partition,
            acks=acks,
        )

    async def publish_many(
        self,
        items: Iterable[V | tuple[Key, V] | Message[V]] | AsyncIterable[V | tuple[Key, V] | Message[V]],
        *,
        acks: Acks = "quorum",
    ) -> Outcomes:
        """As ``Corgi.publish_many``. A value that cannot be encoded raises "codec"; those before it are published."""
        check_items(items)
        if isinstance(items, AsyncIterable):
            return await self._mq.publish_many(self.name, self._encode_each_later(items), acks=acks)
        return await self._mq.publish_many(self.name, self._encode_each(items), acks=acks)

    @overload
    def subscribe(
        self,
        *,
        start: StartAt = "latest",
        partitions: Iterable[int] | None = None,
        prefetch_bytes: int = 0,
        read: Read = "committed",
    ) -> Subscription[V]: ...
    @overload
    def subscribe(self, *, group: str, **options: Unpack[GroupWords]) -> GroupSubscription[V]: ...
    def subscribe(
        self,
        *,
        group: str | None = None,
        start: StartAt = "latest",
        partitions: Iterable[int] | None = None,
        prefetch_bytes: int = 0,
        read: Read = "committed",
        **options: Any,
    ) -> Subscription[V] | GroupSubscription[V]:
        """As ``Corgi.subscribe``. A value that cannot be decoded raises "codec" where it is met; in a group its message
        goes to the dead letters instead."""
        if group is None:
            if options:
                text = f"{', '.join(options)}: only for a consumer group"
                raise CorgiError("invalid-argument", text, hint='group="..."')
            decode = self._decode_message
            return self._mq.open_subscription(self.name, start_at(start), partitions, prefetch_bytes, decode, read)
        if partitions is not None:
            raise CorgiError("invalid-argument", "a consumer group shares out the partitions by itself")
        words = GroupWords(start=start, prefetch_bytes=prefetch_bytes, read=read)
        words.update(cast("GroupWords", options))
        return self._mq.open_group_subscription(self.name, group, self._decode_message, words)

    async def run(
        self,
        handler: Callable[..., Any],
        *,
        group: str,
        concurrency: int = 64,
        stop: asyncio.Event | None = None,
        **options: Unpack[HandlerWords],
    ) -> RunStatistics:
        """As ``Corgi.run``: the handler gets messages whose values are decoded, ``Delivered[V]``. A message whose value
        cannot be decoded goes to the dead letters."""
        return await self._mq.run(
            handler,
            self.name,
            group=group,
            concurrency=concurrency,
            stop=stop,
            decode=self._decode_message,
            **options,
        )

    def result(self, value: V | None, *, key: Key = None, headers: Headers | None = None) -> Message[bytes]:
        """A result of an exactly-once handler, for this topic. Raises "codec"."""
        fields = () if headers is None else tuple(header_list(headers))
        return Message(topic=self.name, key=as_bytes(key, "key"), value=self._encode(value), headers=fields)

    def _encode(self, value: V | None) -> bytes | None:
        return None if value is None else self._codec.encode(value)

    def _encode_item(self, item: V | tuple[Key, V] | Message[V]) -> Item:
        if isinstance(item, Message):
            return Message(timestamp=item.timestamp, key=item.key, value=self._encode(item.value), headers=item.headers)
        if type(item) is tuple:
            key, value = pair_of(item)
            return key, self._encode(value)
        return self._codec.encode(item)  # type: ignore[arg-type]

    def _encode_each(self, items: Iterable[V | tuple[Key, V] | Message[V]]) -> Iterator[Item]:
        for item in items:
            yield self._encode_item(item)

    async def _encode_each_later(self, items: AsyncIterable[V | tuple[Key, V] | Message[V]]) -> AsyncIterator[Item]:
        async for item in items:
            yield self._encode_item(item)

    def _decode_message(self, message: Message[bytes]) -> Message[V]:
        try:
            value = None if message.value is None else self._codec.decode(message.value)
        except CorgiError as error:
            place = f"{message.topic}/{message.partition} at offset {message.offset}"
            raise CorgiError("codec", f"{place}: {error.message}") from error
        return Message(
            message.topic,
            message.partition,
            message.offset,
            message.timestamp,
            message.key,
            value,
            message.headers,
        )
