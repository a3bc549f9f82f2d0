"""The process that is the network between namespaces: it makes one for each end, and is the switch between them.

    python -m corgi.chaos.switch_process '{"ends": ["10.77.0.1", …], "seed": 1}'

Writes a line of JSON: {"namespaces": [a path for each end]}, or {"error"} when kernel or privileges do not suffice.
Then it carries out a command a line, {"source", "target", "condition": [as Condition], "reset"}, and answers each
with an empty line. It ends when stdin does, and every namespace with its last process.

It is itself in a namespace without any device, so that it can reach nothing but the ends.
"""

from __future__ import annotations

import gc
import json
import os
import random
import select
import sys
import time
from collections.abc import Iterable, Sequence

from corgi.chaos.namespace import MTU, OWN, open_device, unshare
from corgi.chaos.packets import address
from corgi.chaos.switch import Condition, Out, Switch

PREFIX = 24
READ_BYTES = 64 * 1024
PACKETS_PER_TURN = 64  # of one end, then the others have their turn


class Devices:
    """The ends of the switch, each a device in a namespace of its own."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Raises OSError."""
        self.files: list[int] = []
        self._namespaces: list[int] = []
        for text in addresses:
            unshare()
            self._namespaces.append(os.open(OWN, os.O_RDONLY))
            self.files.append(open_device(text, PREFIX))
        unshare()

    @property
    def paths(self) -> list[str]:
        """By which others enter the namespaces, while this process lives."""
        return [f"/proc/{os.getpid()}/fd/{file}" for file in self._namespaces]

    def send(self, packets: Iterable[Out]) -> None:
        """What a device does not take is lost."""
        for end, packet in packets:
            try:
                os.write(self.files[end], packet)
            except OSError:
                continue


def serve(switch: Switch, devices: Devices) -> None:
    """Until stdin ends."""
    ends = {file: end for end, file in enumerate(devices.files)}
    poll = select.epoll()
    for file in (0, *devices.files):
        poll.register(file, select.EPOLLIN)
    told = b""
    while True:
        due = switch.next_due
        timeout_s = -1 if due is None else max(0.0, due - time.monotonic())
        for file, _ in poll.poll(timeout_s):
            if file:
                _pass_on(switch, devices, file, ends[file])
                continue
            data = os.read(0, READ_BYTES)
            if not data:
                return
            *lines, told = (told + data).split(b"\n")
            for line in lines:
                _obey(switch, json.loads(line))
        if switch.next_due is not None:
            devices.send(switch.due(time.monotonic()))


def _pass_on(switch: Switch, devices: Devices, file: int, end: int) -> None:
    now = time.monotonic()
    for _ in range(PACKETS_PER_TURN):
        try:
            packet = os.read(file, MTU)
        except BlockingIOError:
            return
        devices.send(switch.received(end, packet, now))


def _obey(switch: Switch, command: dict[str, object]) -> None:
    source, target, condition = command["source"], command["target"], command["condition"]
    assert isinstance(source, int)
    assert isinstance(target, int)
    assert isinstance(condition, list)
    switch.set(source, target, Condition(*condition))
    if command["reset"]:
        switch.reset(source, target)
    os.write(1, b"\n")


def main(arguments: list[str]) -> int:
    """See the module."""
    told = json.loads(arguments[0])
    try:
        devices = Devices(told["ends"])
    except OSError as error:
        os.write(1, json.dumps({"error": str(error)}).encode() + b"\n")
        return 1
    os.write(1, json.dumps({"namespaces": devices.paths}).encode() + b"\n")
    gc.freeze()
    serve(Switch([address(text) for text in told["ends"]], random.Random(told["seed"])), devices)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
