"""``mq.topic(name, type)``: a topic whose values have a type, checked when they are read."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from corgi.base.errors import CorgiError
from corgi.client.codecs import Codec
from corgi.client.messages import Message, Receipt
from corgi.client.publishing import Item, Key, check_items, pair_of
from corgi.client.receipts import Outcomes, PendingReceipt
from corgi.client.subscription import Subscription
from corgi.client.words import Acks, Duration, Headers, StartAt, Time, start_at, topic_name

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

    def subscribe(
        self,
        *,
        start: StartAt = "latest",
        partitions: Iterable[int] | None = None,
        prefetch_bytes: int = 0,
    ) -> Subscription[V]:
        """As ``Corgi.subscribe``; a value that cannot be decoded raises "codec" where it is met."""
        return self._mq.open_subscription(self.name, start_at(start), partitions, prefetch_bytes, self._decode_message)

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
