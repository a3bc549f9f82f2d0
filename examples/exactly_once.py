"""Make one message of another, exactly once: python examples/exactly_once.py [HOST:PORT,…]

What the handler returns and the group's checkpoint are stored together or not at all, whoever is killed when.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import corgi

CORGI_DEV = "127.0.0.1:7450,127.0.0.1:7451,127.0.0.1:7452"  # one of them may be down
COUNT = 200


async def work(
    mq: corgi.Corgi, group: str, handle: Callable[[corgi.Delivered[bytes]], Awaitable[corgi.Message[bytes]]]
) -> corgi.RunStatistics:
    """Run until the handler has seen every payment once."""
    stop = asyncio.Event()
    seen: set[tuple[int, int]] = set()

    async def counted(payment: corgi.Delivered[bytes]) -> corgi.Message[bytes]:
        result = await handle(payment)
        seen.add((payment.partition, payment.offset))
        if len(seen) == COUNT:
            stop.set()
        return result

    return await mq.run(counted, "payments", group=group, semantics="exactly_once", start="earliest", stop=stop)


async def main(servers: str) -> None:
    async with corgi.connect(servers) as mq:
        await mq.topics.create("payments", partitions=4)
        await mq.topics.create("receipts", partitions=4, colocate_with="payments")
        await mq.topics.create("ledger", partitions=1)
        await mq.publish_many("payments", [(f"customer-{n % 7}", f"{n} euro") for n in range(COUNT)])

        async def receipt(payment: corgi.Delivered[bytes]) -> corgi.Message[bytes]:
            return corgi.Message(topic="receipts", key=payment.key, value=b"paid: " + (payment.value or b""))

        async def entry(payment: corgi.Delivered[bytes]) -> corgi.Message[bytes]:
            return corgi.Message(topic="ledger", partition=0, key=payment.key, value=payment.value)

        # Each receipt lies in the Paxos group of its payment: one round.
        near = await work(mq, "receipts", receipt)
        print(f"receipts: {near.two_phase} commits took two phases")

        # The ledger has one partition, which most payments lie apart from: a transaction.
        far = await work(mq, "ledger", entry)
        print(f"ledger: {'some' if far.two_phase else 'no'} commits took two phases")

        for topic in ("receipts", "ledger"):
            stored = [message.value async for message in mq.replay(topic)]
            print(f"{len(stored)} messages in {topic}, {len(set(stored))} of them different")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else CORGI_DEV))
