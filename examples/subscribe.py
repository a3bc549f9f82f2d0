"""Consume a topic as messages arrive: python examples/subscribe.py [HOST:PORT,…] [COUNT]"""

import asyncio
import sys

import corgi


async def main(servers: str, count: int) -> None:
    async with corgi.connect(servers) as mq, mq.subscribe("orders", start="earliest") as subscription:
        async for message in subscription:
            print(f"{message.partition}/{message.offset} {message.time:%H:%M:%S} {message.key} {message.value}")
            count -= 1
            if count == 0:
                break


if __name__ == "__main__":
    asyncio.run(
        main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7450", int(sys.argv[2]) if len(sys.argv) > 2 else -1)
    )
