"""Topics whose values have a type."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pytest

import corgi
from corgi import Codec, CorgiError, Message


class Order(msgspec.Struct):
    id: int
    item: str
    price: float = 0.0


@dataclass
class Point:
    x: int
    y: int


@pytest.fixture
async def mq(servers: str) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(servers) as client:
        yield client


async def first(subscription: corgi.Subscription[Any]) -> Message[Any]:
    async with asyncio.timeout(10):
        async for message in subscription:
            return message
    raise AssertionError("the subscription ended")


@pytest.mark.parametrize("format_", ["json", "msgpack"])
@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Order, Order(7, "bone", 1.5)),
        (Point, Point(1, 2)),
        (dict, {"a": [1, None]}),
        (int, 5),
        (bytes, b"raw"),
        (str, "ü"),
    ],
)
async def test_values_come_back_as_they_were(
    mq: corgi.Corgi, name: str, type_: type, value: Any, format_: Literal["json", "msgpack"]
) -> None:
    await mq.topics.create(name)
    topic = mq.topic(name, type_, format=format_)
    receipt = await topic.publish(value, key="k", headers=[("h", b"1")])
    message = await first(topic.subscribe(start="earliest"))
    assert message.value == value
    assert type(message.value) is type_
    assert (message.offset, message.key, message.headers) == (receipt.offset, b"k", (("h", b"1"),))


async def test_without_a_type_values_are_bytes(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    topic = mq.topic(name)
    await topic.publish(b"raw")
    assert (await first(topic.subscribe(start="earliest"))).value == b"raw"


async def test_many_typed_items(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    orders = mq.topic(name, Order)

    async def stream() -> AsyncIterator[Order]:
        yield Order(3, "c")

    (await orders.publish_many([Order(1, "a")])).raise_first()
    (await orders.publish_many([("key", Order(2, "b")), Message(key=b"k", value=Order(4, "d"))])).raise_first()
    (await orders.publish_many(stream())).raise_first()
    assert (await orders.publish_nowait(Order(5, "e"))).offset == 4
    ids = []
    async for batch in orders.subscribe(start="earliest").batches():
        ids += [message.value.id for message in batch if message.value is not None]
        if len(ids) == 5:
            break
    assert ids == [1, 2, 4, 3, 5]


async def test_a_tombstone_stays_one(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    orders = mq.topic(name, Order)
    await orders.publish(None, key=b"k")
    assert (await first(orders.subscribe(start="earliest"))).value is None


async def test_what_does_not_fit_the_type_is_told_with_its_place(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    await mq.publish(name, b'{"id": "seven"}')
    with pytest.raises(CorgiError) as caught:
        await first(mq.topic(name, Order).subscribe(start="earliest"))
    assert caught.value.code == "codec"
    assert f"{name}/0 at offset 0" in str(caught.value)


async def test_what_cannot_be_encoded_is_told(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    anything: Any = object()
    for call in (mq.topic(name, Order).publish(anything), mq.topic(name, str).publish(anything)):
        with pytest.raises(CorgiError) as caught:
            await call
        assert caught.value.code == "codec"


async def test_a_codec_of_ones_own(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    numbers = mq.topic(name, codec=Codec[int]("decimal", lambda n: b"%d" % n, int))
    await numbers.publish(42)
    assert (await first(numbers.subscribe(start="earliest"))).value == 42


async def test_a_type_or_format_that_cannot_be_is_told(mq: corgi.Corgi) -> None:
    class Odd:
        def __init__(self, *, secret: int) -> None: ...

    wrong: Any = "xml"
    with pytest.raises(CorgiError, match="json"):
        mq.topic("t", Order, format=wrong)
    with pytest.raises(CorgiError) as caught:
        mq.topic("t", dict[Odd, set[Odd] | list[Odd]])
    assert caught.value.code == "codec"


async def test_handlers_in_a_group_get_values_and_what_does_not_decode_is_among_the_dead(
    mq: corgi.Corgi, name: str
) -> None:
    await mq.topics.create(name)
    await mq.topics.create(f"{name}-out", colocate_with=name)
    orders, totals = mq.topic(name, Order), mq.topic(f"{name}-out", int)
    await orders.publish(Order(1, "a", 2.0))
    await mq.publish(name, b"no order")
    await orders.publish(Order(2, "b", 3.0))
    stop = asyncio.Event()

    async def handler(m: corgi.Delivered[Order]) -> Message[bytes]:
        assert m.value is not None
        if m.value.id == 2:
            stop.set()
        return totals.result(int(m.value.price), key=m.value.item, headers={"h": b"1"})

    sums = await orders.run(
        handler, group=name, semantics="exactly_once", start="earliest", order="partition", stop=stop
    )
    assert (sums.handled, sums.dead) == (2, 1)
    found = [message async for message in mq.replay(f"{name}-out")]
    assert [(m.key, m.value, m.headers) for m in found] == [(b"a", b"2", (("h", b"1"),)), (b"b", b"3", (("h", b"1"),))]
    [dead] = [message.value async for message in mq.replay(f"{name}.dead.{name}")]
    assert dead == b"no order"


async def test_iterating_in_a_group_gives_values(mq: corgi.Corgi, name: str) -> None:
    await mq.topics.create(name)
    orders = mq.topic(name, Order)
    await orders.publish(Order(1, "a"))
    async with orders.subscribe(group=name, start="earliest") as messages:
        async for message in messages:
            assert message.value == Order(1, "a")
            message.ack()
            break
    wrong: Any
    for wrong in ({"group": "g", "partitions": [0]}, {"semantics": "at_most_once"}, {"read": "dirty"}):
        with pytest.raises(CorgiError) as refused:
            orders.subscribe(**wrong)
        assert refused.value.code == "invalid-argument"
