"""One client process of a run.

    python -m corgi.chaos.client_process PART NAMESPACE ROLE JOB [ROLE JOB …]

It enters the network NAMESPACE, a path, unless that is empty. Each JOB is JSON; what its clients do and see is
written to the file PART. Writes a line when it begins. When stdin ends the clients finish, and then the process does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from pathlib import Path

import uvloop

from corgi.chaos.clients import ROLES
from corgi.chaos.namespace import enter
from corgi.chaos.recorder import Recorder
from corgi.chaos.work import Job
from corgi.chaos.workers import SEMANTICS


async def work(part: Path, roles: list[tuple[str, Job]]) -> None:
    """Until stdin ends, and what was begun has ended."""
    stop = asyncio.Event()
    with Recorder(part, at_once=any(role in SEMANTICS for role, _ in roles)) as recorder:
        clients = [ROLES[role](job, recorder, stop) for role, job in roles]
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(client.run())
            gc.freeze()
            os.write(1, b"begun\n")
            reader = asyncio.StreamReader()
            loop = asyncio.get_running_loop()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            await reader.read()
            stop.set()


def main(arguments: list[str]) -> None:
    """See the module."""
    part, namespace, *rest = arguments
    if namespace:
        enter(namespace)
    roles = [(role, Job(**json.loads(job))) for role, job in zip(rest[::2], rest[1::2], strict=True)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(Path(part), roles))


if __name__ == "__main__":
    main(sys.argv[1:])
