"""What the client costs per record, without brokers: publish_nowait, publish_many, encoding, decoding.

    python benchmarks/client_encode.py

The client's own core and its public publishing functions run against a link that acknowledges every request in the
next turn, so that everything but sockets is paid for. The best of five rounds counts: others use the machine too.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from corgi.base.command import Buffer
from corgi.base.records import decode_batch, encode_batch
from corgi.client.core.links import Address, Done
from corgi.client.core.options import ClientOptions
from corgi.client.core.partitioner import KeyedPartitions
from corgi.client.core.subscriber import Delivery
from corgi.client.publishing import Publisher
from corgi.client.shell import Shell
from corgi.client.subscription import messages_of
from corgi.wire.messages import (
    GroupInfo,
    HelloReply,
    InitProducer,
    InitProducerReply,
    Metadata,
    MetadataReply,
    NodeInfo,
    Produce,
    ProduceReply,
    TopicInfo,
    WireMessage,
)

ROUNDS = 5
ADDRESS = Address("nowhere", 1)
NOTHING = memoryview(b"")


class AgreeableNode:
    """A link whose node says yes to everything."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def request(self, message: WireMessage, payload: Sequence[Buffer], done: Done) -> None:
        answer: WireMessage
        if isinstance(message, Produce):
            answer = ProduceReply(tuple([(0, 0, 0)] * len(message.batches)))
        elif isinstance(message, InitProducer):
            answer = InitProducerReply(1, 0)
        elif isinstance(message, Metadata):
            topic = TopicInfo("t", 16, tuple(range(8)), {})  # type: ignore[arg-type]
            groups = (GroupInfo(1, 1, (1,)),) * 8  # type: ignore[arg-type]
            answer = MetadataReply("c", 1, (NodeInfo(1, *ADDRESS, True),), groups, (topic,))  # type: ignore[arg-type]
        else:
            raise AssertionError(message)
        self._shell.loop.call_soon(self._answer, done, answer)

    def _answer(self, done: Done, answer: WireMessage) -> None:
        done(answer, NOTHING)
        self._shell.wake()

    def tell(self, message: WireMessage, payload: Sequence[Buffer] = ()) -> None: ...

    def buffered(self) -> int:
        return 0

    def heard_at(self) -> float:
        return self._shell.loop.time()

    def close(self) -> None: ...


async def per_record(name: str, records: int, work: Callable[[], Awaitable[None]]) -> None:
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        await work()
        best = min(best, time.process_time() - start)
    print(f"{name:38s} {best / records * 1e6:6.2f} µs per record")


async def connected() -> Publisher:
    """A publisher that knows the topic "t"."""
    shell = Shell(ClientOptions(), [])
    shell.core.link_up(AgreeableNode(shell), HelloReply(1, "c", 1, 2**26), ADDRESS)  # type: ignore[arg-type]
    shell.core.need_topic("t")
    shell.wake()
    await shell.until(lambda done: shell.core.when_topic("t", lambda _: done()))
    return Publisher(shell)


async def nowait(publisher: Publisher, values: list[bytes]) -> None:
    publish = publisher.publish_nowait
    for at in range(0, len(values), 500):
        for value in values[at : at + 500]:
            publish("t", value)
        await asyncio.sleep(0)
    await publisher.flush()


async def nowait_keyed(publisher: Publisher, pairs: list[tuple[bytes, bytes]]) -> None:
    publish = publisher.publish_nowait
    for at in range(0, len(pairs), 500):
        for key, value in pairs[at : at + 500]:
            publish("t", value, key=key)
        await asyncio.sleep(0)
    await publisher.flush()


async def awaited(publisher: Publisher, values: list[bytes]) -> None:
    async def one(part: list[bytes]) -> None:
        for value in part:
            await publisher.publish("t", value)

    await asyncio.gather(*[one(values[at::100]) for at in range(100)])


async def many(publisher: Publisher, items: list[Any]) -> None:
    await publisher.publish_many("t", items)


async def publishing(size: int, count: int) -> None:
    publisher = await connected()
    values = [os.urandom(size) for _ in range(count)]
    keyed = [(b"key-%05d" % (number % 5_000), value) for number, value in enumerate(values)]
    fresh = [(b"key-%09d" % number, value) for number, value in enumerate(values)]
    await per_record(f"publish_nowait {size} B", count, lambda: nowait(publisher, values))
    await per_record(f"publish_nowait {size} B, 5,000 keys", count, lambda: nowait_keyed(publisher, keyed))
    await per_record(f"publish_many {size} B", count, lambda: many(publisher, values))
    await per_record(f"publish_many {size} B, 5,000 keys", count, lambda: many(publisher, keyed))
    await per_record(f"publish_many {size} B, new keys", count, lambda: many(publisher, fresh))
    await per_record(f"await publish {size} B, 100 tasks", count, lambda: awaited(publisher, values))


async def codec(size: int, count: int) -> None:
    records = [(None, os.urandom(size), [], 1_700_000_000_000) for _ in range(count)]
    batch = encode_batch(records)
    delivery = Delivery(0, memoryview(batch), 0, count, -1, count)  # type: ignore[arg-type]

    async def encode() -> None:
        encode_batch(records)

    async def decode() -> None:
        decode_batch(batch)

    async def messages() -> None:
        messages_of("t", delivery)

    await per_record(f"encode_batch {size} B", count, encode)
    await per_record(f"decode_batch {size} B", count, decode)
    await per_record(f"Messages of a batch {size} B", count, messages)


async def keys() -> None:
    count = 50_000
    fresh = [b"key-%09d" % number for number in range(count)]

    async def hash_fresh() -> None:
        partitions = KeyedPartitions(12)
        for key in fresh:
            partitions[key]

    partitions = KeyedPartitions(12)

    async def look_up() -> None:
        for key in fresh:
            partitions[key]

    await per_record("partition of a new key, 13 B", count, hash_fresh)
    await per_record("partition of a known key", count, look_up)


async def main() -> None:
    for size, count in ((100, 100_000), (1_024, 20_000)):
        await publishing(size, count)
        await codec(size, 2_000)
    await keys()


if __name__ == "__main__":
    asyncio.run(main())
