"""Consume a topic as messages arrive: python examples/subscribe.py [HOST:PORT,…] [COUNT]

Without COUNT it goes on until Ctrl-C, as subscriptions do.
"""

import asyncio
import contextlib
import sys

import corgi

CORGI_DEV = "127.0.0.1:7450,127.0.0.1:7451,127.0.0.1:7452"  # one of them may be down


async def main(servers: str, count: int) -> None:
    async with corgi.connect(servers) as mq, mq.subscribe("orders", start="earliest") as subscription:
        if count < 0:
            print("waiting for messages; Ctrl-C ends it", file=sys.stderr)
        async for message in subscription:
            print(f"{message.partition}/{message.offset} {message.time:%H:%M:%S} {message.key} {message.value}")
            count -= 1
            if count == 0:
                break


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            main(sys.argv[1] if len(sys.argv) > 1 else CORGI_DEV, int(sys.argv[2]) if len(sys.argv) > 2 else -1)
        )
