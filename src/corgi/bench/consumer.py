"""The other process of an echo measurement: reads a topic, and tells how old each message was when it came.

    python -m corgi.bench.consumer SERVERS TOPIC RECORDS SKIPPED ANSWER

Writes a line when it is attached, then with ANSWER 1 a byte for each message, at the end a line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time

import uvloop

from corgi.bench.histogram import Histogram
from corgi.bench.values import read_stamp
from corgi.client.corgi import connect


async def consume(servers: str, topic: str, records: int, skipped: int, *, answer: bool) -> dict[str, object]:
    """Until every number from 0 to ``records`` - 1 has come; the first ``skipped`` are not timed."""
    latency = Histogram()
    missing = set(range(records))
    duplicated = 0
    async with connect(servers) as mq, mq.subscribe(topic, start="earliest") as subscription:
        await subscription.ready()
        gc.freeze()
        os.write(1, b"attached\n")
        async for batch in subscription.batches():
            now = time.monotonic()
            for message in batch:
                number, due_s = read_stamp(message.value or b"")
                if number not in missing:
                    duplicated += 1
                    continue
                missing.remove(number)
                if number >= skipped:
                    latency.record(now - due_s)
            if answer:
                os.write(1, b"." * len(batch))
            if not missing:
                break
    return {"latency": latency.summary()._asdict(), "lost": len(missing), "duplicated": duplicated}


def main(arguments: list[str]) -> None:
    """See the module."""
    servers, topic, records, skipped, answer = arguments
    work = consume(servers, topic, int(records), int(skipped), answer=answer == "1")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        os.write(1, json.dumps(runner.run(work)).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
