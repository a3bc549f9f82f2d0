"""Share a topic's messages among the members of a consumer group: python examples/group.py [HOST:PORT,…]

Start it several times at once, and the members share the partitions. Each message is handled at least once; one that
fails is tried again, and ends among the dead letters when that does not help.
"""

import asyncio
import logging
import sys

import corgi

CORGI_DEV = "127.0.0.1:7450,127.0.0.1:7451,127.0.0.1:7452"  # one of them may be down
COUNT = 100
logging.getLogger("corgi.client").setLevel(logging.ERROR)  # it warns of each dead letter; they are shown below


async def main(servers: str) -> None:
    async with corgi.connect(servers) as mq:
        try:
            await mq.topics.create("parcels", partitions=4)
        except corgi.CorgiError as error:
            if error.code != "topic-exists":
                raise
        await mq.publish_many("parcels", [(f"customer-{n % 10}", f"parcel {n}") for n in range(COUNT)])

        everything = asyncio.Event()
        delivered: list[int] = []

        async def deliver(parcel: corgi.Delivered[bytes]) -> None:
            number = int((parcel.value or b"").split()[1])
            if number == 13:
                raise ValueError("no such address")  # tried 3 times, then moved to parcels.dead.couriers
            if number == 20 and parcel.attempt == 1:
                raise ConnectionError("nobody at home")  # works the second time; this customer's others wait meanwhile
            delivered.append(number)
            if len(delivered) == COUNT - 1:
                everything.set()

        # Messages of one key come in order and one at a time; different keys run at the same time.
        sums = await mq.run(
            deliver,
            "parcels",
            group="couriers",
            start="earliest",
            concurrency=16,
            attempts=3,
            backoff="10ms",
            stop=everything,
        )
        print(f"{sums.handled} delivered, {sums.dead} dead, {sums.failed} tries failed")
        async for dead in mq.replay("parcels.dead.couriers"):
            print(f"{dead.value!r}: {dead.header('corgi-error')!r}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else CORGI_DEV))
