"""A consumer in a process of its own, to be killed: writes "partition offset" of each message it handles to stdout."""

from __future__ import annotations

import asyncio
import sys

import corgi


async def main(servers: str, topic: str, group: str) -> None:
    async with corgi.connect(servers) as mq:

        async def handle(message: corgi.Message[bytes]) -> None:
            sys.stdout.write(f"{message.partition} {message.offset}\n")
            sys.stdout.flush()

        await mq.run(handle, topic, group=group, start="earliest", order="partition")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
