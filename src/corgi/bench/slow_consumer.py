"""A consumer that takes its time, in a process of its own.

python -m corgi.bench.slow_consumer SERVERS TOPIC SECONDS_PER_MESSAGE

Writes a line when it is attached, and reads until it is killed.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from corgi.client.corgi import connect

PREFETCH_BYTES = 64 * 1024


async def consume(servers: str, topic: str, pause_s: float) -> None:
    async with (
        connect(servers) as mq,
        mq.subscribe(topic, start="earliest", prefetch_bytes=PREFETCH_BYTES) as subscription,
    ):
        await subscription.ready()
        os.write(1, b"attached\n")
        async for _ in subscription:
            await asyncio.sleep(pause_s)


def main(arguments: list[str]) -> None:
    """See the module."""
    servers, topic, pause_s = arguments
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(consume(servers, topic, float(pause_s)))


if __name__ == "__main__":
    main(sys.argv[1:])
