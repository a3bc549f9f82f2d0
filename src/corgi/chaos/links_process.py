"""The process that holds all links of a cluster, so that they are as quick when their master is busy.

    python -m corgi.chaos.links_process '[["127.0.0.1", 7450], …]'

Writes the ports of the links as one line of JSON, then carries out a command a line, {"link", "held", "delay_s",
"refused", "reset"}, and answers each with an empty line. It ends when stdin does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import uvloop

from corgi.chaos.links import Link


async def serve(targets: list[tuple[str, int]]) -> None:
    """Until stdin ends."""
    links = [Link(host, port) for host, port in targets]
    ports = [await link.listen() for link in links]
    os.write(1, json.dumps(ports).encode() + b"\n")
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        link = links[command["link"]]
        link.set(held=command["held"], delay_s=command["delay_s"], refused=command["refused"])
        if command["reset"]:
            link.reset()
        os.write(1, b"\n")
    for link in links:
        await link.close()


def main(arguments: list[str]) -> None:
    """See the module."""
    (targets,) = arguments
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve([(str(host), int(port)) for host, port in json.loads(targets)]))


if __name__ == "__main__":
    main(sys.argv[1:])
