"""Publish messages and hold receipts: python examples/publish.py [HOST:PORT,…]"""

import asyncio
import sys

import corgi

CORGI_DEV = "127.0.0.1:7450,127.0.0.1:7451,127.0.0.1:7452"  # one of them may be down


async def main(servers: str) -> None:
    async with corgi.connect(servers) as mq:
        try:
            await mq.topics.create("orders", partitions=4)
        except corgi.CorgiError as error:
            if error.code != "topic-exists":
                raise

        # One await, and the message is on the disks of a majority.
        receipt = await mq.publish("orders", b"3 apples", key="customer-1", headers={"source": b"example"})
        print(f"stored in partition {receipt.partition} at offset {receipt.offset}")

        # Many at once, without waiting for each; messages of one key stay in order.
        pending = [mq.publish_nowait("orders", f"{n} pears", key="customer-2") for n in range(100)]
        receipts = [await one for one in pending]
        print(f"100 more, the last one at offset {receipts[-1].offset}")

        # Volume: every item gets its outcome.
        outcomes = await mq.publish_many("orders", (f"{n} plums".encode() for n in range(10_000)))
        print(f"{len(outcomes)} more, {len(outcomes.errors)} errors")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else CORGI_DEV))
