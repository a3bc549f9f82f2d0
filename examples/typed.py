"""A topic whose values have a type: python examples/typed.py [HOST:PORT,…]"""

import asyncio
import sys

import msgspec

import corgi

CORGI_DEV = "127.0.0.1:7450,127.0.0.1:7451,127.0.0.1:7452"  # one of them may be down


class Order(msgspec.Struct):
    customer: str
    fruit: str
    pieces: int


async def main(servers: str) -> None:
    async with corgi.connect(servers) as mq:
        await mq.topics.create("typed-orders", partitions=2)
        orders = mq.topic("typed-orders", Order)  # stored as JSON; format="msgpack" is smaller
        await orders.publish(Order("ada", "apples", 3), key="ada")
        await orders.publish(Order("bob", "pears", 5), key="bob")
        total = 0
        async with orders.subscribe(start="earliest") as subscription:
            async for message in subscription:
                order = message.value
                assert order is not None
                print(f"{order.customer} wants {order.pieces} {order.fruit}")
                total += order.pieces
                if total == 8:
                    break


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else CORGI_DEV))
