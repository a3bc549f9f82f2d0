"""A node whose disk can be made slow or full and whose clock can be set from outside, without privileges; otherwise
what `corgi server` runs.

    python -m corgi.chaos.node_process [--in-namespace PATH] --config FILE --output json --stop-with-stdin
        [--bootstrap | --rejoin]

Its log has small segments, so that a short run fills, seals and recycles many of them. What its disk and its
clock suffer is in FILE with the suffix ``.disk``, JSON {"slow_s", "full", "clock_ms"}, which is read at the start and
at each SIGUSR1.
"""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.limits import MIB
from corgi.chaos.namespace import enter
from corgi.runtime import drive, preparer
from corgi.runtime.clock import MonotonicClock
from corgi.runtime.disk import DiskOptions
from corgi.runtime.segments import make_segment
from corgi.runtime.syncer import Done, Syncer, Written, best_syncer
from corgi.server.assemble import Mode
from corgi.server.config import load
from corgi.server.run import run_node

SEGMENT_BYTES = 2 * MIB
BATCH_BYTES = MIB // 2
SPARE_BYTES = MIB // 2
SUFFIX = ".disk"
IN_NAMESPACE = "--in-namespace"


class Sufferings:
    """What disk and clock suffer at the moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.slow_s = 0.0
        self.full = False
        self.clock_ms = 0
        self.read()
        signal.signal(signal.SIGUSR1, self._signalled)

    def read(self) -> None:
        if self._path.exists():
            told = json.loads(self._path.read_text(encoding="utf-8"))
            self.slow_s, self.full = float(told["slow_s"]), bool(told["full"])
            self.clock_ms = int(told.get("clock_ms", 0))

    def make_segment(self, *arguments: Any) -> None:
        """As ``runtime.segments.make_segment``, if the disk has room."""
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device (so corgi chaos wants it)")
        make_segment(*arguments)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.read()


class WrongClock(MonotonicClock):
    """The machine's clock, off by what the sufferings say. Only the time of day: nothing sets a monotonic clock."""

    __slots__ = ("_sufferings",)

    def __init__(self, sufferings: Sufferings) -> None:
        self._sufferings = sufferings

    def wall_ms(self) -> int:
        return super().wall_ms() + self._sufferings.clock_ms


class SlowSyncer:
    """Writes reach the disk as late as the sufferings say."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sufferings: Sufferings) -> None:
        self._loop = loop
        self._sufferings = sufferings
        self._inner: Syncer = best_syncer(loop)
        self._timer: asyncio.TimerHandle | None = None
        self.name = self._inner.name

    def write(
        self, fd: int, buffers: Sequence[Buffer], offset: int, done: Done, *, sync: bool = True, written: Written = None
    ) -> None:
        write = partial(self._inner.write, fd, buffers, offset, done, sync=sync, written=written)
        delay_s = self._sufferings.slow_s
        if delay_s:
            self._timer = self._loop.call_later(delay_s, write)
        else:
            write()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._inner.close()


def main(arguments: list[str]) -> int:
    """See the module."""
    if IN_NAMESPACE in arguments:
        enter(arguments[arguments.index(IN_NAMESPACE) + 1])
    config = Path(arguments[arguments.index("--config") + 1])
    mode = Mode.BOOTSTRAP if "--bootstrap" in arguments else Mode.REJOIN if "--rejoin" in arguments else Mode.CONTINUE
    sufferings = Sufferings(config.with_suffix(SUFFIX))
    disk = DiskOptions(
        segment_bytes=SEGMENT_BYTES,
        batch_bytes_max=BATCH_BYTES,
        retry_s=0.2,
        spare_bytes=SPARE_BYTES,
        make_syncer=lambda loop: SlowSyncer(loop, sufferings),
    )
    settings, _ = load(config, {}, {})
    with (
        mock.patch.object(preparer, "make_segment", sufferings.make_segment),
        mock.patch.object(drive, "MonotonicClock", partial(WrongClock, sufferings)),
    ):
        return run_node(settings, mode, software="corgi chaos", on_ready=_ready, stop_with_stdin=True, disk=disk)


def _ready(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CorgiError as error:
        sys.stderr.write(f"error: {error.message} [{error.code}]\n")
        sys.exit(1)
