"""``run`` of the synchronous face: handlers are plain functions, called in threads, ``concurrency`` at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from corgi.base.errors import CorgiError
from corgi.client import corgi as asynchronous
from corgi.client.handlers import RunStatistics
from corgi.client.held import Delivered

LOOK_S = 0.05  # how late it is noticed that ``stop`` was set


async def run_in_threads(
    mq: asynchronous.Corgi,
    handler: Callable[[Delivered[bytes]], Any],
    topic: str | Sequence[str],
    stop: threading.Event | None,
    concurrency: int,
    options: dict[str, Any],
) -> RunStatistics:
    """As ``Corgi.run``. A handler that is given up (time-out, lost partition) runs on in its thread to its end."""
    said: object = handler
    if not callable(said) or asyncio.iscoroutinefunction(handler):
        raise CorgiError("invalid-argument", f"the handler is a plain function of a message, not {handler!r}")
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(min(max(1, concurrency), 512), thread_name_prefix="corgi-handler")

    async def handle(message: Delivered[bytes]) -> Any:
        return await loop.run_in_executor(pool, handler, message)

    ended = asyncio.Event()

    async def watch(stop: threading.Event) -> None:
        while not stop.is_set():  # noqa: ASYNC110 - it is set in another thread, which knows nothing of this loop
            await asyncio.sleep(LOOK_S)
        ended.set()

    watcher = None if stop is None else loop.create_task(watch(stop))
    try:
        return await mq.run(handle, topic, concurrency=concurrency, stop=ended, **options)
    finally:
        if watcher is not None:
            watcher.cancel()
        pool.shutdown(wait=False, cancel_futures=True)
