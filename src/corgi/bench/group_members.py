"""Members of a consumer group in a process of their own, who come and go when they are told.

    python -m corgi.bench.group_members SERVERS TOPIC GROUP

Each line of stdin is a command, answered with a line of JSON when it is done: {"join": name} and {"leave": name} with
{}, {"tell": null} with what all members took since it was last asked: {"took": [[partition, first offset, last
offset, longest wait in ms, name, monotonic time]], "gained": units}. It ends when stdin does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import uvloop

from corgi.bench.values import read_stamp
from corgi.client.corgi import connect


class Members:
    """All members of this process; each has a connection of its own, as if it was alone."""

    def __init__(self, servers: str, topic: str, group: str) -> None:
        self._servers = servers
        self._topic = topic
        self._group = group
        self._running: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}
        self._subscriptions: list[Any] = []
        self._took: list[list[Any]] = []

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        if "join" in command:
            name, ready, stop = command["join"], asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(self._member(name, ready, stop))
            self._running[name] = stop, task
            waiting = asyncio.create_task(ready.wait())
            await asyncio.wait((waiting, task), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if task.done():
                task.result()
            return {}
        if "leave" in command:
            stop, task = self._running.pop(command["leave"])
            stop.set()
            await task
            return {}
        took, self._took = self._took, []
        gained = sum([subscription.statistics().handovers for subscription in self._subscriptions])
        return {"took": took, "gained": gained}

    async def close(self) -> None:
        for name in list(self._running):
            await self.obey({"leave": name})

    async def _member(self, name: str, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Take everything at once, until ``stop``; then leave in good order."""
        async with (
            connect(self._servers) as mq,
            mq.subscribe(self._topic, group=self._group, start="earliest") as subscription,
        ):
            self._subscriptions.append(subscription)
            reading = asyncio.create_task(self._read(name, subscription))
            await subscription.ready()
            ready.set()
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait((stopping, reading), return_when=asyncio.FIRST_COMPLETED)
            for task in (stopping, reading):
                if task.done():
                    task.result()
                else:
                    task.cancel()
            await asyncio.wait((stopping, reading))

    async def _read(self, name: str, subscription: Any) -> None:
        async for batch in subscription.batches():
            now = time.monotonic()
            wait_ms = max(now - read_stamp(message.value)[1] for message in batch) * 1000
            self._took.append([batch[0].partition, batch[0].offset, batch[-1].offset, round(wait_ms, 3), name, now])
            batch.ack()


async def serve(servers: str, topic: str, group: str) -> None:
    """Until stdin ends."""
    members = Members(servers, topic, group)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        answer = json.dumps(await members.obey(json.loads(line))).encode() + b"\n"
        while answer:
            answer = answer[os.write(1, answer) :]
    await members.close()


def main(arguments: list[str]) -> None:
    """See the module."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(*arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
