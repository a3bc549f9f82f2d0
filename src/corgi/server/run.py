"""One node as a process: its event loop, its signals, its log, from the first line to the exit.

SIGTERM and SIGINT stop the node after it handed its leaderships over; a second signal ends the process at once, which
is safe, because what was acknowledged is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvloop

from corgi.base.errors import CorgiError
from corgi.runtime.disk import DiskOptions
from corgi.runtime.drive import Driver
from corgi.runtime.folder import Folder
from corgi.server import logs
from corgi.server.assemble import Loss, Mode, assemble, open_folder, peer_addresses
from corgi.server.config import ServerConfig

EVENTS_S = 0.05  # how often the node's events are moved to the log
KILL_AFTER_S = 5.0  # a node that was told to stop and did not is ended after its stop_timeout_ms and this

Ready = Callable[[dict[str, Any]], None]


def run_node(
    config: ServerConfig,
    mode: Mode,
    *,
    software: str = "corgi",
    on_ready: Ready | None = None,
    stop_with_stdin: bool = False,
    disk: DiskOptions | None = None,
    accept_loss: Loss | None = None,
) -> int:
    """Run a node until it is told to stop; returns 0 then. Raises the CorgiError that ended it otherwise.

    ``on_ready`` is told, once the node listens: {"node", "pid", "native", "kafka", "cluster", "dir"}.
    ``stop_with_stdin``: stop when stdin ends, that is, when the parent process is gone. ``disk``: how the log is kept,
    for tests.
    ``accept_loss``: what the operator gives up. Raises CorgiError "invalid-argument" for "votes" of a node that is not
    alone in its cluster.
    """
    if accept_loss == "votes" and len(config.everyone) > 1:
        raise CorgiError(
            "invalid-argument",
            "only a node that is alone in its cluster accepts lost votes: others know them",
            hint="start the other nodes; if the disk of this one is lost, empty its folder and start with --rejoin",
        )
    logs.configure(config.log_level, config.log_format)
    if stop_with_stdin:
        _watch_stdin(config.stop_timeout_ms / 1000 + KILL_AFTER_S)
    disk = disk or DiskOptions()
    with (
        open_folder(config, mode, disk.segment_bytes) as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_Life(config, folder, software, on_ready, disk, accept_loss).run())


class _Life:
    """From assembling to the last line of the log."""

    def __init__(
        self,
        config: ServerConfig,
        folder: Folder,
        software: str,
        on_ready: Ready | None,
        disk: DiskOptions,
        accept_loss: Loss | None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._software = software
        self._on_ready = on_ready
        self._disk = disk
        self._accept_loss = accept_loss
        self._stop = asyncio.Event()
        self._started = False

    async def run(self) -> int:
        config, folder = self._config, self._folder
        logs.info(
            "starting", node=config.node, cluster=folder.cluster.hex(), name=config.cluster_name, boot=folder.boot,
            members=len(config.everyone), groups=folder.groups, recovering=folder.recovering, software=self._software,
        )  # fmt: skip
        driver = assemble(config, folder, software=self._software, disk=self._disk, accept_loss=self._accept_loss)
        with self._signals():
            serving = asyncio.create_task(self._serve(driver))
            told = asyncio.create_task(self._stop.wait())
            try:
                await asyncio.wait({serving, told}, return_when=asyncio.FIRST_COMPLETED)
                if not serving.done():
                    logs.info("stopping", node=config.node)
                    await self._end(driver, serving)
                await serving
            finally:
                told.cancel()
                await driver.stop(0.0)
        logs.info("stopped", node=config.node)
        return 0

    async def _serve(self, driver: Driver) -> None:
        """Start, then stay until the node ends."""
        config = self._config
        began = time.monotonic()
        try:
            await driver.start(peer_addresses(config))
        except CorgiError as error:
            logs.error("not-started", node=config.node, code=error.code, message=error.message)
            raise
        self._started = True
        with _event_log(driver):
            async with contextlib.AsyncExitStack() as stack:
                if config.metrics_listen:
                    await stack.enter_async_context(_metrics(driver, config))
                _settle_memory()
                took_s = time.monotonic() - began
                logs.info("listening", node=config.node, address=config.listen, recovery_s=round(took_s, 4))
                self._tell_ready()
                await driver.wait()

    async def _end(self, driver: Driver, serving: asyncio.Task[None]) -> None:
        """Hand over and close; a node that has not started yet has nothing to hand over."""
        if self._started:
            await driver.stop(self._config.stop_timeout_ms / 1000)
            return
        serving.cancel()
        await asyncio.wait({serving})
        raise CorgiError("closed", "the node was stopped before it had started")

    def _tell_ready(self) -> None:
        if self._on_ready is not None:
            config, folder = self._config, self._folder
            self._on_ready(
                {
                    "node": config.node,
                    "pid": os.getpid(),
                    "native": str(config.listen_address),
                    "kafka": config.kafka_listen,
                    "cluster": folder.cluster.hex(),
                    "dir": str(folder.path),
                }
            )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            logs.warning("stopped-at-once", signal=number.name)
            os._exit(128 + number)
        self._stop.set()


@contextlib.contextmanager
def _event_log(driver: Driver) -> Iterator[None]:
    """Move what the node notes of itself (takeovers and the like) to the log, with the time at which it happened."""
    loop = asyncio.get_running_loop()
    node = driver.node.options.node
    timer: asyncio.TimerHandle | None = None

    def move() -> None:
        nonlocal timer
        events = driver.node.events
        while events:
            at, name, group, detail = events.popleft()
            logs.info(name, node=node, group=group, detail=detail, monotonic_s=round(at, 6))
        timer = loop.call_later(EVENTS_S, move)

    move()
    try:
        yield
    finally:
        move()
        if timer is not None:
            timer.cancel()


@contextlib.asynccontextmanager
async def _metrics(driver: Driver, config: ServerConfig) -> AsyncIterator[None]:
    from corgi.server.address import parse_address
    from corgi.server.metrics import MetricsServer
    from corgi.server.samples import samples

    server = MetricsServer(lambda: samples(driver))
    await server.listen(parse_address(config.metrics_listen, what="metrics_listen"))
    try:
        yield
    finally:
        await server.close()


def _settle_memory() -> None:
    """What is there after the start stays for ever: the collector need not look at it again."""
    gc.collect()
    gc.freeze()


def _watch_stdin(patience_s: float) -> None:
    """A thread that waits for the end of stdin, so that it works also while the loop is busy or not yet there."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience_s)
        os._exit(1)

    threading.Thread(target=wait, name="corgi-stdin", daemon=True).start()
