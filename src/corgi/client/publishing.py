"""Publishing as users see it: one message awaited, one not awaited, very many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Iterator
from time import time
from typing import TypeVar

from corgi.base.errors import CorgiError
from corgi.client.core.batch import Outcome
from corgi.client.core.options import QUORUM
from corgi.client.core.producer import Handle
from corgi.client.messages import Message, Receipt
from corgi.client.receipts import Outcomes, PendingReceipt, receipt_of, wait_for
from corgi.client.shell import Shell
from corgi.client.topics import route_of
from corgi.client.words import (
    Acks,
    Duration,
    Headers,
    Time,
    acks_number,
    header_list,
    milliseconds,
    seconds,
    topic_name,
)

Value = bytes | str | None
Key = bytes | str | None
Item = bytes | str | tuple[Key, Value] | Message[bytes]
T = TypeVar("T")

TURN_BYTES = 256 * 1024  # publish_many lets the loop turn after so many
TURN_ITEMS = 512
CHUNK_ITEMS = 4_096  # values that are handed to the codec at once


class Publisher:
    """The publishing half of ``Corgi``."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._producer = shell.core.producer

    async def publish(
        self,
        topic: str,
        value: Value,
        *,
        key: Key = None,
        headers: Headers | None = None,
        timestamp: Time | None = None,
        partition: int | None = None,
        acks: Acks = "quorum",
        timeout: Duration | None = None,
    ) -> Receipt:
        """Publish one message and wait until it is safe: on a majority's disks, with its offset.

        Records with the same key go to the same partition, in order; without a key and ``partition`` the client
        chooses. ``timestamp`` defaults to now. ``acks`` "leader": on one disk, offset unknown, not safe to retry;
        "none": not awaited at all. ``timeout`` bounds the whole call (default: the client's publish_timeout). After a
        time-out the message may be stored or not; one that was sent may still be stored later, in its place.
        """
        timeout_s = 0.0 if timeout is None else seconds(timeout, "timeout")
        if self._producer.full:
            await self._room(timeout_s or self._shell.options.publish_timeout_s)
        outcome, index = self._hand_over(topic, value, key, headers, timestamp, partition, acks, timeout_s)
        if not timeout_s:
            await wait_for(outcome)
            return receipt_of(outcome, index)
        try:
            async with asyncio.timeout(timeout_s):
                await wait_for(outcome)
        except TimeoutError:
            raise CorgiError("timeout", f"no answer within {timeout_s:g} s; the message may be stored or not") from None
        return receipt_of(outcome, index)

    def publish_nowait(
        self,
        topic: str,
        value: Value,
        *,
        key: Key = None,
        headers: Headers | None = None,
        timestamp: Time | None = None,
        partition: int | None = None,
        acks: Acks = "quorum",
    ) -> PendingReceipt:
        """Publish without waiting; the receipt can be awaited, now, later or never.

        Raises "overloaded" when buffer_bytes are on their way: ``await mq.ready()`` then, or now and again.
        """
        if type(value) is bytes and headers is None and timestamp is None and (key is None or type(key) is bytes):
            mode = QUORUM if acks == "quorum" else acks_number(acks)
            try:
                outcome, index = self._producer.publish(topic, key, value, None, int(time() * 1000), partition, mode)
            except TypeError:
                topic_name(topic)
                raise
            return PendingReceipt(outcome, index)
        return PendingReceipt(*self._hand_over(topic, value, key, headers, timestamp, partition, acks, 0.0))

    async def publish_many(
        self,
        topic: str,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        acks: Acks = "quorum",
    ) -> Outcomes:
        """Publish values, (key, value) pairs or Messages; returns each item's Receipt or CorgiError when all are known.

        Takes any number of items: it waits for room by itself. Raises "unknown-topic".
        """
        mode = acks_number(acks)
        check_items(items)
        outcomes = Outcomes()
        if not self._producer.knows(topic_name(topic)):
            await self.topic_known(topic)
        if isinstance(items, AsyncIterable):
            async for item in items:
                if self._producer.full:
                    await self._room(None)
                self._add_item(outcomes, topic, item, mode)
        else:
            await self._add_items(outcomes, topic, items, mode)
        await outcomes.settle()
        return outcomes

    async def flush(self) -> None:
        """Wait until everything published so far has its outcome; errors stay with their receipts."""
        for outcome in self._producer.unfinished():
            await wait_for(outcome)

    async def ready(self) -> None:
        """Wait until ``publish_nowait`` takes messages again."""
        if self._producer.full:
            await self._room(None)

    # One item

    def _hand_over(
        self,
        topic: str,
        value: Value,
        key: Key,
        headers: Headers | None,
        timestamp: Time | None,
        partition: int | None,
        acks: str,
        timeout_s: float,
    ) -> Handle:
        return self._producer.publish(
            topic if type(topic) is str else topic_name(topic),
            as_bytes(key, "key"),
            as_bytes(value, "value"),
            None if headers is None else header_list(headers),
            int(time() * 1000) if timestamp is None else milliseconds(timestamp),
            partition,
            acks_number(acks),
            timeout_s,
        )

    def _add_item(self, outcomes: Outcomes, topic: str, item: Item, acks: int) -> None:
        try:
            if isinstance(item, Message):
                timestamp = item.timestamp
                timestamp = int(time() * 1000) if type(timestamp) is int and timestamp < 0 else milliseconds(timestamp)
                outcome, index = self._producer.publish(
                    topic,
                    as_bytes(item.key, "key"),
                    as_bytes(item.value, "value"),
                    header_list(item.headers) if item.headers else None,
                    timestamp,
                    None,
                    acks,
                )
            else:
                key, value = pair_of(item) if isinstance(item, tuple) else (None, item)
                outcome, index = self._producer.publish(
                    topic, as_bytes(key, "key"), as_bytes(value, "value"), None, int(time() * 1000), None, acks
                )
        except CorgiError as error:
            outcome, index = Outcome(topic, -1), 0
            outcome.fail(error)
        outcomes.add(outcome, index, 1)

    # Many items

    async def _add_items(self, outcomes: Outcomes, topic: str, items: Iterable[Item], acks: int) -> None:
        """Runs of plain values go to the codec together; the loop turns in between."""
        for chunk in _chunks(items, CHUNK_ITEMS):
            if all(type(item) is bytes for item in chunk):
                await self._add_values(outcomes, topic, chunk, acks)  # type: ignore[arg-type]
                continue
            if all(type(item) is tuple and len(item) == 2 for item in chunk):
                await self._add_pairs(outcomes, topic, chunk, acks)  # type: ignore[arg-type]
                continue
            for at, item in enumerate(chunk):
                if self._producer.full:
                    await self._room(None)
                elif at % TURN_ITEMS == TURN_ITEMS - 1:
                    await asyncio.sleep(0)
                self._add_item(outcomes, topic, item, acks)
            await asyncio.sleep(0)

    async def _add_values(self, outcomes: Outcomes, topic: str, values: list[bytes], acks: int) -> None:
        at = 0
        turned_at = self._producer.published
        while at < len(values):
            if self._producer.full:
                await self._room(None)
            runs, at = self._producer.publish_values(topic, values, at, int(time() * 1000), acks)
            for outcome, first, count in runs:
                outcomes.add(outcome, first, count)
            if self._producer.published - turned_at >= TURN_BYTES:
                await asyncio.sleep(0)
                turned_at = self._producer.published
        await asyncio.sleep(0)

    async def _add_pairs(
        self, outcomes: Outcomes, topic: str, pairs: list[tuple[bytes | None, bytes | None]], acks: int
    ) -> None:
        at = 0
        while at < len(pairs):
            if self._producer.full:
                await self._room(None)
            done, places = self._producer.publish_pairs(topic, pairs, at, len(pairs), int(time() * 1000), acks)
            outcomes.add_each(done, places)
            at += len(done)
            if at < len(pairs):
                self._add_item(outcomes, topic, pairs[at], acks)
                at += 1
            if len(done) > TURN_ITEMS:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    # Waiting

    async def _room(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while self._producer.full:
                    await self._shell.until(self._producer.when_room)
        except TimeoutError:
            raise CorgiError("overloaded", "the client's buffer stayed full") from None

    async def topic_known(self, topic: str) -> None:
        """Wait until the client knows the topic. Raises "unknown-topic"."""
        await route_of(self._shell, topic)


def as_bytes(field: object, name: str) -> bytes | None:
    """A key or value as bytes; text as UTF-8. Raises "invalid-argument" for another type."""
    if field is None or type(field) is bytes:
        return field
    if isinstance(field, str):
        try:
            return field.encode()
        except UnicodeEncodeError as error:
            raise CorgiError("invalid-argument", f"a {name} cannot be written as UTF-8: {error}") from None
    if isinstance(field, (bytes, bytearray, memoryview)):
        return bytes(field)
    raise CorgiError(
        "invalid-argument",
        f"a {name} is bytes or str, not {type(field).__name__}",
        hint="for typed values use mq.topic(name, type)",
    )


def pair_of(item: tuple[T, ...]) -> tuple[T, T]:
    """An item that is (key, value). Raises "invalid-argument"."""
    if len(item) != 2:
        raise CorgiError("invalid-argument", f"an item is a value, (key, value) or a Message, not {len(item)} things")
    return item[0], item[1]


def check_items(items: object) -> None:
    """Raises "invalid-argument" for what holds no items, as one value does not."""
    if isinstance(items, (str, bytes, bytearray, memoryview)) or not isinstance(items, (Iterable, AsyncIterable)):
        raise CorgiError(
            "invalid-argument",
            f"items are a list or another iterable of values, not {type(items).__name__}",
            hint="one value: mq.publish(topic, value)",
        )


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    if isinstance(items, (list, tuple)):
        for at in range(0, len(items), size):
            yield items[at : at + size] if isinstance(items, list) else list(items[at : at + size])
        return
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
